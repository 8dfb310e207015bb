//! The immutable part of a trie: its file, mapped or in memory.
//!
//! Opening reads the header and 8 bytes for each 64 KiB; every block is compared with its checksum before its first use. Whatever
//! else a file holds, answers may be wrong, but nothing panics and nothing runs on: places are checked, and children stand behind
//! their parents.

use super::format::{GROUP, Header, Layout, REMEDY, SAMPLE};
use super::labels::Labels;
use super::{TrieInfo, WIDE};
use crate::disk::{self, Checked};
use crate::error::{Error, ErrorKind, Result};
use memmap2::Mmap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The delta of a node whose first child stands in the list of far ones.
pub(super) const FAR: u16 = u16::MAX;

pub(super) fn first_of(pair: [u8; 8]) -> u32 {
    u64::from_le_bytes(pair) as u32
}

pub(super) fn second_of(pair: [u8; 8]) -> u32 {
    (u64::from_le_bytes(pair) >> 32) as u32
}

#[derive(Debug)]
enum Bytes {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

/// One file of a trie, read-only.
#[derive(Debug)]
pub(super) struct Base {
    file: Checked<Bytes>,
    pub header: Header,
    layout: Layout,
    /// Bitmask rows of the wide nodes, made when they're first asked for.
    rows: Box<[OnceLock<Box<[i32]>>]>,
}

impl Base {
    /// Maps a file.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(Some(path.into()), Bytes::Mapped(disk::map(path)?), false)
    }

    /// Takes bytes that may be of any origin.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::new(None, Bytes::Owned(bytes), false)
    }

    /// Takes bytes that `seal` has just made.
    pub fn from_sealed(bytes: Vec<u8>) -> Result<Self> {
        Self::new(None, Bytes::Owned(bytes), true)
    }

    fn new(path: Option<PathBuf>, bytes: Bytes, verified: bool) -> Result<Self> {
        let bad = |expected: String, found: String| {
            let error = Error::new(ErrorKind::BadStore, expected, found, REMEDY);
            if let Some(path) = &path { error.at(path, None) } else { error }
        };
        let (header, table_checksum) = Header::from_bytes(&bytes).map_err(|(expected, found)| bad(expected, found))?;
        let layout = header.layout();
        let table_checksum = (!verified).then_some(table_checksum);
        let file = Checked::new(bytes, path, REMEDY, Header::BYTES, layout.end as u64, table_checksum)?;
        // After the check of the length, which the header's counts agree with.
        let rows = (0..header.num_wide).map(|_| OnceLock::new()).collect();
        Ok(Self { file, header, layout, rows })
    }

    /// The file, if it was opened from one.
    pub fn path(&self) -> Option<&Path> {
        self.file.path()
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        self.file.bytes()
    }

    pub fn info(&self) -> &TrieInfo {
        &self.header.info
    }

    pub(super) fn bad(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.file.bad(expected, found)
    }

    #[inline]
    fn body(&self, at: usize, length: usize) -> Result<&[u8]> {
        self.file.body(at..at + length)
    }

    /// Compares every block with its checksum.
    pub fn verify_checksums(&self) -> Result<()> {
        self.file.verify()
    }

    #[inline]
    fn word(&self, section: usize, index: u32) -> Result<u32> {
        let bytes = self.body(section + 4 * index as usize, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes")))
    }

    pub(super) fn words(&self, section: usize, range: Range<u32>) -> Result<impl Iterator<Item = u32> + '_> {
        let bytes = self.body(section + 4 * range.start as usize, 4 * range.len())?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)))
    }

    pub(super) fn pairs(&self, section: usize, count: u32) -> Result<&[[u8; 8]]> {
        Ok(self.body(section, 8 * count as usize)?.as_chunks().0)
    }

    #[inline]
    fn first_child(&self, node: u32, delta: [u8; 2]) -> Result<u32> {
        match u16::from_le_bytes(delta) {
            FAR => self.far_child(node),
            delta => Ok(self.word(self.layout.bases, node / GROUP)?.wrapping_add(u32::from(delta))),
        }
    }

    #[cold]
    fn far_child(&self, node: u32) -> Result<u32> {
        let pairs = self.pairs(self.layout.far, self.header.num_far)?;
        let found = pairs.binary_search_by_key(&node, |pair| first_of(*pair));
        found.map(|at| second_of(pairs[at])).map_err(|_| self.bad("the first child of every node", format!("none of node {node}")))
    }

    /// The children of `node < num_nodes`: a run of nodes behind it.
    #[inline]
    pub fn children(&self, node: u32) -> Result<Range<u32>> {
        let (deltas, _) = self.body(self.layout.deltas + 2 * node as usize, 4)?.as_chunks::<2>();
        let (start, end) = (self.first_child(node, deltas[0])?, self.first_child(node + 1, deltas[1])?);
        if node < start && start <= end && end <= self.header.num_nodes {
            Ok(start..end)
        } else {
            Err(self.bad("children behind their parent", format!("nodes {start} to {end} as those of node {node}")))
        }
    }

    /// The labels of a run of nodes.
    #[inline]
    pub fn labels(&self, nodes: Range<u32>) -> Result<Labels<'_>> {
        let width = self.header.label_bytes();
        let bytes = self.body(self.layout.labels + nodes.start as usize * width, nodes.len() * width)?;
        Ok(Labels::new(bytes, width))
    }

    /// Where a leaf stands among all leaves, in the order of nodes.
    fn leaf_rank(&self, node: u32) -> Result<u32> {
        let sample = node / SAMPLE;
        // The root's label means nothing.
        let before = self.labels((sample * SAMPLE).max(1)..node.max(1))?;
        Ok(self.word(self.layout.samples, sample)?.wrapping_add(before.count(self.header.info.eos)))
    }

    /// Where the ids of a leaf of this rank stand: one a leaf, and those beyond.
    pub(super) fn id_range(&self, rank: u32) -> Result<Range<u32>> {
        let shared = self.pairs(self.layout.shared, self.header.num_shared)?;
        let at = shared.partition_point(|pair| first_of(*pair) < rank);
        let before = if at == 0 { 0 } else { second_of(shared[at - 1]) };
        let after = shared.get(at).filter(|pair| first_of(**pair) == rank).map_or(before, |pair| second_of(*pair));
        let (start, end) = (u64::from(rank) + u64::from(before), u64::from(rank) + 1 + u64::from(after));
        if start < end && end <= u64::from(self.header.num_entities) {
            Ok(start as u32..end as u32)
        } else {
            Err(self.bad("ids inside their table", "others"))
        }
    }

    /// The ids of a leaf, ascending.
    pub fn ids(&self, leaf: u32) -> Result<Vec<u32>> {
        Ok(self.words(self.layout.ids, self.id_range(self.leaf_rank(leaf)?)?)?.collect())
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The bitmask of a node with many children, made once.
    pub fn wide_row(&self, node: u32, labels: Labels<'_>) -> Result<Option<&[i32]>> {
        if labels.len() <= WIDE {
            return Ok(None);
        }
        let bytes = self.body(self.layout.wide, 4 * self.header.num_wide as usize)?;
        let found = bytes.as_chunks::<4>().0.binary_search_by_key(&node, |word| u32::from_le_bytes(*word));
        Ok(found.ok().map(|at| {
            &**self.rows[at].get_or_init(|| {
                let mut row = vec![0; self.header.info.vocab_size.div_ceil(32) as usize];
                labels.set_bits(&mut row);
                row.into()
            })
        }))
    }
}
