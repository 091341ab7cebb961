mod secrets;

use tempfile::TempDir;

use super::*;

fn route(name: &str, timeout_ms: u64) -> wire::Resource {
    let rule = wire::Rule {
        matches: vec![wire::Match {
            path: Some(wire::PathMatch { kind: Some(wire::path_match::Kind::Prefix(format!("/{name}"))) }),
            ..Default::default()
        }],
        backends: vec![wire::BackendRef {
            target: Some(wire::backend_ref::Target::Url("http://127.0.0.1:9".into())),
            ..Default::default()
        }],
        timeouts: Some(wire::Timeouts { total_ms: Some(timeout_ms), ..Default::default() }),
        ..Default::default()
    };
    let route = wire::Route { name: name.into(), rules: vec![rule], ..Default::default() };
    wire::Resource { kind: Some(wire::resource::Kind::Route(route)) }
}

struct Fixture {
    folder: TempDir,
    applier: Arc<Applier>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let applier = Self::open(&folder).await;
        Self { folder, applier }
    }

    async fn open(folder: &TempDir) -> Arc<Applier> {
        let store = Arc::new(Store::open(&folder.path().join("test.db")).await.expect("opens"));
        let loaded = store.load().await.expect("loads");
        Arc::new(Applier::new(store, loaded, Metrics::new()))
    }

    async fn apply(&self, resources: &[wire::Resource]) -> wire::ApplyResponse {
        self.apply_with(resources, Options::default()).await.expect("applies")
    }

    async fn apply_with(
        &self,
        resources: &[wire::Resource],
        options: Options,
    ) -> Result<wire::ApplyResponse, ApplyError> {
        self.applier.apply_resources(resources.to_vec(), String::new(), false, options).await
    }
}

#[tokio::test]
async fn a_push_makes_one_revision_and_the_same_push_again_none() {
    let fixture = Fixture::new().await;
    let heads = fixture.applier.publisher().subscribe();
    let first = fixture.apply(&[route("a", 1), route("b", 1)]).await;
    assert_eq!((first.revision, first.changed, first.diff.len()), (1, true, 2));
    assert_eq!(heads.borrow().revision.created, 2);
    let again = fixture.apply(&[route("b", 1), route("a", 1)]).await;
    assert_eq!((again.revision, again.changed, again.diff.len()), (1, false, 0));
    let changed = fixture.apply(&[route("b", 2)]).await;
    assert_eq!((changed.revision, changed.diff.len()), (2, 1));
    assert_eq!(changed.diff[0].before, Some(route("b", 1)));
    assert_eq!(changed.diff[0].after, Some(route("b", 2)));
    let step = heads.borrow().step.clone().expect("a step");
    assert_eq!((step.from, step.to), (1, 2));
}

#[tokio::test]
async fn a_dry_run_shows_the_difference_and_writes_nothing() {
    let fixture = Fixture::new().await;
    let options = Options { dry_run: true, ..Default::default() };
    let dry = fixture.apply_with(&[route("a", 1)], options).await.expect("runs");
    assert_eq!((dry.revision, dry.changed, dry.diff.len()), (0, false, 1));
    assert!(fixture.applier.publisher().head().set.is_empty());
    assert_eq!(fixture.applier.store.history_len().await.expect("counts"), 0);
}

