//! Strings in the Huffman code of HPACK (RFC 7541 appendix B).
//!
//! The code is canonical: symbols with codes of one length have them in order, and longer codes follow shorter ones. So
//! the lengths say it all, and the tables are made of them when this is compiled.

/// The bits of the code of each byte.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The longest code.
const BITS_MAX: usize = 30;

/// Symbols with codes up to so many bits are found in one step.
const QUICK_BITS: usize = 8;

const TABLES: Tables = Tables::new();

struct Tables {
    /// By the next bits: the length of the code they begin with, and its symbol; a length of 0 if it is longer.
    quick: [(u8, u8); 1 << QUICK_BITS],
    /// By length: the first code, and where its symbol is in `symbols`.
    first: [u32; BITS_MAX + 2],
    begin: [usize; BITS_MAX + 2],
    /// By length of their codes, and then by value.
    symbols: [u8; 256],
}

impl Tables {
    #[allow(clippy::cast_possible_truncation, reason = "symbols are bytes")]
    const fn new() -> Self {
        let mut tables = Self {
            quick: [(0, 0); 1 << QUICK_BITS],
            first: [0; BITS_MAX + 2],
            begin: [0; BITS_MAX + 2],
            symbols: [0; 256],
        };
        let (mut code, mut known, mut bits) = (0_u32, 0, 1);
        while bits <= BITS_MAX {
            tables.first[bits] = code;
            tables.begin[bits] = known;
            let mut symbol = 0;
            while symbol < 256 {
                if LENGTHS[symbol] as usize == bits {
                    tables.symbols[known] = symbol as u8;
                    known += 1;
                    let mut rest = 0;
                    while bits <= QUICK_BITS && rest < 1 << (QUICK_BITS - bits) {
                        let at = ((code as usize) << (QUICK_BITS - bits)) + rest;
                        tables.quick[at] = (bits as u8, symbol as u8);
                        rest += 1;
                    }
                    code += 1;
                }
                symbol += 1;
            }
            code <<= 1;
            bits += 1;
        }
        tables.begin[BITS_MAX + 1] = known;
        tables
    }
}

/// Not a string in this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

/// Appends what `coded` says to `out`.
///
/// # Errors
/// [`Invalid`] if it has the symbol for the end, or is filled up with anything but the beginning of that, less than a byte
/// of it (RFC 7541 section 5.2).
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), Invalid> {
    // The next bits are the highest of these.
    let (mut bits, mut count) = (0_u64, 0_usize);
    let mut rest = coded.iter();
    loop {
        while count <= 56
            && let Some(&byte) = rest.next()
        {
            bits |= u64::from(byte) << (56 - count);
            count += 8;
        }
        let (length, symbol) = match TABLES.quick[(bits >> (64 - QUICK_BITS)) as usize] {
            (0, _) => match long(bits) {
                Some(found) => found,
                // More ones than any code begins with: the end, or its symbol.
                None if count < 8 => break,
                None => return Err(Invalid),
            },
            found => found,
        };
        let length = usize::from(length);
        if length > count {
            break;
        }
        out.push(symbol);
        bits <<= length;
        count -= length;
    }
    // Nothing is left but ones, and less than a byte of them.
    if count < 8 && bits == !(u64::MAX >> count) { Ok(()) } else { Err(Invalid) }
}

/// The symbol whose code these bits begin with, if it has more bits than can be looked up.
#[allow(clippy::cast_possible_truncation, reason = "a code has no more than 30 bits")]
fn long(bits: u64) -> Option<(u8, u8)> {
    (QUICK_BITS + 1..=BITS_MAX).find_map(|length| {
        let code = (bits >> (64 - length)) as u32;
        let (begin, end) = (TABLES.begin[length], TABLES.begin[length + 1]);
        let index = code.checked_sub(TABLES.first[length])? as usize;
        (index < end - begin).then(|| (length as u8, TABLES.symbols[begin + index]))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the code would be written down: slowly.
    fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits = Vec::new();
        for &byte in text {
            let length = usize::from(LENGTHS[usize::from(byte)]);
            let before = (0..byte).filter(|&other| usize::from(LENGTHS[usize::from(other)]) == length).count();
            let code = TABLES.first[length] as usize + before;
            bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
        }
        bits.resize(bits.len().next_multiple_of(8), true);
        bits.chunks(8).map(|eight| eight.iter().fold(0, |byte, &bit| byte << 1 | u8::from(bit))).collect()
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 7541 sections C.4 and C.6.
        for (coded, text) in [
            (&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..], "www.example.com"),
            (&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], "no-cache"),
            (&[0x64, 0x02], "302"),
            (&[0xae, 0xc3, 0x77, 0x1a, 0x4b], "private"),
            (&[0x9b, 0xd9, 0xab], "gzip"),
        ] {
            let mut out = Vec::new();
            assert_eq!(decode(coded, &mut out), Ok(()));
            assert_eq!(out, text.as_bytes());
            assert_eq!(encode(text.as_bytes()), coded);
        }
    }

    #[test]
    fn what_fills_up_is_ones_and_less_than_a_byte() {
        // "0" is 00000.
        for (coded, valid) in [
            (&[0b0000_0111][..], true),
            (&[0b0000_0110], false),
            (&[0b0000_0000], false),
            (&[0b0000_0111, 0xff], false),
            (&[0xff], false),
            (&[0xff; 4], false),
            (&[], true),
        ] {
            assert_eq!(decode(coded, &mut Vec::new()).is_ok(), valid, "{coded:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            prop_assert_eq!(decode(&encode(&text), &mut out), Ok(()));
            prop_assert_eq!(out, text);
        }

        #[test]
        fn no_bytes_panic_and_what_is_read_is_bounded(coded in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            let _ = decode(&coded, &mut out);
            prop_assert!(out.len() <= coded.len() * 8 / 5);
        }
    }
}
