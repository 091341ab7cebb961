//! Log lines: JSON on standard output, `{"timestamp", "level", "fields": {"message", ...}, ...}`.
//!
//! Lines go through a bounded queue to a thread of their own, so that a slow reader of standard output never
//! slows a request; lines that do not fit the queue are dropped and counted.

use std::io;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, filter::ParseError, layer::SubscriberExt as _, registry::LookupSpan};

/// Lines that wait to be written; more are dropped.
pub const LINES_QUEUED_MAX: usize = 32_768;

/// Keeps the log going: what is queued is written when it is dropped, so it lives as long as `main`.
#[derive(Debug)]
pub struct Log {
    dropped: ErrorCounter,
    _guard: WorkerGuard,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("{filter:?} is not a log filter: {source} (for example \"info\" or \"rustygate_data_plane=debug\")")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// There is one already.
    #[error("the log was set up before: {0}")]
    Again(#[from] tracing::subscriber::SetGlobalDefaultError),
}

impl Log {
    /// For the `main` of a binary, once: events that pass the filter ("info") are written to standard output.
    ///
    /// # Errors
    /// [`LogError`] if the filter is malformed, or if the process has a log already.
    pub fn init(filter: &str) -> Result<Self, LogError> {
        let parsed = EnvFilter::try_new(filter);
        let filter = parsed.map_err(|source| LogError::Filter { filter: filter.to_owned(), source })?;
        let (writer, guard) = non_blocking(io::stdout());
        let log = Self { dropped: writer.error_counter(), _guard: guard };
        let subscriber = tracing_subscriber::registry().with(json_lines(writer).with_filter(filter));
        tracing::subscriber::set_global_default(subscriber)?;
        Ok(log)
    }

    /// Registers the count of dropped lines.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(DroppedCollector(self.dropped.clone())));
    }
}

fn non_blocking(out: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_QUEUED_MAX).thread_name("log").finish(out)
}

fn json_lines<S>(writer: NonBlocking) -> impl Layer<S>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_subscriber::fmt::layer().json().with_current_span(false).with_span_list(false).with_writer(writer)
}

#[derive(Debug)]
struct DroppedCollector(ErrorCounter);

impl Collector for DroppedCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let dropped = ConstCounter::new(self.0.dropped_lines() as u64);
        let help = "Log lines that were dropped because standard output is slow";
        let name = "rustygate_log_lines_dropped";
        dropped.encode(encoder.encode_descriptor(name, help, None, dropped.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_of_json_whatever_its_fields_hold() {
        let memory = Memory::default();
        let (writer, guard) = non_blocking(memory.clone());
        let hostile = "x\",\"status\":200}\n{\"a\":\"\u{1b}[31m\r";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json_lines(writer)), || {
            tracing::info!(path = hostile, status = 404, "request");
        });
        drop(guard);
        let bytes = memory.0.lock().expect("not poisoned").clone();
        let text = String::from_utf8(bytes).expect("UTF-8");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(line["timestamp"].is_string());
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["fields"]["message"], "request");
        assert_eq!(line["fields"]["status"], 404);
        assert_eq!(line["fields"]["path"], hostile);
    }

    /// Blocks its writer until the sender of the channel is gone.
    struct Stuck(mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_output_drops_lines_and_counts_them() {
        let (open, gate) = mpsc::channel();
        let (writer, guard) = non_blocking(Stuck(gate));
        let dropped = writer.error_counter();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(json_lines(writer)), || {
            for _ in 0..LINES_QUEUED_MAX + 100 {
                tracing::info!("line");
            }
        });
        // The thread may have taken one line, and the queue is full.
        assert!((99..=100).contains(&dropped.dropped_lines()), "{}", dropped.dropped_lines());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(DroppedCollector(dropped)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
        assert!(text.contains("rustygate_log_lines_dropped_total"), "{text}");
        drop(open);
        drop(guard);
    }

    #[test]
    fn a_bad_filter_is_an_error_that_shows_a_good_one() {
        let error = Log::init("a=b=c=,,").expect_err("is no filter");
        assert!(error.to_string().contains("for example"), "{error}");
    }
}
