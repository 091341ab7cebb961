//! What a request asks for, in its one canonical form: read once, before anything is decided by it.

use crate::{
    canonical,
    error::ProxyError,
    http1::{Version, head::RequestHead},
};

/// The canonical host, path and query of a request; reused from one request of a connection to the next.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// Lower case, without port; "" if an HTTP/1.0 client sent none.
    pub host: String,
    /// For the upstream's Host field: the canonical host, with the port if the client named one.
    pub host_field: String,
    /// Begins with a slash.
    pub path: String,
    query: String,
    has_query: bool,
}

impl Target {
    /// Forgets the request before.
    fn clear(&mut self) {
        self.host.clear();
        self.host_field.clear();
        self.path.clear();
        self.query.clear();
        self.has_query = false;
    }

    /// The query as sent, without its question mark.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.has_query.then_some(&self.query)
    }

    /// Reads a request's target and Host field.
    ///
    /// # Errors
    /// A [`ProxyError`] with status 400 or 405.
    pub fn read(&mut self, request: &RequestHead) -> Result<(), ProxyError> {
        self.clear();
        if request.method == "CONNECT" {
            return Err(ProxyError::MethodNotAllowed);
        }
        let field = request.fields.get("host");
        let (authority, path) = match request.target.first() {
            Some(b'/') => (None, request.target.as_slice()),
            Some(b'*') if request.target == b"*" && request.method == "OPTIONS" => (None, b"/".as_slice()),
            _ => {
                absolute(&request.target).map(|(authority, path)| (Some(authority), path)).ok_or(ProxyError::BadForm)?
            }
        };
        // The target's authority is what is asked for; a Host field that says otherwise is a trap (RFC 9112
        // section 3.2.2 lets a proxy ignore it, and some upstream would not).
        match (authority.or(field), request.version) {
            (Some(b""), _) if authority.is_none() => {}
            (Some(host), _) => {
                let host = canonical::host(host)?;
                self.host.push_str(&host.name);
                self.host_field.push_str(&host.name);
                if let Some(port) = host.port {
                    self.host_field.push(':');
                    self.host_field.push_str(itoa::Buffer::new().format(port));
                }
            }
            (None, Version::Http10) => {}
            (None, Version::Http11 | Version::Http2) => return Err(ProxyError::BadForm),
        }
        if let (Some(_), Some(field)) = (authority, field) {
            let field = canonical::host(field)?;
            let port = self.host_field.strip_prefix(&self.host).and_then(|rest| rest.strip_prefix(':'));
            if *field.name != self.host || port.map(str::parse) != field.port.map(Ok) {
                return Err(ProxyError::BadForm);
            }
        }
        let (path, query) = match memchr::memchr(b'?', path) {
            Some(at) => (&path[..at], Some(&path[at + 1..])),
            None => (path, None),
        };
        self.path.push_str(&canonical::path(path)?);
        if let Some(query) = query {
            let query = std::str::from_utf8(query).map_err(|_| ProxyError::BadForm)?;
            if query.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
                return Err(ProxyError::BadForm);
            }
            self.query.push_str(query);
            self.has_query = true;
        }
        Ok(())
    }
}

/// Authority and path of "http://authority/path?query"; the path may be missing.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let scheme = target.get(..7)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let rest = &target[7..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match path.first() {
        _ if authority.is_empty() => None,
        None => Some((authority, b"/")),
        Some(b'/') => Some((authority, path)),
        // "http://host?query" has an empty path; nobody sends it but those who probe.
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str, host: &str) -> Result<Target, ProxyError> {
        let mut request = RequestHead::default();
        let text = format!("{line}\r\nHost: {host}\r\n\r\n");
        assert!(request.parse(text.as_bytes()).expect("parses").is_some());
        let mut target = Target::default();
        target.read(&request).map(|()| target)
    }

    #[test]
    fn origin_and_absolute_form_read_alike() {
        for line in ["GET /a/b?c=d HTTP/1.1", "GET http://example.com:80/a/b?c=d HTTP/1.1"] {
            let target = read(line, "example.com:80").expect("reads");
            assert_eq!(target.host, "example.com");
            assert_eq!(target.host_field, "example.com:80");
            assert_eq!((target.path.as_str(), target.query()), ("/a/b", Some("c=d")));
        }
    }

    #[test]
    fn a_host_that_contradicts_the_target_is_refused() {
        for host in ["other.com", "example.com:80", "example.com", ""] {
            assert!(read("GET http://example.com:81/ HTTP/1.1", host).is_err(), "{host:?}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for line in [
            "GET * HTTP/1.1",
            "GET a HTTP/1.1",
            "GET ftp://a/ HTTP/1.1",
            "GET http:///a HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /a?b#c HTTP/1.1",
        ] {
            assert!(read(line, "a").is_err(), "{line}");
        }
        assert_eq!(read("CONNECT a:1 HTTP/1.1", "a:1").err(), Some(ProxyError::MethodNotAllowed));
        assert_eq!(read("OPTIONS * HTTP/1.1", "a").map(|target| target.path), Ok("/".to_owned()));
    }
}
