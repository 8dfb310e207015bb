//! A trie at one moment: states, steps, and the sequences behind them.

use super::base::Base;
use super::build::{Sequences, build};
use super::labels::Labels;
use super::overlay::Node;
use super::{NONE, OnDuplicate, TrieInfo, format};
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// A trie that doesn't change. A state below the number of the base's nodes is such a node; the others are the overlay's.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(super) base: Arc<Base>,
    pub(super) overlay: Vec<Arc<Node>>,
    pub(super) num_entities: u64,
    pub(super) num_sequences: u64,
    pub(super) max_depth: usize,
}

/// The children of a state: a run of nodes of the base, but for the changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Children<'a> {
    /// The node of the base whose children they are, if there are any.
    pub parent: u32,
    pub labels: Labels<'a>,
    pub first: u32,
    pub changes: &'a [(u32, u32)],
    /// Whether the state is a leaf.
    pub is_leaf: bool,
}

impl Children<'_> {
    /// Whether there are none, or all are gone. (What is gone is the base's, each child once.)
    pub fn is_empty(&self) -> bool {
        self.labels.len() <= self.changes.len() && self.changes.iter().all(|&(_, state)| state == NONE)
    }

    fn find(&self, label: u32) -> u32 {
        match self.changes.binary_search_by_key(&label, |&(label, _)| label) {
            Ok(at) => self.changes[at].1,
            Err(_) => self.labels.find(label).map_or(NONE, |at| self.first + at as u32),
        }
    }

    /// Label and state of each child, by label.
    pub fn for_each(&self, mut take: impl FnMut(u32, u32)) {
        let mut state = self.first;
        if self.changes.is_empty() {
            return self.labels.for_each(|label| {
                take(label, state);
                state += 1;
            });
        }
        let mut changes = self.changes.iter().copied().peekable();
        let mut take_live = |(label, state): (u32, u32)| {
            if state != NONE {
                take(label, state);
            }
        };
        self.labels.for_each(|label| {
            while let Some(change) = changes.next_if(|&(changed, _)| changed < label) {
                take_live(change);
            }
            take_live(changes.next_if(|&(changed, _)| changed == label).unwrap_or((label, state)));
            state += 1;
        });
        changes.for_each(take_live);
    }
}

/// A complete sequence and its entities, ascending.
pub type Entry = (Vec<u32>, Vec<u32>);

impl Snapshot {
    pub(super) fn new(base: Arc<Base>) -> Self {
        let header = &base.header;
        Self {
            overlay: Vec::new(),
            num_entities: u64::from(header.num_entities),
            num_sequences: u64::from(header.num_leaves),
            max_depth: header.max_depth as usize,
            base,
        }
    }

    /// What the labels are.
    pub fn info(&self) -> &TrieInfo {
        self.base.info()
    }

    /// The file, if the trie was opened from one and not compacted since.
    pub fn path(&self) -> Option<&Path> {
        self.base.path()
    }

    /// Whether entities were added or removed since the trie was built.
    pub fn is_changed(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// Pairs of a sequence and an entity.
    pub fn num_entities(&self) -> u64 {
        self.num_entities
    }

    /// Distinct sequences.
    pub fn num_sequences(&self) -> u64 {
        self.num_sequences
    }

    /// Nodes held, those of removed sequences included: one more than the greatest state.
    pub fn num_nodes(&self) -> usize {
        self.base.header.num_nodes as usize + self.overlay.len()
    }

    /// No sequence is longer, the end token included.
    pub fn max_depth(&self) -> usize {
        self.max_depth
    }

    /// The state before the first token.
    pub fn root(&self) -> u32 {
        if self.overlay.is_empty() { 0 } else { self.base.header.num_nodes }
    }

    #[inline]
    pub(super) fn children(&self, state: u32) -> Result<Children<'_>> {
        let in_base = |node: u32| {
            let nodes = self.base.children(node)?;
            Ok((nodes.start, self.base.labels(nodes)?))
        };
        if state < self.base.header.num_nodes {
            let (first, labels) = in_base(state)?;
            return Ok(Children { parent: state, labels, first, changes: &[], is_leaf: state > 0 && labels.len() == 0 });
        }
        let Some(node) = self.overlay.get((state - self.base.header.num_nodes) as usize) else {
            let expected = format!("states from -1 to {}", self.num_nodes() as i64 - 1);
            return Err(Error::new(ErrorKind::BadArgument, expected, (state as i32).to_string(), "states are of one snapshot"));
        };
        let (first, labels) = node.base.map_or(Ok((0, Labels::EMPTY)), in_base)?;
        let (changes, is_leaf) = (&node.changes[..], !node.ids.is_empty());
        Ok(Children { parent: node.base.unwrap_or(NONE), labels, first, changes, is_leaf })
    }

