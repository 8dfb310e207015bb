//! `TokenTrie` and `TrieStates`.

use crate::errors::to_python;
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray1, PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rankdistill_core::error::Result;
use rankdistill_core::trie::{Csr, DeadEnd, OnDuplicate, Sequences, Snapshot, TokenTrie as Core, TrieInfo};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

type Ints<'py> = Bound<'py, PyArray1<i32>>;
type Entities<'py> = (Bound<'py, PyArray1<i64>>, Bound<'py, PyArray1<u32>>);
type Tokens<'py> = PyReadonlyArray1<'py, u32>;

fn dead_end(name: &str) -> PyResult<DeadEnd> {
    match name {
        "eos" => Ok(DeadEnd::Eos),
        "pad" => Ok(DeadEnd::Pad),
        "error" => Ok(DeadEnd::Error),
        _ => Err(PyValueError::new_err(format!("expected on_dead_end of eos, pad or error, found {name:?}"))),
    }
}

fn csr_to_numpy(py: Python<'_>, csr: Csr) -> (Ints<'_>, Ints<'_>, Ints<'_>) {
    (csr.indptr.into_pyarray(py), csr.ids.into_pyarray(py), csr.next.into_pyarray(py))
}

/// Copies lists into buffers that the caller made; how many tokens they are.
fn copy_csr(
    csr: &Csr,
    mut indptr: PyReadwriteArray1<'_, i32>,
    mut ids: PyReadwriteArray1<'_, i32>,
    mut next: PyReadwriteArray1<'_, i32>,
) -> PyResult<usize> {
    let count = csr.ids.len();
    let (indptr, ids, next) = (indptr.as_slice_mut()?, ids.as_slice_mut()?, next.as_slice_mut()?);
    if indptr.len() != csr.indptr.len() || ids.len().min(next.len()) < count {
        let expected = format!("an indptr of {} and room for {count} tokens", csr.indptr.len());
        return Err(PyValueError::new_err(format!("expected {expected}, found {}, {} and {}", indptr.len(), ids.len(), next.len())));
    }
    indptr.copy_from_slice(&csr.indptr);
    ids[..count].copy_from_slice(&csr.ids);
    next[..count].copy_from_slice(&csr.next);
    Ok(count)
}

/// Entities of each state end to end, and where each state's begin and end.
fn entities(snapshot: &Snapshot, states: &[u32]) -> Result<(Vec<i64>, Vec<u32>)> {
    let (mut indptr, mut ids) = (vec![0], Vec::new());
    for &state in states {
        ids.extend(snapshot.ids(state)?);
        indptr.push(ids.len() as i64);
    }
    Ok((indptr, ids))
}

#[pyclass(module = "rankdistill._core", frozen)]
pub struct TokenTrie(pub Core);

impl TokenTrie {
    /// What `use_states` makes of the states of these rows.
    fn on_rows<T: Send>(
        &self,
        py: Python<'_>,
        input_ids: &PyReadonlyArray2<'_, i64>,
        start: usize,
        use_states: impl FnOnce(&Snapshot, &[u32]) -> Result<T> + Send,
    ) -> PyResult<T> {
        let (num_rows, tokens) = (input_ids.shape()[0], input_ids.as_slice()?);
        py.detach(|| {
            let snapshot = self.0.snapshot();
            use_states(&snapshot, &snapshot.walk_rows(tokens, num_rows, start)?)
        })
        .map_err(to_python)
    }
}

