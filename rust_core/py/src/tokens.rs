//! `TokenStore` and `TokenWriter`.

use crate::errors::to_python;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rankdistill_core::error::Result;
use rankdistill_core::tokens::{PaddedBatch, PairShape, TokenInfo, TokenStore as Core, TokenWriter as CoreWriter};
use std::path::PathBuf;

type Matrix<'py> = Bound<'py, PyArray2<i64>>;

#[pyclass(module = "rankdistill._core", frozen)]
pub struct TokenStore(Core);

#[pymethods]
impl TokenStore {
    #[new]
    #[pyo3(signature = (path, *, verify = true))]
    fn new(py: Python<'_>, path: PathBuf, verify: bool) -> PyResult<Self> {
        py.detach(|| Core::open(&path, verify)).map(Self).map_err(to_python)
    }

    /// Workers get the path and map the file again; its checksum was compared where it was first opened.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (PathBuf,))> {
        Ok((py.import("rankdistill.data.tokens")?.getattr("_reopen")?, (self.0.path().into(),)))
    }

    fn __len__(&self) -> usize {
        self.0.num_rows()
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path().into()
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.num_tokens()
    }

    #[getter]
    fn max_length(&self) -> u32 {
        self.0.info().max_length
    }

    #[getter]
    fn tokenizer_fingerprint(&self) -> &str {
        &self.0.info().tokenizer
    }

    #[getter]
    fn source_fingerprint(&self) -> &str {
        &self.0.info().source
    }

    fn lengths<'py>(&self, py: Python<'py>, rows: PyReadonlyArray1<'_, i64>) -> PyResult<Bound<'py, PyArray1<i32>>> {
        let rows = rows.as_slice()?;
        Ok(py.detach(|| self.0.lengths(rows)).map_err(to_python)?.into_pyarray(py))
    }

    fn distinct_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        py.detach(|| self.0.distinct_tokens()).into_pyarray(py)
    }

    #[pyo3(signature = (rows, pad_id, max_length = None, pad_to_multiple_of = 1))]
    fn batch<'py>(
        &self,
        py: Python<'py>,
        rows: PyReadonlyArray1<'_, i64>,
        pad_id: i64,
        max_length: Option<usize>,
        pad_to_multiple_of: usize,
    ) -> PyResult<(Matrix<'py>, Matrix<'py>)> {
        let rows = rows.as_slice()?;
        let batch = py.detach(|| self.0.batch(rows, pad_id, max_length, pad_to_multiple_of));
        let (input_ids, attention_mask, _) = to_numpy(py, batch, rows.len())?;
        Ok((input_ids, attention_mask))
    }

    #[pyo3(signature = (rows, others, other_rows, *, joiner, second_type, max_length, pad_id, pad_to_multiple_of = 1))]
    #[expect(clippy::too_many_arguments, reason = "named in Python")]
    fn pair_batch<'py>(
        &self,
        py: Python<'py>,
        rows: PyReadonlyArray1<'_, i64>,
        others: &Self,
        other_rows: PyReadonlyArray1<'_, i64>,
        joiner: Vec<i64>,
        second_type: i64,
        max_length: usize,
        pad_id: i64,
        pad_to_multiple_of: usize,
    ) -> PyResult<(Matrix<'py>, Matrix<'py>, Matrix<'py>)> {
        let (rows, other_rows) = (rows.as_slice()?, other_rows.as_slice()?);
        let shape = PairShape { joiner, second_type, max_length };
        let batch = py.detach(|| self.0.pair_batch(rows, &others.0, other_rows, &shape, pad_id, pad_to_multiple_of));
        to_numpy(py, batch, rows.len())
    }
}

/// `(input_ids, attention_mask, token_type_ids)`; the last has no column where there are none.
fn to_numpy(py: Python<'_>, batch: Result<PaddedBatch>, num_rows: usize) -> PyResult<(Matrix<'_>, Matrix<'_>, Matrix<'_>)> {
    let batch = batch.map_err(to_python)?;
    let shaped = |values: Vec<i64>| {
        let length = if values.is_empty() && num_rows > 0 { 0 } else { batch.length };
        values.into_pyarray(py).reshape([num_rows, length])
    };
    Ok((shaped(batch.input_ids)?, shaped(batch.attention_mask)?, shaped(batch.token_type_ids)?))
}

#[pyclass(module = "rankdistill._core")]
pub struct TokenWriter(Option<CoreWriter>);

#[pymethods]
impl TokenWriter {
    #[new]
    #[pyo3(signature = (path, *, tokenizer_fingerprint, source_fingerprint, max_length, num_prefix, num_suffix, width, sources = Vec::new()))]
    #[expect(clippy::too_many_arguments, reason = "named in Python")]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        tokenizer_fingerprint: String,
        source_fingerprint: String,
        max_length: u32,
        num_prefix: u16,
        num_suffix: u16,
        width: u32,
        sources: Vec<PathBuf>,
    ) -> PyResult<Self> {
        let info = TokenInfo { tokenizer: tokenizer_fingerprint, source: source_fingerprint, max_length, num_prefix, num_suffix, width };
        py.detach(|| CoreWriter::open(&path, info, &sources)).map(|writer| Self(Some(writer))).map_err(to_python)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.0.as_ref().map(CoreWriter::num_rows).ok_or_else(finished)
    }

    fn push(&mut self, py: Python<'_>, tokens: PyReadonlyArray1<'_, u32>, lengths: PyReadonlyArray1<'_, u32>) -> PyResult<()> {
        let writer = self.0.as_mut().ok_or_else(finished)?;
        let (tokens, lengths) = (tokens.as_slice()?, lengths.as_slice()?);
        py.detach(|| writer.push(tokens, lengths)).map_err(to_python)
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<()> {
        let writer = self.0.take().ok_or_else(finished)?;
        py.detach(|| writer.finish()).map_err(to_python)
    }
}

fn finished() -> PyErr {
    PyValueError::new_err("expected an unfinished token store, found one that finish() was called on")
}
