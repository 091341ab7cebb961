use proptest::prelude::*;
use prost::Message as _;

use rustygate_proto::v1 as wire;

use super::*;
use crate::snapshot::Snapshot;

fn change(route: &wire::Route) -> wire::Change {
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Route(route.clone())) };
    wire::Change {
        kind: wire::Kind::Route.into(),
        name: route.name.clone(),
        resource: Some(resource.encode_to_vec().into()),
    }
}

fn removal(name: &str) -> wire::Change {
    wire::Change { kind: wire::Kind::Route.into(), name: name.to_owned(), resource: None }
}

fn listener(name: &str, port: u16) -> wire::Change {
    let listener =
        wire::Listener { name: name.to_owned(), address: format!("127.0.0.1:{port}"), ..wire::Listener::default() };
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Listener(listener)) };
    wire::Change {
        kind: wire::Kind::Listener.into(),
        name: name.to_owned(),
        resource: Some(resource.encode_to_vec().into()),
    }
}

fn prefix(path: &str) -> wire::PathMatch {
    wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix(path.to_owned())) }
}

fn exact(path: &str) -> wire::PathMatch {
    wire::PathMatch { kind: Some(wire::path_match::Kind::Exact(path.to_owned())) }
}

fn regex(text: &str) -> wire::PathMatch {
    wire::PathMatch { kind: Some(wire::path_match::Kind::Regex(text.to_owned())) }
}

fn on(path: wire::PathMatch) -> wire::Match {
    wire::Match { path: Some(path), ..wire::Match::default() }
}

fn route(name: &str, hosts: &[&str], matches: Vec<wire::Match>) -> wire::Route {
    let target = wire::backend_ref::Target::Url(format!("http://{name}"));
    wire::Route {
        name: name.to_owned(),
        hosts: hosts.iter().map(ToString::to_string).collect(),
        rules: vec![wire::Rule {
            matches,
            backends: vec![wire::BackendRef { target: Some(target), ..wire::BackendRef::default() }],
            ..wire::Rule::default()
        }],
        ..wire::Route::default()
    }
}

fn snapshot(routes: &[wire::Route]) -> Snapshot {
    let changes: Vec<_> = routes.iter().map(change).collect();
    Snapshot::default().compile(1, &changes).expect("valid")
}

fn view<'a>(host: &'a str, path: &'a str, fields: &'a Fields) -> RequestView<'a> {
    RequestView { listener: "", method: "GET", host, path, query: None, fields }
}

fn found(snapshot: &Snapshot, host: &str, path: &str) -> Option<(String, usize)> {
    let matched = snapshot.router.find(&view(host, path, &Fields::new()))?;
    Some((matched.rule.route.to_string(), matched.prefix_len))
}

fn name(snapshot: &Snapshot, host: &str, path: &str) -> String {
    found(snapshot, host, path).map(|(name, _)| name).unwrap_or_default()
}

#[test]
fn prefixes_are_whole_segments_and_the_longest_wins() {
    let snapshot = snapshot(&[
        route("root", &[], vec![]),
        route("api", &[], vec![on(prefix("/api"))]),
        route("users", &[], vec![on(prefix("/api/users/"))]),
    ]);
    assert_eq!(found(&snapshot, "a", "/api"), Some(("api".into(), 4)));
    assert_eq!(found(&snapshot, "a", "/api/"), Some(("api".into(), 4)));
    assert_eq!(found(&snapshot, "a", "/api/x/y/z"), Some(("api".into(), 4)));
    assert_eq!(found(&snapshot, "a", "/apis"), Some(("root".into(), 0)));
    assert_eq!(found(&snapshot, "a", "/api../admin"), Some(("root".into(), 0)));
    assert_eq!(found(&snapshot, "a", "/api/users"), Some(("users".into(), 10)));
    assert_eq!(found(&snapshot, "", "/"), Some(("root".into(), 0)));
}

#[test]
fn exact_goes_before_prefix_before_regex() {
    let snapshot = snapshot(&[
        route("exact", &[], vec![on(exact("/a/b"))]),
        route("prefix", &[], vec![on(prefix("/a/b"))]),
        route("regex", &[], vec![on(regex("/a/.*|/z.*"))]),
        route("unslashed", &[], vec![on(exact("/q"))]),
    ]);
    assert_eq!(name(&snapshot, "", "/a/b"), "exact");
    assert_eq!(name(&snapshot, "", "/a/b/"), "prefix");
    assert_eq!(found(&snapshot, "", "/a/c"), Some(("regex".into(), 0)));
    assert_eq!(name(&snapshot, "", "/zz"), "regex");
    assert_eq!(name(&snapshot, "", "/x/a/c"), "");
    assert_eq!(name(&snapshot, "", "/q/"), "");
}

