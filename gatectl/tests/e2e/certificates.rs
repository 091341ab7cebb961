//! Certificates as their owner handles them: files in, days left out, and the key nowhere to be seen.

use std::{fs, os::unix::fs::MetadataExt as _};

use crate::harness::{
    Authority, Child, Client, Dev, Gateway, Tls, Witness, files_with, free_port, gatectl, gatectl_with_env, within,
};

const GATE: &str = "\
certificates:
- {name: web, certificate: {file: tls/web.pem}, key: {file: tls/web.key}}
listeners:
- {name: public, address: \"127.0.0.1:PORT\", tls: {certificates: [web]}}
";

/// Chain and key of a host, new ones at every call, valid for so many days from yesterday on.
fn pem(days: i64) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    let now = std::time::SystemTime::now();
    let day = std::time::Duration::from_secs(86_400);
    params.not_before = (now - day).into();
    params.not_after = (now + day * u32::try_from(days).expect("a number") + day / 2).into();
    let key = rcgen::KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("signs").pem(), key.serialize_pem())
}

fn write(gateway: &Gateway, (chain, key): &(String, String)) {
    fs::create_dir_all(gateway.folder().join("tls")).expect("a folder");
    gateway.write("tls/web.pem", chain);
    gateway.write("tls/web.key", key);
}

fn gate(gateway: &Gateway) -> u16 {
    let port = free_port();
    gateway.write("gate.yaml", &GATE.replace("PORT", &port.to_string()));
    port
}

