//! What is written is read back as the same bytes, whatever the resource.

use proptest::option;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

/// Any text, with a liking for what YAML could take for something else.
fn text() -> BoxedStrategy<String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,12}",
        "[a-z]{1,8}",
        prop::sample::select(vec![
            "",
            " ",
            "~",
            "null",
            "true",
            "False",
            "yes",
            "on",
            "n",
            "1",
            "-1",
            "0o17",
            "0x1f",
            "007",
            "1e3",
            ".5",
            "1_000",
            "1:30",
            "12:30:45",
            ".inf",
            ".nan",
            "=",
            "<<",
            "-",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "a:",
            ":a",
            "? a",
            "[a",
            "{a",
            "a, b",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "@a",
            "`a",
            "%a",
            "'a'",
            "\"a\"",
            "a\nb\n",
            "\n",
            " a",
            "a ",
            "\ta",
            "a\\b",
            "\u{feff}",
            "\u{85}",
            "\u{2028}",
            "\u{7f}",
            "\0",
            "---",
            "...",
            "2001-12-14",
            "\u{10ffff}",
            "\u{fffe}",
            "é",
            "0b1",
            "1.",
            "+1",
            "a  b",
            "😀",
        ])
        .prop_map(str::to_owned),
    ]
    .boxed()
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.:/@+*~-]{1,20}".prop_filter("is a URL", |name| !name.contains("://"))
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(name(), 0..4).prop_map(|names| names.into_iter().rev().collect())
}

fn milliseconds() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..10_000u64,
        (0..600u64).prop_map(|seconds| seconds * 1000),
        (0..48u64).prop_map(|hours| hours * 3_600_000)
    ]
}

fn hash_on() -> impl Strategy<Value = wire::HashOn> {
    use wire::hash_on::Kind;
    let unit = wire::Unit {};
    prop_oneof![
        // Names of headers are in lower case.
        text().prop_map(|name| Kind::Header(name.to_ascii_lowercase())),
        text().prop_map(Kind::Cookie),
        Just(Kind::ClientIp(unit)),
        Just(Kind::Path(unit)),
    ]
    .prop_map(|kind| wire::HashOn { kind: Some(kind) })
}

fn balancing() -> BoxedStrategy<wire::LoadBalancing> {
    let sticky = (
        text(),
        option::of(milliseconds()),
        option::of(text()),
        option::of(any::<bool>()),
        option::of(any::<bool>()),
        0..=3i32,
    );
    let sticky = sticky.prop_map(|(cookie, ttl_ms, path, secure, http_only, same_site)| wire::Sticky {
        cookie,
        ttl_ms,
        path,
        secure,
        http_only,
        same_site,
    });
    (0..=4i32, option::of(hash_on()), option::of(0..=1000u32), option::of(sticky), option::of(milliseconds()))
        .prop_map(|(policy, hash_on, balance_factor, sticky, slow_start_ms)| wire::LoadBalancing {
            policy,
            hash_on,
            balance_factor,
            sticky,
            slow_start_ms,
        })
        .prop_filter("says nothing", |balancing| *balancing != wire::LoadBalancing::default())
        .boxed()
}

fn health() -> BoxedStrategy<wire::HealthCheck> {
    let http = (
        option::of(text()),
        prop::collection::btree_set(200..=599u32, 0..3),
        prop::collection::btree_map(key().prop_map(|key| key.to_ascii_lowercase()), text(), 0..3),
        option::of(text()),
    );
    let times = (option::of(milliseconds()), option::of(milliseconds()), option::of(1..9u32), option::of(1..9u32));
    (0..=3i32, text(), http, times)
        .prop_map(|(kind, path, http, times)| wire::HealthCheck {
            r#type: kind,
            path,
            host: http.0,
            statuses: http.1.into_iter().collect(),
            headers: http.2.into_iter().map(|(name, value)| wire::HeaderValue { name, value }).collect(),
            service: http.3,
            interval_ms: times.0,
            timeout_ms: times.1,
            healthy_threshold: times.2,
            unhealthy_threshold: times.3,
        })
        .boxed()
}

