//! The compiled form of score files: fixed-width rows in a memory-mapped file.
//!
//! Cost: `4 + 8 N` bytes a row and 8 bytes an id (more where ids aren't plain numbers) on disk; nothing but the map in memory.
//! Opening reads a header and 8 bytes for each 64 KiB. Every 64 KiB block is compared with its checksum before its first use, so
//! that a changed byte is never used, and a run that samples everything reads everything once more than it must, at memory speed.
//!
//! Layout, little-endian: the header ([`Header::BYTES`]), a body of rows (query u32, docs u32 x N, scores f32 x N), the ids of queries
//! and of docs (codes as in [`Columns`](super::Columns), ends of strings, strings; each list begins at a multiple of 8), then the checksum of
//! each 64 KiB of the body.

use super::columns::STRING;
use super::{BadCounts, Format};
use crate::disk::{self, Checked, checksum_of};
use crate::error::{Error, ErrorKind, Result};
use memmap2::Mmap;
use std::ops::Range;
use std::path::Path;

const MAGIC: &[u8; 8] = b"RDSCORES";
/// 2: no row holds a doc twice, no score is beyond `MAX_SCORE`, and what was skipped for that is counted.
const VERSION: u32 = 2;
const REMEDY: &str = "remove the file; it is compiled again on its next use, or by \"rankdistill scores compile\"";

/// How many ids a list has, how many of them are strings, and how long those are together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IdCounts {
    pub ids: u64,
    pub strings: u64,
    pub string_bytes: u64,
}

/// Everything that the header says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub format: Format,
    pub num_docs: u32,
    pub num_rows: u64,
    pub queries: IdCounts,
    pub docs: IdCounts,
    pub body_bytes: u64,
    pub table_checksum: u64,
    pub bad: BadCounts,
    pub fingerprint: String,
}

impl Header {
    pub const BYTES: usize = 256;

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for value in [VERSION, Self::BYTES as u32, self.format as u32, self.num_docs] {
            bytes.extend(value.to_le_bytes());
        }
        let IdCounts { ids, strings, string_bytes } = self.queries;
        let docs = self.docs;
        let counts = [self.num_rows, ids, strings, string_bytes, docs.ids, docs.strings, docs.string_bytes];
        for value in counts.iter().chain([&self.body_bytes, &self.table_checksum]).chain(&self.bad) {
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend_from_slice(self.fingerprint.as_bytes());
        bytes.resize(Self::BYTES - 8, 0);
        bytes.extend(checksum_of(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a header; the error is what was expected and what was found.
    fn from_bytes(bytes: &[u8]) -> std::result::Result<Self, (String, String)> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if bytes.len() < 16 || &bytes[..8] != MAGIC {
            return Err(("a score store of rankdistill".into(), format!("{} bytes that don't begin with its magic", bytes.len())));
        }
        if u32_at(8) != VERSION {
            return Err((format!("version {VERSION} of the score store"), format!("version {}", u32_at(8))));
        }
        if bytes.len() < Self::BYTES || checksum_of(&bytes[..Self::BYTES - 8]) != u64_at(Self::BYTES - 8) {
            return Err(("a whole header".into(), "one that is torn, or whose checksum differs".into()));
        }
        let counts = |at: usize| IdCounts { ids: u64_at(at), strings: u64_at(at + 8), string_bytes: u64_at(at + 16) };
        let format = Format::ALL.get(u32_at(16) as usize).copied();
        Ok(Self {
            format: format.ok_or_else(|| ("a format from 0 to 3".to_owned(), u32_at(16).to_string()))?,
            num_docs: u32_at(20),
            num_rows: u64_at(24),
            queries: counts(32),
            docs: counts(56),
            body_bytes: u64_at(80),
            table_checksum: u64_at(88),
            bad: std::array::from_fn(|kind| u64_at(96 + 8 * kind)),
            fingerprint: String::from_utf8_lossy(&bytes[168..200]).into_owned(),
        })
    }

    fn row_bytes(&self) -> u64 {
        4 + 8 * u64::from(self.num_docs)
    }

    /// Where the two lists of ids begin and the body ends; `None` if that doesn't fit 64 bits.
    fn layout(&self) -> Option<(IdsAt, IdsAt, u64)> {
        let ids = |at: u64, counts: IdCounts| {
            let codes = at.checked_next_multiple_of(8)?;
            let ends = counts.ids.checked_mul(8)?.checked_add(codes)?;
            let strings = counts.strings.checked_mul(8)?.checked_add(ends)?;
            Some((IdsAt { codes, ends, strings }, strings.checked_add(counts.string_bytes)?))
        };
        let (queries, end) = ids(self.num_rows.checked_mul(self.row_bytes())?, self.queries)?;
        let (docs, end) = ids(end, self.docs)?;
        Some((queries, docs, end.checked_next_multiple_of(8)?))
    }
}

/// Where the parts of a list of ids begin in the body.
#[derive(Debug, Clone, Copy)]
struct IdsAt {
    codes: u64,
    ends: u64,
    strings: u64,
}

/// Which list of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    /// Ids (or texts) of queries.
    Query,
    /// Ids (or texts) of docs.
    Doc,
}

/// A finished store, read-only.
#[derive(Debug)]
pub struct ScoreStore {
    file: Checked<Mmap>,
    header: Header,
    queries: IdsAt,
    docs: IdsAt,
}

impl ScoreStore {
    /// Maps `path`.
    ///
    /// # Errors
    /// `BadStore` if the file is torn, foreign or of another version, or its header was changed; `Io` if it can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |expected: String, found: String| Error::new(ErrorKind::BadStore, expected, found, REMEDY).at(path, None);
        let map = disk::map(path)?;
        let header = Header::from_bytes(&map).map_err(|(expected, found)| bad(expected, found))?;
        // A store has a row (the writer refuses none), so a row is no longer than the file, whatever the header says of its docs.
        let layout = header.layout().filter(|(_, _, end)| *end == header.body_bytes && header.num_rows > 0);
        let (queries, docs, end) = layout.ok_or_else(|| bad("sizes that fit together".into(), "others".into()))?;
        let file = Checked::new(map, Some(path.into()), REMEDY, Header::BYTES, end, Some(header.table_checksum))?;
        Ok(Self { file, header, queries, docs })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path().expect("stores are opened from files")
    }

