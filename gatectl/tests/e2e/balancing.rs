//! Which endpoint a request goes to: by the policy, by what is hashed, and by how the endpoints do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use crate::harness::{Client, Gateway, Reply, Witness, answer, with_gateway, within};

/// One backend of these; its other fields, and those of the route.
fn manifest(nodes: &[Witness], terms: &str, route: &str) -> String {
    let urls: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.url())).collect();
    format!(
        "backends: [{{name: b, endpoints: [{}]{terms}}}]\nroutes: [{{name: all, path: /, backend: b{route}}}]\n",
        urls.join(", ")
    )
}

/// Who say which they are.
async fn nodes<const N: usize>() -> [Witness; N] {
    let mut nodes = Vec::new();
    for number in 0..N {
        nodes.push(Witness::saying(&number.to_string()).await);
    }
    nodes.try_into().unwrap_or_else(|_| unreachable!("as many"))
}

/// An endpoint that answers every request, `/health` too, with this.
async fn always(status: &'static str) -> Witness {
    Witness::start(move |_| Reply::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())).await
}

/// How many requests each had, health checks aside.
fn counts(nodes: &[Witness]) -> Vec<usize> {
    let asked = |node: &Witness| node.requests().iter().filter(|seen| !seen.line().contains("/health")).count();
    nodes.iter().map(asked).collect()
}

/// How many of the next requests on one connection go to each.
async fn shares(client: &mut Client, nodes: &[Witness], requests: usize) -> Vec<usize> {
    let before = counts(nodes);
    for _ in 0..requests {
        client.get("/").await;
    }
    counts(nodes).iter().zip(before).map(|(after, before)| after - before).collect()
}

#[tokio::test]
async fn what_is_hashed_leads_to_one_endpoint_over_every_worker_and_proxy() {
    let nodes: [Witness; 3] = nodes().await;
    for (on, by_default) in
        [("client_ip", true), ("path", true), ("{header: x-user}", false), ("{cookie: user}", false)]
    {
        let terms = format!(", load_balancing: {{policy: consistent_hash, hash_on: {on}}}");
        let builder = Gateway::builder().proxies(2).proxy_settings(|settings| {
            settings.trusted_proxies = vec![([127, 0, 0, 1].into(), 32)];
        });
        let gateway = builder.manifest(&manifest(&nodes, &terms, "")).start().await;
        let mut led = BTreeMap::<usize, BTreeSet<String>>::new();
        for round in 0..4 {
            let mut client = Client::connect(gateway.proxy_addr_of(round % 2)).await;
            for number in 0..30 {
                let (ip, user, cookie, path) = (
                    format!("198.51.100.{number}"),
                    format!("u{number}"),
                    format!("other={round}; user=c{number}"),
                    format!("/{number}?round={round}"),
                );
                // All that is not hashed differs from round to round.
                let other = format!("{round}-{number}");
                let headers = [
                    ("x-forwarded-for", if on == "client_ip" { ip } else { format!("198.51.{round}.{number}") }),
                    ("x-user", if on.contains("x-user") { user } else { other.clone() }),
                    ("cookie", if on.contains("user}") { cookie } else { format!("user={other}") }),
                ];
                let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
                let path = if on == "path" { path } else { format!("/{other}") };
                led.entry(number).or_default().insert(client.get_with(&path, &headers).await.text());
            }
        }
        assert!(led.values().all(|nodes| nodes.len() == 1), "{on}: {led:?}");
        let used: BTreeSet<&String> = led.values().flatten().collect();
        assert_eq!(used.len(), 3, "{on}: keys are spread over all: {led:?}");
        // Without any of it a request has an address and a path still, and otherwise goes where there is least to do.
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let mut found = BTreeSet::new();
        for _ in 0..30 {
            found.insert(client.get("/").await.text());
        }
        assert_eq!(found.len() == 1, by_default, "{on}: {found:?}");
        gateway.shutdown().await;
    }
}

