//! `ScoreReader`, `ScoreBlock`, `ScoreStore`, `ScoreStoreWriter` and `permuted_positions`.

use crate::errors::to_python;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use rankdistill_core::error::{ErrorKind, Result};
use rankdistill_core::permutation::Permutation;
use rankdistill_core::scores::{
    BadCounts, BadKind, Columns, Format, IdKind, Position, ReaderOptions, ScoreReader as CoreReader, ScoreStore as CoreStore,
    ScoreStoreWriter as CoreWriter,
};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

type PositionTuple = (u64, u64, u64, u64, u64);

fn to_tuple(position: Position) -> PositionTuple {
    (position.file, position.offset, position.line, position.row, position.num_docs)
}

/// The kinds that occurred.
pub(crate) fn to_dict(py: Python<'_>, bad: BadCounts) -> PyResult<Bound<'_, PyDict>> {
    let counts = PyDict::new(py);
    for (kind, count) in BadKind::ALL.into_iter().zip(bad).filter(|&(_, count)| count > 0) {
        counts.set_item(kind.name(), count)?;
    }
    Ok(counts)
}

pub(crate) fn format_named(name: &str) -> PyResult<Format> {
    let expected = "a format of auto, ids, text, margin, nway";
    Format::from_name(name).ok_or_else(|| PyValueError::new_err(format!("expected {expected}, found {name:?}")))
}

#[pyclass(module = "rankdistill._core")]
pub struct ScoreReader(Mutex<CoreReader>);

impl ScoreReader {
    fn get<T: Send>(&self, py: Python<'_>, read: impl FnOnce(&mut CoreReader) -> T + Send) -> T {
        py.detach(|| read(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A signal that arrives while a pipe is waited for is looked at, so that Ctrl-C works.
    fn interruptible<T: Send>(&self, py: Python<'_>, read: fn(&mut CoreReader) -> Result<T>) -> PyResult<T> {
        loop {
            match self.get(py, read) {
                Err(error) if error.kind == ErrorKind::Io(io::ErrorKind::Interrupted) => py.check_signals()?,
                result => return result.map_err(to_python),
            }
        }
    }
}

#[pymethods]
impl ScoreReader {
    #[new]
    #[pyo3(signature = (paths, *, format, skip, block_rows, max_line_bytes, max_score, start))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        format: &str,
        skip: bool,
        block_rows: usize,
        max_line_bytes: usize,
        max_score: f32,
        start: PositionTuple,
    ) -> PyResult<Self> {
        let format = if format == "auto" { None } else { Some(format_named(format)?) };
        let (file, offset, line, row, num_docs) = start;
        let start = Position { file, offset, line, row, num_docs };
        let options = ReaderOptions { format, skip, block_rows, max_line_bytes, max_score, start };
        let reader = Self(Mutex::new(CoreReader::new(paths, options).map_err(to_python)?));
        reader.interruptible(py, CoreReader::begin)?;
        Ok(reader)
    }

    fn next_block(&self, py: Python<'_>) -> PyResult<Option<ScoreBlock>> {
        let block = self.interruptible(py, CoreReader::next_block)?;
        Ok(block.map(|block| ScoreBlock { columns: block.columns, position: block.position }))
    }

    #[getter]
    fn format(&self, py: Python<'_>) -> &'static str {
        self.get(py, |reader| reader.format().map_or("auto", Format::name))
    }

    #[getter]
    fn position(&self, py: Python<'_>) -> PositionTuple {
        to_tuple(self.get(py, |reader| reader.position()))
    }

    #[getter]
    fn bad_rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.get(py, |reader| reader.bad_rows()))
    }

    #[getter]
    fn bytes_read(&self, py: Python<'_>) -> u64 {
        self.get(py, |reader| reader.bytes_read())
    }
}

/// Columns stay in Rust for the writer and for ids that aren't numbers; arrays are made when they're asked for.
#[pyclass(module = "rankdistill._core", frozen)]
pub struct ScoreBlock {
    pub(crate) columns: Columns,
    position: Position,
}

/// An array that borrows from `owner`, which it keeps alive; read-only, since the owner goes on using the values.
fn borrowed<'py, T: numpy::Element>(owner: &Bound<'py, ScoreBlock>, values: &[T]) -> Bound<'py, PyArray1<T>> {
    let view = numpy::ndarray::ArrayView1::from(values);
    // SAFETY: `owner` is frozen, never moves its columns while it lives, and the array holds a reference to it.
    let array = unsafe { PyArray1::borrow_from_array(&view, owner.clone().into_any()) };
    array.readwrite().make_nonwriteable();
    array
}

#[pymethods]
impl ScoreBlock {
    fn __len__(&self) -> usize {
        self.columns.num_rows()
    }

    #[getter]
    fn position(&self) -> PositionTuple {
        to_tuple(self.position)
    }

    #[getter]
    fn query_codes<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyArray1<u64>> {
        borrowed(slf, &slf.get().columns.queries)
    }

    #[getter]
    fn doc_codes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<u64>>> {
        let columns = &slf.get().columns;
        borrowed(slf, &columns.docs).reshape([columns.num_rows(), columns.num_docs])
    }

    #[getter]
    fn scores<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let columns = &slf.get().columns;
        borrowed(slf, &columns.scores).reshape([columns.num_rows(), columns.num_docs])
    }

    fn query_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.columns.queries.iter().map(|&code| self.columns.id(code)).collect::<Vec<_>>())
    }

    fn doc_ids<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let row = |codes: &[u64]| codes.iter().map(|&code| self.columns.id(code)).collect::<Vec<_>>();
        PyList::new(py, self.columns.docs.chunks_exact(self.columns.num_docs).map(row).collect::<Vec<_>>())
    }
}

