//! `get`: the configuration as tables, as YAML that can be applied again, or as JSON of the same shape.

use std::fmt::Write as _;

use rustygate_control_plane::manifest;
use rustygate_proto::v1::{
    self as wire, Kind, backend_ref, endpoint_health::State, load_balancing::Policy, path_match, resource, value_match,
};

use crate::{
    cli::{DataFormat, GetArgs, KindOrAll},
    client::Client,
    expiry,
    failure::{Exit, Failure},
    output::{Paint, Screen, Table, escape, unix_ms_now},
};

/// Matches, backends and endpoints of one resource that a table shows.
const PARTS_SHOWN_MAX: usize = 3;

/// Shows what there is. That a name does not exist is an error.
pub(crate) async fn run(screen: Screen, client: &Client, args: GetArgs) -> Result<Exit, Failure> {
    let kinds = kinds(args.kind).into_iter().map(i32::from).collect();
    let request = wire::GetRequest { kinds, names: args.names.clone(), revision: args.revision.unwrap_or_default() };
    let response = client.get(request).await?;
    let text = match args.output {
        DataFormat::Table => {
            let shows_present = args.revision.is_none() && response.resources.iter().any(is_backend);
            let proxies = if shows_present { client.proxies().await?.proxies } else { Vec::new() };
            tables(&response.resources, &proxies, unix_ms_now(), screen.paint)
        }
        DataFormat::Yaml => manifest::to_yaml(&resources(&response)),
        DataFormat::Json => json(&resources(&response))?,
    };
    screen.data(&text)?;
    let exists = |name: &String| {
        let key = |stored: &wire::StoredResource| {
            stored.resource.as_ref().and_then(|found| found.key().map(|key| key.1 == name))
        };
        response.resources.iter().any(|stored| key(stored) == Some(true))
    };
    match args.names.iter().find(|name| !exists(name)) {
        Some(missing) => {
            Err(Failure::new(format!("nothing is called {:?} at revision {}", escape(missing), response.revision)))
        }
        None => {
            if response.resources.is_empty() && args.output == DataFormat::Table {
                screen.note(&format!("nothing at revision {}", response.revision));
            }
            Ok(Exit::Success)
        }
    }
}

fn kinds(kind: KindOrAll) -> Vec<Kind> {
    match kind {
        KindOrAll::Routes => vec![Kind::Route],
        KindOrAll::Backends => vec![Kind::Backend],
        KindOrAll::Plugins => vec![Kind::Plugin],
        KindOrAll::Listeners => vec![Kind::Listener],
        KindOrAll::Certificates => vec![Kind::Certificate],
        KindOrAll::Consumers => vec![Kind::Consumer],
        KindOrAll::Defaults => vec![Kind::Defaults],
        KindOrAll::All => Vec::new(),
    }
}

fn resources(response: &wire::GetResponse) -> Vec<wire::Resource> {
    response.resources.iter().filter_map(|stored| stored.resource.clone()).collect()
}

fn json(resources: &[wire::Resource]) -> Result<String, Failure> {
    let yaml = manifest::to_yaml(resources);
    let value: Option<serde_json::Value> = serde_yaml::from_str(&yaml)
        .map_err(|error| Failure::new(format!("cannot turn the configuration into JSON: {error}")))?;
    Ok(format!("{:#}\n", value.unwrap_or_else(|| serde_json::json!({}))))
}

fn is_backend(stored: &wire::StoredResource) -> bool {
    let kind = stored.resource.as_ref().and_then(|resource| resource.kind.as_ref());
    matches!(kind, Some(resource::Kind::Backend(_)))
}