#[tokio::test]
async fn a_hash_that_many_ask_for_spills_over_when_its_endpoint_has_its_share() {
    const REQUESTS: usize = 24;
    for (factor, most) in [(0, REQUESTS), (125, 10), (150, 12), (1000, REQUESTS)] {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(Witness::start(|_| Reply::Hold).await);
        }
        let terms = format!(", load_balancing: {{policy: consistent_hash, hash_on: path, balance_factor: {factor}}}");
        with_gateway(&manifest(&nodes, &terms, ""), async |gateway| {
            let mut asking = JoinSet::new();
            for asked in 1..=REQUESTS {
                let addr = gateway.proxy_addr();
                asking.spawn(async move { Client::connect(addr).await.get("/same").await.status });
                // One after the other, each held.
                within("a request", async {
                    while counts(&nodes).iter().sum::<usize>() < asked {
                        tokio::task::yield_now().await;
                    }
                })
                .await;
            }
            let mut shares = counts(&nodes);
            shares.sort_unstable();
            assert_eq!(shares[2], most, "{factor}: {shares:?}");
            assert_eq!(shares.iter().sum::<usize>(), REQUESTS);
            asking.shutdown().await;
        })
        .await;
    }
}

#[tokio::test]
async fn peak_ewma_leaves_the_slow_endpoint_alone_and_round_robin_does_not() {
    for (policy, at_most) in [("peak_ewma", 4), ("round_robin", 30)] {
        let slow = Witness::start(|_| Reply::SendAfter(Duration::from_millis(100), answer("slow"))).await;
        let nodes = [slow, Witness::saying("fast").await];
        let terms = format!(", load_balancing: {{policy: {policy}}}");
        with_gateway(&manifest(&nodes, &terms, ""), async |gateway| {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            let shares = shares(&mut client, &nodes, 60).await;
            assert!(shares[0] <= at_most && shares[0] * 10 >= at_most, "{policy}: {shares:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_new_endpoint_starts_with_a_tenth_of_its_share_and_rises_to_all_of_it() {
    let nodes: [Witness; 2] = nodes().await;
    let terms = |slow_start: &str| format!(", load_balancing: {{policy: round_robin{slow_start}}}");
    let with = |nodes: &[Witness], slow_start: &str| manifest(nodes, &terms(slow_start), "");
    for (slow_start, at_first) in [("", 198..=202), (", slow_start: 1h", 12..=64)] {
        let mut gateway = Gateway::builder().manifest(&with(&nodes[..1], slow_start)).start().await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        assert_eq!(shares(&mut client, &nodes, 20).await, [20, 0]);
        gateway.apply(&with(&nodes, slow_start)).await;
        let share = shares(&mut client, &nodes, 400).await[1];
        assert!(at_first.contains(&share), "{slow_start:?}: {share} of 400");
        if !slow_start.is_empty() {
            // Another push is no new start, and a shorter time holds from when the endpoint was new.
            gateway.apply(&with(&nodes, ", slow_start: 200ms")).await;
            within("an even share", async { while shares(&mut client, &nodes, 40).await[1] < 19 {} }).await;
        }
        gateway.shutdown().await;
    }
}

/// Returns when so many endpoints are well.
async fn well(gateway: &Gateway, wanted: usize) {
    let seen = async {
        loop {
            let metrics = gateway.metrics(0).await;
            let mut endpoints = metrics.lines().filter(|line| line.starts_with("rustygate_endpoint_healthy{"));
            if endpoints.clone().count() > 0 && endpoints.by_ref().filter(|line| line.ends_with(" 1")).count() == wanted
            {
                return;
            }
        }
    };
    within("that many endpoints that are well", seen).await;
}

#[tokio::test]
async fn below_the_panic_threshold_all_are_used_whatever_their_checks_say() {
    let ill = [always("503 No").await, always("503 No").await, always("503 No").await];
    let [well_one] = nodes().await;
    let nodes: Vec<Witness> = ill.into_iter().chain([well_one]).collect();
    let terms = |threshold: &str| {
        format!(
            ", load_balancing: {{policy: round_robin}}, outlier_detection: {{consecutive_gateway_errors: 0}}, \
             health_check: {{path: /health, interval: 100ms, unhealthy_threshold: 1, healthy_threshold: 1}}{threshold}"
        )
    };
    let once = ", retry: {attempts: 0}";
    let mut gateway = Gateway::builder().manifest(&manifest(&nodes, &terms(""), once)).start().await;
    well(&gateway, 1).await;
    // A quarter is well: 25 percent are not below 25.
    for (threshold, each) in [("", 0), (", panic_threshold: 26", 10), (", panic_threshold: 0", 0)] {
        gateway.apply(&manifest(&nodes, &terms(threshold), once)).await;
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let shares = shares(&mut client, &nodes, 40).await;
        assert_eq!(shares, [each, each, each, 40 - 3 * each], "{threshold:?}");
    }
    gateway.shutdown().await;
}

#[tokio::test]
async fn as_many_as_allowed_are_ejected_and_for_no_other_failures_than_those_counted() {
    for (terms, status, ejected) in [
        ("", "500 No", 0),
        ("", "503 No", 2),
        ("consecutive_5xx: 3", "500 No", 2),
        ("consecutive_5xx: 3, max_ejected_percent: 75", "500 No", 3),
        ("consecutive_5xx: 3, max_ejected_percent: 1", "500 No", 1),
        ("consecutive_5xx: 3, max_ejected_percent: 100", "500 No", 3),
        ("consecutive_5xx: 3", "404 No", 0),
    ] {
        let what = format!("{terms:?}, {status}");
        let [good] = nodes().await;
        let nodes = [always(status).await, always(status).await, always(status).await, good];
        let terms = format!(
            ", load_balancing: {{policy: round_robin}}, panic_threshold: 0, outlier_detection: {{{}base_ejection_time: 1h}}",
            if terms.is_empty() { String::new() } else { format!("{terms}, ") }
        );
        with_gateway(&manifest(&nodes, &terms, ", retry: {attempts: 0}"), async |gateway| {
            let mut client = Client::connect(gateway.proxy_addr()).await;
            shares(&mut client, &nodes, 40).await;
            let shares = shares(&mut client, &nodes, 40).await;
            assert_eq!(shares[..3].iter().filter(|&&share| share == 0).count(), ejected, "{what}: {shares:?}");
            assert!(shares[3] >= 10, "{what}: {shares:?}");
            let metrics = gateway.metrics(0).await;
            let line = |line: &&str| line.starts_with("rustygate_endpoint_ejections_total{") && line.ends_with(" 1");
            assert_eq!(metrics.lines().filter(line).count(), ejected, "{what}");
        })
        .await;
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another_endpoint() {
    let hung = Witness::start(|_| Reply::Hold).await;
    let nodes = [hung, Witness::saying("here").await];
    let route = |rest: &str| format!(", timeouts: {{per_try: 200ms, total: 20s}}{rest}");
    let terms = ", load_balancing: {policy: round_robin}, outlier_detection: {consecutive_gateway_errors: 0}";
    let mut gateway = Gateway::builder().manifest(&manifest(&nodes, terms, &route(""))).start().await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    for method in ["GET", "PUT"] {
        let begun = Instant::now();
        for _ in 0..4 {
            let answer = client.request(method, "/", &[], b"").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "here"), "{method}");
        }
        // Half of them at least went to the one that hangs first.
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "a try has its own bound: {:?}", begun.elapsed());
    }
    let asked = counts(&nodes);
    assert!(asked[0] >= 4 && asked[1] == 8, "{asked:?}");
    // One that may have done something is not sent twice, and one that is not to be tried again is not either.
    for (method, rest) in [("POST", ""), ("GET", ", retry: {on: [connect]}"), ("GET", ", retry: {attempts: 0}")] {
        gateway.apply(&manifest(&nodes, terms, &route(rest))).await;
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(client.request(method, "/", &[], b"").await.status);
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 504], "{method}{rest}");
    }
    gateway.shutdown().await;
}

/// Answers checks by a pattern of good and bad ones that goes on for ever from its second part.
async fn checked(first: &'static [bool], then: &'static [bool]) -> (Witness, Arc<AtomicUsize>) {
    let checks = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&checks);
    let node = Witness::start(move |seen| {
        if !seen.line().contains("/health") {
            return Reply::Send(answer("here"));
        }
        let number = count.fetch_add(1, Relaxed);
        let good = match first.get(number) {
            Some(&good) => good,
            None => then[(number - first.len()) % then.len()],
        };
        Reply::Send(if good { answer("well") } else { b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec() })
    })
    .await;
    (node, checks)
}

