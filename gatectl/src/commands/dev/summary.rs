//! What `dev` prints once it serves: what is where, and a request to try.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use rustygate_proto::v1::{self as wire, path_match, resource, value_match};

use crate::{
    commands::get,
    output::{Paint, escape},
};

const ROUTES_SHOWN_MAX: usize = 10;

/// What is where.
#[derive(Debug)]
pub(super) struct Places {
    /// The proxy's, by name.
    pub(super) listeners: Vec<(String, SocketAddr)>,
    /// The proxy's metrics.
    pub(super) admin: SocketAddr,
    /// The control plane's API.
    pub(super) grpc: SocketAddr,
    /// The control plane's HTTP.
    pub(super) http: SocketAddr,
    /// Where the configuration is kept.
    pub(super) database: PathBuf,
    /// What was applied.
    pub(super) manifest: String,
    /// Whether the backends are the demo's.
    pub(super) demo: bool,
}

/// The whole text.
pub(super) fn render(places: &Places, stored: &[wire::StoredResource], paint: Paint) -> String {
    let routes: Vec<&wire::Route> = stored
        .iter()
        .filter_map(|stored| match stored.resource.as_ref()?.kind.as_ref()? {
            resource::Kind::Route(route) => Some(route),
            _ => None,
        })
        .collect();
    let mut text = format!("{}\n\n", paint.bold("RustyGate serves. Ctrl-C ends it."));
    let mut line = |what: &str, place: &str| {
        let _ = writeln!(text, "  {what:18}  {}", escape(place));
    };
    for (name, address) in &places.listeners {
        line("proxy", &format!("http://{address} ({name})"));
    }
    line("proxy's metrics", &format!("http://{}/metrics", places.admin));
    line("control plane gRPC", &format!("http://{}", places.grpc));
    line("control plane HTTP", &format!("http://{}", places.http));
    line("database", &places.database.display().to_string());
    line("manifest", &places.manifest);
    for route in routes.iter().take(ROUTES_SHOWN_MAX) {
        line("route", &format!("{}: {} -> {}", route.name, get::matches(route), get::targets(route)));
    }
    if let Some(more) = routes.len().checked_sub(ROUTES_SHOWN_MAX).filter(|more| *more > 0) {
        line("", &format!("{more} more; `gatectl get routes` shows them"));
    }
    text.push('\n');
    if let Some(request) = request(&routes, &places.listeners) {
        let _ = writeln!(text, "  try  {}", paint.green(&request));
    }
    if !places.demo {
        text.push_str(
            "       (a 502 says that nothing listens where the route goes: `python3 -m http.server PORT` will do)\n",
        );
    }
    text
}

/// The simplest request that a route would get.
fn request(routes: &[&wire::Route], listeners: &[(String, SocketAddr)]) -> Option<String> {
    routes.iter().find_map(|route| {
        let listens = |name: &String| route.listeners.is_empty() || route.listeners.contains(name);
        let (_, address) = listeners.iter().find(|(name, _)| listens(name))?;
        let condition = route.rules.iter().flat_map(|rule| &rule.matches).find_map(arguments)?;
        let host = match route.hosts.first().map(|host| host.replacen('*', "www", 1)) {
            Some(host) => format!(" -H {}", quoted(&format!("host: {host}"))),
            None => String::new(),
        };
        Some(format!("curl -i{host}{} {}", condition.0, quoted(&format!("http://{address}{}", condition.1))))
    })
}

/// curl's options and the path for a match without regexes.
fn arguments(condition: &wire::Match) -> Option<(String, String)> {
    let mut path = match condition.path.as_ref().and_then(|path| path.kind.as_ref()) {
        Some(path_match::Kind::Prefix(path) | path_match::Kind::Exact(path)) => path.clone(),
        Some(path_match::Kind::Regex(_)) => return None,
        None => "/".to_owned(),
    };
    let mut options = String::new();
    match condition.methods.first().map(String::as_str) {
        None | Some("GET") => {}
        Some(method) => {
            let _ = write!(options, " -X {}", quoted(method));
        }
    }
    for header in &condition.headers {
        let Some(value_match::Kind::Exact(value)) = &header.kind else { return None };
        let _ = write!(options, " -H {}", quoted(&format!("{}: {value}", header.name)));
    }
    for (index, parameter) in condition.query.iter().enumerate() {
        let Some(value_match::Kind::Exact(value)) = &parameter.kind else { return None };
        let _ = write!(path, "{}{}={value}", if index == 0 { '?' } else { '&' }, parameter.name);
    }
    Some((options, path))
}

