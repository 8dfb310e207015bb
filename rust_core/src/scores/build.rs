//! Writing a score store. Memory grows with distinct ids (about 14 bytes each, plus the characters of those that aren't numbers), not with rows.

use super::columns::{Columns, STRING};
use super::store::{Header, IdCounts};
use super::{BadCounts, Format};
use crate::disk::{BLOCK_BYTES, aside, checksum_of, publish};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::IdTable;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Dense indices for ids, in order of arrival.
#[derive(Default)]
struct Interner {
    /// The code of each id: a number, or `STRING | row of strings`.
    codes: Vec<u64>,
    /// Open addressing over `codes`: index + 1, 0 is free.
    slots: Vec<u32>,
    strings: IdTable,
}

fn hash(code: u64) -> u64 {
    let x = (code ^ (code >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

impl Interner {
    /// The index of the id that `code` stands for in `columns`; `None` when there are 2^32 - 1 ids already.
    fn index(&mut self, code: u64, columns: &Columns) -> Option<u32> {
        let code = if code & STRING == 0 {
            code
        } else {
            let id = columns.string(code);
            let row = self.strings.row(id).unwrap_or_else(|| {
                self.strings.push(id);
                self.strings.len() - 1
            });
            STRING | row as u64
        };
        if (self.codes.len() + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut slot = (hash(code) >> 20) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => break,
                taken if self.codes[taken as usize - 1] == code => return Some(taken - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
        if self.codes.len() as u64 >= u64::from(u32::MAX) - 1 {
            return None;
        }
        self.codes.push(code);
        self.slots[slot] = self.codes.len() as u32;
        Some(self.codes.len() as u32 - 1)
    }

    fn grow(&mut self) {
        let mask = (self.slots.len() * 2).max(1 << 10) - 1;
        self.slots = vec![0; mask + 1];
        for (index, &code) in self.codes.iter().enumerate() {
            let mut slot = (hash(code) >> 20) as usize & mask;
            while self.slots[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.slots[slot] = index as u32 + 1;
        }
    }

    fn counts(&self) -> IdCounts {
        let (bytes, ends) = self.strings.parts();
        IdCounts { ids: self.codes.len() as u64, strings: ends.len() as u64, string_bytes: bytes.len() as u64 }
    }
}

/// Writes one store, block by block, into a temporary file that gets its name when all is on the disk; dropping it unfinished removes it.
pub struct ScoreStoreWriter {
    path: PathBuf,
    file: NamedTempFile,
    /// Body bytes that aren't written yet, always less than a checksummed block after `flush`.
    pending: Vec<u8>,
    body_bytes: u64,
    checksums: Vec<u64>,
    format: Format,
    num_docs: usize,
    num_rows: u64,
    queries: Interner,
    docs: Interner,
}

impl ScoreStoreWriter {
    /// Starts a store that will be at `path`.
    ///
    /// # Arguments
    /// `sources`: what it's made of; it's as private as they are.
    ///
    /// # Errors
    /// `BadArgument` if `path` is there and isn't a file; `Io` if the folder can't be written.
    pub fn create(path: &Path, format: Format, sources: &[PathBuf]) -> Result<Self> {
        let mut file = aside(path, sources)?;
        file.seek(SeekFrom::Start(Header::BYTES as u64)).map_err(|error| Error::io(&error, path))?;
        Ok(Self {
            path: path.into(),
            file,
            pending: Vec::new(),
            body_bytes: 0,
            checksums: Vec::new(),
            format,
            num_docs: 0,
            num_rows: 0,
            queries: Interner::default(),
            docs: Interner::default(),
        })
    }

    /// Rows so far.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Appends the rows of a block.
    ///
    /// # Errors
    /// `BadData` for a block with another number of docs, or too many ids; `Io` if the disk refuses.
    pub fn push(&mut self, columns: &Columns) -> Result<()> {
        if self.num_docs == 0 {
            self.num_docs = columns.num_docs;
        }
        if columns.num_docs != self.num_docs {
            let found = columns.num_docs.to_string();
            return Err(Error::new(ErrorKind::BadData, format!("{} docs a row", self.num_docs), found, "").at(&self.path, None));
        }
        let too_many = || Error::new(ErrorKind::BadData, "fewer than 4,294,967,295 distinct ids", "more", "split the file");
        let rows = columns.docs.chunks_exact(self.num_docs).zip(columns.scores.chunks_exact(self.num_docs));
        for (&query, (docs, scores)) in columns.queries.iter().zip(rows) {
            let query = self.queries.index(query, columns).ok_or_else(too_many)?;
            self.pending.extend_from_slice(&query.to_le_bytes());
            for &doc in docs {
                let doc = self.docs.index(doc, columns).ok_or_else(too_many)?;
                self.pending.extend_from_slice(&doc.to_le_bytes());
            }
            for score in scores {
                self.pending.extend_from_slice(&score.to_le_bytes());
            }
        }
        self.num_rows += columns.num_rows() as u64;
        self.flush(false).map_err(|error| Error::io(&error, &self.path))
    }

    /// Writes whole checksummed blocks; with `all`, also the last, which may be shorter.
    fn flush(&mut self, all: bool) -> io::Result<()> {
        let length = if all { self.pending.len() } else { self.pending.len() / BLOCK_BYTES * BLOCK_BYTES };
        self.checksums.extend(self.pending[..length].chunks(BLOCK_BYTES).map(checksum_of));
        self.file.write_all(&self.pending[..length])?;
        self.pending.drain(..length);
        self.body_bytes += length as u64;
        Ok(())
    }

    fn pad(&mut self) {
        let length = (self.body_bytes as usize + self.pending.len()).next_multiple_of(8) - self.body_bytes as usize;
        self.pending.resize(length, 0);
    }

    fn put_ids(&mut self, ids: &Interner) -> io::Result<()> {
        self.pad();
        let (bytes, ends) = ids.strings.parts();
        for part in ids.codes.chunks(BLOCK_BYTES).chain(ends.chunks(BLOCK_BYTES)) {
            self.pending.extend(part.iter().flat_map(|value| value.to_le_bytes()));
            self.flush(false)?;
        }
        self.pending.extend_from_slice(bytes);
        self.flush(false)
    }

    /// Completes the file and gives it its name.
    ///
    /// # Arguments
    /// `fingerprint`: 32 characters that name the source; empty takes a digest of the store's own content.
    ///
    /// # Errors
    /// `BadData` if there is no row; `Io` if the disk refuses.
    pub fn finish(mut self, fingerprint: &str, bad: BadCounts) -> Result<()> {
        if self.num_rows == 0 {
            let found = format!("none ({} bad rows)", bad.iter().sum::<u64>());
            return Err(Error::new(
                ErrorKind::BadData,
                "at least one good row",
                found,
                "look at the file with `rankdistill scores inspect`",
            ));
        }
        let (queries, docs) = (std::mem::take(&mut self.queries), std::mem::take(&mut self.docs));
        let mut write = || {
            self.put_ids(&queries)?;
            self.put_ids(&docs)?;
            self.pad();
            self.flush(true)?;
            let table: Vec<u8> = self.checksums.iter().flat_map(|checksum| checksum.to_le_bytes()).collect();
            self.file.write_all(&table)?;
            let own = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&table));
            let header = Header {
                format: self.format,
                num_docs: self.num_docs as u32,
                num_rows: self.num_rows,
                queries: queries.counts(),
                docs: docs.counts(),
                body_bytes: self.body_bytes,
                table_checksum: checksum_of(&table),
                bad,
                fingerprint: if fingerprint.is_empty() { own } else { fingerprint.into() },
            };
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(&header.to_bytes())
        };
        write().and_then(|()| publish(self.file, &self.path)).map_err(|error| Error::io(&error, &self.path))
    }
}
