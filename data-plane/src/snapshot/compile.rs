//! Wire -> [`Snapshot`]; the only file (with those below it) that reads route, backend, plugin and listener messages.
//!
//! The next snapshot starts as a clone of this one, which shares everything; the changes are then made to it in
//! this order: certificates, consumers, plugins, listeners, backends, defaults, and routes, which link to the others. A changed
//! certificate, backend or plugin is put into what uses it and did not change. Whatever is wrong with one resource, the others are still read,
//! so that one report has all faults; after a fault the half-made snapshot is dropped.

mod backend;
mod balancing;
mod changes;
mod consumer;
mod guards;
mod links;
mod listener;
mod matches;
mod references;
mod rule;
pub(crate) mod target;
mod tls;

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rustygate_proto::v1 as wire;

pub(crate) use self::links::Inline;
pub use self::{
    backend::WEIGHT_MAX,
    balancing::BALANCE_FACTOR_MAX,
    guards::{CONSECUTIVE_MAX, FREE_RETRIES_MAX, LIMIT_MAX, THRESHOLD_MAX},
    rule::ATTEMPTS_MAX,
};
use self::{
    changes::{Changes, decode, is_among},
    links::{Links, Places},
    tls::Keys,
};
use super::{Backend, CowMap, Snapshot, fault, fault::Faults};
use crate::{
    consumer::{CONSUMERS_MAX, Consumers},
    plugin::{Chains, Plugin},
    route::{Conflict, ConflictKind, Host, MATCHES_PER_PATH_MAX, REGEXES_PER_HOST_MAX, Route},
    tls::{Certificate, Client, Tickets},
};

/// The most bytes that a name of anything has.
pub const NAME_BYTES_MAX: usize = 253;

/// The most bytes that the regexes of all routes may take, each counted as 4 KiB, 32 KiB, 256 KiB or 1 MiB.
const REGEXES_BYTES_MAX: usize = 512 << 20;

/// What the one set of defaults is called.
pub const DEFAULTS: &str = "default";

/// How many users of a removed resource are named.
const USERS_NAMED_MAX: usize = 5;

/// What compiling the next snapshot needs from this one besides what the request path sees.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    pub(crate) certificates: CowMap<Arc<str>, Arc<Certificate>>,
    /// The keys of session tickets: made for the first listener with TLS, then handed on for the life of the process.
    /// They are random, the one thing here that does not follow from the input.
    tickets: Option<Tickets>,
    /// TLS to endpoints that nothing more is said of.
    pub(crate) public_client: Option<Arc<Client>>,
    pub(crate) backends: CowMap<Arc<str>, Arc<Backend>>,
    pub(crate) plugins: CowMap<Arc<str>, Arc<Plugin>>,
    /// The plugins of the defaults.
    pub(crate) defaults: Arc<[Arc<Plugin>]>,
    /// Backends that routes have in place, by canonical URL.
    pub(crate) inline: CowMap<Arc<str>, Inline>,
    /// See [`Snapshot::new_names`].
    pub(super) new_names: Arc<[Box<str>]>,
    /// About how many bytes the regexes of all routes take.
    regex_bytes: usize,
}

impl Compiled {
    pub(super) fn backends(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.values().chain(self.inline.values().map(|inline| &inline.backend))
    }
}

impl Snapshot {
    /// The snapshot after `changes`, at `revision`. Pure, and its cost grows with the changes, not with the
    /// whole. Of several changes of one resource the last counts; to remove what is not there is no fault.
    ///
    /// # Errors
    /// Every fault, each naming its resource and field; `self` is untouched.
    pub fn compile(&self, revision: u64, changes: &[wire::Change]) -> Result<Self, Vec<wire::Fault>> {
        let mut draft = Draft {
            next: Self { revision, ..self.clone() },
            faults: Faults::default(),
            touched: Touched::default(),
            names: Vec::new(),
            chains: Chains::default(),
        };
        let changes = Changes::sort(changes, &mut draft.faults);
        draft.change_certificates(&changes.certificates);
        draft.change_consumers(&changes.consumers);
        draft.change_plugins(&changes.plugins);
        draft.change_listeners(&changes.listeners);
        draft.change_backends(&changes.backends);
        draft.change_defaults(&changes.defaults);
        draft.renew_certificates(self, &changes);
        draft.renew_plugins(self, &changes);
        draft.check_references(&changes);
        draft.remove_routes(&changes.routes);
        draft.relink_routes();
        draft.add_routes(&changes.routes);
        draft.finish_regexes(&changes.routes);
        draft.next.compiled.new_names = draft.names.into();
        if draft.faults.is_empty() { Ok(draft.next) } else { Err(draft.faults.into_vec()) }
    }
}

