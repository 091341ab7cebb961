//! What went wrong, what to do next, and what a script is told.

use std::{io, process::ExitCode};

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// An error, or faults in the input.
    Failed = 1,
    /// `diff` found changes. (Also what a misspelt command line exits with.)
    Differs = 2,
    /// A proxy refused the revision.
    Refused = 3,
    /// Not every proxy served the revision in time.
    TimedOut = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command cannot go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error to show.
    Error {
        /// What is wrong, lower case, no full stop.
        message: String,
        /// What to do about it; may be empty.
        hint: String,
    },
    /// Faults or the like, which were shown already.
    Told,
    /// Whoever reads our output has gone; there is nobody to tell.
    PipeClosed,
}

impl Failure {
    /// An error without a hint.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self::Error { message: message.into(), hint: String::new() }
    }

    /// Says what to do about it.
    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Error { message, .. } => Self::Error { message, hint: hint.into() },
            Self::Told | Self::PipeClosed => self,
        }
    }

    /// What the process exits with because of it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Error { .. } | Self::Told => Exit::Failed,
            Self::PipeClosed => Exit::Success,
        }
    }

    /// A write to stdout failed.
    pub(crate) fn of_stdout(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::PipeClosed,
            _ => Self::new(format!("cannot write to stdout: {error}")),
        }
    }
}
