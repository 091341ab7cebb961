//! `Accept-Encoding` (RFC 9110 section 12.5.3).

use super::Coding;

/// What it is worth to be in a coding, in thousandths.
type Weight = u16;

const WHOLE: Weight = 1000;

/// Which codings a client takes, and which it would rather have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    zstd: Weight,
    brotli: Weight,
    gzip: Weight,
    /// No coding at all; 0 also where nothing is said of it, which only means that others are liked better.
    identity: Weight,
}

impl Accepted {
    /// Reads the lines of the field. Who sends none gets no coding; what cannot be read counts for nothing.
    pub fn read<'v>(lines: impl Iterator<Item = &'v [u8]>) -> Self {
        let (mut named, mut identity, mut others) = ([None; 3], None, None);
        let elements = lines.flat_map(|line| line.split(|&byte| byte == b',')).filter_map(element);
        for (name, weight) in elements {
            let place = match Coding::of(name) {
                Some(coding) => &mut named[coding as usize],
                None if name.eq_ignore_ascii_case(b"identity") => &mut identity,
                None if name == b"*" => &mut others,
                None => continue,
            };
            place.get_or_insert(weight);
        }
        let weight = |named: Option<Weight>| named.or(others).unwrap_or_default();
        let [zstd, brotli, gzip] = Coding::ALL.map(|coding| weight(named[coding as usize]));
        Self { zstd, brotli, gzip, identity: weight(identity) }
    }

    fn weight(self, coding: Coding) -> Weight {
        match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        }
    }

    /// The coding that the client likes best of these; of several, the first. `None` if it takes none of them, or likes it
    /// better without.
    #[must_use]
    pub fn best(self, offered: &[Coding]) -> Option<Coding> {
        // The last of equal ones is the greatest.
        let best = offered.iter().rev().copied().max_by_key(|&coding| self.weight(coding))?;
        let weight = self.weight(best);
        (weight > 0 && weight >= self.identity).then_some(best)
    }
}

/// An element of the list with its weight.
fn element(text: &[u8]) -> Option<(&[u8], Weight)> {
    let mut parts = text.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let mut weight = WHOLE;
    for part in parts {
        let (b'q' | b'Q', value) = part.split_first()? else { continue };
        weight = quality(value.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start())?;
    }
    Some((name, weight))
}

/// "0.25" in thousandths.
fn quality(text: &[u8]) -> Option<Weight> {
    let (whole, fraction) = match text {
        [whole] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut thousandths = 0;
    for place in 0..3 {
        let digit = *fraction.get(place).unwrap_or(&b'0');
        thousandths = thousandths * 10 + Weight::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(WHOLE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(lines: &[&str], offered: &[Coding]) -> &'static str {
        let accepted = Accepted::read(lines.iter().map(|line| line.as_bytes()));
        accepted.best(offered).map_or("", Coding::name)
    }

    #[test]
    fn the_client_has_its_way_and_what_it_likes_alike_the_gateway_orders() {
        for (line, coding) in [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, br", "br"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("gzip;q=1.0, br;q=0.999", "gzip"),
            ("gzip; Q = 0.5 , br ;q=0.25", "gzip"),
            ("*", "zstd"),
            ("zstd;q=0, *", "br"),
            ("*;q=0.5, gzip", "gzip"),
            ("gzip;q=0, br;q=0.001", "br"),
            ("identity;q=0, gzip;q=0.1", "gzip"),
            ("gzip, identity", "gzip"),
            // No coding.
            ("", ""),
            ("identity", ""),
            ("identity, gzip;q=0.5", ""),
            ("*;q=0", ""),
            ("gzip;q=0", ""),
            ("gzip;q=0.000, *;q=0", ""),
            ("deflate, compress", ""),
            ("gzip2, gzi p", ""),
            // What cannot be read counts for nothing.
            ("gzip;q=1.5, zstd;q=0.1234, br;q=0.2", "br"),
            ("gzip;q, zstd;q=, br;q=a", ""),
            ("zstd;q=-1, gzip;q=0.5;level=1", "gzip"),
            // What is said first holds.
            ("gzip;q=0, gzip", ""),
        ] {
            assert_eq!(best(&[line], &Coding::ALL), coding, "{line:?}");
        }
        assert_eq!(best(&["gzip, br", "zstd"], &[Coding::Gzip, Coding::Zstd]), "gzip");
        assert_eq!(best(&["br;q=0.1", "zstd"], &Coding::ALL), "zstd");
        assert_eq!(best(&["*;q=0.5, gzip;q=0.2"], &[Coding::Gzip]), "", "it likes it better without");
        assert_eq!(best(&["br"], &[Coding::Gzip]), "");
        assert_eq!(best(&[], &Coding::ALL), "");
        assert_eq!(best(&["gzip"], &[]), "");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(line: Vec<u8>) {
            let accepted = Accepted::read([line.as_slice()].into_iter());
            proptest::prop_assert!(accepted.best(&Coding::ALL).is_none_or(|best| accepted.weight(best) > 0));
        }
    }
}