/// A table for each kind that there is. Backends are shown with what the proxies find of their endpoints.
fn tables(stored: &[wire::StoredResource], proxies: &[wire::Proxy], now_ms: u64, paint: Paint) -> String {
    let mut certificates = Table::new(&["CERTIFICATE", "NAMES", "EXPIRES", "OWNER", "REVISION"]);
    let mut listeners = Table::new(&["LISTENER", "ADDRESS", "TLS", "OWNER", "REVISION"]);
    let mut backends = Table::new(&["BACKEND", "ENDPOINTS", "HEALTH", "POLICY", "OWNER", "REVISION"]);
    let mut plugins = Table::new(&["PLUGIN", "TYPE", "STATE", "OWNER", "REVISION"]);
    let mut defaults = Table::new(&["DEFAULTS", "PLUGINS", "OWNER", "REVISION"]);
    let mut routes = Table::new(&["ROUTE", "HOSTS", "MATCHES", "BACKENDS", "PLUGINS", "OWNER", "REVISION"]);
    let mut consumers = Table::new(&["CONSUMER", "GROUPS", "API KEYS", "USER NAMES", "OWNER", "REVISION"]);
    let mut used = [false; 7];
    for entry in stored {
        let (owner, revision) = (entry.owner.clone(), entry.revision.to_string());
        match entry.resource.as_ref().and_then(|resource| resource.kind.as_ref()) {
            Some(resource::Kind::Listener(listener)) => {
                used[0] = true;
                let tls = listener.tls.iter().flat_map(|tls| tls.certificates.iter().cloned());
                listeners.row([listener.name.clone(), listener.address.clone(), some_of(tls), owner, revision]);
            }
            Some(resource::Kind::Backend(backend)) => {
                used[1] = true;
                backends.row([
                    backend.name.clone(),
                    endpoints(backend),
                    health(backend, proxies),
                    policy(backend).to_owned(),
                    owner,
                    revision,
                ]);
            }
            Some(resource::Kind::Plugin(plugin)) => {
                used[2] = true;
                let state = if plugin.enabled == Some(false) { "off" } else { "on" };
                plugins.row([plugin.name.clone(), plugin.r#type.clone(), state.to_owned(), owner, revision]);
            }
            Some(resource::Kind::Route(route)) => {
                used[3] = true;
                let hosts = some_of(route.hosts.iter().cloned());
                let plugins = some_of(route.rules.iter().flat_map(|rule| rule.plugins.iter().cloned()));
                routes.row([route.name.clone(), hosts, matches(route), targets(route), plugins, owner, revision]);
            }
            Some(resource::Kind::Certificate(certificate)) => {
                used[4] = true;
                let (names, validity) = expiry::of(certificate).unzip();
                let names = some_of(names.into_iter().flatten());
                let expires = validity.map(|validity| expiry::text(validity, now_ms)).unwrap_or_default();
                certificates.row([certificate.name.clone(), names, expires, owner, revision]);
            }
            Some(resource::Kind::Defaults(set)) => {
                used[5] = true;
                defaults.row([set.name.clone(), some_of(set.plugins.iter().cloned()), owner, revision]);
            }
            Some(resource::Kind::Consumer(consumer)) => {
                used[6] = true;
                let groups = some_of(consumer.groups.iter().cloned());
                let keys = consumer.api_keys_sha256.len().to_string();
                let usernames = some_of(consumer.basic_auth.iter().map(|credential| credential.username.clone()));
                consumers.row([consumer.name.clone(), groups, keys, usernames, owner, revision]);
            }
            None => {}
        }
    }
    let tables = [&listeners, &backends, &plugins, &routes, &certificates, &defaults, &consumers].into_iter().zip(used);
    let tables: Vec<String> = tables.filter(|(_, used)| *used).map(|(table, _)| table.render(paint)).collect();
    tables.join("\n")
}

fn endpoints(backend: &wire::Backend) -> String {
    some_of(backend.endpoints.iter().map(|endpoint| match endpoint.weight {
        None | Some(1) => endpoint.url.clone(),
        Some(weight) => format!("{} ({weight})", endpoint.url),
    }))
}

/// What each connected proxy finds: how many endpoints are well, and what is the matter with the others.
fn health(backend: &wire::Backend, proxies: &[wire::Proxy]) -> String {
    let connected = proxies.iter().filter(|proxy| proxy.connected);
    let findings = connected.map(|proxy| {
        let all = backend.endpoints.len();
        let unhealthy: Vec<_> = backend.endpoints.iter().filter_map(|one| trouble(one, backend, proxy)).collect();
        let well = all - unhealthy.len();
        let reasons = if unhealthy.is_empty() { String::new() } else { format!(" ({})", unhealthy.join(", ")) };
        format!("{}: {well}/{all}{reasons}", proxy.node_id)
    });
    some_of(findings)
}

/// "10.0.0.1:8002 down", or `None` if the proxy says nothing of it.
fn trouble(endpoint: &wire::Endpoint, backend: &wire::Backend, proxy: &wire::Proxy) -> Option<String> {
    let authority = authority(&endpoint.url)?;
    let mut unhealthy = proxy.health.iter().flat_map(|report| &report.unhealthy);
    let found = unhealthy
        .find(|health| health.endpoint == authority && (health.backend.is_empty() || health.backend == backend.name))?;
    let state = match found.state() {
        State::Down => "down",
        State::Ejected => "ejected",
        State::Unspecified => "unhealthy",
    };
    Some(format!("{authority} {state}"))
}

/// "host:port" of a URL, as proxies call its endpoint.
fn authority(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or_default().to_ascii_lowercase();
    let bracketless = authority.rsplit(']').next().unwrap_or_default();
    Some(match (bracketless.rsplit_once(':'), scheme.eq_ignore_ascii_case("https")) {
        (Some(_), _) => authority,
        (None, true) => format!("{authority}:443"),
        (None, false) => format!("{authority}:80"),
    })
}

fn policy(backend: &wire::Backend) -> &'static str {
    match backend.load_balancing.as_ref().map(wire::LoadBalancing::policy) {
        None | Some(Policy::Unspecified | Policy::LeastRequest) => "least_request",
        Some(Policy::RoundRobin) => "round_robin",
        Some(Policy::PeakEwma) => "peak_ewma",
        Some(Policy::ConsistentHash) => "consistent_hash",
    }
}

/// What a route matches, in short.
pub(crate) fn matches(route: &wire::Route) -> String {
    if route.rules.iter().all(|rule| rule.matches.is_empty()) {
        return "every request".to_owned();
    }
    some_of(route.rules.iter().flat_map(|rule| &rule.matches).map(condition))
}

/// Where a route sends its requests, in short.
pub(crate) fn targets(route: &wire::Route) -> String {
    some_of(route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| {
        let target = match &backend.target {
            Some(backend_ref::Target::Name(target) | backend_ref::Target::Url(target)) => target.as_str(),
            None => "",
        };
        backend.weight.map_or_else(|| target.to_owned(), |weight| format!("{target} ({weight})"))
    }))
}

