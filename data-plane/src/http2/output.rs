//! What a connection is to send: frames, gathered until all of a turn's are there, and then sent in few calls to the system.
//! Small payloads are copied behind the heads of their frames; large ones are sent from where they are.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite as _;

use super::frames::{END_HEADERS, END_STREAM, HEAD_BYTES, Head, kind};
use crate::stream::Stream;

/// Payloads up to this size are copied.
pub const COPY_BYTES_MAX: usize = 8 << 10;

/// The most pieces of one call.
const PARTS_MAX: usize = 32;

/// How much is encrypted before the connection must take some.
const ENCRYPTED_BYTES_MAX: usize = 64 << 10;

/// Room that is worth keeping for the next connection that has something to say.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// The most rooms that are kept.
const KEPT_MAX: usize = 16;

/// Room for what connections of one worker send, or have received: idle ones have none.
#[derive(Debug, Default)]
pub struct Rooms {
    output: RefCell<Vec<Vec<u8>>>,
    input: RefCell<Vec<bytes::BytesMut>>,
}

impl Rooms {
    fn lend(&self) -> Vec<u8> {
        self.output.borrow_mut().pop().unwrap_or_default()
    }

    fn give_back(&self, mut room: Vec<u8>) {
        let mut kept = self.output.borrow_mut();
        if kept.len() < KEPT_MAX && (1..=KEPT_BYTES_MAX).contains(&room.capacity()) {
            room.clear();
            kept.push(room);
        }
    }

