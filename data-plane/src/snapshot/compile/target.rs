//! URLs of endpoints: `http://host[:port][/base]`.

use crate::{
    canonical,
    snapshot::{Endpoint, Id, fault::shown},
};

const PORT: u16 = 80;

/// Why a URL is none that an endpoint can have.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadUrl {
    #[error("the URL does not begin with \"http://\"")]
    Scheme,
    #[error("https to a backend is not supported yet")]
    Https,
    #[error("the URL has a query or a fragment; a backend takes those of the request")]
    Query,
    #[error("{0}")]
    Refused(#[from] canonical::Refused),
    #[error("the host is a number, but no IPv4 address")]
    HalfAddress,
    #[error("the base path is not in its canonical form")]
    BasePath { canonical: String },
}

impl BadUrl {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Scheme => "write it as in \"http://10.0.0.1:8002\"".to_owned(),
            Self::Https => "use http to this backend, or a TLS-terminating hop beside it".to_owned(),
            Self::BasePath { canonical } => format!("write {}", shown(canonical)),
            Self::Query => "end the URL before it".to_owned(),
            Self::HalfAddress => "write all four numbers, each from 0 to 255: 10.0.0.1".to_owned(),
            Self::Refused(_) => String::new(),
        }
    }
}

/// The endpoint that a URL stands for.
pub(super) fn parse(url: &str, weight: u32) -> Result<Endpoint, BadUrl> {
    let rest = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(BadUrl::Https),
        _ => return Err(BadUrl::Scheme),
    };
    if rest.contains(['?', '#']) {
        return Err(BadUrl::Query);
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let canonical::Host { name, port } = canonical::host(authority.as_bytes())?;
    if is_half_address(&name) {
        return Err(BadUrl::HalfAddress);
    }
    let port = port.unwrap_or(PORT);
    let base_path = if path.is_empty() { "" } else { base_path(path)? };
    let host = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    let authority = if port == PORT { name.clone().into_owned() } else { format!("{name}:{port}") };
    Ok(Endpoint {
        id: Id::of("endpoint", &format!("http://{name}:{port}")),
        host: host.into(),
        port,
        authority: authority.into(),
        base_path: base_path.into(),
        weight,
    })
}

/// What resolvers take for an address in one of its old short forms, such as `10.1` or `0x7f.1`, and what cannot be one.
fn is_half_address(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = hex || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    number && host.parse::<std::net::Ipv4Addr>().is_err()
}

fn base_path(path: &str) -> Result<&str, BadUrl> {
    let canonical = canonical::path(path.as_bytes())?;
    if canonical != path {
        return Err(BadUrl::BasePath { canonical: canonical.into_owned() });
    }
    Ok(path.strip_suffix('/').unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, u16, String, String) {
        let endpoint = parse(url, 1).expect(url);
        (endpoint.host.into(), endpoint.port, endpoint.authority.into(), endpoint.base_path.into())
    }

    #[test]
    fn urls_become_endpoints() {
        assert_eq!(parts("http://localhost:8001"), ("localhost".into(), 8001, "localhost:8001".into(), "".into()));
        assert_eq!(
            parts("HTTP://Users.Example.com./"),
            ("users.example.com".into(), 80, "users.example.com".into(), "".into())
        );
        assert_eq!(parts("http://[::1]:80/base/"), ("::1".into(), 80, "[::1]".into(), "/base".into()));
        assert_eq!(parts("http://[::1]:81"), ("::1".into(), 81, "[::1]:81".into(), "".into()));
    }

    #[test]
    fn the_same_server_has_the_same_id() {
        let id = |url| parse(url, 1).expect(url).id;
        assert_eq!(id("http://a"), id("http://A:80/base"));
        assert_ne!(id("http://a"), id("http://a:81"));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "localhost:8001", "ftp://a", "//a", "unix:/x"] {
            assert!(matches!(parse(url, 1), Err(BadUrl::Scheme)), "{url}");
        }
        assert!(matches!(parse("https://a", 1), Err(BadUrl::Https)));
        for url in ["http://a?x", "http://a/#x", "http://a/b?c"] {
            assert!(matches!(parse(url, 1), Err(BadUrl::Query)), "{url}");
        }
        for url in
            ["http://", "http://:80", "http://u@a", "http://a:0", "http://a:70000", "http://a b", "http://a/\u{e9}"]
        {
            assert!(matches!(parse(url, 1), Err(BadUrl::Refused(_))), "{url}");
        }
        for url in ["http://1.2.3", "http://256.1.1.1", "http://0x7f.0x1", "http://2130706433", "http://01.2.3.4"] {
            assert!(matches!(parse(url, 1), Err(BadUrl::HalfAddress)), "{url}");
        }
        assert!(parse("http://1.2.3.4", 1).is_ok() && parse("http://4.example", 1).is_ok());
        assert!(matches!(parse("http://a/b/../c", 1), Err(BadUrl::BasePath { canonical }) if canonical == "/c"));
    }
}
