//! `ScoreFileWriter` and `ScoreMerge`.

use crate::errors::to_python;
use crate::scores::{ScoreBlock, format_named, to_dict};
use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyList};
use rankdistill_core::scores::{
    Format, Merge as CoreMerge, MergeOptions, Normalize, OnMissingPair, ScoreFileWriter as CoreWriter, TeacherCounts,
};
use std::path::PathBuf;

#[pyclass(module = "rankdistill._core")]
pub struct ScoreFileWriter(Option<CoreWriter>);

impl ScoreFileWriter {
    fn get(&mut self) -> PyResult<&mut CoreWriter> {
        self.0.as_mut().ok_or_else(finished)
    }
}

fn finished() -> PyErr {
    PyValueError::new_err("expected an unfinished score file, found one that was finished or aborted")
}

#[pymethods]
impl ScoreFileWriter {
    #[new]
    #[pyo3(signature = (path, format, sources = Vec::new()))]
    fn new(py: Python<'_>, path: PathBuf, format: &str, sources: Vec<PathBuf>) -> PyResult<Self> {
        let format = format_named(format)?;
        py.detach(|| CoreWriter::create(&path, format, &sources)).map(|writer| Self(Some(writer))).map_err(to_python)
    }

    fn __len__(&self) -> PyResult<usize> {
        self.0.as_ref().map(|writer| writer.num_rows() as usize).ok_or_else(finished)
    }

    fn push_rows(
        &mut self,
        py: Python<'_>,
        query_ids: Vec<PyBackedStr>,
        doc_ids: Vec<Vec<PyBackedStr>>,
        scores: Vec<Vec<f32>>,
    ) -> PyResult<()> {
        let writer = self.get()?;
        py.detach(|| {
            for ((query, docs), scores) in query_ids.iter().zip(&doc_ids).zip(&scores) {
                writer.push_row(query, &docs.iter().map(|doc| &**doc).collect::<Vec<_>>(), scores)?;
            }
            Ok(())
        })
        .map_err(to_python)
    }

    fn push_taken(
        &mut self,
        py: Python<'_>,
        block: &ScoreBlock,
        rows: PyReadonlyArray1<'_, i64>,
        columns: PyReadonlyArray2<'_, i64>,
        scores: PyReadonlyArray2<'_, f32>,
    ) -> PyResult<()> {
        let writer = self.get()?;
        let (rows, places, scores) = (rows.as_array(), columns.as_array(), scores.as_array());
        let from = &block.columns;
        let inside = rows.iter().all(|&row| (0..from.num_rows() as i64).contains(&row))
            && places.iter().all(|&column| (0..from.num_docs as i64).contains(&column));
        if !inside || places.dim() != scores.dim() || places.nrows() != rows.len() {
            return Err(PyValueError::new_err("expected rows and columns of the block, and as many scores, found others"));
        }
        py.detach(|| {
            let (mut docs, mut values) = (Vec::new(), Vec::new());
            for ((&row, places), scores) in rows.iter().zip(places.rows()).zip(scores.rows()) {
                docs.clear();
                docs.extend(places.iter().map(|&column| from.docs[row as usize * from.num_docs + column as usize]));
                values.clear();
                values.extend(scores);
                writer.push(from, from.queries[row as usize], &docs, &values)?;
            }
            Ok(())
        })
        .map_err(to_python)
    }

    fn finish(&mut self, py: Python<'_>) -> PyResult<()> {
        let writer = self.0.take().ok_or_else(finished)?;
        py.detach(|| writer.finish()).map_err(to_python)
    }

    /// Removes what was written.
    fn abort(&mut self) {
        self.0 = None;
    }
}

#[pyclass(module = "rankdistill._core")]
pub struct ScoreMerge(Option<CoreMerge>);

fn counts_dict<'py>(py: Python<'py>, counts: &TeacherCounts) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, count) in [
        ("rows", counts.rows),
        ("pairs", counts.pairs.count),
        ("changed", counts.changed),
        ("missing", counts.missing),
        ("unused", counts.unused),
    ] {
        dict.set_item(name, count)?;
    }
    let pairs = counts.pairs;
    for (name, value) in
        [("mean", pairs.mean), ("sd", pairs.sd()), ("min", pairs.min), ("max", pairs.max), ("largest_change", counts.largest_change)]
    {
        dict.set_item(name, value)?;
    }
    dict.set_item("bad_rows", to_dict(py, counts.bad)?)?;
    Ok(dict)
}

#[pymethods]
impl ScoreMerge {
    #[new]
    #[pyo3(signature = (teachers, output, *, weights, normalize, per_query, on_missing_pair, best_first, format, skip))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of a Python constructor")]
    fn new(
        py: Python<'_>,
        teachers: Vec<Vec<PathBuf>>,
        output: PathBuf,
        weights: Vec<f64>,
        normalize: &str,
        per_query: bool,
        on_missing_pair: &str,
        best_first: bool,
        format: &str,
        skip: bool,
    ) -> PyResult<Self> {
        let unknown = |expected: &str, found: &str| PyValueError::new_err(format!("expected {expected}, found {found:?}"));
        let options = MergeOptions {
            weights,
            normalize: Normalize::from_name(normalize).ok_or_else(|| unknown("normalize of none, zscore, minmax, rank", normalize))?,
            per_query,
            on_missing: OnMissingPair::from_name(on_missing_pair)
                .ok_or_else(|| unknown("on_missing_pair of error, drop, average", on_missing_pair))?,
            best_first,
            format: if format == "auto" { None } else { Some(format_named(format)?) },
            skip,
        };
        py.detach(|| CoreMerge::new(teachers, &output, options)).map(|merge| Self(Some(merge))).map_err(to_python)
    }

    fn advance(&mut self, py: Python<'_>) -> PyResult<Option<(&'static str, u64, u64)>> {
        let merge = self.0.as_mut().ok_or_else(closed)?;
        let progress = py.detach(|| merge.advance()).map_err(to_python)?;
        Ok(progress.map(|progress| (progress.stage, progress.done, progress.total)))
    }

    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let merge = self.0.as_ref().ok_or_else(closed)?;
        let dict = PyDict::new(py);
        dict.set_item("format", Format::name(merge.format()))?;
        dict.set_item("rows", merge.num_rows())?;
        dict.set_item("dropped_rows", merge.num_dropped())?;
        dict.set_item("averaged_pairs", merge.num_averaged())?;
        let teachers = merge.counts().iter().map(|counts| counts_dict(py, counts)).collect::<PyResult<Vec<_>>>()?;
        dict.set_item("teachers", PyList::new(py, teachers)?)?;
        Ok(dict)
    }

    /// Removes what isn't finished.
    fn close(&mut self) {
        self.0 = None;
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("expected an open merge, found one that was closed")
}