    /// The state after one more token. Padding doesn't leave a leaf; what isn't allowed leads to `NONE`, and so does all after it.
    ///
    /// # Errors
    /// `BadArgument` for a state that isn't there; `BadStore` if what is read was changed.
    #[inline]
    pub fn step(&self, state: u32, token: i64) -> Result<u32> {
        if state == NONE {
            return Ok(NONE);
        }
        let children = self.children(state)?;
        if children.is_leaf {
            return Ok(if token == i64::from(self.info().pad) { state } else { NONE });
        }
        Ok(u32::try_from(token).map_or(NONE, |label| children.find(label)))
    }

    /// The state after these tokens.
    ///
    /// # Errors
    /// `BadStore` if what is read was changed.
    pub fn walk(&self, tokens: &[i64]) -> Result<u32> {
        tokens.iter().try_fold(self.root(), |state, &token| self.step(state, token))
    }

    /// The state after exactly these labels.
    pub(super) fn walk_labels(&self, labels: &[u32]) -> Result<u32> {
        labels.iter().try_fold(self.root(), |state, &label| {
            if state == NONE { Ok(NONE) } else { self.children(state).map(|children| children.find(label)) }
        })
    }

    /// The states after the tokens of each row, its first `start` left out.
    ///
    /// # Errors
    /// `BadArgument` if rows are shorter than `start`; `BadStore` if what is read was changed.
    pub fn walk_rows(&self, tokens: &[i64], num_rows: usize, start: usize) -> Result<Vec<u32>> {
        let length = tokens.len().checked_div(num_rows).unwrap_or(start);
        if start > length {
            return Err(Error::new(ErrorKind::BadArgument, format!("a start of at most {length}"), start.to_string(), ""));
        }
        (0..num_rows).map(|row| self.walk(&tokens[row * length + start..(row + 1) * length])).collect()
    }

    /// New states: row i continues row `parents[i]` (row i without parents) by `tokens[i]`.
    ///
    /// # Errors
    /// `BadArgument` for a parent that isn't there, or another number of tokens; `BadStore` if what is read was changed.
    pub fn advance(&self, states: &[u32], tokens: &[i64], parents: Option<&[i64]>) -> Result<Vec<u32>> {
        let num_rows = parents.map_or(states.len(), <[i64]>::len);
        if tokens.len() != num_rows {
            return Err(Error::new(ErrorKind::BadArgument, format!("{num_rows} tokens, one a row"), tokens.len().to_string(), ""));
        }
        let Some(parents) = parents else {
            return states.iter().zip(tokens).map(|(&state, &token)| self.step(state, token)).collect();
        };
        let parent_of = |parent: i64| {
            usize::try_from(parent).ok().and_then(|parent| states.get(parent)).copied().ok_or_else(|| {
                let expected = format!("parents from 0 to {}", states.len() as i64 - 1);
                Error::new(ErrorKind::BadArgument, expected, parent.to_string(), "")
            })
        };
        parents.iter().zip(tokens).map(|(&parent, &token)| self.step(parent_of(parent)?, token)).collect()
    }

    /// Hands each label that may follow, and the state after it, to `take`, by label.
    pub(crate) fn each_child(&self, state: u32, take: impl FnMut(u32, u32)) -> Result<()> {
        if state != NONE {
            self.children(state)?.for_each(take);
        }
        Ok(())
    }

