//! Files that are made to hurt, pushed at a control plane: each is a clear fault, costs little, and holds up nobody.

use std::{fmt::Write as _, pin::pin, time::Duration};

use tokio::time::Instant;

use crate::harness::{Child, free_port, gatectl, within};

/// Every file is within what a push may have, 32 MiB, but for one.
fn hostile() -> Vec<(&'static str, String, &'static str)> {
    let config = |value: &str| format!("plugins:\n- name: a\n  type: x\n  config: {{a: {value}}}\n");
    let mut bomb = String::from("plugins:\n- {name: a0, type: x, config: {a: &a0 [lol, lol, lol, lol, lol, lol]}}\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(bomb, "- {{name: a{level}, type: x, config: {{a: &a{level} [{aliases}]}}}}").expect("a string");
    }
    vec![
        ("aliases of aliases", bomb, "RG0108"),
        ("30 MB in one value", config(&"x".repeat(30_000_000)), "RG0108"),
        ("more than a push may have", config(&"x".repeat(50_000_000)), "larger than 32 MiB"),
        ("100,000 lists in one another", config(&"[".repeat(100_000)), "RG0108"),
        ("a key twice", config("{b: 1, b: 2}"), "RG0105"),
        ("a list of millions", config(&format!("[{}]", "1,".repeat(4_000_000))), "RG0108"),
        ("documents without end", "---\n".repeat(1_000_000), "RG0108"),
        ("a bad expression", "routes: [{path: {regex: \"(\"}, backend: b}]\n".to_owned(), "regex"),
        (
            "a huge expression",
            "routes: [{path: {regex: \"((a{1000}){1000}){1000}\"}, backend: b}]\n".to_owned(),
            "regex",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_is_a_clear_fault_that_costs_little_and_holds_up_nobody() {
    /// The text as it came and was checked, and one value of it at each step of the reader: eight times the largest push.
    const GROWTH_KIB_MAX: u64 = 8 * (32 << 10);
    let folder = tempfile::tempdir().expect("a folder");
    let [grpc, http] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let flags = ["--database", "gate.db", "--grpc-listen", &grpc, "--http-listen", &http];
    let control_plane = Child::control_plane(folder.path(), "control", &flags);
    within("an open port", async { while tokio::net::TcpStream::connect(&grpc).await.is_err() {} }).await;
    let url = format!("http://{grpc}");
    let good = "routes: [{name: good, path: /, backend: \"http://127.0.0.1:9\"}]\n";
    gatectl(folder.path(), &["-c", &url, "apply", "-f", "-"], good).await.expect(0);
    let before = control_plane.resident_kib();
    for (what, text, fault) in hostile() {
        std::fs::write(folder.path().join("hostile.yaml"), &text).expect("writes");
        let begun = Instant::now();
        let args = ["-c", &url, "apply", "-f", "hostile.yaml"];
        let mut pushing = pin!(gatectl(folder.path(), &args, ""));
        let (mut most, mut slowest) = (before, Duration::ZERO);
        let output = loop {
            tokio::select! {
                output = &mut pushing => break output,
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    most = most.max(control_plane.resident_kib());
                    let asked = Instant::now();
                    let health = async { crate::harness::raw(http.parse().expect("an address"), b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await };
                    assert!(within("health", health).await.starts_with(b"HTTP/1.1 200 "), "{what}");
                    slowest = slowest.max(asked.elapsed());
                }
            }
        };
        eprintln!("{what}: {:?}, {} KiB more, others at most {slowest:?}", begun.elapsed(), most - before);
        assert_ne!(output.code, 0, "{what}");
        assert!(output.stderr.contains(fault), "{what}: {:.500}", output.stderr);
        assert!(output.stderr.len() < 20_000, "{what}: {} bytes of report", output.stderr.len());
        assert!(most - before < GROWTH_KIB_MAX, "{what}: {} KiB more", most - before);
        assert!(slowest < Duration::from_secs(2), "{what}: others waited for {slowest:?}");
    }
    let shown = gatectl(folder.path(), &["-c", &url, "get", "routes"], "").await.expect(0);
    assert!(shown.contains("good"), "{shown}");
    assert_eq!(
        gatectl(folder.path(), &["-c", &url, "apply", "-f", "-"], good).await.expect(0),
        "revision 1: nothing differs\n"
    );
}
