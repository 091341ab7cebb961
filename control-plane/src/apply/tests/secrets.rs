//! A private key from its file to the database and back, and everywhere that it must not be.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::{
    secrets::{Secrets, redact},
    store::StoreError,
};

const KEY: [u8; 32] = [7; 32];

/// Chain and key, new ones at every call.
fn pem() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    (params.self_signed(&key).expect("signs").pem(), key.serialize_pem())
}

async fn open(folder: &TempDir, key: Option<[u8; 32]>) -> Result<Arc<Applier>, StoreError> {
    let store = Store::open(&folder.path().join("test.db")).await?;
    let secrets = key.map_or_else(Secrets::default, |key| Secrets::new(&key));
    let store = Arc::new(store.with_secrets(secrets).await?);
    let loaded = store.load().await?;
    Ok(Arc::new(Applier::new(store, loaded, Metrics::new())))
}

fn request(chain: &str, key: &str) -> wire::ApplyRequest {
    use wire::content::{Outcome, Source};
    let yaml = "certificates: [{name: web, certificate: {file: web.pem}, key: {env: WEB_KEY}}]\n\
                listeners: [{name: tls, tls: {certificates: [web]}}]\n";
    let content = |source: Source, reference: &str, text: &str| wire::Content {
        document: 0,
        source: source.into(),
        reference: reference.into(),
        outcome: Some(Outcome::Bytes(text.into())),
    };
    wire::ApplyRequest {
        documents: vec![wire::Document { file: "gate.yaml".into(), yaml: yaml.into() }],
        contents: vec![content(Source::File, "web.pem", chain), content(Source::Env, "WEB_KEY", key)],
        ..Default::default()
    }
}

fn yaml_request(yaml: String) -> wire::ApplyRequest {
    let documents = vec![wire::Document { file: "gate.yaml".into(), yaml }];
    wire::ApplyRequest { documents, ..Default::default() }
}

async fn apply(applier: &Applier, request: wire::ApplyRequest) -> wire::ApplyResponse {
    applier.apply(request, Options::default()).await.expect("runs")
}

/// The lines of a key that have the secret; after it comes the public half, which the certificate has too.
fn lines(key: &str) -> impl Iterator<Item = &str> {
    key.lines().filter(|line| !line.starts_with("-----")).take(2)
}

fn live_key(applier: &Applier) -> Vec<u8> {
    let head = applier.publisher().head();
    let stored = head.set.get(wire::Kind::Certificate, "web").expect("it is there").resource().expect("it decodes");
    let Some(wire::resource::Kind::Certificate(certificate)) = stored.kind else { panic!("a certificate") };
    match certificate.key.and_then(|secret| secret.form) {
        Some(wire::secret::Form::Clear(key)) => key,
        _ => panic!("the key in the clear, for proxies"),
    }
}

/// What `get -o yaml` prints.
fn shown(applier: &Applier) -> String {
    let head = applier.publisher().head();
    let resources: Vec<_> = head.set.iter().filter_map(|stored| stored.resource()).map(redact).collect();
    manifest::to_yaml(&resources)
}

#[tokio::test]
async fn a_key_is_nowhere_in_the_files_and_comes_back_after_a_restart() {
    let folder = TempDir::new().expect("a folder");
    let (chain, key) = pem();
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let response = apply(&applier, request(&chain, &key)).await;
    assert!(response.changed, "{:?}", response.faults);
    assert_eq!(live_key(&applier), key.as_bytes());
    let numbers = format!("{:?}", &key.as_bytes()[60..80]);
    assert!(!format!("{:?}", applier.publisher().head()).contains(numbers.trim_matches(['[', ']'])));
    for line in lines(&key) {
        assert!(!format!("{response:?}").contains(line), "the answer");
        assert!(!shown(&applier).contains(line), "what is shown");
        assert!(!format!("{:?}", applier.publisher().head()).contains(line), "a message of a panic");
    }
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, lines(&key).collect::<String>());
    let decoded = decoded.expect("base64");
    let mut files = 0;
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        files += 1;
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!lines(&key).any(|line| has(line.as_bytes())) && !has(&decoded[40..60]));
    }
    assert!(files >= 3, "the database and its journal are there");
    applier.store.close().await;
    drop(applier);

    let again = open(&folder, Some(KEY)).await.expect("opens again");
    assert_eq!(live_key(&again), key.as_bytes());
    again.store.close().await;
    drop(again);
    let error = open(&folder, Some([8; 32])).await.expect_err("the wrong key");
    assert!(matches!(error, StoreError::WrongSecretsKey(_)), "{error}");
    let error = open(&folder, None).await.expect_err("no key");
    assert!(matches!(error, StoreError::NoSecretsKey(_)), "{error}");
}