    /// Whether the tokens before this state are a complete sequence.
    ///
    /// # Errors
    /// `BadArgument` for a state that isn't there; `BadStore` if what is read was changed.
    pub fn is_leaf(&self, state: u32) -> Result<bool> {
        Ok(state != NONE && self.children(state)?.is_leaf)
    }

    /// The entities of a state: none unless it's a leaf.
    ///
    /// # Errors
    /// `BadArgument` for a state that isn't there; `BadStore` if what is read was changed.
    pub fn ids(&self, state: u32) -> Result<Vec<u32>> {
        if !self.is_leaf(state)? {
            return Ok(vec![]);
        }
        match state.checked_sub(self.base.header.num_nodes) {
            None => self.base.ids(state),
            Some(at) => Ok(self.overlay[at as usize].ids.clone()),
        }
    }

    /// The first `limit` sequences that begin with `prefix`, in the order of their tokens, with their entities; with `only`, those
    /// that name one of these entities (ascending), and no other entity of theirs.
    ///
    /// # Errors
    /// `BadStore` if what is read was changed.
    pub fn sequences(&self, prefix: &[u32], limit: usize, only: Option<&[u32]>) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        self.each_sequence(prefix, |sequence, mut ids| {
            if let Some(only) = only {
                ids.retain(|id| only.binary_search(id).is_ok());
            }
            if found.len() < limit && !ids.is_empty() {
                found.push((sequence.to_vec(), ids));
            }
            found.len() < limit
        })?;
        Ok(found)
    }

    /// Hands each sequence that begins with `prefix` to `take`, until that returns `false`.
    fn each_sequence(&self, prefix: &[u32], mut take: impl FnMut(&[u32], Vec<u32>) -> bool) -> Result<()> {
        let mut path = prefix.to_vec();
        let mut waiting = vec![(path.len(), None, self.walk_labels(prefix)?)];
        let mut num_visited = 0;
        while let Some((depth, label, state)) = waiting.pop() {
            if state == NONE {
                continue;
            }
            num_visited += 1;
            if num_visited > self.num_nodes() {
                return Err(self.base.bad("every node below one parent", "nodes that are reached twice"));
            }
            path.truncate(depth);
            path.extend(label);
            let children = self.children(state)?;
            if children.is_leaf {
                if !take(&path, self.ids(state)?) {
                    break;
                }
                continue;
            }
            let from = waiting.len();
            children.for_each(|label, child| waiting.push((path.len(), Some(label), child)));
            waiting[from..].reverse();
        }
        Ok(())
    }

    /// The trie of the same sequences without an overlay.
    pub(super) fn rebuilt(&self) -> Result<Base> {
        let (mut tokens, mut lengths, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        self.each_sequence(&[], |sequence, entities| {
            for id in entities {
                tokens.extend_from_slice(sequence);
                lengths.push(sequence.len() as u32);
                ids.push(id);
            }
            true
        })?;
        build(Sequences { tokens: &tokens, lengths: &lengths }, Some(&ids), self.info(), OnDuplicate::Keep)
    }

    /// The bytes of the trie's file, changes included.
    ///
    /// # Errors
    /// `BadStore` if the trie's own file was changed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.is_changed() {
            return Ok(self.rebuilt()?.bytes().to_vec());
        }
        self.base.verify_checksums()?;
        Ok(self.base.bytes().to_vec())
    }

    /// Writes the trie's file, changes included; it gets its name when it's whole and on the disk.
    ///
    /// # Errors
    /// `Io` if the disk refuses; `BadStore` if the trie's own file was changed.
    pub fn save(&self, path: &Path) -> Result<()> {
        if self.is_changed() {
            return format::write_whole(path, self.rebuilt()?.bytes());
        }
        self.base.verify_checksums()?;
        format::write_whole(path, self.base.bytes())
    }

    /// Compares the whole file with its checksums, and checks that it is a trie.
    ///
    /// # Errors
    /// `BadStore` if it isn't.
    pub fn verify(&self) -> Result<()> {
        self.base.verify()
    }
}
