//! Calls of gRPC through the gateway, by tonic's client: those of the public interoperability tests
//! (`grpc/doc/interop-test-descriptions.md`), with TLS and without on either side.

mod deadlines;
mod errors;
mod interop;
mod service;
