//! What a client says of itself, or says that the gateway said.

use super::Site;
use crate::harness::{Client, Gateway, Seen};

const ALL: &str = "routes: [{name: all, path: /, backend: up}]";

/// Every name under which some upstream reads what is the gateway's to say. CGI and its kind make one name of all that
/// differ only in case and in what is neither letter nor digit.
const FORGED: [&str; 36] = [
    "X-RustyGate-Backend",
    "X-RustyGate-Route",
    "x-rustygate-attempt",
    "x-rustygate-duration-ms",
    "X-RUSTYGATE-ANYTHING",
    "X_RustyGate_Backend",
    "x_rustygate-route",
    "X-RustyGate_Route",
    "X.RustyGate.Route",
    "x~rustygate!route",
    "X-Forwarded-For",
    "x-forwarded-FOR",
    "X_Forwarded_For",
    "x-forwarded_for",
    "X.Forwarded.For",
    "X|Forwarded`For",
    "X-Forwarded-Prefix",
    "X_FORWARDED_PREFIX",
    "X-Forwarded-Proto",
    "X_Forwarded_Proto",
    "X-Forwarded-Host",
    "X_Forwarded_Host",
    "X-Forwarded-Port",
    "X-Forwarded-Server",
    "X-Forwarded-Scheme",
    "X-Forwarded-User",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Whatever-Comes",
    "Forwarded",
    "FORWARDED",
    "X-Real-IP",
    "x-real-ip",
    "X_Real_IP",
    "X.Real.IP",
    "Proxy",
    "PROXY",
];

/// What of a request an upstream could mistake for the gateway's word: the forged value, wherever it is.
fn mentions(seen: &Seen, value: &str) -> bool {
    String::from_utf8_lossy(&seen.bytes).contains(value)
}

/// The values of a header.
fn values(seen: &Seen, name: &str) -> Vec<String> {
    seen.headers().into_iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
}

