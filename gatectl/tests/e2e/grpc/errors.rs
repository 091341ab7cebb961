//! What the gateway itself tells callers.

use tonic::{Code, Request, transport::Endpoint};

use super::{
    interop::Caller,
    service::{Note, frame},
};
use crate::harness::{Http2, Peer, answered, backend_for_all, body_of, reply, with_gateway, within};

#[tokio::test]
async fn errors_of_the_gateway_are_statuses_of_grpc() {
    let peer = Peer::start().await;
    let manifest = format!(
        "backends:\n- {{name: dead, protocol: h2c, endpoints: [\"http://127.0.0.1:1\"]}}\n\
         - {{name: silent, protocol: h2c, endpoints: [\"{}\"]}}\n\
         plugins: []\n\
         routes:\n- {{name: dead, path: /dead.Service, backend: dead}}\n\
         - {{name: silent, path: /silent.Service, backend: silent, timeouts: {{total: 100ms, idle: 200ms}}}}\n",
        peer.url()
    );
    with_gateway(&manifest, async |gateway| {
        let endpoint = Endpoint::try_from(format!("http://{}", gateway.proxy_addr())).expect("a URL");
        let caller = Caller::new(endpoint).await;
        for (method, code) in [
            ("/none.Service/Call", Code::Unimplemented),
            ("/dead.Service/Call", Code::Unavailable),
            ("/silent.Service/Call", Code::DeadlineExceeded),
        ] {
            let status = caller.unary(method, Request::new(Note::default())).await.expect_err("a status");
            assert_eq!(status.code(), code, "{method}: {status:?}");
            assert!(!status.message().is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_a_call_is_told_of_in_the_trailers() {
    let mut peer = Peer::start().await;
    with_gateway(&backend_for_all("h2c", &peer.url(), "{}"), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for kind in ["application/grpc", "application/octet-stream"] {
            let head = client.head("POST", "/a.Service/Call", &[("content-type", kind), ("te", "trailers")]);
            let (response, mut up) = client.open(head, false).await;
            up.send_data(frame(&Note::default()), false).expect("sends");
            let mut asked = peer.next().await;
            let mut down = asked.respond.send_response(reply(200, &[("content-type", kind)]), false).expect("sends");
            down.send_data(frame(&Note::default()), false).expect("sends");
            let mut body = within("a head", response).await.expect("a head").into_body();
            let piece = within("a piece", body.data()).await.expect("a piece").expect("a piece");
            assert_eq!(piece, frame(&Note::default()));
            body.flow_control().release_capacity(piece.len()).expect("room");
            down.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
            let ended = within("the end", body_of(&mut body)).await;
            if kind == "application/grpc" {
                let (rest, trailers) = ended.expect("an end in order");
                let status = trailers.get("grpc-status").expect("a status").to_str().expect("text");
                assert_eq!((rest.len(), status), (0, "8"), "RESOURCE_EXHAUSTED");
                // The upload is ended as well.
                let end = std::future::poll_fn(|cx| up.poll_reset(cx));
                assert_eq!(within("a reset", end).await.expect("a reason"), h2::Reason::NO_ERROR);
            } else {
                assert!(ended.expect_err("nobody can be told otherwise").is_reset());
            }
            drop(up);
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_that_the_upstream_gives_up_has_the_status_that_belongs_to_its_code() {
    use h2::Reason;
    let mut peer = Peer::start().await;
    with_gateway(&backend_for_all("h2c", &peer.url(), "{}"), async |gateway| {
        let mut client = Http2::connect(gateway.proxy_addr()).await;
        for (reason, status) in [
            (Reason::CANCEL, "1"),
            (Reason::ENHANCE_YOUR_CALM, "8"),
            (Reason::INADEQUATE_SECURITY, "7"),
            (Reason::INTERNAL_ERROR, "13"),
            (Reason::PROTOCOL_ERROR, "13"),
        ] {
            for begun in [false, true] {
                let fields = [("content-type", "application/grpc"), ("te", "trailers")];
                let (response, mut up) = client.open(client.head("POST", "/a.Service/Call", &fields), false).await;
                up.send_data(frame(&Note::default()), false).expect("sends");
                let mut asked = peer.next().await;
                let answer = if begun {
                    let head = reply(200, &[("content-type", "application/grpc")]);
                    let mut down = asked.respond.send_response(head, false).expect("sends");
                    let answer = within("a head", response).await.expect("a head");
                    down.send_reset(reason);
                    let (_, trailers) = within("the end", body_of(&mut answer.into_body())).await.expect("in order");
                    trailers
                } else {
                    asked.respond.send_reset(reason);
                    within("an answer", answered(response)).await.expect("an answer").headers
                };
                let told = answer.get("grpc-status").expect("a status").to_str().expect("text");
                assert_eq!(told, status, "{reason:?}, begun: {begun}");
                assert!(peer.is_quiet(), "it is not sent again: nobody knows what was done");
            }
        }
        assert_eq!(peer.connections(), 1, "a stream's end is not the connection's");
        // A connection that ends says nothing of the call: trying again may help.
        let fields = [("content-type", "application/grpc"), ("te", "trailers")];
        let (response, _up) = client.open(client.head("POST", "/a.Service/Call", &fields), false).await;
        let _asked = peer.next().await;
        peer.end(Reason::INTERNAL_ERROR);
        let answer = within("an answer", answered(response)).await.expect("an answer");
        assert_eq!(answer.header("grpc-status"), Some("14"), "{answer:?}");
    })
    .await;
}
