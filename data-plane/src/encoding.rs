//! Content codings (RFC 9110 section 8.4.1): which of them a client takes, and what a body goes through to be in one, piece by
//! piece.

mod accepted;

use std::{
    cell::Cell,
    fmt,
    io::{self, Write as _},
    rc::Rc,
};

pub use self::accepted::Accepted;

/// The most encoders that a worker has at a time. Each takes up to 4 MiB; whoever would need one more gets the body as it is.
pub const ENCODERS_MAX: usize = 128;

/// The highest level. Those above take ten times the memory, and hold up the worker's other requests.
pub const LEVEL_MAX: u8 = 6;

/// How far back zstd looks for what comes again, as a power of two: 256 KiB.
const ZSTD_WINDOW_LOG: u8 = 18;

/// How far back Brotli does: 128 KiB.
const BROTLI_WINDOW_LOG: u8 = 17;

/// The most that Brotli is told of a body's length.
const BROTLI_HINT_MAX: usize = 512 << 10;

/// How much brotli looks at before it writes any of it, as a power of two: 64 KiB, the least.
const BROTLI_BLOCK_LOG: u8 = 16;

/// Room for what brotli writes at once.
const BROTLI_BUFFER_BYTES: usize = 8 << 10;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// As heads have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding of that name (RFC 9110 section 8.4.1.3 has another for gzip).
    #[must_use]
    pub fn of(name: &[u8]) -> Option<Self> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        Self::ALL.into_iter().find(|coding| is(coding.name())).or_else(|| is("x-gzip").then_some(Self::Gzip))
    }
}

/// Whether a field is a digest of what is sent, or of what it stands for, which both are other bytes in another coding
/// (RFC 9530 sections 2 and 3, and what was there before).
#[must_use]
pub fn is_digest(name: &str) -> bool {
    const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];
    DIGESTS.iter().any(|digest| name.eq_ignore_ascii_case(digest))
}

/// Counts the encoders of a worker.
#[derive(Clone, Debug, Default)]
pub struct Encoders(Rc<Cell<usize>>);

/// The place of one among them.
#[derive(Debug)]
struct Place(Encoders);

impl Encoders {
    fn place(&self) -> Option<Place> {
        let count = self.0.get();
        (count < ENCODERS_MAX).then(|| {
            self.0.set(count + 1);
            Place(self.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// What one body goes through. What it has made of that lies in its output until it is taken.
pub struct Encoder {
    codec: Codec,
    /// Not all that went in can be read from what came out.
    holds_some: bool,
    place: Place,
}

enum Codec {
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
}

impl Encoder {
    /// For a body of that length, if it is known; a higher `level` takes longer for fewer bytes. `None` if there are as many
    /// as there may be.
    #[must_use]
    pub fn new(coding: Coding, level: u8, length: Option<u64>, encoders: &Encoders) -> Option<Self> {
        let place = encoders.place()?;
        let codec = match coding {
            Coding::Zstd => Codec::Zstd(zstd(level, length).ok()?),
            Coding::Brotli => Codec::Brotli(Box::new(brotli(level, length))),
            Coding::Gzip => {
                let level = flate2::Compression::new(level.into());
                Codec::Gzip(flate2::write::GzEncoder::new(Vec::new(), level))
            }
        };
        Some(Self { codec, holds_some: false, place })
    }

    /// Takes a piece of the body.
    ///
    /// # Errors
    /// If the body is longer than was said.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.holds_some = true;
        match &mut self.codec {
            Codec::Zstd(encoder) => encoder.write_all(piece),
            Codec::Brotli(encoder) => encoder.write_all(piece),
            Codec::Gzip(encoder) => encoder.write_all(piece),
        }
    }

    /// Puts out whatever is needed to read all that went in.
    ///
    /// # Errors
    /// As of [`Encoder::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.holds_some = false;
        match &mut self.codec {
            Codec::Zstd(encoder) => encoder.flush(),
            Codec::Brotli(encoder) => encoder.flush(),
            Codec::Gzip(encoder) => encoder.flush(),
        }
    }

    /// Whether [`Encoder::flush`] would put out more.
    #[must_use]
    pub fn holds_some(&self) -> bool {
        self.holds_some
    }

    /// What has come out, to be taken from there.
    pub fn output(&mut self) -> &mut Vec<u8> {
        match &mut self.codec {
            Codec::Zstd(encoder) => encoder.get_mut(),
            Codec::Brotli(encoder) => encoder.get_mut(),
            Codec::Gzip(encoder) => encoder.get_mut(),
        }
    }

    /// The body is over: the rest of the output.
    ///
    /// # Errors
    /// If the body is shorter than was said.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.codec {
            Codec::Zstd(encoder) => encoder.finish(),
            Codec::Brotli(encoder) => Ok(encoder.into_inner()),
            Codec::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").field("place", &self.place).finish_non_exhaustive()
    }
}

fn zstd(level: u8, length: Option<u64>) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level.into())?;
    encoder.window_log(ZSTD_WINDOW_LOG.into())?;
    // A small body then takes little memory.
    encoder.set_pledged_src_size(length)?;
    Ok(encoder)
}

fn brotli(level: u8, length: Option<u64>) -> brotli::CompressorWriter<Vec<u8>> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: level.into(),
        lgwin: BROTLI_WINDOW_LOG.into(),
        lgblock: BROTLI_BLOCK_LOG.into(),
        // For those that are said to be large it takes four mebibytes more.
        size_hint: length.map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX).min(BROTLI_HINT_MAX)),
        ..brotli::enc::BrotliEncoderParams::default()
    };
    brotli::CompressorWriter::with_params(Vec::new(), BROTLI_BUFFER_BYTES, &parameters)
}

#[cfg(test)]
mod tests;
