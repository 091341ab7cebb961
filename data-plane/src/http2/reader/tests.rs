use proptest::prelude::*;

use super::*;
use crate::http2::{
    connection::STREAM_WINDOW_BYTES,
    frames::{END_HEADERS, END_STREAM},
    rig::{PADDED, PRIORITY_FIELDS, Rig, data, field, frame, headers, request, setting, window_update},
};

/// What comes of what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing is wrong with it.
    Passes,
    /// A stream ends.
    Resets(u32, Code),
    /// The connection ends.
    Ends(Code),
    /// The connection ends, by a bound.
    Exceeds(Limit),
}

use Code::{CompressionError, FlowControlError, FrameSizeError, ProtocolError, StreamClosed};
use Outcome::{Ends, Exceeds, Passes, Resets};

/// A connection with a request whose body is coming (1), one that waits for its answer (3), one that was answered (5), one
/// that the client gave up (7), and one that the gateway gave up (9).
fn busy() -> Rig {
    let mut rig = Rig::greeted();
    for (stream, end) in [(1, false), (3, true), (5, true), (7, false), (9, false)] {
        rig.send(&headers(stream, end, request("POST"))).expect("a request");
    }
    rig.answer(5);
    rig.send(&frame(kind::RST_STREAM, 0, 7, [0, 0, 0, 8])).expect("it is given up");
    rig.stream(9).reset(Code::InternalError);
    rig.told();
    rig
}

fn outcome(rig: &mut Rig, bytes: &[u8]) -> Outcome {
    match rig.send(bytes) {
        Err(Fault::Invalid(code)) => Ends(code),
        Err(Fault::Exceeded(limit)) => Exceeds(limit),
        Ok(()) => {
            let told = rig.told();
            let reset = told.iter().find(|(head, _)| head.kind == kind::RST_STREAM);
            reset.map_or(Passes, |(head, payload)| Resets(head.stream, code(payload)))
        }
    }
}

fn code(payload: &[u8]) -> Code {
    let codes = [
        Code::NoError,
        ProtocolError,
        Code::InternalError,
        FlowControlError,
        StreamClosed,
        FrameSizeError,
        Code::RefusedStream,
        Code::Cancel,
        CompressionError,
        Code::EnhanceYourCalm,
    ];
    codes.into_iter().find(|&code| payload == (code as u32).to_be_bytes()).expect("a code")
}

fn check(rows: &[(&str, Vec<u8>, Outcome)]) {
    for (what, bytes, expected) in rows {
        let mut rig = busy();
        assert_eq!(outcome(&mut rig, bytes), *expected, "{what}");
        if matches!(expected, Passes | Resets(..)) {
            // Whatever became of a stream, the connection goes on, and both sides agree on the table.
            let mut block = request("GET");
            block.extend(field("x", "y"));
            rig.send(&headers(99, true, block)).unwrap_or_else(|fault| panic!("{what}, and then {fault:?}"));
            assert_eq!(rig.stream(99).id(), 99, "{what}");
        }
    }
}

fn many(times: usize, bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(times)
}

