use super::*;
use crate::snapshot::Id;

fn set(name: &str) -> wire::Change {
    plugin(name, "headers", &format!(r#"{{"request": {{"set": {{"x": "{name}"}}}}}}"#))
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn listener_with(name: &str, port: u16, plugins: &[&str]) -> wire::Change {
    let (name, address) = (name.to_owned(), format!("127.0.0.1:{port}"));
    change(Resource::Listener(wire::Listener { name, address, tls: None, plugins: names(plugins) }))
}

fn backend_with(plugins: &[&str]) -> wire::Change {
    change(Resource::Backend(wire::Backend { plugins: names(plugins), ..backend_message("b", &["http://a:1"]) }))
}

fn defaults(plugins: &[&str]) -> wire::Change {
    change(Resource::Defaults(wire::Defaults { name: DEFAULTS.to_owned(), plugins: names(plugins) }))
}

fn route_with(rule: &[&str], own: &[&str]) -> wire::Change {
    let mut message = route_message("r", prefix("/"), to("b"));
    message.rules[0].plugins = names(rule);
    message.rules[0].backends[0].plugins = names(own);
    change(Resource::Route(message))
}

/// The chain of the one route for a listener.
fn chain(snapshot: &Snapshot, listener: &str) -> Vec<String> {
    let rule = rule(snapshot, "/").expect("a match");
    let backend = &rule.backends[0];
    backend.chain(backend.listener_index(listener)).iter().map(|plugin| plugin.name.to_string()).collect()
}

#[test]
fn of_each_type_the_most_specific_place_has_its_plugins_run() {
    let all: Vec<_> = ["d", "l", "b", "r", "o", "o2"].map(set).into();
    let answer = plugin("answer", "respond", "");
    let place = |defaults_of: &[&str], listener: &[&str], backend: &[&str], rule: &[&str], own: &[&str]| {
        let mut changes = all.clone();
        changes.extend([
            answer.clone(),
            defaults(defaults_of),
            listener_with("web", 1, listener),
            listener_with("plain", 2, &[]),
            backend_with(backend),
            route_with(rule, own),
        ]);
        start(&changes)
    };
    let snapshot = place(&["d"], &["l"], &["b"], &["r"], &["o", "o2"]);
    assert_eq!(chain(&snapshot, "web"), ["o", "o2"]);
    let snapshot = place(&["d"], &["l"], &["b"], &["r"], &[]);
    assert_eq!(chain(&snapshot, "web"), ["r"]);
    let snapshot = place(&["d"], &["l"], &["b"], &[], &[]);
    assert_eq!(chain(&snapshot, "web"), ["b"]);
    let snapshot = place(&["d"], &["l"], &[], &[], &[]);
    assert_eq!((chain(&snapshot, "web"), chain(&snapshot, "plain")), (names(&["l"]), names(&["d"])));
    // One type takes nothing of another's place, whatever the order of the lists.
    let snapshot = place(&["answer", "d"], &[], &[], &["r"], &[]);
    let mut both = chain(&snapshot, "web");
    both.sort();
    assert_eq!(both, ["answer", "r"]);
    // Nobody pays for what is not there.
    let bare = place(&[], &[], &[], &[], &[]);
    assert!(rule(&bare, "/").expect("a match").backends[0].chain.is_empty());
}

#[test]
fn a_plugin_that_is_off_keeps_those_of_less_specific_places_away() {
    let off = wire::Plugin {
        name: "off".to_owned(),
        r#type: "headers".to_owned(),
        enabled: Some(false),
        ..wire::Plugin::default()
    };
    let changes =
        [change(Resource::Plugin(off)), set("d"), defaults(&["d"]), backend_with(&[]), route_with(&["off"], &[])];
    let snapshot = start(&changes);
    assert_eq!(chain(&snapshot, ""), [""; 0]);
    let snapshot = snapshot.compile(2, &[route_with(&[], &[])]).expect("valid");
    assert_eq!(chain(&snapshot, ""), ["d"]);
}

#[test]
fn what_a_push_changes_of_any_place_reaches_routes_that_it_does_not_touch() {
    let first = start(&[
        set("d"),
        set("l"),
        set("b"),
        listener_with("web", 1, &[]),
        listener_with("plain", 2, &[]),
        backend_with(&[]),
        route_with(&[], &[]),
    ]);
    assert_eq!(chain(&first, "web"), [""; 0]);
    let with_defaults = first.compile(2, &[defaults(&["d"])]).expect("valid");
    assert_eq!((chain(&with_defaults, "web"), chain(&first, "web")), (names(&["d"]), names(&[])));
    let with_listener = with_defaults.compile(3, &[listener_with("web", 1, &["l"])]).expect("valid");
    assert_eq!((chain(&with_listener, "web"), chain(&with_listener, "plain")), (names(&["l"]), names(&["d"])));
    let with_backend = with_listener.compile(4, &[backend_with(&["b"])]).expect("valid");
    assert_eq!(chain(&with_backend, "web"), ["b"]);
    // A changed plugin is new wherever it runs.
    let changed = plugin("d", "headers", r#"{"request": {"set": {"x": "new"}}}"#);
    let id = |snapshot: &Snapshot| {
        let rule = rule(snapshot, "/").expect("a match");
        rule.backends[0].chain.iter().map(|plugin| plugin.identity).collect::<Vec<_>>()
    };
    let renewed = with_listener.compile(5, &[changed]).expect("valid");
    let (before, after) = (id(&with_listener), id(&renewed));
    assert!(before[0].id == after[0].id && before[0].config != after[0].config);
    // And all of it can go again, the users first or together.
    let none = renewed
        .compile(
            6,
            &[
                removal(wire::Kind::Defaults, DEFAULTS),
                removal(wire::Kind::Plugin, "d"),
                removal(wire::Kind::Plugin, "l"),
                listener_with("web", 1, &[]),
            ],
        )
        .expect("valid");
    assert_eq!((chain(&none, "web"), chain(&none, "plain")), (names(&[]), names(&[])));
}

#[test]
fn a_plugin_is_not_removed_while_any_place_has_it() {
    let snapshot = start(&[
        set("d"),
        set("l"),
        set("b"),
        defaults(&["d"]),
        listener_with("web", 1, &["l"]),
        backend_with(&["b"]),
        route_with(&[], &[]),
    ]);
    let found = faults(&snapshot, &["d", "l", "b"].map(|name| removal(wire::Kind::Plugin, name)));
    let messages: Vec<_> = found.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "plugin \"b\" is still used by backend \"b\"",
            "plugin \"d\" is still used by the defaults",
            "plugin \"l\" is still used by listener \"web\""
        ]
    );
    assert!(found.iter().all(|fault| fault.code == fault::STILL_USED));
}

#[test]
fn names_of_plugins_that_are_not_there_are_told_with_their_place() {
    let changes = [
        set("limit"),
        defaults(&["limt"]),
        listener_with("web", 1, &["limit", "x"]),
        backend_with(&["y"]),
        route_with(&[], &["z"]),
    ];
    let found = faults(&Snapshot::default(), &changes);
    let mut told = told(&found);
    told.sort_unstable();
    assert_eq!(
        told,
        [
            (fault::DANGLING, "b", "plugins[0]"),
            (fault::DANGLING, DEFAULTS, "plugins[0]"),
            (fault::DANGLING, "r", "rules[0].backends[0].plugins[0]"),
            (fault::DANGLING, "web", "plugins[1]"),
        ],
        "the route is not told of the broken backend, only of what is its own"
    );
    assert!(found.iter().any(|fault| fault.hint == "did you mean \"limit\"?"));
    let other = change(Resource::Defaults(wire::Defaults { name: "other".to_owned(), plugins: Vec::new() }));
    assert_eq!(faults(&Snapshot::default(), &[other])[0].code, fault::BAD_VALUE);
}

fn auth(name: &str, backend: &str) -> wire::Change {
    plugin(name, "forward_auth", &format!(r#"{{"backend": "{backend}"}}"#))
}

#[test]
fn backends_that_plugins_name_are_there_and_are_what_they_are_now() {
    let service = |url: &str| change(Resource::Backend(backend_message("service", &[url])));
    let found = faults(&Snapshot::default(), &[auth("a", "servce"), service("http://s:1")]);
    assert_eq!(told(&found), [(fault::DANGLING, "a", "config.backend")]);
    assert_eq!(found[0].message, "there is no backend \"servce\"");
    assert_eq!(found[0].hint, "did you mean \"service\"?");
    let off = wire::Plugin {
        name: "off".to_owned(),
        r#type: "forward_auth".to_owned(),
        config_json: r#"{"backend": "x"}"#.to_owned(),
        enabled: Some(false),
        ..wire::Plugin::default()
    };
    assert_eq!(faults(&Snapshot::default(), &[change(Resource::Plugin(off))]).len(), 1, "off, but wrong");
    // What is at fault itself is told of once.
    let broken = change(Resource::Backend(backend_message("service", &["ftp://s"])));
    assert_eq!(told(&faults(&Snapshot::default(), &[auth("a", "service"), broken.clone()])).len(), 1);

    let first = start(&[auth("a", "service"), auth("b", "service"), service("http://s:1")]);
    let ports = |snapshot: &Snapshot| {
        let plugins = snapshot.plugins().filter_map(|plugin| snapshot.backend(plugin.backend()?));
        plugins.map(|backend| backend.endpoints[0].port).collect::<Vec<_>>()
    };
    let second = first.compile(2, &[service("http://s:2")]).expect("valid");
    assert_eq!((ports(&first), ports(&second)), (vec![1, 1], vec![2, 2]));
    let gone = removal(wire::Kind::Backend, "service");
    let found = faults(&second, std::slice::from_ref(&gone));
    assert_eq!(told(&found), [(fault::STILL_USED, "service", "")]);
    assert_eq!(found[0].message, "backend \"service\" is still used by plugin \"a\", plugin \"b\"");
    assert_eq!(told(&faults(&second, &[broken])).len(), 1);
    let found = faults(&second, &[gone.clone(), auth("a", "service"), removal(wire::Kind::Plugin, "b")]);
    assert_eq!(told(&found), [(fault::DANGLING, "a", "config.backend")]);
    let other = change(Resource::Backend(backend_message("other", &["http://o:3"])));
    let third = second.compile(3, &[gone, auth("a", "other"), removal(wire::Kind::Plugin, "b"), other]).expect("valid");
    assert_eq!(ports(&third), [3]);
}

#[test]
fn a_plugin_that_changes_its_type_runs_as_what_it_is_now() {
    let first = start(&[plugin("p", "request_id", ""), backend_with(&[]), route_with(&["p"], &[])]);
    let types = |snapshot: &Snapshot| {
        let rule = rule(snapshot, "/").expect("a match");
        rule.backends[0].chain.iter().map(|plugin| plugin.spec.name).collect::<Vec<_>>()
    };
    assert_eq!(types(&first), ["request_id"]);
    let second = first.compile(2, &[set("p")]).expect("valid");
    assert_eq!((types(&second), types(&first)), (vec!["headers"], vec!["request_id"]));
}

/// Of each listener and of none: what runs, as it is configured now.
fn all_chains(snapshot: &Snapshot) -> Vec<Vec<Id>> {
    let Some(rule) = rule(snapshot, "/") else { return Vec::new() };
    let of = |backend: &crate::snapshot::WeightedBackend, listener: &str| {
        backend.chain(backend.listener_index(listener)).iter().map(|plugin| plugin.identity.config).collect()
    };
    let chains = rule.backends.iter().flat_map(|backend| ["", "web", "plain"].map(|listener| of(backend, listener)));
    chains.collect()
}

/// Three plugins of two types, each on, off or changed.
fn some_plugin() -> impl Strategy<Value = wire::Change> {
    ("[abc]", 0..2_u32, any::<bool>()).prop_map(|(name, value, enabled)| {
        let (kind, config) = match name.as_str() {
            "a" => ("respond", format!(r#"{{"status": 20{value}}}"#)),
            _ => ("headers", format!(r#"{{"request": {{"set": {{"x": "{value}"}}}}}}"#)),
        };
        let (r#type, enabled) = (kind.to_owned(), (!enabled).then_some(false));
        change(Resource::Plugin(wire::Plugin { name, r#type, config_json: config, enabled, secrets: Vec::new() }))
    })
}

fn some_place() -> impl Strategy<Value = wire::Change> {
    let list = prop::collection::btree_set("[abc]", 0..3);
    (0..6_u32, list.clone(), list).prop_map(|(place, one, other)| {
        let as_strs = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
        let (one, other) = (as_strs(&one), as_strs(&other));
        let (one, other): (Vec<&str>, Vec<&str>) =
            (one.iter().map(String::as_str).collect(), other.iter().map(String::as_str).collect());
        match place {
            0 => defaults(&one),
            1 => listener_with("web", 1, &one),
            2 => listener_with("plain", 2, &one),
            3 => removal(wire::Kind::Listener, "plain"),
            4 => backend_with(&one),
            _ => route_with(&one, &other),
        }
    })
}

proptest! {
    /// However a set was reached, by one push or by many, the same runs.
    #[test]
    fn many_pushes_lead_to_the_chains_that_one_makes(
        pushes in prop::collection::vec(prop::collection::vec(prop_oneof![some_plugin(), some_place()], 1..4), 1..8),
    ) {
        let first = [plugin("a", "respond", ""), set("b"), set("c"), backend_with(&[]), route_with(&["a"], &[])];
        let mut snapshot = start(&first);
        let mut whole: std::collections::BTreeMap<_, _> =
            first.into_iter().map(|change| ((change.kind, change.name.clone()), change)).collect();
        for push in pushes {
            snapshot = snapshot.compile(2, &push).expect("nothing dangles");
            whole.extend(push.into_iter().map(|change| ((change.kind, change.name.clone()), change)));
        }
        let whole: Vec<_> = whole.into_values().collect();
        prop_assert_eq!(all_chains(&snapshot), all_chains(&start(&whole)));
    }
}
