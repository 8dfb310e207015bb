//! What was added to a trie and removed from it since it was built: copies of the nodes on the changed paths.
//!
//! A node of the overlay stands for a node of the base, or for none, and lists its changed children: another node of the overlay, or
//! `NONE` for one that is gone. Paths without a change never meet the overlay, and cost what they did.

use super::snapshot::Snapshot;
use super::{NONE, base::Base};
use crate::error::{Error, ErrorKind, Result};
use std::sync::Arc;

/// A changed node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// The node of the base whose children it has, besides the changes.
    pub base: Option<u32>,
    /// (label, state) of children that aren't the base's, by label; `NONE` for one that is gone.
    pub changes: Vec<(u32, u32)>,
    /// The entities of a leaf, ascending.
    pub ids: Vec<u32>,
}

impl Node {
    pub fn change(&self, label: u32) -> Option<u32> {
        self.changes.binary_search_by_key(&label, |&(label, _)| label).ok().map(|at| self.changes[at].1)
    }

    fn set(&mut self, label: u32, state: u32) {
        match self.changes.binary_search_by_key(&label, |&(label, _)| label) {
            Ok(at) => self.changes[at].1 = state,
            Err(at) => self.changes.insert(at, (label, state)),
        }
    }

    /// The child of the base behind `label`, whether it's gone or not.
    fn base_child(&self, base: &Base, label: u32) -> Result<Option<u32>> {
        let Some(node) = self.base else { return Ok(None) };
        let children = base.children(node)?;
        Ok(base.labels(children.clone())?.find(label).map(|at| children.start + at as u32))
    }
}

impl Snapshot {
    /// A new node of the overlay, as a state.
    fn push(&mut self, node: Node) -> Result<u32> {
        let state = u64::from(self.base.header.num_nodes) + self.overlay.len() as u64;
        if state >= u64::from(NONE >> 1) {
            return Err(Error::new(ErrorKind::BadArgument, "fewer than 2,147,483,647 nodes", "more", "call compact()"));
        }
        self.overlay.push(Arc::new(node));
        Ok(state as u32)
    }

    fn node_mut(&mut self, state: u32) -> &mut Node {
        Arc::make_mut(&mut self.overlay[(state - self.base.header.num_nodes) as usize])
    }

    fn node(&self, state: u32) -> &Node {
        &self.overlay[(state - self.base.header.num_nodes) as usize]
    }

    /// The root's copy, made if it isn't there.
    fn changed_root(&mut self) -> Result<u32> {
        if self.overlay.is_empty() { self.push(Node { base: Some(0), ..Node::default() }) } else { Ok(self.root()) }
    }

    /// The copy of a child of a copied node, made if it isn't there.
    fn changed_child(&mut self, parent: u32, label: u32) -> Result<u32> {
        let node = match self.node(parent).change(label) {
            Some(NONE) => Node::default(),
            Some(state) => return Ok(state),
            None => match self.node(parent).base_child(&self.base, label)? {
                None => Node::default(),
                Some(child) => {
                    let ids = if label == self.base.info().eos { self.base.ids(child)? } else { vec![] };
                    Node { base: Some(child), changes: vec![], ids }
                }
            },
        };
        let state = self.push(node)?;
        self.node_mut(parent).set(label, state);
        Ok(state)
    }

    /// Adds an entity to a sequence that `Sequences::check` found right; `false` if it's there.
    pub(super) fn insert(&mut self, sequence: &[u32], id: u32) -> Result<bool> {
        let there = self.walk_labels(sequence)?;
        if there != NONE && self.ids(there)?.binary_search(&id).is_ok() {
            return Ok(false);
        }
        let mut state = self.changed_root()?;
        for &label in sequence {
            state = self.changed_child(state, label)?;
        }
        let ids = &mut self.node_mut(state).ids;
        if let Err(at) = ids.binary_search(&id) {
            ids.insert(at, id);
        }
        self.num_entities += 1;
        self.num_sequences += u64::from(there == NONE);
        self.max_depth = self.max_depth.max(sequence.len());
        Ok(true)
    }

    /// Removes an entity from a sequence, or all of them; returns how many.
    pub(super) fn remove(&mut self, sequence: &[u32], id: Option<u32>) -> Result<u64> {
        let there = self.walk_labels(sequence)?;
        if there == NONE {
            return Ok(0);
        }
        let mut kept = self.ids(there)?;
        let before = kept.len();
        kept.retain(|&other| id.is_some_and(|id| id != other));
        let removed = before - kept.len();
        if removed == 0 {
            return Ok(0);
        }
        let mut path = vec![self.changed_root()?];
        for &label in sequence {
            path.push(self.changed_child(path[path.len() - 1], label)?);
        }
        let empty = kept.is_empty();
        self.node_mut(path[sequence.len()]).ids = kept;
        let counts = (self.num_entities.checked_sub(removed as u64), self.num_sequences.checked_sub(u64::from(empty)));
        let (Some(num_entities), Some(num_sequences)) = counts else {
            return Err(self.base.bad("counts in the header that are right", "lower ones"));
        };
        (self.num_entities, self.num_sequences) = (num_entities, num_sequences);
        if empty {
            self.cut(&path, sequence)?;
        }
        Ok(removed as u64)
    }

    /// Takes a leaf, and then every parent that has no child left, from its own parent.
    fn cut(&mut self, path: &[u32], sequence: &[u32]) -> Result<()> {
        for (&parent, &label) in path.iter().zip(sequence).rev() {
            let in_base = self.node(parent).base_child(&self.base, label)?.is_some();
            let node = self.node_mut(parent);
            if in_base {
                node.set(label, NONE);
            } else {
                node.changes.retain(|&(other, _)| other != label);
            }
            if !self.children(parent)?.is_empty() {
                break;
            }
        }
        Ok(())
    }
}
