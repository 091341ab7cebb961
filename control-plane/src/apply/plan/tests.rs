use super::*;

fn route(name: &str, host: &str) -> wire::Resource {
    let route = wire::Route { name: name.into(), hosts: vec![host.into()], ..Default::default() };
    wire::Resource { kind: Some(wire::resource::Kind::Route(route)) }
}

fn set(owner: &str, resources: &[wire::Resource]) -> Set {
    let stored = |resource: &wire::Resource| {
        let (kind, name) = resource.key().expect("a kind");
        let body = resource.encode_to_vec();
        Stored {
            row: 1,
            kind,
            name: name.into(),
            owner: owner.into(),
            revision: 1,
            hash: ContentHash::of(kind, name, &body),
            body: body.into(),
        }
    };
    resources.iter().map(stored).collect()
}

fn upsert_as(owner: &str, prune: bool, resources: &[wire::Resource]) -> Intent {
    Intent::Upsert { resources: resources.to_vec(), owner: owner.into(), prune, kept: Vec::new() }
}

/// "+name", "~name" or "-name".
fn signs(set: &Set, intent: Intent) -> Vec<String> {
    let differences = plan(set, intent).expect("no faults");
    let sign = |difference: &Difference| match (&difference.before, &difference.after) {
        (None, _) => format!("+{}", difference.name),
        (Some(_), Some(_)) => format!("~{}", difference.name),
        (Some(_), None) => format!("-{}", difference.name),
    };
    differences.iter().map(sign).collect()
}

fn codes(set: &Set, intent: Intent) -> Vec<String> {
    plan(set, intent).expect_err("faults").into_iter().map(|fault| fault.code).collect()
}

#[test]
fn only_what_differs_is_changed_and_nothing_goes_unless_pruned() {
    let set = set("me", &[route("a", "1"), route("b", "1"), route("c", "1")]);
    let given = [route("d", "1"), route("b", "2"), route("a", "1")];
    assert_eq!(signs(&set, upsert_as("me", false, &given)), ["~b", "+d"]);
    assert_eq!(signs(&set, upsert_as("me", true, &given)), ["~b", "-c", "+d"]);
    assert!(signs(&set, upsert_as("me", false, &[])).is_empty());
}

#[test]
fn an_owner_prunes_only_its_own_and_may_not_take_what_others_have() {
    let set = set("them", &[route("a", "1")]);
    assert!(signs(&set, upsert_as("me", true, &[])).is_empty());
    let faults = plan(&set, upsert_as("me", false, &[route("a", "2")])).expect_err("a conflict");
    assert_eq!(faults[0].code, "RG0401");
    assert!(faults[0].message.contains("them") && faults[0].hint.contains("--owner them"), "{:?}", faults[0]);
    // The same content is no reason to take it either.
    assert_eq!(codes(&set, upsert_as("me", false, &[route("a", "1")])), ["RG0401"]);
    assert_eq!(signs(&set, Intent::Delete(vec![key("a")])), ["-a"]);
}

fn key(name: &str) -> wire::ResourceKey {
    wire::ResourceKey { kind: Kind::Route.into(), name: name.into() }
}

#[test]
fn every_fault_of_an_input_is_reported() {
    let huge = route("huge", &"h".repeat(RESOURCE_BYTES_MAX));
    let long_name = route(&"n".repeat(NAME_BYTES_MAX + 1), "1");
    let given = [route("a", "1"), route("a", "2"), route("", "1"), wire::Resource::default(), huge, long_name];
    let codes = codes(&Set::default(), upsert_as("me", false, &given));
    assert_eq!(codes, ["RG0106", "RG0104", "RG0104", "RG0108", "RG0108"]);
    let missing = Intent::Delete(vec![key("a"), key("b")]);
    assert_eq!(plan(&Set::default(), missing).expect_err("faults").len(), 2);
}

#[test]
fn restoring_leads_exactly_to_the_old_set() {
    let old = set("me", &[route("a", "1"), route("b", "1")]);
    let new = set("me", &[route("b", "2"), route("c", "1")]);
    let restore = Intent::Restore(old.iter().map(|stored| Stored::clone(stored)).collect());
    let differences = plan(&new, restore).expect("no faults");
    assert_eq!(checksum_after(&new, &differences), old.checksum());
    assert_eq!(differences.len(), 3);
    // Another owner of the same content is a difference.
    let theirs = set("them", &[route("b", "1")]);
    let restore = Intent::Restore(vec![Stored::clone(theirs.iter().next().expect("one"))]);
    assert_eq!(signs(&set("me", &[route("b", "1")]), restore), ["~b"]);
}
