//! Bodies are carried as they come: nobody is fed more than it takes, and whoever leaves ends the other side too.

use std::time::Duration;

use crate::harness::{End, Gateway, Upstream, Wire, answer, header, with_gateway, within};

fn all_to(url: &str) -> String {
    format!("routes: [{{name: all, path: /, backend: \"{url}\"}}]")
}

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

const UPLOAD: &str = "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n";

const DOWNLOAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";

const MIB: usize = 1 << 20;

/// Longer than the gateway needs to take what it can.
pub const STUCK: Duration = Duration::from_millis(200);

/// The most that may be under way when nobody reads: a little in the gateway, and whatever the system lets its two
/// sockets grow to.
pub fn under_way_max() -> usize {
    let most = |name: &str| {
        let limits = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).expect("a limit of the system");
        limits.split_whitespace().last().and_then(|most| most.parse::<usize>().ok()).expect("a number")
    };
    most("tcp_rmem") + most("tcp_wmem") + 8 * MIB
}

#[tokio::test]
async fn each_piece_is_passed_on_at_once_in_both_directions() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        let mut wire = upstream.accept().await;
        assert_eq!(header(&wire.head().await.headers, "transfer-encoding"), Some("chunked"));
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        client.head().await;
        // Like a conversation: each side waits for the other's piece.
        for _ in 0..3 {
            client.send("4\r\nping\r\n").await;
            assert_eq!(wire.exactly(9).await, b"4\r\nping\r\n");
            wire.send("4\r\npong\r\n").await;
            assert_eq!(client.exactly(9).await, b"4\r\npong\r\n");
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(wire.exactly(5).await, b"0\r\n\r\n");
        wire.send("0\r\n\r\n").await;
        assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
        client.send(GET).await;
        wire.head().await;
    })
    .await;
}

#[tokio::test]
async fn who_does_not_read_stops_the_writer_and_gets_everything_later() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let bound = under_way_max();
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(GET).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send(DOWNLOAD).await;
        client.head().await;
        let sent = wire.send_until_stuck(2 * bound, STUCK).await;
        assert!(sent < bound, "{sent} bytes went down to nobody");
        within("the rest", client.skip(sent)).await;
        drop((client, wire));

        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(UPLOAD).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        let sent = client.send_until_stuck(2 * bound, STUCK).await;
        assert!(sent < bound, "{sent} bytes went up to nobody");
        within("the rest", wire.skip(sent)).await;
    })
    .await;
}

#[tokio::test]
async fn stalled_streams_cost_a_bounded_piece_of_memory() {
    const STREAMS: usize = 20;
    let upstream = Upstream::start().await;
    let gateway = Gateway::builder().proxies(0).manifest(&all_to(&upstream.url())).start().await;
    let (proxy, addr) = gateway.child(1).await;
    let mut open = Vec::new();
    let mut before = 0;
    for stream in 0..=STREAMS {
        let mut client = Wire::connect(addr).await;
        client.send(GET).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send(DOWNLOAD).await;
        client.head().await;
        wire.send_until_stuck(under_way_max(), Duration::from_millis(20)).await;
        open.push((client, wire));
        if stream == 0 {
            before = proxy.resident_kib();
        }
    }
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < STREAMS as u64 * 512, "{grown} KiB for {STREAMS} stalled streams");
    drop(open);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_what_its_upstream_does() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        for begun in ["", DOWNLOAD] {
            for reset in [false, true] {
                let mut client = Wire::connect(gateway.proxy_addr()).await;
                client.send(GET).await;
                let mut wire = upstream.accept().await;
                wire.head().await;
                if !begun.is_empty() {
                    wire.send(format!("{begun}some")).await;
                    client.until("some").await;
                }
                match reset {
                    true => client.reset(),
                    false => drop(client),
                }
                wire.end().await;
            }
        }
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(format!("{UPLOAD}half of it")).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        drop(client);
        wire.end().await;
        assert_eq!(wire.buffer, b"half of it");
        // The count is let go just after the connection.
        let idle = async {
            loop {
                let metrics = gateway.metrics(0).await;
                let mut active = metrics.lines().filter(|line| line.starts_with("rustygate_active_connections{"));
                if active.clone().count() > 0 && active.all(|line| line.ends_with(" 0")) {
                    return;
                }
            }
        };
        within("no active exchange", idle).await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_cut_never_looks_whole() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        for (answer, reset) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\nhalf", false),
            // Without a length, the connection's orderly end is the body's; its failure is not.
            ("HTTP/1.1 200 OK\r\n\r\nhalf", true),
        ] {
            let mut client = Wire::connect(gateway.proxy_addr()).await;
            client.send(GET).await;
            let mut wire = upstream.accept().await;
            wire.head().await;
            wire.send(answer).await;
            client.until("half").await;
            match reset {
                true => wire.reset(),
                false => drop(wire),
            }
            assert_eq!(client.end().await, End::Reset, "{answer}");
            assert!(!String::from_utf8_lossy(&client.buffer).contains("0\r\n\r\n"), "{answer}");
        }
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(GET).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nall of it").await;
        client.until("all of it").await;
        drop(wire);
        client.until("0\r\n\r\n").await;
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_comes_down_while_the_upload_goes_on() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\nhalf").await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nearly").await;
        client.until("early").await;
        client.send("rest").await;
        assert_eq!(wire.exactly(8).await, b"halfrest");
        wire.send(" bird").await;
        client.until(" bird").await;
        client.send(GET).await;
        assert_eq!(wire.head().await.first_line, "GET / HTTP/1.1", "both connections go on");
    })
    .await;
}

