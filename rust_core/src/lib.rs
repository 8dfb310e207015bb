//! The Rust core of rankdistill, without Python in it.

mod disk;
pub mod error;
pub mod ids;
pub mod linking;
pub mod permutation;
pub mod scores;
pub mod tokens;
pub mod trie;
