//! One error type. Its parts (where, expected, found, remedy) stay separate fields, so that programs can read them.

use std::fmt;
use std::path::PathBuf;

/// What went wrong, as a program would ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A row or an archive that isn't in the stated format.
    BadData,
    /// A store of ours that is torn, changed, foreign, of a later version, or built from something else.
    BadStore,
    /// An argument that no input could satisfy.
    BadArgument,
    /// The operating system refused.
    Io(std::io::ErrorKind),
}

/// An error in four parts: where, what was expected, what was found, what to do.
#[derive(Debug, Clone)]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// The line in that file, from 1.
    pub line: Option<u64>,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
    /// What the reader of the message can do.
    pub remedy: String,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without a place; add one with [`Error::at`].
    pub fn new(kind: ErrorKind, expected: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, path: None, line: None, expected: expected.into(), found: found.into(), remedy: remedy.into() }
    }

    /// Names the file, and the line where there is one.
    #[must_use]
    pub fn at(mut self, path: impl Into<PathBuf>, line: Option<u64>) -> Self {
        self.path = Some(path.into());
        self.line = line;
        self
    }

    /// An error of the operating system on `path`.
    pub fn io(error: &std::io::Error, path: impl Into<PathBuf>) -> Self {
        Self::new(ErrorKind::Io(error.kind()), "a file that can be read and written", error.to_string(), "").at(path, None)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}", path.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
