//! The Rust core of rankdistill, without Python in it.

pub mod error;
pub mod permutation;