fn outlier_detection() -> impl Strategy<Value = wire::OutlierDetection> {
    let count = || option::of(0..=1000u32);
    (count(), count(), option::of(milliseconds()), option::of(milliseconds()), option::of(1..=100u32))
        .prop_map(|(any, gateway, base, longest, percent)| wire::OutlierDetection {
            consecutive_5xx: any,
            consecutive_gateway_errors: gateway,
            base_ejection_time_ms: base,
            max_ejection_time_ms: longest,
            max_ejected_percent: percent,
        })
        .prop_filter("says nothing", |detection| *detection != wire::OutlierDetection::default())
}

fn limits() -> impl Strategy<Value = wire::Limits> {
    let count = || option::of(1..=1_000_000u32);
    (count(), option::of(0..=1_000_000u32), count(), option::of(milliseconds()))
        .prop_map(|(connections, pending, requests, pending_timeout_ms)| wire::Limits {
            connections,
            pending,
            requests,
            pending_timeout_ms,
        })
        .prop_filter("limits nothing", |limits| limits.connections.is_some() || limits.requests.is_some())
}

fn backend() -> BoxedStrategy<wire::Backend> {
    let endpoint = (text(), option::of(0..=1_000u32)).prop_map(|(url, weight)| wire::Endpoint { url, weight });
    let budget = (option::of(0..=100u32), option::of(0..=10_000u32))
        .prop_map(|(percent, min_per_second)| wire::RetryBudget { percent, min_per_second })
        .prop_filter("says nothing", |budget| *budget != wire::RetryBudget::default());
    let guards = (option::of(outlier_detection()), option::of(limits()), option::of(budget), option::of(0..=100u32));
    let endpoints = prop::collection::vec(endpoint, 1..4);
    (name(), endpoints, option::of(balancing()), option::of(health()), guards)
        .prop_map(|(name, endpoints, load_balancing, health_check, guards)| wire::Backend {
            name,
            endpoints,
            load_balancing,
            health_check,
            tls: None,
            protocol: None,
            outlier_detection: guards.0,
            limits: guards.1,
            retry_budget: guards.2,
            panic_threshold: guards.3,
            plugins: Vec::new(),
        })
        .boxed()
}

fn tls_backend() -> BoxedStrategy<wire::Backend> {
    let tls = (option::of(long_text()), option::of(text()), option::of(name()), any::<bool>()).prop_map(
        |(ca, server_name, client_certificate, insecure_skip_verify)| wire::BackendTls {
            ca,
            server_name,
            client_certificate,
            insecure_skip_verify,
        },
    );
    (backend(), option::of(1..=4i32), option::of(tls), names())
        .prop_map(|(backend, protocol, tls, plugins)| wire::Backend { tls, protocol, plugins, ..backend })
        .boxed()
}

/// Of one line or several.
fn long_text() -> BoxedStrategy<String> {
    prop_oneof![
        text(),
        (prop::collection::vec("[ -~]{0,12}|-----BEGIN X-----", 1..5), "\n{0,2}")
            .prop_map(|(lines, end)| lines.join("\n") + &end),
    ]
    .boxed()
}

fn tls_listener() -> BoxedStrategy<wire::Listener> {
    let auth = (1..=2i32, long_text(), option::of(long_text()));
    let auth = auth.prop_map(|(mode, ca, crl)| wire::ClientAuth { mode, ca, crl });
    let certificates = prop::collection::btree_set(name(), 1..3).prop_map(|set| set.into_iter().collect());
    let alpn = prop::collection::btree_set(text(), 0..3).prop_map(|set| set.into_iter().collect());
    let tls = (certificates, option::of(1..=2i32), alpn, option::of(auth)).prop_map(
        |(certificates, min_version, alpn, client_auth)| wire::ListenerTls {
            certificates,
            min_version,
            alpn,
            client_auth,
        },
    );
    (name(), text(), tls)
        .prop_map(|(name, address, tls)| wire::Listener { name, address, tls: Some(tls), plugins: Vec::new() })
        .boxed()
}

