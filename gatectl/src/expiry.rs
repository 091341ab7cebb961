//! When certificates end. A warning, never a fault: what is applied today must still be what can be brought back later.

use rustygate_data_plane::tls::certificate::{Description, Validity, describe};
use rustygate_proto::v1::{self as wire, resource};

use crate::output::escape;

/// From how many days on before the end it is told without being asked.
const WARN_DAYS: i64 = 30;

const DAY_SECONDS: i64 = 86_400;

/// A certificate's names and when it can be used; `None` if it cannot be read.
pub(crate) fn of(certificate: &wire::Certificate) -> Option<(Vec<String>, Validity)> {
    let Description { names, validity } = describe(&certificate.chain).ok()?;
    Some((names.iter().map(|name| name.to_string()).collect(), validity))
}

/// Whole days until it ends; negative once it has.
pub(crate) fn days_left(validity: Validity, now_ms: u64) -> i64 {
    (validity.not_after - seconds(now_ms)).div_euclid(DAY_SECONDS)
}

/// "in 89 days"
pub(crate) fn text(validity: Validity, now_ms: u64) -> String {
    let now = seconds(now_ms);
    let days = days_left(validity, now_ms);
    if now < validity.not_before {
        let days = (validity.not_before - now).div_euclid(DAY_SECONDS);
        return format!("begins in {}", count(days));
    }
    if now > validity.not_after { format!("{} ago", count(-days - 1)) } else { format!("in {}", count(days)) }
}

/// What should be done soon, one line for each certificate.
pub(crate) fn warnings<'a>(resources: impl Iterator<Item = &'a wire::Resource>, now_ms: u64) -> Vec<String> {
    let warning = |resource: &wire::Resource| {
        let Some(resource::Kind::Certificate(certificate)) = &resource.kind else { return None };
        let (_, validity) = of(certificate)?;
        let now = seconds(now_ms);
        let name = escape(&certificate.name);
        let text = text(validity, now_ms);
        if now < validity.not_before {
            return Some(format!("certificate {name} is not valid yet: it {text}"));
        }
        if now > validity.not_after {
            return Some(format!("certificate {name} has expired {text}: renew it and apply it again"));
        }
        let soon = days_left(validity, now_ms) < WARN_DAYS;
        soon.then(|| format!("certificate {name} expires {text}: renew it and apply it again"))
    };
    resources.filter_map(warning).collect()
}

fn seconds(ms: u64) -> i64 {
    i64::try_from(ms / 1000).unwrap_or(i64::MAX)
}

fn count(days: i64) -> String {
    if days == 1 { "1 day".to_owned() } else { format!("{days} days") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn at(day: u64) -> String {
        text(Validity { not_before: 10 * DAY_SECONDS, not_after: 100 * DAY_SECONDS }, day * DAY_MS)
    }

    #[test]
    fn the_time_left_is_told_in_days() {
        assert_eq!(
            [at(9), at(10), at(60), at(99), at(100)],
            ["begins in 1 day", "in 90 days", "in 40 days", "in 1 day", "in 0 days"]
        );
        assert_eq!([at(101), at(130)], ["0 days ago", "29 days ago"]);
    }

    #[test]
    fn the_last_thirty_days_and_what_cannot_be_used_are_warned_of() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(1970, 1, 11);
        params.not_after = rcgen::date_time_ymd(1970, 4, 11);
        let chain = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("signs").pem();
        let certificate = wire::Certificate { name: "web".to_owned(), chain, key: None };
        let resource = wire::Resource { kind: Some(resource::Kind::Certificate(certificate)) };
        let at = |day: u64| warnings(std::iter::once(&resource), day * DAY_MS).into_iter().next();
        assert_eq!(at(60), None);
        assert_eq!(at(71).as_deref(), Some("certificate web expires in 29 days: renew it and apply it again"));
        assert_eq!(at(111).as_deref(), Some("certificate web has expired 10 days ago: renew it and apply it again"));
        assert_eq!(at(5).as_deref(), Some("certificate web is not valid yet: it begins in 5 days"));
    }
}
