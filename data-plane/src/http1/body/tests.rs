use proptest::prelude::*;

use super::*;

/// Reads a body that arrives in pieces of the given size; the data and what is left over.
fn read(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, Fields), BodyError> {
    let mut reader = BodyReader::new(framing);
    let mut buffer = BytesMut::new();
    let mut data = Vec::new();
    let mut arriving = wire.chunks(step);
    loop {
        match reader.next(&mut buffer)? {
            Piece::Data(bytes) => {
                data.extend_from_slice(&buffer[..bytes]);
                reader.took(&mut buffer, bytes);
            }
            Piece::End => {
                let mut rest = buffer.to_vec();
                rest.extend(arriving.flatten());
                return Ok((data, rest, reader.trailers));
            }
            Piece::More => match arriving.next() {
                Some(bytes) => buffer.extend_from_slice(bytes),
                None => reader.closed()?,
            },
        }
    }
}

#[test]
fn chunks_come_out_whole_however_they_arrive() {
    let wire = b"5\r\nhello\r\n6;ext=\"1\"\r\n world\r\n0\r\nDigest: x\r\nA: b\r\n\r\nGET /next";
    for step in 1..wire.len() {
        let (data, rest, trailers) = read(Framing::Chunked, wire, step).expect("reads");
        assert_eq!(data, b"hello world");
        assert_eq!(rest, b"GET /next");
        assert_eq!(trailers.get("digest"), Some(&b"x"[..]));
    }
}

#[test]
fn a_length_ends_where_it_says() {
    for step in 1..8 {
        let (data, rest, _) = read(Framing::Length(5), b"helloGET", step).expect("reads");
        assert_eq!((data.as_slice(), rest.as_slice()), (b"hello".as_slice(), b"GET".as_slice()));
    }
    assert_eq!(read(Framing::Length(6), b"hello", 2).err(), Some(BodyError::CutShort));
}

#[test]
fn malformed_chunks_are_refused_however_they_arrive() {
    for wire in [
        &b"f0000000000000003\r\nabc"[..],
        b"00000000000000003\r\nabc\r\n0\r\n\r\n",
        b"8000000000000000\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\rabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\0b\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n",
        b"\r\n",
        b";a\r\n",
        b"g\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        for step in [1, 2, 3, wire.len()] {
            let result = read(Framing::Chunked, wire, step);
            let refused = matches!(result, Err(BodyError::Chunk | BodyError::Trailers));
            assert!(refused, "{:?} in steps of {step}: {result:?}", String::from_utf8_lossy(wire));
        }
    }
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "x".repeat(1000)).repeat(20));
    for wire in [extension, many] {
        assert_eq!(read(Framing::Chunked, wire.as_bytes(), 512).err(), Some(BodyError::Extensions));
    }
    let trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(1 << 20));
    assert_eq!(read(Framing::Chunked, trailer.as_bytes(), 512).err(), Some(BodyError::Trailers));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_alike_in_one_piece_and_in_many(wire: Vec<u8>, step in 1_usize..9) {
        let whole = read(Framing::Chunked, &wire, wire.len().max(1)).map(|(data, rest, _)| (data, rest));
        let pieces = read(Framing::Chunked, &wire, step).map(|(data, rest, _)| (data, rest));
        match (whole, pieces) {
            (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, pieces),
            (Err(_), Err(_)) => {}
            (whole, pieces) => prop_assert!(false, "{:?} and {:?}", whole, pieces),
        }
    }
}

/// Bodies that are nearly right.
fn nearly_chunks() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: [&str; 20] = [
        "0",
        "1",
        "a",
        "00000000000000003",
        "f0000000000000003",
        "3;x=y",
        "3 ;x",
        "3 ",
        "x",
        "xyz",
        "\r\n",
        "\n",
        "\r",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
        "1\r\nx\r\n",
        "0\r\nA: b\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\n\n",
        " folded",
    ];
    let part = prop_oneof![
        6 => prop::sample::select(&PARTS[..]).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn nearly_chunked_bodies_are_read_or_refused_alike_however_they_arrive(wire in nearly_chunks()) {
        let of = |step: usize| {
            let read = read(Framing::Chunked, &wire, step);
            read.map(|(data, rest, trailers)| (data, rest, trailers.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()))
        };
        let whole = of(wire.len().max(1));
        for step in 1..wire.len() {
            match (&whole, of(step)) {
                (Ok(whole), Ok(pieces)) => prop_assert_eq!(whole, &pieces),
                (Err(_), Err(_)) => {}
                (whole, pieces) => prop_assert!(false, "step {}: {:?} and {:?}", step, whole, pieces),
            }
        }
    }
}
