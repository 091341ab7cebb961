//! Where attacks take place: a proxy with one worker, so that all clients share the connections to the one endpoint
//! behind it, and a canary, a client that has nothing to do with the attack.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Client, Gateway, Head, Response, Seen, Witness, header, raw, within};

/// What an attacker wants to be taken for a request.
pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// See the module documentation.
pub struct Arena {
    pub gateway: Gateway,
    pub witness: Witness,
    canary: Client,
    canaries: usize,
    /// How many requests of the witness are accounted for.
    accounted: usize,
}

impl Arena {
    /// Everything goes to a witness that answers with what it was asked.
    pub async fn start() -> Self {
        Self::before(Witness::echo().await, "").await
    }

    /// Everything goes to this witness but what the manifest's other routes take: lines of YAML that follow `routes:`.
    pub async fn before(witness: Witness, more: &str) -> Self {
        let manifest = format!("routes:\n- {{name: all, path: /, backend: \"{}\"}}\n{more}", witness.url());
        let gateway =
            Gateway::builder().proxy_settings(|settings| settings.workers = Some(1)).manifest(&manifest).start().await;
        let canary = Client::connect(gateway.proxy_addr()).await;
        Self { gateway, witness, canary, canaries: 0, accounted: 0 }
    }

    pub fn addr(&self) -> SocketAddr {
        self.gateway.proxy_addr()
    }

    /// Sends and returns every answer until the connection is closed.
    pub async fn answers(&self, name: &str, attack: &[u8]) -> Vec<Response> {
        // For whoever looks why it was not.
        println!("{name}");
        answers(&raw(self.addr(), attack).await)
    }

    /// The attack is answered with this status and nothing else, the connection is closed, and the upstream gets not a
    /// byte of it.
    pub async fn refuses(&mut self, name: &str, attack: &[u8], status: u16) {
        let answers = self.answers(name, attack).await;
        assert_closing(name, &answers, status);
        self.nothing_was_seen(name).await;
        let bytes: usize = self.witness.connections().iter().map(Vec::len).sum();
        let asked: usize = self.witness.requests().iter().map(|seen| seen.bytes.len()).sum();
        assert_eq!(bytes, asked, "{name}: something reached the upstream");
    }

    /// The same for an attack that shows in a body only: its head may reach the upstream, the end of the request may
    /// not.
    pub async fn cuts(&mut self, name: &str, attack: &[u8]) {
        let answers = self.answers(name, attack).await;
        assert_closing(name, &answers, 400);
        self.nothing_was_seen(name).await;
    }

    /// The same as [`Self::refuses`], for a client that sends its FIN right after the attack.
    pub async fn refuses_half_closed(&mut self, name: &str, attack: &[u8], status: u16) {
        let answers = within(name, async {
            let mut stream = TcpStream::connect(self.addr()).await.expect("connects");
            stream.write_all(attack).await.expect("sends");
            stream.shutdown().await.expect("half-closes");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("reads");
            answers(&bytes)
        });
        assert_closing(name, &answers.await, status);
        self.nothing_was_seen(name).await;
    }

    /// Since the last look, the witness saw the canary's request only; the canary's answer is its own.
    pub async fn nothing_was_seen(&mut self, name: &str) {
        let seen = self.seen(name).await;
        assert!(seen.is_empty(), "{name}: the upstream was asked for {:?}", lines(&seen));
    }

    /// What the witness saw since the last look, before a canary's request, whose answer must be its own.
    pub async fn seen(&mut self, name: &str) -> Vec<Seen> {
        let (mut seen, _) = self.seen_and_canary(name).await;
        seen.pop();
        seen
    }

    /// The same with the canary's own request at the end, and the number of its connection.
    pub async fn seen_and_canary(&mut self, name: &str) -> (Vec<Seen>, usize) {
        self.canaries += 1;
        let path = format!("/canary-{}", self.canaries);
        let answer = self.canary.get(&path).await;
        assert_eq!(answer.status, 200, "{name}: the canary's answer is {answer:?}");
        let own = format!("GET {path} HTTP/1.1\r\n");
        assert!(answer.body.starts_with(own.as_bytes()), "{name}: the canary got {:?}", answer.text());
        let seen = self.witness.requests().split_off(self.accounted);
        self.accounted += seen.len();
        let canary = seen.last().expect("the canary's request");
        assert_eq!(canary.line(), own.trim_end(), "{name}");
        let connection = canary.connection;
        (seen, connection)
    }

    /// Ends the gateway; whatever it still had to send has arrived then.
    pub async fn end(mut self) {
        self.nothing_was_seen("the end").await;
        self.gateway.shutdown().await;
        let seen = self.witness.requests().split_off(self.accounted);
        assert!(seen.is_empty(), "after the end the upstream was asked for {:?}", lines(&seen));
    }
}

/// One answer with that status that says that the connection closes.
fn assert_closing(name: &str, answers: &[Response], status: u16) {
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [status], "{name}");
    assert_eq!(answers[0].header("connection"), Some("close"), "{name}");
}

fn lines(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(Seen::line).collect()
}

/// All answers of a connection that was read to its end; each has a length.
fn answers(mut bytes: &[u8]) -> Vec<Response> {
    let mut answers = Vec::new();
    while let Some(head) = Head::parse(bytes) {
        let status = head.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = header(&head.headers, "content-length").map_or(0, |length| length.parse().expect("a length"));
        let body = bytes[head.bytes..head.bytes + length].to_vec();
        bytes = &bytes[head.bytes + length..];
        answers.push(Response { status, headers: head.headers, body, interim: Vec::new() });
    }
    assert!(bytes.is_empty(), "half an answer: {:?}", String::from_utf8_lossy(bytes));
    answers
}
