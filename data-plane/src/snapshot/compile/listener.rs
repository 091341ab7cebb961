//! Listeners: an address each, no address twice.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use rustygate_proto::v1 as wire;

use super::tls::{self, Keys};
use crate::{
    plugin::Plugin,
    snapshot::{
        Listener, fault,
        fault::{Faults, shown},
    },
    tls::Tickets,
};

/// The most listeners.
const LISTENERS_MAX: usize = 64;

/// The listener of a message; `None` after a fault, if only in one of its certificates.
pub(super) fn compile(
    message: &wire::Listener,
    keys: &Keys<'_, '_>,
    tickets: &mut Option<Tickets>,
    plugins: Box<[Arc<Plugin>]>,
    faults: &mut Faults,
) -> Option<Listener> {
    let address = address(&message.address, faults);
    let tls = match &message.tls {
        None => None,
        Some(terms) => {
            let tickets = tickets.get_or_insert_with(Tickets::new);
            Some(tls::server(terms, keys, tickets, faults)?)
        }
    };
    Some(Listener { name: message.name.as_str().into(), address: address?, tls, plugins })
}

fn address(text: &str, faults: &mut Faults) -> Option<SocketAddr> {
    // Without a host it is every address: an IPv6 socket takes IPv4 too.
    let parsed = match text.strip_prefix(':').map(str::parse::<u16>) {
        Some(Ok(port)) => Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))),
        _ => text.parse().ok(),
    };
    match parsed {
        Some(address) if address.port() != 0 => Some(address),
        Some(_) => {
            let message = format_args!("{} has port 0; a listener needs a port from 1 to 65535", shown(text));
            faults.add(fault::BAD_LISTENER_ADDRESS, "address", message);
            None
        }
        None => {
            let hint = "write an IP address and a port, as in \"0.0.0.0:8080\" or \"[::]:8080\"";
            let message = format_args!("{} is no address to listen on", shown(text));
            faults.add_with_hint(fault::BAD_LISTENER_ADDRESS, "address", message, hint);
            None
        }
    }
}

/// The names of listeners, sorted by address.
pub(super) fn names(listeners: &[Arc<Listener>]) -> Arc<[(SocketAddr, Arc<str>)]> {
    let mut names: Vec<_> = listeners.iter().map(|listener| (listener.address, Arc::clone(&listener.name))).collect();
    names.sort_unstable();
    names.into()
}

/// Checks what concerns several of them (sorted by name, as the changes are).
pub(super) fn check_all(listeners: &[Arc<Listener>], changes: &[&wire::Change], faults: &mut Faults) {
    if changes.is_empty() {
        return;
    }
    let changed =
        |listener: &Listener| changes.binary_search_by(|change| change.name.as_str().cmp(&listener.name)).is_ok();
    for (index, later) in listeners.iter().enumerate() {
        for earlier in &listeners[..index] {
            if earlier.address != later.address {
                continue;
            }
            // The fault is that of the change that brought it.
            let (at, other) = if changed(later) { (later, earlier) } else { (earlier, later) };
            faults.enter(wire::Kind::Listener, &at.name);
            let message = format_args!("listener {:?} has the address {} already", other.name, at.address);
            faults.add(fault::DUPLICATE_LISTENER_ADDRESS, "address", message);
        }
    }
    if listeners.len() > LISTENERS_MAX {
        let last = changes.last().map(|change| change.name.as_str()).unwrap_or_default();
        faults.enter(wire::Kind::Listener, last);
        let message = format_args!("there are {} listeners; at most {LISTENERS_MAX} are allowed", listeners.len());
        faults.add(fault::OUT_OF_BOUNDS, "", message);
    }
}
