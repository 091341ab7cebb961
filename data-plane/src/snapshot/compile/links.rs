//! How routes hold what they use: found by name when a route is compiled, put anew when what they use changes.

use std::{collections::BTreeSet, fmt, sync::Arc};

use hashbrown::HashSet;
use rustygate_proto::v1 as wire;

use super::{Compiled, Touched, backend, rule::bounded, target, tls};
use crate::{
    plugin::{Chain, Chains, Plugin},
    route::{Conditions, Match, Route, RouteRule},
    snapshot::{Backend, CowMap, Id, Listener, ListenerChains, Protocol, Rule, WeightedBackend, fault, fault::Faults},
};

/// A backend that routes have in place.
#[derive(Clone, Debug)]
pub(crate) struct Inline {
    pub backend: Arc<Backend>,
    /// How often it is used; it goes with its last use.
    uses: usize,
}

/// What a route can link to.
pub(super) struct Links<'a, 'c> {
    pub listeners: &'a [Arc<Listener>],
    pub compiled: &'a mut Compiled,
    pub touched: &'a Touched<'c>,
    /// Conditions of the routes of this push: those that are equal are kept once, so that the processor's caches have
    /// what many routes ask.
    pub conditions: &'a mut HashSet<Arc<Conditions>>,
    /// Likewise chains of plugins.
    pub chains: &'a mut Chains,
    /// Host names of new backends.
    pub names: &'a mut Vec<Box<str>>,
    pub faults: &'a mut Faults,
}

impl Links<'_, '_> {
    /// The same matches, with conditions that are kept once.
    pub fn share(&mut self, mut matches: Box<[Match]>) -> Box<[Match]> {
        for conditions in matches.iter_mut().filter_map(|it| it.conditions.as_mut()) {
            *conditions = Arc::clone(self.conditions.get_or_insert_with(&*conditions, Arc::clone));
        }
        matches
    }

    /// The listener of a name, or `None` after a fault.
    pub fn listener(&mut self, name: &str, field: fmt::Arguments<'_>) -> Option<Arc<str>> {
        if let Ok(index) = self.listeners.binary_search_by(|listener| (*listener.name).cmp(name)) {
            return Some(Arc::clone(&self.listeners[index].name));
        }
        let names = self.listeners.iter().map(|listener| &*listener.name);
        dangling(self.faults, self.touched, wire::Kind::Listener, name, field, names);
        None
    }

    /// The backend of a name, or `None` after a fault.
    pub fn backend(&mut self, name: &str, field: fmt::Arguments<'_>) -> Option<Arc<Backend>> {
        if let Some(backend) = self.compiled.backends.get(name) {
            return Some(Arc::clone(backend));
        }
        let names = self.compiled.backends.iter().map(|(name, _)| &**name);
        dangling(self.faults, self.touched, wire::Kind::Backend, name, field, names);
        None
    }

    /// The plugins of these names; a fault for each that is not there.
    pub fn plugins(&mut self, names: &[String], field: fmt::Arguments<'_>) -> Box<[Arc<Plugin>]> {
        plugins(names, &self.compiled.plugins, self.touched, field, self.faults)
    }

    /// The backend of a URL, shared by all that have it, and its key; `None` after a fault.
    pub fn inline(&mut self, url: &str, field: fmt::Arguments<'_>) -> Option<(Arc<str>, Arc<Backend>)> {
        let place = match target::parse(url) {
            Ok(place) => place,
            Err(error) => {
                backend::add_bad_url(&error, url, field, self.faults);
                return None;
            }
        };
        let (tls, protocol) = if place.https {
            let protocol = Protocol::Negotiated;
            let client = tls::public_client(&mut self.compiled.public_client, protocol, self.faults)?;
            (Some(tls::endpoint(&client, &place.host, field, self.faults)?), protocol)
        } else {
            (None, Protocol::Http1)
        };
        let endpoint = place.endpoint(1, protocol, tls);
        let key: Arc<str> = format!("{}://{}{}", endpoint.scheme(), endpoint.authority, endpoint.base_path).into();
        let make = || Inline { backend: Arc::new(backend::inline(endpoint)), uses: 0 };
        let inline = self.compiled.inline.get_or_insert_with(Arc::clone(&key), make);
        if inline.uses == 0 {
            backend::add_names(&inline.backend, self.names);
        }
        inline.uses += 1;
        Some((key, Arc::clone(&inline.backend)))
    }
}

/// The most plugins of one place.
const PLUGINS_MAX: usize = 64;

/// The plugins of these names; a fault for each that is not there.
pub(super) fn plugins(
    names: &[String],
    all: &CowMap<Arc<str>, Arc<Plugin>>,
    touched: &Touched<'_>,
    field: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> Box<[Arc<Plugin>]> {
    let mut found = Vec::new();
    for (index, name) in bounded(names, PLUGINS_MAX, field, faults) {
        match all.get(name.as_str()) {
            Some(plugin) => found.push(Arc::clone(plugin)),
            None => {
                let known = all.iter().map(|(name, _)| &**name);
                dangling(faults, touched, wire::Kind::Plugin, name, format_args!("{field}[{index}]"), known);
            }
        }
    }
    found.into()
}

/// What runs for the requests of a backend of a rule: in general, and for each listener that has plugins of its own.
pub(super) fn chains(
    [own, of_rule]: [&[Arc<Plugin>]; 2],
    backend: &Backend,
    places: &Places<'_>,
    rule_listeners: &BTreeSet<Arc<str>>,
    chains: &mut Chains,
) -> (Chain, ListenerChains) {
    let general = chains.merge(&[own, of_rule, &backend.plugins, places.defaults]);
    let concerned = places.listeners.iter().filter(|listener| {
        !listener.plugins.is_empty() && (rule_listeners.is_empty() || rule_listeners.contains(&listener.name))
    });
    let by_listener = concerned.map(|listener| {
        let chain = chains.merge(&[own, of_rule, &backend.plugins, &listener.plugins, places.defaults]);
        (Arc::clone(&listener.name), chain)
    });
    (general, by_listener.collect())
}

/// The less specific places that have plugins.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// Sorted by name.
    pub listeners: &'a [Arc<Listener>],
    pub defaults: &'a [Arc<Plugin>],
}

