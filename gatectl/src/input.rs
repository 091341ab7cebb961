//! The files that a command is given: a file, a folder of YAML files, or `-` for stdin.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustygate_control_plane::manifest;
use rustygate_proto::v1 as wire;

use crate::failure::Failure;

/// One byte more than is taken, to know that there is more.
const CONTENT_BYTES_READ: u64 = manifest::CONTENT_BYTES_MAX as u64 + 1;

/// The most bytes that one document may have; the control plane takes no more in one call.
const DOCUMENT_BYTES_MAX: u64 = 32 << 20;

/// Reads what `-f` names, in that order; of a folder, its `*.yaml` and `*.yml` by name, not those of its folders.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<wire::Document>, Failure> {
    if paths.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(Failure::new("`-f -` is given twice, but there is only one stdin"));
    }
    let mut documents = Vec::new();
    for path in paths {
        if is_stdin(path) {
            documents.push(document("<stdin>".to_owned(), io::stdin().lock())?);
        } else if path.is_dir() {
            for file in yaml_files(path)? {
                documents.push(open(&file)?);
            }
        } else {
            documents.push(open(path)?);
        }
    }
    Ok(documents)
}

/// What the documents' references to files and variables stand for. What cannot be read is told with the other faults,
/// where the document refers to it.
pub(crate) fn contents(documents: &[wire::Document]) -> Vec<wire::Content> {
    use wire::content::{Outcome, Source};
    let references = manifest::references(documents).into_iter().take(manifest::REFERENCES_MAX);
    let content = |reference: manifest::Reference| {
        let (source, read) = if reference.is_variable {
            (Source::Env, variable(&reference.name))
        } else {
            (Source::File, small_file(&referenced(&documents[reference.document], &reference.name)))
        };
        wire::Content {
            document: u32::try_from(reference.document).unwrap_or(u32::MAX),
            source: source.into(),
            reference: reference.name,
            outcome: Some(read.map_or_else(Outcome::Error, Outcome::Bytes)),
        }
    };
    references.map(content).collect()
}

/// The files that documents refer to.
pub(crate) fn referenced_files(documents: &[wire::Document]) -> Vec<PathBuf> {
    let references = manifest::references(documents).into_iter().filter(|reference| !reference.is_variable);
    references.map(|reference| referenced(&documents[reference.document], &reference.name)).collect()
}

/// A path as a document means it: from the folder that it is in.
fn referenced(document: &wire::Document, name: &str) -> PathBuf {
    Path::new(&document.file).parent().unwrap_or(Path::new("")).join(name)
}

fn small_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(CONTENT_BYTES_READ).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if bytes.len() > manifest::CONTENT_BYTES_MAX => Err(manifest::too_large()),
        Ok(_) => Ok(bytes),
    }
}

fn variable(name: &str) -> Result<Vec<u8>, String> {
    // The system's own look-up panics on these.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("no variable can have this name".to_owned());
    }
    match std::env::var(name) {
        Ok(value) if value.len() > manifest::CONTENT_BYTES_MAX => Err(manifest::too_large()),
        Ok(value) => Ok(value.into_bytes()),
        Err(std::env::VarError::NotPresent) => Err("it is not set".to_owned()),
        Err(std::env::VarError::NotUnicode(_)) => Err("it is no text".to_owned()),
    }
}

/// Whether the path means stdin.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether there is nothing in any document.
pub(crate) fn is_blank(documents: &[wire::Document]) -> bool {
    documents.iter().all(|document| document.yaml.trim().is_empty())
}

/// Whether a file of a folder is read.
pub(crate) fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let unreadable = |error: io::Error| Failure::new(format!("cannot list {}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_yaml(&path) && path.is_file() {
            // Reports name "a.yaml", not "./a.yaml".
            files.push(path.strip_prefix(".").map(Path::to_owned).unwrap_or(path));
        }
    }
    if files.is_empty() {
        return Err(Failure::new(format!("{} has no *.yaml or *.yml file", folder.display())));
    }
    files.sort();
    Ok(files)
}

fn open(path: &Path) -> Result<wire::Document, Failure> {
    let name = path.display().to_string();
    let file = fs::File::open(path).map_err(|error| unreadable(&name, &error))?;
    document(name, file)
}

