//! The requests in the comments of the examples, and what is said there of their answers.
//!
//! A line is a `curl` of the little that this reads, and behind a `#` the status, and perhaps what the answer has besides:
//! in its head, without case, or in its body. A line `NAME=value` sets what `$NAME` stands for.

use crate::harness::{Client, Gateway, Response, Witness};

/// A request that a comment has.
#[derive(Debug, Default)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    status: u16,
    /// What the answer has.
    says: String,
}

/// The gateway with that example, its backends in the place of those at these ports.
pub async fn gateway(example: &str, backends: &[(u16, &Witness)]) -> Gateway {
    let mut manifest = text(example);
    for (port, witness) in backends {
        manifest = manifest.replace(&format!("http://127.0.0.1:{port}"), &witness.url());
    }
    // A proxy serves once it has something to serve.
    let first = "routes: [{name: first, path: /first, backend: \"http://127.0.0.1:1\"}]";
    let gateway = Gateway::builder().manifest(first).start().await;
    gateway.write("example.yaml", &manifest);
    gateway.gatectl(&["apply", "--wait", "-f", "example.yaml"]).await.expect(0);
    gateway
}

fn text(example: &str) -> String {
    std::fs::read_to_string(super::root().join("examples").join(example)).expect("an example")
}

/// What its comment says, in order.
pub fn of(example: &str) -> Vec<Request> {
    let (mut requests, mut values) = (Vec::new(), Vec::new());
    for line in text(example).lines().filter_map(|line| line.strip_prefix("#   ")) {
        if let Some(rest) = line.strip_prefix("curl ") {
            let (words, answer) = rest.split_once("  #").map_or((rest, None), |(words, answer)| (words, Some(answer)));
            let answer = answer.or_else(|| rest.split_once(" # ").map(|(_, answer)| answer)).expect("what is answered");
            requests.push(request(&words_of(words, &values), answer.trim()));
        } else if let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.contains(' ')) {
            values.push((format!("${name}"), value.to_owned()));
        }
    }
    assert!(!requests.is_empty(), "{example} shows no request");
    requests
}

/// Of a shell's line, which has no quotes in quotes.
fn words_of(line: &str, values: &[(String, String)]) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for sign in line.chars() {
        match (sign, quote) {
            (sign, Some(open)) if sign == open => quote = None,
            ('"' | '\'', None) => quote = Some(sign),
            (' ', None) => words.push(String::new()),
            _ => words.last_mut().expect("a word").push(sign),
        }
    }
    words.retain(|word| !word.is_empty());
    for (name, value) in values {
        words.iter_mut().for_each(|word| *word = word.replace(name, value));
    }
    words
}

fn request(words: &[String], answer: &str) -> Request {
    let (status, says) = answer.split_once(' ').unwrap_or((answer, ""));
    let status = status.parse().unwrap_or_else(|_| panic!("{answer:?} begins with no status"));
    let mut request = Request { method: "GET".into(), status, says: says.trim().to_lowercase(), ..Request::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-i" => {}
            "--compressed" => request.headers.push(("Accept-Encoding".into(), "deflate, gzip, br, zstd".into())),
            "-X" => words.next().expect("a method").clone_into(&mut request.method),
            "-H" => {
                let (name, value) = words.next().and_then(|line| line.split_once(": ")).expect("a header");
                request.headers.push((name.into(), value.into()));
            }
            url => url.strip_prefix("http://127.0.0.1:8080").expect("a URL").clone_into(&mut request.path),
        }
    }
    request
}

impl Request {
    /// With this header.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.headers.iter().any(|(known, has)| known.eq_ignore_ascii_case(name) && has.contains(value))
    }

    /// Whether that is answered.
    pub fn is_answered(&self, status: u16) -> bool {
        self.status == status
    }

    /// Sends it.
    pub async fn send(&self, gateway: &Gateway) -> Response {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut client = Client::connect(gateway.proxy_addr()).await;
        client.request(&self.method, &self.path, &headers, b"").await
    }

    /// Sends it, and looks whether the answer is as the comment has it.
    pub async fn check(&self, gateway: &Gateway) -> Response {
        let response = self.send(gateway).await;
        assert_eq!(response.status, self.status, "{self:?}: {}", response.text());
        let lines = response.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let whole = (lines.collect::<String>() + &response.text()).to_lowercase();
        let says_it = whole.contains(&self.says) || self.says.split(' ').all(|word| whole.contains(word));
        assert!(says_it, "{self:?}: {whole}");
        response
    }
}
