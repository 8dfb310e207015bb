//! A trie of token sequences (titles), each of which names one or more entities: what a decoder may write next, for all beams at once.
//!
//! - `build` sorts sequences and lays their nodes out level by level; `format` is the file, `base` reads it, `verify` checks all of it;
//! - `overlay` holds what was added and removed since, `snapshot` is both together, and walks; `mask` writes what is allowed.
//!
//! Layout: node 0 is the root, nodes stand in level order, children of a node are neighbours sorted by label. So the first child of
//! each node, which only rises, is all there is: a child is `first + k`, and no pointer is stored. Cost: 4.1 bytes a node (6.1 above
//! a vocabulary of 65,536) and 4 an entity; a step is a binary search in one run of labels.
//!
//! The end token is an ordinary label; the node behind it is a leaf. A leaf has at least one entity, several where titles are the
//! same tokens.

mod base;
mod build;
mod format;
mod labels;
mod mask;
mod overlay;
mod snapshot;
mod verify;

pub use build::Sequences;
pub use mask::{Csr, DeadEnd};
pub use snapshot::Snapshot;

use crate::error::{Error, ErrorKind, Result};
use base::Base;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The state of a row whose tokens begin no sequence. Other states are numbers of nodes, below 2^31.
pub const NONE: u32 = u32::MAX;
/// A node with more children keeps its bitmask.
const WIDE: usize = 1024;

/// What a trie's labels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrieInfo {
    /// Labels are below it.
    pub vocab_size: u32,
    /// The end token.
    pub eos: u32,
    /// What follows the end token.
    pub pad: u32,
    /// 32 characters that name the tokenizer; empty if it isn't known.
    pub fingerprint: String,
}

impl TrieInfo {
    fn check(&self) -> Result<()> {
        let bad = |expected: String, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, ""));
        if !(1..1 << 31).contains(&self.vocab_size) {
            return bad("a vocabulary of 1 to 2,147,483,647 tokens".into(), self.vocab_size.to_string());
        }
        if self.eos.max(self.pad) >= self.vocab_size {
            let expected = format!("end and padding tokens below the vocabulary's {}", self.vocab_size);
            return bad(expected, format!("{} and {}", self.eos, self.pad));
        }
        if !matches!(self.fingerprint.len(), 0 | 32) {
            return bad("a fingerprint of 32 characters, or none".into(), format!("{:?}", self.fingerprint));
        }
        Ok(())
    }
}

/// What becomes of sequences that occur twice, with different ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Their leaf keeps all ids.
    Keep,
    /// They are an error.
    Refuse,
}

/// A trie that can be read and changed at the same time: readers take a [`Snapshot`], writers replace it.
#[derive(Debug)]
pub struct TokenTrie {
    current: RwLock<Arc<Snapshot>>,
    /// Held by the one who is making the next snapshot.
    writer: Mutex<()>,
}

impl TokenTrie {
    fn new(base: Base) -> Self {
        Self { current: RwLock::new(Arc::new(Snapshot::new(Arc::new(base)))), writer: Mutex::new(()) }
    }

    /// The trie of these sequences. `ids` are the entities, by default 0, 1, 2, ...; the same pair of sequence and id counts once.
    /// The same set of pairs gives the same bytes, in whatever order.
    ///
    /// # Errors
    /// `BadArgument` for a sequence that doesn't end in the end token, holds it elsewhere, or has a token beyond the vocabulary.
    pub fn build(sequences: Sequences<'_>, ids: Option<&[u32]>, info: &TrieInfo, on_duplicate: OnDuplicate) -> Result<Self> {
        build::build(sequences, ids, info, on_duplicate).map(Self::new)
    }

    /// Maps a file; each 64 KiB of it is compared with its checksum before its first use.
    ///
    /// # Errors
    /// `BadStore` if the file is torn, foreign or of another version, or its header was changed; `Io` if it can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        Base::open(path).map(Self::new)
    }

    /// The trie whose [`Snapshot::to_bytes`] these are.
    ///
    /// # Errors
    /// As [`TokenTrie::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Base::from_bytes(bytes).map(Self::new)
    }

    /// The trie as it is now. It doesn't change, whatever becomes of the trie.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the snapshot by a changed one, or, after an error, doesn't.
    fn update<T>(&self, change: impl FnOnce(&mut Snapshot) -> Result<T>) -> Result<T> {
        let _alone = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot::clone(&self.snapshot());
        let result = change(&mut next)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(result)
    }

    /// Adds entities; returns how many weren't there. All are there for readers at once, or, after an error, none.
    ///
    /// Cost: what was changed since [`TokenTrie::compact`], plus what is added; so add many in one call.
    ///
    /// # Errors
    /// As [`TokenTrie::build`].
    pub fn add(&self, sequences: Sequences<'_>, ids: &[u32]) -> Result<u64> {
        sequences.check(self.snapshot().info(), Some(ids))?;
        self.update(|next| {
            sequences.iter().zip(ids).try_fold(0, |count, (sequence, &id)| Ok(count + u64::from(next.insert(sequence, id)?)))
        })
    }

    /// Removes the entities of these ids from their sequences, or all entities of the sequences; returns how many.
    ///
    /// # Errors
    /// `BadArgument` if one isn't there; then nothing is removed.
    pub fn remove(&self, sequences: Sequences<'_>, ids: Option<&[u32]>) -> Result<u64> {
        sequences.check(self.snapshot().info(), ids)?;
        self.update(|next| {
            let mut count = 0;
            for (row, sequence) in sequences.iter().enumerate() {
                let id = ids.map(|ids| ids[row]);
                let removed = next.remove(sequence, id)?;
                if removed == 0 {
                    let found = id.map_or("which isn't there".to_owned(), |id| format!("which hasn't id {id}"));
                    let found = format!("sequence {row}, {found}");
                    return Err(Error::new(ErrorKind::BadArgument, "sequences and ids of the trie", found, "nothing was removed"));
                }
                count += removed;
            }
            Ok(count)
        })
    }

    /// Builds the trie anew from what it holds now, so that additions cost no more than the rest. Readers go on meanwhile.
    ///
    /// # Errors
    /// `BadStore` if the trie's file was changed.
    pub fn compact(&self) -> Result<()> {
        self.update(|next| {
            *next = Snapshot::new(Arc::new(next.rebuilt()?));
            Ok(())
        })
    }
}
