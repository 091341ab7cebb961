//! TLS: certificates, and the terms on which listeners and backends use them.

use std::{fmt, sync::Arc};

use rustls::pki_types::ServerName;
use rustygate_proto::v1 as wire;

use super::{
    Touched,
    links::dangling,
    rule::bounded,
    target::{self, Place},
};
use crate::{
    snapshot::{
        Backend, CowMap, Endpoint, Protocol, fault,
        fault::{Faults, shown},
    },
    tls::{
        Certificate, Client, MinVersion, Server, Tickets,
        certificate::{self, CertificateError, ChainError},
        client::{self, EndpointTls},
        server::{self, ClientAuth},
    },
};

/// The most certificates in all.
pub(super) const CERTIFICATES_MAX: usize = 10_000;

/// The most certificates of one listener.
const LISTENER_CERTIFICATES_MAX: usize = 1_000;

/// What is spoken over TLS unless a listener says otherwise.
const ALPN: [&str; 2] = ["h2", "http/1.1"];

/// What terms can refer to.
pub(super) struct Keys<'a, 'c> {
    pub certificates: &'a CowMap<Arc<str>, Arc<Certificate>>,
    pub touched: &'a Touched<'c>,
}

impl Keys<'_, '_> {
    /// The certificate of a name, or `None` after a fault, if only in the certificate itself.
    fn find(&self, name: &str, field: fmt::Arguments<'_>, faults: &mut Faults) -> Option<Arc<Certificate>> {
        if let Some(certificate) = self.certificates.get(name) {
            return Some(Arc::clone(certificate));
        }
        let names = self.certificates.iter().map(|(name, _)| &**name);
        dangling(faults, self.touched, wire::Kind::Certificate, name, field, names);
        None
    }
}

/// The certificate of a message, or `None` after a fault.
pub(super) fn certificate(message: &wire::Certificate, faults: &mut Faults) -> Option<Certificate> {
    use wire::secret::Form;
    let key = match message.key.as_ref().and_then(|secret| secret.form.as_ref()) {
        Some(Form::Clear(key)) => key,
        // Whoever has the key puts it in its place before.
        Some(Form::Fingerprint(_) | Form::Sealed(_)) => {
            let text = "there is only a fingerprint of the key, and no key with it is stored under this name";
            faults.add_with_hint(fault::BAD_KEY, "key", text, "give the key itself, as in key: {file: web.key}");
            return None;
        }
        None => {
            let hint = "name the file it is in, as in key: {file: web.key}";
            faults.add_with_hint(fault::MISSING, "key", "a certificate needs its private key", hint);
            return None;
        }
    };
    match Certificate::new(&message.name, &message.chain, key) {
        Ok(certificate) => Some(certificate),
        Err(CertificateError::Chain(error)) => {
            add_bad_chain(&error, format_args!("chain"), faults);
            None
        }
        Err(CertificateError::Key(error)) => {
            faults.add_with_hint(fault::BAD_KEY, "key", error, error.hint());
            None
        }
    }
}

fn add_bad_chain(error: &ChainError, field: fmt::Arguments<'_>, faults: &mut Faults) {
    faults.add_with_hint(fault::BAD_CERTIFICATE, field, error, error.hint());
}

/// What a listener does with TLS, or `None` after a fault, if only in one of its certificates.
pub(super) fn server(
    message: &wire::ListenerTls,
    keys: &Keys<'_, '_>,
    tickets: &Tickets,
    faults: &mut Faults,
) -> Option<Arc<Server>> {
    let before = faults.count();
    if message.certificates.is_empty() {
        let hint = "name at least one: tls: {certificates: [web]}";
        faults.add_with_hint(fault::MISSING, "tls.certificates", "TLS needs a certificate", hint);
    }
    let names = bounded(&message.certificates, LISTENER_CERTIFICATES_MAX, format_args!("tls.certificates"), faults);
    let names: Vec<(u32, &String)> = names.collect();
    let certificates: Vec<_> = names
        .into_iter()
        .filter_map(|(index, name)| keys.find(name, format_args!("tls.certificates[{index}]"), faults))
        .collect();
    let min_version = match message.min_version.map(wire::TlsVersion::try_from) {
        None | Some(Ok(wire::TlsVersion::TlsVersion12)) => MinVersion::Tls12,
        Some(Ok(wire::TlsVersion::TlsVersion13)) => MinVersion::Tls13,
        Some(_) => {
            let message = "this version knows no such version of TLS";
            faults.add_with_hint(fault::UNREADABLE, "tls.min_version", message, "versions are 1.2 and 1.3");
            MinVersion::Tls12
        }
    };
    let alpn = alpn(&message.alpn, faults);
    let client_auth = message.client_auth.as_ref().and_then(|auth| client_auth(auth, faults));
    if faults.count() > before || certificates.len() < message.certificates.len() {
        return None;
    }
    let names = certificates.iter().map(|certificate| Arc::clone(&certificate.name)).collect();
    let terms = server::Terms { certificates: names, min_version, alpn, client_auth };
    match Server::new(terms, &certificates, tickets) {
        Ok(server) => Some(Arc::new(server)),
        Err(error) => {
            faults.add(fault::BAD_TLS, "tls", format_args!("these terms cannot be used: {error}"));
            None
        }
    }
}