#[tokio::test]
async fn an_endpoint_changes_after_as_many_checks_in_a_row_as_asked_for() {
    let (never_down, _) = checked(&[], &[false, false, true]).await;
    let (never_up, _) = checked(&[false, false, false], &[true, false]).await;
    let (back, checks) = checked(&[false, false, false, true, false, true, true], &[true]).await;
    let nodes = [never_down, never_up, back];
    let terms = ", health_check: {path: /health, interval: 100ms, unhealthy_threshold: 3, healthy_threshold: 2}";
    with_gateway(&manifest(&nodes, terms, ""), async |gateway| {
        let mut states = nodes.each_ref().map(|_| Vec::new());
        let changed = async {
            while checks.load(Relaxed) < 20 {
                let metrics = gateway.metrics(0).await;
                for (node, states) in nodes.iter().zip(&mut states) {
                    let name = format!("rustygate_endpoint_healthy{{backend=\"b\",endpoint=\"{}\"}} ", node.addr());
                    let state = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("a state");
                    states.push(state == "1");
                    states.dedup();
                }
            }
        };
        within("twenty checks", changed).await;
        assert_eq!(states, [vec![true], vec![true, false], vec![true, false, true]]);
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_is_checked_once_however_many_backends_and_routes_name_it() {
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    let noted = Arc::clone(&times);
    let is_well = Arc::new(AtomicBool::new(true));
    let says = Arc::clone(&is_well);
    let node = Witness::start(move |_| {
        noted.lock().expect("no panic").push(Instant::now());
        Reply::Send(if says.load(Relaxed) {
            answer("")
        } else {
            b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec()
        })
    })
    .await;
    let check = "health_check: {path: /health, interval: 200ms, unhealthy_threshold: 1}";
    let mut yaml = "backends:\n".to_owned();
    for number in 0..8 {
        yaml += &format!("- {{name: b{number}, endpoints: [\"{}\"], {check}}}\n", node.url());
    }
    yaml += "routes:\n";
    for number in 0..16 {
        yaml += &format!("- {{name: r{number}, path: /{number}, backend: b{}}}\n", number % 8);
    }
    with_gateway(&yaml, async |gateway| {
        within("eleven checks", async {
            while times.lock().expect("no panic").len() < 11 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let (first, last) = {
            let times = times.lock().expect("no panic");
            (times[0], times[10])
        };
        // Ten pauses of at least 180 ms; the second of two checkers would halve that.
        assert!(last - first > Duration::from_millis(1500), "{:?}", last - first);
        is_well.store(false, Relaxed);
        let told = async {
            loop {
                let metrics = gateway.metrics(0).await;
                let down = |line: &&str| line.starts_with("rustygate_endpoint_healthy{") && line.ends_with(" 0");
                if metrics.lines().filter(down).count() == 8 {
                    return;
                }
            }
        };
        within("what it found to reach every backend", told).await;
    })
    .await;
}