#[test]
fn pieces_of_bodies() {
    let payload = vec![b'x'; PAYLOAD_BYTES_MAX];
    let window = STREAM_WINDOW_BYTES as usize / PAYLOAD_BYTES_MAX;
    check(&[
        ("of an open stream", data(1, false, "x"), Passes),
        ("the last one", data(1, true, "x"), Passes),
        ("an empty last one", data(1, true, ""), Passes),
        ("with the reserved bit", data(0x8000_0001, false, "x"), Passes),
        ("of none", data(0, false, "x"), Ends(ProtocolError)),
        ("of a stream that has not begun", data(11, false, "x"), Ends(ProtocolError)),
        ("of a stream that no client begins", data(2, false, "x"), Ends(ProtocolError)),
        ("behind the end", data(3, false, "x"), Resets(3, StreamClosed)),
        ("behind the answer", data(5, false, "x"), Resets(5, StreamClosed)),
        ("of a stream that its sender gave up", data(7, false, "x"), Resets(7, StreamClosed)),
        ("that crossed our giving up", data(9, false, "x"), Passes),
        ("padded", frame(kind::DATA, PADDED, 1, b"\x02x\0\0"), Passes),
        ("nothing but padding", frame(kind::DATA, PADDED, 1, b"\x02\0\0"), Passes),
        ("more padding than there is", frame(kind::DATA, PADDED, 1, b"\x02\0"), Ends(ProtocolError)),
        ("padding without a length", frame(kind::DATA, PADDED, 1, b""), Ends(FrameSizeError)),
        ("as large as may be", data(1, false, &payload), Passes),
        ("larger than may be", data(1, false, vec![b'x'; PAYLOAD_BYTES_MAX + 1]), Ends(FrameSizeError)),
        ("as many as the window has", many(window, &data(1, false, &payload)), Passes),
        (
            "more than the window has",
            [many(window, &data(1, false, &payload)), data(1, false, "x")].concat(),
            Resets(1, FlowControlError),
        ),
    ]);
}

#[test]
fn the_window_of_a_connection_is_that_of_all_its_streams() {
    let mut rig = Rig::greeted();
    let payload = vec![b'x'; PAYLOAD_BYTES_MAX];
    for stream in (1..17).step_by(2) {
        rig.send(&headers(stream, false, request("POST"))).expect("a request");
        for _ in 0..4 {
            rig.send(&data(stream, false, &payload)).expect("there is room");
        }
    }
    rig.send(&headers(17, false, request("POST"))).expect("a request");
    assert_eq!(rig.send(&data(17, false, "x")), Err(FlowControlError.into()));
}

#[test]
fn a_window_opens_as_bodies_are_used_and_not_before() {
    let mut rig = busy();
    let payload = vec![b'x'; PAYLOAD_BYTES_MAX];
    for _ in 0..4 {
        rig.send(&data(1, false, &payload)).expect("there is room");
    }
    assert_eq!(rig.told(), []);
    // Of a stream that nobody serves any more all is used.
    rig.stream(1).end();
    for stream in [11, 13, 15] {
        rig.send(&headers(stream, false, request("POST"))).expect("a request");
        for _ in 0..4 {
            rig.send(&data(stream, false, &payload)).expect("there is room");
        }
        rig.stream(stream).end();
    }
    let told = rig.told();
    let opened: Vec<_> = told.iter().filter(|(head, _)| head.kind == kind::WINDOW_UPDATE).collect();
    assert_eq!(opened.len(), 1, "{told:?}");
    assert_eq!((opened[0].0.stream, number(&opened[0].1)), (0, Some(4 * STREAM_WINDOW_BYTES)));
}

