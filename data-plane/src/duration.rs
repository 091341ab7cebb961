//! Durations as users write them: `250ms`, `5s`, `1m30s`, `1h`.

/// Milliseconds; `None` if it is no duration or longer than `u64` milliseconds. Every number has a unit.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let value: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        // Larger units first, each once.
        if unit >= last {
            return None;
        }
        last = unit;
        rest = &rest[letters..];
        total = total.checked_add(value.checked_mul(unit)?)?;
    }
    (last != u64::MAX).then_some(total)
}

/// In the biggest unit that is exact.
#[must_use]
pub fn write(milliseconds: u64) -> String {
    match milliseconds {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_units_and_fall_from_large_to_small() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1m", Some(60_000)),
            ("1h", Some(3_600_000)),
            ("1m30s", Some(90_000)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5 s", None),
            ("-5s", None),
            ("1.5s", None),
            ("5S", None),
            ("1s1m", None),
            ("1s1s", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("5é", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_in_the_biggest_exact_unit() {
        for (milliseconds, text) in
            [(0, "0s"), (250, "250ms"), (1_500, "1500ms"), (90_000, "90s"), (120_000, "2m"), (7_200_000, "2h")]
        {
            assert_eq!(write(milliseconds), text);
            assert_eq!(parse(text), Some(milliseconds));
        }
    }
}
