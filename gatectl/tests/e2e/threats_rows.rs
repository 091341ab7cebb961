//! Known attacks on what speaks HTTP/2 and TLS, one test each, at the size that they are known by. Every one runs again and
//! again beside a bystander, and every one is held to the same: how its connections end, that the bystander gets its own
//! answers and hardly later, and that the process's memory grows by less than 64 MiB.
//!
//! What each is about in detail, and where the line runs to what is allowed, is in `threats_http2` and `threats_tls`.

use std::{cell::RefCell, collections::BTreeSet, net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use crate::{
    harness::{Client, Peer, Wire, raw, within},
    threats_http2::{
        arena::{Arena, Places},
        frames::{
            Attacker, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Fate, HEADERS, PING,
            PRIORITY, frame, headers, last_learnt, learnt, literal, request, reset, window_update,
        },
        smuggling,
    },
    threats_tls::{
        clients::{PUBLIC, SECRET, Tls, hellos, pieces, shake_hands_in_pieces},
        pki::Authority,
    },
};

const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;

/// Frames of a flood.
const FLOOD: usize = 100_000;

/// Connections at a time of those who hold what they have.
const CONNECTIONS: usize = 50;

/// Requests that such a connection sends, twice as many as it may have at a time.
const STREAMS: usize = 200;

/// The most requests of an attacker's connection that may reach an upstream.
const STARTED_MAX: usize = 300;

/// The arena, with a listener that has TLS, and upstreams that are attackers themselves.
struct Ring {
    arena: Arena,
    authority: Authority,
    others: [JoinHandle<()>; 2],
}

impl Ring {
    async fn start(flags: &[&str]) -> Self {
        let authority = Authority::new();
        let (early, speaks_early) = speaking_early().await;
        let (odd, speaks_http2) = Peer::serving(None, async |asked| asked.say(200, "odd")).await;
        let manifest = |places: &Places| {
            let Places { listen, tls, upstream } = places;
            let certificates = authority.sign(&[PUBLIC]).yaml("public") + &authority.sign(&[SECRET]).yaml("secret");
            let ca = authority.yaml();
            format!(
                "certificates:\n{certificates}listeners:\n- {{name: plain, address: \"{listen}\"}}\n\
                 - {{name: secure, address: \"{tls}\", tls: {{certificates: [public, secret], \
                 client_auth: {{mode: optional, ca: {ca}}}}}}}\n\
                 backends:\n- {{name: early, tls: {{ca: {ca}}}, endpoints: [\"{early}\"]}}\n\
                 - {{name: odd, protocol: h2c, endpoints: [\"{odd}\"]}}\nroutes:\n\
                 - {{name: all, listeners: [plain], path: /, backend: \"{upstream}\", timeouts: {{total: 30s, idle: 30s}}}}\n\
                 - {{name: echo, listeners: [secure], path: /, backend: \"{upstream}/echo\"}}\n\
                 - {{name: early, path: /early, backend: early}}\n- {{name: odd, path: /odd, backend: odd}}\n"
            )
        };
        let arena = Arena::start_with(flags, manifest).await;
        Self { arena, authority, others: [speaks_early, speaks_http2] }
    }

    /// An attack whose connection ends by one of these codes; at most so many of its requests reach the upstream.
    async fn ends(&mut self, codes: &[u32], attack: impl AsyncFn(&mut Attacker) -> u32) {
        let (addr, held) = (self.arena.addr, self.arena.upstream.held.clone());
        let before = held.begun();
        let seen = RefCell::new(BTreeSet::new());
        let rounds = self
            .arena
            .survives(async || {
                let code = attack(&mut Attacker::connect(addr).await).await;
                seen.borrow_mut().insert(code);
            })
            .await;
        let seen = seen.into_inner();
        println!("GOAWAY with {seen:?}");
        assert!(seen.iter().all(|code| codes.contains(code)), "GOAWAY with {seen:?}, not {codes:?}");
        held.open(0).await;
        let begun = held.begun() - before;
        assert!(begun <= STARTED_MAX * rounds, "{begun} requests of {rounds} connections reached the upstream");
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.others.iter().for_each(JoinHandle::abort);
    }
}

/// An upstream that answers before it was asked, and without the TLS that it should speak.
async fn speaking_early() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await;
                wire.end().await;
            });
        }
    });
    (url, task)
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, true, request("GET", path))
}

/// CVE-2023-44487, CVE-2023-26964, RUSTSEC-2023-0034.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset() {
    let mut ring = Ring::start(&[]).await;
    ring.ends(&[ENHANCE_YOUR_CALM], async |attacker| {
        attacker.flood(FLOOD, |stream| [get(stream, "/hold"), reset(stream, CANCEL)].concat()).await;
        attacker.ended().await
    })
    .await;
}

