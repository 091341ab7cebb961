//! What the router would do with a request: the request is put together from its description, seen as a proxy would
//! see it, and given to the proxies' own router.

use rustygate_data_plane::{
    canonical,
    fields::{Fields, is_field_value, is_token},
    route::RequestView,
    snapshot::{
        DEFAULT_LISTENER, Snapshot,
        fault::{closest, shown},
    },
};
use rustygate_proto::v1 as wire;
use tonic::Status;

const CANDIDATES_MAX: usize = 100;
const URL_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 200;

/// The host of a URL that is only a path.
const LOCALHOST: &str = "localhost";

/// The parts of `http://host[:port]/path?query`, or of `/path?query`.
#[derive(Debug, PartialEq, Eq)]
struct Url<'a> {
    authority: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

/// What the router of this snapshot would do.
///
/// # Errors
/// What is wrong with the description; a request that a proxy would refuse is an answer.
#[allow(clippy::result_large_err, reason = "it is the status of the call")]
pub fn explain(snapshot: &Snapshot, request: &wire::ExplainRequest) -> Result<wire::ExplainResponse, Status> {
    let mut url = split(&request.url).map_err(Status::invalid_argument)?;
    // The host that the request will name is that of its header, as in curl.
    if let Some(host) = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host")) {
        url.authority = &host.value;
    }
    let method = if request.method.is_empty() { "GET" } else { &request.method };
    if !is_token(method.as_bytes()) {
        return Err(Status::invalid_argument(format!("{method:?} is not a method")));
    }
    let fields = fields(&request.headers)?;
    check_listener(snapshot, &request.listener)?;
    let mut response = wire::ExplainResponse { revision: snapshot.revision, ..Default::default() };
    let host = match canonical::host(url.authority.as_bytes()) {
        Ok(host) => host.name,
        Err(refused) => return Ok(refusal(response, &refused)),
    };
    response.canonical_host = host.to_string();
    let path = match canonical::path(url.path.as_bytes()) {
        Ok(path) => path,
        Err(refused) => return Ok(refusal(response, &refused)),
    };
    response.canonical_path = path.to_string();
    let view = RequestView {
        listener: &request.listener,
        method,
        host: &host,
        path: &canonical::without_parameters(&path),
        query: url.query,
        fields: &fields,
    };
    let explained = snapshot.router.explain(&view, CANDIDATES_MAX);
    response.candidates = explained.candidates;
    response.omitted = explained.omitted;
    Ok(response)
}

/// A request that names no listener may come in by any.
#[allow(clippy::result_large_err, reason = "it is the status of the call")]
fn check_listener(snapshot: &Snapshot, name: &str) -> Result<(), Status> {
    let names: Vec<&str> = match snapshot.listeners.as_slice() {
        [] => vec![DEFAULT_LISTENER],
        listeners => listeners.iter().map(|listener| &*listener.name).collect(),
    };
    if name.is_empty() || names.contains(&name) {
        return Ok(());
    }
    let hint = match closest(name, names.iter().copied()) {
        Some(close) => format!("did you mean {close:?}?"),
        None => format!("there are: {}", names.join(", ")),
    };
    Err(Status::invalid_argument(format!("there is no listener {}; {hint}", shown(name))))
}

fn refusal(response: wire::ExplainResponse, refused: &canonical::Refused) -> wire::ExplainResponse {
    wire::ExplainResponse { refused: refused.to_string(), ..response }
}

fn split(url: &str) -> Result<Url<'_>, String> {
    if url.len() > URL_BYTES_MAX {
        return Err(format!("the URL is longer than {URL_BYTES_MAX} bytes"));
    }
    let whole = url.split_once('#').map_or(url, |(before, _)| before);
    let (authority, target) = match whole.strip_prefix("http://").or_else(|| whole.strip_prefix("https://")) {
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        None if whole.starts_with('/') => (LOCALHOST, whole),
        None => return Err(format!("{} is not http://host[:port]/path?query, nor /path", shown(url))),
    };
    if authority.is_empty() {
        return Err(format!("{} has no host", shown(url)));
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Ok(Url { authority, path: if path.is_empty() { "/" } else { path }, query })
}

fn fields(headers: &[wire::Header]) -> Result<Fields, Status> {
    if headers.len() > HEADERS_MAX {
        return Err(Status::invalid_argument(format!("more than {HEADERS_MAX} headers")));
    }
    let mut fields = Fields::new();
    for header in headers {
        if !is_token(header.name.as_bytes()) || !is_field_value(header.value.as_bytes()) {
            return Err(Status::invalid_argument(format!("{:?} is not a valid header", header.name)));
        }
        fields.append(&header.name, header.value.as_bytes());
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_without_being_changed() {
        let parts = |url| split(url).expect("a URL");
        assert_eq!(parts("http://a:80/x/../y?q=/?"), Url { authority: "a:80", path: "/x/../y", query: Some("q=/?") });
        assert_eq!(parts("https://a"), Url { authority: "a", path: "/", query: None });
        assert_eq!(parts("http://a?q"), Url { authority: "a", path: "/", query: Some("q") });
        assert_eq!(parts("http://a/b#c?d"), Url { authority: "a", path: "/b", query: None });
        assert_eq!(parts("/x?y"), Url { authority: "localhost", path: "/x", query: Some("y") });
        for bad in ["", "ftp://a/", "http://", "http:///x", "a/b"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_header_goes_before_the_host_of_the_url() {
        let host = |url: &str, value: &str| {
            let headers = vec![wire::Header { name: "HOST".into(), value: value.into() }];
            let request = wire::ExplainRequest { url: url.into(), headers, ..Default::default() };
            explain(&Snapshot::default(), &request).expect("an answer").canonical_host
        };
        for url in ["http://a.example/x", "/x", "https://a.example:1?y"] {
            assert_eq!(host(url, "B.example:80"), "b.example");
        }
    }

    #[test]
    fn a_listener_that_is_not_there_is_told_so() {
        let asked = |listener: &str| {
            let request =
                wire::ExplainRequest { url: "http://a/".into(), listener: listener.into(), ..Default::default() };
            explain(&Snapshot::default(), &request).map_err(|status| status.message().to_owned())
        };
        assert!(asked("").is_ok() && asked("default").is_ok());
        assert_eq!(asked("nope").err().as_deref(), Some("there is no listener \"nope\"; there are: default"));
        assert_eq!(
            asked("defualt").err().as_deref(),
            Some("there is no listener \"defualt\"; did you mean \"default\"?")
        );
    }

    #[test]
    fn hostile_headers_and_methods_are_refused() {
        let snapshot = Snapshot::default();
        let request = |method: &str, name: &str, value: &str| wire::ExplainRequest {
            method: method.into(),
            url: "http://a/".into(),
            headers: vec![wire::Header { name: name.into(), value: value.into() }],
            ..Default::default()
        };
        assert!(explain(&snapshot, &request("GET", "a", "b")).is_ok());
        assert!(explain(&snapshot, &request("", "a", "b")).is_ok());
        for (method, name, value) in [("G T", "a", "b"), ("GET", "a b", "c"), ("GET", "a", "b\r\nc"), ("GET", "", "")] {
            assert!(explain(&snapshot, &request(method, name, value)).is_err(), "{method:?} {name:?} {value:?}");
        }
    }
}