    /// Room for what comes.
    pub fn lend_input(&self) -> bytes::BytesMut {
        self.input.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes it back, if nothing is in it.
    pub fn give_back_input(&self, room: bytes::BytesMut) {
        let mut kept = self.input.borrow_mut();
        if kept.len() < KEPT_MAX && room.capacity() > 0 {
            kept.push(room);
        }
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Output {
    text: Vec<u8>,
    /// How much of the text is sent.
    sent: usize,
    /// What goes before the rest of the text, and where in it.
    pieces: VecDeque<(usize, Bytes)>,
    /// Of all pieces.
    piece_bytes: usize,
}

impl Output {
    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len() - self.sent + self.piece_bytes
    }

    /// Whether none do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the next frame goes.
    pub fn text(&mut self, rooms: &Rooms) -> &mut Vec<u8> {
        if self.text.capacity() == 0 {
            self.text = rooms.lend();
        }
        &mut self.text
    }

    /// Adds a frame.
    pub fn frame(&mut self, rooms: &Rooms, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let text = self.text(rooms);
        text.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.bytes());
        text.extend_from_slice(payload);
    }

    /// Adds a frame with a large payload, which is not copied.
    pub fn piece(&mut self, rooms: &Rooms, head: Head, payload: Bytes) {
        self.text(rooms).extend_from_slice(&head.bytes());
        if !payload.is_empty() {
            self.piece_bytes += payload.len();
            self.pieces.push_back((self.text.len(), payload));
        }
    }

    /// The frame at that place is the last of its stream.
    pub fn mark_end(&mut self, at: usize) {
        // Behind three bytes of length and one of kind.
        self.text[at + 4] |= END_STREAM;
    }

    /// Adds a header section that `write` appends, in frames of so many bytes at most.
    pub fn headers(
        &mut self,
        rooms: &Rooms,
        stream: u32,
        flags: u8,
        payload_max: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let text = self.text(rooms);
        let begin = text.len();
        text.extend_from_slice(&[0; HEAD_BYTES]);
        write(text);
        let length = text.len() - begin - HEAD_BYTES;
        let mut head = Head { length, kind: kind::HEADERS, flags: flags | END_HEADERS, stream };
        if length <= payload_max {
            text[begin..begin + HEAD_BYTES].copy_from_slice(&head.bytes());
            return;
        }
        let block = text.split_off(begin + HEAD_BYTES);
        text.truncate(begin);
        let mut rest = block.as_slice();
        head.flags = flags;
        while !rest.is_empty() {
            let (fragment, after) = rest.split_at(rest.len().min(payload_max));
            head.length = fragment.len();
            if after.is_empty() {
                head.flags |= END_HEADERS;
            }
            text.extend_from_slice(&head.bytes());
            text.extend_from_slice(fragment);
            head = Head { kind: kind::CONTINUATION, flags: 0, ..head };
            rest = after;
        }
    }

    /// Sends what waits, as far as the connection takes it; the task is woken when it takes more.
    ///
    /// # Errors
    /// The connection's.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream, rooms: &Rooms) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let taken = match stream.is_secure() {
                true => {
                    if stream.gathered() >= ENCRYPTED_BYTES_MAX {
                        ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                    }
                    self.with_parts(|parts| stream.gather(parts))?.unwrap_or_default()
                }
                false => ready!(self.with_parts(|parts| match parts {
                    [only] => Pin::new(&mut *stream).poll_write(cx, only),
                    parts => Pin::new(&mut *stream).poll_write_vectored(cx, parts),
                }))?,
            };
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(taken);
        }
        if self.text.capacity() > 0 {
            rooms.give_back(std::mem::take(&mut self.text));
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// All that waits, which is sent then.
    #[cfg(test)]
    pub fn take(&mut self) -> Vec<u8> {
        let mut taken = Vec::new();
        while !self.is_empty() {
            let before = taken.len();
            self.with_parts(|parts| parts.iter().for_each(|part| taken.extend_from_slice(part)));
            self.advance(taken.len() - before);
        }
        taken
    }

    fn with_parts<T>(&self, take: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut parts = [IoSlice::new(&[]); PARTS_MAX];
        let (mut count, mut at) = (0, self.sent);
        // Both the text before a piece and the piece must find room.
        for (place, piece) in self.pieces.iter().take(PARTS_MAX / 2 - 1) {
            if *place > at {
                parts[count] = IoSlice::new(&self.text[at..*place]);
                count += 1;
                at = *place;
            }
            parts[count] = IoSlice::new(piece);
            count += 1;
        }
        if self.pieces.len() < PARTS_MAX / 2 && at < self.text.len() {
            parts[count] = IoSlice::new(&self.text[at..]);
            count += 1;
        }
        take(&parts[..count])
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            match self.pieces.front_mut() {
                Some((place, piece)) if *place == self.sent => {
                    let taken = bytes.min(piece.len());
                    piece.advance(taken);
                    bytes -= taken;
                    self.piece_bytes -= taken;
                    if piece.is_empty() {
                        self.pieces.pop_front();
                    }
                }
                next => {
                    let end = next.map_or(self.text.len(), |(place, _)| *place);
                    let taken = bytes.min(end - self.sent);
                    if taken == 0 {
                        return;
                    }
                    self.sent += taken;
                    bytes -= taken;
                }
            }
        }
        if self.is_empty() {
            self.text.clear();
            self.sent = 0;
        } else if self.sent > KEPT_BYTES_MAX {
            self.text.drain(..self.sent);
            for (place, _) in &mut self.pieces {
                *place -= self.sent;
            }
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_taken_in_any_pieces_is_what_was_to_be_sent(
            frames in prop::collection::vec((any::<bool>(), 0_usize..40_000), 0..40),
            takes in prop::collection::vec(1_usize..50_000, 1..40),
        ) {
            let (mut output, rooms) = (Output::default(), Rooms::default());
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            for (index, (copied, length)) in frames.into_iter().enumerate() {
                let payload = vec![u8::try_from(index).expect("small"); length];
                let head = Head { length, kind: kind::DATA, flags: 0, stream: 1 };
                expected.extend_from_slice(&head.bytes());
                expected.extend_from_slice(&payload);
                match copied {
                    true => output.frame(&rooms, kind::DATA, 0, 1, &payload),
                    false => output.piece(&rooms, head, payload.into()),
                }
            }
            for take in takes.into_iter().cycle() {
                prop_assert_eq!(output.len(), expected.len() - got.len());
                if output.is_empty() {
                    break;
                }
                let taken = output.with_parts(|parts| {
                    let before = got.len();
                    for part in parts {
                        let room = take - (got.len() - before);
                        got.extend_from_slice(&part[..part.len().min(room)]);
                    }
                    got.len() - before
                });
                output.advance(taken);
            }
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn a_section_goes_in_frames_that_the_other_side_takes(length in 0_usize..1000, most in 1_usize..400) {
            let (mut output, rooms) = (Output::default(), Rooms::default());
            let section: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            output.headers(&rooms, 7, END_STREAM, most, |out| out.extend_from_slice(&section));
            let (mut rest, mut got, mut frames) = (output.text.as_slice(), Vec::new(), Vec::new());
            while let Some(head) = Head::parse(rest) {
                prop_assert!(head.length <= most && head.stream == 7);
                got.extend_from_slice(&rest[HEAD_BYTES..HEAD_BYTES + head.length]);
                rest = &rest[HEAD_BYTES + head.length..];
                frames.push(head);
            }
            prop_assert_eq!(got, section);
            prop_assert!(frames[0].ends_stream() && frames[0].kind == kind::HEADERS);
            prop_assert!(frames[1..].iter().all(|head| head.kind == kind::CONTINUATION && !head.ends_stream()));
            let ends: Vec<bool> = frames.iter().map(|head| head.ends_headers()).collect();
            prop_assert!(ends.iter().rposition(|end| !end).is_none_or(|last| last + 2 == ends.len()) && ends[ends.len() - 1]);
        }
    }
}
