//! Changes in chunks: the sender packs once for all proxies, the receiver unpacks with bounds.

use std::io::Read as _;

use bytes::Bytes;
use prost::Message as _;

use crate::v1::{Change, ChangeSet, Chunk};

/// The most bytes that a chunk holds, compressed or not.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The most bytes that one encoded resource may have, so that every resource fits a chunk.
pub const RESOURCE_BYTES_MAX: usize = 512 << 10;

/// The most bytes that are put into a chunk: what does not compress grows a little, and must still fit.
const PLAIN_BYTES_MAX: usize = CHUNK_BYTES_MAX - (8 << 10);

/// Fast, and already five to ten times smaller on typical routes.
const ZSTD_LEVEL: i32 = 1;

/// Why a chunk could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// Over [`CHUNK_BYTES_MAX`], compressed or not.
    #[error("chunk is larger than {CHUNK_BYTES_MAX} bytes")]
    TooLarge,
    /// Not zstd.
    #[error("chunk does not decompress: {0}")]
    Compression(#[from] std::io::Error),
    /// Not a `ChangeSet`.
    #[error("chunk does not decode: {0}")]
    Encoding(#[from] prost::DecodeError),
}

/// Packs changes into as few chunks as the bounds allow, in order.
///
/// # Errors
/// [`ChunkError::TooLarge`] if one change alone does not fit a chunk.
pub fn pack<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Result<Vec<Chunk>, ChunkError> {
    let mut chunks = Vec::new();
    let mut set = ChangeSet::default();
    let mut set_bytes = 0;
    for change in changes {
        // Tag and length prefix of an element take at most 6 bytes at this size.
        let change_bytes = change.encoded_len() + 6;
        if change_bytes > PLAIN_BYTES_MAX {
            return Err(ChunkError::TooLarge);
        }
        if set_bytes + change_bytes > PLAIN_BYTES_MAX {
            chunks.push(compress(&set)?);
            set.changes.clear();
            set_bytes = 0;
        }
        set.changes.push(change.clone());
        set_bytes += change_bytes;
    }
    if !set.changes.is_empty() {
        chunks.push(compress(&set)?);
    }
    Ok(chunks)
}

/// Reads one chunk; never holds more than [`CHUNK_BYTES_MAX`] of it, whatever it claims.
///
/// # Errors
/// [`ChunkError`] if it is too large or malformed.
pub fn unpack(chunk: &Chunk) -> Result<Vec<Change>, ChunkError> {
    if chunk.zstd.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError::TooLarge);
    }
    let mut plain = Vec::new();
    let decoder = zstd::Decoder::with_buffer(chunk.zstd.as_ref())?;
    decoder.take(CHUNK_BYTES_MAX as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError::TooLarge);
    }
    Ok(ChangeSet::decode(Bytes::from(plain))?.changes)
}

fn compress(set: &ChangeSet) -> Result<Chunk, ChunkError> {
    let mut zstd = zstd::encode_all(set.encode_to_vec().as_slice(), ZSTD_LEVEL)?;
    zstd.shrink_to_fit();
    if zstd.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError::TooLarge);
    }
    Ok(Chunk { zstd: zstd.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Kind;

    fn change(name: &str, bytes: usize) -> Change {
        Change { kind: Kind::Route.into(), name: name.into(), resource: Some(vec![7; bytes].into()) }
    }

    #[test]
    fn what_was_packed_is_unpacked_in_order() {
        let changes: Vec<_> = (0..50).map(|i| change(&i.to_string(), 100_000)).collect();
        let chunks = pack(&changes).expect("packs");
        assert!(chunks.len() >= 5);
        let unpacked: Vec<_> = chunks.iter().flat_map(|chunk| unpack(chunk).expect("unpacks")).collect();
        assert_eq!(unpacked, changes);
    }

    #[test]
    fn a_full_chunk_that_does_not_compress_still_fits() {
        let mut noise = vec![0; PLAIN_BYTES_MAX / 2 - 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let half = |name: &str| Change { resource: Some(noise.clone().into()), ..change(name, 0) };
        let mut other = half("b");
        let mut more = noise.clone();
        blake3::Hasher::new().update(b"other").finalize_xof().fill(&mut more);
        other.resource = Some(more.into());
        let changes = [half("a"), other];
        let chunks = pack(&changes).expect("packs");
        assert_eq!(chunks.len(), 1);
        assert!(chunks[0].zstd.len() > PLAIN_BYTES_MAX - 100, "it did not compress");
        assert_eq!(unpack(&chunks[0]).expect("unpacks"), changes);
    }

    #[test]
    fn a_chunk_that_inflates_beyond_the_bound_is_refused() {
        let bomb = Chunk { zstd: zstd::encode_all(vec![0; 64 << 20].as_slice(), 1).expect("compresses").into() };
        assert!(bomb.zstd.len() < CHUNK_BYTES_MAX);
        assert!(matches!(unpack(&bomb), Err(ChunkError::TooLarge)));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(unpack(&Chunk { zstd: Bytes::from_static(b"garbage") }).is_err());
    }
}
