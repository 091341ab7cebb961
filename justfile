# What one does here: `just --list`. `just check` is what CI runs, and what to run before a push.

# Where cargo puts what it builds.
target := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# Everything that must pass, the quick answers first.
check: fmt deny lint doc test

# The formatting is rustfmt's (`cargo fmt --all` makes it so).
fmt:
    cargo fmt --all --check

# Clippy, no warning left.
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# The documentation builds, and no link in it is broken.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Every test, or those of a name: `just test peers`.
test *args:
    cargo test --workspace {{ args }}

# The list of known faults is a git repository on GitHub that not every machine reaches: it is consulted where
# `cargo deny fetch db` has brought it.

# Versions, licences and sources of what we depend on (deny.toml).
deny:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo deny --locked check bans licenses sources
    # A fetch that failed leaves an empty folder.
    if compgen -G "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs/*/.git/FETCH_HEAD" >/dev/null; then
        cargo deny --locked --offline check advisories
    else
        echo "advisories skipped: no local database (cargo deny fetch db)"
    fi

# The criterion benches: `just bench`, `just bench route`.
bench *args:
    cargo bench -p rustygate-benches --benches -- {{ args }}

# RustyGate beside nginx, HAProxy, Envoy and Caddy: `just bench-peers --only small --markdown`.
bench-peers *args:
    cargo build --release --workspace --bins
    "{{ target }}/release/bench-peers" {{ args }}

# One route changes among 100,000, under load: time to the ACK, and what requests feel: `just bench-scale --markdown`.
bench-scale *args:
    cargo build --release --workspace --bins
    "{{ target }}/release/bench-scale" {{ args }}

# Everything in one process, with demo backends: `just dev`, or `just dev -f my.yaml --watch`.
dev *args="--demo":
    cargo run -- dev {{ args }}

# What a newcomer gets: a clone of the last commit, built from nothing, its tests run, and how long that takes.
fresh-clone:
    #!/usr/bin/env bash
    set -euo pipefail
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    git clone --quiet . "$folder/rustygate"
    cd "$folder/rustygate"
    unset CARGO_TARGET_DIR
    time cargo test --workspace --locked

# Every form of the torture test for a minute each, and what takes too long for every run.
torture seconds="60":
    cargo build --workspace --bins
    RUSTYGATE_TORTURE_SECONDS={{ seconds }} cargo test -p gatectl --test e2e torture -- --nocapture --test-threads 1
    cargo test -p gatectl --test e2e -- --ignored
