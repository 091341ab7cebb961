//! What `dev` applies.

use std::path::{Path, PathBuf};

use rustygate_proto::v1 as wire;

use super::{DevArgs, demo::Demo};
use crate::{failure::Failure, input};

/// What is applied without `-f`, if it is there.
const DEFAULT_FILE: &str = "config/default.yaml";

/// The same file, for a `gatectl` that was installed.
const DEFAULT_YAML: &str = include_str!("../../../../config/default.yaml");

/// What is applied.
#[derive(Debug)]
pub(super) enum Source {
    /// Files and folders.
    Files(Vec<PathBuf>),
    /// The default file, which is not here.
    BuiltIn,
}

impl Source {
    /// What the arguments mean.
    pub(super) fn choose(args: &DevArgs, demo: Option<&Demo>) -> Self {
        match demo {
            Some(demo) => Self::Files(vec![demo.manifest()]),
            None if !args.paths.is_empty() => Self::Files(args.paths.clone()),
            None if Path::new(DEFAULT_FILE).is_file() => Self::Files(vec![DEFAULT_FILE.into()]),
            None => Self::BuiltIn,
        }
    }

    /// Reads it anew.
    pub(super) fn read(&self) -> Result<Vec<wire::Document>, Failure> {
        match self {
            Self::Files(paths) => match paths.iter().any(|path| input::is_stdin(path)) {
                true => Err(Failure::new("`gatectl dev` reads files, not stdin")),
                false => input::read(paths),
            },
            Self::BuiltIn => Ok(vec![wire::Document { file: DEFAULT_FILE.to_owned(), yaml: DEFAULT_YAML.to_owned() }]),
        }
    }

    /// What can be watched.
    pub(super) fn paths(&self) -> Option<&[PathBuf]> {
        match self {
            Self::Files(paths) => Some(paths),
            Self::BuiltIn => None,
        }
    }

    /// How messages call it.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Files(paths) => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
            Self::BuiltIn => format!("{DEFAULT_FILE} (built in)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_file_is_the_one_of_the_repository() {
        let routes: serde_json::Value = serde_yaml::from_str(DEFAULT_YAML).expect("YAML");
        let expected = serde_json::json!({"routes": [
            {"path": "/api/test", "backend": "http://localhost:8001"},
            {"path": "/api/users", "backend": "http://localhost:8002"},
        ]});
        assert_eq!(routes, expected);
    }
}