/// RUSTSEC-2024-0003, CVE-2019-9514: frames that are wrong, from somebody who takes no answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_frames_behind_a_closed_window() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    type Way<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>);
    let ways: [Way<'_>; 2] = [
        ("WINDOW_UPDATE by nothing", &|stream| [get(stream, "/large"), window_update(stream, 0)].concat()),
        ("DATA on a closed stream", &|stream| {
            [get(stream, "/large"), reset(stream, CANCEL), frame(DATA, 0, stream, b"x")].concat()
        }),
    ];
    for (what, way) in ways {
        println!("{what}");
        ring.ends(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, STREAM_CLOSED], async |_| {
            let mut attacker = Attacker::with_window(addr, 0).await;
            attacker.flood(FLOOD, way).await;
            attacker.ended().await
        })
        .await;
    }
}

/// CVE-2025-8671, RUSTSEC-2025-0070.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_you_reset() {
    let mut ring = Ring::start(&[]).await;
    type Way<'a> = (&'a str, &'a dyn Fn(u32) -> Vec<u8>);
    let ways: [Way<'_>; 4] = [
        ("a window too large", &|stream| window_update(stream, 0x7fff_ffff)),
        ("DATA behind the end", &|stream| frame(DATA, 0, stream, b"x")),
        ("HEADERS behind the end", &|stream| get(stream, "/hold")),
        ("PRIORITY of four bytes", &|stream| frame(PRIORITY, 0, stream, [0; 4])),
    ];
    for (what, way) in ways {
        println!("{what}");
        ring.ends(&[ENHANCE_YOUR_CALM], async |attacker| {
            attacker.flood(FLOOD, |stream| [get(stream, "/hold"), way(stream)].concat()).await;
            attacker.ended().await
        })
        .await;
    }
}

/// RUSTSEC-2024-0332.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_flood() {
    let mut ring = Ring::start(&[]).await;
    for piece in [Vec::new(), literal("a", "b")] {
        ring.ends(&[ENHANCE_YOUR_CALM], async |attacker| {
            attacker.send(frame(HEADERS, END_STREAM, 1, request("GET", "/"))).await;
            attacker.pour(FLOOD, &frame(CONTINUATION, 0, 1, &piece)).await
        })
        .await;
    }
}

/// CVE-2026-49975, CVE-2026-47774: a byte each for fields that are many, on as many streams and connections as there may be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_bomb() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    for (what, name, in_trailers) in
        [("fields", "a", false), ("crumbs of a cookie", "cookie", false), ("trailers", "a", true)]
    {
        println!("{what}");
        let attack = async || {
            let mut all = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut attacker = Attacker::with_window(addr, 0).await;
                attacker
                    .flood(STREAMS, |stream| {
                        let bomb = [learnt(name, ""), last_learnt(16_000)].concat();
                        match in_trailers {
                            false => headers(stream, true, [request("GET", "/hold"), bomb].concat()),
                            true => [
                                headers(stream, false, request("POST", "/deaf")),
                                frame(DATA, 0, stream, b"x"),
                                headers(stream, true, bomb),
                            ]
                            .concat(),
                        }
                    })
                    .await;
                all.push(attacker);
            }
            for attacker in &mut all {
                let code = attacker.ended().await;
                assert_eq!(code, ENHANCE_YOUR_CALM, "{what}");
            }
        };
        ring.arena.survives(attack).await;
    }
}

/// h2 before 0.4.15: a map of fields panics beyond 24,576 names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_field_names_than_a_map_can_hold() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    let mut block = request("GET", "/");
    block.extend((0..25_000).flat_map(|number| learnt(format!("{number:x}"), "")));
    let attack = async || {
        let mut attacker = Attacker::connect(addr).await;
        let mut parts = block.chunks(16_000).peekable();
        let mut bytes = frame(HEADERS, END_STREAM, 1, parts.next().expect("a part"));
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, last, 1, part));
        }
        attacker.send(bytes).await;
        let fate = attacker.fate(1).await;
        assert!(matches!(fate, Fate::Answered(431) | Fate::Closed(ENHANCE_YOUR_CALM)), "{fate:?}");
    };
    ring.arena.survives(attack).await;
}

/// RUSTSEC-2026-0258.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_empty_data_frames() {
    let mut ring = Ring::start(&[]).await;
    let held = ring.arena.upstream.held.clone();
    ring.ends(&[ENHANCE_YOUR_CALM], async |attacker| {
        attacker.send(headers(1, false, request("POST", "/deaf"))).await;
        let code = attacker.pour(1_000_000, &frame(DATA, 0, 1, [])).await;
        held.open(0).await;
        code
    })
    .await;
}

/// hyper before 1.9: a nomination that is no text, on its way to HTTP/2.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_field_that_is_no_text_on_its_way_to_http2() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    let attack = async || {
        for line in [&b"Connection: \xff\xfe"[..], b"Connection: close, \xff\xfe", b"Keep-Alive: \xff"] {
            let mut client = Client::connect(addr).await;
            client.send(&[b"GET /odd HTTP/1.1\r\nHost: a\r\n", line, b"\r\n\r\n"].concat()).await;
            let response = client.response(false).await;
            assert!(matches!(response.status, 200 | 400), "{response:?}");
        }
        assert_eq!(Client::connect(addr).await.get("/odd").await.text(), "odd");
    };
    ring.arena.survives(attack).await;
}

