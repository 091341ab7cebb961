//! `headers`: sets, adds and removes header fields of requests and responses.
//!
//! ```yaml
//! config:
//!   request: {set: {x-team: red}, add: {x-tag: a}, remove: [x-internal]}
//!   response: {set: {cache-control: no-store}}
//! ```

use super::config::{Config, Field};
use crate::{fields::Fields, forward::alias_is, snapshot::fault::Faults};

#[derive(Debug)]
pub(super) struct Headers {
    pub request: Edit,
    pub response: Edit,
}

/// What is done to one header section: first fields are removed, then set, then added.
#[derive(Debug, Default)]
pub(super) struct Edit {
    remove: Vec<Box<str>>,
    set: Vec<Field>,
    add: Vec<Field>,
}

pub(super) fn compile(config: &Config<'_>, faults: &mut Faults) -> Headers {
    config.only(&["request", "response"], faults);
    Headers { request: edit(config, "request", faults), response: edit(config, "response", faults) }
}

fn edit(config: &Config<'_>, key: &str, faults: &mut Faults) -> Edit {
    let Some(config) = config.child(key, faults) else { return Edit::default() };
    config.only(&["set", "add", "remove"], faults);
    Edit {
        remove: config.names("remove", faults),
        set: config.fields("set", faults),
        add: config.fields("add", faults),
    }
}

impl Edit {
    /// What is removed or set is so in every spelling that an upstream may read as the same name: a client cannot keep
    /// what it sent as `X_Team`.
    pub fn apply_to_request(&self, fields: &mut Fields) {
        let own = |name: &str| self.set.iter().any(|(set, _)| alias_is(name, set));
        fields.retain(|name, _| !self.remove.iter().any(|remove| alias_is(name, remove)) && !own(name));
        self.write(fields);
    }

    pub fn apply_to_response(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        self.write(fields);
    }

    /// What is set or removed comes in no spelling behind the body: many a reader merges trailers into the head.
    pub fn apply_to_trailers(&self, trailers: &mut Fields) {
        let set = self.set.iter().map(|(name, _)| name);
        let decided: Vec<&str> = set.chain(&self.remove).map(|name| &**name).collect();
        trailers.retain(|name, _| !decided.iter().any(|decided| alias_is(name, decided)));
    }

    fn write(&self, fields: &mut Fields) {
        for (name, value) in &self.set {
            fields.set(name, value);
        }
        for (name, value) in &self.add {
            fields.append(name, value);
        }
    }
}
