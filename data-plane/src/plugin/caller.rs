//! What the plugins that find out who asks have in common: where a credential is in a request, and what becomes of a
//! request whose consumer is known.

use super::{Consumer, Facts, Reason, Refusal};
use crate::{fields::Fields, forward::alias_is};

/// Tells upstreams the name of the consumer.
pub(super) const NAME: &str = "X-Consumer-Name";

/// And its groups, with commas between them.
pub(super) const GROUPS: &str = "X-Consumer-Groups";

pub(super) static REPEATED: Reason = Reason {
    name: "credentials_repeated",
    status: 400,
    detail: "the request has more than one credential of a kind; send one",
    when: "A credential is in several places or lines, so that what checks it and what reads it might take different ones",
};

/// Nothing, one, or a refusal if there are several.
pub(super) fn one<T>(mut found: impl Iterator<Item = T>) -> Result<Option<T>, Refusal> {
    let first = found.next();
    if found.next().is_some() { Err(Refusal::new(&REPEATED)) } else { Ok(first) }
}

/// The only value of a field.
pub(super) fn field<'f>(fields: &'f Fields, name: &str) -> Result<Option<&'f [u8]>, Refusal> {
    one(fields.get_all(name))
}

/// Whoever asks does not say who they are in a plugin's stead, in no spelling of the names that some upstreams take for one.
pub(super) fn forget(fields: &mut Fields) {
    fields.retain(|name, _| !is_own(name));
}

/// Whether a field is one of these, in some spelling.
pub(super) fn is_own(name: &str) -> bool {
    alias_is(name, NAME) || alias_is(name, GROUPS)
}

/// From here on it is known who asks.
pub(super) fn is_known(consumer: Consumer, fields: &mut Fields, facts: &mut Facts) {
    // A token may say nothing of whom it is about.
    if !consumer.name.is_empty() {
        fields.append(NAME, consumer.name.as_bytes());
    }
    if !consumer.groups.is_empty() {
        let groups = consumer.groups.iter().map(|group| group.as_bytes()).collect::<Vec<_>>();
        fields.append(GROUPS, &groups.join(&b','));
    }
    facts.consumer = Some(consumer);
}
