//! What rows may go on with: as bits, as lists, or written into logits. Never nothing: a row without a continuation gets one token.

use super::NONE;
use super::snapshot::{Children, Snapshot};
use crate::error::{Error, ErrorKind, Result};

/// What is allowed to a row whose tokens begin no sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadEnd {
    /// The end token alone.
    Eos,
    /// Padding alone.
    Pad,
    /// Nothing: it is an error.
    Error,
}

/// Allowed tokens of rows end to end: row i's are `ids[indptr[i]..indptr[i + 1]]`, ascending, and lead to `next` of the same place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Csr {
    /// Where each row begins, and the end.
    pub indptr: Vec<i32>,
    /// Tokens.
    pub ids: Vec<i32>,
    /// The state after each token, -1 for `NONE`.
    pub next: Vec<i32>,
}

enum Allowed<'a> {
    Children(Children<'a>),
    /// One token, and the state after it.
    Only(u32, u32),
}

impl Allowed<'_> {
    fn for_each(&self, mut take: impl FnMut(u32, u32)) {
        match *self {
            Allowed::Children(ref children) => children.for_each(take),
            Allowed::Only(token, next) => take(token, next),
        }
    }
}

fn bad(expected: impl Into<String>, found: impl Into<String>, remedy: &str) -> Error {
    Error::new(ErrorKind::BadArgument, expected, found, remedy)
}

impl Snapshot {
    fn allowed(&self, row: usize, state: u32, dead_end: DeadEnd) -> Result<Allowed<'_>> {
        let info = self.info();
        if state != NONE {
            let children = self.children(state)?;
            if children.is_leaf {
                return Ok(Allowed::Only(info.pad, state));
            }
            // Only a root can have no children and be no leaf.
            if !children.is_empty() {
                return Ok(Allowed::Children(children));
            }
        }
        match dead_end {
            DeadEnd::Eos => Ok(Allowed::Only(info.eos, NONE)),
            DeadEnd::Pad => Ok(Allowed::Only(info.pad, NONE)),
            DeadEnd::Error => {
                let remedy = "pass on_dead_end=\"eos\" or \"pad\" to let such rows end";
                Err(bad("rows that begin a sequence of the trie", format!("none that begins like row {row}"), remedy))
            }
        }
    }

    /// Bits of allowed tokens, 1 is allowed: token t of row i is bit `t % 32` of `out[i * num_words + t / 32]`.
    ///
    /// # Errors
    /// `BadArgument` if rows are too narrow for the vocabulary, or at a dead end that is an error; `BadStore` if what is read was
    /// changed.
    pub fn fill_bitmask(&self, states: &[u32], dead_end: DeadEnd, num_words: usize, out: &mut [i32]) -> Result<()> {
        let needed = self.info().vocab_size.div_ceil(32) as usize;
        if num_words < needed || out.len() != states.len() * num_words {
            let found = format!("{} words, {num_words} a row", out.len());
            return Err(bad(format!("{} rows of {needed} words", states.len()), found, ""));
        }
        let set = |row: &mut [i32], label: u32, allowed: bool| {
            if let Some(word) = row.get_mut(label as usize / 32) {
                let bit = 1 << (label % 32);
                *word = if allowed { *word | bit } else { *word & !bit };
            }
        };
        for (at, (&state, row)) in states.iter().zip(out.chunks_exact_mut(num_words)).enumerate() {
            match self.allowed(at, state, dead_end)? {
                Allowed::Only(token, _) => {
                    row.fill(0);
                    set(row, token, true);
                }
                Allowed::Children(children) => {
                    if let Some(bits) = self.base.wide_row(children.parent, children.labels)? {
                        row[..needed].copy_from_slice(bits);
                        row[needed..].fill(0);
                    } else {
                        row.fill(0);
                        children.labels.set_bits(row);
                    }
                    children.changes.iter().for_each(|&(label, state)| set(row, label, state != NONE));
                }
            }
        }
        Ok(())
    }

    /// Lists of allowed tokens and the states they lead to.
    ///
    /// # Errors
    /// `BadArgument` at a dead end that is an error, or beyond 2^31 tokens; `BadStore` if what is read was changed.
    pub fn csr(&self, states: &[u32], dead_end: DeadEnd) -> Result<Csr> {
        let mut csr = Csr { indptr: vec![0], ..Csr::default() };
        for (row, &state) in states.iter().enumerate() {
            match self.allowed(row, state, dead_end)? {
                Allowed::Children(children) if children.changes.is_empty() => {
                    children.labels.extend_into(&mut csr.ids);
                    let first = children.first as i32;
                    csr.next.extend(first..first + children.labels.len() as i32);
                }
                allowed => allowed.for_each(|label, next| {
                    csr.ids.push(label as i32);
                    csr.next.push(next as i32);
                }),
            }
            let end = i32::try_from(csr.ids.len());
            csr.indptr.push(end.map_err(|_| bad("fewer than 2,147,483,648 allowed tokens", "more", "ask for fewer rows at once"))?);
        }
        Ok(csr)
    }

    /// Writes minus infinity into the logits, `num_logits` a row, of all tokens that aren't allowed.
    ///
    /// # Errors
    /// `BadArgument` if rows are narrower than the vocabulary, or at a dead end that is an error; then rows before it are written.
    /// `BadStore` if what is read was changed.
    pub fn mask_logits(&self, states: &[u32], dead_end: DeadEnd, num_logits: usize, logits: &mut [f32]) -> Result<()> {
        let vocab_size = self.info().vocab_size as usize;
        if num_logits < vocab_size || logits.len() != states.len() * num_logits {
            let found = format!("{} logits, {num_logits} a row", logits.len());
            return Err(bad(format!("{} rows of {vocab_size} logits or more", states.len()), found, ""));
        }
        for (at, (&state, row)) in states.iter().zip(logits.chunks_exact_mut(num_logits)).enumerate() {
            let mut from = 0;
            self.allowed(at, state, dead_end)?.for_each(|label, _| {
                // Labels ascend, except in a crafted file.
                if let Some(gap) = row.get_mut(from..label as usize) {
                    gap.fill(f32::NEG_INFINITY);
                    from = label as usize + 1;
                }
            });
            row[from.min(num_logits)..].fill(f32::NEG_INFINITY);
        }
        Ok(())
    }
}
