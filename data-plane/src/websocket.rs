//! The handshake of WebSockets (RFC 6455 section 4), where the two sides have different ones: HTTP/1.1 proves with a key
//! that the server meant it, HTTP/2 needs no such proof (RFC 8441).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::fields::Fields;

/// The version of the protocol that there is (RFC 6455 section 4.1).
pub const VERSION: &str = "13";

/// What a server appends to a key before it hashes it.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a handshake says what it must: the version and, `with_key`, one key. Some side has to see to it: an upstream
/// that speaks HTTP/2 never sees the key of a client that does not, nor does it know another version.
pub fn is_sound(fields: &Fields, with_key: bool) -> bool {
    let only = |name| {
        let mut values = fields.get_all(name);
        values.next().filter(|_| values.next().is_none())
    };
    only("sec-websocket-version").is_some_and(|version| version == VERSION.as_bytes())
        && (!with_key || only("sec-websocket-key").is_some_and(is_key))
}

/// Sixteen bytes in base64, padded. Like everybody, it does not mind the bits that are left over.
fn is_key(value: &[u8]) -> bool {
    const CHARS: usize = 22;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    value.len() == CHARS + 2 && value[..CHARS].iter().all(is_base64) && value.ends_with(b"==")
}

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
        assert!(is_key(key().as_bytes()));
    }

    #[test]
    fn a_handshake_has_its_version_and_by_http_1_one_key() {
        const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
        for (versions, keys, with_key, sound) in [
            (&["13"][..], &[KEY][..], true, true),
            (&["13"], &[], false, true),
            (&["13"], &[], true, false),
            (&["13"], &[""], true, false),
            (&["13"], &["dGhlIHNhbXBsZSBub25jZQ"], true, false),
            (&["13"], &["dGhlIHNhbXBsZSBub25jZQ=\u{e9}"], true, false),
            (&["13"], &["dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="], true, false),
            (&["13"], &[KEY, KEY], true, false),
            (&[], &[KEY], true, false),
            (&["8"], &[KEY], true, false),
            (&["13, 8"], &[KEY], true, false),
            (&["13", "13"], &[KEY], true, false),
            (&["8"], &[], false, false),
        ] {
            let mut fields = Fields::new();
            versions.iter().for_each(|version| fields.append("Sec-WebSocket-Version", version.as_bytes()));
            keys.iter().for_each(|key| fields.append("Sec-WebSocket-Key", key.as_bytes()));
            assert_eq!(is_sound(&fields, with_key), sound, "{versions:?} {keys:?}");
        }
    }
}