#[test]
fn exact_hosts_go_before_the_longest_wildcard_before_any() {
    let snapshot = snapshot(&[
        route("any", &[], vec![]),
        route("com", &["*.com"], vec![on(prefix("/c"))]),
        route("wide", &["*.example.com"], vec![on(prefix("/w"))]),
        route("exact", &["api.example.com", "[::1]"], vec![on(prefix("/e"))]),
    ]);
    assert_eq!(name(&snapshot, "api.example.com", "/e"), "exact");
    assert_eq!(name(&snapshot, "[::1]", "/e"), "exact");
    assert_eq!(name(&snapshot, "a.b.example.com", "/w/x"), "wide");
    assert_eq!(name(&snapshot, "example.com", "/w"), "any");
    assert_eq!(name(&snapshot, "example.com", "/c"), "com");
    // A host without a match for the path gives way to the next.
    assert_eq!(name(&snapshot, "api.example.com", "/w"), "wide");
    assert_eq!(name(&snapshot, "api.example.com", "/c"), "com");
    assert_eq!(name(&snapshot, "api.example.com", "/x"), "any");
    assert_eq!(name(&snapshot, "", "/e"), "any");
}

#[test]
fn one_among_ten_thousand_hosts_is_found_in_every_spelling() {
    let routes: Vec<_> =
        (0..10_000).map(|n| route(&format!("r{n}"), &[&format!("admin{n}.example.com")], vec![])).collect();
    for count in [1, 100, 101, 10_000] {
        let snapshot = snapshot(&routes[..count]);
        for raw in ["ADMIN0.Example.COM", "admin0.example.com.", "admin0.example.com:443"] {
            let host = crate::canonical::host(raw.as_bytes()).expect("valid");
            assert_eq!(name(&snapshot, &host.name, "/x"), "r0", "{raw} of {count}");
        }
        assert_eq!(name(&snapshot, "admin.example.com", "/x"), "");
    }
}

#[test]
fn more_conditions_go_first_then_the_name() {
    let header = |name: &str| wire::ValueMatch {
        name: name.to_owned(),
        kind: Some(wire::value_match::Kind::Exact("1".to_owned())),
    };
    let with = |methods: &[&str], headers: &[&str], query: &[&str]| wire::Match {
        path: Some(prefix("/p")),
        methods: methods.iter().map(ToString::to_string).collect(),
        headers: headers.iter().map(|name| header(name)).collect(),
        query: query.iter().map(|name| header(name)).collect(),
    };
    let mut routes = vec![
        route("a-plain", &[], vec![with(&[], &[], &[])]),
        route("b-query", &[], vec![with(&[], &[], &["q", "r"])]),
        route("c-header", &[], vec![with(&[], &["h"], &[])]),
        route("d-headers", &[], vec![with(&[], &["H", "i"], &[])]),
        route("e-method", &[], vec![with(&["GET"], &[], &[])]),
    ];
    let mut fields = Fields::new();
    fields.append("H", b"1");
    fields.append("I", b"1");
    let request = RequestView { query: Some("q=1&r=1"), ..view("", "/p", &fields) };
    while let Some(expected) = routes.last().map(|route| route.name.clone()) {
        let snapshot = snapshot(&routes);
        let matched = snapshot.router.find(&request).expect("a match");
        assert_eq!(*matched.rule.route, *expected);
        routes.pop();
    }
}

#[test]
fn a_route_is_only_for_its_listeners() {
    let mut inner = route("inner", &[], vec![on(prefix("/a"))]);
    inner.listeners = vec!["inner".to_owned()];
    let outer = route("outer", &[], vec![]);
    let changes = [listener("inner", 1), listener("outer", 2), change(&inner), change(&outer)];
    let snapshot = Snapshot::default().compile(1, &changes).expect("valid");
    let fields = Fields::new();
    let by = |listener| {
        let request = RequestView { listener, ..view("", "/a", &fields) };
        snapshot.router.find(&request).map(|matched| matched.rule.route.to_string())
    };
    assert_eq!(by("inner").as_deref(), Some("inner"));
    assert_eq!(by("outer").as_deref(), Some("outer"));
    assert_eq!(by("").as_deref(), Some("inner"));
}

#[test]
fn very_deep_prefixes_are_matched() {
    let deep = "/a".repeat(100);
    let snapshot = snapshot(&[route("deep", &[], vec![on(prefix(&deep))]), route("root", &[], vec![])]);
    assert_eq!(found(&snapshot, "", &format!("{deep}/b")), Some(("deep".into(), 200)));
    assert_eq!(name(&snapshot, "", &"/a".repeat(99)), "root");
    assert_eq!(name(&snapshot, "", &format!("{deep}b")), "root");
}