#[pyclass(module = "rankdistill._core")]
pub struct ScoreStoreWriter(Option<CoreWriter>);

#[pymethods]
impl ScoreStoreWriter {
    #[new]
    #[pyo3(signature = (path, format, sources = Vec::new()))]
    fn new(py: Python<'_>, path: PathBuf, format: &str, sources: Vec<PathBuf>) -> PyResult<Self> {
        let format = format_named(format)?;
        py.detach(|| CoreWriter::create(&path, format, &sources)).map(|writer| Self(Some(writer))).map_err(to_python)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.0.as_ref().map(|writer| writer.num_rows() as usize).ok_or_else(finished)
    }

    fn push(&mut self, py: Python<'_>, block: &ScoreBlock) -> PyResult<()> {
        let writer = self.0.as_mut().ok_or_else(finished)?;
        py.detach(|| writer.push(&block.columns)).map_err(to_python)
    }

    fn finish(&mut self, py: Python<'_>, fingerprint: &str, bad_rows: &Bound<'_, PyDict>) -> PyResult<()> {
        if !fingerprint.is_empty() && fingerprint.len() != 32 {
            return Err(PyValueError::new_err(format!("expected a fingerprint of 32 characters, found {fingerprint:?}")));
        }
        let mut bad = BadCounts::default();
        for (count, kind) in bad.iter_mut().zip(BadKind::ALL) {
            *count = bad_rows.get_item(kind.name())?.map_or(Ok(0), |value| value.extract())?;
        }
        let writer = self.0.take().ok_or_else(finished)?;
        py.detach(|| writer.finish(fingerprint, bad)).map_err(to_python)
    }

    /// Removes what was written.
    fn abort(&mut self) {
        self.0 = None;
    }
}

fn finished() -> PyErr {
    PyValueError::new_err("expected an unfinished score store, found one that was finished or aborted")
}

#[pyclass(module = "rankdistill._core", frozen)]
pub struct ScoreStore(CoreStore);

fn id_kind(kind: &str) -> PyResult<IdKind> {
    match kind {
        "query" => Ok(IdKind::Query),
        "doc" => Ok(IdKind::Doc),
        _ => Err(PyValueError::new_err(format!("expected \"query\" or \"doc\", found {kind:?}"))),
    }
}

type Gathered<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray2<u32>>, Bound<'py, PyArray2<f32>>);

#[pymethods]
impl ScoreStore {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| CoreStore::open(&path)).map(Self).map_err(to_python)
    }

    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path().into()
    }

    #[getter]
    fn num_rows(&self) -> u64 {
        self.0.num_rows()
    }

    #[getter]
    fn num_docs_per_row(&self) -> usize {
        self.0.num_docs_per_row()
    }

    #[getter]
    fn format(&self) -> &'static str {
        self.0.format().name()
    }

    #[getter]
    fn fingerprint(&self) -> &str {
        self.0.fingerprint()
    }

    #[getter]
    fn bad_rows<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        to_dict(py, self.0.bad_rows())
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.verify()).map_err(to_python)
    }

    fn num_ids(&self, kind: &str) -> PyResult<u64> {
        Ok(self.0.num_ids(id_kind(kind)?))
    }

    fn ids<'py>(&self, py: Python<'py>, kind: &str, start: u64, stop: u64) -> PyResult<Bound<'py, PyList>> {
        let ids = PyList::empty(py);
        let mut failure = None;
        let take = |id: &str| failure = failure.take().or_else(|| ids.append(PyString::new(py, id)).err());
        self.0.for_each_id(id_kind(kind)?, start..stop.max(start), take).map_err(to_python)?;
        failure.map_or(Ok(ids), Err)
    }

    fn gather<'py>(&self, py: Python<'py>, rows: PyReadonlyArray1<'_, i64>) -> PyResult<Gathered<'py>> {
        let rows = rows.as_slice()?;
        let (queries, docs, scores) = py.detach(|| self.0.gather(rows)).map_err(to_python)?;
        let shape = [rows.len(), self.0.num_docs_per_row()];
        Ok((queries.into_pyarray(py), docs.into_pyarray(py).reshape(shape)?, scores.into_pyarray(py).reshape(shape)?))
    }
}

#[pyfunction]
#[pyo3(signature = (num_rows, seed, epoch, start, count, stride = 1))]
pub fn permuted_positions(
    py: Python<'_>,
    num_rows: u64,
    seed: u64,
    epoch: u64,
    start: u64,
    count: u64,
    stride: u64,
) -> PyResult<Bound<'_, PyArray1<i64>>> {
    if count > 0 {
        let last = stride.checked_mul(count - 1).and_then(|length| length.checked_add(start));
        if stride == 0 || last.is_none_or(|last| last >= num_rows) {
            let expected = format!("{count} positions below {num_rows}");
            return Err(PyValueError::new_err(format!("expected {expected}, found a start of {start} and a stride of {stride}")));
        }
    }
    let positions: Vec<i64> = py.detach(|| {
        let permutation = Permutation::new(num_rows, seed, epoch);
        (0..count).map(|i| permutation.get(start + i * stride) as i64).collect()
    });
    Ok(positions.into_pyarray(py))
}

/// Names the content of files.
#[pyfunction]
pub fn score_fingerprint(py: Python<'_>, paths: Vec<PathBuf>) -> PyResult<String> {
    py.detach(|| rankdistill_core::scores::fingerprint(&paths)).map_err(to_python)
}