/// Envoy CVE-2023-27487 and CVE-2024-45806, Traefik GHSA-6384-m2mw-rf54 and GHSA-5m6w-wvh7-57vm.
#[tokio::test]
async fn what_only_the_gateway_may_say_is_dropped_in_every_spelling() {
    let mut site = Site::start(&["up"]).await;
    let gateway = site.gateway(ALL).await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    for name in FORGED {
        client.get_with("/", &[(name, "6.6.6.6"), (name, "for=6.6.6.6"), ("x-mine", "kept")]).await;
        let (_, seen) = site.news().remove(0);
        assert!(!mentions(&seen, "6.6.6.6"), "{name}: {seen:?}");
        assert_eq!(seen.header("x-mine").as_deref(), Some("kept"));
        for (told, value) in
            [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", "a")]
        {
            assert_eq!(values(&seen, told), [value], "{name}: {told}");
        }
    }
    gateway.shutdown().await;
}

/// The same behind the body, where some upstreams merge what they find with the headers.
#[tokio::test]
async fn what_only_the_gateway_may_say_cannot_come_as_a_trailer() {
    let mut site = Site::start(&["up"]).await;
    let gateway = site.gateway(ALL).await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    for name in FORGED.into_iter().chain(["Host", "Content-Length", "Content_Length", "Transfer-Encoding", "Cookie"]) {
        let request = format!(
            "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\ntrailer: {name}\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\nx\r\n0\r\n{name}: 6\r\nx-mine: kept\r\n\r\n"
        );
        client.send(request.as_bytes()).await;
        assert_eq!(client.response(false).await.status, 200, "{name}");
        let (_, seen) = site.news().remove(0);
        let end = String::from_utf8_lossy(&seen.bytes).into_owned();
        assert!(end.ends_with("\r\n0\r\nx-mine: kept\r\n\r\n"), "{name}: {end}");
    }
    gateway.shutdown().await;
}

/// No condition of a route reads what a stranger says in the gateway's name.
#[tokio::test]
async fn no_route_is_chosen_by_a_forged_identity() {
    let mut site = Site::start(&["anyone", "inner"]).await;
    let routes = "
routes:
- {name: anyone, path: /, backend: anyone}
- name: inner
  matches:
  - {path: /, headers: {x-rustygate-route: inner}}
  - {path: /, headers: {x-forwarded-for: 10.0.0.1}}
  - {path: /, headers: {x-forwarded-proto: https}}
  - {path: /, headers: {x-forwarded-host: inner}}
  - {path: /, headers: {x-forwarded-prefix: /inner}}
  - {path: /, headers: {x-real-ip: 10.0.0.1}}
  - {path: /, headers: {forwarded: for=10.0.0.1}}
  - {path: /, headers: {x-role: admin}}
  backend: inner
";
    let claims = [
        "x-rustygate-route: inner",
        "x-forwarded-for: 10.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: inner",
        "x-forwarded-prefix: /inner",
        "x-real-ip: 10.0.0.1",
        "forwarded: for=10.0.0.1",
    ];
    let gateway = site.gateway(routes).await;
    for claim in claims {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{claim}");
        assert_eq!(site.outcome(gateway.proxy_addr(), head).await, "anyone /", "{claim}");
    }
    // What the upstream will not see does not count either.
    for (head, expected) in [
        ("x-role: admin", "inner /"),
        ("x-role: admin\r\nconnection: x-role", "anyone /"),
        ("connection: keep-alive, X-Role\r\nx-role: admin", "anyone /"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{head}");
        assert_eq!(site.outcome(gateway.proxy_addr(), &head).await, expected, "{head}");
    }
    gateway.shutdown().await;
}

/// A gateway that believes what comes from this machine.
async fn trusting(site: &Site, routes: &str) -> Gateway {
    let builder = Gateway::builder().proxy_settings(|settings| {
        settings.trusted_proxies = vec![([127, 0, 0, 0].into(), 8), ([10, 0, 0, 0].into(), 8)];
    });
    builder.manifest(&site.manifest(routes)).start().await
}

/// What a trusted proxy says is believed, and nothing that it lets through in another spelling or in the gateway's name.
#[tokio::test]
async fn a_trusted_proxy_is_believed_by_the_names_that_it_writes() {
    let mut site = Site::start(&["up", "tls"]).await;
    let routes = "
routes:
- {name: all, path: /, backend: up}
- name: tls
  matches:
  - {path: /, headers: {x-forwarded-proto: https}}
  - {path: /, headers: {x-rustygate-route: tls}}
  backend: tls
";
    let gateway = trusting(&site, routes).await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    let told = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
    let truth = ["127.0.0.1", "http", "a", ""];
    for (name, value, expected, upstream) in [
        ("X-Forwarded-For", "203.0.113.7", ["203.0.113.7, 127.0.0.1", "http", "a", ""], "up"),
        ("X-Forwarded-Proto", "https", ["127.0.0.1", "https", "a", ""], "tls"),
        ("X-Forwarded-Proto", "HTTPS", truth, "up"),
        ("X-Forwarded-Proto", "https, http", truth, "up"),
        ("X-Forwarded-Proto", "javascript", truth, "up"),
        ("X-Forwarded-Host", "shop.example.com", ["127.0.0.1", "http", "shop.example.com", ""], "up"),
        ("Forwarded", "for=203.0.113.7", ["127.0.0.1", "http", "a", "for=203.0.113.7, for=127.0.0.1;proto=http"], "up"),
        ("X_Forwarded_For", "6.6.6.6", truth, "up"),
        ("X_Forwarded_Proto", "https", truth, "up"),
        ("X.Forwarded.Host", "6.6.6.6", truth, "up"),
        ("X-Forwarded-Prefix", "/6.6.6.6", truth, "up"),
        ("X-Real-IP", "6.6.6.6", truth, "up"),
        ("X-RustyGate-Route", "tls", truth, "up"),
        ("Proxy", "http://6.6.6.6", truth, "up"),
    ] {
        client.get_with("/", &[(name, value)]).await;
        let (who, seen) = site.news().remove(0);
        assert_eq!((who, told.map(|name| values(&seen, name).join("|"))), (upstream, expected.map(str::to_owned)));
        assert!(!mentions(&seen, "6.6.6.6"), "{name}: {seen:?}");
    }
    gateway.shutdown().await;
}

/// A chain is as long as a client cares to make it; the nearest entries are what is worth something.
#[tokio::test]
async fn a_chain_of_a_thousand_entries_is_cut_and_a_stranger_s_is_not_taken_at_all() {
    let chain = |entry: fn(usize) -> String, count| (0..count).map(entry).collect::<Vec<_>>().join(", ");
    let addresses = chain(|index| format!("192.0.2.{}", index % 250), 1000);
    let elements = chain(|index| format!("for=192.0.2.{}", index % 250), 1000);
    let kept = |list: &str, own: &str| {
        let entries = list.split(", ").collect::<Vec<_>>();
        [&entries[entries.len() - 32..], &[own]].concat().join(", ")
    };
    let mut site = Site::start(&["up"]).await;
    let stranger = site.gateway(ALL).await;
    let friend = trusting(&site, ALL).await;
    for (name, value, told) in [
        ("x-forwarded-for", addresses.clone(), kept(&addresses, "127.0.0.1")),
        ("x-forwarded-for", addresses.replace(", ", ",\t  "), kept(&addresses, "127.0.0.1").replace(", ", ",\t  ")),
        ("x-forwarded-for", ",".repeat(60_000), format!("{}, 127.0.0.1", ",".repeat(31))),
        ("x-forwarded-for", format!("{}{addresses}", ", ".repeat(20_000)), kept(&addresses, "127.0.0.1")),
        ("forwarded", elements.clone(), kept(&elements, "for=127.0.0.1;proto=http")),
    ] {
        let mut client = Client::connect(stranger.proxy_addr()).await.host("a");
        assert_eq!(client.get_with("/", &[(name, &value)]).await.status, 200);
        let (_, seen) = site.news().remove(0);
        assert!(seen.bytes.len() < 200, "{seen:?}");

        let mut client = Client::connect(friend.proxy_addr()).await.host("a");
        assert_eq!(client.get_with("/", &[(name, &value)]).await.status, 200);
        let (_, seen) = site.news().remove(0);
        let [only] = values(&seen, name).try_into().expect("one line");
        assert_eq!(only.replace(",\t  ", ", "), told.replace(",\t  ", ", "), "{name}");
    }
    let mut client = Client::connect(friend.proxy_addr()).await.host("a");
    let lines = addresses.split(", ").map(|entry| ("x-forwarded-for", entry)).collect::<Vec<_>>();
    assert_eq!(client.get_with("/", &lines[..50]).await.status, 200, "lines are one list");
    let (_, seen) = site.news().remove(0);
    assert_eq!(values(&seen, "x-forwarded-for").join("|").split(", ").count(), 33);
    assert_eq!(client.get_with("/", &lines).await.status, 431);
    stranger.shutdown().await;
    friend.shutdown().await;
}

/// A proxy that writes one of the two fields lets the other through as its client wrote it.
#[tokio::test]
async fn what_contradicts_the_chain_is_not_passed_on() {
    let mut site = Site::start(&["up"]).await;
    let gateway = trusting(&site, ALL).await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    for (chain, elements, kept) in [
        ("203.0.113.7", "for=203.0.113.7", true),
        ("203.0.113.7, 10.0.0.1", "for=203.0.113.7;proto=https", true),
        ("203.0.113.7", "for=6.6.6.6", false),
        ("203.0.113.7", "for=6.6.6.6, for=10.0.0.1", false),
        ("203.0.113.7", "for=\"6.6.6.6", false),
        ("203.0.113.7", "for=unknown", false),
    ] {
        client.get_with("/", &[("x-forwarded-for", chain), ("forwarded", elements)]).await;
        let (_, seen) = site.news().remove(0);
        assert_eq!(seen.header("x-forwarded-for"), Some(format!("{chain}, 127.0.0.1")));
        let expected = kept.then(|| format!("{elements}, for=127.0.0.1;proto=http"));
        assert_eq!(seen.header("forwarded"), expected, "{chain} {elements}");
    }
    gateway.shutdown().await;
}

/// Caddy CVE-2026-30851 and CVE-2026-52845, APISIX CVE-2026-31908: what a plugin removes or sets is gone or set in
/// every spelling, whether it has a value of its own or not.
#[tokio::test]
async fn a_name_that_a_plugin_answers_for_cannot_be_sent_in_another_spelling() {
    let mut site = Site::start(&["up"]).await;
    let routes = "
plugins:
- {name: who, type: headers, config: {request: {remove: [remote-user], set: {x-team: red}}}}
routes: [{name: all, path: /, backend: up, plugins: [who]}]
";
    let gateway = site.gateway(routes).await;
    let mut client = Client::connect(gateway.proxy_addr()).await.host("a");
    for name in [
        "remote-user",
        "Remote-User",
        "REMOTE-USER",
        "Remote_User",
        "remote_user",
        "Remote.User",
        "X-Team",
        "x-team",
        "X_Team",
        "X_TEAM",
        "x.team",
    ] {
        client.get_with("/", &[(name, "root"), ("x-mine", "kept"), (name, "root")]).await;
        let (_, seen) = site.news().remove(0);
        assert!(!mentions(&seen, "root"), "{name}: {seen:?}");
        assert_eq!((values(&seen, "x-team"), values(&seen, "x-mine")), (vec!["red".into()], vec!["kept".into()]));
    }
    gateway.shutdown().await;
}
