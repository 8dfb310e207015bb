//! `rankdistill._core`: converts arguments, releases the GIL, translates errors; nothing else.
#![allow(missing_docs)] // documented in rankdistill/_core.pyi, where Python users look

mod errors;
mod ids;
mod linking;
mod score_files;
mod scores;
mod tokens;
mod trie;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::ids::IdTable;
    #[pymodule_export]
    use super::linking::LinkAutomaton;
    #[pymodule_export]
    use super::score_files::{ScoreFileWriter, ScoreMerge};
    #[pymodule_export]
    use super::scores::{ScoreBlock, ScoreReader, ScoreStore, ScoreStoreWriter, permuted_positions, score_fingerprint};
    #[pymodule_export]
    use super::tokens::{TokenStore, TokenWriter};
    #[pymodule_export]
    use super::trie::{TokenTrie, TrieStates};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("MAX_SCORE", rankdistill_core::scores::MAX_SCORE)?;
        module.add("DEBUG_BUILD", cfg!(debug_assertions))
    }
}
