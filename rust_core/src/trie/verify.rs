//! The full check of a file: all that `build` guarantees, in one pass.

use super::WIDE;
use super::base::{Base, first_of, second_of};
use super::format::SAMPLE;
use crate::error::Result;

impl Base {
    /// Compares everything with its checksums, and checks that what the checksums cover is a trie.
    pub fn verify(&self) -> Result<()> {
        self.verify_checksums()?;
        let (header, layout) = (&self.header, self.layout());
        let samples: Vec<u32> = self.words(layout.samples, 0..header.num_nodes.div_ceil(SAMPLE))?.collect();
        let mut wide = self.words(layout.wide, 0..header.num_wide)?;
        let (mut next, mut num_leaves, mut depth, mut level_end) = (1, 0, 0, 1);
        for node in 0..header.num_nodes {
            if node == level_end {
                (depth, level_end) = (depth + 1, next);
            }
            let children = self.children(node)?;
            if children.start != next {
                return Err(self.bad("children that follow each other", format!("a gap before those of node {node}")));
            }
            next = children.end;
            let labels = self.labels(children)?;
            let sorted = (1..labels.len()).all(|at| labels.get(at - 1) < labels.get(at));
            if !sorted || labels.len() > 0 && labels.get(labels.len() - 1) >= header.info.vocab_size {
                return Err(self.bad("labels that ascend and are in the vocabulary", format!("others below node {node}")));
            }
            if labels.len() > WIDE && wide.next() != Some(node) {
                return Err(self.bad("a list of all nodes with many children", format!("one without node {node}")));
            }
            if node.is_multiple_of(SAMPLE) && samples[(node / SAMPLE) as usize] != num_leaves {
                return Err(self.bad("counts of leaves that are right", format!("another before node {node}")));
            }
            if node > 0 {
                let is_leaf = self.labels(node..node + 1)?.get(0) == header.info.eos;
                if is_leaf != (labels.len() == 0) {
                    return Err(self.bad("leaves behind the end token, and only there", format!("node {node}")));
                }
                num_leaves += u32::from(is_leaf);
            }
        }
        if next != header.num_nodes || num_leaves != header.num_leaves || depth != header.max_depth || wide.next().is_some() {
            return Err(self.bad("counts in the header that are right", "others"));
        }
        let shared = self.pairs(layout.shared, header.num_shared)?;
        let (mut rank, mut beyond) = (None, 0);
        for &pair in shared {
            if rank >= Some(first_of(pair)) || first_of(pair) >= header.num_leaves || second_of(pair) <= beyond {
                return Err(self.bad("leaves with several ids, ascending", "others"));
            }
            (rank, beyond) = (Some(first_of(pair)), second_of(pair));
        }
        if header.num_leaves.checked_add(beyond) != Some(header.num_entities) {
            return Err(self.bad(format!("{} ids at leaves", header.num_entities), "another number"));
        }
        for rank in 0..header.num_leaves {
            let ids: Vec<u32> = self.words(layout.ids, self.id_range(rank)?)?.collect();
            if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(self.bad("ids that ascend at every leaf", format!("others at leaf {rank}")));
            }
        }
        Ok(())
    }
}
