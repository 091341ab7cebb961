//! The bounds that a client can run into, one by one: what each is called, which setting it has, what becomes of who
//! meets it, and how often that happened.
//!
//! A bound is enforced where its matter is at hand; here is the one list of them, from which metric and papers are made.

mod per_key;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use self::per_key::{PerKey, network};
use crate::{
    http1::head::TARGET_BYTES_MAX,
    http2::{
        reader::{FRAMES_PER_REQUEST, FREE_FRAMES, TRAILER_BYTES_MAX},
        server::{HEADS_BYTES_MAX, HEADS_BYTES_OWN, RESETS_MAX},
    },
};

/// A bound of a client's connection, or of what comes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Connections of the process.
    Connections,
    /// Connections from one address.
    ConnectionsPerIp,
    /// From the start of a TLS handshake to its end.
    TlsHandshakeTime,
    /// From the first byte of a head to its last.
    HeadTime,
    /// Bytes of a head.
    HeadBytes,
    /// Field lines of a head.
    HeadFields,
    /// Bytes of a request target.
    TargetBytes,
    /// Bytes of a request's body.
    BodyBytes,
    /// Between two pieces of a request's body.
    BodyTime,
    /// Bytes of a request's body in a second of waiting for them.
    BodyRate,
    /// Between two pieces of an answer that the client takes.
    WriteTime,
    /// Bytes of an answer that the client takes in a second of waiting for it.
    WriteRate,
    /// Between two requests of a connection.
    IdleTime,
    /// Requests of a connection.
    Requests,
    /// From the start of a connection to its last request.
    Age,
    /// HTTP/2: frames that nothing explains.
    Frames,
    /// HTTP/2: requests that the client gives up.
    Resets,
    /// HTTP/2: bytes of heads of a worker's requests.
    HeadsBytes,
    /// HTTP/2: bytes of trailer sections that wait.
    TrailerBytes,
}

impl Limit {
    /// Every one, in the order of a connection's life.
    pub const ALL: [Self; 19] = [
        Self::Connections,
        Self::ConnectionsPerIp,
        Self::TlsHandshakeTime,
        Self::HeadTime,
        Self::HeadBytes,
        Self::HeadFields,
        Self::TargetBytes,
        Self::BodyBytes,
        Self::BodyTime,
        Self::BodyRate,
        Self::WriteTime,
        Self::WriteRate,
        Self::IdleTime,
        Self::Requests,
        Self::Age,
        Self::Frames,
        Self::Resets,
        Self::HeadsBytes,
        Self::TrailerBytes,
    ];

    /// A stable label for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::TlsHandshakeTime => "tls_handshake_timeout",
            Self::HeadTime => "head_timeout",
            Self::HeadBytes => "head_bytes",
            Self::HeadFields => "head_fields",
            Self::TargetBytes => "target_bytes",
            Self::BodyBytes => "body_bytes",
            Self::BodyTime => "request_body_timeout",
            Self::BodyRate => "request_body_rate",
            Self::WriteTime => "write_timeout",
            Self::WriteRate => "write_rate",
            Self::IdleTime => "keep_alive_timeout",
            Self::Requests => "requests_per_connection",
            Self::Age => "connection_age",
            Self::Frames => "http2_frames",
            Self::Resets => "http2_resets",
            Self::HeadsBytes => "http2_heads_bytes",
            Self::TrailerBytes => "http2_trailer_bytes",
        }
    }

    /// The flag that sets it, without its dashes; `None` if it is [fixed](Self::fixed).
    #[must_use]
    pub fn setting(self) -> Option<&'static str> {
        Some(match self {
            Self::Connections => "max-connections",
            Self::ConnectionsPerIp => "max-connections-per-ip",
            Self::TlsHandshakeTime => "tls-handshake-timeout",
            Self::HeadTime => "head-timeout",
            Self::HeadBytes => "max-head-bytes",
            Self::HeadFields => "max-head-fields",
            Self::TargetBytes | Self::Frames | Self::Resets | Self::HeadsBytes | Self::TrailerBytes => return None,
            Self::BodyBytes => "max-body-bytes",
            Self::BodyTime => "body-timeout",
            Self::BodyRate => "min-body-rate",
            Self::WriteTime => "write-timeout",
            Self::WriteRate => "min-write-rate",
            Self::IdleTime => "keep-alive-timeout",
            Self::Requests => "max-requests-per-connection",
            Self::Age => "max-connection-age",
        })
    }

    /// The bound, for people, of one that no flag sets.
    #[must_use]
    pub fn fixed(self) -> Option<String> {
        Some(match self {
            Self::TargetBytes => format!("{TARGET_BYTES_MAX} bytes"),
            Self::Frames => {
                format!("{FREE_FRAMES} a second, {FRAMES_PER_REQUEST} for each request, and some for pieces of answers")
            }
            Self::Resets => format!("{RESETS_MAX} more than end otherwise"),
            Self::HeadsBytes => format!("{HEADS_BYTES_MAX} bytes of a worker, {HEADS_BYTES_OWN} of a connection"),
            Self::TrailerBytes => format!("{TRAILER_BYTES_MAX} bytes of a connection"),
            _ => return None,
        })
    }

    /// What becomes of who meets it, for people.
    #[must_use]
    pub fn consequence(self) -> &'static str {
        match self {
            Self::Connections => "503 `overloaded`, closed at once",
            Self::ConnectionsPerIp => "429 `too_many_connections`, closed at once",
            Self::TlsHandshakeTime => "closed",
            Self::HeadTime => {
                "408 `request_timeout`, by HTTP/2 GOAWAY `ENHANCE_YOUR_CALM`; closed without a word if not a byte of a first head came"
            }
            Self::HeadBytes | Self::HeadFields => "431 `headers_too_large`",
            Self::TargetBytes => "414 `uri_too_long`",
            Self::BodyBytes => "413 `body_too_large`",
            Self::BodyTime => "408 `request_body_timeout`",
            Self::BodyRate => "408 `request_body_slow`",
            Self::WriteTime => "reset, `client_stalled` in the log",
            Self::WriteRate => "reset, `client_slow` in the log",
            Self::IdleTime => "closed",
            Self::Frames | Self::Resets | Self::TrailerBytes => "GOAWAY `ENHANCE_YOUR_CALM`",
            Self::HeadsBytes => "RST_STREAM `REFUSED_STREAM`: another try may do",
            Self::Requests | Self::Age => {
                "answered with `Connection: close`; by HTTP/2 GOAWAY in two steps, and what is under way is answered"
            }
        }
    }
}

/// How often each was met. Written by any worker, but rarely.
#[derive(Debug, Default)]
pub struct Hits([AtomicU64; Limit::ALL.len()]);

impl Hits {
    /// It was met.
    pub fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Relaxed);
    }

    /// How often so far.
    pub fn get(&self, limit: Limit) -> u64 {
        self.0[limit as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_counter_and_name() {
        let hits = Hits::default();
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!((limit as usize, hits.get(limit)), (index, 0));
            hits.count(limit);
            assert_eq!(hits.get(limit), 1);
        }
        let mut names = Limit::ALL.map(Limit::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Limit::ALL.len());
        assert!(Limit::ALL.iter().all(|limit| limit.setting().is_none() == limit.fixed().is_some()));
    }
}
