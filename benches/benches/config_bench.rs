//! What a configuration costs: parsing it, compiling it, changing it, and finding a route in it.
fn main() {}
