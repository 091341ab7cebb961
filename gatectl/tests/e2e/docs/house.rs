//! Invariants that the shape of the sources shows better than any request.

use std::fs;

use regex::Regex;

use super::{root, sources};

#[test]
fn the_data_plane_knows_no_yaml_no_sql_and_no_control_plane() {
    let manifest = fs::read_to_string(root().join("data-plane/Cargo.toml")).expect("a manifest");
    for foreign in ["rustygate-control-plane", "gatectl", "serde_yaml", "saphyr-parser", "sqlx"] {
        assert!(manifest.contains("rustygate-proto") && !manifest.contains(foreign), "{foreign}");
    }
}

#[test]
fn routing_and_snapshot_building_have_no_io_no_clock_no_async_and_no_globals() {
    let forbidden = [
        r"async |\basync\b|await|tokio",
        r"\bstd::(fs|net::Tcp|io|env|process)|\b(File|TcpStream)::|thread",
        r"Instant|SystemTime|fastrand",
        r"Lock<|\b(Once|Lazy)(Lock|Cell)\b|\b(Mutex|RwLock|RefCell|Cell|Atomic\w+)\b",
    ];
    for pure in [
        "data-plane/src/route",
        "data-plane/src/route.rs",
        "data-plane/src/snapshot/compile",
        "data-plane/src/snapshot/compile.rs",
        "data-plane/src/snapshot/cow_map.rs",
        "data-plane/src/canonical.rs",
        "control-plane/src/snapshot.rs",
        "control-plane/src/apply/plan.rs",
    ] {
        let source = sources(&root().join(pure));
        assert!(!source.is_empty());
        for pattern in forbidden {
            let found = Regex::new(pattern).expect("a regex").find(&source).map(|found| found.as_str().to_owned());
            assert_eq!(found, None, "{pure}");
        }
    }
}
