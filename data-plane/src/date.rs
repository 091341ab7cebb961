//! The time as answers carry it, formatted once a second.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

/// How long the text of a date is: "Sun, 06 Nov 1994 08:49:37 GMT".
const DATE_BYTES: usize = 29;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct DateCache {
    /// The text, and until when it is true.
    date: Cell<Option<([u8; DATE_BYTES], Instant)>>,
}

impl DateCache {
    /// The value of a Date field (RFC 9110 section 6.6.1).
    pub fn text(&self, now: Instant) -> [u8; DATE_BYTES] {
        match self.date.get() {
            Some((text, until)) if now < until => text,
            _ => self.format(now, SystemTime::now()),
        }
    }

    fn format(&self, now: Instant, time: SystemTime) -> [u8; DATE_BYTES] {
        let mut text = [b' '; DATE_BYTES];
        let formatted = httpdate::fmt_http_date(time);
        for (to, from) in text.iter_mut().zip(formatted.bytes()) {
            *to = from;
        }
        let past = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let rest = Duration::from_secs(1) - Duration::from_nanos(past.into());
        self.date.set(Some((text, now + rest)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(cache: &DateCache, now: Instant) -> String {
        String::from_utf8(cache.text(now).to_vec()).expect("is text")
    }

    #[test]
    fn a_date_is_kept_until_its_second_is_over() {
        let cache = DateCache::default();
        let now = Instant::now();
        cache.format(now, UNIX_EPOCH + Duration::from_millis(784_111_777_400));
        assert_eq!(written(&cache, now), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(written(&cache, now + Duration::from_millis(599)), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(!written(&cache, now + Duration::from_millis(600)).contains("1994"));
    }
}
