//! The `gatectl` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    gatectl::run()
}
