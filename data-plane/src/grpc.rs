//! What a gateway must know of gRPC (the protocol over HTTP/2, as its specification has it): which requests are calls,
//! how long a caller waits, and how a caller is told of an error.

use std::time::Duration;

use h2::Reason;

use crate::{error::ProxyError, fields::Fields};

/// The longest time that a caller can ask for: eight digits of hours are more than any process lives.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Status codes of gRPC that the gateway answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// One side gave the call up.
    Cancelled = 1,
    /// Of what the caller did wrong on the level of HTTP.
    Internal = 13,
    /// The time is up.
    DeadlineExceeded = 4,
    /// A bound was hit.
    ResourceExhausted = 8,
    /// Nobody serves this method here.
    Unimplemented = 12,
    /// Nobody can serve it now; trying again may help.
    Unavailable = 14,
    /// The caller must say who it is.
    Unauthenticated = 16,
    /// It said so, and may not.
    PermissionDenied = 7,
}

/// Whether a request is a call: its content type begins so.
#[must_use]
pub fn is_call(fields: &Fields) -> bool {
    fields.get("content-type").is_some_and(is_grpc)
}

/// Whether that is a content type of gRPC: "application/grpc", "application/grpc+proto", not "application/grpc-web".
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    content_type.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        && matches!(content_type.get(NAME.len()), None | Some(b'+' | b';'))
}

/// How long the caller waits ("100m"); `None` if it does not say, or not as it must: at most eight digits and a unit.
#[must_use]
pub fn timeout(fields: &Fields) -> Option<Duration> {
    let value = fields.get("grpc-timeout")?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0_u64, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

/// That much time as the field has it, rounded down. Nobody waits longer than a year.
#[must_use]
pub fn timeout_text(left: Duration) -> String {
    const DIGITS_MAX: u128 = 99_999_999;
    match left.min(TIMEOUT_MAX) {
        left if left.as_micros() <= DIGITS_MAX => format!("{}u", left.as_micros()),
        left if left.as_millis() <= DIGITS_MAX => format!("{}m", left.as_millis()),
        left => format!("{}S", left.as_secs()),
    }
}

/// What a caller is told of an error that the gateway answers with.
#[must_use]
pub fn status(error: ProxyError) -> Status {
    if let ProxyError::UpstreamReset(reason) = error {
        return of_reset(reason);
    }
    match error.status() {
        408 | 504 => Status::DeadlineExceeded,
        // The gateway's own; that of a backend says nothing certain.
        413 | 414 | 429 | 431 => Status::ResourceExhausted,
        404 | 405 | 421 | 501 => Status::Unimplemented,
        other => of_http(other),
    }
}

/// The status of gRPC for a stream that was given up with this code, as its specification maps them.
fn of_reset(reason: Reason) -> Status {
    match reason {
        Reason::REFUSED_STREAM => Status::Unavailable,
        Reason::CANCEL => Status::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Status::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Status::PermissionDenied,
        _ => Status::Internal,
    }
}

/// The status of gRPC for an answer of HTTP that is not of gRPC, as its specification maps them.
#[must_use]
pub fn of_http(status: u16) -> Status {
    match status {
        401 => Status::Unauthenticated,
        403 => Status::PermissionDenied,
        404 => Status::Unimplemented,
        429 | 500..=599 => Status::Unavailable,
        _ => Status::Internal,
    }
}

/// The fields of an answer that is an error and nothing else ("trailers-only"). The message is plain ASCII, so that
/// percent-encoding leaves it as it is.
#[must_use]
pub fn trailers_only(status: Status, message: &str) -> Fields {
    let mut fields = Fields::new();
    fields.append("content-type", b"application/grpc");
    fields.append("grpc-status", itoa::Buffer::new().format(status as u8).as_bytes());
    let plain: String = message.chars().filter(|char| (' '..='~').contains(char) && *char != '%').collect();
    fields.append("grpc-message", plain.trim().as_bytes());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &str, value: &str) -> Fields {
        let mut fields = Fields::new();
        fields.append(name, value.as_bytes());
        fields
    }

    #[test]
    fn timeouts_have_a_unit_and_at_most_eight_digits() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(TIMEOUT_MAX)),
            ("0m", Some(Duration::ZERO)),
            ("999999999n", None),
            ("m", None),
            ("-1S", None),
            ("1", None),
            ("1s", None),
            ("1 S", None),
        ] {
            assert_eq!(timeout(&fields("grpc-timeout", text)), expected, "{text}");
        }
    }

    #[test]
    fn time_that_is_left_is_said_in_eight_digits() {
        for (left, text) in [
            (Duration::ZERO, "0u"),
            (Duration::from_millis(1500), "1500000u"),
            (Duration::from_secs(3600), "3600000m"),
            (Duration::MAX, "31536000S"),
        ] {
            assert_eq!(timeout_text(left), text);
            let read = timeout(&fields("grpc-timeout", text));
            assert_eq!(read, Some(left.min(TIMEOUT_MAX)));
        }
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&fields("Content-Type", text)), expected, "{text}");
        }
    }

    #[test]
    fn an_error_is_told_in_trailers_alone() {
        let fields = trailers_only(status(ProxyError::UpstreamTimeout), "the service did not answer in time");
        assert_eq!(fields.get("grpc-status"), Some(&b"4"[..]));
        assert_eq!(fields.get("grpc-message"), Some(&b"the service did not answer in time"[..]));
        assert_eq!(status(ProxyError::NoRoute), Status::Unimplemented);
        assert_eq!(status(ProxyError::UpstreamConnect), Status::Unavailable);
        assert_eq!(status(ProxyError::UpstreamReset(Reason::CANCEL)), Status::Cancelled);
    }
}
