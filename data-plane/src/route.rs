//! Pure matching: which rule gets a request. No I/O, no clock, no async, no globals.

use std::sync::Arc;

use rustygate_proto::v1 as wire;

use crate::{fields::Fields, snapshot::Rule};

/// What a route can see of a request: the one canonical view.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Name of the listener that it came in by.
    pub listener: &'a str,
    /// As the client sent it; methods are case-sensitive.
    pub method: &'a str,
    /// Canonical: lower case, no port, no dot at the end; "" if the client sent none (HTTP/1.0).
    pub host: &'a str,
    /// Canonical, begins with a slash.
    pub path: &'a str,
    /// Without its question mark.
    pub query: Option<&'a str>,
    /// The header section.
    pub fields: &'a Fields,
}

/// The rule that gets a request.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'s> {
    /// What to do.
    pub rule: &'s Arc<Rule>,
    /// How many bytes of the path the matched prefix has, without a slash at its end; 0 unless a prefix matched.
    pub prefix_len: usize,
}

/// Every route, ready to be matched.
#[derive(Clone, Debug, Default)]
pub struct Router {}

impl Router {
    /// The rule for a request, by the precedence of the Gateway API.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Option<Matched<'_>> {
        let _ = request;
        None
    }

    /// Every match of every route in order of precedence, and the first condition of each that does not hold.
    #[must_use]
    pub fn explain(&self, request: &RequestView<'_>, candidates_max: usize) -> Vec<wire::Candidate> {
        let _ = (request, candidates_max);
        Vec::new()
    }
}
