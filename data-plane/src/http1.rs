//! HTTP/1.1 as RFC 9112 has it, read strictly and written plainly.
//!
//! Strictly, because a proxy and its upstream must never disagree on where a message ends: whatever two
//! readers could read in two ways is refused. `httparse` tells the tokens of a head apart; what the tokens mean
//! for the framing is decided here, with the raw head in view. (hyper joins repeated lengths and drops a
//! length beside a transfer coding before its user can see them, and its server has no way to send a 103.)

pub mod body;
pub mod head;
pub mod write;

/// The versions spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// No persistent connections unless asked for, no chunks, no 1xx.
    Http10,
    /// The normal one.
    #[default]
    Http11,
    /// Frames instead of text; heads and bodies mean the same.
    Http2,
}

/// Where a message's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    #[default]
    Empty,
    /// After so many bytes; never 0.
    Length(u64),
    /// After the last chunk and the trailers.
    Chunked,
    /// When the connection closes. Only responses.
    UntilClose,
}