fn alpn(protocols: &[String], faults: &mut Faults) -> Vec<Vec<u8>> {
    if protocols.is_empty() {
        return ALPN.map(|protocol| protocol.as_bytes().to_vec()).to_vec();
    }
    let known: Vec<_> = bounded(protocols, ALPN.len(), format_args!("tls.alpn"), faults).collect();
    let mut alpn: Vec<Vec<u8>> = Vec::new();
    for (index, protocol) in known {
        let field = format_args!("tls.alpn[{index}]");
        if !ALPN.contains(&protocol.as_str()) {
            let message = format_args!("{} is nothing that is spoken here", shown(protocol));
            faults.add_with_hint(fault::BAD_TLS, field, message, "protocols are h2 and http/1.1");
        } else if alpn.iter().any(|before| before == protocol.as_bytes()) {
            faults.add(fault::BAD_TLS, field, format_args!("{} is in the list twice", shown(protocol)));
        } else {
            alpn.push(protocol.as_bytes().to_vec());
        }
    }
    alpn
}

fn client_auth(message: &wire::ClientAuth, faults: &mut Faults) -> Option<ClientAuth> {
    use wire::client_auth::Mode;
    let required = match message.mode() {
        Mode::Required => true,
        Mode::Optional => false,
        Mode::Unspecified => {
            let hint = "modes are required and optional";
            faults.add_with_hint(fault::UNREADABLE, "tls.client_auth.mode", "this version knows no such mode", hint);
            return None;
        }
    };
    let (authorities, authorities_id) = certificate::authorities(&message.ca)
        .inspect_err(|error| add_bad_chain(error, format_args!("tls.client_auth.ca"), faults))
        .ok()?;
    let auth = ClientAuth { required, authorities, authorities_id, revoked: None };
    let Some(crl) = &message.crl else { return Some(auth) };
    let mut bad = |error: &dyn fmt::Display| {
        let hint = "a PEM file begins with \"-----BEGIN X509 CRL-----\"";
        faults.add_with_hint(fault::BAD_CERTIFICATE, "tls.client_auth.crl", error, hint);
    };
    let revoked = certificate::revocation_lists(crl).inspect_err(|error| bad(error)).ok()?;
    let auth = ClientAuth { revoked: Some(revoked), ..auth };
    auth.verifier().inspect_err(|error| bad(&format_args!("it cannot be used: {error}"))).ok()?;
    Some(auth)
}

/// The same listener's TLS with its certificates as they are now; `None` if one of them is not there.
pub(super) fn renew_server(old: &Server, keys: &Keys<'_, '_>, tickets: &Tickets) -> Option<Arc<Server>> {
    let found = old.terms.certificates.iter().map(|name| keys.certificates.get(&**name).cloned());
    let certificates = found.collect::<Option<Vec<_>>>()?;
    Server::new(old.terms.clone(), &certificates, tickets).ok().map(Arc::new)
}

/// What a backend's endpoints speak, by whether they have https; after a fault as if nothing were said.
pub(super) fn protocols(
    message: Option<i32>,
    places: &[(u32, Place, u32)],
    faults: &mut Faults,
) -> (Protocol, Protocol) {
    use wire::Protocol as Wire;
    let (clear, over_tls) = match message.map_or(Ok(Wire::Auto), Wire::try_from) {
        Ok(Wire::Auto) => (Some(Protocol::Http1), Some(Protocol::Negotiated)),
        Ok(Wire::Http1) => (Some(Protocol::Http1), Some(Protocol::Http1)),
        Ok(Wire::H2) => (None, Some(Protocol::H2)),
        Ok(Wire::H2c) => (Some(Protocol::H2), None),
        Ok(Wire::Unspecified) | Err(_) => {
            let hint = "protocols are auto, http1, h2 and h2c";
            faults.add_with_hint(fault::UNREADABLE, "protocol", "this version knows no such protocol", hint);
            (Some(Protocol::Http1), Some(Protocol::Negotiated))
        }
    };
    let misfit = places.iter().find(|(_, place, _)| if place.https { over_tls } else { clear }.is_none());
    if let Some((index, place, _)) = misfit {
        let (message, hint) = if place.https {
            ("h2c is HTTP/2 in the clear, and this endpoint has https", "write h2, or http")
        } else {
            ("h2 is HTTP/2 over TLS, and this endpoint has http", "write h2c, or https")
        };
        faults.add_with_hint(fault::BAD_TLS, format_args!("endpoints[{index}].url"), message, hint);
    }
    (clear.unwrap_or_default(), over_tls.unwrap_or_default())
}