/// Reports a name that nothing has, unless what has it is faulty itself.
pub(super) fn dangling<'n>(
    faults: &mut Faults,
    touched: &Touched<'_>,
    kind: wire::Kind,
    name: &str,
    field: fmt::Arguments<'_>,
    names: impl Iterator<Item = &'n str>,
) {
    if touched.broken.contains(&(kind, name)) {
        return;
    }
    let hint = faults.suggestion(name, names);
    faults.add_with_hint(fault::DANGLING, field, format_args!("there is no {} {name:?}", kind.noun()), hint);
}

/// One use of an inline backend ends.
pub(super) fn release(inline: &mut CowMap<Arc<str>, Inline>, key: &str) {
    let Some(entry) = inline.get_mut(key) else { return };
    entry.uses -= 1;
    if entry.uses == 0 {
        inline.remove(key);
    }
}

/// How the changes concern a route.
#[derive(Default)]
pub(super) struct Uses<'a> {
    pub changed: bool,
    /// What it uses that is gone.
    pub missing: Vec<(wire::Kind, &'a str)>,
}

/// What of the touched things a route uses.
pub(super) fn uses<'a>(route: &Route, touched: &Touched<'a>) -> Uses<'a> {
    let mut uses = Uses::default();
    for name in &route.listeners {
        if let Some((&name, present)) = touched.listeners.get_key_value(&**name) {
            uses.note(wire::Kind::Listener, name, present.is_some(), touched);
        }
    }
    for rule in route.rules.iter().map(|rule| &*rule.rule) {
        for weighted in &rule.backends {
            if let Some((&name, present)) = touched.backends.get_key_value(&*weighted.backend.name)
                && is_named(&weighted.backend)
            {
                uses.note(wire::Kind::Backend, name, present.is_some(), touched);
            }
        }
        for plugin in plugins_of(rule) {
            if let Some((&name, present)) = touched.plugins.get_key_value(&*plugin.name) {
                uses.note(wire::Kind::Plugin, name, present.is_some(), touched);
            }
        }
    }
    uses
}

impl<'a> Uses<'a> {
    fn note(&mut self, kind: wire::Kind, name: &'a str, present: bool, touched: &Touched<'_>) {
        if present {
            self.changed = true;
        } else if !touched.broken.contains(&(kind, name)) && !self.missing.contains(&(kind, name)) {
            self.missing.push((kind, name));
        }
    }
}

/// Not one in place that happens to be called the same.
fn is_named(backend: &Backend) -> bool {
    backend.id == Id::of("backend", &backend.name)
}

fn plugins_of(rule: &Rule) -> impl Iterator<Item = &Arc<Plugin>> {
    rule.plugins.iter().chain(rule.backends.iter().flat_map(|weighted| &weighted.plugins))
}

/// The same route with the touched backends and plugins as they are now.
pub(super) fn relink(route: &Route, touched: &Touched<'_>, places: &Places<'_>, chains: &mut Chains) -> Route {
    let rules = route.rules.iter().map(|route_rule| RouteRule {
        rule: Arc::new(relink_rule(&route_rule.rule, touched, places, chains)),
        matches: route_rule.matches.clone(),
    });
    Route {
        name: Arc::clone(&route.name),
        hosts: route.hosts.clone(),
        listeners: route.listeners.clone(),
        rules: rules.collect(),
        inline: route.inline.clone(),
    }
}

/// The same plugins as they are now.
pub(super) fn renewed(plugins: &[Arc<Plugin>], touched: &Touched<'_>) -> Box<[Arc<Plugin>]> {
    let new = |plugin: &Arc<Plugin>| touched.plugins.get(&*plugin.name).and_then(Option::as_ref);
    plugins.iter().map(|plugin| Arc::clone(new(plugin).unwrap_or(plugin))).collect()
}

fn relink_rule(rule: &Rule, touched: &Touched<'_>, places: &Places<'_>, all: &mut Chains) -> Rule {
    let plugins = renewed(&rule.plugins, touched);
    let backends = rule.backends.iter().map(|weighted| {
        let new = touched.backends.get(&*weighted.backend.name).and_then(Option::as_ref);
        let new = new.filter(|_| is_named(&weighted.backend));
        let backend = new.unwrap_or(&weighted.backend);
        let own = renewed(&weighted.plugins, touched);
        let (chain, listener_chains) = chains([&own, &plugins], backend, places, &rule.listeners, all);
        let (backend, weight) = (Arc::clone(backend), weighted.weight);
        WeightedBackend { backend, weight, plugins: own, chain, listener_chains }
    });
    let backends = backends.collect();
    Rule {
        id: rule.id,
        route: Arc::clone(&rule.route),
        index: rule.index,
        listeners: rule.listeners.clone(),
        backends,
        weight_total: rule.weight_total,
        sticky_split: rule.sticky_split.clone(),
        strip_prefix: rule.strip_prefix,
        timeouts: rule.timeouts,
        retry: rule.retry.clone(),
        plugins,
    }
}
