//! `LinkAutomaton`.

use crate::errors::to_python;
use crate::trie::TokenTrie;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rankdistill_core::error::Result;
use rankdistill_core::linking::{Automaton, Edges, Marks, Span, State};
use rankdistill_core::trie::Sequences;

type Longs<'py> = Bound<'py, PyArray1<i64>>;
type States<'py> = Bound<'py, PyArray2<i32>>;
type Rows<'py> = (Longs<'py>, Longs<'py>, States<'py>);
type Numbers<'py> = PyReadonlyArray1<'py, i64>;

fn wide<const N: usize>(values: &PyReadonlyArray2<'_, i32>) -> PyResult<Vec<[i32; N]>> {
    let (rows, rest) = values.as_slice()?.as_chunks::<N>();
    if rest.is_empty() { Ok(rows.to_vec()) } else { Err(PyValueError::new_err(format!("expected rows of {N} numbers, found others"))) }
}

fn states_of(values: &PyReadonlyArray2<'_, i32>) -> PyResult<Vec<State>> {
    wide::<4>(values)?.into_iter().map(State::from_words).collect::<Result<_>>().map_err(to_python)
}

fn states_to_numpy<'py>(py: Python<'py>, states: &[State]) -> States<'py> {
    let words: Vec<i32> = states.iter().flat_map(|state| state.to_words()).collect();
    Array2::from_shape_vec((states.len(), 4), words).expect("four numbers a state").into_pyarray(py)
}

fn edges_to_numpy(py: Python<'_>, edges: Edges) -> Rows<'_> {
    let states = states_to_numpy(py, &edges.states);
    (edges.indptr.into_pyarray(py), edges.tokens.into_pyarray(py), states)
}

#[pyclass(module = "rankdistill._core", frozen)]
pub struct LinkAutomaton(Automaton);

#[pymethods]
impl LinkAutomaton {
    #[new]
    #[pyo3(signature = (tokens, lengths, spans, *, entities, sets, marks))]
    fn new(
        py: Python<'_>,
        tokens: PyReadonlyArray1<'_, u32>,
        lengths: PyReadonlyArray1<'_, u32>,
        spans: PyReadonlyArray2<'_, i32>,
        entities: PyRef<'_, TokenTrie>,
        sets: Vec<PyRef<'_, TokenTrie>>,
        marks: (u32, u32, u32, u32),
    ) -> PyResult<Self> {
        let texts = Sequences { tokens: tokens.as_slice()?, lengths: lengths.as_slice()? };
        let as_span = |[text, start, end, set]: [i32; 4]| Span { text: text as u32, start: start as u32, end: end as u32, set: set as u32 };
        let spans = wide::<4>(&spans)?.into_iter().map(as_span).collect();
        let (open, close, begin, end) = marks;
        let (entities, sets) = (entities.0.snapshot(), sets.iter().map(|set| set.0.snapshot()).collect());
        py.detach(|| Automaton::new(texts, spans, Marks { open, close, begin, end }, entities, sets)).map(Self).map_err(to_python)
    }

    fn __len__(&self) -> usize {
        self.0.num_texts()
    }

    fn allow<'py>(&self, py: Python<'py>, texts: Numbers<'_>, states: PyReadonlyArray2<'_, i32>) -> PyResult<Rows<'py>> {
        let (texts, states) = (texts.as_slice()?, states_of(&states)?);
        Ok(edges_to_numpy(py, py.detach(|| self.0.allow(texts, &states)).map_err(to_python)?))
    }

    fn advance<'py>(
        &self,
        py: Python<'py>,
        texts: Numbers<'_>,
        states: PyReadonlyArray2<'_, i32>,
        tokens: Numbers<'_>,
    ) -> PyResult<(Longs<'py>, States<'py>)> {
        let (texts, states, tokens) = (texts.as_slice()?, states_of(&states)?, tokens.as_slice()?);
        let (indptr, _, after) = edges_to_numpy(py, py.detach(|| self.0.advance(texts, &states, tokens)).map_err(to_python)?);
        Ok((indptr, after))
    }

    fn forced<'py>(&self, py: Python<'py>, texts: Numbers<'_>, states: PyReadonlyArray2<'_, i32>) -> PyResult<Rows<'py>> {
        let (texts, states) = (texts.as_slice()?, states_of(&states)?);
        Ok(edges_to_numpy(py, py.detach(|| self.0.forced(texts, &states)).map_err(to_python)?))
    }

    fn ahead<'py>(
        &self,
        py: Python<'py>,
        texts: Numbers<'_>,
        states: PyReadonlyArray2<'_, i32>,
        room: Numbers<'_>,
        max_copies: usize,
    ) -> PyResult<(Longs<'py>, Longs<'py>, Longs<'py>, States<'py>, Rows<'py>)> {
        let (texts, states, room) = (texts.as_slice()?, states_of(&states)?, room.as_slice()?);
        let found = py.detach(|| self.0.ahead(texts, &states, room, max_copies)).map_err(to_python)?;
        let (parents, rows, edges) = (found.parents.into_pyarray(py), found.rows.into_pyarray(py), found.edges.into_pyarray(py));
        Ok((parents, rows, edges, states_to_numpy(py, &found.states), edges_to_numpy(py, found.allowed)))
    }

    fn ids(&self, text: usize, state: [i32; 4]) -> PyResult<Vec<u32>> {
        State::from_words(state).and_then(|state| self.0.ids(text, state)).map_err(to_python)
    }

    fn walk<'py>(&self, py: Python<'py>, text: usize, tokens: Numbers<'_>) -> PyResult<States<'py>> {
        let tokens = tokens.as_slice()?;
        let states = py.detach(|| self.0.walk(text, tokens)).map_err(to_python)?;
        Ok(states_to_numpy(py, &states))
    }
}
