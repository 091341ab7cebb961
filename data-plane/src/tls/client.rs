//! TLS to endpoints: whom to believe, which name to ask for, what to show.
//!
//! Whoever says nothing gets the public authorities of Mozilla's list, which is part of the program (`webpki-roots`): it
//! is the same on every machine and in a container that has no such list, and compiling a snapshot reads no files.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::UnbufferedClientConnection,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;

use super::{Certificate, MinVersion, digest, provider, session::Session};
use crate::{
    snapshot::{Id, Protocol},
    stream::Stream,
};

/// How the endpoints of a backend are spoken to over TLS.
#[derive(Debug)]
pub struct Client {
    /// For [`rustls::client::UnbufferedClientConnection`] and its like.
    pub config: Arc<ClientConfig>,
    /// Of all terms: connections made on other terms have another id.
    pub id: Id,
    pub(crate) terms: Terms,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Client {}

/// What a backend's configuration says of TLS.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Who may vouch for endpoints, and an id of them; the public authorities if absent.
    pub authorities: Option<(Arc<RootCertStore>, Id)>,
    /// The name that is asked for, instead of the endpoint's host.
    pub server_name: Option<ServerName<'static>>,
    /// Name of the certificate that is shown to endpoints.
    pub client_certificate: Option<Arc<str>>,
    /// Take any certificate.
    pub insecure_skip_verify: bool,
    /// Decides on what is offered to be spoken inside.
    pub protocol: Protocol,
}

/// TLS to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointTls {
    /// On what terms.
    pub client: Arc<Client>,
    /// Which name is asked for, and must be in the endpoint's certificate.
    pub server_name: ServerName<'static>,
}

impl EndpointTls {
    /// Shakes hands with the endpoint; what is given to speak inside is offered instead of what the terms say. The caller
    /// bounds the time.
    ///
    /// # Errors
    /// The connection's, and what rustls has against the endpoint.
    pub async fn connect(&self, mut tcp: TcpStream, offer: Option<&[&[u8]]>) -> io::Result<Stream> {
        let (config, name) = (Arc::clone(&self.client.config), self.server_name.clone());
        let connection = match offer {
            None => UnbufferedClientConnection::new(config, name),
            Some(offer) => {
                let offer = offer.iter().map(|protocol| protocol.to_vec()).collect();
                UnbufferedClientConnection::new_with_alpn(config, name, offer)
            }
        };
        let mut session = Session::client(connection.map_err(io::Error::other)?);
        session.handshake(&mut tcp).await?;
        Ok(Stream::with_tls(tcp, session))
    }
}

impl Client {
    /// Puts it together. The certificate is that of the terms.
    ///
    /// # Errors
    /// What rustls has against it.
    pub fn new(terms: Terms, certificate: Option<&Certificate>) -> Result<Self, rustls::Error> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(MinVersion::Tls12.versions())?;
        let builder = if terms.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            let public = || Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
            let roots = terms.authorities.as_ref().map_or_else(public, |(roots, _)| Arc::clone(roots));
            builder.with_root_certificates(roots)
        };
        let mut config = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&certificate.key))))
            }
        };
        config.alpn_protocols = match terms.protocol {
            Protocol::Negotiated => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::H2 => vec![b"h2".to_vec()],
        };
        let authorities = terms.authorities.as_ref().map_or(0, |(_, id)| id.0);
        let shown = certificate.map_or(0, |certificate| certificate.content.0);
        let name = terms.server_name.as_ref().map(ServerName::to_str).unwrap_or_default();
        let id = digest(
            "tls client",
            [
                &authorities.to_le_bytes()[..],
                &shown.to_le_bytes()[..],
                name.as_bytes(),
                &[u8::from(terms.insecure_skip_verify), terms.protocol as u8],
            ],
        );
        Ok(Self { config: Arc::new(config), id, terms })
    }

    /// The name to ask an endpoint for.
    ///
    /// # Errors
    /// If the host can be in no certificate.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
        match &self.terms.server_name {
            Some(name) => Ok(name.clone()),
            None => ServerName::try_from(host.to_owned()),
        }
    }
}

/// Believes any certificate, but checks that the endpoint has the key to it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
