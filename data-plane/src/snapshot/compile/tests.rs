use proptest::prelude::*;
use prost::Message as _;
use wire::resource::Kind as Resource;

mod plugins;
mod tls;

use super::*;
use crate::{fields::Fields, plugin::Plugin, route::RequestView};

fn change(resource: Resource) -> wire::Change {
    let resource = wire::Resource { kind: Some(resource) };
    let (kind, name) = resource.key().expect("a kind");
    let (kind, name) = (kind.into(), name.to_owned());
    wire::Change { kind, name, resource: Some(resource.encode_to_vec().into()) }
}

fn removal(kind: wire::Kind, name: &str) -> wire::Change {
    wire::Change { kind: kind.into(), name: name.to_owned(), resource: None }
}

fn listener(name: &str, address: &str) -> wire::Change {
    change(Resource::Listener(wire::Listener {
        name: name.to_owned(),
        address: address.to_owned(),
        ..wire::Listener::default()
    }))
}

fn backend_message(name: &str, urls: &[&str]) -> wire::Backend {
    let endpoints = urls.iter().map(|url| wire::Endpoint { url: (*url).to_owned(), weight: None });
    wire::Backend { name: name.to_owned(), endpoints: endpoints.collect(), ..wire::Backend::default() }
}

fn backend(name: &str, urls: &[&str]) -> wire::Change {
    change(Resource::Backend(backend_message(name, urls)))
}

fn plugin(name: &str, kind: &str, config: &str) -> wire::Change {
    change(Resource::Plugin(wire::Plugin {
        name: name.to_owned(),
        r#type: kind.to_owned(),
        config_json: config.to_owned(),
        ..wire::Plugin::default()
    }))
}

fn to(name: &str) -> wire::BackendRef {
    wire::BackendRef { target: Some(wire::backend_ref::Target::Name(name.to_owned())), ..wire::BackendRef::default() }
}

fn to_url(url: &str) -> wire::BackendRef {
    wire::BackendRef { target: Some(wire::backend_ref::Target::Url(url.to_owned())), ..wire::BackendRef::default() }
}

fn path(kind: wire::path_match::Kind) -> wire::Match {
    wire::Match { path: Some(wire::PathMatch { kind: Some(kind) }), ..wire::Match::default() }
}

fn prefix(path_text: &str) -> wire::Match {
    path(wire::path_match::Kind::Prefix(path_text.to_owned()))
}

fn route_message(name: &str, matched: wire::Match, target: wire::BackendRef) -> wire::Route {
    let rule = wire::Rule { matches: vec![matched], backends: vec![target], ..wire::Rule::default() };
    wire::Route { name: name.to_owned(), rules: vec![rule], ..wire::Route::default() }
}

fn route(name: &str, path_text: &str, target: wire::BackendRef) -> wire::Change {
    change(Resource::Route(route_message(name, prefix(path_text), target)))
}

fn start(changes: &[wire::Change]) -> Snapshot {
    Snapshot::default().compile(1, changes).expect("valid")
}

fn faults(snapshot: &Snapshot, changes: &[wire::Change]) -> Vec<wire::Fault> {
    snapshot.compile(2, changes).expect_err("faulty")
}

/// (code, name, field) of each.
fn told(faults: &[wire::Fault]) -> Vec<(&str, &str, &str)> {
    faults.iter().map(|fault| (fault.code.as_str(), fault.name.as_str(), fault.field.as_str())).collect()
}

fn rule(snapshot: &Snapshot, path: &str) -> Option<Arc<crate::snapshot::Rule>> {
    let fields = Fields::new();
    let request = RequestView { listener: "", method: "GET", host: "", path, query: None, fields: &fields };
    snapshot.router.find(&request).map(|matched| Arc::clone(matched.rule))
}

/// The faults of one route that has one rule, made faulty by `edit`.
fn route_faults(edit: impl FnOnce(&mut wire::Route)) -> Vec<wire::Fault> {
    let mut message = route_message("r", prefix("/"), to_url("http://a"));
    edit(&mut message);
    faults(&Snapshot::default(), &[change(Resource::Route(message))])
}

fn one_route_fault(code: &str, field: &str, edit: impl FnOnce(&mut wire::Route)) -> wire::Fault {
    let found = route_faults(edit);
    assert_eq!(told(&found), [(code, "r", field)], "{found:?}");
    found.into_iter().next().expect("one")
}