#[pymethods]
impl TokenTrie {
    #[staticmethod]
    #[pyo3(signature = (tokens, lengths, ids, *, vocab_size, eos, pad, fingerprint, keep_duplicates))]
    #[expect(clippy::too_many_arguments, reason = "named in Python")]
    fn build(
        py: Python<'_>,
        tokens: Tokens<'_>,
        lengths: Tokens<'_>,
        ids: Option<Tokens<'_>>,
        vocab_size: u32,
        eos: u32,
        pad: u32,
        fingerprint: String,
        keep_duplicates: bool,
    ) -> PyResult<Self> {
        let sequences = Sequences { tokens: tokens.as_slice()?, lengths: lengths.as_slice()? };
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        let info = TrieInfo { vocab_size, eos, pad, fingerprint };
        let on_duplicate = if keep_duplicates { OnDuplicate::Keep } else { OnDuplicate::Refuse };
        py.detach(|| Core::build(sequences, ids, &info, on_duplicate)).map(Self).map_err(to_python)
    }

    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Core::open(&path)).map(Self).map_err(to_python)
    }

    #[staticmethod]
    fn from_bytes(py: Python<'_>, content: &[u8]) -> PyResult<Self> {
        py.detach(|| Core::from_bytes(content.to_vec())).map(Self).map_err(to_python)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let snapshot = self.0.snapshot();
        let bytes = py.detach(|| snapshot.to_bytes()).map_err(to_python)?;
        Ok(PyBytes::new(py, &bytes))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let snapshot = self.0.snapshot();
        py.detach(|| snapshot.save(&path)).map_err(to_python)
    }

    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let snapshot = self.0.snapshot();
        py.detach(|| snapshot.verify()).map_err(to_python)
    }

    #[getter]
    fn path(&self) -> Option<PathBuf> {
        self.0.snapshot().path().map(Into::into)
    }

    #[getter]
    fn is_changed(&self) -> bool {
        self.0.snapshot().is_changed()
    }

    #[getter]
    fn num_entities(&self) -> u64 {
        self.0.snapshot().num_entities()
    }

    #[getter]
    fn num_sequences(&self) -> u64 {
        self.0.snapshot().num_sequences()
    }

    #[getter]
    fn num_nodes(&self) -> usize {
        self.0.snapshot().num_nodes()
    }

    #[getter]
    fn max_depth(&self) -> usize {
        self.0.snapshot().max_depth()
    }

    #[getter]
    fn vocab_size(&self) -> u32 {
        self.0.snapshot().info().vocab_size
    }

    #[getter]
    fn eos(&self) -> u32 {
        self.0.snapshot().info().eos
    }

    #[getter]
    fn pad(&self) -> u32 {
        self.0.snapshot().info().pad
    }

    #[getter]
    fn fingerprint(&self) -> String {
        self.0.snapshot().info().fingerprint.clone()
    }

    fn allow<'py>(
        &self,
        py: Python<'py>,
        input_ids: PyReadonlyArray2<'_, i64>,
        start: usize,
        on_dead_end: &str,
    ) -> PyResult<(Ints<'py>, Ints<'py>, Ints<'py>)> {
        let dead_end = dead_end(on_dead_end)?;
        let csr = self.on_rows(py, &input_ids, start, |snapshot, states| snapshot.csr(states, dead_end))?;
        Ok(csr_to_numpy(py, csr))
    }

    #[expect(clippy::too_many_arguments, reason = "named in Python")]
    fn fill_csr(
        &self,
        py: Python<'_>,
        input_ids: PyReadonlyArray2<'_, i64>,
        indptr: PyReadwriteArray1<'_, i32>,
        ids: PyReadwriteArray1<'_, i32>,
        next_states: PyReadwriteArray1<'_, i32>,
        start: usize,
        on_dead_end: &str,
    ) -> PyResult<usize> {
        let dead_end = dead_end(on_dead_end)?;
        let csr = self.on_rows(py, &input_ids, start, |snapshot, states| snapshot.csr(states, dead_end))?;
        copy_csr(&csr, indptr, ids, next_states)
    }

    fn fill_bitmask(
        &self,
        py: Python<'_>,
        input_ids: PyReadonlyArray2<'_, i64>,
        mut out: PyReadwriteArray2<'_, i32>,
        start: usize,
        on_dead_end: &str,
    ) -> PyResult<()> {
        let (dead_end, num_words) = (dead_end(on_dead_end)?, out.shape()[1]);
        let out = out.as_slice_mut()?;
        self.on_rows(py, &input_ids, start, |snapshot, states| snapshot.fill_bitmask(states, dead_end, num_words, out))
    }

    fn mask_logits(
        &self,
        py: Python<'_>,
        input_ids: PyReadonlyArray2<'_, i64>,
        mut logits: PyReadwriteArray2<'_, f32>,
        start: usize,
        on_dead_end: &str,
    ) -> PyResult<()> {
        let (dead_end, num_logits) = (dead_end(on_dead_end)?, logits.shape()[1]);
        let logits = logits.as_slice_mut()?;
        self.on_rows(py, &input_ids, start, |snapshot, states| snapshot.mask_logits(states, dead_end, num_logits, logits))
    }

    fn entity_ids<'py>(&self, py: Python<'py>, input_ids: PyReadonlyArray2<'_, i64>, start: usize) -> PyResult<Entities<'py>> {
        let (indptr, ids) = self.on_rows(py, &input_ids, start, entities)?;
        Ok((indptr.into_pyarray(py), ids.into_pyarray(py)))
    }

    fn sequences(&self, py: Python<'_>, prefix: Vec<u32>, limit: usize, mut only: Option<Vec<u32>>) -> PyResult<Vec<(Vec<u32>, Vec<u32>)>> {
        let snapshot = self.0.snapshot();
        py.detach(|| {
            only.iter_mut().for_each(|ids| ids.sort_unstable());
            snapshot.sequences(&prefix, limit, only.as_deref()).map_err(to_python)
        })
    }

    fn states(&self, num_rows: usize) -> TrieStates {
        let snapshot = self.0.snapshot();
        TrieStates { states: Mutex::new(vec![snapshot.root(); num_rows]), snapshot }
    }

    fn add(&self, py: Python<'_>, tokens: Tokens<'_>, lengths: Tokens<'_>, ids: Tokens<'_>) -> PyResult<u64> {
        let (sequences, ids) = (Sequences { tokens: tokens.as_slice()?, lengths: lengths.as_slice()? }, ids.as_slice()?);
        py.detach(|| self.0.add(sequences, ids)).map_err(to_python)
    }

    fn remove(&self, py: Python<'_>, tokens: Tokens<'_>, lengths: Tokens<'_>, ids: Option<Tokens<'_>>) -> PyResult<u64> {
        let sequences = Sequences { tokens: tokens.as_slice()?, lengths: lengths.as_slice()? };
        let ids = ids.as_ref().map(|ids| ids.as_slice()).transpose()?;
        py.detach(|| self.0.remove(sequences, ids)).map_err(to_python)
    }

    fn compact(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.compact()).map_err(to_python)
    }
}

