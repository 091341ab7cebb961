//! TLS to clients: which certificate one gets, and what it must show.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use hashbrown::HashMap;
use rustls::{
    RootCertStore, ServerConfig,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection, WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};
use tokio::net::TcpStream;

use super::{Certificate, MinVersion, Tickets, digest, identity, provider, session::Session};
use crate::snapshot::Id;

/// What a listener does with TLS. Workers hand it to each connection that comes in.
#[derive(Debug)]
pub struct Server {
    /// For [`rustls::server::UnbufferedServerConnection`] and its like.
    pub config: Arc<ServerConfig>,
    /// Of terms and certificates: what differs in anything, differs here.
    pub id: Id,
    /// Whether clients are asked for certificates, so that there may be an [identity](super::identity()).
    pub asks_for_certificates: bool,
    /// Of what clients are asked for, and nothing else.
    pub trust: Id,
    pub(crate) terms: Terms,
    names: Arc<Names>,
}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Server {}

/// What a listener's configuration says of TLS, besides its certificates.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Names of the certificates, the default first. Never empty.
    pub certificates: Box<[Arc<str>]>,
    /// The oldest version of TLS.
    pub min_version: MinVersion,
    /// What is spoken inside, in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Whether clients show certificates.
    pub client_auth: Option<ClientAuth>,
}

/// What is asked of clients.
#[derive(Clone, Debug)]
pub struct ClientAuth {
    /// Whether those without a certificate are refused.
    pub required: bool,
    /// Who may vouch for them.
    pub authorities: Arc<RootCertStore>,
    /// Of the authorities.
    pub authorities_id: Id,
}

impl Server {
    /// Puts it together. The certificates are those of the terms, in their order.
    ///
    /// # Errors
    /// What rustls has against it.
    pub fn new(terms: Terms, certificates: &[Arc<Certificate>], tickets: &Tickets) -> Result<Self, rustls::Error> {
        let names = Arc::new(Names::new(certificates));
        let versions = terms.min_version.versions();
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
        let builder = match &terms.client_auth {
            None => builder.with_no_client_auth(),
            Some(auth) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&auth.authorities), provider());
                let verifier = if auth.required { verifier } else { verifier.allow_unauthenticated() };
                let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&names) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols.clone_from(&terms.alpn);
        // What is kept for a client, the client keeps: no table that grows with them and no lock around it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let trust = terms.trust();
        if let Some(ticketer) = tickets.bound_to(trust) {
            config.ticketer = ticketer;
        }
        let contents = certificates.iter().map(|certificate| certificate.content.0.to_le_bytes());
        let mut parts: Vec<Vec<u8>> = contents.map(Vec::from).collect();
        parts.extend([trust.0.to_le_bytes().to_vec(), vec![u8::from(terms.min_version == MinVersion::Tls13)]]);
        parts.extend(terms.certificates.iter().map(|name| name.as_bytes().to_vec()));
        parts.extend(terms.alpn.iter().cloned());
        Ok(Self {
            config: Arc::new(config),
            id: digest("tls server", parts.iter().map(Vec::as_slice)),
            asks_for_certificates: terms.client_auth.is_some(),
            trust,
            terms,
            names,
        })
    }

    /// Which certificate a client gets that asks for this name (a DNS name without a dot at its end or an IP address, in
    /// lower case; `""` for one that does not say). A request whose host would get another than its connection did was
    /// sent to the wrong place.
    #[must_use]
    pub fn certificate_for(&self, name: &str) -> Option<Id> {
        self.names.find(name).map(|certificate| certificate.id)
    }
}

/// What a client's handshake has told, for every request of its connection.
#[derive(Debug)]
pub struct Accepted {
    server: Arc<Server>,
    /// The name that the client asked for, in lower case; `None` if it asked for none.
    name: Option<Box<str>>,
    /// The certificate that it got.
    certificate: Option<Id>,
    /// See [`identity`](identity()).
    pub identity: Option<String>,
}

impl Accepted {
    /// On which terms the client was let in.
    #[must_use]
    pub fn trust(&self) -> Id {
        self.server.trust
    }

    /// Whether a request for this host (lower case, without port) belongs on the connection: its certificate is the one
    /// that the host's own connection would have got. A client that asked for no name has nothing to contradict.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        match &self.name {
            None => true,
            Some(name) => **name == *host || self.server.certificate_for(host) == self.certificate,
        }
    }
}

impl Server {
    /// Shakes hands with a client. The caller bounds the time.
    ///
    /// # Errors
    /// The connection's, and what rustls has against the client; that was told to it.
    pub async fn accept(self: &Arc<Self>, tcp: &mut TcpStream) -> io::Result<(Session, Accepted)> {
        // rustls tells only the resolver what name is asked for, so each connection has one of its own.
        let resolver = Arc::new(Resolver { names: Arc::clone(&self.names), asked: OnceLock::new() });
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>;
        let connection = UnbufferedServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        let mut session = Session::server(connection);
        session.handshake(tcp).await?;
        let name = resolver.asked.get().cloned().flatten();
        let accepted = Accepted {
            server: Arc::clone(self),
            certificate: self.certificate_for(name.as_deref().unwrap_or_default()),
            name,
            identity: session.peer_certificates().and_then(identity),
        };
        Ok((session, accepted))
    }
}

impl Terms {
    /// Of what is asked of clients, and nothing else.
    fn trust(&self) -> Id {
        match &self.client_auth {
            None => Id::of("tls trust", "none"),
            Some(auth) => {
                digest("tls trust", [&[u8::from(auth.required)][..], &auth.authorities_id.0.to_le_bytes()[..]])
            }
        }
    }
}

/// Certificates by name. Of two with the same name the first in the listener's list counts.
#[derive(Debug)]
struct Names {
    certificates: Box<[Arc<Certificate>]>,
    exact: HashMap<Box<str>, usize>,
    /// By what comes after the star and its dot.
    wildcards: HashMap<Box<str>, usize>,
}

impl Names {
    fn new(certificates: &[Arc<Certificate>]) -> Self {
        let (mut exact, mut wildcards) = (HashMap::new(), HashMap::new());
        for (index, certificate) in certificates.iter().enumerate() {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(suffix) => wildcards.entry(suffix.into()).or_insert(index),
                    None => exact.entry(name.clone()).or_insert(index),
                };
            }
        }
        Self { certificates: certificates.into(), exact, wildcards }
    }

    /// The name itself, then the wildcard that covers it, then the default.
    fn find(&self, name: &str) -> Option<&Arc<Certificate>> {
        let wildcard = || self.wildcards.get(name.split_once('.')?.1);
        let index = self.exact.get(name).or_else(wildcard).copied().unwrap_or(0);
        self.certificates.get(index)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = asked(&hello).unwrap_or_default();
        self.find(&name).map(|certificate| Arc::clone(&certificate.key))
    }
}

/// Resolves for one connection, and keeps what was asked.
#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    asked: OnceLock<Option<Box<str>>>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = self.asked.get_or_init(|| asked(&hello));
        self.names.find(name.as_deref().unwrap_or_default()).map(|certificate| Arc::clone(&certificate.key))
    }
}

/// The name that a client asks for.
fn asked(hello: &ClientHello<'_>) -> Option<Box<str>> {
    let name = hello.server_name()?;
    Some(name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into())
}
