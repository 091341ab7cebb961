//! Servers that a plugin speaks to by itself, beside the requests: how its configuration says whom to trust there.

use std::sync::Arc;

use super::config::Config;
use crate::{
    snapshot::fault::Faults,
    tls::{
        Client,
        certificate::authorities,
        client::{EndpointTls, Terms},
    },
};

/// The keys of a configuration that say where a server is and who vouches for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// Of its URL.
    pub url: &'static str,
    /// Of certificates in PEM; the public authorities vouch if it is absent.
    pub ca: &'static str,
    /// What a URL with TLS begins with.
    pub scheme: &'static str,
}

/// The TLS to this host; `Some(None)` if its URL says that it is spoken to in the clear, `None` after a fault.
pub(super) fn tls(
    config: &Config<'_>,
    keys: Keys,
    host: &str,
    is_secure: bool,
    faults: &mut Faults,
) -> Option<Option<EndpointTls>> {
    if !is_secure {
        if config.has(keys.ca) {
            let hint = format!("begin the URL with {}://", keys.scheme);
            config.fault(keys.ca, "the URL has no TLS that this is for", &hint, faults);
        }
        return Some(None);
    }
    let authorities = match config.text(keys.ca).map(authorities).transpose() {
        Ok(authorities) => authorities,
        Err(error) => {
            config.fault(keys.ca, &error, error.hint(), faults);
            return None;
        }
    };
    let client = match Client::new(Terms { authorities, ..Terms::default() }, None) {
        Ok(client) => Arc::new(client),
        Err(error) => {
            config.fault(keys.ca, format_args!("this cannot be used: {error}"), "name other authorities", faults);
            return None;
        }
    };
    let Ok(server_name) = client.server_name(host) else {
        config.fault(keys.url, "no certificate can have this host", "name the host as its certificate does", faults);
        return None;
    };
    Some(Some(EndpointTls { client, server_name }))
}
