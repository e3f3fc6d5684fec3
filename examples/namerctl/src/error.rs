//! Why a command could not be done.

use std::{io, path::PathBuf};

/// Why a command could not be done. The texts that the original has are the original's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The words do not fit the command.
    #[error("{0}")]
    Words(&'static str),
    /// Nothing says where namerd is.
    #[error("empty base URL")]
    NoBase,
    /// What says where namerd is does not.
    #[error("{0}")]
    BadBase(String),
    /// A file of settings cannot be used.
    #[error("{}: {reason}", path.display())]
    BadConfig { path: PathBuf, reason: String },
    /// A file cannot be read or written.
    #[error("{0}")]
    File(String),
    /// A file is not a table.
    #[error("{0}")]
    BadTable(String),
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    BadTls(#[from] linkerd_core::tls::BadTls),
    /// No answer came.
    #[error("{action} \"{url}\": {reason}")]
    NoAnswer { action: &'static str, url: String, reason: String },
    /// An answer cannot be read.
    #[error("{0}")]
    BadAnswer(String),
    /// namerd does not have it.
    #[error("resource was not found by ID or name")]
    NotFound,
    /// namerd does not have what it is asked about a table.
    #[error("no {resource} of {name}: there is no such table, or this namerd cannot tell")]
    Missing { resource: String, name: String },
    /// namerd changes this table only for who says which version it has.
    #[error("{0} is protected: say which version is meant by --version, which `namerctl dtab get {0}` shows")]
    NeedsVersion(String),
    /// The same of a table that has none, as it is not there.
    #[error("{0} is protected, and is not there: `namerctl dtab create` or `apply` makes it")]
    NeedsCreation(String),
    /// namerd said no.
    #[error("unexpected response: {status}")]
    Unexpected { status: String, explanation: String },
    /// Anything else that the command says itself.
    #[error("{0}")]
    Other(String),
}

/// What a command prints, and how it ends.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For stdout.
    pub(crate) text: String,
    /// For the shell.
    pub(crate) code: u8,
}

/// The exit code of commands that answer a question, when the answer is no.
pub(crate) const NO: u8 = 1;

impl Outcome {
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 0 }
    }

    pub(crate) fn answer(text: impl Into<String>, yes: bool) -> Self {
        Self { text: text.into(), code: if yes { 0 } else { NO } }
    }
}

/// What the system said of a file, as the original tells it: `open FILE: no such file or directory`.
pub(crate) fn of_file(action: &str, path: &str, error: &io::Error) -> Error {
    Error::File(format!("{action} {path}: {}", plain(error)))
}

/// The text of an error of the system in lower case, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}
