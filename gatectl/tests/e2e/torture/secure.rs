//! The part of a configuration that is about TLS: certificates that are others in each, of listeners and of the gateway
//! itself, and upstreams that ask for the latter.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use rustls::{ServerConfig, pki_types::CertificateDer};

use crate::harness::{Authority, Pair, Tls, free_port};

/// The hosts of the listener, each with certificates of its own.
pub const HOSTS: [&str; 2] = ["web.example", "other.example"];

/// As many as a host has in turn: more than there are configurations between two acknowledged ones.
const TURNS: u64 = 64;

/// For so many configurations the gateway shows upstreams the same certificate: with another one its connections to them
/// are others too.
const SHOWN_FOR: u64 = 20;

/// What stays the same over all configurations, and what they take from in turn.
pub struct Secure {
    authority: Authority,
    hosts: [Vec<Pair>; 2],
    shown: [Pair; 2],
    upstream: Pair,
    /// Of a listener without TLS.
    pub plain: SocketAddr,
    /// Of one with.
    pub tls: SocketAddr,
    /// Of an upstream that speaks HTTP/2 in the clear.
    clear: SocketAddr,
}

impl Secure {
    pub fn new(authority: Authority, clear: SocketAddr) -> Self {
        let free = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let hosts = HOSTS.map(|host| (0..TURNS).map(|_| authority.sign(&[host])).collect());
        let shown = [authority.sign(&["gateway.example"]), authority.sign(&["gateway.example"])];
        let upstream = authority.sign(&["upstream.example"]);
        Self { authority, hosts, shown, upstream, plain: free(), tls: free(), clear }
    }

    /// How an upstream speaks TLS; it wants to see a certificate.
    pub fn upstream(&self) -> Arc<ServerConfig> {
        self.authority.server(&self.upstream, &["h2", "http/1.1"], true)
    }

    /// How a client speaks TLS.
    pub fn client(&self, protocol: &str) -> Tls {
        Tls::of(&self.authority).alpn(&[protocol])
    }

    /// Whether a host's certificate is that of a configuration among these.
    pub fn is_of(&self, host: usize, shown: &CertificateDer<'_>, mut numbers: impl Iterator<Item = u64>) -> bool {
        numbers.any(|number| self.pair(host, number).der() == *shown)
    }

    fn pair(&self, host: usize, number: u64) -> &Pair {
        // Not the same for both, and not in the same order as the numbers.
        let turn = (number * 5 + number / TURNS + host as u64) % TURNS;
        &self.hosts[host][usize::try_from(turn).expect("small")]
    }

    /// What configuration N calls its listeners, the one in the clear first.
    pub fn listeners(number: u64) -> [&'static str; 2] {
        let of = |names: [&'static str; 3], turn: u64| names[usize::try_from(turn % 3).expect("small")];
        [of(["plain", "open", "street"], number / 4), of(["secure", "closed", "vault"], number / 3)]
    }

    /// Certificates, listeners and backends of configuration N.
    pub fn write(&self, number: u64, [one, two]: [SocketAddr; 2], yaml: &mut String) {
        yaml.push_str("certificates:\n");
        for (host, name) in ["web", "other"].into_iter().enumerate() {
            yaml.push_str(&self.pair(host, number).manifest(name));
        }
        let shown = usize::try_from(number / SHOWN_FOR % 2).expect("small");
        yaml.push_str(&self.shown[shown].manifest("gateway"));

        let [plain, secure] = Self::listeners(number);
        let order = if number.is_multiple_of(2) { "web, other" } else { "other, web" };
        let oldest = if number.is_multiple_of(7) { "1.3" } else { "1.2" };
        let _ = write!(
            yaml,
            "listeners:\n- {{name: {plain}, address: \"{}\"}}\n\
             - {{name: {secure}, address: \"{}\", tls: {{certificates: [{order}], min_version: \"{oldest}\"}}}}\n",
            self.plain, self.tls
        );

        let policy = if number.is_multiple_of(5) { "round_robin" } else { "least_request" };
        let ca = serde_json::to_string(&self.authority.pem).expect("text");
        let _ = write!(
            yaml,
            "backends:\n- name: service\n  load_balancing: {{policy: {policy}}}\n  \
             tls: {{ca: {ca}, server_name: upstream.example, client_certificate: gateway}}\n  endpoints:\n"
        );
        if !number.is_multiple_of(3) {
            let _ = writeln!(yaml, "  - {{url: \"https://{one}/by-{number}\", weight: {}}}", 1 + number % 4);
        }
        if number % 3 != 1 {
            let _ = writeln!(yaml, "  - {{url: \"https://{two}/by-{number}\", weight: 2}}");
        }
        let clear = self.clear;
        let _ =
            write!(yaml, "- name: canary\n  protocol: h2c\n  endpoints: [{{url: \"http://{clear}/by-{number}\"}}]\n");
    }
}

impl std::fmt::Debug for Secure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secure").field("plain", &self.plain).field("tls", &self.tls).finish_non_exhaustive()
    }
}