#[test]
fn heads_of_requests_and_sections_behind_bodies() {
    let get = request("GET");
    let priority = |on: u32| [&on.to_be_bytes()[..], &[16], &request("GET")[..]].concat();
    let trailers = |stream, end, name: &str| headers(stream, end, field(name, "x"));
    let post = |length: &str| headers(11, false, [request("POST"), field("content-length", length)].concat());
    check(&[
        ("a request", headers(11, true, &get), Passes),
        ("of none", headers(0, true, &get), Ends(ProtocolError)),
        ("of a stream that no client begins", headers(12, true, &get), Ends(ProtocolError)),
        (
            "of a stream below one that has begun",
            [headers(13, true, &get), headers(11, true, &get)].concat(),
            Ends(ProtocolError),
        ),
        ("behind the end", headers(3, true, &get), Resets(3, StreamClosed)),
        ("behind the answer", headers(5, true, &get), Ends(StreamClosed)),
        ("of a stream that its sender gave up", headers(7, true, &get), Ends(StreamClosed)),
        ("that crossed our giving up", trailers(9, true, "x"), Passes),
        ("padded", frame(kind::HEADERS, PADDED | 5, 11, [&[1][..], &get, &[0]].concat()), Passes),
        ("more padding than there is", frame(kind::HEADERS, PADDED | 5, 11, [9, 0]), Ends(ProtocolError)),
        ("padding without a length", frame(kind::HEADERS, PADDED | 5, 11, []), Ends(FrameSizeError)),
        ("with a priority", frame(kind::HEADERS, PRIORITY_FIELDS | 5, 11, priority(1)), Passes),
        ("with half a priority", frame(kind::HEADERS, PRIORITY_FIELDS | 5, 11, [0; 4]), Ends(FrameSizeError)),
        ("above itself", frame(kind::HEADERS, PRIORITY_FIELDS | 5, 11, priority(11)), Resets(11, ProtocolError)),
        ("no request", headers(11, true, field("x", "y")), Resets(11, ProtocolError)),
        ("trailers", trailers(1, true, "x"), Passes),
        ("trailers that are not the end", trailers(1, false, "x"), Resets(1, ProtocolError)),
        ("trailers with a pseudo-field", trailers(1, true, ":path"), Resets(1, ProtocolError)),
        ("trailers in upper case", trailers(1, true, "X"), Resets(1, ProtocolError)),
        ("trailers of a connection", trailers(1, true, "connection"), Resets(1, ProtocolError)),
        ("as long as it says", [post("2"), data(11, true, "xx")].concat(), Passes),
        ("longer than it says", [post("2"), data(11, true, "xxx")].concat(), Resets(11, ProtocolError)),
        ("longer at once", [post("2"), data(11, false, "xxx")].concat(), Resets(11, ProtocolError)),
        ("shorter than it says", [post("2"), data(11, true, "x")].concat(), Resets(11, ProtocolError)),
        ("trailers too early", [post("2"), trailers(11, true, "x")].concat(), Resets(11, ProtocolError)),
        (
            "a length without a body",
            headers(11, true, [request("POST"), field("content-length", "2")].concat()),
            Resets(11, ProtocolError),
        ),
    ]);
}

#[test]
fn sections_that_cannot_be_read() {
    let blocks: [(&str, &[u8]); 8] = [
        ("number 0", &[0x80]),
        ("a number that nobody has", &[0xbe]),
        ("a name that nobody has", &[0x7e, 1, b'x']),
        ("a table too large", &[0x3f, 0xe2, 0x1f]),
        ("a table changed behind a field", &[0x82, 0x20]),
        ("half a string", &[0, 1, b'a', 2, b'b']),
        ("a number without end", &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("the end in Huffman's code", &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0]),
    ];
    for (what, block) in blocks {
        check(&[
            (what, headers(11, true, block), Ends(CompressionError)),
            // Also where nobody wants to know: the table is the connection's.
            (what, headers(1, true, block), Ends(CompressionError)),
            (what, headers(9, true, block), Ends(CompressionError)),
        ]);
    }
}

#[test]
fn sections_in_pieces() {
    let get = request("GET");
    let bomb = [&[0x40, 1, b'a', 0][..], &[0x80 | 62; 16_000]].concat();
    let begin = frame(kind::HEADERS, END_STREAM, 11, &get[..3]);
    let rest = |stream| frame(kind::CONTINUATION, END_HEADERS, stream, &get[3..]);
    let with = |between: Vec<u8>| [begin.clone(), between, rest(11)].concat();
    let unended = [
        begin.clone(),
        many(2 * HEAD_BYTES_MAX / PAYLOAD_BYTES_MAX + 1, &{
            frame(kind::CONTINUATION, 0, 11, vec![0; PAYLOAD_BYTES_MAX])
        }),
    ];
    check(&[
        ("two", with(Vec::new()), Passes),
        ("an empty one between", with(frame(kind::CONTINUATION, 0, 11, [])), Passes),
        ("none before", rest(11), Ends(ProtocolError)),
        ("none open", [headers(11, true, &get), rest(11)].concat(), Ends(ProtocolError)),
        ("of another stream", [begin.clone(), rest(13)].concat(), Ends(ProtocolError)),
        ("a body between", with(data(1, false, "x")), Ends(ProtocolError)),
        ("a head between", with(headers(13, true, &get)), Ends(ProtocolError)),
        ("a ping between", with(frame(kind::PING, 0, 0, [0; 8])), Ends(ProtocolError)),
        ("settings between", with(frame(kind::SETTINGS, 0, 0, [])), Ends(ProtocolError)),
        ("what nobody knows between", with(frame(0xbb, 0, 11, [])), Ends(ProtocolError)),
        ("more than may be", unended.concat(), Exceeds(Limit::HeadBytes)),
        ("more than may be when it is unfolded", headers(11, true, bomb), Exceeds(Limit::HeadBytes)),
    ]);
}

