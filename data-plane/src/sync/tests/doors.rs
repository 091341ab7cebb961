//! TLS, tokens, and what is said when they are wrong.

use std::net::Ipv4Addr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::{Identity, ServerTlsConfig};

use super::*;

/// A CA, and a server's certificate for "localhost" that it signed.
fn authority() -> (String, ServerTlsConfig) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = server.signed_by(&key, &ca).expect("signs");
    let identity = Identity::from_pem(certificate.pem(), key.serialize_pem());
    (ca.pem(), ServerTlsConfig::new().identity(identity))
}

fn any() -> std::net::SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// What is said about a link that does not come about.
async fn complaint(config: &Config) -> String {
    let error = Link::open(config, Hello::default()).await.expect_err("cannot be opened");
    format!("{error}; {}", error.hint(config))
}

#[tokio::test]
async fn the_token_is_sent_and_read_anew_at_each_try() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("token");
    fs::write(&file, "old\n").expect("writes");
    let mut plane = Plane::start_with(any(), None, Some("Bearer new")).await;
    let config = config(&plane.url, &["--token-file", file.to_str().expect("UTF-8")]);
    let said = complaint(&config).await;
    assert!(said.contains("not known there"), "{said}");

    let proxy = Proxy::start(config);
    fs::write(&file, "new\n").expect("writes");
    assert_eq!(plane.accept().await.authorization.as_deref(), Some("Bearer new"));
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_token_file_no_token_is_sent_and_the_hint_tells_how_to_make_one() {
    let mut open = Plane::start().await;
    let proxy = Proxy::start(config(&open.url, &[]));
    assert_eq!(open.accept().await.authorization, None);
    proxy.stop().await;

    let closed = Plane::start_with(any(), None, Some("Bearer secret")).await;
    let said = complaint(&config(&closed.url, &[])).await;
    assert!(said.contains("gatectl token create --role proxy"), "{said}");
}

#[tokio::test]
async fn a_token_file_that_is_missing_or_holds_no_token_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("token");
    let config = config("http://127.0.0.1:1", &["--token-file", file.to_str().expect("UTF-8")]);
    for content in ["", " \n", "two words", "caf\u{e9}"] {
        fs::write(&file, content).expect("writes");
        let error = link::authorization(&config).await.expect_err("is no token");
        assert!(error.to_string().contains("holds no token"), "{error}");
    }
    fs::remove_file(&file).expect("removes");
    let error = link::authorization(&config).await.expect_err("is missing");
    assert!(error.to_string().contains(file.to_str().expect("UTF-8")), "{error}");
}

#[tokio::test]
async fn with_tls_the_certificate_is_checked_against_the_ca() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("ca.pem");
    let (ca, tls) = authority();
    let (other_ca, _) = authority();
    let mut plane = Plane::start_with(any(), Some(tls), None).await;
    let config = config(&plane.url, &["--control-plane-ca", file.to_str().expect("UTF-8")]);
    fs::write(&file, other_ca).expect("writes");
    let said = complaint(&config).await;
    assert!(said.contains("--control-plane-ca hold the CA"), "{said}");

    fs::write(&file, ca).expect("writes");
    let proxy = Proxy::start(config);
    let mut stream = plane.accept().await;
    assert_eq!(stream.hello().await.node_id, "n1");
    proxy.stop().await;
}

#[tokio::test]
async fn the_wrong_scheme_is_hinted_at() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("ca.pem");
    let (ca, tls) = authority();
    fs::write(&file, ca).expect("writes");

    let plain = Plane::start().await;
    let https = plain.url.replace("http://", "https://");
    let said = complaint(&config(&https, &["--control-plane-ca", file.to_str().expect("UTF-8")])).await;
    assert!(said.contains("must begin with http://"), "{said}");

    let secure = Plane::start_with(any(), Some(tls), None).await;
    let http = secure.url.replace("https://", "http://");
    let said = complaint(&config(&http, &[])).await;
    assert!(said.contains("must begin with https://"), "{said}");
}

#[tokio::test]
async fn a_refused_connection_is_hinted_at() {
    let port = std::net::TcpListener::bind(any()).expect("binds").local_addr().expect("bound").port();
    let said = complaint(&config(&format!("http://127.0.0.1:{port}"), &[])).await;
    assert!(said.contains("is the control plane running"), "{said}");
}

/// The log lines of this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, needle: &str) -> usize {
        String::from_utf8_lossy(&lock(&self.0)).lines().filter(|line| line.contains(needle)).count()
    }
}

#[tokio::test]
async fn what_is_wrong_is_logged_once_and_not_at_each_try() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let mut plane = Plane::start_with(any(), None, Some("Bearer secret")).await;
    let proxy = Proxy::start(config(&plane.url, &[]));
    timeout(LONG, plane.refused.wait_for(|count| *count >= 4)).await.expect("in time").expect("runs");
    proxy.stop().await;
    assert_eq!(lines.with("still trying"), 1);
    assert_eq!(lines.with("gatectl token create"), 1, "with its hint");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let refused = |more: &[&str]| {
        let arguments = ["proxy", "--control-plane"].iter().chain(more);
        Config::new(&Cli::parse_from(arguments).settings).expect_err("is refused").to_string()
    };
    assert!(refused(&["ftp://host"]).contains("http://host:port"));
    assert!(refused(&["no url"]).contains("http://host:port"));
    assert!(refused(&["https://host:1"]).contains("--control-plane-ca"));
    assert!(refused(&["http://host:1", "--control-plane-ca", "f"]).contains("https://"));
}
