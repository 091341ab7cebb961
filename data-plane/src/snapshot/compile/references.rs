//! Backends that plugins name in their configuration. A plugin holds the name only, and a request finds the backend in its
//! snapshot, so a changed backend need not be put into anything; here is seen to it that it is there.

use std::collections::BTreeMap;

use rustygate_proto::v1 as wire;

use super::{
    Draft,
    changes::{Changes, is_among},
    links::dangling,
};

impl<'a> Draft<'a> {
    /// Changed plugins name backends that are there, and no backend goes that an unchanged one names.
    pub(super) fn check_references(&mut self, changes: &Changes<'a>) {
        for change in &changes.plugins {
            let plugin = self.next.compiled.plugins.get(change.name.as_str());
            let Some(backend) = plugin.and_then(|plugin| plugin.backend()) else { continue };
            if self.next.compiled.backends.contains(backend) {
                continue;
            }
            self.faults.enter(wire::Kind::Plugin, &change.name);
            let names = self.next.compiled.backends.iter().map(|(name, _)| &**name);
            let field = format_args!("config.backend");
            dangling(&mut self.faults, &self.touched, wire::Kind::Backend, backend, field, names);
        }
        if self.touched.backends.values().any(Option::is_none) {
            self.check_removed_backends(changes);
        }
    }

    fn check_removed_backends(&mut self, changes: &Changes<'a>) {
        let mut missed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, plugin) in self.next.compiled.plugins.iter() {
            let gone = plugin.backend().and_then(|backend| match self.touched.backends.get_key_value(backend) {
                Some((&backend, None)) => Some(backend),
                _ => None,
            });
            if let Some(backend) = gone.filter(|_| !is_among(&changes.plugins, name)) {
                missed.entry(backend).or_default().push(format!("plugin {name:?}"));
            }
        }
        missed.retain(|name, _| !self.touched.broken.contains(&(wire::Kind::Backend, *name)));
        for (name, mut users) in missed {
            users.sort_unstable();
            self.still_used(wire::Kind::Backend, name, users);
        }
    }
}
