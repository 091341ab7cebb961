//! URLs of endpoints: `http://host[:port][/base]`, or with https.

use crate::{
    canonical,
    snapshot::{Endpoint, Id, Protocol, fault::shown},
    tls::client::EndpointTls,
};

/// Why a URL is none that an endpoint can have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadUrl {
    #[error("the URL begins with neither \"http://\" nor \"https://\"")]
    Scheme,
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
            Self::BasePath { canonical } => format!("write {}", shown(canonical)),
            Self::Query => "end the URL before it".to_owned(),
            Self::HalfAddress => "write all four numbers, each from 0 to 255: 10.0.0.1".to_owned(),
            Self::Refused(_) => String::new(),
        }
    }
}

/// What a URL says of an endpoint.
#[derive(Debug)]
pub(crate) struct Place {
    pub https: bool,
    pub host: Box<str>,
    port: u16,
    authority: Box<str>,
    base_path: Box<str>,
}

impl Place {
    /// The endpoint there.
    pub fn endpoint(self, weight: u32, protocol: Protocol, tls: Option<EndpointTls>) -> Endpoint {
        let Self { host, port, authority, base_path, .. } = self;
        let mut endpoint = Endpoint { id: Id(0), host, port, authority, base_path, weight, protocol, tls };
        endpoint.id = id(&endpoint);
        endpoint
    }
}

/// The id of an endpoint: where it is and how it is spoken to. A connection that was made on other terms is not its.
pub(super) fn id(endpoint: &Endpoint) -> Id {
    let Endpoint { host, port, .. } = endpoint;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    let identity = match (&endpoint.tls, endpoint.protocol) {
        // The client's id has the name that is asked for, unless that is the host.
        (Some(tls), _) => format!("https://{host}:{port}#{:016x}", tls.client.id.0),
        (None, Protocol::H2) => format!("h2c://{host}:{port}"),
        (None, Protocol::Http1 | Protocol::Negotiated) => format!("http://{host}:{port}"),
    };
    Id::of("endpoint", &identity)
}

/// Where the endpoint of a URL is.
pub(crate) fn parse(url: &str) -> Result<Place, BadUrl> {
    let (https, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
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
    let default_port = if https { 443 } else { 80 };
    let port = port.unwrap_or(default_port);
    let base_path = if path.is_empty() { "" } else { base_path(path)? };
    let host = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    let authority = if port == default_port { name.clone().into_owned() } else { format!("{name}:{port}") };
    Ok(Place { https, host: host.into(), port, authority: authority.into(), base_path: base_path.into() })
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
        let endpoint = parse(url).expect(url);
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
        assert_eq!(parts("https://a/b"), ("a".into(), 443, "a".into(), "/b".into()));
        assert_eq!(parts("https://a:80"), ("a".into(), 80, "a:80".into(), "".into()));
        assert_eq!(parts("http://[::1]:81"), ("::1".into(), 81, "[::1]:81".into(), "".into()));
    }

    #[test]
    fn the_same_server_has_the_same_id() {
        let with = |url, protocol| parse(url).expect(url).endpoint(1, protocol, None).id;
        let id = |url| with(url, Protocol::Http1);
        assert_eq!(id("http://a"), id("http://A:80/base"));
        assert_ne!(id("http://a"), id("http://a:81"));
        assert_ne!(id("http://a"), with("http://a", Protocol::H2));
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "localhost:8001", "ftp://a", "//a", "unix:/x"] {
            assert!(matches!(parse(url), Err(BadUrl::Scheme)), "{url}");
        }
        for url in ["http://a?x", "http://a/#x", "http://a/b?c"] {
            assert!(matches!(parse(url), Err(BadUrl::Query)), "{url}");
        }
        for url in
            ["http://", "http://:80", "http://u@a", "http://a:0", "http://a:70000", "http://a b", "http://a/\u{e9}"]
        {
            assert!(matches!(parse(url), Err(BadUrl::Refused(_))), "{url}");
        }
        for url in ["http://1.2.3", "http://256.1.1.1", "http://0x7f.0x1", "http://2130706433", "http://01.2.3.4"] {
            assert!(matches!(parse(url), Err(BadUrl::HalfAddress)), "{url}");
        }
        assert!(parse("http://1.2.3.4").is_ok() && parse("http://4.example").is_ok());
        assert!(matches!(parse("http://a/b/../c"), Err(BadUrl::BasePath { canonical }) if canonical == "/c"));
    }
}
