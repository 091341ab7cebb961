//! What a push would change. Pure: a set and an intent in, the differences out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use bytes::Bytes;
use prost::Message as _;
use rustygate_proto::{
    checksum::{Checksum, ContentHash},
    frames::RESOURCE_BYTES_MAX,
    v1::{self as wire, Kind},
};

use crate::{
    codes::{ABSENT, DUPLICATE_NAME, MISSING_FIELD, OWNED, TOO_LARGE},
    secrets::redact,
    snapshot::{Set, Stored, removal},
};

/// The most resources that a set may have.
pub const RESOURCES_MAX: usize = 1_000_000;

/// The most bytes that a name may have.
pub const NAME_BYTES_MAX: usize = 1_024;

/// What is asked for.
#[derive(Debug)]
pub enum Intent {
    /// These resources shall be as given.
    Upsert {
        /// Unique by kind and name.
        resources: Vec<wire::Resource>,
        /// Whose they are.
        owner: String,
        /// Whether what this owner has besides shall go.
        prune: bool,
        /// Named beside them, and not pruned.
        kept: Vec<wire::ResourceKey>,
    },
    /// These resources shall go, whoever owns them.
    Delete(Vec<wire::ResourceKey>),
    /// The set shall be exactly this.
    Restore(Vec<Stored>),
}

/// The content that a resource gets.
#[derive(Clone)]
pub struct Content {
    /// Whose it is.
    pub owner: Arc<str>,
    /// Of kind, name and body.
    pub hash: ContentHash,
    /// The encoded resource.
    pub body: Bytes,
}

/// Without the body: there may be a secret in it.
impl fmt::Debug for Content {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Content").field("owner", &self.owner).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// Kind of the resource.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
    /// What is live now, if it is there.
    pub before: Option<Arc<Stored>>,
    /// What will be, if it stays.
    pub after: Option<Content>,
}

impl Difference {
    /// As proxies are told.
    #[must_use]
    pub fn change(&self) -> wire::Change {
        match &self.after {
            Some(content) => wire::Change {
                kind: self.kind.into(),
                name: self.name.to_string(),
                resource: Some(content.body.clone()),
            },
            None => removal(self.kind, &self.name),
        }
    }

    /// As users are shown.
    #[must_use]
    pub fn diff(&self) -> wire::ResourceDiff {
        wire::ResourceDiff {
            kind: self.kind.into(),
            name: self.name.to_string(),
            before: self.before.as_ref().and_then(|stored| stored.resource()).map(redact),
            after: self
                .after
                .as_ref()
                .and_then(|content| wire::Resource::decode(content.body.clone()).ok())
                .map(redact),
        }
    }
}

/// What differs, by kind, then by name.
///
/// # Errors
/// Every fault of the intent against the set.
pub fn plan(set: &Set, intent: Intent) -> Result<Vec<Difference>, Vec<wire::Fault>> {
    let differences = match intent {
        Intent::Upsert { resources, owner, prune, kept } => upsert(set, resources, &owner, prune, kept)?,
        Intent::Delete(keys) => delete(set, keys)?,
        Intent::Restore(resources) => restore(set, resources),
    };
    let created = differences.values().filter(|difference| difference.before.is_none()).count();
    let deleted = differences.values().filter(|difference| difference.after.is_none()).count();
    if created > deleted && set.len() + created - deleted > RESOURCES_MAX {
        let message = format!("there would be more than {RESOURCES_MAX} resources");
        return Err(vec![fault(TOO_LARGE, Kind::Unspecified, "", &message, "delete what is not used")]);
    }
    Ok(differences.into_values().collect())
}

/// The checksum of the set once the differences are made.
#[must_use]
pub fn checksum_after(set: &Set, differences: &[Difference]) -> Checksum {
    let mut checksum = set.checksum();
    for difference in differences {
        if let Some(before) = &difference.before {
            checksum.subtract(&before.hash);
        }
        if let Some(after) = &difference.after {
            checksum.add(&after.hash);
        }
    }
    checksum
}

type Differences = BTreeMap<(i32, Arc<str>), Difference>;