#[tokio::test]
async fn a_lost_update_is_refused_with_both_revisions() {
    let fixture = Fixture::new().await;
    fixture.apply(&[route("a", 1)]).await;
    fixture.apply(&[route("a", 2)]).await;
    let options = Options { if_revision: Some(1), ..Default::default() };
    let error = fixture.apply_with(&[route("a", 3)], options).await.expect_err("a conflict");
    assert!(matches!(error, ApplyError::Conflict { wanted: 1, head: 2 }), "{error}");
    let options = Options { if_revision: Some(2), ..Default::default() };
    assert_eq!(fixture.apply_with(&[route("a", 3)], options).await.expect("applies").revision, 3);
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_old_content() {
    let fixture = Fixture::new().await;
    fixture.apply(&[route("a", 1), route("b", 1)]).await;
    let checksum = fixture.applier.publisher().head().set.checksum();
    fixture.apply(&[route("a", 2), route("c", 1)]).await;
    let key = wire::ResourceKey { kind: wire::Kind::Route.into(), name: "b".into() };
    assert_eq!(fixture.applier.delete(vec![key], Options::default()).await.expect("deletes").revision, 3);
    let back = fixture.applier.rollback(1, Options::default()).await.expect("rolls back");
    assert_eq!((back.revision, back.diff.len()), (4, 3));
    assert_eq!(fixture.applier.publisher().head().set.checksum(), checksum);
    assert_eq!(fixture.applier.publisher().head().revision.rollback_of, 1);
    let error = fixture.applier.rollback(9, Options::default()).await.expect_err("not there");
    assert!(matches!(error, ApplyError::NoSuchRevision(9)), "{error}");
}

#[tokio::test]
async fn pushes_at_once_take_turns_and_all_of_them_count() {
    let fixture = Fixture::new().await;
    let pushes: Vec<_> = (0..20)
        .map(|i| {
            let applier = fixture.applier.clone();
            let resources = vec![route(&format!("r{i}"), 1)];
            tokio::spawn(
                async move { applier.apply_resources(resources, String::new(), false, Options::default()).await },
            )
        })
        .collect();
    let mut revisions = Vec::new();
    for push in pushes {
        revisions.push(push.await.expect("no panic").expect("applies").revision);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
    assert_eq!(fixture.applier.publisher().head().set.len(), 20);
}

#[tokio::test]
async fn what_was_applied_is_there_after_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.apply(&[route("a", 1)]).await;
    fixture.apply(&[route("b", 1)]).await;
    let checksum = fixture.applier.publisher().head().set.checksum();
    fixture.applier.store.close().await;
    fixture.applier = Fixture::open(&fixture.folder).await;
    assert_eq!(fixture.applier.publisher().head().set.checksum(), checksum);
    assert_eq!(fixture.apply(&[route("a", 1), route("b", 2)]).await.revision, 3);
}

#[tokio::test]
async fn words_without_end_are_refused() {
    let fixture = Fixture::new().await;
    let options = Options { message: "m".repeat(MESSAGE_BYTES_MAX + 1), ..Default::default() };
    assert!(matches!(fixture.apply_with(&[], options).await, Err(ApplyError::Invalid(_))));
    let owner = "o".repeat(OWNER_BYTES_MAX + 1);
    let owned = fixture.applier.apply_resources(Vec::new(), owner, false, Options::default()).await;
    assert!(matches!(owned, Err(ApplyError::Invalid(_))));
}

#[test]
fn a_tokens_name_goes_before_what_the_client_calls_itself() {
    let said = || Some(wire::ChangeOptions { author: "root".into(), ..Default::default() });
    assert_eq!(Options::new(said(), Some("ci")).author, "ci");
    assert_eq!(Options::new(said(), None).author, "root");
    assert_eq!(Options::new(None, None).author, "anonymous");
}

#[tokio::test]
async fn one_refusal_tells_what_parsing_and_what_compiling_finds() {
    let fixture = Fixture::new().await;
    let push = async |yaml: &str, prune: bool| {
        let document = wire::Document { file: "a.yaml".into(), yaml: yaml.into() };
        let request = wire::ApplyRequest { documents: vec![document], prune, ..Default::default() };
        fixture.applier.apply(request, Options::default()).await.expect("is answered")
    };
    let live = "backends: [{name: live, endpoints: [{url: \"http://127.0.0.1:9\"}]}]\n";
    assert_eq!(push(live, false).await.revision, 1);

    let faulty = "routes:\n\
                  - {name: a, path: /a, backend: live, timeout: soon}\n\
                  - {name: b, path: /b, backend: live}\n\
                  - {name: c, path: /c, backend: gone}\n";
    let codes = |response: &wire::ApplyResponse| {
        let faults = response.faults.iter();
        faults.map(|fault| (fault.code.clone(), fault.location.as_ref().map_or(0, |at| at.line))).collect::<Vec<_>>()
    };
    let refused = push(faulty, false).await;
    assert_eq!((refused.revision, refused.changed), (1, false));
    assert_eq!(codes(&refused), [("RG0107".to_owned(), 2), ("RG0201".to_owned(), 4)]);
    // Pruning would take the backend away as well.
    let refused = push(faulty, true).await;
    assert_eq!(codes(&refused)[1..], [("RG0201".to_owned(), 3), ("RG0201".to_owned(), 4)]);
    // What cannot be read is not what is no longer wanted.
    let kept = "backends: [{name: live, endpoints: [{url: 7}]}]\nroutes: [{name: b, path: /b, backend: live}]\n";
    let refused = push(kept, true).await;
    assert!(refused.faults.iter().all(|fault| fault.name == "live"), "{:?}", refused.faults);
    assert_eq!(fixture.applier.publisher().revision(), 1);
}

#[tokio::test]
async fn who_lacks_the_same_is_sent_the_same_bytes() {
    let fixture = Fixture::new().await;
    for timeout_ms in 1..=3 {
        fixture.apply(&[route("a", timeout_ms), route("b", 1)]).await;
    }
    let publisher = fixture.applier.publisher();
    let asked = |from: u64| {
        let asking = (0..50).map(|_| {
            let publisher = Arc::clone(publisher);
            tokio::spawn(async move { publisher.transaction(from).await.expect("packs") })
        });
        let asking: Vec<_> = asking.collect();
        async move {
            let mut packed = Vec::new();
            for one in asking {
                packed.push(one.await.expect("no panic"));
            }
            packed
        }
    };
    // A new proxy, one that missed a revision, and one that is up to date but for the last push.
    let [all, missed, step] = [asked(0).await, asked(1).await, asked(2).await];
    for (packed, from) in [(&all, 0), (&missed, 1), (&step, 2)] {
        assert!(packed.iter().all(|one| Arc::ptr_eq(one, &packed[0])), "from {from}: packed once for all");
        assert_eq!((packed[0].from, packed[0].to), (from, 3));
    }
    assert!(Arc::ptr_eq(&asked(0).await[0], &all[0]), "and kept for who asks later");
    fixture.apply(&[route("a", 9)]).await;
    assert_eq!(asked(0).await[0].to, 4, "until it is old");
}
