//! Rust errors become those of `rankdistill/errors.py`, with their parts as attributes; they're defined in Python so that they pickle.

use pyo3::exceptions::{PyFileNotFoundError, PyIsADirectoryError, PyOSError, PyPermissionError, PyValueError};
use pyo3::prelude::*;
use rankdistill_core::error::{Error, ErrorKind};
use std::io;

/// Turns an error of the core into the Python exception that users know.
pub fn to_python(error: Error) -> PyErr {
    let class = match error.kind {
        ErrorKind::BadData => "BadDataError",
        ErrorKind::BadStore => "BadStoreError",
        ErrorKind::BadArgument => return PyValueError::new_err(error.to_string()),
        ErrorKind::Io(kind) => {
            let message = error.to_string();
            return match kind {
                io::ErrorKind::NotFound => PyFileNotFoundError::new_err(message),
                io::ErrorKind::PermissionDenied => PyPermissionError::new_err(message),
                io::ErrorKind::IsADirectory => PyIsADirectoryError::new_err(message),
                _ => PyOSError::new_err(message),
            };
        }
    };
    Python::attach(|py| {
        let build = || -> PyResult<PyErr> {
            let class = py.import("rankdistill.errors")?.getattr(class)?;
            let path = error.path.as_ref().map(|path| path.to_string_lossy().into_owned());
            Ok(PyErr::from_value(class.call1((&error.expected, &error.found, &error.remedy, path, error.line))?))
        };
        build().unwrap_or_else(|failure| failure)
    })
}
