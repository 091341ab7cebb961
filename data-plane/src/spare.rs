//! Room for much that comes in at once. Who waits for it holds none; who may read takes the room that was used last, which is
//! likely in the processor's cache still. So a thread with many bodies under way goes through little memory, and a
//! connection over which nothing goes holds nothing.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of room.
pub const ROOM_BYTES: usize = 256 << 10;

/// The most rooms that a thread keeps for later.
const KEPT_MAX: usize = 32;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// The most bytes that are worth moving, so as not to wait in a room for their sake.
const REST_BYTES_MAX: usize = 512;

/// Makes room for much behind what is in a buffer.
pub fn take(buffer: &mut BytesMut) {
    if buffer.len() > REST_BYTES_MAX {
        buffer.reserve(ROOM_BYTES / 2);
        return;
    }
    let mut room = KEPT.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(ROOM_BYTES));
    room.extend_from_slice(buffer);
    give_back(buffer);
    *buffer = room;
}

/// Before a wait: gives the room of a buffer back. The few bytes that may be left in it move to a place of their own.
pub fn park(buffer: &mut BytesMut) {
    if buffer.is_empty() {
        give_back(buffer);
    } else if buffer.len() <= REST_BYTES_MAX {
        let rest = BytesMut::from(&buffer[..]);
        give_back(buffer);
        *buffer = rest;
    }
}

/// Empties a buffer, and gives its room back unless it is none or others hold some of it.
pub fn give_back(buffer: &mut BytesMut) {
    buffer.clear();
    if buffer.capacity() > 0 && buffer.try_reclaim(ROOM_BYTES) {
        let room = std::mem::take(buffer);
        KEPT.with_borrow_mut(|kept| {
            // One that had to grow is none.
            if kept.len() < KEPT_MAX && room.capacity() == ROOM_BYTES {
                kept.push(room);
            }
        });
    }
}

/// Lets go of the half of what is kept that was not used for longest.
pub fn shrink() {
    KEPT.with_borrow_mut(|kept| drop(kept.drain(..kept.len().div_ceil(2))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_used_last_is_used_next_from_its_beginning() {
        let mut first = BytesMut::new();
        take(&mut first);
        let mut second = BytesMut::new();
        take(&mut second);
        let place = second.as_ptr();
        second.extend_from_slice(&[1; 1000]);
        bytes::Buf::advance(&mut second, 1000);
        give_back(&mut first);
        give_back(&mut second);
        assert_eq!((first.capacity(), second.capacity()), (0, 0), "who gives back has none");
        take(&mut first);
        assert_eq!((first.as_ptr(), first.capacity()), (place, ROOM_BYTES));
    }

    #[test]
    fn few_bytes_move_out_before_a_wait_and_into_a_room_after_it() {
        let mut buffer = BytesMut::new();
        take(&mut buffer);
        let place = buffer.as_ptr();
        buffer.extend_from_slice(b"a bit of a chunk and 1f");
        bytes::Buf::advance(&mut buffer, 21);
        park(&mut buffer);
        assert_eq!((&buffer[..], buffer.capacity() < 1024), (&b"1f"[..], true));
        take(&mut buffer);
        assert_eq!((&buffer[..], buffer.as_ptr(), buffer.capacity()), (&b"1f"[..], place, ROOM_BYTES));
        // Much is left where it is, and gets room behind it; what had to grow for that is not kept.
        buffer.extend_from_slice(&[0; ROOM_BYTES - 2]);
        park(&mut buffer);
        take(&mut buffer);
        assert!(buffer.len() == ROOM_BYTES && buffer.capacity() >= ROOM_BYTES + ROOM_BYTES / 2);
        give_back(&mut buffer);
        take(&mut buffer);
        assert_eq!(buffer.capacity(), ROOM_BYTES);
    }

    #[test]
    fn what_others_hold_or_what_is_small_is_not_kept() {
        let mut buffer = BytesMut::new();
        take(&mut buffer);
        buffer.extend_from_slice(b"kept by somebody");
        let held = buffer.split_to(16).freeze();
        give_back(&mut buffer);
        let mut small = BytesMut::with_capacity(16 << 10);
        give_back(&mut small);
        assert!(small.capacity() >= 16 << 10, "it stays where it is");
        let mut next = BytesMut::new();
        take(&mut next);
        next.extend_from_slice(&[0; ROOM_BYTES]);
        assert_eq!(&held[..], b"kept by somebody");
    }
}
