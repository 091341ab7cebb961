//! Load runs of RustyGate side by side with other proxies, on one machine, in one sitting.
//!
//! What is compared is CPU time per request, since that is what a proxy costs and what noise disturbs least: the
//! kernel counts it in nanoseconds, and every proxy serves exactly as many requests. Proxies take turns within each
//! round and ratios are taken within a round, so that a machine that warms up or slows down does so for all of them.
//!
//! The proxy under test has one core for itself; the load ([`client`]) and the upstream ([`backend`]) share another.
//! Both are small on purpose and the same for every proxy; where they are the bottleneck all the same, the report says so.
//! Requests of HTTP/2 come from [`h2load`].
//!
//! Memory of idle connections is measured in proxies that have just started, since one that was busy before has room for them.

pub mod backend;
pub mod client;
pub mod config;
pub mod h2load;
pub mod load;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod report;
pub mod run;
pub mod rustygate;
pub mod tls;
