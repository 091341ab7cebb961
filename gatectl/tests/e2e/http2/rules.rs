//! What RFC 9113 demands of who reads frames: which mistakes end a stream, which end the connection, and by which code.
//! Frames are written by hand. That every rule is kept is tested beside the reader; here, that its word reaches the client.

use crate::{
    harness::{Gateway, Witness, with_gateway},
    threats_http2::frames::{
        Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM,
        SETTINGS, WINDOW_UPDATE, frame, headers, literal, request, window_update,
    },
};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

use Fate::{Closed, Reset};

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// What is sent behind a request of which more is to come, on stream 1.
fn mistakes() -> Vec<(&'static str, Vec<u8>, Fate)> {
    let get = request("GET", "/");
    let with = |name: &str, value: &str| headers(3, true, [request("GET", "/"), literal(name, value)].concat());
    vec![
        ("DATA of no stream", frame(DATA, 0, 0, b"x"), Closed(PROTOCOL_ERROR)),
        ("DATA of a stream that has not begun", frame(DATA, 0, 5, b"x"), Closed(PROTOCOL_ERROR)),
        ("DATA with more padding than payload", frame(DATA, 8, 1, [5, 0]), Closed(PROTOCOL_ERROR)),
        ("DATA of more than 16 KiB", frame(DATA, 0, 1, [0; 16_385]), Closed(FRAME_SIZE_ERROR)),
        ("DATA beyond the window", frame(DATA, 0, 1, [0; 16_384]).repeat(5), Reset(FLOW_CONTROL_ERROR)),
        ("HEADERS of no stream", headers(0, true, &get), Closed(PROTOCOL_ERROR)),
        ("HEADERS of an even stream", headers(2, true, &get), Closed(PROTOCOL_ERROR)),
        ("HEADERS that cannot be read", headers(3, true, [0x80]), Closed(COMPRESSION_ERROR)),
        ("trailers that are not the end", headers(1, false, literal("x", "y")), Reset(PROTOCOL_ERROR)),
        ("trailers with a pseudo-field", headers(1, true, literal(":path", "/")), Reset(PROTOCOL_ERROR)),
        ("trailers and more", headers(1, true, literal("x", "y")).repeat(2), Reset(STREAM_CLOSED)),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, []), Closed(PROTOCOL_ERROR)),
        (
            "something between HEADERS and CONTINUATION",
            [frame(HEADERS, END_STREAM, 3, &get), frame(PING, 0, 0, [0; 8])].concat(),
            Closed(PROTOCOL_ERROR),
        ),
        ("PRIORITY of no stream", frame(PRIORITY, 0, 0, [0; 5]), Closed(PROTOCOL_ERROR)),
        ("PRIORITY of four bytes", frame(PRIORITY, 0, 1, [0; 4]), Reset(FRAME_SIZE_ERROR)),
        ("PRIORITY above itself", frame(PRIORITY, 0, 1, [0, 0, 0, 1, 0]), Reset(PROTOCOL_ERROR)),
        ("RST_STREAM of a stream that has not begun", frame(RST_STREAM, 0, 3, [0; 4]), Closed(PROTOCOL_ERROR)),
        ("RST_STREAM of three bytes", frame(RST_STREAM, 0, 1, [0; 3]), Closed(FRAME_SIZE_ERROR)),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, []), Closed(PROTOCOL_ERROR)),
        ("SETTINGS of five bytes", frame(SETTINGS, 0, 0, [0; 5]), Closed(FRAME_SIZE_ERROR)),
        ("SETTINGS acknowledged at length", frame(SETTINGS, 1, 0, [0; 6]), Closed(FRAME_SIZE_ERROR)),
        ("ENABLE_PUSH of 2", setting(2, 2), Closed(PROTOCOL_ERROR)),
        ("INITIAL_WINDOW_SIZE of 2^31", setting(4, 1 << 31), Closed(FLOW_CONTROL_ERROR)),
        ("MAX_FRAME_SIZE of 16,383", setting(5, 16_383), Closed(PROTOCOL_ERROR)),
        ("PUSH_PROMISE", frame(5, END_HEADERS, 1, [0; 4]), Closed(PROTOCOL_ERROR)),
        ("PING of a stream", frame(PING, 0, 1, [0; 8]), Closed(PROTOCOL_ERROR)),
        ("PING of seven bytes", frame(PING, 0, 0, [0; 7]), Closed(FRAME_SIZE_ERROR)),
        ("GOAWAY of a stream", frame(GOAWAY, 0, 1, [0; 8]), Closed(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE by nothing", window_update(0, 0), Closed(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE by nothing of a stream", window_update(1, 0), Reset(PROTOCOL_ERROR)),
        ("WINDOW_UPDATE by too much", window_update(0, 0x7fff_ffff), Closed(FLOW_CONTROL_ERROR)),
        ("WINDOW_UPDATE by too much of a stream", window_update(1, 0x7fff_ffff), Reset(FLOW_CONTROL_ERROR)),
        ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3]), Closed(FRAME_SIZE_ERROR)),
        ("no frame at all", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(), Closed(FRAME_SIZE_ERROR)),
        // These are of stream 3, and nothing happens to stream 1.
        ("a name in upper case", with("X", "y"), Fate::Answered(200)),
        ("te of more than trailers", with("te", "gzip"), Fate::Answered(200)),
        ("an unknown frame", frame(0xbb, 0xff, 9, [0; 100]), Fate::Answered(200)),
        ("PRIORITY_UPDATE", frame(0x10, 0, 0, [0, 0, 0, 1, b'u', b'=', b'1']), Fate::Answered(200)),
        ("a setting that nobody knows", setting(0x99, 7), Fate::Answered(200)),
    ]
}

#[tokio::test]
async fn mistakes_end_what_they_must_and_nothing_else() {
    let witness = Witness::echo().await;
    let manifest = format!("routes: [{{name: all, path: /, backend: \"{}\"}}]", witness.url());
    with_gateway(&manifest, async |gateway: &mut Gateway| {
        for (what, bytes, expected) in mistakes() {
            let mut client = Attacker::connect(gateway.proxy_addr()).await;
            client
                .send([headers(1, false, request("POST", "/")), bytes, frame(DATA, END_STREAM, 1, b"x")].concat())
                .await;
            assert_eq!(client.fate(1).await, expected, "{what}");
            if let Closed(_) = expected {
                client.ended().await;
            } else {
                client.stream = 11;
                assert_eq!(client.get("/").await, Fate::Answered(200), "{what}");
            }
        }
    })
    .await;
}
