//! WebSockets, whatever each side speaks: HTTP/1.1 (RFC 6455) or HTTP/2 (RFC 8441).

mod handshakes;
mod socket;
mod tls;
mod tunnels;
