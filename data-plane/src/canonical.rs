//! The one canonical view of a request's path and host: computed once, before matching, and seen alike by route,
//! policy, log and upstream.

use std::borrow::Cow;

/// Why a target or host is refused (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Placeholder.
    #[error("bad path")]
    BadPath,
    /// Placeholder.
    #[error("bad host")]
    BadHost,
}

/// A host without its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// Lower case, no dot at the end, IPv6 in brackets.
    pub name: Cow<'a, str>,
    /// As sent.
    pub port: Option<u16>,
}

/// The canonical form of an absolute path (no query, no fragment).
///
/// # Errors
/// [`Refused`] if it has no canonical form.
pub fn path(raw: &[u8]) -> Result<Cow<'_, str>, Refused> {
    std::str::from_utf8(raw).map(Cow::Borrowed).map_err(|_| Refused::BadPath)
}

/// The canonical form of a Host field or authority.
///
/// # Errors
/// [`Refused`] if it has no canonical form.
pub fn host(raw: &[u8]) -> Result<Host<'_>, Refused> {
    std::str::from_utf8(raw).map(|name| Host { name: Cow::Borrowed(name), port: None }).map_err(|_| Refused::BadHost)
}
