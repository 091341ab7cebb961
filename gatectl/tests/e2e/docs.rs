//! The papers say what the code does: every field, code, reason, metric and log field is in docs/, docs/ names none that
//! is not there, its examples are valid, and no link or name of a file in it is broken.
//!
//! The reference of flags is made from the flags themselves; its test is in gatectl/src/docs.rs.

mod house;
mod papers;
mod running;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// A document of docs/.
fn read(file: &str) -> String {
    let path = root().join("docs").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the tables under a heading, up to the next heading; cells without back quotes.
fn rows(document: &str, heading: &str) -> Vec<Vec<String>> {
    let lines = document.lines().skip_while(|line| line.trim_start_matches('#').trim() != heading);
    let section = lines.skip(1).take_while(|line| !line.starts_with('#'));
    let rows = section.filter(|line| line.starts_with("| `")).map(|line| {
        let cells = line.trim_start_matches('|').split('|');
        cells.map(|cell| cell.trim_matches(['`', ' ']).to_owned()).collect()
    });
    rows.collect()
}

/// The first cells of the rows under a heading, each there once.
fn names(document: &str, heading: &str) -> BTreeSet<String> {
    let rows = rows(document, heading);
    let names: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
    assert_eq!(names.len(), rows.len(), "{heading:?} has a row twice");
    names
}

/// What a regex finds, its first group.
fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).expect("a regex").captures_iter(text).map(|captures| captures[1].to_owned()).collect()
}

/// The code of a file, or of every file of a folder; without comments, and without files of tests.
fn sources(path: &Path) -> String {
    if path.is_dir() {
        return fs::read_dir(path).expect("a folder").map(|entry| sources(&entry.expect("an entry").path())).collect();
    }
    if path.extension().is_none_or(|extension| extension != "rs") || path.ends_with("tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).expect("text");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}
