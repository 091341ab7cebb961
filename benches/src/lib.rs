//! RustyGate benchmarks: criterion benches in `benches/`, load runs beside the peers in `src/bin/`.

pub mod peers;
