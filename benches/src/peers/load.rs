//! The loads: what is asked, what must come back, how often.

use clap::ValueEnum;

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Load {
    /// A JSON answer of 200 bytes over kept-alive connections.
    Small,
    /// An answer of 64 KiB over kept-alive connections.
    #[value(name = "64k")]
    Kib64,
    /// An answer of 1 MiB over kept-alive connections.
    #[value(name = "1m")]
    Mib1,
    /// A request of 16 KiB, a small answer, over kept-alive connections.
    Post,
    /// The small answer, a new connection each time.
    Connect,
}

/// Bytes of the small answer.
pub const SMALL_BYTES: usize = 200;
/// Bytes of the request body of [`Load::Post`].
pub const POST_BYTES: usize = 16 << 10;

impl Load {
    /// Every load, in the order of the report.
    pub const ALL: [Self; 5] = [Self::Small, Self::Kib64, Self::Mib1, Self::Post, Self::Connect];

    /// As the command line names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Kib64 => "64k",
            Self::Mib1 => "1m",
            Self::Post => "post",
            Self::Connect => "connect",
        }
    }

    /// For people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Small => "200 B response, keep-alive",
            Self::Kib64 => "64 KiB response, keep-alive",
            Self::Mib1 => "1 MiB response, keep-alive",
            Self::Post => "16 KiB POST, keep-alive",
            Self::Connect => "200 B response, new connection each",
        }
    }

    /// How many requests to make where the small load makes `small`: heavier ones fewer, so that all take like time.
    #[must_use]
    pub fn requests(self, small: u64) -> u64 {
        let share = match self {
            Self::Small => 1,
            Self::Post => 2,
            Self::Kib64 | Self::Connect => 4,
            Self::Mib1 => 40,
        };
        (small / share).max(1)
    }

    /// Whether each request has its own connection.
    #[must_use]
    pub const fn connects_each_time(self) -> bool {
        matches!(self, Self::Connect)
    }

    /// Path of the request; what it answers is up to the [`backend`](super::backend).
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Small | Self::Connect => "/small",
            Self::Kib64 => "/64k",
            Self::Mib1 => "/1m",
            Self::Post => "/post",
        }
    }

    /// Bytes of the body that must come back.
    #[must_use]
    pub const fn answer_bytes(self) -> usize {
        match self {
            Self::Small | Self::Post | Self::Connect => SMALL_BYTES,
            Self::Kib64 => 64 << 10,
            Self::Mib1 => 1 << 20,
        }
    }

    /// The whole request as it goes over the wire, with the fields that an API client sends.
    #[must_use]
    pub fn request(self) -> Vec<u8> {
        let method = if self == Self::Post { "POST" } else { "GET" };
        let path = self.path();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench-peers\r\n\
             Accept: application/json\r\nAccept-Language: en\r\nX-Request-Source: bench\r\n"
        )
        .into_bytes();
        if self.connects_each_time() {
            request.extend_from_slice(b"Connection: close\r\n");
        }
        if self == Self::Post {
            request.extend_from_slice(
                format!("Content-Type: application/json\r\nContent-Length: {POST_BYTES}\r\n\r\n").as_bytes(),
            );
            request.resize(request.len() + POST_BYTES, b'x');
        } else {
            request.extend_from_slice(b"\r\n");
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_command_line() {
        for load in Load::ALL {
            assert_eq!(Load::from_str(load.name(), false), Ok(load));
        }
    }

    #[test]
    fn a_post_carries_the_body_that_it_announces() {
        let request = Load::Post.request();
        let head_end = request.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        assert_eq!(request.len() - head_end, POST_BYTES);
    }
}
