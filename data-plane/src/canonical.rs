//! The one canonical view of a request's path and host: computed once, before matching, and seen alike by route,
//! policy, log and upstream.
//!
//! Most attacks on a gateway's rules are two parsers that read one target differently. So what has
//! more than one reading (an encoded slash, a parameter on a dot segment) is refused rather than guessed at, and
//! the rest is rewritten to the one form that reads alike everywhere. Both functions are idempotent.

use std::{borrow::Cow, net::Ipv6Addr};

/// The most bytes that a host name has (RFC 1035).
pub const HOST_BYTES_MAX: usize = 253;

const LABEL_BYTES_MAX: usize = 63;

/// Why a target or host is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    PathNotAbsolute,
    /// A percent sign without two hex digits after it.
    #[error("the path has a percent sign without two hex digits after it")]
    PathEscape,
    /// A control character, raw or encoded (`%00`).
    #[error("the path has a control character")]
    PathControl,
    /// `%2f` or `%5c`: some servers read it as a separator, others do not.
    #[error("the path has an encoded slash or backslash")]
    PathEncodedSlash,
    /// Some servers read it as a slash, others do not.
    #[error("the path has a backslash")]
    PathBackslash,
    /// `/..;x/`, `/;x/`: some servers drop the parameter and then go up, or see no segment at all; others do not.
    #[error("the path has a parameter on a dot segment or an empty one")]
    PathDotParameter,
    /// `/..`: there is nothing above the root.
    #[error("the path leads above the root")]
    PathAboveRoot,
    /// A fragment stays with the client.
    #[error("the path has a fragment")]
    PathFragment,
    /// White space, a question mark or a byte outside ASCII.
    #[error("the path has a character that must be percent-encoded")]
    PathCharacter,
    /// Nothing, or only a port or a dot.
    #[error("the host is empty")]
    HostEmpty,
    /// Anything but letters, digits, hyphens, underscores and dots: commas, spaces, escapes, ...
    #[error("the host has a character that no host name has")]
    HostCharacter,
    /// `user@host`.
    #[error("the host has user information")]
    HostUserinfo,
    /// `a..b`, or a label over 63 bytes.
    #[error("the host has an empty or too long label")]
    HostLabel,
    /// Over [`HOST_BYTES_MAX`].
    #[error("the host is longer than {HOST_BYTES_MAX} bytes")]
    HostTooLong,
    /// Not 1 to 65535.
    #[error("the port of the host is not a number from 1 to 65535")]
    HostPort,
    /// Not an IPv6 address between the brackets.
    #[error("the host has brackets around what is no IPv6 address")]
    HostAddress,
}

/// A host without its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// Lower case, no dot at the end, IPv6 in brackets.
    pub name: Cow<'a, str>,
    /// As sent.
    pub port: Option<u16>,
}

/// The canonical form of an absolute path (no query, no fragment): unreserved characters decoded, hex digits of the
/// other escapes in upper case, no dot segments, no repeated slashes. Borrowed if `raw` is canonical already.
///
/// # Errors
/// [`Refused`] if it has no canonical form.
pub fn path(raw: &[u8]) -> Result<Cow<'_, str>, Refused> {
    if raw.first() != Some(&b'/') {
        return Err(Refused::PathNotAbsolute);
    }
    if is_plain(raw)? {
        return std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Refused::PathCharacter);
    }
    let bytes = rewrite(raw)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| Refused::PathCharacter)
}

/// Whether nothing needs to be rewritten.
fn is_plain(raw: &[u8]) -> Result<bool, Refused> {
    let mut after_slash = false;
    for (index, &byte) in raw.iter().enumerate() {
        match CLASSES[byte as usize] {
            Class::Plain => after_slash = false,
            Class::Slash if after_slash => return Ok(false),
            Class::Slash => after_slash = true,
            Class::Dot if after_slash && may_be_dot_segment(&raw[index..]) => return Ok(false),
            Class::Dot => after_slash = false,
            Class::Semicolon if after_slash => return Ok(false),
            Class::Semicolon => {}
            Class::Percent => return Ok(false),
            Class::Refused => return Err(refusal(byte)),
        }
    }
    Ok(true)
}

fn may_be_dot_segment(rest: &[u8]) -> bool {
    let after = rest.strip_prefix(b"..").unwrap_or(&rest[1..]);
    matches!(after.first(), None | Some(b'/' | b';' | b'%'))
}

#[derive(Clone, Copy)]
enum Class {
    Plain,
    Slash,
    Dot,
    Semicolon,
    Percent,
    Refused,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Refused; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        classes[byte] = match byte as u8 {
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            b';' => Class::Semicolon,
            b'%' => Class::Percent,
            b'#' | b'?' | b'\\' => Class::Refused,
            _ => Class::Plain,
        };
        byte += 1;
    }
    classes
};

fn refusal(byte: u8) -> Refused {
    match byte {
        0..0x20 | 0x7f => Refused::PathControl,
        b'\\' => Refused::PathBackslash,
        b'#' => Refused::PathFragment,
        _ => Refused::PathCharacter,
    }
}

