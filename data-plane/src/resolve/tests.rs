use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn found(texts: &[&str], seconds: u64) -> Family {
    Family::Found { addresses: ips(texts), ttl: Duration::from_secs(seconds) }
}

fn nothing() -> Family {
    Family::Nothing { ttl: Duration::from_secs(300) }
}

fn failed() -> Family {
    Family::Failed { error: "no answer".to_owned() }
}

/// The waiting time without its jitter of a twentieth.
fn learn(progress: &mut Progress, v4: Family, v6: Family) -> Duration {
    progress.learn(Answer { v4, v6 }, Instant::now())
}

fn is_about(wait: Duration, seconds: u64) -> bool {
    let exact = Duration::from_secs(seconds);
    wait >= exact && wait <= exact.mul_f64(1.05)
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_is_honoured_within_bounds() {
    let mut progress = Progress::default();
    for (ttl, expected) in [(0, 1), (1, 1), (60, 60), (3600, 3600), (604_800, 3600)] {
        let wait = learn(&mut progress, found(&["10.0.0.1"], ttl), nothing());
        assert!(is_about(wait, expected), "{ttl}: {wait:?}");
    }
    let wait = learn(&mut progress, found(&["10.0.0.1"], 60), found(&["2001:db8::1"], 20));
    assert!(is_about(wait, 20), "{wait:?}");
    let wait = learn(&mut progress, found(&["10.0.0.1"], 3600), failed());
    assert!(is_about(wait, 30), "the other kind is asked for again soon: {wait:?}");
}

#[tokio::test(start_paused = true)]
async fn families_take_turns_and_the_order_of_an_answer_means_nothing() {
    let mut progress = Progress::default();
    learn(&mut progress, found(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 60), found(&["2001:db8::1"], 60));
    assert_eq!(*progress.known.list, ips(&["2001:db8::1", "10.0.0.1", "10.0.0.2"]));
    let before = Arc::clone(&progress.known);
    learn(&mut progress, found(&["10.0.0.1", "10.0.0.2"], 60), found(&["2001:db8::1"], 60));
    assert!(Arc::ptr_eq(&before, &progress.known), "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn failures_change_nothing_for_ever_and_are_asked_again_more_and_more_rarely() {
    let mut progress = Progress::default();
    learn(&mut progress, found(&["10.0.0.1"], 60), nothing());
    let mut longest = Duration::ZERO;
    for _ in 0..100 {
        let wait = learn(&mut progress, failed(), nothing());
        assert!(wait <= RETRY_MAX && wait >= TTL_MIN, "{wait:?}");
        longest = longest.max(wait);
        tokio::time::advance(wait).await;
        assert_eq!(*progress.known.list, ips(&["10.0.0.1"]));
        assert!(progress.stale());
    }
    assert!(longest > RETRY_MAX / 2, "{longest:?}");
    learn(&mut progress, found(&["10.0.0.2"], 60), nothing());
    assert_eq!(*progress.known.list, ips(&["10.0.0.2"]));
    assert!(!progress.stale());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_fails_keeps_its_addresses_and_a_kind_that_is_gone_does_not() {
    let mut progress = Progress::default();
    learn(&mut progress, found(&["10.0.0.1"], 60), found(&["2001:db8::1"], 60));
    learn(&mut progress, failed(), found(&["2001:db8::2"], 60));
    assert_eq!(*progress.known.list, ips(&["2001:db8::2", "10.0.0.1"]));
    learn(&mut progress, found(&["10.0.0.1"], 60), nothing());
    assert_eq!(*progress.known.list, ips(&["10.0.0.1"]));
}

#[tokio::test(start_paused = true)]
async fn addresses_are_given_up_when_there_is_nothing_for_long_and_only_then() {
    let mut progress = Progress::default();
    learn(&mut progress, found(&["10.0.0.1"], 60), nothing());
    let begun = Instant::now();
    while begun.elapsed() < NOTHING_HOLD {
        let wait = learn(&mut progress, nothing(), nothing());
        assert!(wait <= RETRY_MAX.mul_f64(1.05), "{wait:?}");
        assert_eq!(*progress.known.list, ips(&["10.0.0.1"]), "after {:?}", begun.elapsed());
        tokio::time::advance(wait).await;
    }
    learn(&mut progress, nothing(), nothing());
    assert!(progress.known.list.is_empty());

    learn(&mut progress, found(&["10.0.0.1"], 60), nothing());
    learn(&mut progress, nothing(), nothing());
    tokio::time::advance(NOTHING_HOLD).await;
    learn(&mut progress, failed(), nothing());
    tokio::time::advance(NOTHING_HOLD).await;
    learn(&mut progress, nothing(), nothing());
    assert_eq!(*progress.known.list, ips(&["10.0.0.1"]), "a failure between them starts the time anew");
}

#[tokio::test(start_paused = true)]
async fn the_number_of_addresses_has_a_bound() {
    let many: Vec<IpAddr> = (0..1000_u32).map(|index| std::net::Ipv4Addr::from(0x0a00_0000 + index).into()).collect();
    let mut progress = Progress::default();
    let ttl = Duration::from_secs(60);
    learn(&mut progress, Family::Found { addresses: many, ttl }, found(&["2001:db8::1"], 60));
    assert_eq!(progress.known.list.len(), ADDRESSES_MAX);
    assert!(progress.known.list.contains(&ips(&["2001:db8::1"])[0]), "the other kind has its share");
}

#[tokio::test(start_paused = true)]
async fn whether_a_name_is_usable_follows_what_is_known_of_it() {
    let names = Names::default();
    assert!(names.usable("10.0.0.1"), "an address is no name");
    let (one, other) = (Arc::new(Name::new("one")), Arc::new(Name::new("other")));
    names.insert(&[Arc::clone(&one), Arc::clone(&other)]);
    assert!(!names.usable("one") && names.usable("10.0.0.1"));
    names.learn(&one, Answer { v4: found(&["10.0.0.1"], 60), v6: nothing() });
    assert!(names.usable("one") && !names.usable("other"));
    names.remove(&[other]);
    assert!(names.usable("other"), "nobody says anything of it");
    assert_eq!(names.empty.load(Relaxed), 0);
    names.remove(&[Arc::clone(&one)]);
    names.learn(&one, Answer { v4: nothing(), v6: nothing() });
    assert_eq!(names.empty.load(Relaxed), 0, "an answer after the end counts nothing");
}

#[tokio::test(start_paused = true)]
async fn names_that_no_snapshot_has_go_after_a_while_and_come_back_anew() {
    let names = Arc::new(Names::default());
    let handle = tokio::runtime::Handle::current();
    // Port 9 of an address for examples: nobody answers.
    let nobody = Lookup::new(vec!["192.0.2.1:9".parse().expect("an address")]);
    let resolver = Resolver::new(Arc::clone(&names), nobody, handle);
    let hosts: Vec<Box<str>> = vec!["a.test".into(), "a.test".into(), "b.test".into()];
    resolver.prepare(&hosts).await;
    let (a, b) = (names.find("a.test").expect("known"), names.find("b.test").expect("known"));
    let snapshot = crate::snapshot::Snapshot::default();
    assert!(!resolver.sweep_once(&snapshot, Instant::now()), "they may be about to be served");
    tokio::time::advance(Duration::from_secs(60)).await;
    resolver.prepare(&hosts[..1]).await;
    assert!(Arc::ptr_eq(&a, &names.find("a.test").expect("known")), "it is the same one");
    assert!(!resolver.sweep_once(&snapshot, Instant::now()));
    assert!(b.retired.load(Relaxed) && names.find("b.test").is_none() && !a.retired.load(Relaxed));
    resolver.prepare(&hosts).await;
    assert!(!Arc::ptr_eq(&b, &names.find("b.test").expect("known again")));
}
