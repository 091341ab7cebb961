use super::copies::{Copying, RequestCopy};
use crate::{
    plugin::{
        Rewrite,
        rig::Rig,
        tests::{fields_at_fault, lines},
    },
    telemetry::metrics::MirrorDrop,
};

fn rig(more: &str) -> Rig {
    Rig::with_backend("shadow", "http://127.0.0.1:1/x", "mirror", &format!(r#"{{"backend": "shadow"{more}}}"#))
}

/// Lets the request go on, and takes its copies.
async fn copies(rig: &mut Rig) -> Vec<RequestCopy> {
    assert!(rig.ask().await.is_none());
    std::mem::take(&mut rig.facts.copies)
}

fn drops(rig: &Rig) -> [u64; 4] {
    let drops = &rig.worker.shared.metrics.gauges.mirror_drops;
    [MirrorDrop::TooLarge, MirrorDrop::Busy, MirrorDrop::Unfinished, MirrorDrop::Failed].map(|reason| drops.get(reason))
}

#[tokio::test]
async fn the_copy_is_what_goes_upstream() {
    let mut rig = rig("");
    rig.method = "PUT";
    rig.field("X-Tag", "1").field("Trailer", "x-sum");
    let copy = copies(&mut rig).await.pop().expect("a copy");
    assert_eq!((&*copy.method, &*copy.path, copy.query.as_deref()), ("PUT", "/users", Some("a=1")));
    assert_eq!((copy.host.as_deref(), &*copy.backend.name), (Some("a.example:8080"), "shadow"));
    let told =
        ["X-Tag: 1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: a.example:8080"];
    assert_eq!(lines(&copy.fields), told);
    let rewrite = Rewrite { path: Some("/other".into()), host: Some("b.example".into()), query: Some("b=2".into()) };
    rig.facts.rewrite = Some(Box::new(rewrite));
    let copy = copies(&mut rig).await.pop().expect("a copy");
    assert_eq!((&*copy.path, copy.query.as_deref(), copy.host.as_deref()), ("/other", Some("b=2"), Some("b.example")));
    assert_eq!(copy.fields.get("x-forwarded-host"), Some(&b"a.example:8080"[..]));
}

#[tokio::test]
async fn as_many_are_copied_as_is_said() {
    for (percent, range) in [("0", 0..1), ("0.05", 0..20), ("50", 350..650), ("100", 1000..1001)] {
        let mut rig = rig(&format!(r#", "percent": {percent}"#));
        let mut count = 0;
        for _ in 0..1000 {
            count += copies(&mut rig).await.len();
        }
        assert!(range.contains(&count), "{percent}: {count}");
    }
}

#[tokio::test]
async fn no_more_are_kept_than_may_be_and_each_that_goes_makes_room() {
    let mut rig = rig(r#", "in_flight_max": 2"#);
    let (first, second) = (copies(&mut rig).await, copies(&mut rig).await);
    assert_eq!((first.len(), second.len(), copies(&mut rig).await.len()), (1, 1, 0));
    assert_eq!(drops(&rig), [0, 1, 0, 0]);
    drop(first);
    assert_eq!(copies(&mut rig).await.len(), 1);
}

#[tokio::test]
async fn bodies_are_copied_up_to_their_bound_and_dropped_beyond() {
    let mut rig = rig(r#", "body_bytes_max": 10"#);
    rig.body_length = Some(11);
    assert!(copies(&mut rig).await.is_empty());
    assert_eq!(drops(&rig), [1, 0, 0, 0]);
    rig.body_length = None;
    let mut large = Copying::begin(copies(&mut rig).await, &rig.worker);
    large.keep(b"0123456789");
    large.keep(b"x");
    large.finish();
    assert_eq!(drops(&rig), [2, 0, 0, 0]);
    let mut unfinished = Copying::begin(copies(&mut rig).await, &rig.worker);
    unfinished.keep(b"01234");
    drop(unfinished);
    assert_eq!(drops(&rig), [2, 0, 1, 0]);
    let mut whole = Copying::begin(copies(&mut rig).await, &rig.worker);
    whole.keep(b"01234");
    whole.keep(b"56789");
    whole.finish();
    whole.keep(b"of another try");
    whole.finish();
    drop(whole);
    assert_eq!(drops(&rig), [2, 0, 1, 0]);
    let queued = rig.worker.copies.next().expect("one that is to be sent");
    assert_eq!(queued.body, b"0123456789");
    assert!(rig.worker.copies.next().is_none());
}

#[test]
fn mistakes_are_told() {
    assert_eq!(fields_at_fault("mirror", "{}"), ["config"]);
    let of = |more: &str| fields_at_fault("mirror", &format!(r#"{{"backend": "shadow", {more}}}"#));
    for percent in ["-1", "100.5", "\"10\"", "true", "null"] {
        assert_eq!(of(&format!(r#""percent": {percent}"#)), ["config.percent"], "{percent}");
    }
    assert_eq!(of(r#""body_bytes_max": 100000000"#), ["config.body_bytes_max"]);
    assert_eq!(of(r#""in_flight_max": 0"#), ["config.in_flight_max"]);
}