fn rewrite(raw: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::with_capacity(raw.len());
    let mut segments = raw[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let start = out.len();
        out.push(b'/');
        push_decoded(&mut out, segment)?;
        match &out[start + 1..] {
            b"" | b"." => out.truncate(start + usize::from(last)),
            b".." => {
                let parent = out[..start].iter().rposition(|&byte| byte == b'/').ok_or(Refused::PathAboveRoot)?;
                out.truncate(parent + usize::from(last));
            }
            text if has_dot_parameter(text) || (text[0] == b';' && !last) => return Err(Refused::PathDotParameter),
            _ => {}
        }
    }
    Ok(out)
}

fn has_dot_parameter(segment: &[u8]) -> bool {
    let Some(after) = segment.strip_prefix(b"..").or_else(|| segment.strip_prefix(b".")) else { return false };
    after.starts_with(b";") || after.starts_with(b"%3B")
}

fn push_decoded(out: &mut Vec<u8>, segment: &[u8]) -> Result<(), Refused> {
    let mut rest = segment;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            if matches!(CLASSES[byte as usize], Class::Refused) {
                return Err(refusal(byte));
            }
            out.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (after.first().and_then(hex), after.get(1).and_then(hex)) else {
            return Err(Refused::PathEscape);
        };
        rest = &after[2..];
        match high << 4 | low {
            0..0x20 | 0x7f => return Err(Refused::PathControl),
            b'/' | b'\\' => return Err(Refused::PathEncodedSlash),
            byte if is_unreserved(byte) => out.push(byte),
            _ => out.extend([b'%', after[0].to_ascii_uppercase(), after[1].to_ascii_uppercase()]),
        }
    }
    Ok(())
}

fn hex(digit: &u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// What a canonical path is matched by: without the parameters of its segments (`/a;x=1/b` is `/a/b`). Many servers
/// route without them, so no rule may be got round by adding one.
#[must_use]
pub fn without_parameters(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b';', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let mut bare = String::with_capacity(path.len());
    for segment in path.split_inclusive('/') {
        match segment.split_once(';') {
            Some((name, parameters)) => {
                bare.push_str(name);
                bare.push_str(if parameters.ends_with('/') { "/" } else { "" });
            }
            None => bare.push_str(segment),
        }
    }
    Cow::Owned(bare)
}

/// What is left of a canonical path behind as many segments as the `prefix` has. Of the path itself, whose parameters
/// the prefix does not have.
#[must_use]
pub fn behind<'p>(path: &'p str, prefix: &str) -> &'p str {
    let segments = memchr::memchr_iter(b'/', prefix.as_bytes()).count();
    memchr::memchr_iter(b'/', path.as_bytes()).nth(segments).map_or("", |at| &path[at..])
}

/// The canonical form of a Host field or authority: lower case, the port apart, no dot at the end.
///
/// # Errors
/// [`Refused`] if it has no canonical form.
pub fn host(raw: &[u8]) -> Result<Host<'_>, Refused> {
    if raw.contains(&b'@') {
        return Err(Refused::HostUserinfo);
    }
    if raw.first() == Some(&b'[') {
        return bracketed(raw);
    }
    let (name, port) = match raw.iter().position(|&byte| byte == b':') {
        Some(colon) => (&raw[..colon], Some(parse_port(&raw[colon + 1..])?)),
        None => (raw, None),
    };
    let name = name.strip_suffix(b".").unwrap_or(name);
    check_name(name)?;
    let name = std::str::from_utf8(name).map_err(|_| Refused::HostCharacter)?;
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    Ok(Host { name, port })
}

fn check_name(name: &[u8]) -> Result<(), Refused> {
    if name.is_empty() {
        return Err(Refused::HostEmpty);
    }
    if name.len() > HOST_BYTES_MAX {
        return Err(Refused::HostTooLong);
    }
    let mut label_bytes = 0;
    for &byte in name {
        match byte {
            b'.' if label_bytes == 0 => return Err(Refused::HostLabel),
            b'.' => label_bytes = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label_bytes += 1,
            _ => return Err(Refused::HostCharacter),
        }
        if label_bytes > LABEL_BYTES_MAX {
            return Err(Refused::HostLabel);
        }
    }
    if label_bytes == 0 { Err(Refused::HostLabel) } else { Ok(()) }
}

fn bracketed(raw: &[u8]) -> Result<Host<'_>, Refused> {
    let text = std::str::from_utf8(raw).map_err(|_| Refused::HostCharacter)?;
    let (address, after) = text[1..].split_once(']').ok_or(Refused::HostAddress)?;
    let address: Ipv6Addr = address.parse().map_err(|_| Refused::HostAddress)?;
    let port = match after.strip_prefix(':') {
        Some(port) => Some(parse_port(port.as_bytes())?),
        None if after.is_empty() => None,
        None => return Err(Refused::HostCharacter),
    };
    let canonical = format!("[{address}]");
    let name = match text.get(..canonical.len()) {
        Some(same) if same == canonical => Cow::Borrowed(same),
        _ => Cow::Owned(canonical),
    };
    Ok(Host { name, port })
}

fn parse_port(digits: &[u8]) -> Result<u16, Refused> {
    if digits.is_empty() || digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refused::HostPort);
    }
    let port = digits.iter().fold(0_u32, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().filter(|&port| port != 0).ok_or(Refused::HostPort)
}

#[cfg(test)]
mod tests;
