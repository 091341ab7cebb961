//! Nobody gets in without the right token, and nobody can take the door off its hinges.

use std::{io::Write as _, net::TcpStream, process::Command, time::Duration};

use prost::Message as _;
use rustygate_control_plane::{
    app::{self, StartError},
    auth::access,
    discovery::Timing,
    settings::Settings,
};
use rustygate_proto::v1::{
    self as wire, Role, config_service_client::ConfigServiceClient, token_service_client::TokenServiceClient,
};
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::{
    Code, Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_prost::ProstCodec;

use crate::{
    crash::BINARY,
    harness::{Plane, Proxy, settings},
};

/// A control plane with TLS and tokens, and one token of each role.
struct Closed {
    plane: Plane,
    certificate: Certificate,
    tokens: Vec<(Role, String)>,
}

fn create_token(folder: &TempDir, role: &str, name: &str) -> String {
    let output = Command::new(BINARY)
        .args(["token", "create", "--role", role, "--name", name, "--database"])
        .arg(folder.path().join("rustygate.db"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Closed {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&cert_file, key.cert.pem()).unwrap();
        std::fs::write(&key_file, key.signing_key.serialize_pem()).unwrap();
        let roles =
            [("proxy", Role::Proxy), ("viewer", Role::Viewer), ("editor", Role::Editor), ("admin", Role::Admin)];
        let tokens = roles.map(|(noun, role)| (role, create_token(&folder, noun, noun))).to_vec();
        let flags =
            ["--require-tokens", "--tls-cert", cert_file.to_str().unwrap(), "--tls-key", key_file.to_str().unwrap()]
                .map(str::to_owned);
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let plane = Plane::start_in(folder, &flags, Timing::default()).await.unwrap();
        Self { plane, certificate: Certificate::from_pem(key.cert.pem()), tokens }
    }

    async fn channel(&self) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(self.certificate.clone()).domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{}", self.plane.running.grpc)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    fn token(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(of, _)| *of == role).unwrap().1
    }

    async fn admin(&self) -> TokenServiceClient<WithToken> {
        TokenServiceClient::with_interceptor(self.channel().await, with_token(self.token(Role::Admin)))
    }
}

type WithToken = tonic::service::interceptor::InterceptedService<Channel, Bearer>;

#[derive(Clone)]
struct Bearer(tonic::metadata::AsciiMetadataValue);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

fn with_token(token: &str) -> Bearer {
    Bearer(format!("Bearer {token}").parse().unwrap())
}

/// Every method of every service that is served.
fn methods() -> Vec<String> {
    let sets = [
        wire::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut methods = Vec::new();
    for set in sets {
        for file in prost_types::FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
    }
    methods
}

/// Calls a method with an empty message; `Ok` also if a stream stays open.
async fn call(channel: &Channel, path: &str, authorization: Option<&str>) -> Code {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(()));
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    let path = PathAndQuery::try_from(path).unwrap();
    let response = match client.streaming(request, path, ProstCodec::<(), ()>::default()).await {
        Ok(response) => response,
        Err(status) => return status.code(),
    };
    match timeout(Duration::from_secs(5), response.into_inner().message()).await {
        Ok(Err(status)) => status.code(),
        Ok(Ok(_)) | Err(_) => Code::Ok,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_asks_for_a_token_in_force_with_the_right_role() {
    let closed = Closed::start().await;
    let channel = closed.channel().await;
    let create = wire::CreateTokenRequest { name: "revoked".into(), role: Role::Admin.into() };
    let revoked = closed.admin().await.create(create).await.unwrap().into_inner().secret;
    assert_eq!(call(&channel, "/rustygate.v1.TokenService/List", Some(&format!("Bearer {revoked}"))).await, Code::Ok);
    closed.admin().await.revoke(wire::RevokeTokenRequest { name: "revoked".into() }).await.unwrap();

    let admin = closed.token(Role::Admin);
    let other_case = format!("rgt_{}", admin[4..].to_uppercase());
    let wrong: Vec<Option<String>> = vec![
        None,
        Some("Bearer".into()),
        Some("Bearer ".into()),
        Some(format!("Basic {admin}")),
        Some(admin.into()),
        Some(format!("Bearer {}", &admin[..admin.len() - 1])),
        Some(format!("Bearer {admin}0")),
        Some(format!("Bearer rgt_{}", "0".repeat(64))),
        Some(format!("Bearer {other_case}")),
        Some(format!("Bearer {revoked}")),
    ];
    let methods = methods();
    assert_eq!(methods.len(), 17, "{methods:?}");
    for method in &methods {
        let allowed = access(method).unwrap_or_else(|| panic!("{method} is in no row of the table")).roles;
        for authorization in &wrong {
            let code = call(&channel, method, authorization.as_deref()).await;
            assert_eq!(code, Code::Unauthenticated, "{method} with {authorization:?}");
        }
        for (role, token) in &closed.tokens {
            let code = call(&channel, method, Some(&format!("Bearer {token}"))).await;
            let denied = matches!(code, Code::Unauthenticated | Code::PermissionDenied);
            assert_eq!(denied, !allowed.contains(role), "{method} as {role:?}: {code:?}");
            assert_ne!(code, Code::Unimplemented, "{method} is not served");
        }
    }
    let unknown = call(&channel, "/rustygate.v1.ConfigService/Own", Some(&format!("Bearer {admin}"))).await;
    assert_eq!(unknown, Code::PermissionDenied);
    closed.plane.stop().await;
}

#[test]
fn roles_are_what_their_names_say() {
    for method in methods() {
        let roles = access(&method).unwrap().roles;
        let health = method.starts_with("/grpc.health.v1.");
        let stream = method == "/rustygate.v1.SnapshotService/Stream";
        assert_eq!(roles.contains(&Role::Proxy), health || stream, "{method}");
        let changes =
            ["Apply", "Delete", "Rollback"].iter().any(|name| method.ends_with(&format!("ConfigService/{name}")));
        let tokens = method.contains("TokenService");
        assert_eq!(roles.contains(&Role::Viewer), !changes && !tokens && !stream, "{method}");
        assert_eq!(roles.contains(&Role::Editor), !tokens && !stream, "{method}");
        assert!(roles.contains(&Role::Admin) && !roles.contains(&Role::Unspecified), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_token_ends_its_streams_and_no_others() {
    let closed = Closed::start().await;
    let watch = async |role| {
        let bearer = with_token(closed.token(role));
        let mut config = ConfigServiceClient::with_interceptor(closed.channel().await, bearer);
        let mut revisions = config.watch(wire::WatchRequest {}).await.unwrap().into_inner();
        assert_eq!(revisions.message().await.unwrap().unwrap().revision, 0);
        revisions
    };
    let mut viewer = watch(Role::Viewer).await;
    let mut editor = watch(Role::Editor).await;
    closed.admin().await.revoke(wire::RevokeTokenRequest { name: "viewer".into() }).await.unwrap();
    let ended = timeout(Duration::from_secs(5), viewer.message()).await.expect("ends at once");
    assert_eq!(ended.unwrap_err().code(), Code::Unauthenticated);
    closed.plane.apply(&[("a", 1)]).await;
    assert_eq!(editor.message().await.unwrap().unwrap().revision, 1);
    closed.plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_author_of_a_change_is_the_token_whatever_the_client_says() {
    let closed = Closed::start().await;
    closed.plane.apply(&[("a", 1)]).await;
    let bearer = with_token(closed.token(Role::Editor));
    let mut config = ConfigServiceClient::with_interceptor(closed.channel().await, bearer);
    let delete = wire::DeleteRequest {
        keys: vec![wire::ResourceKey { kind: wire::Kind::Route.into(), name: "a".into() }],
        options: Some(wire::ChangeOptions { author: "root".into(), ..Default::default() }),
    };
    config.delete(delete).await.unwrap();
    let history = config.history(wire::HistoryRequest::default()).await.unwrap().into_inner();
    assert_eq!(history.revisions[0].author, "editor");
    closed.plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_made_beside_a_running_control_plane_works_at_once() {
    let plane = Plane::start_with(&["--require-tokens"], Timing::default()).await;
    let channel = plane.channel().await;
    let path = "/rustygate.v1.FleetService/List";
    assert_eq!(call(&channel, path, None).await, Code::Unauthenticated);
    let token = create_token(&plane.folder, "viewer", "late");
    assert_eq!(call(&channel, path, Some(&format!("bearer {token}"))).await, Code::Ok);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_reaches_the_database_or_the_answer_of_a_list() {
    let closed = Closed::start().await;
    let secret = closed.token(Role::Proxy).to_owned();
    let listed = closed.admin().await.list(wire::ListTokensRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.tokens.len(), 4);
    assert!(!format!("{listed:?}").contains(&secret[4..]));
    let folder = closed.plane.stop().await;
    let file = std::fs::read(folder.path().join("rustygate.db")).unwrap();
    assert!(!file.windows(16).any(|window| window == &secret.as_bytes()[4..20]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_door_is_not_opened_by_accident() {
    let folder = TempDir::new().unwrap();
    let everywhere = Settings { grpc_listen: "0.0.0.0:0".parse().unwrap(), ..settings(&folder, &[]) };
    let error = app::start(everywhere).await.err().unwrap();
    assert!(matches!(error, StartError::OpenDoor(_)), "{error}");
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("bad.pem"), "nothing").unwrap();
    let bad = folder.path().join("bad.pem");
    let bad = bad.to_str().unwrap().to_owned();
    let error =
        Plane::start_in(folder, &["--tls-cert", &bad, "--tls-key", &bad], Timing::default()).await.err().unwrap();
    assert!(matches!(error, StartError::Tls(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_do_not_stop_the_accept_loop() {
    let closed = Closed::start().await;
    let open = Plane::start().await;
    let mut half_open = Vec::new();
    for address in [closed.plane.running.grpc, open.running.grpc] {
        for i in 0..200 {
            let mut stream = TcpStream::connect(address).unwrap();
            match i % 4 {
                0 => drop(stream),
                1 => {
                    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                }
                2 => {
                    // Reset instead of an orderly end.
                    let _ = stream.write_all(b"\x16\x03\x01\x02\x00\x01");
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                _ => half_open.push(stream),
            }
        }
    }
    let token = format!("Bearer {}", closed.token(Role::Viewer));
    assert_eq!(call(&closed.channel().await, "/rustygate.v1.FleetService/List", Some(&token)).await, Code::Ok);
    open.apply(&[("a", 1)]).await;
    assert_eq!(Proxy::connect(&open, "p").await.serve().await.to, 1);
    drop(half_open);
    closed.plane.stop().await;
    open.stop().await;
}