#[tokio::test]
async fn what_is_shown_can_be_applied_again_and_changes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let (chain, key) = pem();
    assert_eq!(apply(&applier, request(&chain, &key)).await.revision, 1);
    assert_eq!(apply(&applier, request(&chain, &key)).await.diff, []);
    let shown = shown(&applier);
    let again = apply(&applier, yaml_request(shown.clone())).await;
    assert_eq!((again.revision, again.diff.len(), again.faults.len()), (1, 0, 0), "{shown}\n{:?}", again.faults);

    let (at, _) = shown.match_indices("sha256:").next().expect("a fingerprint");
    let other = format!("{}sha256:{}{}", &shown[..at], "0".repeat(32), &shown[at + 39..]);
    let refused = apply(&applier, yaml_request(other)).await;
    assert_eq!(refused.faults.len(), 1, "{:?}", refused.faults);
    let fault = &refused.faults[0];
    assert_eq!((fault.code.as_str(), fault.name.as_str(), fault.field.as_str()), ("RG0221", "web", "key"));
    assert!(fault.location.as_ref().is_some_and(|place| place.source_line.contains("sealed")), "{fault:?}");
}

#[tokio::test]
async fn another_key_is_a_difference_and_a_rollback_brings_the_old_one_back() {
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let (first, second) = (pem(), pem());
    apply(&applier, request(&first.0, &first.1)).await;
    let changed = apply(&applier, request(&second.0, &second.1)).await;
    let [diff] = changed.diff.as_slice() else { panic!("one difference") };
    let yaml = |resource: &Option<wire::Resource>| manifest::to_yaml(resource.as_slice());
    let fingerprint = |yaml: &str| yaml.lines().find(|line| line.contains("sealed")).expect("a line").to_owned();
    let (before, after) = (yaml(&diff.before), yaml(&diff.after));
    assert_ne!(fingerprint(&before), fingerprint(&after), "the diff tells that the key changed");
    assert_eq!(live_key(&applier), second.1.as_bytes());
    let back = applier.rollback(1, Options::default()).await.expect("rolls back");
    assert_eq!(back.revision, 3);
    assert_eq!(live_key(&applier), first.1.as_bytes());
    for line in lines(&first.1).chain(lines(&second.1)) {
        assert!(!format!("{back:?}{before}{after}").contains(line));
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_used_is_refused_and_not_shown() {
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let ((chain, _), (_, other)) = (pem(), pem());
    let refused = apply(&applier, request(&chain, &other)).await;
    assert_eq!(refused.faults[0].code, "RG0221");
    // Written in place, as one line and as many, with a mistake beside it.
    let block = format!("|\n{}", other.lines().map(|line| format!("    {line}\n")).collect::<String>());
    for key in [format!("{other:?}\n"), block.clone(), format!("{block}   x: [\n")] {
        let chain = format!("{chain:?}");
        let yaml = format!("certificates:\n- name: web\n  certificate: {chain}\n  key: {key}  nonsense: 1\n");
        let faults = apply(&applier, yaml_request(yaml)).await.faults;
        assert!(!faults.is_empty());
        for line in lines(&other) {
            assert!(!format!("{faults:?}{}", crate::report::render(&faults, false)).contains(line), "{faults:?}");
        }
    }
    let rubbish = "certificates: [{name: web,\n  key: hunter2 hunter2,\n  certificate: x}]".to_owned();
    let faults = apply(&applier, yaml_request(rubbish)).await.faults;
    assert!(!faults.is_empty() && !format!("{faults:?}").contains("hunter2"), "{faults:?}");
}

#[tokio::test]
async fn without_a_secrets_key_no_secret_is_taken() {
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, None).await.expect("opens");
    let (chain, key) = pem();
    let refused = apply(&applier, request(&chain, &key)).await;
    assert_eq!(refused.faults.iter().map(|fault| fault.code.as_str()).collect::<Vec<_>>(), ["RG0411"]);
    assert!(refused.faults[0].location.is_some());
}

#[tokio::test]
async fn a_reference_that_was_not_read_is_a_fault_where_it_is_written() {
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let mut request = request("", "");
    request.contents[0].outcome = Some(wire::content::Outcome::Error("No such file".into()));
    request.contents.remove(1);
    let faults = apply(&applier, request).await.faults;
    let told: Vec<_> = faults
        .iter()
        .map(|fault| {
            let place = fault.location.as_ref().expect("a place");
            (fault.code.as_str(), fault.field.as_str(), place.line, place.column)
        })
        .collect();
    assert_eq!(told, [("RG0120", "certificate.file", 1, 48), ("RG0120", "key.env", 1, 69)]);
    assert!(faults[0].message.ends_with("\"web.pem\": No such file"), "{}", faults[0].message);
}

/// The plugin that `name` has in the live set, as proxies get it.
fn live_plugin(applier: &Applier, name: &str) -> wire::Plugin {
    let head = applier.publisher().head();
    let stored = head.set.get(wire::Kind::Plugin, name).expect("it is there").resource().expect("it decodes");
    let Some(wire::resource::Kind::Plugin(plugin)) = stored.kind else { panic!("a plugin") };
    plugin
}

fn with_token(yaml: &str, token: &str) -> wire::ApplyRequest {
    let content = wire::Content {
        document: 0,
        source: wire::content::Source::Env.into(),
        reference: "TOKEN".into(),
        outcome: Some(wire::content::Outcome::Bytes(token.into())),
    };
    wire::ApplyRequest { contents: vec![content], ..yaml_request(yaml.to_owned()) }
}

#[tokio::test]
async fn secrets_of_a_plugin_are_sealed_kept_and_shown_by_their_fingerprints_alone() {
    const YAML: &str = "plugins:\n  - name: p\n    type: headers\n    config:\n      \
                        request: {set: {x-token: {env: TOKEN}, x-open: seen}}\n";
    const TOKEN: &str = "token-that-nobody-may-see";
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let response = apply(&applier, with_token(YAML, TOKEN)).await;
    assert!(response.changed, "{:?}", response.faults);
    let yaml = shown(&applier);
    assert!(yaml.contains("x-token: {sealed: \"sha256:") && yaml.contains("x-open: seen"), "{yaml}");
    for text in [format!("{response:?}"), yaml.clone(), format!("{:?}", applier.publisher().head())] {
        assert!(!text.contains(TOKEN), "{text}");
    }
    for entry in fs::read_dir(folder.path()).expect("a folder") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()));
    }
    // What is shown can be applied again: nothing changes.
    assert!(!apply(&applier, yaml_request(yaml.clone())).await.changed);
    assert!(!apply(&applier, with_token(YAML, TOKEN)).await.changed, "nor by the same secret");
    // Another field of the same secret keeps it, wherever it stands.
    let moved = yaml.replace("x-token", "x-a").replace("x-open: seen", "x-b: {env: TOKEN}");
    assert!(apply(&applier, with_token(&moved, "another")).await.changed);
    let forms: Vec<_> = live_plugin(&applier, "p").secrets.into_iter().filter_map(|secret| secret.form).collect();
    let clear = |text: &str| wire::secret::Form::Clear(text.into());
    assert!(forms == [clear(TOKEN), clear("another")]);
    applier.store.close().await;
    drop(applier);
    let again = open(&folder, Some(KEY)).await.expect("opens again");
    assert_eq!(live_plugin(&again, "p").secrets.len(), 2);
    assert!(shown(&again).contains("sealed"));
}

#[tokio::test]
async fn secrets_of_a_plugin_need_a_key_and_a_fingerprint_needs_its_secret() {
    let yaml = "plugins:\n  - {name: p, type: headers, config: {request: {set: {x: {env: TOKEN}}}}}\n";
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, None).await.expect("opens");
    let response = apply(&applier, with_token(yaml, "t")).await;
    let told: Vec<_> = response.faults.iter().map(|fault| (fault.code.as_str(), fault.field.as_str())).collect();
    assert_eq!(told, [(crate::codes::NO_KEY, "config.request.set.x")]);
    assert_eq!(response.faults[0].location.as_ref().map(|location| (location.line, location.column)), Some((2, 55)));
    let folder = TempDir::new().expect("a folder");
    let applier = open(&folder, Some(KEY)).await.expect("opens");
    let sealed = yaml.replace("env: TOKEN", "sealed: \"sha256:0\"");
    let response = apply(&applier, yaml_request(sealed)).await;
    assert!(response.faults[0].message.contains("only a fingerprint"), "{:?}", response.faults);
}