#[test]
fn all_other_frames() {
    let reset = |stream, bytes: usize| frame(kind::RST_STREAM, 0, stream, vec![0; bytes]);
    let wide = [window_update(1, 0x7fff_0000), setting(4, 0x2_0000)].concat();
    check(&[
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, [0, 0, 0, 3, 16]), Passes),
        ("PRIORITY of what has not begun", frame(kind::PRIORITY, 0, 51, [0, 0, 0, 3, 16]), Passes),
        ("PRIORITY of none", frame(kind::PRIORITY, 0, 0, [0, 0, 0, 3, 16]), Ends(ProtocolError)),
        ("PRIORITY of four bytes", frame(kind::PRIORITY, 0, 1, [0; 4]), Resets(1, FrameSizeError)),
        ("PRIORITY of six bytes", frame(kind::PRIORITY, 0, 3, [0; 6]), Resets(3, FrameSizeError)),
        ("PRIORITY above itself", frame(kind::PRIORITY, 0, 1, [0, 0, 0, 1, 16]), Resets(1, ProtocolError)),
        ("RST_STREAM", reset(1, 4), Passes),
        ("RST_STREAM of what is over", reset(5, 4), Passes),
        ("RST_STREAM of none", reset(0, 4), Ends(ProtocolError)),
        ("RST_STREAM of what has not begun", reset(11, 4), Ends(ProtocolError)),
        ("RST_STREAM of three bytes", reset(1, 3), Ends(FrameSizeError)),
        ("SETTINGS", setting(4, 0), Passes),
        ("SETTINGS that nobody knows", setting(0x99, 7), Passes),
        ("SETTINGS of a stream", frame(kind::SETTINGS, 0, 1, []), Ends(ProtocolError)),
        ("SETTINGS of five bytes", frame(kind::SETTINGS, 0, 0, [0; 5]), Ends(FrameSizeError)),
        ("SETTINGS acknowledged", frame(kind::SETTINGS, ACK, 0, []), Passes),
        ("SETTINGS acknowledged at length", frame(kind::SETTINGS, ACK, 0, [0; 6]), Ends(FrameSizeError)),
        ("ENABLE_PUSH of 2", setting(2, 2), Ends(ProtocolError)),
        ("INITIAL_WINDOW_SIZE of 2^31", setting(4, 1 << 31), Ends(FlowControlError)),
        ("INITIAL_WINDOW_SIZE too large for a stream", wide, Ends(FlowControlError)),
        ("MAX_FRAME_SIZE too small", setting(5, (1 << 14) - 1), Ends(ProtocolError)),
        ("MAX_FRAME_SIZE too large", setting(5, 1 << 24), Ends(ProtocolError)),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, END_HEADERS, 1, [0; 4]), Ends(ProtocolError)),
        ("PING", frame(kind::PING, 0, 0, [7; 8]), Passes),
        ("PING that answers none", frame(kind::PING, ACK, 0, [7; 8]), Passes),
        ("PING of a stream", frame(kind::PING, 0, 1, [7; 8]), Ends(ProtocolError)),
        ("PING of seven bytes", frame(kind::PING, 0, 0, [7; 7]), Ends(FrameSizeError)),
        ("GOAWAY", frame(kind::GOAWAY, 0, 0, [0; 8]), Passes),
        ("GOAWAY of a stream", frame(kind::GOAWAY, 0, 1, [0; 8]), Ends(ProtocolError)),
        ("GOAWAY of seven bytes", frame(kind::GOAWAY, 0, 0, [0; 7]), Ends(FrameSizeError)),
        ("WINDOW_UPDATE", [window_update(1, 1), window_update(0, 1)].concat(), Passes),
        ("WINDOW_UPDATE of what is over", window_update(5, 1), Passes),
        ("WINDOW_UPDATE of what has not begun", window_update(11, 1), Ends(ProtocolError)),
        ("WINDOW_UPDATE of three bytes", frame(kind::WINDOW_UPDATE, 0, 1, [0; 3]), Ends(FrameSizeError)),
        ("WINDOW_UPDATE by nothing", window_update(0, 0), Ends(ProtocolError)),
        ("WINDOW_UPDATE by nothing of a stream", window_update(1, 0), Resets(1, ProtocolError)),
        ("WINDOW_UPDATE by too much", window_update(0, 0x7fff_ffff), Ends(FlowControlError)),
        ("WINDOW_UPDATE by too much of a stream", window_update(1, 0x7fff_ffff), Resets(1, FlowControlError)),
        ("PRIORITY_UPDATE", frame(0x10, 0, 0, [0, 0, 0, 1, b'u', b'=', b'1']), Passes),
        ("what nobody knows", frame(0xbb, 0xff, 77, [0; 100]), Passes),
    ]);
}

