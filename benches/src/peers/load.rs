//! The loads: what is asked and how, what must come back, how often.

use clap::{ValueEnum, builder::PossibleValue};

use super::proxy::Kind;
use crate::tokens;

/// One kind of traffic, a line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`spec` says it")]
pub enum Load {
    Small,
    Kib64,
    Mib1,
    Post,
    Connect,
    H2c,
    H2cKib64,
    H2cMib1,
    H2,
    H2Kib64,
    H2Mib1,
    Tls,
    TlsKib64,
    TlsMib1,
    TlsConnect,
    TlsResume,
    Limit,
    Jwt,
    Plugins,
    Idle,
    IdleTls,
}

/// What makes a load.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// As the command line names it.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What comes back.
    pub answer: Answer,
    /// Where it comes in.
    pub listener: Listener,
    /// How it is asked for.
    pub client: Client,
    /// The small load makes so many times as many requests: heavier ones fewer, so that all take like time.
    pub share: u64,
}

/// What the [`backend`](super::backend) answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// JSON of 200 bytes.
    Small,
    /// 64 KiB.
    Kib64,
    /// 1 MiB.
    Mib1,
}

/// Every proxy has one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// HTTP/1.1 in the clear.
    Http1,
    /// HTTP/2 in the clear, by prior knowledge.
    H2c,
    /// HTTP/2 and HTTP/1.1 over TLS 1.3; no session tickets, where a proxy can do without.
    Tls,
    /// The same, with session tickets.
    TlsTickets,
    /// As `Http1`, and the requests of each address are counted against a limit that is never reached.
    Limit,
    /// As `Http1`, and each request must have a [token](tokens::RS256).
    Jwt,
    /// As `Http1`, with a route's usual company: token, limit, CORS and changed fields.
    Plugins,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// HTTP/1.1: request after request over kept-alive connections.
    KeepAlive,
    /// The same, each request with a body of [`POST_BYTES`].
    Post,
    /// HTTP/1.1: a new connection for each request; over TLS with a full handshake.
    Connect,
    /// The same, but each TLS session resumes the one before it, after one full handshake for each of those at once.
    Resume,
    /// HTTP/2 by h2load: so many requests at once on each connection, of which there are a quarter as many.
    H2 {
        /// At once.
        streams: u16,
    },
    /// HTTP/1.1: connections that make one request each, and then none.
    Idle,
}

/// Bytes of the request body of [`Client::Post`].
pub const POST_BYTES: usize = 16 << 10;

impl Answer {
    /// All that is ever asked for.
    pub const ALL: [Self; 3] = [Self::Small, Self::Kib64, Self::Mib1];

    /// Path of the request.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Small => "/small",
            Self::Kib64 => "/64k",
            Self::Mib1 => "/1m",
        }
    }

    /// Bytes of the body that must come back.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 200,
            Self::Kib64 => 64 << 10,
            Self::Mib1 => 1 << 20,
        }
    }
}

impl Load {
    /// Every load, in the order of the report.
    pub const ALL: [Self; 21] = [
        Self::Small,
        Self::Kib64,
        Self::Mib1,
        Self::Post,
        Self::Connect,
        Self::H2c,
        Self::H2cKib64,
        Self::H2cMib1,
        Self::H2,
        Self::H2Kib64,
        Self::H2Mib1,
        Self::Tls,
        Self::TlsKib64,
        Self::TlsMib1,
        Self::TlsConnect,
        Self::TlsResume,
        Self::Limit,
        Self::Jwt,
        Self::Plugins,
        Self::Idle,
        Self::IdleTls,
    ];

