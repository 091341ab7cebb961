//! Listeners: an address each, no address twice.

use std::{net::SocketAddr, sync::Arc};

use rustygate_proto::v1 as wire;

use crate::snapshot::{
    Listener, fault,
    fault::{Faults, shown},
};

/// The most listeners.
const LISTENERS_MAX: usize = 64;

pub(super) fn compile(message: &wire::Listener, faults: &mut Faults) -> Option<Listener> {
    match message.address.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(Listener { name: message.name.as_str().into(), address }),
        Ok(_) => {
            let message =
                format_args!("{} has port 0; a listener needs a port from 1 to 65535", shown(&message.address));
            faults.add(fault::BAD_LISTENER_ADDRESS, "address", message);
            None
        }
        Err(_) => {
            let hint = "write an IP address and a port, as in \"0.0.0.0:8080\" or \"[::]:8080\"";
            let message = format_args!("{} is no address to listen on", shown(&message.address));
            faults.add_with_hint(fault::BAD_LISTENER_ADDRESS, "address", message, hint);
            None
        }
    }
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
