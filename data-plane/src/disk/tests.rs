use std::{os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use super::*;
use crate::held::tests::{held, route};

fn image(revision: u64) -> Image {
    let set: Vec<_> =
        (0..50).map(|i| route(&format!("r{i}"), u16::try_from(revision % 50_000).expect("fits") + 1)).collect();
    held(revision, &set).image()
}

/// A folder with revisions 1 (previous) and 2 (current).
fn two_generations(path: &Path) {
    let mut folder = Folder::open(path).expect("opens");
    folder.write(&image(1)).expect("writes");
    folder.write(&image(2)).expect("writes");
}

fn loaded_revision(path: &Path) -> Option<u64> {
    Folder::open(path).expect("opens").load().map(|restored| restored.held.revision())
}

#[test]
fn what_was_written_is_loaded_and_compiled() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    let restored = Folder::open(dir.path()).expect("opens").load().expect("is there");
    assert_eq!((restored.held.revision(), restored.held.len(), restored.held.store_id()), (2, 50, "store"));
    assert_eq!(restored.held.checksum(), image(2).checksum);
    assert_eq!(restored.snapshot.revision, 2);
}

#[test]
fn an_empty_folder_gives_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    assert_eq!(loaded_revision(&dir.path().join("made/on/the/way")), None);
}

#[test]
fn only_the_owner_may_read_the_files() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    for name in [CURRENT, PREVIOUS, LOCK] {
        let mode = fs::metadata(dir.path().join(name)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_flipped_bit_anywhere_falls_back_to_the_previous_generation() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    let current = dir.path().join(CURRENT);
    let good = fs::read(&current).expect("reads");
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 1 << (position % 8);
        assert!(format::decode(&bad).is_err(), "byte {position}");
        // The way through the folder is slower: one byte of each region and a few of the body.
        if position % 97 == 0 || position < 80 && position % 8 == 0 || position + 1 == good.len() {
            fs::write(&current, &bad).expect("writes");
            assert_eq!(loaded_revision(dir.path()), Some(1), "byte {position}");
        }
    }
}

#[test]
fn a_truncated_empty_or_longer_file_falls_back_to_the_previous_generation() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    let current = dir.path().join(CURRENT);
    let good = fs::read(&current).expect("reads");
    for length in 0..good.len() {
        assert!(format::decode(&good[..length]).is_err(), "length {length}");
    }
    for bad in [&good[..0], &good[..7], &good[..80], &good[..good.len() - 1], &[&*good, b"x"].concat()] {
        fs::write(&current, bad).expect("writes");
        assert_eq!(loaded_revision(dir.path()), Some(1), "length {}", bad.len());
    }
}

#[test]
fn a_file_that_is_whole_but_lies_about_its_set_is_not_used() {
    let mut lie = image(3);
    lie.checksum = image(4).checksum;
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    fs::write(dir.path().join(CURRENT), format::encode(&lie).expect("encodes")).expect("writes");
    assert_eq!(loaded_revision(dir.path()), Some(1));
}

#[test]
fn a_bad_current_generation_never_takes_the_place_of_the_good_previous_one() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    fs::write(dir.path().join(CURRENT), b"damaged").expect("writes");
    let mut folder = Folder::open(dir.path()).expect("opens");
    assert_eq!(folder.load().expect("the previous").held.revision(), 1);
    folder.write(&image(3)).expect("writes");
    drop(folder);
    fs::write(dir.path().join(CURRENT), b"damaged again").expect("writes");
    assert_eq!(loaded_revision(dir.path()), Some(1));
}

#[test]
fn a_crash_between_the_renames_leaves_the_previous_generation() {
    let dir = tempfile::tempdir().expect("dir");
    two_generations(dir.path());
    // As far as `write` gets before the second rename.
    write_synced(&dir.path().join(NEW), &format::encode(&image(3)).expect("encodes")).expect("writes");
    fs::rename(dir.path().join(CURRENT), dir.path().join(PREVIOUS)).expect("renames");
    let mut folder = Folder::open(dir.path()).expect("opens");
    assert_eq!(folder.load().expect("the previous").held.revision(), 2);
    folder.write(&image(4)).expect("writes");
    drop(folder);
    assert_eq!(loaded_revision(dir.path()), Some(4));
    fs::remove_file(dir.path().join(CURRENT)).expect("removes");
    assert_eq!(loaded_revision(dir.path()), Some(2));
}

#[test]
fn two_proxies_cannot_share_a_folder() {
    let dir = tempfile::tempdir().expect("dir");
    let first = Folder::open(dir.path()).expect("opens");
    let error = Folder::open(dir.path()).expect_err("is locked");
    assert!(error.to_string().contains("in use by another proxy"), "{error}");
    drop(first);
    Folder::open(dir.path()).expect("is free again");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("writes");
    let error = Folder::open(&file.join("folder")).expect_err("a file is in the way");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

const WRITER_FOLDER: &str = "RUSTYGATE_TEST_WRITER_FOLDER";

/// Run as a process of its own by the test below, to be killed; alone it does nothing.
#[test]
fn writer_to_be_killed() {
    let Ok(path) = std::env::var(WRITER_FOLDER) else { return };
    let mut folder = Folder::open(Path::new(&path)).expect("opens");
    let start = folder.load().map_or(0, |restored| restored.held.revision());
    for revision in start + 1.. {
        folder.write(&image(revision)).expect("writes");
    }
}

#[test]
fn a_killed_writer_leaves_a_usable_generation() {
    let dir = tempfile::tempdir().expect("dir");
    let mut seen = 0;
    for round in 0..8 {
        let mut writer = Command::new(std::env::current_exe().expect("known"))
            .args(["--exact", "disk::tests::writer_to_be_killed"])
            .env(WRITER_FOLDER, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        // Once it has written, at any moment.
        while newest(dir.path()).is_none_or(|revision| revision <= seen) {
            assert_eq!(writer.try_wait().expect("waits"), None, "the writer ended by itself");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(700 * round));
        writer.kill().expect("kills");
        writer.wait().expect("ends");
        let revision = loaded_revision(dir.path()).expect("one generation is whole");
        assert!(revision > seen, "{revision} after {seen}");
        seen = revision;
    }
}

/// What the files say now, without the lock that the writer holds.
fn newest(path: &Path) -> Option<u64> {
    load(&path.join(CURRENT)).or_else(|_| load(&path.join(PREVIOUS))).ok().map(|restored| restored.held.revision())
}
