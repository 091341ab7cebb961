//! Attacks by and on TLS: handshakes in odd pieces or without end, certificates that say more than they may, requests on the
//! wrong connection, and upstreams that are not who they should be or do not finish.

pub mod clients;
pub mod pki;
mod upstreams;