#[test]
fn a_rule_gets_the_defaults() {
    let snapshot = start(&[route("r", "/a/", to_url("http://LOCALHOST:8001/base/"))]);
    assert_eq!((snapshot.revision, snapshot.route_count()), (1, 1));
    let rule = rule(&snapshot, "/a/b").expect("a match");
    assert_eq!((&*rule.route, rule.index, rule.strip_prefix, rule.weight_total), ("r", 0, true, 1));
    assert_eq!(rule.timeouts, crate::snapshot::Timeouts::default());
    let backend = &rule.backends[0].backend;
    assert_eq!((&*backend.name, &backend.schedule[..]), ("localhost:8001", &[0][..]));
    assert_eq!(&*backend.endpoints[0].base_path, "/base");
    assert!(Snapshot::default().route_count() == 0 && Snapshot::default().backends().count() == 0);
}

#[test]
fn inline_backends_are_shared_and_go_with_their_last_route() {
    let urls = ["http://a:1", "http://A:1/", "http://a:1/base"];
    let routes: Vec<_> = (0..3).map(|n| route(&format!("r{n}"), &format!("/{n}"), to_url(urls[n]))).collect();
    let snapshot = start(&routes);
    assert_eq!(snapshot.backends().count(), 2);
    let backend = |path| Arc::clone(&rule(&snapshot, path).expect("a match").backends[0].backend);
    assert!(Arc::ptr_eq(&backend("/0"), &backend("/1")));
    assert_eq!(backend("/0").id, backend("/2").id);
    let snapshot = snapshot.compile(2, &[removal(wire::Kind::Route, "r2"), routes[0].clone()]).expect("valid");
    assert_eq!(snapshot.backends().count(), 1);
    let none = [removal(wire::Kind::Route, "r0"), removal(wire::Kind::Route, "r1")];
    assert_eq!(snapshot.compile(3, &none).expect("valid").backends().count(), 0);
}

