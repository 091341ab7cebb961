//! `listeners:`

use rustygate_proto::v1 as wire;

use super::{name, names, outside_text, text, word};
use crate::manifest::faults::Faults;
use crate::manifest::node::Node;

/// Where a listener with TLS is that does not say.
const TLS_ADDRESS: &str = ":8443";

pub(super) fn listener(faults: &mut Faults, node: &Node<'_>) -> Option<wire::Listener> {
    let fields = faults.fields(node, "a listener", ["name", "address", "tls", "plugins"])?;
    let [_, address, tls, plugins] = fields.found;
    let name = faults.required(&fields, "name").and_then(|node| name(faults, node)).unwrap_or_default();
    let address = match (address, tls) {
        (None, Some(_)) => TLS_ADDRESS.to_owned(),
        _ => faults.required(&fields, "address").and_then(|node| text(faults, node)).unwrap_or_default(),
    };
    let tls = tls.and_then(|entry| listener_tls(faults, &entry.value));
    let plugins = plugins.map(|entry| names(faults, &entry.value)).unwrap_or_default();
    Some(wire::Listener { name, address, tls, plugins })
}

fn listener_tls(faults: &mut Faults, node: &Node<'_>) -> Option<wire::ListenerTls> {
    const VERSIONS: [(&str, wire::TlsVersion); 2] =
        [("1.2", wire::TlsVersion::TlsVersion12), ("1.3", wire::TlsVersion::TlsVersion13)];
    let fields = faults.fields(node, "a listener's tls", ["certificates", "min_version", "alpn", "client_auth"])?;
    let [_, min_version, alpn, client_auth] = fields.found;
    let certificates = faults.required(&fields, "certificates");
    let certificates =
        certificates.filter(|node| faults.filled_list(node, "TLS needs at least one certificate").is_some());
    let certificates = certificates.map(|node| names(faults, node)).unwrap_or_default();
    let min_version =
        min_version.and_then(|entry| word(faults, &entry.value, "version", "versions", &VERSIONS)).map(i32::from);
    let alpn = alpn.and_then(|entry| faults.filled_list(&entry.value, "leave `alpn` out for h2 and http/1.1"));
    let alpn = alpn.map(|nodes| faults.distinct(nodes, text)).unwrap_or_default();
    let client_auth = client_auth.and_then(|entry| auth(faults, &entry.value));
    Some(wire::ListenerTls { certificates, min_version, alpn, client_auth })
}

fn auth(faults: &mut Faults, node: &Node<'_>) -> Option<wire::ClientAuth> {
    use wire::client_auth::Mode;
    const MODES: [(&str, Mode); 2] = [("required", Mode::Required), ("optional", Mode::Optional)];
    let fields = faults.fields(node, "client_auth", ["mode", "ca", "crl"])?;
    let mode = faults
        .required(&fields, "mode")
        .and_then(|node| word(faults, node, "mode", "modes", &MODES))
        .unwrap_or_default();
    let ca = faults.required(&fields, "ca").and_then(|node| outside_text(faults, node)).unwrap_or_default();
    let [_, _, crl] = fields.found;
    let crl = crl.and_then(|entry| outside_text(faults, &entry.value));
    Some(wire::ClientAuth { mode: mode.into(), ca, crl })
}