/// For a shell, and only if it needs to be.
fn quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-._~/:[]%".contains(character);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, condition: wire::Match) -> wire::Route {
        let rule = wire::Rule { matches: vec![condition], ..wire::Rule::default() };
        wire::Route { name: name.to_owned(), rules: vec![rule], ..wire::Route::default() }
    }

    fn path(kind: path_match::Kind) -> Option<wire::PathMatch> {
        Some(wire::PathMatch { kind: Some(kind) })
    }

    fn listeners() -> Vec<(String, SocketAddr)> {
        vec![("web".to_owned(), ([127, 0, 0, 1], 8080).into()), ("inside".to_owned(), ([127, 0, 0, 1], 9090).into())]
    }

    #[test]
    fn the_request_to_try_meets_every_condition_of_its_route() {
        let regex = route(
            "regex",
            wire::Match { path: path(path_match::Kind::Regex("/a.*".to_owned())), ..wire::Match::default() },
        );
        let exact = |name: &str, value: &str| wire::ValueMatch {
            name: name.to_owned(),
            kind: Some(value_match::Kind::Exact(value.to_owned())),
        };
        let condition = wire::Match {
            path: path(path_match::Kind::Prefix("/api".to_owned())),
            methods: vec!["POST".to_owned()],
            headers: vec![exact("x-team", "it's red")],
            query: vec![exact("a", "1"), exact("b", "2")],
        };
        let mut all = route("all", condition);
        all.hosts = vec!["*.example.com".to_owned()];
        all.listeners = vec!["inside".to_owned()];
        insta::assert_snapshot!(
            request(&[&regex, &all], &listeners()).expect("a request"),
            @r"curl -i -H 'host: www.example.com' -X POST -H 'x-team: it'\''s red' 'http://127.0.0.1:9090/api?a=1&b=2'"
        );
    }

    #[test]
    fn no_route_no_request() {
        assert_eq!(request(&[], &listeners()), None);
    }

    #[test]
    fn what_is_where_fits_a_screen() {
        let mut users = route(
            "users",
            wire::Match { path: path(path_match::Kind::Prefix("/api/users".to_owned())), ..wire::Match::default() },
        );
        users.rules[0].backends = vec![wire::BackendRef {
            target: Some(wire::backend_ref::Target::Name("users".to_owned())),
            ..wire::BackendRef::default()
        }];
        let stored = [wire::StoredResource {
            resource: Some(wire::Resource { kind: Some(resource::Kind::Route(users)) }),
            ..wire::StoredResource::default()
        }];
        let places = Places {
            listeners: listeners().split_off(1),
            admin: ([127, 0, 0, 1], 8081).into(),
            grpc: ([127, 0, 0, 1], 8082).into(),
            http: ([127, 0, 0, 1], 8083).into(),
            database: ".rustygate/dev.db".into(),
            manifest: "config/default.yaml".to_owned(),
            demo: true,
        };
        insta::assert_snapshot!(render(&places, &stored, Paint { on: false }), @r"
        RustyGate serves. Ctrl-C ends it.

          proxy               http://127.0.0.1:9090 (inside)
          proxy's metrics     http://127.0.0.1:8081/metrics
          control plane gRPC  http://127.0.0.1:8082
          control plane HTTP  http://127.0.0.1:8083
          database            .rustygate/dev.db
          manifest            config/default.yaml
          route               users: /api/users/* -> users

          try  curl -i http://127.0.0.1:9090/api/users
        ");
    }
}
