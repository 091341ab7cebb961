//! The gRPC client of the configuration path: connect, back off, receive, compile, publish, ACK or NACK.
