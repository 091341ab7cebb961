//! A client's connection has so many requests and so much time; when either is over, it ends in order.

use h2::Reason;

use super::bodies::routes;
use crate::harness::{Gateway, Http2, Peer, Wire, Witness, answered, hits, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_gets_no_more_requests_than_it_may_and_none_is_lost() {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 200;
    const AT_ONCE: usize = 8;
    let upstream = Witness::saying("here").await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.max_requests_per_connection = 20);
    let gateway = builder.manifest(&routes(&upstream.url(), "http://127.0.0.1:9")).start().await;
    let addr = gateway.proxy_addr();
    let clients = (0..CLIENTS).map(|_| async move {
        let (mut answers, mut connections) = (0, 0);
        while answers < REQUESTS {
            let mut client = Http2::connect(addr).await;
            connections += 1;
            let mut under_way = Vec::new();
            loop {
                while under_way.len() < AT_ONCE {
                    let head = client.head("GET", "/h1", &[]);
                    match client.try_open(head, true).await {
                        Ok((response, _)) => under_way.push(tokio::spawn(answered(response))),
                        // The gateway has said that no more is welcome.
                        Err(error) => {
                            assert!(error.is_go_away() && error.is_remote(), "{error}");
                            assert_eq!(error.reason(), Some(Reason::NO_ERROR));
                            break;
                        }
                    }
                }
                if under_way.is_empty() {
                    break;
                }
                match within("an answer", under_way.remove(0)).await.expect("no panic") {
                    Ok(answer) => {
                        assert_eq!((answer.status, answer.text().as_str()), (200, "here"));
                        answers += 1;
                    }
                    // It crossed the farewell, which says that nobody looked at it.
                    Err(error) => {
                        let unseen = error.is_go_away() && error.is_remote();
                        assert!(unseen && error.reason() == Some(Reason::NO_ERROR), "{error}");
                    }
                }
            }
            within("the end of the connection", &mut client.driver).await.expect("no panic").expect("an end in order");
        }
        (answers, connections)
    });
    let (mut answers, mut connections) = (0, 0);
    for client in clients.map(tokio::spawn).collect::<Vec<_>>() {
        let (answered, made) = client.await.expect("no panic");
        answers += answered;
        connections += made;
    }
    assert!(connections >= CLIENTS * REQUESTS / (20 + 2 * AT_ONCE), "{connections} connections");
    assert_eq!(upstream.requests().len(), answers, "what was not answered was not sent");
    assert_eq!(hits(&gateway, "requests_per_connection").await, connections as u64);
    gateway.shutdown().await;
}

#[tokio::test]
async fn a_connection_that_is_old_ends_when_what_is_under_way_is_answered() {
    const GOAWAY: u8 = 7;
    let mut peer = Peer::start().await;
    let builder = Gateway::builder().proxy_settings(|settings| settings.max_connection_age = 1);
    let gateway = builder.manifest(&routes("http://127.0.0.1:9", &peer.url())).start().await;
    let mut client = Http2::connect(gateway.proxy_addr()).await;
    let (response, _) = client.open(client.head("GET", "/h2", &[]), true).await;
    let asked = peer.next().await;
    let refused = async {
        loop {
            let head = client.head("GET", "/none", &[]);
            match client.try_open(head, true).await {
                Ok((response, _)) => drop(answered(response).await),
                Err(error) => return error,
            }
        }
    };
    assert_eq!(within("a farewell", refused).await.reason(), Some(Reason::NO_ERROR));
    asked.say(200, "in time");
    let answer = within("an answer", answered(response)).await.expect("an answer");
    assert_eq!(answer.text(), "in time");
    within("the end of the connection", &mut client.driver).await.expect("no panic").expect("an end in order");
    assert_eq!(hits(&gateway, "connection_age").await, 1);

    // One that has nothing under way hears the same, in two steps.
    let mut wire = Wire::connect(gateway.proxy_addr()).await;
    wire.send([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0][..]].concat()).await;
    let mut farewells = Vec::new();
    while farewells.len() < 2 {
        let head = wire.exactly(9).await;
        let payload = wire.exactly(usize::from(head[1]) << 8 | usize::from(head[2])).await;
        match (head[3], head[4]) {
            (GOAWAY, _) => farewells.push(payload[..4].to_vec()),
            // A ping, which the second step waits for.
            (6, 0) => wire.send([&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat()).await,
            _ => {}
        }
    }
    assert_eq!(farewells, [[0x7f, 0xff, 0xff, 0xff], [0, 0, 0, 0]]);
    wire.end().await;
    assert_eq!(hits(&gateway, "connection_age").await, 2);
    gateway.shutdown().await;
}
