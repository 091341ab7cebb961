//! What the proxy tells of itself: metrics, access log, and the log of the process.

pub mod access_log;
pub mod certificates;
pub mod log;
pub mod metrics;
