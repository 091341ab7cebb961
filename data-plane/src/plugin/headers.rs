//! `headers`: sets, adds and removes header fields of requests and responses.
//!
//! ```yaml
//! config:
//!   request: {set: {x-team: red}, add: {x-tag: a}, remove: [x-internal]}
//!   response: {set: {cache-control: no-store}}
//! ```

use super::config::{Config, Field};
use crate::{fields::Fields, snapshot::fault::Faults};

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
    pub fn apply(&self, fields: &mut Fields) {
        for name in &self.remove {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.set(name, value);
        }
        for (name, value) in &self.add {
            fields.append(name, value);
        }
    }
}