fn upsert(
    set: &Set,
    resources: Vec<wire::Resource>,
    owner: &str,
    prune: bool,
    kept: Vec<wire::ResourceKey>,
) -> Result<Differences, Vec<wire::Fault>> {
    let owner: Arc<str> = owner.into();
    let mut differences = Differences::new();
    let mut faults = Vec::new();
    let mut given = BTreeSet::new();
    for resource in resources {
        let (kind, name) = match key_of(&resource) {
            Ok(key) => key,
            Err(fault) => {
                faults.push(*fault);
                continue;
            }
        };
        if !given.insert((kind as i32, name.clone())) {
            let message = format!("there are two {}s named {name:?}", kind.noun());
            faults.push(fault(DUPLICATE_NAME, kind, &name, &message, "give one of them another name"));
            continue;
        }
        let body = resource.encode_to_vec();
        if body.len() > RESOURCE_BYTES_MAX {
            let message = format!("is {} bytes when encoded; the most is {RESOURCE_BYTES_MAX}", body.len());
            faults.push(fault(TOO_LARGE, kind, &name, &message, "split it"));
            continue;
        }
        let before = set.get(kind, &name);
        if let Some(before) = before.filter(|before| before.owner != owner) {
            let message = format!("belongs to owner {:?}, not {owner:?}", before.owner);
            let hint = format!("apply it with --owner {}, or delete it first", before.owner);
            faults.push(fault(OWNED, kind, &name, &message, &hint));
            continue;
        }
        let hash = ContentHash::of(kind, &name, &body);
        if before.is_none_or(|before| before.hash != hash) {
            let after = Content { owner: owner.clone(), hash, body: body.into() };
            note(&mut differences, kind, name, before, Some(after));
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    given.extend(kept.into_iter().map(|key| (key.kind, key.name.into())));
    if prune {
        let unwanted = |stored: &&Arc<Stored>| {
            stored.owner == owner && !given.contains(&(stored.kind as i32, stored.name.clone()))
        };
        for stored in set.iter().filter(unwanted) {
            note(&mut differences, stored.kind, stored.name.clone(), Some(stored), None);
        }
    }
    Ok(differences)
}

fn delete(set: &Set, keys: Vec<wire::ResourceKey>) -> Result<Differences, Vec<wire::Fault>> {
    let mut differences = Differences::new();
    let mut faults = Vec::new();
    for key in keys {
        match set.get(key.kind(), &key.name) {
            Some(stored) => note(&mut differences, stored.kind, stored.name.clone(), Some(stored), None),
            None => {
                let message = format!("there is no {} named {:?}", key.kind().noun(), key.name);
                faults.push(fault(ABSENT, key.kind(), &key.name, &message, "list what there is with gatectl get"));
            }
        }
    }
    if faults.is_empty() { Ok(differences) } else { Err(faults) }
}

fn restore(set: &Set, resources: Vec<Stored>) -> Differences {
    let mut differences = Differences::new();
    let mut wanted = BTreeSet::new();
    for stored in resources {
        wanted.insert((stored.kind as i32, stored.name.clone()));
        let before = set.get(stored.kind, &stored.name);
        if before.is_none_or(|before| before.hash != stored.hash || before.owner != stored.owner) {
            let after = Content { owner: stored.owner, hash: stored.hash, body: stored.body };
            note(&mut differences, stored.kind, stored.name, before, Some(after));
        }
    }
    for stored in set.iter().filter(|stored| !wanted.contains(&(stored.kind as i32, stored.name.clone()))) {
        note(&mut differences, stored.kind, stored.name.clone(), Some(stored), None);
    }
    differences
}

fn note(
    differences: &mut Differences,
    kind: Kind,
    name: Arc<str>,
    before: Option<&Arc<Stored>>,
    after: Option<Content>,
) {
    let difference = Difference { kind, name: name.clone(), before: before.cloned(), after };
    differences.insert((kind as i32, name), difference);
}

fn key_of(resource: &wire::Resource) -> Result<(Kind, Arc<str>), Box<wire::Fault>> {
    let Some((kind, name)) = resource.key() else {
        let hint = "this control plane may be older than the client: upgrade it";
        return Err(Box::new(fault(MISSING_FIELD, Kind::Unspecified, "", "a resource has no kind", hint)));
    };
    if name.is_empty() {
        let message = format!("a {} has no name", kind.noun());
        return Err(Box::new(fault(MISSING_FIELD, kind, "", &message, "name it")));
    }
    if name.len() > NAME_BYTES_MAX {
        let message = format!("the name has {} bytes; the most is {NAME_BYTES_MAX}", name.len());
        let shown: String = name.chars().take(60).collect();
        return Err(Box::new(fault(TOO_LARGE, kind, &shown, &message, "shorten it")));
    }
    Ok((kind, name.into()))
}

fn fault(code: &str, kind: Kind, name: &str, message: &str, hint: &str) -> wire::Fault {
    wire::Fault {
        code: code.into(),
        kind: kind.into(),
        name: name.into(),
        message: message.into(),
        hint: hint.into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
