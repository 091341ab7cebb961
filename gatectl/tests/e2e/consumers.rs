//! Consumers as their owner handles them: keys and passwords go in, callers are known by them, and nobody sees them again.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::harness::{
    Client, Gateway, Http2, Peer, Response, Witness, files_with, gatectl_with_env, with_gateway, within,
};

const IN_PLACE: &str = "in-place-0123456789abcdef";
const IN_FILE: &str = "in-file-0123456789abcdef";
const IN_ENV: &str = "in-env-0123456789abcdef";
const HASHED: &str = "hashed-0123456789abcdef";
const PASSWORD: &str = "correct horse battery";

/// SHA-256 of [`HASHED`], as `sha256sum` prints it.
fn sha256(text: &str) -> String {
    ring::digest::digest(&ring::digest::SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn routes(url: &str) -> String {
    format!(
        "plugins:\n\
         - {{name: keys, type: api_key, config: {{optional: true}}}}\n\
         - {{name: passwords, type: basic_auth}}\n\
         - {{name: staff, type: acl, config: {{allow: [staff], deny: [suspended]}}}}\n\
         routes:\n\
         - {{name: all, path: /, plugins: [keys, passwords], backend: \"{url}\"}}\n\
         - {{name: staff, path: /staff, plugins: [keys, passwords, staff], backend: \"{url}\"}}\n"
    )
}

/// Status, the reason of a refusal, and what the upstream was told of who asks.
async fn ask(client: &mut Client, path: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let response: Response = client.get_with(path, headers).await;
    let text = response.text();
    let told = text.lines().find_map(|line| line.strip_prefix("X-Consumer-Name: ")).unwrap_or_default().to_owned();
    let reason = serde_json::from_str::<Value>(&text).ok().and_then(|body| Some(body["reason"].as_str()?.to_owned()));
    (response.status, reason.unwrap_or_default(), told)
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

#[tokio::test]
async fn callers_are_known_by_keys_and_passwords_that_nobody_sees_again() {
    let upstream = Witness::echo().await;
    let gateway = Gateway::builder().proxies(2).manifest(&routes(&upstream.url())).start().await;
    std::fs::create_dir(gateway.folder().join("secret")).expect("a folder");
    gateway.write("secret/key", &format!("{IN_FILE}\n"));
    let yaml = format!(
        "consumers:\n\
         - {{name: acme, groups: [staff, partners], api_keys: [{IN_PLACE}, {{file: key}}]}}\n\
         - {{name: bolt, groups: [staff, suspended], api_keys: [{{env: KEY}}]}}\n\
         - {{name: crow, api_keys: [{{sha256: {}}}]}}\n\
         - {{name: dora, groups: [staff], basic_auth: {{username: dora@example.com, password: {PASSWORD}}}}}\n",
        sha256(HASHED)
    );
    gateway.write("secret/consumers.yaml", &yaml);
    let url = gateway.control_plane_url();
    let apply = ["-c", &url, "apply", "--wait", "-f", "secret/consumers.yaml"];
    let said = gatectl_with_env(gateway.folder(), &apply, "", &[("KEY", IN_ENV)]).await.expect(0);
    let dora = basic("dora@example.com", PASSWORD);
    for proxy in 0..2 {
        let mut client = Client::connect(gateway.proxy_addr_of(proxy)).await;
        for (headers, all, staff) in [
            (("x-api-key", IN_PLACE), (200, "", "acme"), (200, "", "acme")),
            (("x-api-key", IN_FILE), (200, "", "acme"), (200, "", "acme")),
            (("x-api-key", IN_ENV), (200, "", "bolt"), (403, "acl_denied", "")),
            (("x-api-key", HASHED), (200, "", "crow"), (403, "acl_denied", "")),
            (("authorization", &*dora), (200, "", "dora"), (200, "", "dora")),
            (("x-api-key", "nobody-0123456789abcdef"), (401, "key_invalid", ""), (401, "key_invalid", "")),
            (("authorization", "Basic ZG9yYTp4"), (401, "password_invalid", ""), (401, "password_invalid", "")),
            (("x-consumer-name", "root"), (401, "password_missing", ""), (401, "password_missing", "")),
        ] {
            for (path, expected) in [("/", all), ("/staff", staff)] {
                let (status, reason, told) = ask(&mut client, path, &[headers, ("x_consumer_name", "root")]).await;
                assert_eq!((status, &*reason, &*told), expected, "{headers:?} {path}");
            }
        }
    }
    // Nothing that was secret went to an upstream, is shown, or lies anywhere but where it was written.
    let secrets = [IN_PLACE, IN_FILE, IN_ENV, HASHED, PASSWORD].map(str::to_owned);
    let mut shown = said;
    for args in [&["get", "consumers"][..], &["get", "-o", "yaml"], &["get", "-o", "json"], &["history"], &["status"]] {
        shown += &gateway.gatectl(args).await.expect(0);
    }
    gateway.write(
        "secret/other.yaml",
        &yaml.replace(PASSWORD, "another password").replace(IN_PLACE, "new-0123456789abcdef"),
    );
    let diff = ["-c", &url, "diff", "-f", "secret/other.yaml"];
    let diff = gatectl_with_env(gateway.folder(), &diff, "", &[("KEY", IN_ENV)]).await;
    assert!(diff.stdout.contains("acme") && diff.stdout.contains("dora"), "{diff:?}");
    shown += &diff.stdout;
    assert!(shown.contains(&sha256(IN_PLACE)) && shown.contains("$argon2id$"), "{shown}");
    for secret in &secrets {
        assert!(!shown.contains(secret), "{secret}: {shown}");
        let seen = upstream.requests();
        assert!(seen.iter().all(|seen| !String::from_utf8_lossy(&seen.bytes).contains(secret)), "{secret}");
    }
    let mut found = files_with(gateway.folder(), &secrets);
    found.sort();
    assert_eq!(found, ["consumers.yaml", "key"]);
    // The same again changes nothing, from the file or from what is shown.
    let again = gatectl_with_env(gateway.folder(), &apply, "", &[("KEY", IN_ENV)]).await.expect(0);
    assert!(again.contains("nothing differs"), "{again}");
    let yaml = gateway.gatectl(&["get", "-o", "yaml"]).await.expect(0);
    let again = gateway.gatectl_with(&["apply", "-f", "-"], &yaml).await.expect(0);
    assert!(again.contains("nothing differs"), "{again}");
    gateway.shutdown().await;
}

#[tokio::test]
async fn what_a_push_takes_away_lets_nobody_in_and_what_it_leaves_alone_goes_on() {
    let upstream = Witness::echo().await;
    let mut gateway = Gateway::builder().manifest(&routes(&upstream.url())).start().await;
    let consumer = |keys: &str| format!("consumers: [{{name: acme, api_keys: [{keys}]}}]\n");
    gateway.apply(&consumer(IN_PLACE)).await;
    let mut client = Client::connect(gateway.proxy_addr()).await;
    let mut http2 = Http2::connect(gateway.proxy_addr()).await;
    assert_eq!(ask(&mut client, "/", &[("x-api-key", IN_PLACE)]).await.0, 200);
    // A key moves to another consumer in one push.
    let moved = format!("consumers: [{{name: acme, api_keys: [{IN_FILE}]}}, {{name: bolt, api_keys: [{IN_PLACE}]}}]\n");
    gateway.apply(&moved).await;
    assert_eq!(ask(&mut client, "/", &[("x-api-key", IN_PLACE)]).await.2, "bolt");
    assert_eq!(ask(&mut client, "/", &[("x-api-key", IN_FILE)]).await.2, "acme");
    assert_eq!(http2.request("GET", "/", &[("x-api-key", IN_FILE)], b"").await.status, 200);
    // A key that is taken is refused, and nothing changes.
    let faults = gateway.try_apply(&format!("consumers: [{{name: crow, api_keys: [{IN_FILE}]}}]\n")).await;
    let faults = faults.expect_err("it is taken");
    assert!(faults[0].message.contains("acme") && !faults[0].message.contains(IN_FILE), "{faults:?}");
    gateway.gatectl(&["delete", "consumer", "acme"]).await.expect(0);
    let gone = async { while ask(&mut client, "/", &[("x-api-key", IN_FILE)]).await.1 != "key_invalid" {} };
    within("a key that is gone", gone).await;
    assert_eq!(ask(&mut client, "/", &[("x-api-key", IN_PLACE)]).await.2, "bolt");
    assert_eq!(http2.request("GET", "/", &[("x-api-key", IN_FILE)], b"").await.status, 401);
    let back = gateway.gatectl(&["history"]).await.expect(0);
    assert!(!back.contains(IN_FILE), "{back}");
    gateway.shutdown().await;
}

/// Whatever the client shows, and whoever of the plugins knew it first.
#[tokio::test]
async fn no_credential_reaches_an_upstream_or_a_mirror() {
    let (upstream, shadow) = (Witness::echo().await, Witness::saying("x").await);
    let (peer, serving) = Peer::serving(None, async |asked| {
        let target = asked.request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        asked.say(200, &target);
    })
    .await;
    let manifest = format!(
        "backends: [{{name: shadow, endpoints: [\"{}\"]}}, {{name: peer, protocol: h2c, endpoints: [\"{peer}\"]}}]\n\
         plugins:\n\
         - {{name: keys, type: api_key, config: {{query: key, header: x-key, optional: true}}}}\n\
         - {{name: passwords, type: basic_auth}}\n- {{name: copies, type: mirror, config: {{backend: shadow}}}}\n\
         - {{name: path, type: rewrite, config: {{prefix: /new}}}}\n\
         consumers: [{{name: acme, api_keys: [{IN_PLACE}], basic_auth: {{username: acme, password: {PASSWORD}}}}}]\n\
         routes:\n- {{name: one, path: /one, plugins: [keys, passwords, copies], backend: \"{}\"}}\n\
         - {{name: two, path: /two, plugins: [keys, passwords, path], backend: peer}}\n",
        shadow.url(),
        upstream.url()
    );
    with_gateway(&manifest, async |gateway| {
        let mut client = Client::connect(gateway.proxy_addr()).await;
        let (right, wrong) = (basic("acme", PASSWORD), basic("acme", "wrong wrong wrong"));
        for (query, headers, left) in [
            (format!("?a=1&key={IN_PLACE}&b=2"), &[][..], "?a=1&b=2"),
            (format!("?key={IN_PLACE}"), &[("authorization", &*right)], ""),
            (format!("?k%65y={IN_PLACE}&a"), &[("authorization", &*wrong)], "?a"),
            ("?a=%20".to_owned(), &[("x-key", IN_PLACE), ("authorization", &*right)], "?a=%20"),
        ] {
            let seen = client.get_with(&format!("/one/x{query}"), headers).await;
            let text = seen.text();
            assert!(seen.status == 200 && text.starts_with(&format!("GET /x{left} HTTP/1.1\r\n")), "{text}");
            assert!(text.contains("X-Consumer-Name: acme") && !text.to_lowercase().contains("authorization"), "{text}");
            let seen = client.get_with(&format!("/two/x{query}"), headers).await;
            assert_eq!((seen.status, seen.text()), (200, format!("/new/x{left}")));
        }
        within("four copies", async {
            while shadow.requests().len() < 4 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for seen in upstream.requests().iter().chain(&shadow.requests()) {
            let text = String::from_utf8_lossy(&seen.bytes).to_lowercase();
            assert!(!text.contains(IN_PLACE) && !text.contains("authorization"), "{text}");
        }
        // Who shows nothing that counts first is known by what counts next, and a wrong key is wrong whatever else is right.
        let headers = [("x-key", "nobody-0123456789abcdef"), ("authorization", &*right)];
        assert_eq!(ask(&mut client, "/one", &headers).await.1, "key_invalid");
        assert_eq!(ask(&mut client, "/one", &headers[1..]).await, (200, String::new(), "acme".to_owned()));
    })
    .await;
    serving.abort();
}

#[tokio::test]
async fn what_is_wrong_with_a_secret_is_told_without_it() {
    with_gateway("routes: [{name: a, path: /, backend: \"http://127.0.0.1:9\"}]\n", async |gateway| {
        for (yaml, said) in [
            ("consumers: [{name: c, api_keys: [tooshort]}]", "an API key has 16 to 256 characters"),
            ("consumers: [{name: c, api_keys: [aaaaaaaaaaaaaaaaaaaaaa]}]", "easily guessed"),
            ("consumers: [{name: c, api_keys: [{sha256: s3cr3t}]}]", "this is no SHA-256"),
            ("consumers: [{name: c, api_kyes: [hunter2-hunter2-hunter2]}]", "did you mean \"api_keys\"?"),
            ("consumers: [{name: c, basic_auth: {username: u, password: short}}]", "a password has 8 to 256 bytes"),
            ("consumers: [{name: c, basic_auth: {username: \"a:b\", password: hunter2-hunter2}}]", "colon"),
            ("consumers: [{name: c, groups: [\"a,b\"]}]", "must not have ','"),
            (
                "consumers: [{name: c, basic_auth: {username: u, password: {hash: \"$1$x\"}}}]",
                "no hash that can be checked",
            ),
            ("consumers: [{name: c, basic_auth: {username: u, password: {file: /no/such}}}]", "/no/such"),
        ] {
            let output = gateway.gatectl_with(&["apply", "-f", "-"], yaml).await;
            assert_eq!(output.code, 1, "{yaml}");
            assert!(output.stderr.contains(said), "{yaml}: {}", output.stderr);
            for secret in ["tooshort", "aaaaaaaaaaaaaaaaaaaaaa", "hunter2", ": short"] {
                assert!(!output.stderr.contains(secret), "{}", output.stderr);
            }
        }
    })
    .await;
}