/// States of rows in one snapshot.
#[pyclass(module = "rankdistill._core", frozen)]
pub struct TrieStates {
    snapshot: Arc<Snapshot>,
    states: Mutex<Vec<u32>>,
}

impl TrieStates {
    fn on_states<T: Send>(&self, py: Python<'_>, use_states: impl FnOnce(&Snapshot, &mut Vec<u32>) -> Result<T> + Send) -> PyResult<T> {
        let run = || use_states(&self.snapshot, &mut self.states.lock().unwrap_or_else(PoisonError::into_inner));
        py.detach(run).map_err(to_python)
    }
}

#[pymethods]
impl TrieStates {
    fn __len__(&self) -> usize {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn values<'py>(&self, py: Python<'py>) -> PyResult<Ints<'py>> {
        let values: Vec<i32> = self.on_states(py, |_, states| Ok(states.iter().map(|&state| state as i32).collect()))?;
        Ok(values.into_pyarray(py))
    }

    fn set(&self, py: Python<'_>, values: PyReadonlyArray1<'_, i32>) -> PyResult<()> {
        let values = values.as_slice()?;
        self.on_states(py, |snapshot, states| {
            let new: Vec<u32> = values.iter().map(|&value| value as u32).collect();
            new.iter().try_for_each(|&state| snapshot.is_leaf(state).map(|_| ()))?;
            *states = new;
            Ok(())
        })
    }

    fn copy(&self, py: Python<'_>) -> PyResult<Self> {
        let states = self.on_states(py, |_, states| Ok(states.clone()))?;
        Ok(Self { snapshot: self.snapshot.clone(), states: Mutex::new(states) })
    }

    fn advance(&self, py: Python<'_>, tokens: PyReadonlyArray1<'_, i64>, parents: Option<PyReadonlyArray1<'_, i64>>) -> PyResult<()> {
        let tokens = tokens.as_slice()?;
        let parents = parents.as_ref().map(|parents| parents.as_slice()).transpose()?;
        self.on_states(py, |snapshot, states| {
            *states = snapshot.advance(states, tokens, parents)?;
            Ok(())
        })
    }

    fn allow<'py>(&self, py: Python<'py>, on_dead_end: &str) -> PyResult<(Ints<'py>, Ints<'py>, Ints<'py>)> {
        let dead_end = dead_end(on_dead_end)?;
        Ok(csr_to_numpy(py, self.on_states(py, |snapshot, states| snapshot.csr(states, dead_end))?))
    }

    fn fill_csr(
        &self,
        py: Python<'_>,
        indptr: PyReadwriteArray1<'_, i32>,
        ids: PyReadwriteArray1<'_, i32>,
        next_states: PyReadwriteArray1<'_, i32>,
        on_dead_end: &str,
    ) -> PyResult<usize> {
        let dead_end = dead_end(on_dead_end)?;
        copy_csr(&self.on_states(py, |snapshot, states| snapshot.csr(states, dead_end))?, indptr, ids, next_states)
    }

    fn fill_bitmask(&self, py: Python<'_>, mut out: PyReadwriteArray2<'_, i32>, on_dead_end: &str) -> PyResult<()> {
        let (dead_end, num_words) = (dead_end(on_dead_end)?, out.shape()[1]);
        let out = out.as_slice_mut()?;
        self.on_states(py, |snapshot, states| snapshot.fill_bitmask(states, dead_end, num_words, out))
    }

    fn mask_logits(&self, py: Python<'_>, mut logits: PyReadwriteArray2<'_, f32>, on_dead_end: &str) -> PyResult<()> {
        let (dead_end, num_logits) = (dead_end(on_dead_end)?, logits.shape()[1]);
        let logits = logits.as_slice_mut()?;
        self.on_states(py, |snapshot, states| snapshot.mask_logits(states, dead_end, num_logits, logits))
    }

    fn entity_ids<'py>(&self, py: Python<'py>) -> PyResult<Entities<'py>> {
        let (indptr, ids) = self.on_states(py, |snapshot, states| entities(snapshot, states))?;
        Ok((indptr.into_pyarray(py), ids.into_pyarray(py)))
    }
}