fn certificate() -> BoxedStrategy<wire::Certificate> {
    (name(), long_text(), text())
        .prop_map(|(name, chain, fingerprint)| {
            let form = Some(wire::secret::Form::Fingerprint(fingerprint));
            wire::Certificate { name, chain, key: Some(wire::Secret { form, salt: Vec::new() }) }
        })
        .boxed()
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        prop::num::f64::NORMAL.prop_map(Into::into),
        text().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(key(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// `<<` is refused as a key.
fn key() -> impl Strategy<Value = String> {
    text().prop_filter("is a merge key", |key| key != "<<")
}

fn plugin() -> BoxedStrategy<wire::Plugin> {
    let config = prop::collection::btree_map(key(), json(), 0..5);
    let plain = (name(), name(), config, option::of(Just(false))).prop_map(|(name, r#type, config, enabled)| {
        let config_json = serde_json::to_string(&config).unwrap();
        wire::Plugin { name, r#type, config_json, enabled, secrets: Vec::new() }
    });
    // One with secrets, of which a user sees the fingerprints.
    let fields = prop::collection::btree_map("[a-z]{1,8}", option::of(text()), 1..5);
    let secret = (name(), fields).prop_map(|(name, fields)| {
        let mut secrets = Vec::new();
        let mut set = serde_json::Map::new();
        for (field, fingerprint) in fields {
            let value = match fingerprint {
                Some(fingerprint) => {
                    let form = Some(wire::secret::Form::Fingerprint(fingerprint));
                    secrets.push(wire::Secret { form, salt: Vec::new() });
                    serde_json::json!({ "$secret": secrets.len() - 1 })
                }
                None => "plain".into(),
            };
            set.insert(field, value);
        }
        let config_json = serde_json::json!({ "request": { "set": set } }).to_string();
        wire::Plugin { name, r#type: "headers".to_owned(), config_json, secrets, enabled: None }
    });
    prop_oneof![3 => plain, 1 => secret].boxed()
}

fn values(name: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<wire::ValueMatch>> {
    let kind =
        prop_oneof![text().prop_map(wire::value_match::Kind::Exact), text().prop_map(wire::value_match::Kind::Regex)];
    let value = |(name, kind)| wire::ValueMatch { name, kind: Some(kind) };
    prop::collection::btree_map(name, kind, 0..4).prop_map(move |map| map.into_iter().map(value).collect())
}

fn condition() -> impl Strategy<Value = wire::Match> {
    use wire::path_match::Kind;
    let path = prop_oneof![text().prop_map(Kind::Prefix), text().prop_map(Kind::Exact), text().prop_map(Kind::Regex)]
        .prop_map(|kind| wire::PathMatch { kind: Some(kind) });
    let methods = prop::collection::btree_set("[A-Z]{1,7}", 0..3).prop_map(|set| set.into_iter().rev().collect());
    (option::of(path), methods, values("[a-z0-9!~_-]{1,8}"), values(key()))
        .prop_map(|(path, methods, headers, query)| wire::Match { path, methods, headers, query })
}

fn rule() -> impl Strategy<Value = wire::Rule> {
    use wire::backend_ref::Target;
    let target = prop_oneof![name().prop_map(Target::Name), text().prop_map(Target::Url)].prop_map(Some);
    let backend = (target, option::of(0..=1_000u32), names()).prop_map(|(target, weight, plugins)| wire::BackendRef {
        target,
        weight,
        plugins,
    });
    let timeouts = (
        option::of(milliseconds()),
        option::of(milliseconds()),
        option::of(milliseconds()),
        option::of(milliseconds()),
    )
        .prop_map(|(connect_ms, per_try_ms, total_ms, idle_ms)| wire::Timeouts {
            connect_ms,
            per_try_ms,
            total_ms,
            idle_ms,
        })
        .prop_filter("says nothing", |timeouts| *timeouts != wire::Timeouts::default());
    let spans = (option::of(milliseconds()), option::of(milliseconds()), option::of(milliseconds()));
    let causes = (any::<bool>(), any::<bool>(), any::<bool>(), prop::collection::btree_set(400..=599u32, 0..3));
    let retry = (option::of(0..=10u32), causes, spans)
        .prop_map(|(attempts, causes, spans)| wire::Retry {
            attempts,
            on_connect: causes.0,
            on_reset: causes.1,
            on_timeout: causes.2,
            on_statuses: causes.3.into_iter().collect(),
            backoff_base_ms: spans.0,
            backoff_max_ms: spans.1,
            retry_after_max_ms: spans.2,
        })
        .prop_filter("says nothing", |retry| *retry != wire::Retry::default());
    let matches = prop::collection::vec(condition(), 0..3);
    (
        matches,
        prop::collection::vec(backend, 1..3),
        option::of(any::<bool>()),
        option::of(timeouts),
        option::of(retry),
        names(),
        option::of(hash_on()),
    )
        .prop_map(|(matches, backends, strip_prefix, timeouts, retry, plugins, sticky_split)| wire::Rule {
            matches,
            backends,
            strip_prefix,
            timeouts,
            retry,
            plugins,
            sticky_split,
        })
}

fn route() -> impl Strategy<Value = wire::Route> {
    let hosts = prop::collection::btree_set(text(), 0..3).prop_map(|set| set.into_iter().rev().collect());
    (name(), names(), hosts, prop::collection::vec(rule(), 1..3))
        .prop_map(|(name, listeners, hosts, rules)| wire::Route { name, listeners, hosts, rules })
}

fn resource() -> impl Strategy<Value = wire::Resource> {
    prop_oneof![
        1 => (name(), text(), names())
            .prop_map(|(name, address, plugins)| Kind::Listener(wire::Listener { name, address, tls: None, plugins })),
        1 => names().prop_map(|plugins| Kind::Defaults(wire::Defaults { name: "default".to_owned(), plugins })),
        1 => tls_listener().prop_map(Kind::Listener),
        1 => certificate().prop_map(Kind::Certificate),
        2 => tls_backend().prop_map(Kind::Backend),
        2 => plugin().prop_map(Kind::Plugin),
        5 => route().prop_map(Kind::Route),
    ]
    .prop_map(|kind| wire::Resource { kind: Some(kind) })
}

/// By kind and name, as they are written.
fn encoded(resources: &[wire::Resource]) -> Vec<(wire::Kind, String, Vec<u8>)> {
    let each = |resource: &wire::Resource| {
        let (kind, name) = resource.key().unwrap();
        (kind, name.to_owned(), resource.encode_to_vec())
    };
    let mut all: Vec<_> = resources.iter().map(each).collect();
    all.sort_by(|one, other| (one.0 as i32, &one.1).cmp(&(other.0 as i32, &other.1)));
    all
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(resources in prop::collection::vec(resource(), 0..6)) {
        let mut resources = resources;
        let mut keys = HashSet::new();
        resources.retain(|resource| resource.key().is_some_and(|(kind, name)| keys.insert((kind, name.to_owned()))));
        let yaml = to_yaml(&resources);
        let parsed = parse(documents(&[&yaml]));
        prop_assert!(parsed.faults.is_empty(), "{}\n{}", render(&parsed.faults, false), yaml);
        prop_assert_eq!(encoded(&parsed.resources), encoded(&resources), "{}", yaml);
        prop_assert_eq!(to_yaml(&parsed.resources), yaml);
    }

    #[test]
    fn other_libraries_read_strings_as_strings(text in text()) {
        let yaml = emit::quoted(&text);
        let read: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
        prop_assert_eq!(read.as_str(), Some(text.as_str()), "{}", yaml);
    }
}