#[tokio::test]
async fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::start().await;
    with_gateway(&all_to(&upstream.url()), async |gateway| {
        let mut client = Wire::connect(gateway.proxy_addr()).await;
        client.send(UPLOAD).await;
        let mut wire = upstream.accept().await;
        wire.head().await;
        client.send(vec![b'x'; 64 << 10]).await;
        // It closes at once, with bytes unread: a reset, as far as the gateway can tell.
        wire.send("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig").await;
        drop(wire);
        let head = client.head().await;
        assert_eq!(head.first_line, "HTTP/1.1 413 Content Too Large");
        assert_eq!(header(&head.headers, "connection"), Some("close"));
        client.until("big").await;
        let mut other = Wire::connect(gateway.proxy_addr()).await;
        other.send(GET).await;
        let mut wire = upstream.accept().await;
        assert_eq!(wire.head().await.first_line, "GET / HTTP/1.1", "nothing of the upload is left on any connection");
        wire.send(answer("next")).await;
        other.until("next").await;
    })
    .await;
}

/// Sends so many bytes, in pieces.
async fn pour(stream: &mut tokio::net::TcpStream, mut bytes: usize) {
    use tokio::io::AsyncWriteExt as _;
    let piece = vec![b'x'; 256 << 10];
    while bytes > 0 {
        let part = bytes.min(piece.len());
        stream.write_all(&piece[..part]).await.expect("sends");
        bytes -= part;
    }
}

/// Reads so many bytes, and keeps none.
async fn drink(stream: &mut tokio::net::TcpStream, mut bytes: usize) {
    use tokio::io::AsyncReadExt as _;
    let mut piece = vec![0; 256 << 10];
    while bytes > 0 {
        let part = bytes.min(piece.len());
        let read = stream.read(&mut piece[..part]).await.expect("reads");
        assert!(read > 0, "closed {bytes} bytes too early");
        bytes -= read;
    }
}

async fn drink_head(stream: &mut tokio::net::TcpStream) {
    use tokio::io::AsyncReadExt as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_up_and_down_leaves_the_gateway_small() {
    const GIBIBYTE: usize = 1 << 30;
    const RESIDENT_KIB_MAX: u64 = 40 << 10;
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    let gateway = Gateway::builder().proxies(0).manifest(&all_to(&url)).start().await;
    let (proxy, listen) = gateway.child(2).await;
    let before = proxy.resident_kib();

    let client = tokio::spawn(async move {
        let mut stream = tokio::net::TcpStream::connect(listen).await.expect("connects");
        let head = format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {GIBIBYTE}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.expect("sends");
        pour(&mut stream, GIBIBYTE).await;
        drink_head(&mut stream).await;
        drink(&mut stream, GIBIBYTE).await;
    });
    let server = tokio::spawn(async move {
        let (mut stream, _) = upstream.accept().await.expect("accepts");
        drink_head(&mut stream).await;
        drink(&mut stream, GIBIBYTE).await;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {GIBIBYTE}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.expect("sends");
        pour(&mut stream, GIBIBYTE).await;
        stream
    });
    let mut most = before;
    while !client.is_finished() {
        most = most.max(proxy.resident_kib());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.await.expect("all of it, up and down");
    drop(server.await.expect("all of it"));
    eprintln!("resident: {before} KiB before, {most} KiB at most");
    assert!(most < RESIDENT_KIB_MAX, "{most} KiB resident, {before} before");
    gateway.shutdown().await;
}
