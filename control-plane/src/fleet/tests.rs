use super::*;

fn hello(node_id: &str) -> wire::Hello {
    wire::Hello { node_id: node_id.into(), ..Default::default() }
}

fn fleet() -> Arc<Fleet> {
    Fleet::new(3, Metrics::new())
}

fn connect(fleet: &Arc<Fleet>, node_id: &str, revision: u64) -> Session {
    fleet.connect(&hello(node_id), revision, None).expect("let in")
}

async fn outcome(fleet: &Arc<Fleet>, revision: u64) -> Outcome {
    fleet.wait(revision, Duration::from_millis(20)).await.outcome()
}

#[tokio::test]
async fn waiting_ends_when_all_who_are_connected_serve_it() {
    let fleet = fleet();
    assert_eq!(outcome(&fleet, 5).await, Outcome::Serving);
    let a = connect(&fleet, "a", 5);
    let b = connect(&fleet, "b", 4);
    assert_eq!(outcome(&fleet, 5).await, Outcome::TimedOut);
    let waiting = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.wait(5, Duration::from_secs(60)).await }
    });
    tokio::task::yield_now().await;
    b.acknowledged(6, Duration::from_millis(3));
    let response = waiting.await.expect("no panic");
    assert_eq!((response.outcome(), response.proxies.len()), (Outcome::Serving, 2));
    assert_eq!(response.proxies[1].lag_ms, Some(3));
    drop(a);
    assert_eq!(fleet.wait(5, Duration::ZERO).await.proxies.len(), 1);
}

#[tokio::test]
async fn waiting_ends_at_once_when_someone_refuses() {
    let fleet = fleet();
    let slow = connect(&fleet, "slow", 4);
    let bad = connect(&fleet, "bad", 4);
    let fault = wire::Fault { code: "RG0301".into(), message: "taken".into(), ..Default::default() };
    bad.refused(6, vec![fault]);
    let response = fleet.wait(5, Duration::from_secs(60)).await;
    assert_eq!(response.outcome(), Outcome::Refused);
    assert_eq!(response.proxies[0].faults[0].code, "RG0301");
    bad.acknowledged(7, Duration::ZERO);
    slow.acknowledged(7, Duration::ZERO);
    assert_eq!(outcome(&fleet, 5).await, Outcome::Serving);
    assert!(fleet.list()[0].faults.is_empty());
    // Serving what was asked for, and refusing something later, is serving.
    bad.refused(8, Vec::new());
    assert_eq!(outcome(&fleet, 7).await, Outcome::Serving);
    assert_eq!(outcome(&fleet, 8).await, Outcome::Refused);
}

#[tokio::test]
async fn a_newer_stream_takes_the_node_id_and_a_fight_over_it_is_shown() {
    let fleet = fleet();
    let mut session = connect(&fleet, "a", 1);
    for round in 1..=REPLACEMENTS_MAX {
        assert!(fleet.list()[0].faults.is_empty(), "{round}");
        let newer = connect(&fleet, "a", 2);
        assert!(session.replaced.is_cancelled() && !newer.replaced.is_cancelled());
        session.acknowledged(99, Duration::ZERO);
        drop(std::mem::replace(&mut session, newer));
        let proxies = fleet.list();
        assert_eq!((proxies.len(), proxies[0].connected, proxies[0].revision), (1, true, 2));
    }
    assert_eq!(fleet.list()[0].faults[0].code, "RG0403");
    drop(session);
    assert!(!fleet.list()[0].connected);
}

#[tokio::test]
async fn the_fleet_is_bounded_and_so_is_what_proxies_say() {
    let fleet = fleet();
    let sessions: Vec<_> = ["a", "b", "c"].iter().map(|node_id| connect(&fleet, node_id, 0)).collect();
    assert_eq!(fleet.connect(&hello("d"), 0, None).expect_err("full"), Refused::Full(3));
    // One that is in may come again.
    drop(connect(&fleet, "a", 0));
    drop(connect(&fleet, "d", 0));
    assert_eq!(fleet.connect(&hello(""), 0, None).expect_err("empty"), Refused::BadNodeId);
    assert_eq!(fleet.connect(&hello("a\nb"), 0, None).expect_err("control"), Refused::BadNodeId);
    assert_eq!(fleet.connect(&hello(&"a".repeat(256)), 0, None).expect_err("long"), Refused::BadNodeId);
    let many = (0..=LABELS_MAX).map(|i| (i.to_string(), String::new())).collect();
    let labels = wire::Hello { labels: many, ..hello("e") };
    assert_eq!(fleet.connect(&labels, 0, None).expect_err("many labels"), Refused::BadLabels);
    let fault = wire::Fault { message: "\u{e9}".repeat(FAULT_TEXT_BYTES_MAX), ..Default::default() };
    sessions[1].refused(1, vec![fault; 2 * FAULTS_MAX]);
    let faults = &fleet.list()[1].faults;
    assert_eq!(faults.len(), FAULTS_MAX);
    assert!(faults[0].message.len() <= FAULT_TEXT_BYTES_MAX);
}

#[tokio::test]
async fn those_who_are_gone_are_listed_up_to_a_bound() {
    let fleet = fleet();
    for i in 0..GONE_MAX + 50 {
        drop(connect(&fleet, &format!("node-{i}"), 0));
    }
    assert_eq!(fleet.list().len(), GONE_MAX);
}

#[tokio::test]
async fn what_a_proxy_says_of_endpoints_is_bounded_and_goes_with_it() {
    let fleet = fleet();
    let session = connect(&fleet, "a", 1);
    let health = |endpoint: String| wire::EndpointHealth { endpoint, ..wire::EndpointHealth::default() };
    let unhealthy = (0..1_500).map(|number| health(format!("{number}{}", "é".repeat(1_000)))).collect();
    session.reported(wire::HealthReport { unhealthy, omitted: 3 });
    let report = fleet.list()[0].health.clone().expect("a report");
    assert_eq!((report.unhealthy.len(), report.omitted), (1_000, 503));
    assert!(report.unhealthy.iter().all(|health| health.endpoint.len() <= 512));
    session.reported(wire::HealthReport::default());
    assert_eq!(fleet.list()[0].health, Some(wire::HealthReport::default()));
    session.reported(wire::HealthReport { unhealthy: vec![health("x".into())], omitted: 0 });
    drop(session);
    assert_eq!(fleet.list()[0].health, None, "nobody knows any more");
}
