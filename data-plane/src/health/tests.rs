use std::time::Duration;

use rustygate_proto::v1::endpoint_health::State;
use tokio::time::advance;

use super::*;
use crate::snapshot::OutlierDetection;

fn change(name: &str, urls: &[&str]) -> wire::Change {
    let endpoint = |url: &&str| wire::Endpoint { url: (*url).to_owned(), weight: None };
    let backend = wire::Backend {
        name: name.to_owned(),
        endpoints: urls.iter().map(endpoint).collect(),
        ..wire::Backend::default()
    };
    let resource = wire::Resource { kind: Some(wire::resource::Kind::Backend(backend)) };
    wire::Change {
        kind: wire::Kind::Backend.into(),
        name: name.to_owned(),
        resource: Some(prost::Message::encode_to_vec(&resource).into()),
    }
}

fn snapshot(changes: &[wire::Change]) -> Snapshot {
    Snapshot::default().compile(1, changes).expect("valid")
}

fn backend(snapshot: &Snapshot, name: &str) -> Arc<Backend> {
    Arc::clone(snapshot.backends().find(|backend| &*backend.name == name).expect("it is there"))
}

#[tokio::test]
async fn an_endpoint_has_one_state_of_checks_and_one_for_each_backend() {
    let snapshot = snapshot(&[change("a", &["http://x", "http://y"]), change("b", &["http://y:80/base", "http://z"])]);
    let health = Health::default();
    let (group_a, a) = health.group(&backend(&snapshot, "a"));
    let (group_b, b) = health.group(&backend(&snapshot, "b"));
    assert!(Arc::ptr_eq(&a[1].checks, &b[0].checks) && !Arc::ptr_eq(&a[1], &b[0]));
    assert!(!Arc::ptr_eq(&group_a, &group_b));
    let (again, members) = health.group(&backend(&snapshot, "a"));
    assert!(Arc::ptr_eq(&again, &group_a) && Arc::ptr_eq(&members[0], &a[0]));
    b[0].checks.set(false, Moment(7));
    let now = health.moment(Instant::now());
    assert!(!a[1].usable(now) && a[0].usable(now));
}

#[tokio::test]
async fn what_neither_the_configuration_nor_a_worker_has_is_forgotten() {
    let both = snapshot(&[change("a", &["http://x", "http://y"]), change("b", &["http://z", "http://w"])]);
    let only_x = snapshot(&[change("a", &["http://x", "http://v"])]);
    let health = Health::default();
    let held = health.group(&backend(&both, "b"));
    drop(health.group(&backend(&both, "a")));
    health.forget(&both);
    let counts = || {
        let known = health.known();
        let members: usize = known.groups.values().map(|entry| entry.members.len()).sum();
        (known.groups.len(), members, known.checks.len())
    };
    assert_eq!(counts(), (2, 4, 4), "they are configured");
    health.forget(&only_x);
    assert_eq!(counts(), (2, 3, 3), "a worker has those of b");
    drop(held);
    health.forget(&only_x);
    health.forget(&only_x);
    assert_eq!(counts(), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_report_has_what_is_unhealthy_and_changes_only_with_that() {
    let snapshot = snapshot(&[change("a", &["http://x", "http://[::1]:81"])]);
    let health = Health::default();
    let mut reports = health.reports();
    let (group, members) = health.group(&backend(&snapshot, "a"));
    health.update_report();
    assert!(!reports.has_changed().expect("a sender"));
    let bad = members[0].failed(Duration::ZERO, health.moment(Instant::now()));
    let terms = OutlierDetection { consecutive_gateway_errors: 1, ..OutlierDetection::default() };
    members[0].judge(bad, &terms, &group, members.iter().map(|member| &**member), health.moment(Instant::now()));
    members[1].checks.set(false, health.moment(Instant::now()));
    health.update_report();
    let report = Arc::clone(&reports.borrow_and_update());
    let told: Vec<_> =
        report.unhealthy.iter().map(|one| (one.backend.as_str(), one.endpoint.as_str(), one.state())).collect();
    assert_eq!(told, [("", "[::1]:81", State::Down), ("a", "x:80", State::Ejected)]);
    advance(Duration::from_secs(5)).await;
    health.update_report();
    assert!(!reports.has_changed().expect("a sender"), "nothing is new");
    // The ejection is over.
    advance(Duration::from_secs(6)).await;
    health.update_report();
    assert_eq!(reports.borrow_and_update().unhealthy.len(), 1);
}

#[tokio::test]
async fn a_report_is_bounded_and_says_so() {
    let urls: Vec<String> = (1..=1000).map(|port| format!("http://x:{port}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let snapshot = snapshot(&[change("a", &urls), change("b", &["http://y:1", "http://y:2"])]);
    let health = Health::default();
    for name in ["a", "b"] {
        for member in health.group(&backend(&snapshot, name)).1 {
            member.checks.set(false, Moment(1));
        }
    }
    health.update_report();
    let report = Arc::clone(&health.reports().borrow());
    assert_eq!((report.unhealthy.len(), report.omitted), (1000, 2));
}
