use std::io::Read as _;

use proptest::prelude::*;

use super::*;

fn decode(coding: Coding, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match coding {
        Coding::Zstd => zstd::stream::read::Decoder::new(bytes)?.read_to_end(&mut body)?,
        Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut body)?,
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut body)?,
    };
    Ok(body)
}

/// What can be read of a body of which not all has come.
fn decode_some(coding: Coding, bytes: &[u8], length: usize) -> Vec<u8> {
    let mut body = vec![0; length];
    match coding {
        Coding::Zstd => zstd::stream::read::Decoder::new(bytes).expect("a decoder").read_exact(&mut body),
        Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_exact(&mut body),
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_exact(&mut body),
    }
    .expect("all that went in");
    body
}

/// Text with much, and with nothing, that comes again.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(prop::sample::select(vec!["{\"id\": ", "name", "\", ", "0", "1", "\n"]), 0..4000);
    let text = words.prop_map(|words| words.concat().into_bytes());
    prop_oneof![text, prop::collection::vec(any::<u8>(), 0..100_000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_goes_in_and_whenever_it_is_flushed_comes_out_again(
        body in bodies(),
        pieces in prop::collection::vec((1_usize..40_000, any::<bool>(), any::<bool>()), 1..40),
        coding in prop::sample::select(Coding::ALL.to_vec()),
        level in 1..=LEVEL_MAX,
        known: bool,
    ) {
        let encoders = Encoders::default();
        let length = known.then_some(body.len() as u64);
        let mut encoder = Encoder::new(coding, level, length, &encoders).expect("room");
        let (mut encoded, mut at) = (Vec::new(), 0);
        for (bytes, flush, take) in pieces.into_iter().cycle() {
            if at == body.len() {
                break;
            }
            let end = body.len().min(at + bytes);
            encoder.write(&body[at..end]).expect("it takes it");
            prop_assert!(encoder.holds_some());
            at = end;
            if flush {
                encoder.flush().expect("flushes");
                prop_assert!(!encoder.holds_some());
            }
            if take {
                encoded.append(encoder.output());
            }
            if flush && take {
                prop_assert_eq!(decode_some(coding, &encoded, at), &body[..at]);
            }
        }
        encoded.extend(encoder.finish().expect("an end"));
        prop_assert_eq!(decode(coding, &encoded).expect("whole"), body);
        prop_assert_eq!(encoders.0.get(), 0);
    }
}

#[test]
fn a_body_that_is_cut_is_not_taken_for_a_whole_one() {
    for coding in Coding::ALL {
        let mut encoder = Encoder::new(coding, 4, None, &Encoders::default()).expect("room");
        encoder.write(b"some of it").expect("it takes it");
        encoder.flush().expect("flushes");
        let encoded = std::mem::take(encoder.output());
        assert_eq!(decode_some(coding, &encoded, 10), b"some of it");
        assert!(decode(coding, &encoded).is_err(), "{coding:?}");
    }
}

#[test]
fn a_worker_has_so_many_encoders_and_no_more() {
    let encoders = Encoders::default();
    let new = || Encoder::new(Coding::Zstd, 1, Some(1), &encoders);
    let mut all: Vec<Encoder> = (0..ENCODERS_MAX).map(|_| new().expect("room")).collect();
    assert!(new().is_none());
    all.pop();
    assert!(new().is_some());
}

#[test]
fn what_waits_to_be_sent_is_bounded_whatever_goes_in() {
    // Nothing in it comes again.
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(4 << 20).collect();
    for coding in Coding::ALL {
        for level in [1, 4, LEVEL_MAX] {
            let mut encoder = Encoder::new(coding, level, None, &Encoders::default()).expect("room");
            for piece in noise.chunks(64 << 10) {
                encoder.write(piece).expect("it takes it");
                let waits = encoder.output().len();
                assert!(waits <= 1 << 20, "{coding:?} {level}: {waits}");
                encoder.output().clear();
            }
        }
    }
}
