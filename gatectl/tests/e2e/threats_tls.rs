//! Attacks by and on TLS: handshakes in odd pieces or without end, certificates that say more than they may, requests on the
//! wrong connection, and upstreams that are not who they should be or do not finish.

mod clients;
mod pki;
mod upstreams;