fn condition(condition: &wire::Match) -> String {
    let mut text = condition.methods.join("|");
    let path = match condition.path.as_ref().and_then(|path| path.kind.as_ref()) {
        Some(path_match::Kind::Prefix(prefix)) => format!("{}/*", prefix.trim_end_matches('/')),
        Some(path_match::Kind::Exact(exact)) => exact.clone(),
        Some(path_match::Kind::Regex(regex)) => format!("~{regex}"),
        None => "/*".to_owned(),
    };
    let _ = write!(text, "{}{path}", if text.is_empty() { "" } else { " " });
    for (mark, values) in [("", &condition.headers), ("?", &condition.query)] {
        for value in values {
            let _ = match &value.kind {
                Some(value_match::Kind::Exact(exact)) => write!(text, " {mark}{}={exact}", value.name),
                Some(value_match::Kind::Regex(regex)) => write!(text, " {mark}{}~{regex}", value.name),
                None => write!(text, " {mark}{}", value.name),
            };
        }
    }
    text
}

fn some_of(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    let shown = parts.iter().take(PARTS_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match parts.len().saturating_sub(PARTS_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown}, {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(kind: resource::Kind) -> wire::StoredResource {
        wire::StoredResource {
            resource: Some(wire::Resource { kind: Some(kind) }),
            owner: "default".to_owned(),
            revision: 3,
        }
    }

    fn backend_ref(name: &str, weight: Option<u32>) -> wire::BackendRef {
        wire::BackendRef {
            target: Some(backend_ref::Target::Name(name.to_owned())),
            weight,
            ..wire::BackendRef::default()
        }
    }

    #[test]
    fn each_kind_has_its_table() {
        let prefix = |path: &str| Some(wire::PathMatch { kind: Some(path_match::Kind::Prefix(path.to_owned())) });
        let header =
            wire::ValueMatch { name: "x-team".to_owned(), kind: Some(value_match::Kind::Regex("red|blue".to_owned())) };
        let canary = wire::Match {
            path: Some(wire::PathMatch { kind: Some(path_match::Kind::Exact("/v2".to_owned())) }),
            methods: vec!["GET".to_owned(), "HEAD".to_owned()],
            headers: vec![header],
            query: Vec::new(),
        };
        let rules = vec![
            wire::Rule {
                matches: vec![canary],
                backends: vec![backend_ref("users", Some(90)), backend_ref("users-v2", Some(10))],
                plugins: vec!["login".to_owned()],
                ..wire::Rule::default()
            },
            wire::Rule {
                matches: ["/a", "/b/", "/"]
                    .map(|path| wire::Match { path: prefix(path), ..wire::Match::default() })
                    .to_vec(),
                backends: vec![backend_ref("users", None)],
                ..wire::Rule::default()
            },
        ];
        let route = wire::Route { name: "users".to_owned(), rules, ..wire::Route::default() };
        let endpoint = |url: &str, weight| wire::Endpoint { url: url.to_owned(), weight };
        let backend = wire::Backend {
            name: "users".to_owned(),
            endpoints: vec![endpoint("http://10.0.0.1:8002", None), endpoint("http://10.0.0.2:8002", Some(2))],
            ..wire::Backend::default()
        };
        let all = [stored(resource::Kind::Backend(backend)), stored(resource::Kind::Route(route))];
        let unhealthy = |backend: &str, endpoint: &str, state: State| wire::EndpointHealth {
            backend: backend.to_owned(),
            endpoint: endpoint.to_owned(),
            state: state.into(),
            since_unix_ms: 0,
        };
        let proxy = |node_id: &str, connected, unhealthy| wire::Proxy {
            node_id: node_id.to_owned(),
            connected,
            health: Some(wire::HealthReport { unhealthy, omitted: 0 }),
            ..wire::Proxy::default()
        };
        let proxies = [
            proxy("a", true, vec![unhealthy("other", "10.0.0.1:8002", State::Ejected)]),
            proxy("b", true, vec![unhealthy("", "10.0.0.2:8002", State::Down)]),
            proxy("gone", false, vec![unhealthy("", "10.0.0.1:8002", State::Down)]),
        ];
        insta::assert_snapshot!(tables(&all, &proxies, 0, Paint { on: false }), @r"
        BACKEND  ENDPOINTS                                       HEALTH                               POLICY         OWNER    REVISION
        users    http://10.0.0.1:8002, http://10.0.0.2:8002 (2)  a: 2/2, b: 1/2 (10.0.0.2:8002 down)  least_request  default  3

        ROUTE  HOSTS  MATCHES                                           BACKENDS                          PLUGINS  OWNER    REVISION
        users  -      GET|HEAD /v2 x-team~red|blue, /a/*, /b/*, 1 more  users (90), users-v2 (10), users  login    default  3
        ");
    }

    #[test]
    fn endpoints_are_called_as_proxies_call_them() {
        let names = ["http://A.example", "https://a/b", "http://[::1]:81/x", "http://[::1]", "http://10.0.0.1:8"];
        let names = names.map(|url| authority(url).expect("a URL"));
        assert_eq!(names, ["a.example:80", "a:443", "[::1]:81", "[::1]:80", "10.0.0.1:8"]);
    }

    #[test]
    fn nothing_is_no_table() {
        assert_eq!(tables(&[], &[], 0, Paint { on: false }), "");
    }
}