    /// What it is.
    #[must_use]
    #[rustfmt::skip]
    pub const fn spec(self) -> Spec {
        use Answer::{Kib64, Mib1, Small};
        use Client::{Connect, H2, Idle, KeepAlive, Post, Resume};
        use Listener::{H2c, Http1, Jwt, Limit, Plugins, Tls, TlsTickets};
        let (name, title, answer, listener, client, share) = match self {
            Self::Small => ("small", "HTTP/1.1, 200 B", Small, Http1, KeepAlive, 1),
            Self::Kib64 => ("64k", "HTTP/1.1, 64 KiB", Kib64, Http1, KeepAlive, 4),
            Self::Mib1 => ("1m", "HTTP/1.1, 1 MiB", Mib1, Http1, KeepAlive, 40),
            Self::Post => ("post", "HTTP/1.1, POST of 16 KiB", Small, Http1, Post, 2),
            Self::Connect => ("connect", "HTTP/1.1, new connection each", Small, Http1, Connect, 4),
            Self::H2c => ("h2c", "h2c, 200 B", Small, H2c, H2 { streams: 10 }, 1),
            Self::H2cKib64 => ("h2c-64k", "h2c, 64 KiB", Kib64, H2c, H2 { streams: 4 }, 8),
            Self::H2cMib1 => ("h2c-1m", "h2c, 1 MiB", Mib1, H2c, H2 { streams: 2 }, 80),
            Self::H2 => ("h2", "h2 over TLS, 200 B", Small, Tls, H2 { streams: 10 }, 1),
            Self::H2Kib64 => ("h2-64k", "h2 over TLS, 64 KiB", Kib64, Tls, H2 { streams: 4 }, 8),
            Self::H2Mib1 => ("h2-1m", "h2 over TLS, 1 MiB", Mib1, Tls, H2 { streams: 2 }, 80),
            Self::Tls => ("tls", "HTTP/1.1 over TLS, 200 B", Small, Tls, KeepAlive, 1),
            Self::TlsKib64 => ("tls-64k", "HTTP/1.1 over TLS, 64 KiB", Kib64, Tls, KeepAlive, 8),
            Self::TlsMib1 => ("tls-1m", "HTTP/1.1 over TLS, 1 MiB", Mib1, Tls, KeepAlive, 80),
            Self::TlsConnect => ("tls-connect", "new TLS connection each", Small, Tls, Connect, 16),
            Self::TlsResume => ("tls-resume", "resumed TLS connection each", Small, TlsTickets, Resume, 16),
            Self::Limit => ("limit", "HTTP/1.1, 200 B, rate limit by address", Small, Limit, KeepAlive, 1),
            Self::Jwt => ("jwt", "HTTP/1.1, 200 B, JWT (RS256, cached)", Small, Jwt, KeepAlive, 1),
            Self::Plugins => ("plugins", "HTTP/1.1, 200 B, JWT, rate limit, CORS, headers", Small, Plugins, KeepAlive, 1),
            Self::Idle => ("idle", "idle connection, KiB", Small, Http1, Idle, 1),
            Self::IdleTls => ("idle-tls", "idle TLS connection, KiB", Small, Tls, Idle, 1),
        };
        Spec { name, title, answer, listener, client, share }
    }

    /// How many requests to make where the small load makes `small`.
    #[must_use]
    pub fn requests(self, small: u64) -> u64 {
        (small / self.spec().share).max(1)
    }

    /// Whether it is memory that is measured, not CPU time.
    #[must_use]
    pub const fn is_idle(self) -> bool {
        matches!(self.spec().client, Client::Idle)
    }

    /// Whether that proxy runs it: a relay knows bytes alone, the access log is priced once, and of what plugins do, what
    /// is built into a peer is compared.
    #[must_use]
    pub fn is_for(self, kind: Kind) -> bool {
        let spec = self.spec();
        match (spec.listener, kind) {
            (_, Kind::RustyGate) => true,
            (Listener::Http1, Kind::Relay | Kind::RustyGateLog) => spec.client != Client::Idle,
            (_, Kind::Relay | Kind::RustyGateLog) | (Listener::Plugins, _) => false,
            (Listener::Limit, _) => matches!(kind, Kind::Nginx | Kind::Envoy),
            (Listener::Jwt, _) => kind == Kind::Envoy,
            (Listener::Http1 | Listener::H2c | Listener::Tls | Listener::TlsTickets, _) => true,
        }
    }
}

impl Spec {
    /// The whole request as it goes over the wire as HTTP/1.1, with the fields that an API client sends.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let method = if self.client == Client::Post { "POST" } else { "GET" };
        let path = self.answer.path();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n").into_bytes();
        for (name, value) in FIELDS {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if matches!(self.listener, Listener::Jwt | Listener::Plugins) {
            request.extend_from_slice(format!("Authorization: Bearer {}\r\n", tokens::RS256.token).as_bytes());
        }
        if self.listener == Listener::Plugins {
            request.extend_from_slice(format!("Origin: {ORIGIN}\r\n").as_bytes());
        }
        if self.connects_each_time() {
            request.extend_from_slice(b"Connection: close\r\n");
        }
        if self.client == Client::Post {
            request.extend_from_slice(
                format!("Content-Type: application/json\r\nContent-Length: {POST_BYTES}\r\n\r\n").as_bytes(),
            );
            request.resize(request.len() + POST_BYTES, b'x');
        } else {
            request.extend_from_slice(b"\r\n");
        }
        request
    }

    /// Whether each request has its own connection.
    #[must_use]
    pub const fn connects_each_time(&self) -> bool {
        matches!(self.client, Client::Connect | Client::Resume)
    }
}

impl Listener {
    /// Whether a client must shake hands.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::TlsTickets)
    }
}

impl ValueEnum for Load {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.spec().name))
    }
}

/// Who is asked, and who the certificate is for.
pub const HOST: &str = "bench.test";

/// Where scripts come from that ask across origins.
pub const ORIGIN: &str = "https://app.bench.test";

/// The fields of every request besides its host.
pub const FIELDS: [(&str, &str); 4] = [
    ("User-Agent", "bench-peers"),
    ("Accept", "application/json"),
    ("Accept-Language", "en"),
    ("X-Request-Source", "bench"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_every_load_once_under_its_own_name() {
        assert!(Load::ALL.is_sorted(), "the order of the command line is that of the report");
        for load in Load::ALL {
            assert_eq!(Load::from_str(load.spec().name, false), Ok(load));
        }
    }

    #[test]
    fn a_post_carries_the_body_that_it_announces() {
        let request = Load::Post.spec().request();
        let head_end = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(request.len() - head_end, POST_BYTES);
    }
}