#[test]
fn frames_that_nothing_pays_for_end_the_connection() {
    for (what, bytes) in [
        ("PING", frame(kind::PING, 0, 0, [7; 8])),
        ("SETTINGS", frame(kind::SETTINGS, 0, 0, [])),
        ("SETTINGS acknowledged", frame(kind::SETTINGS, ACK, 0, [])),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, [0, 0, 0, 3, 16])),
        ("PRIORITY_UPDATE", frame(0x10, 0, 0, [0, 0, 0, 1])),
        ("what nobody knows", frame(0xbb, 0, 0, [])),
        ("WINDOW_UPDATE", window_update(1, 1)),
        ("a body of nothing", data(1, false, "")),
        ("a body of padding", frame(kind::DATA, PADDED, 1, [1, 0])),
        ("a body that is late", data(9, false, "x")),
        ("a section that is late", headers(9, true, [])),
    ] {
        let mut rig = busy();
        let few = many(FREE_FRAMES as usize, &bytes);
        assert_eq!(outcome(&mut rig, &few), Passes, "{what}");
        // What the requests have paid for is used up too.
        assert_eq!(outcome(&mut rig, &few), Exceeds(Limit::Frames), "{what}");
    }
}

#[test]
fn pieces_of_bodies_are_paid_for_by_the_window() {
    let mut rig = busy();
    // A message of nothing, as gRPC sends it.
    let message = data(1, false, [0; 5]);
    assert_eq!(outcome(&mut rig, &many(STREAM_WINDOW_BYTES as usize / 5, &message)), Passes);
    assert_eq!(outcome(&mut rig, &message), Resets(1, FlowControlError));
}

#[test]
fn pieces_of_answers_pay_for_what_acknowledges_them() {
    let mut rig = busy();
    let both = [window_update(0, 1), window_update(1, 1)].concat();
    for _ in 0..4 * FREE_FRAMES {
        rig.connection.pay_by_piece(20);
        rig.send(&both).expect("it is paid for");
    }
}

#[test]
fn a_client_says_first_what_it_must() {
    let settings = frame(kind::SETTINGS, 0, 0, []);
    for (what, bytes, expected) in [
        ("its settings", settings.clone(), Passes),
        ("a ping", frame(kind::PING, 0, 0, [0; 8]), Ends(ProtocolError)),
        ("a request", headers(1, true, request("GET")), Ends(ProtocolError)),
        ("a body", data(1, true, ""), Ends(ProtocolError)),
        ("that it has heard", frame(kind::SETTINGS, ACK, 0, []), Ends(ProtocolError)),
        ("what nobody knows", frame(0xbb, 0, 0, []), Ends(ProtocolError)),
    ] {
        let mut rig = Rig::new();
        assert_eq!(outcome(&mut rig, &[PREFACE, &bytes[..]].concat()), expected, "{what}");
    }
    assert_eq!(outcome(&mut Rig::new(), b"PRI * HTTP/2.0\r\n\r\nXX"), Ends(ProtocolError));
    // Byte by byte.
    let mut rig = Rig::new();
    for byte in [PREFACE, &settings[..]].concat() {
        assert!(!rig.reader.is_greeted());
        rig.send(&[byte]).expect("a greeting");
    }
    assert!(rig.reader.is_greeted());
}

