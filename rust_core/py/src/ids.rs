//! `IdTable`.

use crate::errors::to_python;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PySlice};
use rankdistill_core::ids::IdTable as Core;

#[pyclass(module = "rankdistill._core")]
#[derive(Default)]
pub struct IdTable(Core);

#[pymethods]
impl IdTable {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// The position in `ids` of the first that was there already; those before it are appended, it and the rest aren't.
    fn extend(&mut self, ids: Vec<PyBackedStr>) -> Option<usize> {
        ids.iter().position(|id| !self.0.push(id))
    }

    fn rows<'py>(&self, py: Python<'py>, ids: Vec<PyBackedStr>) -> Bound<'py, PyArray1<i64>> {
        let rows: Vec<i64> = py.detach(|| ids.iter().map(|id| self.0.row(id).map_or(-1, |row| row as i64)).collect());
        rows.into_pyarray(py)
    }

    fn parts<'py>(&self, py: Python<'py>) -> (Bound<'py, PyBytes>, Bound<'py, PyArray1<u64>>) {
        let (bytes, ends) = self.0.parts();
        (PyBytes::new(py, bytes), PyArray1::from_slice(py, ends))
    }

    #[staticmethod]
    fn from_parts(py: Python<'_>, ids: Vec<u8>, ends: PyReadonlyArray1<'_, u64>) -> PyResult<Self> {
        let ends = ends.as_slice()?.to_vec();
        py.detach(|| Core::from_parts(ids, ends)).map(Self).map_err(to_python)
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __contains__(&self, id: &Bound<'_, PyAny>) -> bool {
        id.extract::<PyBackedStr>().is_ok_and(|id| self.0.row(&id).is_some())
    }

    fn __getitem__<'py>(&self, py: Python<'py>, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let len = self.0.len() as isize;
        if let Ok(slice) = index.cast::<PySlice>() {
            let at = slice.indices(len)?;
            let ids: Vec<&str> = (0..at.slicelength as isize).map(|i| self.0.get((at.start + i * at.step) as usize)).collect();
            return Ok(ids.into_pyobject(py)?.into_any());
        }
        let index: isize = index.extract().map_err(|_| PyTypeError::new_err("an index of ids is an integer or a slice"))?;
        let row = if index < 0 { index + len } else { index };
        if !(0..len).contains(&row) {
            return Err(PyIndexError::new_err(format!("expected a row from 0 to {}, found {index}", len - 1)));
        }
        Ok(self.0.get(row as usize).into_pyobject(py)?.into_any())
    }
}