#[test]
fn explain_names_the_first_failed_condition_of_each_and_the_winner() {
    let mut post = on(prefix("/a"));
    post.methods = vec!["POST".to_owned(), "PUT".to_owned()];
    let mut debug = on(prefix("/a"));
    debug.query =
        vec![wire::ValueMatch { name: "debug".to_owned(), kind: Some(wire::value_match::Kind::Exact("1".to_owned())) }];
    let snapshot = snapshot(&[
        route("elsewhere", &["b.com"], vec![]),
        route("exact", &[], vec![on(exact("/a"))]),
        route("post", &[], vec![post]),
        route("debug", &[], vec![debug]),
        route("root", &[], vec![]),
        route("winner", &["*.a.com"], vec![on(prefix("/a"))]),
    ]);
    let fields = Fields::new();
    let request = RequestView { query: Some("debug=2"), ..view("x.a.com", "/a/b", &fields) };
    let Explained { candidates, omitted } = snapshot.router.explain(&request, 100);
    assert_eq!(omitted, 0);
    let told: Vec<_> = candidates.iter().map(|it| (it.route.as_str(), it.failed.as_str())).collect();
    assert_eq!(
        told,
        [
            ("elsewhere", "host is \"x.a.com\", not b.com"),
            ("winner", ""),
            ("exact", "path is \"/a/b\", not \"/a\""),
            ("post", "method is GET, not POST or PUT"),
            ("debug", "query parameter debug is \"2\", not \"1\""),
            ("root", ""),
        ]
    );
    let winner = candidates.iter().find(|candidate| candidate.winner).expect("a winner");
    assert_eq!(winner.route, "winner");
    assert_eq!(winner.conditions, "host *.a.com, path prefix /a");
    assert_eq!(winner.action, "forward to winner:80, path becomes /b");
    let few = snapshot.router.explain(&request, 3);
    assert_eq!(few.candidates.iter().map(|it| it.route.as_str()).collect::<Vec<_>>(), ["winner", "debug", "root"]);
    assert_eq!(few.omitted, 3);
    assert!(snapshot.router.explain(&request, 0).candidates[0].winner);
}

// From here on: small alphabets, so that routes and requests collide often.

fn any_path_match() -> impl Strategy<Value = wire::PathMatch> {
    prop_oneof![
        4 => prop_oneof![3 => Just("/a"), 2 => Just("/"), 1 => Just("/a/b"), 1 => Just("/b/a/a")].prop_map(prefix),
        2 => "(/[ab]){1,2}/?".prop_map(|path| exact(&path)),
        1 => prop_oneof![Just("/a.*"), Just("/(a|b)/.*"), Just(".*/a"), Just("/a|/b")].prop_map(regex),
    ]
}

fn any_value() -> impl Strategy<Value = wire::ValueMatch> {
    let kind = prop_oneof![
        2 => prop_oneof![3 => Just("x"), 1 => Just("y")]
            .prop_map(|text| wire::value_match::Kind::Exact(text.to_owned())),
        1 => prop_oneof![Just("x|y"), Just("x+"), Just(".*")]
            .prop_map(|text| wire::value_match::Kind::Regex(text.to_owned())),
    ];
    ("[hi]", kind).prop_map(|(name, kind)| wire::ValueMatch { name, kind: Some(kind) })
}

fn any_match() -> impl Strategy<Value = wire::Match> {
    (
        prop::option::weighted(0.9, any_path_match()),
        prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec("GET|PUT", 1..3)],
        prop_oneof![Just(vec![]), prop::collection::vec(any_value(), 1..4)],
        prop_oneof![Just(vec![]), prop::collection::vec(any_value(), 1..4)],
    )
        .prop_map(|(path, methods, headers, query)| wire::Match { path, methods, headers, query })
}

fn any_route() -> impl Strategy<Value = wire::Route> {
    let host = prop_oneof![Just("a.com"), Just("b.a.com"), Just("*.a.com"), Just("*.com"), Just("*.b.a.com")];
    let rules = prop::collection::vec(prop::collection::vec(any_match(), 0..4), 1..3);
    (
        "[a-l]",
        prop_oneof![Just(BTreeSet::new()), prop::collection::btree_set(host, 1..3)],
        prop_oneof![3 => Just(vec![]), 1 => "inner|outer".prop_map(|name| vec![name])],
        rules,
    )
        .prop_map(|(name, hosts, listeners, rules)| {
            let mut route = route(&name, &hosts.into_iter().collect::<Vec<_>>(), vec![]);
            let rule = route.rules.pop().unwrap_or_default();
            route.rules = rules.into_iter().map(|matches| wire::Rule { matches, ..rule.clone() }).collect();
            route.listeners = listeners;
            route
        })
}

