//! Certificates that are changed while clients come and stay.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use tokio::task::JoinSet;

use super::{Gate, HOST, over_http2};
use crate::harness::{Client, Gateway, Tls, Witness};

const SWAPS: usize = 60;

/// What clients do until they are told to stop.
struct Load {
    gate: Gate,
    tls: Tls,
    stop: AtomicBool,
    /// Answers on connections that stay, and on those that are made for one.
    answers: [AtomicUsize; 2],
}

impl Load {
    fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    async fn stay(self: Arc<Self>, http2: bool) {
        if http2 {
            let mut client = self.gate.http2(&self.tls).await;
            while self.goes_on() {
                assert_eq!(client.get("/").await.text(), "here");
                self.answers[0].fetch_add(1, Relaxed);
            }
            return;
        }
        let mut client = self.gate.http1(&self.tls).await;
        while self.goes_on() {
            assert_eq!(client.get("/").await.text(), "here");
            self.answers[0].fetch_add(1, Relaxed);
        }
    }

    /// With sessions that are taken up again or not.
    async fn come_and_go(self: Arc<Self>, http2: bool, tls: Tls) {
        while self.goes_on() {
            let text = match http2 {
                true => self.gate.http2(&tls).await.get("/").await.text(),
                false => self.gate.http1(&tls).await.get("/").await.text(),
            };
            assert_eq!(text, "here");
            self.answers[1].fetch_add(1, Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_and_who_comes_anew_sees_the_new_one() {
    let upstream = Witness::saying("here").await;
    let gate = Gate::before(&upstream.url());
    let first = gate.authority.sign(&[HOST]);
    let mut gateway = Gateway::builder().manifest(&gate.manifest(&first.manifest("web"), "")).start().await;
    let tls = Tls::of(&gate.authority);
    let load = Arc::new(Load { gate, tls, stop: AtomicBool::new(false), answers: Default::default() });
    let mut clients = JoinSet::new();
    for http2 in [false, true] {
        clients.spawn(Arc::clone(&load).stay(http2));
        clients.spawn(Arc::clone(&load).come_and_go(http2, load.tls.clone()));
        clients.spawn(Arc::clone(&load).come_and_go(http2, load.tls.clone().forgetful()));
    }
    // These two are there from the first certificate to the last, and idle in between.
    let (mut idle1, mut idle2) = (load.gate.http1(&load.tls).await, load.gate.http2(&load.tls).await);
    assert_eq!((idle1.get("/").await.status, idle2.get("/").await.status), (200, 200));
    for swap in 0..SWAPS {
        let before = load.answers.each_ref().map(|answers| answers.load(Relaxed));
        let next = load.gate.authority.sign(&[HOST]);
        gateway.apply(&load.gate.manifest(&next.manifest("web"), "")).await;
        for protocol in ["http/1.1", "h2"] {
            let stream = load.gate.connect(&load.tls.clone().forgetful(), protocol).await.expect("a handshake");
            let shown = stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone();
            assert_eq!(shown, next.der(), "swap {swap}, {protocol}");
            let status = match protocol {
                "h2" => over_http2(stream).await.get("/").await.status,
                _ => Client::over(stream).host(HOST).get("/").await.status,
            };
            assert_eq!(status, 200);
        }
        // Each swap is under both kinds of load.
        while load.answers.iter().zip(before).any(|(answers, before)| answers.load(Relaxed) == before) {
            tokio::task::yield_now().await;
            if let Some(ended) = clients.try_join_next() {
                ended.expect("a client whose requests are all answered");
                panic!("a client ended by itself");
            }
        }
    }
    assert_eq!((idle1.get("/").await.status, idle2.get("/").await.status), (200, 200));
    load.stop.store(true, Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client whose requests are all answered");
    }
    eprintln!("answers on connections that stay, and on new ones: {:?}", load.answers);
    assert!(gateway.metrics(0).await.contains("rustygate_tls_handshakes_failed_total 0\n"));
    gateway.shutdown().await;
}