/// The next snapshot in the making.
struct Draft<'a> {
    next: Snapshot,
    faults: Faults,
    touched: Touched<'a>,
    /// Host names of new backends.
    names: Vec<Box<str>>,
    /// Chains of plugins that this push makes.
    chains: Chains,
}

/// What the changes did to what routes link to.
#[derive(Default)]
struct Touched<'a> {
    /// Upserted, but faulty: routes that link to it are not at fault. By (kind, name).
    broken: HashSet<(wire::Kind, &'a str)>,
    /// Those that were there before: the new one, or `None` if removed.
    certificates: HashMap<&'a str, Option<Arc<Certificate>>>,
    listeners: HashMap<&'a str, Option<()>>,
    backends: HashMap<&'a str, Option<Arc<Backend>>>,
    plugins: HashMap<&'a str, Option<Arc<Plugin>>>,
    /// The plugins of the defaults or of a listener are others than before: every route has them.
    everywhere: bool,
}

impl<'a> Draft<'a> {
    fn change_certificates(&mut self, changes: &[&'a wire::Change]) {
        for change in changes {
            let old = self.next.compiled.certificates.remove(change.name.as_str());
            let new = match self.read(wire::Kind::Certificate, change) {
                Some(Some(wire::resource::Kind::Certificate(message))) => {
                    let certificate = tls::certificate(&message, &mut self.faults).map(Arc::new);
                    if certificate.is_none() {
                        self.touched.broken.insert((wire::Kind::Certificate, &change.name));
                    }
                    certificate
                }
                Some(_) => continue,
                None => None,
            };
            if let Some(certificate) = &new {
                self.next.compiled.certificates.insert(Arc::clone(&certificate.name), Arc::clone(certificate));
            }
            if old.is_some() {
                self.touched.certificates.insert(&change.name, new);
            }
        }
        let count = self.next.compiled.certificates.len();
        if let Some(last) = changes.last()
            && count > tls::CERTIFICATES_MAX
        {
            self.faults.enter(wire::Kind::Certificate, &last.name);
            let most = tls::CERTIFICATES_MAX;
            let message = format_args!("there are {count} certificates; at most {most} are allowed");
            self.faults.add(fault::OUT_OF_BOUNDS, "", message);
        }
    }

    /// Puts changed certificates into the unchanged listeners and backends that use them, and refuses to remove what
    /// those still use.
    fn renew_certificates(&mut self, before: &'a Snapshot, changes: &Changes<'a>) {
        if self.touched.certificates.is_empty() {
            return;
        }
        let mut missed: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
        let Compiled { certificates, tickets, .. } = &mut self.next.compiled;
        let keys = Keys { certificates, touched: &self.touched };
        for listener in &mut self.next.listeners {
            let Some(server) = listener.tls.as_ref().filter(|_| !is_among(&changes.listeners, &listener.name)) else {
                continue;
            };
            let mut used = server.terms.certificates.iter().filter_map(|name| {
                self.touched.certificates.get_key_value(&**name).map(|(&name, new)| (name, new.is_some()))
            });
            let Some(first) = used.next() else { continue };
            for (name, _) in std::iter::once(first).chain(used).filter(|(_, is_there)| !is_there) {
                missed.entry(name).or_default().push(format!("listener {:?}", listener.name));
            }
            if let Some(tls) = tls::renew_server(server, &keys, tickets.get_or_insert_with(Tickets::new)) {
                *listener = Arc::new(super::Listener { tls: Some(tls), ..super::Listener::clone(listener) });
            }
        }
        let mut renewed = Vec::new();
        for (backend_name, backend) in before.compiled.backends.iter() {
            let used = backend.tls.as_ref().and_then(|client| client.terms.client_certificate.as_deref());
            let touched = used.and_then(|name| self.touched.certificates.get_key_value(name));
            let Some((&name, _)) = touched.filter(|_| !is_among(&changes.backends, backend_name)) else { continue };
            match tls::renew_backend(backend, &keys) {
                Some(backend) => renewed.push((backend_name, Arc::new(backend))),
                None => missed.entry(name).or_default().push(format!("backend {backend_name:?}")),
            }
        }
        for (name, backend) in renewed {
            self.next.compiled.backends.insert(Arc::clone(name), Arc::clone(&backend));
            self.touched.backends.insert(name, Some(backend));
        }
        for (name, mut users) in missed {
            if self.touched.broken.contains(&(wire::Kind::Certificate, name)) {
                continue;
            }
            users.sort_unstable();
            users.dedup();
            self.still_used(wire::Kind::Certificate, name, users);
        }
    }

    /// It was to go, and these name it.
    fn still_used(&mut self, kind: wire::Kind, name: &str, mut users: Vec<String>) {
        let more = users.len().saturating_sub(USERS_NAMED_MAX);
        users.truncate(USERS_NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        self.faults.enter(kind, name);
        let message = format_args!("{} {name:?} is still used by {}{more}", kind.noun(), users.join(", "));
        self.faults.add_with_hint(fault::STILL_USED, "", message, "change or remove these first");
    }

    fn change_listeners(&mut self, changes: &[&'a wire::Change]) {
        for change in changes {
            let before = self.next.listeners.iter().position(|listener| *listener.name == *change.name);
            let before = before.map(|index| self.next.listeners.remove(index));
            self.touched.everywhere |= before.is_some_and(|before| !before.plugins.is_empty());
            let Some(resource) = self.read(wire::Kind::Listener, change) else {
                self.touched.listeners.insert(&change.name, None);
                continue;
            };
            let Some(wire::resource::Kind::Listener(message)) = resource else { continue };
            let Compiled { certificates, tickets, plugins, .. } = &mut self.next.compiled;
            self.touched.everywhere |= !message.plugins.is_empty();
            let keys = Keys { certificates, touched: &self.touched };
            let field = format_args!("plugins");
            let plugins = links::plugins(&message.plugins, plugins, &self.touched, field, &mut self.faults);
            match listener::compile(&message, &keys, tickets, plugins, &mut self.faults) {
                Some(listener) => self.next.listeners.push(Arc::new(listener)),
                None => drop(self.touched.broken.insert((wire::Kind::Listener, &change.name))),
            }
        }
        self.next.listeners.sort_by(|left, right| left.name.cmp(&right.name));
        listener::check_all(&self.next.listeners, changes, &mut self.faults);
        if !changes.is_empty() {
            self.next.names = listener::names(&self.next.listeners);
        }
    }

    fn change_backends(&mut self, changes: &[&'a wire::Change]) {
        for change in changes {
            let old = self.next.compiled.backends.remove(change.name.as_str());
            let new = match self.read(wire::Kind::Backend, change) {
                Some(Some(wire::resource::Kind::Backend(message))) => {
                    let Compiled { certificates, public_client, plugins, .. } = &mut self.next.compiled;
                    let (field, before) = (format_args!("plugins"), self.faults.count());
                    let plugins = links::plugins(&message.plugins, plugins, &self.touched, field, &mut self.faults);
                    let keys = Keys { certificates, touched: &self.touched };
                    let backend =
                        backend::compile(&message, &keys, public_client, plugins, &mut self.faults).map(Arc::new);
                    let backend = backend.filter(|_| self.faults.count() == before);
                    if backend.is_none() {
                        self.touched.broken.insert((wire::Kind::Backend, &change.name));
                    }
                    backend
                }
                Some(_) => continue,
                None => None,
            };
            if let Some(backend) = &new {
                backend::add_names(backend, &mut self.names);
                self.next.compiled.backends.insert(Arc::clone(&backend.name), Arc::clone(backend));
            }
            if old.is_some() {
                self.touched.backends.insert(&change.name, new);
            }
        }
    }

    fn change_consumers(&mut self, changes: &[&'a wire::Change]) {
        if changes.is_empty() {
            return;
        }
        let mut consumers = Consumers::clone(&self.next.consumers);
        // First all go that change, so that a key or a user name can move from one to another in one push.
        for change in changes {
            consumers.remove(&change.name);
        }
        for change in changes {
            let Some(Some(wire::resource::Kind::Consumer(message))) = self.read(wire::Kind::Consumer, change) else {
                continue;
            };
            let Some(consumer) = consumer::compile(&message, &mut self.faults).map(Arc::new) else { continue };
            let taken = consumers.insert(&consumer);
            consumer::report(&consumer, &taken, &mut self.faults);
        }
        if let Some(last) = changes.last()
            && consumers.len() > CONSUMERS_MAX
        {
            self.faults.enter(wire::Kind::Consumer, &last.name);
            let count = consumers.len();
            let message = format_args!("there are {count} consumers; at most {CONSUMERS_MAX} are allowed");
            self.faults.add(fault::OUT_OF_BOUNDS, "", message);
        }
        self.next.consumers = Arc::new(consumers);
    }

    fn change_defaults(&mut self, changes: &[&'a wire::Change]) {
        for change in changes {
            self.touched.everywhere = true;
            self.next.compiled.defaults = Arc::default();
            let Some(Some(wire::resource::Kind::Defaults(message))) = self.read(wire::Kind::Defaults, change) else {
                continue;
            };
            if message.name != DEFAULTS {
                let hint = format_args!("call them {DEFAULTS:?}");
                self.faults.add_with_hint(fault::BAD_VALUE, "name", "there is one set of defaults", hint);
            }
            let (all, field) = (&self.next.compiled.plugins, format_args!("plugins"));
            let plugins = links::plugins(&message.plugins, all, &self.touched, field, &mut self.faults);
            self.next.compiled.defaults = plugins.into();
        }
    }

    /// Puts changed plugins into the unchanged listeners, backends and defaults that use them, and refuses to remove what
    /// those still use.
    fn renew_plugins(&mut self, before: &'a Snapshot, changes: &Changes<'a>) {
        if self.touched.plugins.is_empty() {
            return;
        }
        let touched = &self.touched;
        let mut missed: std::collections::BTreeMap<&str, Vec<String>> = std::collections::BTreeMap::new();
        // Whether any is touched; those that are gone are noted with who misses them.
        let mut uses = |plugins: &[Arc<Plugin>], user: &dyn Fn() -> String| {
            let mut any = false;
            for plugin in plugins {
                let Some((&name, new)) = touched.plugins.get_key_value(&*plugin.name) else { continue };
                any = true;
                if new.is_none() && !touched.broken.contains(&(wire::Kind::Plugin, name)) {
                    missed.entry(name).or_default().push(user());
                }
            }
            any
        };
        let mut everywhere = false;
        for listener in &mut self.next.listeners {
            if !is_among(&changes.listeners, &listener.name)
                && uses(&listener.plugins, &|| format!("listener {:?}", listener.name))
            {
                let plugins = links::renewed(&listener.plugins, touched);
                *listener = Arc::new(super::Listener { plugins, ..super::Listener::clone(listener) });
                everywhere = true;
            }
        }
        if changes.defaults.is_empty() && uses(&self.next.compiled.defaults, &|| "the defaults".to_owned()) {
            self.next.compiled.defaults = links::renewed(&self.next.compiled.defaults, touched).into();
            everywhere = true;
        }
        let mut renewed = Vec::new();
        for (name, _) in before.compiled.backends.iter() {
            if is_among(&changes.backends, name) {
                continue;
            }
            // Its certificate may be new by now.
            let Some(backend) = self.next.compiled.backends.get(&**name) else { continue };
            if uses(&backend.plugins, &|| format!("backend {name:?}")) {
                let plugins = links::renewed(&backend.plugins, touched);
                renewed.push((name, Arc::new(Backend { plugins, ..Backend::clone(backend) })));
            }
        }
        for (name, users) in missed {
            self.still_used(wire::Kind::Plugin, name, users);
        }
        self.touched.everywhere |= everywhere;
        for (name, backend) in renewed {
            self.next.compiled.backends.insert(Arc::clone(name), Arc::clone(&backend));
            self.touched.backends.insert(name, Some(backend));
        }
    }

    fn change_plugins(&mut self, changes: &[&'a wire::Change]) {
        for change in changes {
            let old = self.next.compiled.plugins.remove(change.name.as_str());
            let new = match self.read(wire::Kind::Plugin, change) {
                Some(Some(wire::resource::Kind::Plugin(message))) => match Plugin::compile(&message) {
                    Ok(plugin) => Some(Arc::new(plugin)),
                    Err(faults) => {
                        self.faults.extend(faults);
                        self.touched.broken.insert((wire::Kind::Plugin, &change.name));
                        None
                    }
                },
                Some(_) => continue,
                None => None,
            };
            if let Some(plugin) = &new {
                let host = plugin.key_source().and_then(|source| source.host_name());
                self.names.extend(host.map(Box::from));
                self.next.compiled.plugins.insert(change.name.as_str().into(), Arc::clone(plugin));
            }
            if old.is_some() {
                self.touched.plugins.insert(&change.name, new);
            }
        }
    }

    /// `None` if the change removes its resource; `Some(None)` if it is faulty, which is then marked and reported.
    fn read(&mut self, kind: wire::Kind, change: &'a wire::Change) -> Option<Option<wire::resource::Kind>> {
        let bytes = change.resource.as_ref()?;
        self.faults.enter(kind, &change.name);
        let before = self.faults.count();
        let resource = decode(kind, &change.name, bytes, &mut self.faults);
        if self.faults.count() > before {
            self.touched.broken.insert((kind, &change.name));
            return Some(None);
        }
        Some(resource)
    }

    /// Removes the routes that the changes remove or put anew.
    fn remove_routes(&mut self, changes: &[&wire::Change]) {
        for change in changes {
            if let Some(route) = self.next.router.tables_mut().remove(&change.name) {
                let regex_bytes = &mut self.next.compiled.regex_bytes;
                *regex_bytes = regex_bytes.saturating_sub(route.regex_bytes());
                for url in &route.inline {
                    links::release(&mut self.next.compiled.inline, url);
                }
            }
        }
    }

    /// Puts changed backends and plugins into the unchanged routes that use them, and refuses to remove what those
    /// still use.
    fn relink_routes(&mut self) {
        let Touched { backends, plugins, listeners, everywhere, .. } = &self.touched;
        if !everywhere && backends.is_empty() && plugins.is_empty() && listeners.is_empty() {
            return;
        }
        let mut missed: std::collections::BTreeMap<(i32, &str), Vec<Arc<str>>> = std::collections::BTreeMap::new();
        let mut relinked = Vec::new();
        let places = Places { listeners: &self.next.listeners, defaults: &self.next.compiled.defaults };
        for route in self.next.router.tables().routes() {
            let uses = links::uses(route, &self.touched);
            for (kind, name) in &uses.missing {
                missed.entry((i32::from(*kind), name)).or_default().push(Arc::clone(&route.name));
            }
            if (uses.changed || self.touched.everywhere) && uses.missing.is_empty() {
                relinked.push(Arc::new(links::relink(route, &self.touched, &places, &mut self.chains)));
            }
        }
        for route in relinked {
            self.next.router.tables_mut().replace_rules(&route);
        }
        for ((kind, name), mut users) in missed {
            users.sort_unstable();
            let kind = wire::Kind::try_from(kind).unwrap_or_default();
            self.faults.enter(kind, name);
            let message = format!("{} {name:?} is still used by {}", kind.noun(), name_users(&users));
            self.faults.add_with_hint(fault::STILL_USED, "", message, "change or remove these routes first");
        }
    }

    fn add_routes(&mut self, changes: &[&'a wire::Change]) {
        let mut conditions = HashSet::new();
        for change in changes {
            let Some(Some(wire::resource::Kind::Route(message))) = self.read(wire::Kind::Route, change) else {
                continue;
            };
            let links = &mut Links {
                listeners: &self.next.listeners,
                compiled: &mut self.next.compiled,
                touched: &self.touched,
                conditions: &mut conditions,
                chains: &mut self.chains,
                names: &mut self.names,
                faults: &mut self.faults,
            };
            let route = Arc::new(rule::compile_route(&message, links));
            self.count_regexes(&route);
            for conflict in self.next.router.tables_mut().insert(&route) {
                report(&route, &conflict, &mut self.faults);
            }
        }
    }

    /// The bound is on all routes, not on those of a push: a proxy that begins gets them in one.
    fn count_regexes(&mut self, route: &Route) {
        let before = self.next.compiled.regex_bytes;
        let after = before + route.regex_bytes();
        self.next.compiled.regex_bytes = after;
        if before <= REGEXES_BYTES_MAX && after > REGEXES_BYTES_MAX {
            let message = format_args!(
                "the regexes of all routes together are too large: with this one they take more than {} MiB",
                REGEXES_BYTES_MAX >> 20
            );
            self.faults.add_regex_beyond(message);
        }
    }

    fn finish_regexes(&mut self, changes: &[&wire::Change]) {
        for (host, routes) in self.next.router.tables_mut().finish() {
            for name in routes {
                if changes.binary_search_by(|change| change.name.as_str().cmp(&name)).is_err() {
                    continue;
                }
                self.faults.enter(wire::Kind::Route, &name);
                let host = describe(&host);
                let message = format!("the regex paths of {host} are too large together");
                self.faults.add_with_hint(fault::BAD_REGEX, "", message, "use prefixes, or simpler or fewer regexes");
            }
        }
    }
}

fn describe(host: &Host) -> String {
    match host {
        Host::Exact(name) => format!("host {name:?}"),
        Host::Wildcard(suffix) => format!("host \"*.{suffix}\""),
        Host::Any => "the routes without hosts".to_owned(),
    }
}

fn name_users(users: &[Arc<str>]) -> String {
    let named: Vec<_> = users.iter().take(USERS_NAMED_MAX).map(|name| format!("{name:?}")).collect();
    let noun = if users.len() == 1 { "route" } else { "routes" };
    match users.len().saturating_sub(named.len()) {
        0 => format!("{noun} {}", named.join(", ")),
        more => format!("{noun} {} and {more} more", named.join(", ")),
    }
}

fn report(route: &Route, conflict: &Conflict, faults: &mut Faults) {
    faults.enter(wire::Kind::Route, &route.name);
    let field = format_args!("rules[{}].matches[{}]", conflict.rule, conflict.match_index);
    match &conflict.kind {
        ConflictKind::Same { route: other, rule, match_index } if *other == route.name => {
            let message = format_args!("this match asks for the same as rules[{rule}].matches[{match_index}]");
            faults.add_with_hint(fault::SAME_MATCH, field, message, "remove one of them");
        }
        ConflictKind::Same { route: other, rule, match_index } => {
            let message =
                format_args!("this match asks for the same as rules[{rule}].matches[{match_index}] of route {other:?}");
            let hint = "remove one of them, or tell them apart by host, path, method, headers, query or listener";
            faults.add_with_hint(fault::SAME_MATCH, field, message, hint);
        }
        ConflictKind::TooMany => {
            let message = format_args!(
                "more than {MATCHES_PER_PATH_MAX} matches have this host and path, or more than \
                 {REGEXES_PER_HOST_MAX} regex paths this host"
            );
            faults.add_with_hint(fault::OUT_OF_BOUNDS, field, message, "tell them apart by path or host");
        }
    }
}

#[cfg(test)]
mod tests;