    /// How many rows it holds.
    pub fn num_rows(&self) -> u64 {
        self.header.num_rows
    }

    /// Docs in each row.
    pub fn num_docs_per_row(&self) -> usize {
        self.header.num_docs as usize
    }

    /// How many distinct ids of a kind there are.
    pub fn num_ids(&self, kind: IdKind) -> u64 {
        self.ids(kind).1.ids
    }

    /// The format of the source.
    pub fn format(&self) -> Format {
        self.header.format
    }

    /// Names the source's content.
    pub fn fingerprint(&self) -> &str {
        &self.header.fingerprint
    }

    /// Rows of the source that were skipped, by kind.
    pub fn bad_rows(&self) -> BadCounts {
        self.header.bad
    }

    fn ids(&self, kind: IdKind) -> (IdsAt, IdCounts) {
        match kind {
            IdKind::Query => (self.queries, self.header.queries),
            IdKind::Doc => (self.docs, self.header.docs),
        }
    }

    /// Compares everything with its checksum, at once.
    ///
    /// # Errors
    /// `BadStore` if a byte was changed.
    pub fn verify(&self) -> Result<()> {
        self.file.verify()
    }

    /// Queries [B], docs [B x N] and scores [B x N] of the given rows, as dense indices.
    ///
    /// # Errors
    /// `BadArgument` for a row that isn't there; `BadStore` if what it reads was changed.
    pub fn gather(&self, rows: &[i64]) -> Result<(Vec<u32>, Vec<u32>, Vec<f32>)> {
        let width = self.num_docs_per_row();
        let row_bytes = self.header.row_bytes() as usize;
        let mut queries = Vec::with_capacity(rows.len());
        let mut docs = Vec::with_capacity(rows.len() * width);
        let mut scores = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            if row < 0 || row as u64 >= self.header.num_rows {
                let expected = format!("rows from 0 to {}", self.header.num_rows as i64 - 1);
                return Err(Error::new(ErrorKind::BadArgument, expected, row.to_string(), "").at(self.path(), None));
            }
            let at = row as usize * row_bytes;
            let (words, _) = self.file.body(at..at + row_bytes)?.as_chunks::<4>();
            queries.push(u32::from_le_bytes(words[0]));
            docs.extend(words[1..=width].iter().map(|word| u32::from_le_bytes(*word)));
            scores.extend(words[1 + width..].iter().map(|word| f32::from_le_bytes(*word)));
        }
        Ok((queries, docs, scores))
    }

    /// The ids of indices `range`, handed to `take` one after the other.
    ///
    /// # Errors
    /// `BadArgument` for an index that isn't there; `BadStore` if what it reads was changed.
    pub fn for_each_id(&self, kind: IdKind, range: Range<u64>, mut take: impl FnMut(&str)) -> Result<()> {
        let (at, counts) = self.ids(kind);
        if range.end > counts.ids {
            let expected = format!("indices below {}", counts.ids);
            return Err(Error::new(ErrorKind::BadArgument, expected, format!("{}", range.end - 1), "").at(self.path(), None));
        }
        let value =
            |at: u64| self.file.body(at as usize..at as usize + 8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes")));
        for index in range {
            let code = value(at.codes + 8 * index)?;
            if code & STRING == 0 {
                take(&code.to_string());
                continue;
            }
            let row = code & !STRING;
            if row >= counts.strings {
                return Err(self.file.bad("ids inside their table", "others"));
            }
            let start = if row == 0 { 0 } else { value(at.ends + 8 * (row - 1))? };
            let end = value(at.ends + 8 * row)?;
            if start > end || end > counts.string_bytes {
                return Err(self.file.bad("ids inside their table", "others"));
            }
            let bytes = self.file.body((at.strings + start) as usize..(at.strings + end) as usize)?;
            take(std::str::from_utf8(bytes).map_err(|_| self.file.bad("ids in UTF-8", "others"))?);
        }
        Ok(())
    }
}
