//! One certificate for every proxy, and clients that leave none of them a choice: TLS 1.3, X25519, AES-128-GCM.
//!
//! Left to themselves the proxies would choose different ciphers, and their cost would be compared instead.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, ensure};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::load::HOST;

/// A key on P-256 and a certificate that it signed itself, in files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Both, as HAProxy wants them.
    pub both: PathBuf,
}

impl Identity {
    /// Makes one for [`HOST`].
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn make(folder: &Path) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).context("cannot make a certificate")?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let identity = Self {
            certificate: folder.join("certificate.pem"),
            key: folder.join("key.pem"),
            both: folder.join("both.pem"),
        };
        let files = [
            (&identity.certificate, certificate.clone()),
            (&identity.key, key.clone()),
            (&identity.both, certificate + &key),
        ];
        for (path, text) in files {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(identity)
    }
}

/// Shakes hands, and knows how it must have gone.
pub struct Handshaker {
    connector: TlsConnector,
    resumes: bool,
    has_ticket: bool,
}

impl Handshaker {
    /// One that trusts this certificate and none other.
    ///
    /// # Errors
    /// If the file holds none.
    pub fn new(certificate: &Path, resumes: bool) -> anyhow::Result<Self> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(certificate).context("no certificate")?)?;
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = if resumes { Resumption::in_memory_sessions(1) } else { Resumption::disabled() };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), resumes, has_ticket: false })
    }

    /// Turns a connection into one of TLS.
    ///
    /// # Errors
    /// If it cannot, or a handshake was full that should have resumed a session.
    pub async fn shake_hands(&mut self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream =
            self.connector.connect(ServerName::try_from(HOST)?, stream).await.context("in the TLS handshake")?;
        let kind = stream.get_ref().1.handshake_kind();
        let expected = if self.has_ticket { HandshakeKind::Resumed } else { HandshakeKind::Full };
        ensure!(kind == Some(expected), "a TLS handshake that was {kind:?} instead of {expected:?}");
        self.has_ticket = self.resumes;
        Ok(stream)
    }
}
