//! RustyGate benchmarks: criterion benches in `benches/`, load runs in `src/bin/`.

pub mod peers;
pub mod scale;
