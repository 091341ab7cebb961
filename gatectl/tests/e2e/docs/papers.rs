//! What is known without running anything.

use std::{collections::BTreeSet, fs, path::PathBuf};

use regex::Regex;
use rustygate_control_plane::{codes, manifest};
use rustygate_data_plane::{
    canonical::Refused,
    error::ProxyError,
    http1::{body::BodyError, head::HeadError},
    plugin::Plugin,
};
use rustygate_proto::v1 as wire;

use super::{found, names, read, root, rows, sources};
use crate::harness::gatectl;

/// A field that nothing has, in each kind of mapping: the hint of the fault names those that it has.
const MAPPINGS: [(&str, &str); 31] = [
    ("Document", "zzzzzz: 1"),
    ("Defaults", "defaults: {zzzzzz: 1}"),
    ("Certificate", "certificates: [{zzzzzz: 1}]"),
    ("Text and secrets", "certificates: [{name: a, certificate: x, key: {zzzzzz: 1}}]"),
    ("Listener", "listeners: [{zzzzzz: 1}]"),
    ("tls of a listener", "listeners: [{name: a, tls: {zzzzzz: 1}}]"),
    ("client_auth", "listeners: [{name: a, tls: {certificates: [a], client_auth: {zzzzzz: 1}}}]"),
    ("tls of a backend", "backends: [{name: b, endpoints: [u], tls: {zzzzzz: 1}}]"),
    ("Backend", "backends: [{zzzzzz: 1}]"),
    ("Endpoint", "backends: [{name: b, endpoints: [{zzzzzz: 1}]}]"),
    ("load_balancing", "backends: [{name: b, endpoints: [u], load_balancing: {zzzzzz: 1}}]"),
    ("health_check", "backends: [{name: b, endpoints: [u], health_check: {zzzzzz: 1}}]"),
    ("What is hashed", "routes: [{backend: b, sticky_split: {zzzzzz: 1}}]"),
    ("sticky", "backends: [{name: b, endpoints: [u], load_balancing: {sticky: {zzzzzz: 1}}}]"),
    ("outlier_detection", "backends: [{name: b, endpoints: [u], outlier_detection: {zzzzzz: 1}}]"),
    ("limits", "backends: [{name: b, endpoints: [u], limits: {zzzzzz: 1}}]"),
    ("retry_budget", "backends: [{name: b, endpoints: [u], retry_budget: {zzzzzz: 1}}]"),
    ("backoff", "routes: [{backend: b, retry: {backoff: {zzzzzz: 1}}}]"),
    ("Consumer", "consumers: [{zzzzzz: 1}]"),
    ("API key", "consumers: [{name: c, api_keys: [{zzzzzz: 1}]}]"),
    ("User name", "consumers: [{name: c, basic_auth: {zzzzzz: 1}}]"),
    ("Password", "consumers: [{name: c, basic_auth: {username: u, password: {zzzzzz: 1}}}]"),
    ("Plugin", "plugins: [{zzzzzz: 1}]"),
    ("Route", "routes: [{zzzzzz: 1}]"),
    ("Rule", "routes: [{rules: [{zzzzzz: 1}]}]"),
    ("Match", "routes: [{backend: b, matches: [{zzzzzz: 1}]}]"),
    ("Path", "routes: [{backend: b, path: {zzzzzz: 1}}]"),
    ("Condition", "routes: [{backend: b, query: {a: {zzzzzz: 1}}}]"),
    ("Backend of a route", "routes: [{backend: {zzzzzz: 1}}]"),
    ("timeouts", "routes: [{backend: b, timeouts: {zzzzzz: 1}}]"),
    ("retry", "routes: [{backend: b, retry: {zzzzzz: 1}}]"),
];