fn document(file: String, mut reader: impl Read) -> Result<wire::Document, Failure> {
    let mut bytes = Vec::new();
    reader.by_ref().take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&file, &error))?;
    if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(Failure::new(format!("{file} is larger than {} MiB", DOCUMENT_BYTES_MAX >> 20))
            .with_hint("split it into several files and apply one after the other"));
    }
    let yaml = String::from_utf8(bytes).map_err(|error| {
        let (before, rest) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        let hint = match rest {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] if before.is_empty() => "it looks like UTF-16: save it as UTF-8",
            _ => "save it as UTF-8",
        };
        let byte = rest.first().copied().unwrap_or_default();
        Failure::new(format!("{file}:{line}:{column}: byte 0x{byte:02x} is not UTF-8")).with_hint(hint)
    })?;
    Ok(wire::Document { file, yaml })
}

fn unreadable(file: &str, error: &io::Error) -> Failure {
    Failure::new(format!("cannot read {file}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_yaml_files_by_name_and_nothing_else() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for name in ["b.yml", "a.yaml", "c.txt", ".hidden"] {
            fs::write(folder.path().join(name), name).expect("writes");
        }
        fs::create_dir(folder.path().join("sub.yaml")).expect("makes");
        let documents = read(&[folder.path().to_owned()]).expect("reads");
        let texts: Vec<_> = documents.iter().map(|document| document.yaml.as_str()).collect();
        assert_eq!(texts, ["a.yaml", "b.yml"]);
    }

    #[test]
    fn a_folder_without_yaml_a_missing_file_and_bytes_that_are_no_text_are_errors() {
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(read(&[folder.path().to_owned()]).is_err());
        assert!(read(&[folder.path().join("none.yaml")]).is_err());
        let file = folder.path().join("bytes.yaml");
        fs::write(&file, b"a: b\nc: \xc3\xa9\xff").expect("writes");
        let Err(Failure::Error { message, .. }) = read(std::slice::from_ref(&file)) else { panic!("must be refused") };
        assert!(message.ends_with("bytes.yaml:2:5: byte 0xff is not UTF-8"), "{message}");
        fs::write(&file, b"\xff\xfea\0").expect("writes");
        let Err(Failure::Error { hint, .. }) = read(&[file]) else { panic!("must be refused") };
        assert!(hint.contains("UTF-16"), "{hint}");
    }

    #[test]
    fn references_are_read_from_the_folder_of_their_document() {
        use wire::content::Outcome;
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("keys")).expect("makes");
        fs::write(folder.path().join("keys/a.key"), "secret").expect("writes");
        fs::write(folder.path().join("large.pem"), vec![b'x'; (64 << 10) + 1]).expect("writes");
        let yaml = "certificates:\n- {name: a, certificate: {file: large.pem}, key: {file: keys/a.key}}\n\
                    - {name: b, certificate: {env: RUSTYGATE_TEST_NOT_SET}, key: {file: keys/a.key}}\n\
                    - {name: c, certificate: {env: \"a=b\"}, key: {file: none.key}}\n";
        let file = folder.path().join("gate.yaml");
        fs::write(&file, yaml).expect("writes");
        let documents = read(std::slice::from_ref(&file)).expect("reads");
        let contents = contents(&documents);
        let outcomes: Vec<_> = contents
            .iter()
            .map(|content| match content.outcome.clone().expect("an outcome") {
                Outcome::Bytes(bytes) => (content.reference.as_str(), String::from_utf8(bytes).expect("text")),
                Outcome::Error(error) => (content.reference.as_str(), error),
            })
            .collect();
        let expected = [
            ("large.pem", "it has more than 64 KiB"),
            ("keys/a.key", "secret"),
            ("RUSTYGATE_TEST_NOT_SET", "it is not set"),
            ("a=b", "no variable can have this name"),
            ("none.key", "No such file or directory (os error 2)"),
        ];
        assert_eq!(outcomes, expected.map(|(name, outcome)| (name, outcome.to_owned())));
        assert_eq!(referenced_files(&documents).len(), 3);
    }

    #[test]
    fn stdin_is_read_once() {
        assert!(read(&["-".into(), "-".into()]).is_err());
    }

    #[test]
    fn what_does_not_end_is_cut_off() {
        assert!(document("endless".to_owned(), io::repeat(b'a')).is_err());
    }
}
