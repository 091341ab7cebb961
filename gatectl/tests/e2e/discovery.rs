//! Endpoints with names: where they lead, when that changes, and what a DNS server can do to the gateway.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::harness::{Client, Dns, Gateway, Say, Witness, free_port, within};

/// A gateway that asks this server.
async fn gateway(dns: &Dns, manifest: &str) -> Gateway {
    let server = dns.addr();
    let builder = Gateway::builder().proxy_settings(move |settings| settings.dns_servers = vec![server]);
    builder.manifest(manifest).start().await
}

fn all_to(host: &str, port: u16) -> String {
    format!("routes: [{{name: all, path: /, backend: \"http://{host}:{port}\"}}]")
}

/// Services on one port of several loopback addresses, each of which says its last number.
async fn services<const N: usize>(last: [u8; N]) -> (u16, Vec<Witness>) {
    let port = free_port();
    let mut services = Vec::new();
    for last in last {
        let addr = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        services.push(Witness::saying_at(addr, &last.to_string()).await);
    }
    (port, services)
}

/// Asks until the answer is this one.
async fn until(client: &mut Client, expected: &str) {
    within(expected, async {
        while client.get("/").await.text() != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Returns when whatever the server says now of these was learned: that of a question that began after this.
async fn learned(gateway: &Gateway, hosts: &[String]) {
    let counts = async || -> Vec<u64> {
        let metrics = gateway.metrics(0).await;
        let count = |host: &String| {
            let begin = format!("rustygate_dns_lookups_total{{host=\"{host}\",");
            let lines = metrics.lines().filter(|line| line.starts_with(&begin));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        hosts.iter().map(count).collect()
    };
    let before = counts().await;
    // One question of each may be under way.
    within("an answer", async {
        while counts().await.iter().zip(&before).any(|(now, before)| *now < before + 2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn reason(text: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(text).expect("JSON");
    body["reason"].as_str().expect("a reason").to_owned()
}

#[tokio::test]
async fn a_name_is_followed_where_it_goes_when_its_time_is_up() {
    let dns = Dns::start().await;
    let (port, _services) = services([2, 3]).await;
    dns.say("moves.test", Say::local(&[2], 1));
    dns.say("stays.test", Say::local(&[2], 3600));
    let manifest = format!(
        "routes: [{{name: moves, path: /, backend: \"http://moves.test:{port}\"}}, \
         {{name: stays, path: /stays, backend: \"http://stays.test:{port}\"}}]"
    );
    let gateway = gateway(&dns, &manifest).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.get("/").await.text(), "2", "known before the first request");
    assert_eq!(client.get("/stays").await.text(), "2");
    dns.say("moves.test", Say::local(&[3], 1));
    dns.say("stays.test", Say::local(&[3], 1));
    until(&mut client, "3").await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "3", "no connection from before is used again");
    }
    assert_eq!(client.get("/stays").await.text(), "2", "its hour is not over");
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_is_known_stays_in_use_while_servers_fail_and_requests_ask_nobody() {
    let dns = Dns::start().await;
    let (port, _services) = services([2, 3]).await;
    dns.say("service.test", Say::local(&[2], 1));
    let gateway = gateway(&dns, &all_to("service.test", port)).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.get("/").await.text(), "2");
    for trouble in [Say::Failure, Say::NoSuchName, Say::Bytes(vec![0; 8])] {
        dns.say("service.test", trouble);
        learned(&gateway, &["service.test".to_owned()]).await;
        let begun = Instant::now();
        let asked = dns.queries().len();
        for _ in 0..200 {
            assert_eq!(client.get("/").await.text(), "2");
        }
        let questions = dns.queries().len() - asked;
        assert!(questions <= 12 + 12 * usize::try_from(begun.elapsed().as_secs()).expect("few"), "{questions}");
    }
    let stale = async {
        let line = "\nrustygate_dns_stale{host=\"service.test\"} 1\n";
        while !gateway.metrics(0).await.contains(line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a metric", stale).await;
    dns.say("service.test", Say::local(&[3], 1));
    until(&mut client, "3").await;
    let metrics = gateway.metrics(0).await;
    assert!(metrics.contains("\nrustygate_dns_stale{host=\"service.test\"} 0\n"), "{metrics}");
    assert!(metrics.contains("\nrustygate_dns_addresses{host=\"service.test\"} 1\n"), "{metrics}");
    for outcome in ["found", "failed"] {
        let line = format!("rustygate_dns_lookups_total{{host=\"service.test\",outcome=\"{outcome}\"}} ");
        let count = metrics.lines().find_map(|text| text.strip_prefix(&line)).expect("a counter");
        assert_ne!(count, "0", "{outcome}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_name_without_addresses_is_answered_at_once_and_served_as_soon_as_it_has_some() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    let manifest = format!(
        "routes: [{{name: none, path: /, backend: \"http://new.test:{port}\"}}, \
         {{name: other, path: /other, backend: \"http://127.0.0.2:{port}\"}}]"
    );
    let gateway = gateway(&dns, &manifest).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let begun = Instant::now();
    let response = client.get("/").await;
    assert_eq!((response.status, reason(&response.text()).as_str()), (503, "no_address"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(client.get("/other").await.text(), "2");
    dns.say("new.test", Say::local(&[2], 60));
    until(&mut client, "2").await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_silent_server_holds_up_neither_a_push_nor_the_other_routes_and_is_asked_again() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    dns.say("service.test", Say::Silence);
    let mut gateway = gateway(&dns, &all_to("127.0.0.2", port)).await;
    let begun = Instant::now();
    let added = format!("routes: [{{name: named, path: /named, backend: \"http://service.test:{port}\"}}]");
    gateway.apply(&added).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let response = client.get("/named").await;
    assert!([503, 504].contains(&response.status), "{response:?}");
    let begun = Instant::now();
    assert_eq!(client.get("/").await.text(), "2");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    dns.say("service.test", Say::local(&[2], 60));
    within("an answer", async {
        while client.get("/named").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_push_waits_a_moment_for_its_new_names_so_that_the_first_request_finds_them() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    let mut gateway = gateway(&dns, &all_to("127.0.0.2", port)).await;
    dns.say("slow.test", Say::Late(Duration::from_millis(200), vec![Ipv4Addr::new(127, 0, 0, 2)]));
    for (index, name) in ["backends: [{name: b, endpoints: [\"http://slow.test:PORT\"]}]", ""].into_iter().enumerate() {
        let backend = if name.is_empty() { format!("\"http://slow.test:{port}/x\"") } else { "b".to_owned() };
        let routes = format!("routes: [{{name: r{index}, path: /r{index}, backend: {backend}}}]");
        gateway.apply(&format!("{}\n{routes}", name.replace("PORT", &port.to_string()))).await;
        let response = Client::connect(gateway.proxy_addr()).await.get(&format!("/r{index}")).await;
        assert_eq!(response.text(), "2");
    }
    let kinds: Vec<u16> = dns.queries().iter().map(|query| query.kind).collect();
    assert_eq!(kinds.len(), 2, "one look-up for both uses of the name: {kinds:?}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn requests_are_spread_over_all_addresses_of_a_name() {
    let dns = Dns::start().await;
    let (port, services) = services([2, 3, 4]).await;
    dns.say("many.test", Say::local(&[2, 3, 4], 60));
    let builder = Gateway::builder();
    let server = dns.addr();
    let builder = builder.proxy_settings(move |settings| {
        settings.dns_servers = vec![server];
        settings.workers = Some(1);
    });
    let gateway = builder.manifest(&all_to("many.test", port)).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
    }
    for service in &services {
        assert_eq!(service.requests().len(), 10);
        assert_eq!(service.connections().len(), 1, "connections are kept for each address");
    }
    drop(services.into_iter().next());
    for _ in 0..30 {
        assert_ne!(client.get("/").await.text(), "2");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_endpoint_whose_name_has_no_address_gets_nothing_while_another_is_there() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    let manifest = format!(
        "backends: [{{name: b, endpoints: [\"http://gone.test:{port}\", \"http://127.0.0.2:{port}\"]}}]\n\
         routes: [{{name: all, path: /, backend: b}}]"
    );
    let gateway = gateway(&dns, &manifest).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.text(), "2");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn an_answer_too_long_for_a_datagram_is_asked_for_again_and_cut_to_the_bound() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    dns.say("large.test", Say::local(&(2..=250).collect::<Vec<u8>>(), 60));
    let gateway = gateway(&dns, &all_to("large.test", port)).await;
    let metrics = gateway.metrics(0).await;
    assert!(metrics.contains("\nrustygate_dns_addresses{host=\"large.test\"} 64\n"), "{metrics}");
    assert!(dns.queries().iter().any(|query| query.tcp));
    let mut client = Client::connect(gateway.proxy_addr()).await;
    // Only one of the 64 is there; the others refuse, each once.
    let response = client.get("/").await;
    assert_eq!(response.text(), "2");
    gateway.shutdown().await;
}

#[tokio::test]
async fn hostile_answers_are_no_answers() {
    let dns = Dns::start().await;
    let (port, _services) = services([2]).await;
    // After id and flags: the counts of questions, answers, authorities, additional records.
    let counts = |answers: u16| [&[0, 1][..], &answers.to_be_bytes(), &[0, 0, 0, 0]].concat();
    let question = |name: &str| [b"\x03", name.as_bytes(), b"\x04test\x00\x00\x01\x00\x01"].concat();
    let record = |name: &[u8], length: u16, data: &[u8]| {
        [name, b"\x00\x01\x00\x01\x00\x00\x00\x3c", &length.to_be_bytes(), data].concat()
    };
    let other = [127, 0, 0, 9];
    let hostile = |name: &str| {
        [
            // A pointer to itself, two that point at each other, one beyond the end.
            [counts(1), question(name), record(b"\xc0\x1a", 4, &other)].concat(),
            [counts(1), question(name), record(b"\xc0\x1c\xc0\x1a", 4, &other)].concat(),
            [counts(1), question(name), record(b"\xff\xff", 4, &other)].concat(),
            // More records than there are, a longer record than there is, a short address, a label of a reserved kind.
            [counts(65_535), question(name), record(b"\xc0\x0c", 4, &other)].concat(),
            [counts(1), question(name), record(b"\xc0\x0c", 65_535, &other)].concat(),
            [counts(1), question(name), record(b"\xc0\x0c", 3, &other[..3])].concat(),
            [counts(1), question(name), record(b"\x80x\x00", 4, &other)].concat(),
            // The answer to another question.
            [counts(1), question("zzz"), record(b"\xc0\x0c", 4, &other)].concat(),
            // A name that is its own alias.
            [&counts(1), &*question(name), b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x0c"].concat(),
            Vec::new(),
            vec![0xff; 500],
        ]
    };
    let names: Vec<String> = (0..hostile("h00").len()).map(|index| format!("h{index:02}")).collect();
    let route = |name: &String| format!("{{name: {name}, path: /{name}, backend: \"http://{name}.test:{port}\"}}");
    for name in &names {
        dns.say(&format!("{name}.test"), Say::local(&[2], 1));
    }
    let routes: Vec<String> = names.iter().map(route).collect();
    let gateway = gateway(&dns, &format!("routes: [{}]", routes.join(", "))).await;
    for (index, name) in names.iter().enumerate() {
        dns.say(&format!("{name}.test"), Say::Bytes(hostile(name)[index].clone()));
    }
    learned(&gateway, &names.iter().map(|name| format!("{name}.test")).collect::<Vec<_>>()).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for name in &names {
        assert_eq!(client.get(&format!("/{name}")).await.text(), "2", "{name}");
    }
    assert_eq!(Client::connect(gateway.admin_addr(0)).await.get("/readyz").await.status, 200);
    gateway.shutdown().await;
}

#[tokio::test]
async fn addresses_of_both_families_are_used_and_one_that_refuses_hides_no_other() {
    let dns = Dns::start().await;
    let port = free_port();
    let v6 = Witness::saying_at(SocketAddr::from((Ipv6Addr::LOCALHOST, port)), "v6").await;
    let both = |v4: &[u8], ttl| match Say::local(v4, ttl) {
        Say::Is { v4, ttl, .. } => Say::Is { v4, v6: vec![Ipv6Addr::LOCALHOST], ttl },
        other => other,
    };
    dns.say("six.test", both(&[], 3600));
    dns.say("both.test", both(&[9], 3600));
    let manifest = format!(
        "routes: [{{name: six, path: /six, backend: \"http://six.test:{port}\"}}, \
         {{name: both, path: /both, backend: \"http://both.test:{port}\"}}, \
         {{name: literal, path: /literal, backend: \"http://[::1]:{port}\"}}]"
    );
    let gateway = gateway(&dns, &manifest).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    assert_eq!(client.get("/six").await.text(), "v6");
    assert_eq!(client.get("/literal").await.text(), "v6");
    assert_eq!(v6.requests().len(), 2);
    // Nobody listens at 127.0.0.9 yet.
    for _ in 0..20 {
        let answer = client.get("/both").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v6"));
    }
    let v4 = Witness::saying_at(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), port)), "v4").await;
    within("the other family, once it is tried again", async {
        while client.get("/both").await.text() != "v4" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(v6);
    // Its connections are closed, and it refuses others.
    for _ in 0..20 {
        let answer = client.get("/both").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v4"));
    }
    drop(v4);
    gateway.shutdown().await;
}
