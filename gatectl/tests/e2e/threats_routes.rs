//! Attacks on the rules of a gateway: requests that one part of it reads as another part does not.
//!
//! Each test is a bug that some gateway had, with every spelling of it that is known. What decides is what the
//! upstreams saw: which of them got the request, and the exact bytes of its target.

mod conditions;
mod hosts;
mod identity;
mod paths;
mod rewrites;

use std::net::SocketAddr;

use crate::harness::{Gateway, Seen, Witness, raw};

/// Upstreams by the name of their backend.
struct Site {
    witnesses: Vec<(&'static str, Witness)>,
    seen: Vec<usize>,
}

impl Site {
    async fn start(names: &[&'static str]) -> Self {
        let mut witnesses = Vec::new();
        for &name in names {
            witnesses.push((name, Witness::saying(name).await));
        }
        Self { seen: vec![0; witnesses.len()], witnesses }
    }

    /// A gateway with a backend for each upstream, and these routes.
    async fn gateway(&self, routes: &str) -> Gateway {
        Gateway::builder().manifest(&self.manifest(routes)).start().await
    }

    fn manifest(&self, routes: &str) -> String {
        let mut yaml = "backends:\n".to_owned();
        for (name, witness) in &self.witnesses {
            yaml.push_str(&format!("- {{name: {name}, endpoints: [\"{}\"]}}\n", witness.url()));
        }
        yaml + routes
    }

    /// The requests that came to any upstream since this was last asked, with the upstream's name.
    fn news(&mut self) -> Vec<(&'static str, Seen)> {
        let mut news = Vec::new();
        for ((name, witness), seen) in self.witnesses.iter().zip(&mut self.seen) {
            let requests = witness.requests();
            news.extend(requests[*seen..].iter().map(|request| (*name, request.clone())));
            *seen = requests.len();
        }
        news
    }

    /// Sends a head (without its empty line) on a connection of its own. Says "upstream target" as the upstream saw
    /// it, or "status reason" if the gateway answered itself and no upstream heard of it.
    async fn outcome(&mut self, proxy: SocketAddr, head: impl AsRef<[u8]>) -> String {
        let request = [head.as_ref(), b"\r\nconnection: close\r\n\r\n"].concat();
        let answer = String::from_utf8_lossy(&raw(proxy, &request).await).into_owned();
        let news = self.news();
        let status = answer.split(' ').nth(1).unwrap_or("no answer");
        match news.as_slice() {
            [] => {
                let reason = answer.split("\"reason\":\"").nth(1).and_then(|rest| rest.split('"').next());
                format!("{status} {}", reason.unwrap_or("without a reason"))
            }
            [(name, seen)] if status == "200" && answer.ends_with(*name) => {
                format!("{name} {}", seen.line().split(' ').nth(1).unwrap_or_default())
            }
            _ => panic!("{status} for {:?}, and upstreams saw {news:?}", String::from_utf8_lossy(&request)),
        }
    }

    /// Sends each target with GET and compares the outcomes.
    async fn expect(&mut self, proxy: SocketAddr, cases: &[(&str, &str)]) {
        for (target, expected) in cases {
            let outcome = self.outcome(proxy, format!("GET {target} HTTP/1.1\r\nhost: h")).await;
            assert_eq!(outcome, *expected, "{target}");
        }
    }
}
