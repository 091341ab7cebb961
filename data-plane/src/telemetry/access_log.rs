//! The access log: one JSON object per line, formatted by the worker into its own buffer, written by a thread of its
//! own. A worker never waits for the log: what cannot be handed over is dropped and counted.

use std::{
    cell::RefCell,
    fmt::Write as _,
    io::Write,
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::metrics::RequestMetrics;

/// A worker hands its lines over when it has so many bytes of them, or at its next tick.
const BATCH_BYTES: usize = 32 << 10;

/// The most batches that wait to be written, over all workers.
const BATCHES_MAX: usize = 256;

/// One request, as the log tells it.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Method.
    pub method: &'a str,
    /// Canonical host.
    pub host: &'a str,
    /// Canonical path, without the query, which may hold secrets.
    pub path: &'a str,
    /// The route's name; empty if none matched.
    pub route: &'a str,
    /// The backend's name; empty if none was chosen.
    pub backend: &'a str,
    /// As sent to the client.
    pub status: u16,
    /// Why the gateway answered by itself, or cut the answer; empty if neither.
    pub reason: &'a str,
    /// From the request's head to the answer's last byte.
    pub duration: Duration,
    /// The snapshot that served it.
    pub snapshot: u64,
    /// The client's address.
    pub client: IpAddr,
    /// Tries at an upstream.
    pub tries: u32,
    /// The name of the plugin that answered; empty if none did.
    pub plugin: &'a str,
    /// Who asks, as an authentication plugin has found; empty if nobody knows.
    pub consumer: &'a str,
    /// The request's id; empty if it has none.
    pub request_id: &'a str,
}

/// The thread's end of the log.
#[derive(Clone, Debug)]
pub struct Sink {
    batches: mpsc::SyncSender<Vec<u8>>,
}

impl Sink {
    /// Starts the writing thread. It ends when the last sink is dropped; join it to be sure that all is written.
    ///
    /// # Errors
    /// The thread's.
    pub fn start(mut out: impl Write + Send + 'static) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (batches, waiting) = mpsc::sync_channel::<Vec<u8>>(BATCHES_MAX);
        let writer = thread::Builder::new().name("access-log".into()).spawn(move || {
            for batch in waiting {
                // A log that cannot be written has nowhere to say so.
                let _ = out.write_all(&batch).and_then(|()| out.flush());
            }
        })?;
        Ok((Self { batches }, writer))
    }
}

/// One worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    sink: Sink,
    buffer: RefCell<Buffer>,
    metrics: Arc<RequestMetrics>,
}

#[derive(Debug, Default)]
struct Buffer {
    lines: Vec<u8>,
    count: u64,
    /// The second that `stamp` was made for.
    second: u64,
    /// "2026-01-01T00:00:00"
    stamp: String,
}

impl AccessLog {
    /// Writes to that sink.
    #[must_use]
    pub fn new(sink: Sink, metrics: Arc<RequestMetrics>) -> Self {
        Self { sink, buffer: RefCell::default(), metrics }
    }

    /// Logs a request.
    pub fn log(&self, line: &Line<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        buffer.append(line, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        if buffer.lines.len() >= BATCH_BYTES {
            self.hand_over(&mut buffer);
        }
    }

    /// Hands over what there is; called at each tick of the worker.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.lines.is_empty() {
            self.hand_over(&mut buffer);
        }
    }

    fn hand_over(&self, buffer: &mut Buffer) {
        let batch = std::mem::replace(&mut buffer.lines, Vec::with_capacity(BATCH_BYTES + 1024));
        let count = std::mem::take(&mut buffer.count);
        if self.sink.batches.try_send(batch).is_err() {
            self.metrics.gauges.log_dropped.fetch_add(count, Relaxed);
        }
    }
}

impl Buffer {
    fn append(&mut self, line: &Line<'_>, now: Duration) {
        if self.second != now.as_secs() || self.stamp.is_empty() {
            self.second = now.as_secs();
            let whole = UNIX_EPOCH + Duration::from_secs(self.second);
            self.stamp = humantime::format_rfc3339_seconds(whole).to_string();
            self.stamp.pop();
        }
        let out = &mut self.lines;
        out.extend_from_slice(b"{\"timestamp\":\"");
        out.extend_from_slice(self.stamp.as_bytes());
        out.push(b'.');
        let micros = now.subsec_micros();
        out.extend_from_slice(&[5, 4, 3, 2, 1, 0].map(|at| b'0' + (micros / 10_u32.pow(at) % 10) as u8));
        out.extend_from_slice(b"Z\",\"level\":\"INFO\",\"fields\":{\"message\":\"request\",\"method\":");
        string(out, line.method);
        for (name, value) in
            [("host", line.host), ("path", line.path), ("route", line.route), ("backend", line.backend)]
        {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            string(out, value);
        }
        let mut number = itoa::Buffer::new();
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(number.format(line.status).as_bytes());
        if !line.reason.is_empty() {
            out.extend_from_slice(b",\"reason\":");
            string(out, line.reason);
        }
        for (name, value) in [("plugin", line.plugin), ("consumer", line.consumer), ("request_id", line.request_id)] {
            if !value.is_empty() {
                out.extend_from_slice(b",\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\":");
                string(out, value);
            }
        }
        out.extend_from_slice(b",\"duration_ms\":");
        milliseconds(out, line.duration);
        out.extend_from_slice(b",\"snapshot\":");
        out.extend_from_slice(number.format(line.snapshot).as_bytes());
        out.extend_from_slice(b",\"tries\":");
        out.extend_from_slice(number.format(line.tries).as_bytes());
        let mut client = ClientText(out);
        let _ = write!(client, ",\"client\":\"{}\"}}}}", line.client);
        out.push(b'\n');
        self.count += 1;
    }
}

struct ClientText<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for ClientText<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends "1.234".
pub fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(itoa::Buffer::new().format(us / 1000).as_bytes());
    let rest = us % 1000;
    out.push(b'.');
    out.extend_from_slice(&[rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}

/// Appends a JSON string, whatever the text holds.
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let plain = |byte: &u8| (b' '..0x7f).contains(byte) && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for character in text.chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                ' '..='~' => out.push(character as u8),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let hex = |at: u16| b"0123456789abcdef"[usize::from(*unit >> at & 15)];
                        out.extend_from_slice(&[b'\\', b'u', hex(12), hex(8), hex(4), hex(0)]);
                    }
                }
            }
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_the_request_holds() {
        let mut buffer = Buffer::default();
        let line = Line {
            method: "GET",
            host: "a",
            path: "/x\",\"status\":200}\n{\"a\":\"\u{1b}[31m\u{1f980}",
            route: "r",
            backend: "b",
            status: 502,
            reason: "upstream_closed",
            duration: Duration::from_micros(1_234_567),
            snapshot: 7,
            client: IpAddr::from([127, 0, 0, 1]),
            tries: 2,
            plugin: "limit",
            consumer: "\"}\n",
            request_id: "",
        };
        buffer.append(&line, Duration::new(1_767_225_600, 1_002_003));
        let text = String::from_utf8(buffer.lines).expect("UTF-8");
        assert_eq!(text.matches('\n').count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["timestamp"], "2026-01-01T00:00:00.001002Z");
        assert_eq!(json["fields"]["path"], line.path);
        assert_eq!(json["fields"]["duration_ms"], 1234.567);
        assert_eq!(json["fields"]["status"], 502);
        assert_eq!((&json["fields"]["plugin"], &json["fields"]["consumer"]), (&"limit".into(), &"\"}\n".into()));
        assert!(json["fields"].get("request_id").is_none());
    }
}
