//! TLS, towards clients and towards upstreams.

pub mod session;