/// How a backend's endpoints with https are spoken to; `None` after a fault, if only in its certificate.
pub(super) fn client(
    message: &wire::BackendTls,
    protocol: Protocol,
    keys: &Keys<'_, '_>,
    faults: &mut Faults,
) -> Option<Arc<Client>> {
    let before = faults.count();
    let authorities = message.ca.as_ref().and_then(|ca| match certificate::authorities(ca) {
        Ok(authorities) => Some(authorities),
        Err(error) => {
            add_bad_chain(&error, format_args!("tls.ca"), faults);
            None
        }
    });
    if message.insecure_skip_verify && message.ca.is_some() {
        let text = "with insecure_skip_verify nothing is checked against `ca`";
        faults.add_with_hint(fault::BAD_TLS, "tls.insecure_skip_verify", text, "keep `ca` alone");
    }
    let server_name = message.server_name.as_ref().and_then(|name| match ServerName::try_from(name.clone()) {
        Ok(server_name) => Some(server_name),
        Err(_) => {
            let text = format_args!("{} is no name of a server", shown(name));
            faults.add_with_hint(fault::BAD_TLS, "tls.server_name", text, "write a host name without a port");
            None
        }
    });
    let shown = message.client_certificate.as_ref();
    let certificate = shown.and_then(|name| keys.find(name, format_args!("tls.client_certificate"), faults));
    if faults.count() > before || certificate.is_some() != shown.is_some() {
        return None;
    }
    let terms = client::Terms {
        authorities,
        server_name,
        client_certificate: certificate.as_ref().map(|certificate| Arc::clone(&certificate.name)),
        insecure_skip_verify: message.insecure_skip_verify,
        protocol,
    };
    make_client(terms, certificate.as_deref(), faults)
}

/// How an endpoint with https is spoken to that nothing more is said of: one for all of them.
pub(super) fn public_client(
    known: &mut Option<Arc<Client>>,
    protocol: Protocol,
    faults: &mut Faults,
) -> Option<Arc<Client>> {
    if protocol != Protocol::Negotiated {
        return make_client(client::Terms { protocol, ..client::Terms::default() }, None, faults);
    }
    if known.is_none() {
        *known = make_client(client::Terms { protocol, ..client::Terms::default() }, None, faults);
    }
    known.clone()
}

fn make_client(terms: client::Terms, certificate: Option<&Certificate>, faults: &mut Faults) -> Option<Arc<Client>> {
    match Client::new(terms, certificate) {
        Ok(client) => Some(Arc::new(client)),
        Err(error) => {
            faults.add(fault::BAD_TLS, "tls", format_args!("these terms cannot be used: {error}"));
            None
        }
    }
}

/// TLS to one endpoint, or `None` after a fault.
pub(super) fn endpoint(
    client: &Arc<Client>,
    host: &str,
    field: fmt::Arguments<'_>,
    faults: &mut Faults,
) -> Option<EndpointTls> {
    match client.server_name(host) {
        Ok(server_name) => Some(EndpointTls { client: Arc::clone(client), server_name }),
        Err(_) => {
            let text = format_args!("no certificate can have the name {}", shown(host));
            faults.add_with_hint(fault::BAD_TLS, field, text, "say which name it has: tls: {server_name: ...}");
            None
        }
    }
}

/// The same backend with the certificate that it shows as it is now; `None` if that is not there.
pub(super) fn renew_backend(old: &Backend, keys: &Keys<'_, '_>) -> Option<Backend> {
    let terms = &old.tls.as_ref()?.terms;
    let certificate = keys.certificates.get(terms.client_certificate.as_deref()?)?;
    let client = Arc::new(Client::new(terms.clone(), Some(certificate)).ok()?);
    let endpoints = old.endpoints.iter().map(|endpoint| match &endpoint.tls {
        None => Arc::clone(endpoint),
        Some(tls) => {
            let tls = EndpointTls { client: Arc::clone(&client), server_name: tls.server_name.clone() };
            let mut endpoint = Endpoint { tls: Some(tls), ..Endpoint::clone(endpoint) };
            endpoint.id = target::id(&endpoint);
            Arc::new(endpoint)
        }
    });
    Some(Backend { endpoints: endpoints.collect(), tls: Some(client), ..old.clone() })
}
