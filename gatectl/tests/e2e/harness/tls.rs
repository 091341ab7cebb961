//! Authorities and certificates of a test, and both ends of TLS that the gateway does not make: rustls, by way of
//! tokio-rustls.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    string::Ia5String,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::within;

/// Somebody who vouches for certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub chain: String,
    pub key: String,
}

impl Pair {
    /// As an entry of a manifest's `certificates`.
    pub fn manifest(&self, name: &str) -> String {
        let text = |pem: &str| serde_json::to_string(pem).expect("a string");
        format!("- {{name: {name}, certificate: {}, key: {}}}\n", text(&self.chain), text(&self.key))
    }

    /// The certificate, as it is shown in a handshake.
    pub fn der(&self) -> CertificateDer<'static> {
        self.chain_der().remove(0)
    }

    fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(|item| item.expect("a certificate")).collect()
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signs").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names, as servers and clients have them; 127.0.0.1 is among them.
    pub fn sign(&self, hosts: &[&str]) -> Pair {
        self.sign_with(hosts, |_| {})
    }

    /// The same, with changes.
    pub fn sign_with(&self, hosts: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::default();
        let dns = |host: &&str| SanType::DnsName(Ia5String::try_from(*host).expect("ASCII"));
        params.subject_alt_names = hosts.iter().map(dns).collect();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(86_400)).into();
        params.not_after = (now + Duration::from_secs(90 * 86_400)).into();
        edit(&mut params);
        let key = KeyPair::generate().expect("a key");
        Pair { chain: params.signed_by(&key, &self.issuer).expect("signs").pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let pem = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate");
        roots.add(pem).expect("an authority");
        Arc::new(roots)
    }

    /// A server that shows a certificate of this authority, speaks these protocols, and asks clients for theirs if
    /// that is wanted.
    pub fn server(&self, pair: &Pair, alpn: &[&str], ask_clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = match ask_clients {
            false => builder.with_no_client_auth(),
            true => {
                let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let mut config = builder.with_single_cert(pair.chain_der(), pair.key_der()).expect("a certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Takes any certificate.
#[derive(Debug)]
struct Unwary(Arc<CryptoProvider>);

impl ServerCertVerifier for Unwary {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How a client speaks TLS. Sessions are kept: its second connection takes the first one's up.
#[derive(Clone, Debug)]
pub struct Tls {
    config: ClientConfig,
}

impl Tls {
    /// Believes that authority, and shows nothing.
    pub fn of(authority: &Authority) -> Self {
        Self::with(authority, None, rustls::ALL_VERSIONS)
    }

    /// Shows a certificate if there is one, and knows these versions.
    pub fn with(authority: &Authority, shown: Option<&Pair>, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(authority.roots());
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_auth_cert(pair.chain_der(), pair.key_der()).expect("a certificate"),
        };
        config.resumption = Resumption::in_memory_sessions(16);
        Self { config }
    }

    /// Offers these protocols.
    pub fn alpn(mut self, names: &[&str]) -> Self {
        self.config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// Believes anybody.
    pub fn unwary(mut self) -> Self {
        let provider = Arc::clone(self.config.crypto_provider());
        self.config.dangerous().set_certificate_verifier(Arc::new(Unwary(provider)));
        self
    }

    /// Begins every session anew.
    pub fn forgetful(mut self) -> Self {
        self.config.resumption = Resumption::disabled();
        self
    }

    /// Shakes hands and asks for that name.
    pub async fn connect(&self, addr: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = within("a connection", TcpStream::connect(addr)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        within("a handshake", connector.connect(name, tcp)).await
    }
}
