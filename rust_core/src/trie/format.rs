//! The trie's file: header, layout of the body, and writing it whole or not at all.
//!
//! Little-endian. A header of [`Header::BYTES`], a body whose sections follow from the header's counts (each begins at a multiple of
//! [`ALIGN`]), then the checksum of each [`BLOCK_BYTES`] of the body. A trie in memory is the same bytes, so there is one way to read.

use super::TrieInfo;
use crate::disk::{BLOCK_BYTES, aside, checksum_of, publish};
use crate::error::{Error, Result};
use std::io::Write;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RDTRIE\0\0";
const VERSION: u32 = 1;
const ALIGN: u64 = 64;
/// Nodes that share one 32-bit base of their first children.
pub(super) const GROUP: u32 = 64;
/// Nodes between two samples of the number of leaves.
pub(super) const SAMPLE: u32 = 512;
pub(super) const REMEDY: &str = "remove the file and build it again with \"rankdistill trie build\"";

/// Everything that the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub info: TrieInfo,
    /// Tokens of the longest sequence, the end token included.
    pub max_depth: u32,
    pub num_nodes: u32,
    pub num_leaves: u32,
    pub num_entities: u32,
    /// Nodes whose first child is too far from their group's base for 16 bits.
    pub num_far: u32,
    /// Nodes with more children than [`WIDE`](super::WIDE).
    pub num_wide: u32,
    /// Leaves with several ids.
    pub num_shared: u32,
}

/// Where each section of the body begins, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Label of the edge into each node; 2 bytes up to a vocabulary of 65,536, else 4.
    pub labels: usize,
    /// First child of each node less that of its group's first node, u16, or [`FAR`](super::base::FAR); one more for the end.
    pub deltas: usize,
    /// First child of each group's first node, u32.
    pub bases: usize,
    /// Leaves before every [`SAMPLE`]th node, u32.
    pub samples: usize,
    /// Ids of the leaves, in their order, u32.
    pub ids: usize,
    /// (rank, ids beyond one a leaf up to and with this one) u32 pairs for leaves with several ids, by rank.
    pub shared: usize,
    /// (node, first child) u32 pairs for deltas of `FAR`, by node.
    pub far: usize,
    /// Nodes with many children, u32, ascending.
    pub wide: usize,
    /// The body's length.
    pub end: usize,
}

impl Header {
    pub const BYTES: usize = 256;

    pub fn to_bytes(&self, table_checksum: u64) -> [u8; Self::BYTES] {
        let TrieInfo { vocab_size, eos, pad, fingerprint } = &self.info;
        let mut bytes = MAGIC.to_vec();
        let counts = [self.num_nodes, self.num_leaves, self.num_entities, self.num_far, self.num_wide, self.num_shared];
        for value in [VERSION, Self::BYTES as u32, *vocab_size, *eos, *pad, self.max_depth].into_iter().chain(counts) {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(table_checksum.to_le_bytes());
        bytes.extend_from_slice(fingerprint.as_bytes());
        bytes.resize(Self::BYTES - 8, 0);
        bytes.extend(checksum_of(&bytes).to_le_bytes());
        bytes.try_into().expect("fields that fit the header")
    }

    /// The header and the checksum of the table of checksums; the error is what was expected and what was found.
    pub fn from_bytes(bytes: &[u8]) -> std::result::Result<(Self, u64), (String, String)> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes.len() < 12 || &bytes[..8] != MAGIC {
            return Err(("a trie of rankdistill".into(), format!("{} bytes that don't begin with its magic", bytes.len())));
        }
        if u32_at(8) != VERSION {
            return Err((format!("version {VERSION} of the trie"), format!("version {}", u32_at(8))));
        }
        if bytes.len() < Self::BYTES || checksum_of(&bytes[..Self::BYTES - 8]) != u64_at(Self::BYTES - 8) {
            return Err(("a whole header".into(), "one that is torn, or whose checksum differs".into()));
        }
        let fingerprint = String::from_utf8_lossy(&bytes[64..96]).trim_end_matches('\0').to_owned();
        let info = TrieInfo { vocab_size: u32_at(16), eos: u32_at(20), pad: u32_at(24), fingerprint };
        info.check().map_err(|error| (error.expected, error.found))?;
        let header = Self {
            info,
            max_depth: u32_at(28),
            num_nodes: u32_at(32),
            num_leaves: u32_at(36),
            num_entities: u32_at(40),
            num_far: u32_at(44),
            num_wide: u32_at(48),
            num_shared: u32_at(52),
        };
        let fits = (1..super::NONE >> 1).contains(&header.num_nodes)
            && header.num_leaves < header.num_nodes
            && header.num_leaves <= header.num_entities;
        if fits { Ok((header, u64_at(56))) } else { Err(("counts that fit together".into(), "others".into())) }
    }

    /// Bytes of a label.
    pub fn label_bytes(&self) -> usize {
        if self.info.vocab_size <= 1 << 16 { 2 } else { 4 }
    }

    /// Where the sections are. All counts are 32 bits wide, so 64 bits hold every sum.
    pub fn layout(&self) -> Layout {
        let mut end = 0u64;
        let mut section = |count: u64, width: u64| {
            let at = end.next_multiple_of(ALIGN);
            end = at + count * width;
            at as usize
        };
        let nodes = u64::from(self.num_nodes);
        Layout {
            labels: section(nodes, self.label_bytes() as u64),
            deltas: section(nodes + 1, 2),
            bases: section(nodes / u64::from(GROUP) + 1, 4),
            samples: section(nodes.div_ceil(u64::from(SAMPLE)), 4),
            ids: section(u64::from(self.num_entities), 4),
            shared: section(u64::from(self.num_shared), 8),
            far: section(u64::from(self.num_far), 8),
            wide: section(u64::from(self.num_wide), 4),
            end: end as usize,
        }
    }
}

/// The file's bytes, of a body without its gaps: sections in the order of [`Layout`].
pub(super) fn seal(header: &Header, sections: [&[u8]; 8]) -> Vec<u8> {
    let layout = header.layout();
    let starts = [layout.labels, layout.deltas, layout.bases, layout.samples, layout.ids, layout.shared, layout.far, layout.wide];
    let mut bytes = Vec::with_capacity(Header::BYTES + layout.end + 8 * layout.end.div_ceil(BLOCK_BYTES));
    bytes.resize(Header::BYTES, 0);
    for (start, section) in starts.into_iter().zip(sections) {
        bytes.resize(Header::BYTES + start, 0);
        bytes.extend_from_slice(section);
    }
    assert_eq!(bytes.len(), Header::BYTES + layout.end, "sections as long as the header says");
    let table: Vec<u8> = bytes[Header::BYTES..].chunks(BLOCK_BYTES).flat_map(|block| checksum_of(block).to_le_bytes()).collect();
    let head = header.to_bytes(checksum_of(&table));
    bytes[..Header::BYTES].copy_from_slice(&head);
    bytes.extend(table);
    bytes
}

/// Writes beside `path`, flushes, and gives the file its name.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = aside(path, &[])?;
    file.write_all(bytes).and_then(|()| publish(file, path)).map_err(|error| Error::io(&error, path))
}
