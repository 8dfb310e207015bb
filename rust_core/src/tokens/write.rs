//! Building a token store so that a build killed at any moment goes on where it was, to the same bytes.
//!
//! `PATH.partial` grows by tokens. `PATH.journal` grows by one record a chunk, written after the chunk's tokens: the number of rows,
//! their lengths, the checksum of their token bytes, and the checksum of the record. Resuming keeps the records that are whole and
//! whose tokens are there, and cuts off the rest.

use super::{HEADER_BYTES, MAGIC, TokenInfo, padding};
use crate::disk::mode_like;
use crate::error::{Error, ErrorKind, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Writes one store, chunk by chunk.
pub struct TokenWriter {
    path: PathBuf,
    info: TokenInfo,
    tokens: File,
    journal: File,
    offsets: Vec<u64>,
    hasher: Xxh3,
}

/// `PATH` with `suffix` appended.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Opens a file that grows, through no link.
fn growing(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    options.open(path)
}

impl TokenWriter {
    /// Starts a build of `path`, or goes on with one of the same `info` that was cut short.
    ///
    /// # Arguments
    /// `sources`: where the texts are from; the store is as private as they are.
    ///
    /// # Errors
    /// `BadArgument` for an impossible `info`, or files of these names that no build left; `Io` if the files can't be written.
    pub fn open(path: &Path, info: TokenInfo, sources: &[PathBuf]) -> Result<Self> {
        info.check()?;
        let (partial, journal_path) = (beside(path, ".partial"), beside(path, ".journal"));
        let mode = mode_like(sources.iter().map(PathBuf::as_path).chain([path]));
        let open = |path: &Path| growing(path, mode).map_err(|error| Error::io(&error, path));
        let foreign = |path: &Path| {
            let remedy = "move it away, or choose another name";
            Error::new(ErrorKind::BadArgument, "what an interrupted build left, or nothing", "another file", remedy).at(path, None)
        };
        // A build begins its journal before the other file.
        let has_tokens = fs::metadata(&partial).is_ok_and(|found| found.len() > 0);
        if has_tokens && fs::symlink_metadata(&journal_path).is_err() {
            return Err(foreign(&partial));
        }
        let mut journal = open(&journal_path)?;
        let mut magic = Vec::new();
        (&mut journal).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(|error| Error::io(&error, &journal_path))?;
        if !MAGIC.starts_with(&magic) {
            return Err(foreign(&journal_path));
        }
        journal.rewind().map_err(|error| Error::io(&error, &journal_path))?;
        let tokens = open(&partial)?;
        let mut writer = Self { path: path.into(), info, tokens, journal, offsets: vec![0], hasher: Xxh3::new() };
        writer.resume().map_err(|error| Error::io(&error, partial))?;
        Ok(writer)
    }

    /// Takes over what a former build left, as far as it's whole. A journal of another build is emptied.
    fn resume(&mut self) -> std::io::Result<()> {
        // The header of an empty store names everything the build depends on.
        let head = self.info.header(0, 0, 0);
        let mut journal = Vec::new();
        self.journal.read_to_end(&mut journal)?;
        let mut kept = 0;
        self.tokens.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        if journal.starts_with(&head) {
            kept = HEADER_BYTES;
            while let Some((lengths, checksum, end)) = read_record(&journal, kept) {
                let num_tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
                let mut bytes = Vec::new();
                (&self.tokens).take(num_tokens * u64::from(self.info.width)).read_to_end(&mut bytes)?;
                if xxh3_64(&bytes) != checksum {
                    break;
                }
                self.hasher.update(&bytes);
                self.append_offsets(&lengths);
                kept = end;
            }
        }
        let token_end = HEADER_BYTES as u64 + self.num_tokens() * u64::from(self.info.width);
        self.tokens.set_len(token_end)?;
        self.tokens.seek(SeekFrom::Start(token_end))?;
        self.journal.set_len(kept as u64)?;
        self.journal.seek(SeekFrom::Start(kept as u64))?;
        if kept == 0 {
            self.journal.write_all(&head)?;
        }
        Ok(())
    }

    fn append_offsets(&mut self, lengths: &[u32]) {
        let mut end = self.num_tokens();
        self.offsets.extend(lengths.iter().map(|&length| {
            end += u64::from(length);
            end
        }));
    }

    /// Rows that are safely written: where the source has to go on.
    pub fn num_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    fn num_tokens(&self) -> u64 {
        self.offsets[self.offsets.len() - 1]
    }

    /// Appends the texts of one chunk: their tokens end to end, and each one's number of tokens.
    ///
    /// # Errors
    /// `BadArgument` if lengths and tokens don't fit, a text lacks its special tokens, or a token doesn't fit the width; `Io` if the disk refuses.
    pub fn push(&mut self, tokens: &[u32], lengths: &[u32]) -> Result<()> {
        let bad = |expected: String, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, "").at(&self.path, None));
        let num_tokens: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        if num_tokens != tokens.len() as u64 {
            return bad(format!("{num_tokens} tokens, the sum of the lengths"), tokens.len().to_string());
        }
        if let Some(&length) = lengths.iter().find(|&&length| !self.info.holds(length)) {
            let TokenInfo { num_prefix, num_suffix, max_length, .. } = self.info;
            return bad(format!("{} to {max_length} tokens a text", u32::from(num_prefix) + u32::from(num_suffix)), length.to_string());
        }
        let bytes: Vec<u8> = if self.info.width == 2 {
            if let Some(&token) = tokens.iter().find(|&&token| token > u32::from(u16::MAX)) {
                return bad("tokens that fit 16 bits".into(), token.to_string());
            }
            tokens.iter().flat_map(|&token| (token as u16).to_le_bytes()).collect()
        } else {
            tokens.iter().flat_map(|&token| token.to_le_bytes()).collect()
        };
        let record = write_record(lengths, xxh3_64(&bytes));
        self.tokens.write_all(&bytes).and_then(|()| self.journal.write_all(&record)).map_err(|error| Error::io(&error, &self.path))?;
        self.hasher.update(&bytes);
        self.append_offsets(lengths);
        Ok(())
    }

    /// Writes offsets and header, flushes, and gives the file its name.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        let (partial, journal) = (beside(&self.path, ".partial"), beside(&self.path, ".journal"));
        let mut tail = vec![0u8; padding(self.num_tokens() * u64::from(self.info.width))];
        tail.extend(self.offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        self.hasher.update(&tail);
        let header = self.info.header(self.num_rows() as u64, self.num_tokens(), self.hasher.digest());
        let mut write = || {
            self.tokens.write_all(&tail)?;
            self.tokens.seek(SeekFrom::Start(0))?;
            self.tokens.write_all(&header)?;
            self.tokens.sync_all()?;
            fs::rename(&partial, &self.path)?;
            fs::remove_file(&journal)
        };
        write().map_err(|error| Error::io(&error, &self.path))
    }
}

fn write_record(lengths: &[u32], checksum: u64) -> Vec<u8> {
    let mut record = (lengths.len() as u64).to_le_bytes().to_vec();
    record.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    record.extend(checksum.to_le_bytes());
    record.extend(xxh3_64(&record).to_le_bytes());
    record
}

/// Lengths, checksum of the tokens, and the record's end; `None` if there's no whole record at `at`.
fn read_record(journal: &[u8], at: usize) -> Option<(Vec<u32>, u64, usize)> {
    let number = |at: usize| Some(u64::from_le_bytes(journal.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let num_rows = usize::try_from(number(at)?).ok()?;
    let lengths_end = num_rows.checked_mul(4)?.checked_add(at + 8)?;
    let checksum = number(lengths_end)?;
    if number(lengths_end + 8)? != xxh3_64(&journal[at..lengths_end + 8]) {
        return None;
    }
    let lengths = journal[at + 8..lengths_end].as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    Some((lengths, checksum, lengths_end + 16))
}