/// The lines of a key that have the secret; after it comes the public half, which the certificate has too.
fn lines(key: &str) -> Vec<String> {
    key.lines().filter(|line| !line.starts_with("-----")).take(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_private_key_is_shown_by_no_command_and_lies_in_no_file_but_its_own() {
    let gateway = Gateway::builder().proxies(0).start().await;
    let (first, second) = (pem(90), pem(90));
    write(&gateway, &first);
    gate(&gateway);
    let mut shown = gateway.gatectl(&["validate", "-f", "gate.yaml"]).await.expect(0);
    assert_eq!(shown, "valid: 1 certificate, 1 listener\n");
    shown += &gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0);
    assert_eq!(gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect(0), "revision 1: nothing differs\n");
    write(&gateway, &second);
    let diff = gateway.gatectl(&["diff", "-f", "gate.yaml"]).await.expect(2);
    assert_eq!(diff.matches("key: {sealed: \"sha256:").count(), 2, "{diff}");
    shown += &diff;
    shown += &gateway.gatectl(&["apply", "-f", "gate.yaml", "-o", "json"]).await.expect(0);
    for command in [
        &["get", "-o", "yaml"][..],
        &["get", "-o", "json"],
        &["get", "--revision", "1", "-o", "yaml"],
        &["get", "certificates"],
        &["history"],
        &["status"],
        &["status", "-o", "json"],
        &["rollback", "1"],
    ] {
        let output = gateway.gatectl(command).await;
        assert_eq!(output.code, 0, "{command:?}: {}", output.stderr);
        shown += &output.stdout;
        shown += &output.stderr;
    }
    let keys = [lines(&first.1), lines(&second.1)].concat();
    for line in &keys {
        assert!(!shown.contains(line));
    }
    assert_eq!(files_with(gateway.folder(), &keys), ["web.key"]);
    let key_file = gateway.folder().join("rustygate.db.key");
    assert_eq!(fs::metadata(key_file).expect("it was made").mode() & 0o777, 0o600);

    let yaml = gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0);
    let again = gateway.gatectl_with(&["apply", "-f", "-"], &yaml).await.expect(0);
    assert_eq!(again, "revision 3: nothing differs\n");
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_fault_in_the_one_report() {
    let gateway = Gateway::builder().proxies(0).start().await;
    let yaml = "\
certificates:
- name: web
  certificate: {file: none.pem}
  key: {env: RUSTYGATE_E2E_NOT_SET}
routes:
- {path: 5, backend: x}
";
    gateway.write("gate.yaml", yaml);
    let stderr = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await.expect_stderr(1);
    insta::assert_snapshot!(stderr, @r#"
    error[RG0120]: cannot read the file "none.pem": No such file or directory (os error 2)
     --> gate.yaml:3:23
      |
    3 |   certificate: {file: none.pem}
      |                       ^^^^^^^^
      = help: paths are relative to the folder of the manifest, and read where gatectl runs

    error[RG0120]: cannot read the variable "RUSTYGATE_E2E_NOT_SET": it is not set
     --> gate.yaml:4:14
      |
    4 |   key: {env: RUSTYGATE_E2E_NOT_SET}
      |              ^^^^^^^^^^^^^^^^^^^^^
      = help: variables are those of gatectl's environment

    error[RG0103]: expected a string, or one of prefix, exact, regex, found an integer
     --> gate.yaml:6:10
      |
    6 | - {path: 5, backend: x}
      |          ^
      = help: write it in quotes: "5"

    3 faults
    error: nothing was changed
    "#);
    let offline = gateway.gatectl(&["validate", "-f", "gate.yaml"]).await.expect_stderr(1);
    assert_eq!(offline + "error: nothing was changed\n", stderr);
    gateway.shutdown().await;
}

#[tokio::test]
async fn the_days_left_are_told_and_the_last_thirty_are_warned_of() {
    let manifest = "routes: [{name: r, path: /, backend: \"http://127.0.0.1:9\"}]";
    let gateway = Gateway::builder().manifest(manifest).start().await;
    write(&gateway, &pem(12));
    gate(&gateway);
    let applied = gateway.gatectl(&["apply", "--wait", "-f", "gate.yaml"]).await;
    let warning = "certificate web expires in 12 days: renew it and apply it again";
    assert!(applied.code == 0 && applied.stderr.contains(warning), "{applied:?}");
    let status = gateway.gatectl(&["status"]).await.expect_stderr(0);
    assert!(status.contains(warning), "{status}");
    let status: serde_json::Value =
        serde_json::from_str(&gateway.gatectl(&["status", "-o", "json"]).await.expect(0)).expect("JSON");
    assert_eq!(status["certificates"][0]["days_left"], 12);
    let table = gateway.gatectl(&["get", "certificates"]).await.expect(0);
    insta::assert_snapshot!(table, @r"
    CERTIFICATE  NAMES      EXPIRES     OWNER    REVISION
    web          a.example  in 12 days  default  2
    ");
    let metrics = Client::connect(gateway.admin_addr(0)).await.get("/metrics").await.text();
    let sample = "rustygate_certificate_expiry_timestamp_seconds{certificate=\"web\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(sample)).expect("a sample");
    let days = (value.parse::<u64>().expect("a number") - unix_seconds()) / 86_400;
    assert_eq!(days, 12);
    write(&gateway, &pem(90));
    let renewed = gateway.gatectl(&["apply", "-f", "gate.yaml"]).await;
    assert!(renewed.code == 0 && renewed.stderr.is_empty(), "{renewed:?}");
    gateway.shutdown().await;
}

fn unix_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test]
async fn a_control_plane_wants_the_key_that_its_secrets_were_sealed_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let grpc = format!("127.0.0.1:{}", free_port());
    let http = format!("127.0.0.1:{}", free_port());
    let flags = ["--database", "gate.db", "--grpc-listen", &grpc, "--http-listen", &http];
    let (chain, key) = pem(90);
    fs::write(folder.path().join("web.pem"), &chain).expect("writes");
    fs::write(folder.path().join("web.key"), &key).expect("writes");
    let yaml = "certificates: [{name: web, certificate: {file: web.pem}, key: {file: web.key}}]\n";
    fs::write(folder.path().join("gate.yaml"), yaml).expect("writes");
    let mut control_plane = Child::control_plane(folder.path(), "first", &flags);
    let listening = async { while tokio::net::TcpStream::connect(&grpc).await.is_err() {} };
    within("an open port", listening).await;
    let url = format!("http://{grpc}");
    let args = ["-c", &url, "apply", "-f", "gate.yaml"];
    gatectl(folder.path(), &args, "").await.expect(0);
    // As with `kill -9` at once: the journal is still there.
    control_plane.kill();
    assert_eq!(files_with(folder.path(), &lines(&key)), ["web.key"], "in no database, no journal and no log");

    fs::write(folder.path().join("other.key"), "00".repeat(32)).expect("writes");
    let mut wrong =
        Child::control_plane(folder.path(), "wrong", &[&flags[..], &["--secrets-key-file", "other.key"]].concat());
    wrong.ended().await;
    assert!(wrong.log().contains("WrongSecretsKey"), "{}", wrong.log());
    fs::rename(folder.path().join("gate.db.key"), folder.path().join("moved.key")).expect("renames");
    let mut lost = Child::control_plane(folder.path(), "lost", &flags);
    lost.ended().await;
    assert!(lost.log().contains("NoSecretsKey"), "{}", lost.log());
    assert!(!folder.path().join("gate.db.key").exists(), "no other key takes its place");
    let flags = [&flags[..], &["--secrets-key-file", "moved.key"]].concat();
    let _again = Child::control_plane(folder.path(), "again", &flags);
    within("an open port", async { while tokio::net::TcpStream::connect(&grpc).await.is_err() {} }).await;
    let shown = gatectl(folder.path(), &["-c", &url, "get", "certificates"], "").await.expect(0);
    assert!(shown.contains("a.example"), "{shown}");
}

#[tokio::test]
async fn a_certificate_from_gatectls_environment_is_served() {
    let upstream = Witness::saying("here").await;
    let route = format!("routes: [{{name: all, path: /, backend: \"{}\"}}]\n", upstream.url());
    let gateway = Gateway::builder().manifest(&route).start().await;
    let authority = Authority::new();
    let pair = authority.sign(&["a.example"]);
    let port = free_port();
    let yaml = GATE.replace("{file: tls/web.pem}", "{env: WEB_CHAIN}").replace("{file: tls/web.key}", "{env: WEB_KEY}");
    gateway.write("gate.yaml", &yaml.replace("PORT", &port.to_string()));
    let url = gateway.control_plane_url();
    let args = ["-c", &url, "apply", "--wait", "-f", "gate.yaml"];
    let env = [("WEB_CHAIN", pair.chain.as_str()), ("WEB_KEY", pair.key.as_str())];
    gatectl_with_env(gateway.folder(), &args, "", &env[..1]).await.expect(1);
    gatectl_with_env(gateway.folder(), &args, "", &env).await.expect(0);
    let tls = Tls::of(&authority).connect(([127, 0, 0, 1], port).into(), "a.example").await.expect("a handshake");
    assert_eq!(tls.get_ref().1.peer_certificates().expect("a certificate")[0], pair.der());
    assert_eq!(Client::over(tls).host("a.example").get("/").await.text(), "here");
    assert_eq!(files_with(gateway.folder(), &lines(&pair.key)), Vec::<String>::new());
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_secrets_key_from_the_environment_opens_what_was_sealed_with_it_and_no_other_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let [grpc, http] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let flags = ["--database", "gate.db", "--grpc-listen", &grpc, "--http-listen", &http];
    let url = format!("http://{grpc}");
    let (right, other) = ("5a".repeat(32), "a5".repeat(32));
    let (chain, key) = pem(90);
    fs::write(folder.path().join("web.pem"), &chain).expect("writes");
    fs::write(folder.path().join("web.key"), &key).expect("writes");
    let yaml = "certificates: [{name: web, certificate: {file: web.pem}, key: {file: web.key}}]\n";
    fs::write(folder.path().join("gate.yaml"), yaml).expect("writes");
    let start = |name: &str, key: &str| {
        Child::control_plane_with_env(folder.path(), name, &flags, &[("RUSTYGATE_SECRETS_KEY", key)])
    };
    let mut first = start("first", &right);
    within("an open port", async { while tokio::net::TcpStream::connect(&grpc).await.is_err() {} }).await;
    gatectl(folder.path(), &["-c", &url, "apply", "-f", "gate.yaml"], "").await.expect(0);
    first.terminate();
    assert!(first.ended().await.success(), "{}", first.log());
    assert!(!folder.path().join("gate.db.key").exists(), "no other key is made");
    assert_eq!(files_with(folder.path(), &lines(&key)), ["web.key"]);
    for (name, key, error) in [("other", other.as_str(), "WrongSecretsKey"), ("short", "5a5a", "RUSTYGATE_SECRETS_KEY")]
    {
        let mut refused = start(name, key);
        assert!(!refused.ended().await.success());
        assert!(refused.log().contains(error) && !refused.log().contains(key), "{}", refused.log());
    }
    let again = start("again", &right);
    within("an open port", async { while tokio::net::TcpStream::connect(&grpc).await.is_err() {} }).await;
    let same = gatectl(folder.path(), &["-c", &url, "apply", "-f", "gate.yaml"], "").await.expect(0);
    assert_eq!(same, "revision 1: nothing differs\n");
    assert!(!again.log().contains(&right));
    assert_eq!(files_with(folder.path(), &[right]), Vec::<String>::new(), "the key is in no file");
}

#[tokio::test]
async fn dev_serves_a_renewed_certificate_when_its_files_are_saved() {
    let folder = tempfile::tempdir().expect("a folder");
    let save = |(chain, key): (String, String)| {
        fs::write(folder.path().join("tls/web.key"), key).expect("writes");
        fs::write(folder.path().join("tls/web.pem"), chain).expect("writes");
    };
    fs::create_dir(folder.path().join("tls")).expect("a folder");
    save(pem(90));
    let plain = format!("- {{name: plain, address: \"127.0.0.1:{}\"}}\n", free_port());
    let route = "routes: [{name: a, path: /a, listeners: [plain], backend: \"http://127.0.0.1:9\"}]\n";
    let yaml = GATE.replace("PORT", &free_port().to_string()) + &plain + route;
    fs::write(folder.path().join("gate.yaml"), yaml).expect("writes");
    let mut dev = Dev::start(folder.path(), &["--watch", "-f", "gate.yaml"]).await;
    save(pem(90));
    // Between the two files they do not fit, which is told and survived.
    dev.message("revision 2 is served").await;
    assert_eq!(dev.interrupt().await, Some(0));
}
