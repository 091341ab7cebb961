//! A new migration is a change of the program, though no Rust file changed.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