#[derive(Clone, Debug)]
struct Request {
    listener: String,
    method: String,
    host: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
}

fn any_request() -> impl Strategy<Value = Request> {
    (
        prop_oneof![Just(""), Just("inner"), Just("outer")],
        prop_oneof![Just("GET"), Just("PUT"), Just("get")],
        prop_oneof![Just("a.com"), Just("b.a.com"), Just("c.b.a.com"), Just("x.com"), Just("com"), Just("")],
        prop_oneof![Just("/".to_owned()), Just("/a/b".to_owned()), "(/[ab]){1,4}/?"],
        prop_oneof![
            2 => Just(Some("h=x&i=%78".to_owned())),
            1 => prop::option::of("(([hi]=[xy]|h=%78|%69=xx|h)&?){0,3}"),
        ],
        prop_oneof![
            2 => Just(vec![("H".to_owned(), "x".to_owned()), ("i".to_owned(), "x".to_owned())]),
            1 => prop::collection::vec(("[hHiI]", "x|y|xx"), 0..3),
        ],
    )
        .prop_map(|(listener, method, host, path, query, headers)| Request {
            listener: listener.to_owned(),
            method: method.to_owned(),
            host: host.to_owned(),
            path,
            query,
            headers,
        })
}

/// What the tables find and what the slow reference finds.
fn both(snapshot: &Snapshot, request: &Request) -> [Option<(String, u32)>; 2] {
    let mut fields = Fields::new();
    request.headers.iter().for_each(|(name, value)| fields.append(name, value.as_bytes()));
    let view = RequestView {
        listener: &request.listener,
        method: &request.method,
        host: &request.host,
        path: &request.path,
        query: request.query.as_deref(),
        fields: &fields,
    };
    let found = snapshot.router.find(&view).map(|matched| (matched.rule.route.to_string(), matched.rule.index));
    let winner = explain::winner(snapshot.router.tables.routes(), &view);
    [found, winner.map(|(rule, _)| (rule.route.to_string(), rule.index))]
}

fn listeners() -> Snapshot {
    Snapshot::default().compile(1, &[listener("inner", 1), listener("outer", 2)]).expect("valid")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_tables_find_what_the_reference_finds(
        routes in prop::collection::vec(any_route(), 0..12),
        requests in prop::collection::vec(any_request(), 1..24),
    ) {
        let mut snapshot = listeners();
        for route in &routes {
            // Routes that clash with those before them are left out.
            if let Ok(next) = snapshot.compile(1, &[change(route)]) {
                snapshot = next;
            }
        }
        for request in &requests {
            let [found, winner] = both(&snapshot, request);
            prop_assert_eq!(found, winner, "{:?}", request);
        }
    }

    #[test]
    fn changes_one_by_one_come_to_the_same_as_all_at_once(
        edits in prop::collection::vec((any_route(), prop::bool::weighted(0.25)), 1..24),
        requests in prop::collection::vec(any_request(), 1..12),
    ) {
        let mut snapshot = listeners();
        let mut routes = std::collections::BTreeMap::new();
        for (route, remove) in edits {
            let edit = if remove { removal(&route.name) } else { change(&route) };
            let before = snapshot.clone();
            if let Ok(next) = snapshot.compile(snapshot.revision + 1, std::slice::from_ref(&edit)) {
                snapshot = next;
                if remove {
                    routes.remove(&route.name);
                } else {
                    routes.insert(route.name.clone(), route);
                }
            }
            // Whatever was made from it, the old one is as it was.
            for request in &requests {
                let [found, winner] = both(&before, request);
                prop_assert_eq!(found, winner);
            }
        }
        let all: Vec<_> = routes.values().map(change).collect();
        let at_once = listeners().compile(9, &all).expect("valid one by one");
        prop_assert_eq!(snapshot.route_count(), routes.len());
        for request in &requests {
            let [found, winner] = both(&snapshot, request);
            prop_assert_eq!(&found, &winner);
            prop_assert_eq!(&found, &both(&at_once, request)[0]);
        }
        let names: Vec<_> = routes.keys().map(|name| removal(name)).collect();
        let emptied = snapshot.compile(10, &names).expect("valid");
        prop_assert!(emptied.router.tables.is_clean(), "{:?}", emptied.router.tables);
        prop_assert_eq!(emptied.backends().count(), 0);
    }
}