#[test]
fn a_changed_backend_or_plugin_reaches_unchanged_routes_and_old_snapshots_stay() {
    let mut tagged = route_message("r", prefix("/a"), to("users"));
    tagged.rules[0].backends[0].plugins = vec!["p".to_owned()];
    let old = start(&[
        backend("users", &["http://a:1"]),
        plugin("p", "respond", r#"{"status": 201}"#),
        change(Resource::Route(tagged)),
        route("inline", "/i", to_url("http://users")),
    ]);
    let new = old
        .compile(2, &[backend("users", &["http://b:2", "http://c:3"]), plugin("p", "respond", r#"{"status": 202}"#)])
        .expect("valid");
    for (snapshot, endpoints, status) in [(&old, 1, 201), (&new, 2, 202)] {
        let rule = rule(snapshot, "/a").expect("a match");
        assert_eq!(rule.backends[0].backend.endpoints.len(), endpoints);
        let config = format!(r#"{{"status": {status}}}"#);
        let (name, r#type) = ("p".to_owned(), "respond".to_owned());
        let message = wire::Plugin { name, r#type, config_json: config, ..wire::Plugin::default() };
        let expected = Plugin::compile(&message).expect("valid").identity;
        let chain: Vec<_> = rule.backends[0].chain.iter().map(|plugin| plugin.identity).collect();
        assert_eq!((chain, rule.backends[0].plugins[0].identity), (vec![expected], expected));
    }
    let id = |snapshot| rule(snapshot, "/a").expect("a match").backends[0].backend.id;
    assert_eq!(id(&old), id(&new));
    assert!(Arc::ptr_eq(&rule(&old, "/i").expect("a match"), &rule(&new, "/i").expect("a match")));
}

#[test]
fn names_that_nothing_has_are_told_with_the_closest() {
    let mut message = route_message("r", prefix("/"), to("user"));
    message.listeners = vec!["wbe".to_owned()];
    message.rules[0].plugins = vec!["none".to_owned()];
    let changes = [backend("users", &[]), listener("web", "127.0.0.1:1"), change(Resource::Route(message))];
    let found = faults(&Snapshot::default(), &changes);
    assert_eq!(
        told(&found),
        [
            (fault::DANGLING, "r", "listeners[0]"),
            (fault::DANGLING, "r", "rules[0].plugins[0]"),
            (fault::DANGLING, "r", "rules[0].backends[0].name"),
        ]
    );
    assert_eq!(found[2].message, "there is no backend \"user\"");
    assert_eq!(
        found.iter().map(|it| it.hint.as_str()).collect::<Vec<_>>(),
        ["did you mean \"web\"?", "", "did you mean \"users\"?"]
    );
}

#[test]
fn a_faulty_plugin_or_backend_is_not_also_dangling() {
    let mut message = route_message("r", prefix("/"), to("b"));
    message.rules[0].plugins = vec!["p".to_owned()];
    let changes = [plugin("p", "quantum", ""), backend("b", &["nowhere"]), change(Resource::Route(message))];
    let expected = [(fault::UNKNOWN_PLUGIN_TYPE, "p", "type"), (fault::BAD_URL, "b", "endpoints[0].url")];
    assert_eq!(told(&faults(&Snapshot::default(), &changes)), expected);
    // Nor when it was there before.
    let good = [plugin("p", "respond", ""), backend("b", &["http://a"]), changes[2].clone()];
    assert_eq!(told(&faults(&start(&good), &changes[..2])), expected);
}

#[test]
fn what_is_still_used_is_not_removed() {
    let mut changes = vec![backend("b", &[]), listener("l", "127.0.0.1:1"), plugin("p", "respond", "")];
    for n in 0..7 {
        let mut message = route_message(&format!("r{n}"), prefix(&format!("/{n}")), to("b"));
        message.rules[0].plugins = vec!["p".to_owned()];
        message.listeners = vec!["l".to_owned()];
        changes.push(change(Resource::Route(message)));
    }
    let snapshot = start(&changes);
    let removals = [
        removal(wire::Kind::Backend, "b"),
        removal(wire::Kind::Listener, "l"),
        removal(wire::Kind::Plugin, "p"),
        removal(wire::Kind::Backend, "never there"),
    ];
    let found = faults(&snapshot, &removals);
    assert_eq!(
        told(&found),
        [(fault::STILL_USED, "l", ""), (fault::STILL_USED, "b", ""), (fault::STILL_USED, "p", "")]
    );
    assert_eq!(
        found[1].message,
        "backend \"b\" is still used by routes \"r0\", \"r1\", \"r2\", \"r3\", \"r4\" and 2 more"
    );
    let mut all = removals.to_vec();
    all.extend((0..7).map(|n| removal(wire::Kind::Route, &format!("r{n}"))));
    let emptied = snapshot.compile(3, &all).expect("nothing uses them any more");
    assert!(emptied.route_count() == 0 && emptied.listeners.is_empty() && emptied.backends().count() == 0);
}

#[test]
fn two_routes_with_the_same_match_are_a_fault_of_the_later_by_name() {
    let found = faults(
        &Snapshot::default(),
        &[
            route("b", "/x/", to_url("http://a")),
            route("a", "/x", to_url("http://b")),
            route("c", "/y", to_url("http://a")),
        ],
    );
    assert_eq!(told(&found), [(fault::SAME_MATCH, "b", "rules[0].matches[0]")]);
    assert_eq!(found[0].message, "this match asks for the same as rules[0].matches[0] of route \"a\"");
    // If one of them is there already, of the one that comes.
    let snapshot = start(&[route("b", "/x", to_url("http://a"))]);
    let found = faults(&snapshot, &[route("a", "/x", to_url("http://a"))]);
    assert_eq!(told(&found), [(fault::SAME_MATCH, "a", "rules[0].matches[0]")]);
    // And none if the other goes with the same changes.
    let swap = [route("a", "/x", to_url("http://a")), route("b", "/y", to_url("http://a"))];
    assert!(snapshot.compile(2, &swap).is_ok());
}

#[test]
fn the_same_match_is_one_on_the_same_host_and_listener() {
    let message = |name: &str, hosts: &[&str], listeners: &[&str]| wire::Route {
        hosts: hosts.iter().map(ToString::to_string).collect(),
        listeners: listeners.iter().map(ToString::to_string).collect(),
        ..route_message(name, path(wire::path_match::Kind::Regex("/a.*".to_owned())), to_url("http://a"))
    };
    let both = |left: wire::Route, right: wire::Route| {
        let listeners = [listener("l", "127.0.0.1:1"), listener("m", "127.0.0.1:2")];
        let routes = [change(Resource::Route(left)), change(Resource::Route(right))];
        Snapshot::default().compile(1, &[&listeners[..], &routes[..]].concat()).is_ok()
    };
    assert!(both(message("a", &["x.com"], &[]), message("b", &["y.com"], &[])));
    assert!(both(message("a", &["x.com"], &[]), message("b", &["*.x.com"], &[])));
    assert!(!both(message("a", &["x.com", "y.com"], &[]), message("b", &["y.com"], &[])));
    assert!(both(message("a", &[], &["l"]), message("b", &[], &["m"])));
    assert!(!both(message("a", &[], &["l", "m"]), message("b", &[], &["m"])));
    assert!(!both(message("a", &[], &["l"]), message("b", &[], &[])));
    let mut other = message("b", &[], &[]);
    other.rules[0].matches[0].methods = vec!["GET".to_owned()];
    assert!(both(message("a", &[], &[]), other));
}

#[test]
fn the_same_match_twice_in_a_route_is_a_fault() {
    let fault = one_route_fault(fault::SAME_MATCH, "rules[0].matches[2]", |route| {
        route.rules[0].matches = vec![prefix("/a"), prefix("/b"), prefix("/a/")];
    });
    assert_eq!(fault.message, "this match asks for the same as rules[0].matches[0]");
}

#[test]
fn paths_that_no_request_has_are_refused_with_what_to_write() {
    let hint = |path: &str| {
        one_route_fault(fault::BAD_PATH, "rules[0].matches[0].path.prefix", |route| {
            route.rules[0].matches = vec![prefix(path)];
        })
        .hint
    };
    assert_eq!(hint("/a/../b"), "write \"/b\"");
    assert_eq!(hint("/%41"), "write \"/A\"");
    assert_eq!(hint("a"), "write \"/a\"");
    assert_eq!(hint("/a b"), "");
    one_route_fault(fault::BAD_PATH, "rules[0].matches[0].path.exact", |route| {
        route.rules[0].matches = vec![path(wire::path_match::Kind::Exact("/a?b".to_owned()))];
    });
    one_route_fault(fault::OUT_OF_BOUNDS, "rules[0].matches[0].path.prefix", |route| {
        route.rules[0].matches = vec![prefix(&"/a".repeat(2000))];
    });
    for text in ["(", r"(\w{500}){500}", "a)|(b"] {
        one_route_fault(fault::BAD_REGEX, "rules[0].matches[0].path.regex", |route| {
            route.rules[0].matches = vec![path(wire::path_match::Kind::Regex(text.to_owned()))];
        });
    }
}

#[test]
fn hosts_that_no_request_has_are_refused_with_what_to_write() {
    let hint =
        |host: &str| one_route_fault(fault::BAD_HOST, "hosts[0]", |route| route.hosts = vec![host.to_owned()]).hint;
    assert_eq!(hint("API.example.com."), "write \"api.example.com\"");
    assert_eq!(hint("*.A.com"), "write \"*.a.com\"");
    assert_eq!(hint("a.com:80"), "write \"a.com\"");
    assert_eq!(hint("*"), "leave out the hosts to match any");
    assert_eq!(hint("a.*.com"), "a star may only stand first, as in \"*.example.com\"");
    for host in ["", "*.", "*.0.0.1", "*.[::1]", "a..b", "a/b", "*a.com"] {
        hint(host);
    }
    one_route_fault(fault::BAD_HOST, "hosts[1]", |route| route.hosts = vec!["a".to_owned(), "a".to_owned()]);
}

#[test]
fn conditions_that_no_request_meets_are_refused() {
    let value =
        |name: &str, kind: wire::value_match::Kind| wire::ValueMatch { name: name.to_owned(), kind: Some(kind) };
    let exact = |text: &str| wire::value_match::Kind::Exact(text.to_owned());
    let regex = |text: &str| wire::value_match::Kind::Regex(text.to_owned());
    let found = route_faults(|route| {
        let matched = &mut route.rules[0].matches[0];
        matched.methods = vec!["G T".to_owned(), "get".to_owned(), "PURGE".to_owned()];
        matched.headers = vec![value("a b", exact("1")), value("c", exact("1\n")), value("d", regex("("))];
        matched.headers.push(wire::ValueMatch { name: "e".to_owned(), kind: None });
        matched.query = vec![value("", exact("1")), value("f", regex("("))];
    });
    let at = "rules[0].matches[0]";
    let expected = [
        (fault::BAD_CONDITION, format!("{at}.methods[0]")),
        (fault::BAD_CONDITION, format!("{at}.methods[1]")),
        (fault::BAD_CONDITION, format!("{at}.headers[0].name")),
        (fault::BAD_CONDITION, format!("{at}.headers[1].exact")),
        (fault::BAD_REGEX, format!("{at}.headers[2].regex")),
        (fault::UNREADABLE, format!("{at}.headers[3]")),
        (fault::BAD_CONDITION, format!("{at}.query[0].name")),
        (fault::BAD_REGEX, format!("{at}.query[1].regex")),
    ];
    let found: Vec<_> = found.iter().map(|fault| (fault.code.as_str(), fault.field.clone())).collect();
    assert_eq!(found, expected);
}

#[test]
fn numbers_beyond_their_bounds_are_refused() {
    let found = route_faults(|route| {
        let rule = &mut route.rules[0];
        rule.backends[0].weight = Some(1001);
        rule.timeouts = Some(wire::Timeouts {
            connect_ms: Some(0),
            per_try_ms: Some(6000),
            total_ms: None,
            idle_ms: Some(86_400_001),
        });
        rule.retry = Some(wire::Retry {
            attempts: Some(11),
            on_connect: true,
            on_statuses: vec![503, 399, 65_939],
            ..wire::Retry::default()
        });
    });
    let fields: Vec<_> = found.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "rules[0].backends[0].weight",
            "rules[0].timeouts.connect_ms",
            "rules[0].timeouts.idle_ms",
            "rules[0].timeouts.per_try_ms",
            "rules[0].retry.attempts",
            "rules[0].retry.on_statuses[1]",
            "rules[0].retry.on_statuses[2]",
        ]
    );
    assert!(found.iter().all(|fault| fault.code == fault::OUT_OF_BOUNDS));
}

#[test]
fn too_many_of_anything_is_refused() {
    let hosts = (0..101).map(|n| format!("h{n}")).collect();
    one_route_fault(fault::OUT_OF_BOUNDS, "hosts", |route| route.hosts = hosts);
    one_route_fault(fault::OUT_OF_BOUNDS, "rules[0].matches", |route| {
        route.rules[0].matches = (0..65).map(|n| prefix(&format!("/{n}"))).collect();
    });
    one_route_fault(fault::OUT_OF_BOUNDS, "rules[0].backends", |route| {
        route.rules[0].backends = vec![to_url("http://a"); 65];
    });
    one_route_fault(fault::OUT_OF_BOUNDS, "rules", |route| {
        route.rules =
            (0..65).map(|n| wire::Rule { matches: vec![prefix(&format!("/{n}"))], ..route.rules[0].clone() }).collect();
    });
    let urls = vec!["http://a"; 1001];
    assert_eq!(told(&faults(&Snapshot::default(), &[backend("b", &urls)])), [(fault::OUT_OF_BOUNDS, "b", "endpoints")]);
    one_route_fault(fault::MISSING, "rules", |route| route.rules.clear());
    one_route_fault(fault::MISSING, "rules[0].backends", |route| route.rules[0].backends.clear());
}

#[test]
fn matches_told_apart_only_by_conditions_are_bounded() {
    let routes: Vec<_> = (0..=MATCHES_PER_PATH_MAX)
        .map(|n| {
            let mut message = route_message(&format!("r{n:04}"), prefix("/"), to_url("http://a"));
            message.rules[0].matches[0].methods = vec![format!("M{n}")];
            change(Resource::Route(message))
        })
        .collect();
    assert!(Snapshot::default().compile(1, &routes[1..]).is_ok());
    let found = faults(&Snapshot::default(), &routes);
    assert_eq!(told(&found), [(fault::OUT_OF_BOUNDS, "r1000", "rules[0].matches[0]")]);
}

#[test]
fn regexes_that_are_too_large_together_are_refused() {
    let routes: Vec<_> = (0..60)
        .map(|n| {
            let kind = wire::path_match::Kind::Regex(format!("/{n}/[a-z]{{8000}}"));
            change(Resource::Route(route_message(&format!("r{n}"), path(kind), to_url("http://a"))))
        })
        .collect();
    let few = start(&routes[..2]);
    let found = faults(&few, &routes[2..]);
    assert_eq!(found.len(), 58);
    assert!(
        found.iter().all(|fault| fault.code == fault::BAD_REGEX && fault.message.contains("together")),
        "{found:?}"
    );
}

#[test]
fn regexes_of_all_routes_have_a_bound_and_those_that_go_make_room() {
    // Of many hosts, so that none has too many.
    let large = |n: usize| {
        let kind = wire::path_match::Kind::Regex(format!("/{n}/[a-z]{{6000}}"));
        let mut route = route_message(&format!("r{n:03}"), path(kind), to_url("http://a"));
        route.hosts = vec![format!("h{n}.test")];
        change(Resource::Route(route))
    };
    let removed = |n: usize| wire::Change { kind: wire::Kind::Route.into(), name: format!("r{n:03}"), resource: None };
    let small = route_message("small", path(wire::path_match::Kind::Regex("/(a|b)".to_owned())), to_url("http://a"));
    let counted = |changes: &[wire::Change]| start(changes).compiled.regex_bytes;
    assert_eq!(counted(&[change(Resource::Route(small))]), 4 << 10);
    assert_eq!(counted(&[large(0)]), 1 << 20);
    // As if there were others already.
    let mut full = Snapshot::default();
    full.compiled.regex_bytes = REGEXES_BYTES_MAX - (3 << 20);
    let full = full.compile(1, &[large(0), large(1), large(2)]).expect("just fits");
    let found = faults(&full, &[large(3), large(4), large(5)]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].code == fault::BAD_REGEX && found[0].message.contains("all routes together"), "{found:?}");
    let next = full.compile(2, &[removed(0), large(3)]).expect("one has made room for the other");
    assert_eq!(faults(&next, &[large(4)]).len(), 1);
    next.compile(3, &[large(1)]).expect("the same again takes no more");
}

#[test]
fn listeners_are_sorted_and_their_addresses_checked() {
    let snapshot = start(&[listener("b", "127.0.0.1:1"), listener("a", "[::1]:1")]);
    assert_eq!(snapshot.listeners.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["a", "b"]);
    for address in ["", "8080", ":", ":0", ":65536", "localhost:8080", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536"] {
        let found = faults(&snapshot, &[listener("c", address)]);
        assert_eq!(told(&found), [(fault::BAD_LISTENER_ADDRESS, "c", "address")], "{address}");
    }
    let found = faults(&snapshot, &[listener("a", "127.0.0.1:1")]);
    assert_eq!(told(&found), [(fault::DUPLICATE_LISTENER_ADDRESS, "a", "address")]);
    let swapped = snapshot.compile(2, &[listener("a", "127.0.0.1:1"), listener("b", "[::1]:1")]).expect("valid");
    assert_eq!(swapped.listeners[0].address.to_string(), "127.0.0.1:1");
    let at = |snapshot: &Snapshot, address: &str| {
        snapshot.listener_at(address.parse().expect("an address")).map(str::to_owned)
    };
    for (snapshot, names) in [(&snapshot, ["b", "a"]), (&swapped, ["a", "b"])] {
        assert_eq!(["127.0.0.1:1", "[::1]:1"].map(|address| at(snapshot, address).expect("a listener")), names);
        assert_eq!(["127.0.0.1:2", "127.0.0.2:1", "[::]:1"].map(|address| at(snapshot, address)), [None, None, None]);
        assert_eq!(["a", "b", "", "c"].map(|name| snapshot.listener(name).is_some()), [true, true, false, false]);
    }
    let removed = wire::Change { kind: wire::Kind::Listener.into(), name: "a".to_owned(), resource: None };
    let fewer = swapped.compile(3, &[removed]).expect("valid");
    assert_eq!((at(&fewer, "127.0.0.1:1"), at(&fewer, "[::1]:1").as_deref()), (None, Some("b")));
    assert_eq!(start(&[listener("a", ":8443")]).listeners[0].address.to_string(), "[::]:8443");
}

#[test]
fn backends_are_checked_whole() {
    let mut message = backend_message("b", &["http://a", "ftp://a", "http://a/b/../c"]);
    message.endpoints[0].weight = Some(1001);
    message.load_balancing = Some(wire::LoadBalancing { policy: 7, ..wire::LoadBalancing::default() });
    message.health_check = Some(wire::HealthCheck {
        path: "/a/./b".to_owned(),
        interval_ms: Some(99),
        timeout_ms: Some(60_001),
        healthy_threshold: Some(0),
        unhealthy_threshold: Some(11),
        ..wire::HealthCheck::default()
    });
    let found = faults(&Snapshot::default(), &[change(Resource::Backend(message))]);
    let fields: Vec<_> = found.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "endpoints[0].weight",
            "endpoints[1].url",
            "endpoints[2].url",
            "load_balancing.policy",
            "health_check.path",
            "health_check.interval_ms",
            "health_check.timeout_ms",
            "health_check.healthy_threshold",
            "health_check.unhealthy_threshold",
        ]
    );
    assert_eq!(found[2].hint, "write \"/c\"");
}

#[test]
fn a_resource_must_be_what_its_change_says() {
    let good = backend("b", &["http://a"]);
    let told_of = |change: wire::Change| {
        let found = faults(&Snapshot::default(), &[change]);
        (found[0].code.clone(), found.len())
    };
    let unreadable = (fault::UNREADABLE.to_owned(), 1);
    assert_eq!(told_of(wire::Change { name: "c".to_owned(), ..good.clone() }), unreadable);
    assert_eq!(told_of(wire::Change { kind: wire::Kind::Route.into(), ..good.clone() }), unreadable);
    assert_eq!(told_of(wire::Change { kind: 0, ..good.clone() }), unreadable);
    assert_eq!(told_of(wire::Change { kind: 99, ..good.clone() }), unreadable);
    assert_eq!(told_of(wire::Change { resource: Some(Vec::new().into()), ..good.clone() }), unreadable);
    assert_eq!(told_of(wire::Change { resource: Some(vec![0xff; 9].into()), ..good }), unreadable);
    let bad_name = (fault::BAD_VALUE.to_owned(), 1);
    for name in [String::new(), "a\r\nb".to_owned(), " a".to_owned(), "a\u{85}".to_owned(), "a".repeat(254)] {
        assert_eq!(told_of(backend(&name, &[])), bad_name, "{name:?}");
    }
}

#[test]
fn of_several_changes_of_one_resource_the_last_counts() {
    let snapshot = start(&[backend("b", &[]), backend("c", &[]), backend("b", &["http://a"])]);
    let endpoints = snapshot.backends().find(|it| &*it.name == "b").map(|it| it.endpoints.len());
    assert_eq!(endpoints, Some(1));
    let gone = snapshot.compile(2, &[backend("c", &["http://a"]), removal(wire::Kind::Backend, "c")]).expect("valid");
    assert_eq!(gone.backends().count(), 1);
}

#[test]
fn a_whole_report_has_the_faults_of_all_changes() {
    let found = faults(
        &Snapshot::default(),
        &[
            route("r2", "nope", to("gone")),
            listener("l", "x"),
            backend("b", &["x"]),
            plugin("p", "x", ""),
            route("r1", "/", to_url("x")),
        ],
    );
    let codes: Vec<_> = found.iter().map(|fault| (fault.code.as_str(), fault.name.as_str())).collect();
    assert_eq!(
        codes,
        [
            (fault::UNKNOWN_PLUGIN_TYPE, "p"),
            (fault::BAD_LISTENER_ADDRESS, "l"),
            (fault::BAD_URL, "b"),
            (fault::BAD_URL, "r1"),
            (fault::BAD_PATH, "r2"),
            (fault::DANGLING, "r2"),
        ]
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        changes in prop::collection::vec(
            (-1..8_i32, "[ab]?", prop::option::of(prop::collection::vec(any::<u8>(), 0..60))), 0..6),
    ) {
        let changes: Vec<_> = changes.into_iter()
            .map(|(kind, name, resource)| wire::Change { kind, name, resource: resource.map(Into::into) })
            .collect();
        let _ = Snapshot::default().compile(1, &changes);
    }

    #[test]
    fn damaged_resources_do_not_make_it_panic(
        damage in prop::collection::vec((0..400_usize, any::<u8>()), 1..6),
        which in 0..5_usize,
        cut in prop::option::of(0..400_usize),
    ) {
        let mut changes = everything();
        let whole = start(&changes);
        let mut bytes = changes[which].resource.take().expect("all are upserts").to_vec();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        changes[which].resource = Some(bytes.into());
        for from in [&whole, &Snapshot::default()] {
            if let Ok(next) = from.compile(2, &changes) {
                let _ = rule(&next, "/a/b");
                let _ = next.compile(3, &everything());
            }
        }
    }
}

/// One of each, with every field set.
fn everything() -> Vec<wire::Change> {
    let mut backend = backend_message("users", &["http://a:1/base", "http://[::1]:2"]);
    backend.load_balancing = Some(wire::LoadBalancing {
        policy: wire::load_balancing::Policy::ConsistentHash.into(),
        hash_on: Some(wire::HashOn { kind: Some(wire::hash_on::Kind::Header("x-user".to_owned())) }),
        balance_factor: Some(150),
        sticky: Some(wire::Sticky { cookie: "c".to_owned(), ttl_ms: Some(60_000), ..wire::Sticky::default() }),
        slow_start_ms: Some(1),
    });
    backend.health_check = Some(wire::HealthCheck {
        path: "/healthz?a=b".to_owned(),
        host: Some("h".to_owned()),
        statuses: vec![200, 204],
        headers: vec![wire::HeaderValue { name: "a".to_owned(), value: "b".to_owned() }],
        ..wire::HealthCheck::default()
    });
    backend.outlier_detection =
        Some(wire::OutlierDetection { consecutive_5xx: Some(5), ..wire::OutlierDetection::default() });
    backend.limits = Some(wire::Limits { requests: Some(5), pending: Some(0), ..wire::Limits::default() });
    backend.retry_budget = Some(wire::RetryBudget { percent: Some(10), min_per_second: Some(0) });
    backend.health_check = Some(wire::HealthCheck {
        path: "/healthz?x=1".to_owned(),
        interval_ms: Some(100),
        ..wire::HealthCheck::default()
    });
    let value = |name: &str, kind| wire::ValueMatch { name: name.to_owned(), kind: Some(kind) };
    let exact = path(wire::path_match::Kind::Exact("/a/b".to_owned()));
    let regex = path(wire::path_match::Kind::Regex("/a/(b|c).*".to_owned()));
    let conditions = wire::Match {
        methods: vec!["GET".to_owned()],
        headers: vec![value("x-a", wire::value_match::Kind::Regex("x|y".to_owned()))],
        query: vec![value("q", wire::value_match::Kind::Exact("1".to_owned()))],
        ..prefix("/a")
    };
    let rule = wire::Rule {
        matches: vec![exact, regex, conditions],
        backends: vec![
            to("users"),
            wire::BackendRef { weight: Some(0), plugins: vec!["p".to_owned()], ..to_url("http://b") },
        ],
        strip_prefix: Some(false),
        timeouts: Some(wire::Timeouts {
            connect_ms: Some(1),
            per_try_ms: Some(2),
            total_ms: Some(3),
            idle_ms: Some(4),
        }),
        retry: Some(wire::Retry {
            attempts: Some(2),
            on_connect: true,
            on_statuses: vec![503],
            ..wire::Retry::default()
        }),
        plugins: vec!["p".to_owned()],
        sticky_split: Some(wire::HashOn { kind: Some(wire::hash_on::Kind::Cookie("c".to_owned())) }),
    };
    let route = wire::Route {
        name: "r".to_owned(),
        listeners: vec!["web".to_owned()],
        hosts: vec!["*.example.com".to_owned(), "example.com".to_owned()],
        rules: vec![rule],
    };
    vec![
        listener("web", "127.0.0.1:8080"),
        change(Resource::Backend(backend)),
        plugin("p", "headers", r#"{"request":{"set":{"x-a":"1"}}}"#),
        change(Resource::Route(route)),
        self::route("other", "/", to("users")),
    ]
}

#[test]
fn what_balances_and_guards_a_backend_is_checked_whole() {
    use wire::{hash_on, health_check, load_balancing::Policy};
    let mut bad = backend_message("b", &["http://a", "http://c"]);
    bad.load_balancing = Some(wire::LoadBalancing {
        policy: Policy::ConsistentHash.into(),
        hash_on: Some(wire::HashOn { kind: Some(hash_on::Kind::Header("a b".to_owned())) }),
        balance_factor: Some(99),
        sticky: Some(wire::Sticky {
            cookie: "a=b".to_owned(),
            ttl_ms: Some(1),
            path: Some("/;".to_owned()),
            same_site: 3,
            ..wire::Sticky::default()
        }),
        slow_start_ms: Some(3_600_001),
    });
    bad.health_check = Some(wire::HealthCheck {
        r#type: health_check::Type::Http.into(),
        path: "/".to_owned(),
        host: Some("a/b".to_owned()),
        statuses: vec![200, 100],
        headers: [("a", "b\r\nc: d"), ("Host", "x")]
            .map(|(name, value)| wire::HeaderValue { name: name.to_owned(), value: value.to_owned() })
            .to_vec(),
        service: Some("s".to_owned()),
        ..wire::HealthCheck::default()
    });
    bad.outlier_detection = Some(wire::OutlierDetection {
        consecutive_5xx: Some(1001),
        consecutive_gateway_errors: Some(1001),
        base_ejection_time_ms: Some(0),
        max_ejection_time_ms: Some(0),
        max_ejected_percent: Some(0),
    });
    bad.limits = Some(wire::Limits { requests: Some(0), pending: Some(2_000_000), ..wire::Limits::default() });
    bad.retry_budget = Some(wire::RetryBudget { percent: Some(101), min_per_second: Some(10_001) });
    bad.panic_threshold = Some(101);
    let found = faults(&Snapshot::default(), &[change(Resource::Backend(bad))]);
    let fields: Vec<_> = found.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "load_balancing.balance_factor",
            "load_balancing.hash_on.header",
            "load_balancing.sticky.cookie",
            "load_balancing.sticky.path",
            "load_balancing.sticky.ttl_ms",
            "load_balancing.sticky.same_site",
            "load_balancing.slow_start_ms",
            "health_check.service",
            "health_check.host",
            "health_check.statuses[1]",
            "health_check.headers[0]",
            "health_check.headers[1]",
            "outlier_detection.consecutive_5xx",
            "outlier_detection.consecutive_gateway_errors",
            "outlier_detection.base_ejection_time_ms",
            "outlier_detection.max_ejection_time_ms",
            "outlier_detection.max_ejected_percent",
            "limits.requests",
            "limits.pending",
            "retry_budget.percent",
            "retry_budget.min_per_second",
            "panic_threshold",
        ]
    );

    let mut bad = backend_message("b", &["http://a"]);
    bad.load_balancing = Some(wire::LoadBalancing { balance_factor: Some(125), ..wire::LoadBalancing::default() });
    bad.health_check = Some(wire::HealthCheck {
        r#type: health_check::Type::Tcp.into(),
        path: "/".to_owned(),
        ..wire::HealthCheck::default()
    });
    bad.limits = Some(wire::Limits { pending: Some(1), ..wire::Limits::default() });
    let found = faults(&Snapshot::default(), &[change(Resource::Backend(bad.clone()))]);
    let fields: Vec<_> = found.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["load_balancing.balance_factor", "health_check.path", "limits"]);
    bad.load_balancing =
        Some(wire::LoadBalancing { policy: Policy::ConsistentHash.into(), ..wire::LoadBalancing::default() });
    let found = faults(&Snapshot::default(), &[change(Resource::Backend(bad))]);
    assert_eq!(found[0].field, "load_balancing.hash_on");
}