fn listed(hint: &str) -> BTreeSet<String> {
    let (_, list) = hint.rsplit_once(": ").unwrap_or_else(|| panic!("no list in {hint:?}"));
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_field_of_the_manifest_is_documented() {
    let document = read("manifest.md");
    for (heading, yaml) in MAPPINGS {
        let input = wire::Document { file: heading.to_owned(), yaml: yaml.to_owned() };
        let faults = manifest::parse(vec![input]).faults;
        let unknown = faults.iter().find(|fault| fault.message.contains("zzzzzz")).expect("an unknown field");
        assert_eq!(names(&document, heading), listed(&unknown.hint), "{heading}");
    }
}

#[test]
fn every_key_of_every_plugin_is_documented() {
    let hint = |kind: &str, config: &str| {
        let plugin = wire::Plugin {
            name: "p".into(),
            r#type: kind.into(),
            config_json: config.into(),
            ..wire::Plugin::default()
        };
        Plugin::compile(&plugin).expect_err("a fault").remove(0).hint
    };
    let kinds = listed(&hint("zzzzzz", "{}"));
    assert_eq!(names(&read("plugins.md"), "Types"), kinds);
    for kind in kinds {
        let keys = listed(&hint(&kind, r#"{"zzzzzz": 1}"#));
        let documented = names(&read(&format!("plugins/{kind}.md")), "Configuration");
        let top: BTreeSet<String> = documented.into_iter().filter(|name| !name.contains(['.', '['])).collect();
        assert_eq!(top, keys, "{kind}");
    }
}

/// One of each that has a reason of its own.
const ERRORS: [ProxyError; 39] = [
    ProxyError::PluginTimeout,
    ProxyError::BadWebSocket,
    ProxyError::UpstreamWithoutWebSocket,
    ProxyError::UpstreamReset(h2::Reason::CANCEL),
    ProxyError::Misdirected,
    ProxyError::BadHead(HeadError::TooLarge),
    ProxyError::BadHead(HeadError::TooManyFields),
    ProxyError::RequestBodyTimeout,
    ProxyError::RequestBodySlow,
    ProxyError::TooManyConnections,
    ProxyError::NoAddress,
    ProxyError::BadHead(HeadError::TargetTooLong),
    ProxyError::BadHead(HeadError::Version),
    ProxyError::BadHead(HeadError::Expectation),
    ProxyError::BadHead(HeadError::Host),
    ProxyError::BadHead(HeadError::LengthAndCoding),
    ProxyError::BadHead(HeadError::Malformed),
    ProxyError::BadTarget(Refused::PathBackslash),
    ProxyError::BadForm,
    ProxyError::MethodNotAllowed,
    ProxyError::BadBody(BodyError::Chunk),
    ProxyError::BodyTooLarge,
    ProxyError::RequestTimeout,
    ProxyError::ClientGone,
    ProxyError::ClientStalled,
    ProxyError::ClientSlow,
    ProxyError::NotReady,
    ProxyError::NoRoute,
    ProxyError::NoEndpoint,
    ProxyError::UpstreamConnect,
    ProxyError::UpstreamConnectTimeout,
    ProxyError::UpstreamClosed,
    ProxyError::UpstreamProtocol,
    ProxyError::UpstreamTimeout,
    ProxyError::DeadlineExceeded,
    ProxyError::CircuitOpen,
    ProxyError::UpstreamOverloaded,
    ProxyError::Overloaded,
    ProxyError::BadHead(HeadError::ContentLength),
];

#[test]
fn every_reason_of_an_error_is_documented_with_its_status() {
    let all: BTreeSet<(String, String)> =
        ERRORS.iter().map(|error| (error.reason().to_owned(), error.status().to_string())).collect();
    let source = fs::read_to_string(root().join("data-plane/src/error.rs")).expect("the source");
    let reasons = source.split("pub fn reason").nth(1).and_then(|rest| rest.split("pub fn ").next()).expect("reasons");
    let reasons = found(r#""([a-z_]+)""#, reasons);
    assert_eq!(all.iter().map(|(reason, _)| reason.clone()).collect::<BTreeSet<_>>(), reasons, "ERRORS has all");
    let rows = rows(&read("errors.md"), "What the gateway answers by itself");
    assert_eq!(rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect::<BTreeSet<_>>(), all);
}

/// Every paper: those of the root and those of docs/ and below.
fn papers() -> Vec<(PathBuf, String)> {
    let folders = [root(), root().join("docs"), root().join("docs/plugins")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let papers = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    papers.map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

#[tokio::test]
async fn every_manifest_in_the_papers_is_valid() {
    let block = Regex::new(r"(?s)```yaml\n(.*?)```").expect("a regex");
    let mut blocks = 0;
    for (path, text) in papers() {
        for captures in block.captures_iter(&text) {
            let output = gatectl(&root(), &["validate", "-f", "-"], &captures[1]).await;
            assert_eq!(output.code, 0, "{}:\n{}\n{}", path.display(), &captures[1], output.stderr);
            blocks += 1;
        }
    }
    assert!(blocks >= 4, "{blocks}");
}

#[test]
fn every_link_leads_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]*)(#[^)]*)?\)").expect("a regex");
    for (path, text) in papers() {
        for captures in link.captures_iter(&text) {
            let target = match &captures[1] {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            assert!(target.exists(), "{}: {}", path.display(), &captures[0]);
            let Some(anchor) = captures.get(2).map(|anchor| &anchor.as_str()[1..]) else { continue };
            let anchors: Vec<String> =
                fs::read_to_string(&target).expect("text").lines().filter_map(anchor_of).collect();
            assert!(anchors.iter().any(|known| known == anchor), "{}: {}", path.display(), &captures[0]);
        }
    }
}

/// The anchor of a heading.
fn anchor_of(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|character| character.is_alphanumeric() || " -_".contains(*character));
    Some(kept.map(|character| if character == ' ' { '-' } else { character }).collect())
}

#[test]
fn every_example_is_mentioned() {
    let all: String = papers().into_iter().map(|(_, text)| text).collect();
    for entry in fs::read_dir(root().join("examples")).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        let name = format!("examples/{}", name.to_str().expect("UTF-8"));
        assert!(all.contains(&name), "{name}");
    }
}

/// ARCHITECTURE.md names tests as `path/to/file.rs: name_of_the_test`.
#[test]
fn every_file_and_test_that_the_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the paper");
    assert!(text.lines().count() < 150);
    let mut tests = 0;
    for captures in Regex::new(r"`([\w./-]+\.rs)(?:: (\w+))?`").expect("a regex").captures_iter(&text) {
        let source = fs::read_to_string(root().join(&captures[1])).unwrap_or_else(|_| panic!("no {}", &captures[1]));
        if let Some(name) = captures.get(2) {
            assert!(source.contains(&format!("fn {}(", name.as_str())), "{}", &captures[0]);
            tests += 1;
        }
    }
    assert!(tests >= 9, "{tests} tests for nine invariants");
}

#[test]
fn every_dependency_says_why() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace");
    let section = manifest.split("[workspace.dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let crates = found(r"(?m)^([\w-]+) = [^\n]*\d", section.expect("dependencies"));
    assert_eq!(names(&read("dependencies.md"), "Why each dependency"), crates);
}

#[test]
fn every_module_of_the_planes_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the paper");
    for plane in ["control-plane", "data-plane"] {
        let lib = fs::read_to_string(root().join(plane).join("src/lib.rs")).expect("the source");
        for module in found(r"(?m)^(?:pub )?mod (\w+);", &lib) {
            assert!(map.contains(&format!("`{module}`")), "{plane}: {module}");
        }
    }
}

#[test]
fn every_code_of_a_fault_is_documented() {
    let text: String = ["control-plane/src", "data-plane/src"].map(|plane| sources(&root().join(plane))).concat();
    let document = read("faults.md");
    let headings = ["The text", "The meaning", "A proxy", "The control plane"];
    let documented: BTreeSet<String> = headings.iter().flat_map(|heading| names(&document, heading)).collect();
    let listed: BTreeSet<String> = codes::ALL.iter().map(|(code, _)| (*code).to_owned()).collect();
    assert_eq!(documented, listed);
    // The list is in the sources too; a constant is what a fault is made with.
    assert_eq!(found(r#"const \w+: &str = "(RG\d{4})";"#, &text), listed);
    assert_eq!(found(r#""(RG\d{4})""#, &text), listed);
    for heading in headings {
        for row in rows(&document, heading) {
            let title = codes::ALL.iter().find(|(code, _)| *code == row[0]).map(|(_, title)| *title);
            assert_eq!(title, Some(row[1].as_str()), "{}", row[0]);
        }
    }
}
