//! What whoever starts the program is told when it cannot start.

use std::{net::TcpListener, process::Command};

#[test]
fn a_start_that_fails_says_why_in_a_line_and_prints_no_backtrace() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("an address").to_string();
    for (flags, expected) in [
        (["--admin-listen", &address], "cannot listen on --admin-listen"),
        (["--access-log", "/nowhere/log"], "cannot open --access-log /nowhere/log: No such file"),
        (["--control-plane", "nonsense"], "nonsense"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rustygate-data-plane"));
        // Were it to start, it must find no port taken that a test does not know of.
        if flags[0] != "--admin-listen" {
            command.args(["--admin-listen", "127.0.0.1:0"]);
        }
        let output = command.args(flags).env("RUST_BACKTRACE", "1").output().expect("runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let last = told.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: ") && last.contains(expected), "{told}");
        assert!(!told.to_lowercase().contains("backtrace"), "{told}");
    }
}
