use super::*;

/// A route that needs nothing else; its content differs by `port`.
pub(crate) fn route(name: &str, port: u16) -> Change {
    use prost::Message as _;
    use wire::{backend_ref, path_match, resource};
    let rule = wire::Rule {
        matches: vec![wire::Match {
            path: Some(wire::PathMatch { kind: Some(path_match::Kind::Prefix(format!("/{name}"))) }),
            ..wire::Match::default()
        }],
        backends: vec![wire::BackendRef {
            target: Some(backend_ref::Target::Url(format!("http://127.0.0.1:{port}"))),
            ..wire::BackendRef::default()
        }],
        ..wire::Rule::default()
    };
    let route = wire::Route { name: name.to_owned(), rules: vec![rule], ..wire::Route::default() };
    let resource = wire::Resource { kind: Some(resource::Kind::Route(route)) };
    Change { kind: Kind::Route.into(), name: name.to_owned(), resource: Some(resource.encode_to_vec().into()) }
}

pub(crate) fn removal(name: &str) -> Change {
    Change { kind: Kind::Route.into(), name: name.to_owned(), resource: None }
}

/// Of the set that consists of these.
pub(crate) fn checksum(set: &[Change]) -> Vec<u8> {
    let mut sum = Checksum::default();
    for change in set {
        sum.add(&ContentHash::of(change.kind(), &change.name, change.resource.as_ref().expect("no removal")));
    }
    sum.to_bytes().to_vec()
}

pub(crate) fn transaction(from: u64, to: u64, changes: &[Change], set: &[Change]) -> Transaction {
    Transaction {
        store_id: "store".to_owned(),
        from_revision: from,
        to_revision: to,
        changes: changes.to_vec(),
        checksum: checksum(set),
    }
}

/// A held set of these at the revision.
pub(crate) fn held(revision: u64, set: &[Change]) -> Held {
    let mut held = Held::default();
    let stage = held.stage(transaction(0, revision, set, set)).expect("stages");
    held.apply(stage);
    held
}

#[test]
fn a_delta_changes_what_it_names_and_nothing_else() {
    let mut held = held(1, &[route("a", 1), route("b", 2), route("c", 3)]);
    let set = [route("a", 1), route("b", 9), route("d", 4)];
    let changes = [route("b", 9), removal("c"), route("d", 4)];
    let stage = held.stage(transaction(1, 2, &changes, &set)).expect("stages");
    assert_eq!(stage.changes(), changes);
    assert_eq!(held.revision(), 1, "staging changes nothing");
    held.apply(stage);
    assert_eq!((held.revision(), held.len(), held.store_id()), (2, 3, "store"));
    assert_eq!(held.checksum().to_bytes().to_vec(), checksum(&set));
}

#[test]
fn a_full_replacement_is_reduced_to_the_difference() {
    let mut held = held(1, &[route("same", 1), route("changed", 2), route("gone", 3)]);
    let set = [route("same", 1), route("changed", 9), route("new", 4)];
    let stage = held.stage(transaction(0, 7, &set, &set)).expect("stages");
    assert_eq!(stage.changes(), [route("changed", 9), route("new", 4), removal("gone")]);
    held.apply(stage);
    assert_eq!((held.revision(), held.len()), (7, 3));
}

#[test]
fn what_is_held_already_or_not_at_all_is_no_change() {
    let held = held(1, &[route("a", 1)]);
    let changes = [route("a", 1), removal("never-held")];
    let stage = held.stage(transaction(1, 2, &changes, &[route("a", 1)])).expect("stages");
    assert_eq!(stage.changes(), []);
    assert_eq!(stage.revision(), 2);
}

#[test]
fn a_wrong_checksum_or_base_is_refused() {
    let held = held(3, &[route("a", 1)]);
    let wrong = held.stage(transaction(3, 4, &[route("b", 1)], &[route("b", 1)]));
    assert!(matches!(wrong, Err(StageError::Checksum { revision: 4 })));
    let set = [route("a", 1), route("b", 1)];
    let base = held.stage(transaction(2, 4, &[route("b", 1)], &set));
    assert!(matches!(base, Err(StageError::Base { from: 2, held: 3, .. })));
    let mut other_store = transaction(3, 4, &[route("b", 1)], &set);
    other_store.store_id = "another".to_owned();
    assert!(matches!(held.stage(other_store), Err(StageError::Base { .. })));
    let mut short = transaction(3, 4, &[route("b", 1)], &set);
    short.checksum.pop();
    assert!(matches!(held.stage(short), Err(StageError::Checksum { .. })));
}

#[test]
fn every_unreadable_change_is_a_fault() {
    let held = Held::default();
    let unknown = Change { kind: 99, name: "future".to_owned(), resource: None };
    let nameless = Change { name: String::new(), ..route("x", 1) };
    let changes = [unknown, nameless, route("twice", 1), route("twice", 2)];
    let Err(StageError::Faults(faults)) = held.stage(transaction(0, 1, &changes, &[])) else {
        panic!("must be refused")
    };
    let names: Vec<_> = faults.iter().map(|fault| fault.name.as_str()).collect();
    assert_eq!(names, ["future", "", "twice"]);
}

#[test]
fn a_held_resource_does_not_keep_the_chunk_it_came_in() {
    let chunk = Bytes::from(vec![0; 1 << 20]);
    let change = Change { resource: Some(chunk.slice(..10)), ..route("a", 1) };
    let held = held(1, &[change]);
    let image = held.image();
    let kept = image.resources[0].bytes.as_ptr_range();
    assert!(!chunk.as_ptr_range().contains(&kept.start));
}