/// Sends a piece now and then for as long as it may.
async fn drip(addr: SocketAddr, begin: &[u8], piece: &[u8]) {
    let mut wire = Wire::connect(addr).await;
    wire.send(begin).await;
    within("an end", async {
        while wire.try_send(piece).await {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// Each stage of a connection has its timer, whatever is spoken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowloris_in_every_stage() {
    let timers = ["head", "body", "write", "keep-alive", "tls-handshake"].map(|name| format!("--{name}-timeout=1"));
    let mut ring = Ring::start(&timers.each_ref().map(String::as_str)).await;
    let (addr, tls) = (ring.arena.addr, ring.arena.tls);
    // They never read, and stay open from here.
    let deaf = RefCell::new(Vec::new());
    let attack = async || {
        let mut reader = Wire::connect(addr).await;
        // More than the system's buffers take.
        reader.send("GET /large HTTP/1.1\r\nhost: a\r\n\r\n".repeat(20)).await;
        deaf.borrow_mut().push(reader);
        let stall = async |begin: &[u8]| {
            let mut wire = Wire::connect(addr).await;
            wire.send(begin).await;
            wire.end().await;
        };
        let body = async {
            let mut wire = Wire::connect(addr).await;
            wire.send("POST /after HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx").await;
            assert!(wire.head().await.first_line.contains(" 408 "));
        };
        let idle = async {
            let mut attacker = Attacker::connect(addr).await;
            assert_eq!(attacker.get("/").await, Fate::Answered(200));
            attacker.send(frame(PING, 0, 0, [1; 8])).await;
            assert_eq!(attacker.ended().await, NO_ERROR);
        };
        tokio::join!(
            stall(b""),
            stall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            drip(addr, b"GET / HTTP/1.1\r\nx: ", b"y"),
            drip(tls, &[22, 3, 1], &[1]),
            body,
            idle
        );
    };
    ring.arena.survives(attack).await;
    ring.arena.connections(0).await;
    for limit in
        ["head_timeout", "request_body_timeout", "write_timeout", "keep_alive_timeout", "tls_handshake_timeout"]
    {
        assert!(ring.arena.hits(limit).await > 0, "{limit}");
    }
}

/// RUSTSEC-2024-0399, CVE-2024-11738: a first flight in odd pieces, too large, or none at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragmented_client_hello() {
    let mut ring = Ring::start(&[]).await;
    let tls = ring.arena.tls;
    let config = ring.authority.client(None, "http/1.1");
    let attack = async || {
        for (what, split) in pieces() {
            let answer = shake_hands_in_pieces(tls, config.clone(), split).await;
            assert!(matches!(answer.as_deref(), None | Some("HTTP/1.1 200")), "{what}: {answer:?}");
        }
        for (what, bytes) in hellos() {
            let answer = raw(tls, &bytes).await;
            assert!(answer.len() < 100 && !answer.starts_with(b"HTTP"), "{what}: {answer:?}");
        }
        let mut good = Tls::connect(tls, config.clone(), PUBLIC).await.expect("a handshake");
        assert_eq!(good.get(PUBLIC, "").await.0, 200);
    };
    ring.arena.survives(attack).await;
}

/// CVE-2025-66220, CVE-2026-47778.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nul_in_the_name_of_a_client() {
    let mut ring = Ring::start(&[]).await;
    let tls = ring.arena.tls;
    let shown = ring.authority.sign(&["admin.x\0.evil.y", "evil.y\0,DNS=admin.x", "good.y"]);
    let config = ring.authority.client(Some(&shown), "http/1.1");
    let attack = async || {
        let mut client = Tls::connect(tls, config.clone(), PUBLIC).await.expect("a handshake");
        let (status, seen) = client.get(PUBLIC, "X-Forwarded-Client-Cert: DNS=admin.x\r\n").await;
        let told = seen.lines().find(|line| line.starts_with("X-Forwarded-Client-Cert: ")).unwrap_or_default();
        assert!(status == 200 && told.contains("DNS=good.y"), "{seen}");
        assert!(!seen.contains("admin") && !seen.contains("evil"), "{seen}");
        assert_eq!(client.get(SECRET, "").await.0, 421);
    };
    ring.arena.survives(attack).await;
}

/// CVE-2026-1642.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_before_the_handshake_of_an_upstream() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    let attack = async || {
        let response = Client::connect(addr).await.get("/early").await;
        assert!(response.status == 502 && !response.text().contains("forged"), "{response:?}");
        let fate = Attacker::connect(addr).await.get("/early").await;
        assert_eq!(fate, Fate::Answered(502));
    };
    ring.arena.survives(attack).await;
}

/// The class of bugs where HTTP/2 is made into HTTP/1.1; CVE-2021-40346 among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn smuggling_from_http2_into_http1() {
    let mut ring = Ring::start(&[]).await;
    let addr = ring.arena.addr;
    let attack = async || {
        for (what, block) in smuggling::attacks() {
            let mut attacker = Attacker::connect(addr).await;
            attacker.send(headers(1, true, block)).await;
            let fate = attacker.fate(1).await;
            assert!(smuggling::is_refused(fate), "{what}: {fate:?}");
        }
    };
    ring.arena.survives(attack).await;
}