#[test]
fn what_crosses_the_last_word_is_neither_served_nor_held_against_anybody() {
    let mut rig = busy();
    rig.reader.farewell();
    let get = |stream| headers(stream, true, request("GET"));
    assert_eq!(outcome(&mut rig, &get(11)), Passes);
    assert_eq!(rig.stream(11).id(), 11, "it was sent before the client could know");
    assert!(!rig.reader.is_told());
    rig.send(&frame(kind::PING, ACK, 0, b"farewell")).expect("it has heard");
    assert!(rig.reader.is_told());
    let served = rig.requests.len();
    let late = [headers(13, false, request("POST")), data(13, false, "x"), headers(13, true, field("x", "y"))].concat();
    assert_eq!(outcome(&mut rig, &late), Passes);
    assert_eq!((rig.requests.len(), rig.reader.last()), (served, 11));
    assert_eq!(rig.connection.resets.get(), 0);
}

#[test]
fn more_requests_than_may_be_at_a_time_are_refused() {
    let mut rig = Rig::greeted();
    for number in 0..100 {
        assert_eq!(outcome(&mut rig, &headers(2 * number + 1, true, request("GET"))), Passes, "{number}");
    }
    assert_eq!(outcome(&mut rig, &headers(201, true, request("GET"))), Resets(201, Code::RefusedStream));
    rig.answer(1);
    assert_eq!(outcome(&mut rig, &headers(203, true, request("GET"))), Passes);
}

/// Anything that a client may send, or nearly.
fn anything() -> impl Strategy<Value = Vec<u8>> {
    let stream = || prop_oneof![Just(0_u32), (0_u32..12).prop_map(|number| 2 * number + 1), 0_u32..24];
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let block = prop_oneof![
        Just(request("GET")),
        Just(request("POST")),
        Just([request("POST"), field("content-length", "3")].concat()),
        Just(field("x", "y")),
        prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop_oneof![
        (stream(), any::<bool>(), block).prop_map(|(stream, end, block)| headers(stream, end, block)),
        (stream(), any::<bool>(), 0_usize..9000).prop_map(|(stream, end, length)| data(
            stream,
            end,
            vec![b'x'; length]
        )),
        (stream(), any::<u32>()).prop_map(|(stream, by)| window_update(stream, by)),
        (0_u16..9, any::<u32>()).prop_map(|(id, value)| setting(id, value)),
        (0_u8..12, any::<u8>(), stream(), payload)
            .prop_map(|(kind, flags, stream, payload)| { frame(kind, flags, stream, payload) }),
    ]
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_pieces_is_read_the_same(
        frames in prop::collection::vec(anything(), 0..30),
        cuts in prop::collection::vec(1_usize..200, 1..8),
    ) {
        let bytes = frames.concat();
        let (mut whole, mut cut) = (busy(), busy());
        let expected = whole.send(&bytes);
        let (mut rest, mut got) = (bytes.as_slice(), Ok(()));
        for most in cuts.into_iter().cycle() {
            if rest.is_empty() || got.is_err() {
                break;
            }
            let (piece, after) = rest.split_at(most.min(rest.len()));
            got = cut.send(piece);
            rest = after;
        }
        prop_assert_eq!(got, expected);
        prop_assert_eq!(cut.told(), whole.told());
        let ids = |rig: &Rig| rig.requests.iter().map(|(stream, _)| stream.id()).collect::<Vec<_>>();
        prop_assert_eq!(ids(&cut), ids(&whole));
        prop_assert_eq!(cut.reader.last(), whole.reader.last());
    }
}
