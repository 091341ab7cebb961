//! RustyGate command line.

fn main() {}
