//! The handshake of WebSockets (RFC 6455 section 4), where the two sides have different ones: HTTP/1.1 proves with a key
//! that the server meant it, HTTP/2 needs no such proof (RFC 8441).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// What a server appends to a key before it hashes it.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A new value for `Sec-WebSocket-Key`.
pub fn key() -> String {
    STANDARD.encode(fastrand::u128(..).to_le_bytes())
}

/// The value of `Sec-WebSocket-Accept` that belongs to a key.
pub fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_of_sixteen_bytes() {
        assert_eq!(STANDARD.decode(key()).map(|bytes| bytes.len()), Ok(16));
    }
}
