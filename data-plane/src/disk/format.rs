//! Bytes of a generation: see the table in [`super`].

use std::sync::Arc;

use bytes::Bytes;
use rustygate_proto::{
    frames::{self, CHUNK_BYTES_MAX, ChunkError},
    v1::{Change, Chunk},
};

use crate::held::{Image, Resource, StageError, Transaction};

const MAGIC: &[u8; 8] = b"RGATESNP";
const VERSION: u32 = 1;
const HASH_BYTES: usize = 32;
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 32 + 8 + 8;

/// Why bytes are no generation.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Over [`super::FILE_BYTES_MAX`].
    #[error("is larger than {} bytes", super::FILE_BYTES_MAX)]
    TooLarge,
    /// It ends early, or goes on.
    #[error("is cut off or damaged: its length is not what it says")]
    Length,
    /// Something else, or a damaged one.
    #[error("is not a snapshot of RustyGate")]
    Magic,
    /// Of another version of the proxy.
    #[error("has format version {0}, this proxy knows version {VERSION}")]
    Version(u32),
    /// Its bytes are not those that were written.
    #[error("is damaged: its BLAKE3 hash does not match")]
    Hash,
    /// Its store id is not UTF-8.
    #[error("has a store id that is not UTF-8")]
    StoreId,
    /// One of its chunks does not unpack.
    #[error("holds a bad chunk: {0}")]
    Chunk(#[from] ChunkError),
    /// Its resources are not the set that its header tells of.
    #[error("is not the set that it says: {0}")]
    Set(StageError),
}

/// The whole file.
pub(crate) fn encode(image: &Image) -> Result<Vec<u8>, FormatError> {
    let mut resources: Vec<&Arc<Resource>> = image.resources.iter().collect();
    // Neighbours by name look alike: they compress better, and equal sets make equal files.
    resources.sort_unstable_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    let changes: Vec<Change> = resources.iter().map(|resource| resource.to_change()).collect();
    let chunks = frames::pack(&changes)?;
    let body_bytes: usize = chunks.iter().map(|chunk| 4 + chunk.zstd.len()).sum();
    let total = HEADER_BYTES + image.store_id.len() + body_bytes + HASH_BYTES;
    if total as u64 > super::FILE_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    let store_id_bytes = u32::try_from(image.store_id.len()).map_err(|_| FormatError::TooLarge)?;

    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&store_id_bytes.to_le_bytes());
    out.extend_from_slice(&image.revision.to_le_bytes());
    out.extend_from_slice(&image.checksum.to_bytes());
    out.extend_from_slice(&(changes.len() as u64).to_le_bytes());
    out.extend_from_slice(&(body_bytes as u64).to_le_bytes());
    out.extend_from_slice(image.store_id.as_bytes());
    for chunk in &chunks {
        let bytes = u32::try_from(chunk.zstd.len()).map_err(|_| FormatError::TooLarge)?;
        out.extend_from_slice(&bytes.to_le_bytes());
        out.extend_from_slice(&chunk.zstd);
    }
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    Ok(out)
}

/// The set in the file, as the transaction from nothing to it; its checksum is yet to be proven.
pub(crate) fn decode(file: &[u8]) -> Result<Transaction, FormatError> {
    if file.len() < HEADER_BYTES + HASH_BYTES {
        return Err(FormatError::Length);
    }
    let (content, hash) = file.split_at(file.len() - HASH_BYTES);
    let mut rest = content;
    if take::<8>(&mut rest)? != *MAGIC {
        return Err(FormatError::Magic);
    }
    // The version comes before the hash: another version may hash differently.
    let version = u32::from_le_bytes(take(&mut rest)?);
    if version != VERSION {
        return Err(FormatError::Version(version));
    }
    if blake3::hash(content).as_bytes() != hash {
        return Err(FormatError::Hash);
    }
    let store_id_bytes = u32::from_le_bytes(take(&mut rest)?) as usize;
    let to_revision = u64::from_le_bytes(take(&mut rest)?);
    let checksum = take::<32>(&mut rest)?.to_vec();
    let resources = u64::from_le_bytes(take(&mut rest)?);
    let body_bytes = u64::from_le_bytes(take(&mut rest)?);
    let store_id = take_slice(&mut rest, store_id_bytes)?.to_vec();
    let store_id = String::from_utf8(store_id).map_err(|_| FormatError::StoreId)?;
    if rest.len() as u64 != body_bytes {
        return Err(FormatError::Length);
    }
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let chunk_bytes = u32::from_le_bytes(take(&mut rest)?) as usize;
        if chunk_bytes > CHUNK_BYTES_MAX {
            return Err(ChunkError::TooLarge.into());
        }
        let zstd = Bytes::copy_from_slice(take_slice(&mut rest, chunk_bytes)?);
        changes.extend(frames::unpack(&Chunk { zstd })?);
        if changes.len() as u64 > resources {
            return Err(FormatError::Length);
        }
    }
    if changes.len() as u64 != resources {
        return Err(FormatError::Length);
    }
    Ok(Transaction { store_id, from_revision: 0, to_revision, changes, checksum })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (taken, after) = rest.split_first_chunk::<N>().ok_or(FormatError::Length)?;
    *rest = after;
    Ok(*taken)
}

fn take_slice<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], FormatError> {
    let (taken, after) = rest.split_at_checked(bytes).ok_or(FormatError::Length)?;
    *rest = after;
    Ok(taken)
}
