//! Token store: the token ids of many texts in one memory-mapped file, and padded batches from it in one call.
//!
//! Cost: 2 bytes a token (4 where the vocabulary doesn't fit 16 bits) plus 8 bytes a text on disk; nothing but the map in memory.
//! Opening reads the file once, for the checksum; a batch copies each of its tokens once.
//!
//! Layout, little-endian: a header of [`HEADER_BYTES`], the tokens of all texts end to end, zeros up to a multiple of 8, then
//! `num_rows + 1` offsets (u64, counted in tokens).

mod batch;
mod write;

pub use batch::{PaddedBatch, PairShape};
pub use write::TokenWriter;

use crate::disk;
use crate::error::{Error, ErrorKind, Result};
use memmap2::Mmap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 8] = b"RDTOKENS";
const VERSION: u32 = 1;
/// Size of the header: magic 8, version 4, token width 4, rows 8, tokens 8, max_length 4, prefix 2, suffix 2, body checksum 8,
/// tokenizer fingerprint 32, source fingerprint 32, free 8, header checksum 8.
pub const HEADER_BYTES: usize = 128;
/// Vocabularies are smaller. A table of all tokens that 4 bytes can name would take 4 GiB.
const COMMON_TOKENS: u32 = 1 << 20;
const REMEDY: &str = "remove the file; it's built again on its next use";

/// What a store was built from, and how its texts look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// 32 characters that name the tokenizer and its settings.
    pub tokenizer: String,
    /// 32 characters that name the texts.
    pub source: String,
    /// No text has more tokens, special ones included.
    pub max_length: u32,
    /// Special tokens before each text's own ([CLS]): 1 for BERT.
    pub num_prefix: u16,
    /// Special tokens after each text's own ([SEP]): 1 for BERT.
    pub num_suffix: u16,
    /// Bytes a token: 2 or 4.
    pub width: u32,
}

impl TokenInfo {
    fn check(&self) -> Result<()> {
        let bad = |expected: &str, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, ""));
        if self.tokenizer.len() != 32 || self.source.len() != 32 {
            return bad("fingerprints of 32 bytes", format!("{:?} and {:?}", self.tokenizer, self.source));
        }
        if self.width != 2 && self.width != 4 {
            return bad("a token width of 2 or 4 bytes", self.width.to_string());
        }
        if u32::from(self.num_prefix) + u32::from(self.num_suffix) > self.max_length || self.max_length == 0 {
            return bad("a max_length that holds the special tokens", self.max_length.to_string());
        }
        Ok(())
    }

    /// Whether a text may have that many tokens.
    fn holds(&self, length: u32) -> bool {
        (u32::from(self.num_prefix) + u32::from(self.num_suffix)..=self.max_length).contains(&length)
    }

    fn header(&self, num_rows: u64, num_tokens: u64, body_checksum: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0u8; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&self.width.to_le_bytes());
        header[16..24].copy_from_slice(&num_rows.to_le_bytes());
        header[24..32].copy_from_slice(&num_tokens.to_le_bytes());
        header[32..36].copy_from_slice(&self.max_length.to_le_bytes());
        header[36..38].copy_from_slice(&self.num_prefix.to_le_bytes());
        header[38..40].copy_from_slice(&self.num_suffix.to_le_bytes());
        header[40..48].copy_from_slice(&body_checksum.to_le_bytes());
        header[48..80].copy_from_slice(self.tokenizer.as_bytes());
        header[80..112].copy_from_slice(self.source.as_bytes());
        let checksum = xxh3_64(&header[..HEADER_BYTES - 8]);
        header[HEADER_BYTES - 8..].copy_from_slice(&checksum.to_le_bytes());
        header
    }
}

/// Bytes of zeros between tokens and offsets, so that offsets are aligned to 8.
fn padding(token_bytes: u64) -> usize {
    (token_bytes.wrapping_neg() % 8) as usize
}

/// A finished store, read-only.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    map: Mmap,
    info: TokenInfo,
    num_rows: usize,
    num_tokens: usize,
    offsets_at: usize,
}

impl TokenStore {
    /// Maps `path`; with `verify`, reads it once and compares the checksum.
    ///
    /// # Errors
    /// `BadStore` if the file is torn, changed, foreign or of another version; `Io` if it can't be read.
    pub fn open(path: &Path, verify: bool) -> Result<Self> {
        let bad = |expected: &str, found: String| Error::new(ErrorKind::BadStore, expected, found, REMEDY).at(path, None);
        let map = disk::map(path)?;
        if map.len() < 12 || &map[..8] != MAGIC {
            return Err(bad("a token store of rankdistill", format!("{} bytes that don't begin with its magic", map.len())));
        }
        let number = |at: usize, size: usize| map[at..at + size].iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
        if number(8, 4) != u64::from(VERSION) {
            return Err(bad(&format!("version {VERSION} of the token store"), format!("version {}", number(8, 4))));
        }
        if map.len() < HEADER_BYTES || xxh3_64(&map[..HEADER_BYTES - 8]) != number(HEADER_BYTES - 8, 8) {
            return Err(bad("a whole header", "a header whose checksum differs".into()));
        }
        let text = |at: usize| String::from_utf8_lossy(&map[at..at + 32]).into_owned();
        let info = TokenInfo {
            width: number(12, 4) as u32,
            max_length: number(32, 4) as u32,
            num_prefix: number(36, 2) as u16,
            num_suffix: number(38, 2) as u16,
            tokenizer: text(48),
            source: text(80),
        };
        info.check().map_err(|error| bad(&error.expected, error.found))?;
        let (num_rows, num_tokens) = (number(16, 8), number(24, 8));
        let sizes = || {
            let token_bytes = num_tokens.checked_mul(u64::from(info.width))?;
            let offsets_at = token_bytes.checked_add((HEADER_BYTES + padding(token_bytes)) as u64)?;
            Some((offsets_at, num_rows.checked_add(1)?.checked_mul(8)?.checked_add(offsets_at)?))
        };
        let (offsets_at, end) = sizes().ok_or_else(|| bad("sizes that fit 64 bits", "larger ones".into()))?;
        if end != map.len() as u64 {
            return Err(bad(&format!("{end} bytes"), format!("{}", map.len())));
        }
        if verify {
            let mut hasher = Xxh3::new();
            hasher.update(&map[HEADER_BYTES..]);
            if hasher.digest() != number(40, 8) {
                return Err(bad("the checksum in the header", "another: the file was changed or torn".into()));
            }
        }
        let store = Self {
            path: path.into(),
            info,
            num_rows: num_rows as usize,
            num_tokens: num_tokens as usize,
            offsets_at: offsets_at as usize,
            map,
        };
        // Cheap beside the checksum, and it makes every later slice safe even without it.
        let ends_well = store.offset(0) == 0 && store.offset(store.num_rows) == store.num_tokens;
        let fits =
            |row: usize| u32::try_from(store.offset(row + 1).wrapping_sub(store.offset(row))).is_ok_and(|length| store.info.holds(length));
        if !ends_well || !(0..store.num_rows).all(fits) {
            return Err(bad("offsets that rise by a text's special tokens at least, by max_length at most", "others".into()));
        }
        Ok(store)
    }

    fn offset(&self, row: usize) -> usize {
        let at = self.offsets_at + row * 8;
        u64::from_le_bytes(self.map[at..at + 8].try_into().expect("8 bytes")) as usize
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was built from.
    pub fn info(&self) -> &TokenInfo {
        &self.info
    }

    /// How many texts it holds.
    pub fn num_rows(&self) -> usize {
        self.num_rows
    }

    /// How many tokens they have in all.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Checks rows that come from outside.
    fn row_of(&self, row: i64) -> Result<usize> {
        usize::try_from(row).ok().filter(|&row| row < self.num_rows).ok_or_else(|| {
            let expected = format!("rows from 0 to {}", self.num_rows as i64 - 1);
            Error::new(ErrorKind::BadArgument, expected, row.to_string(), "a row of -1 is an id that the collection lacks")
                .at(&self.path, None)
        })
    }

    /// Tokens of each of `rows`, special ones included.
    ///
    /// # Errors
    /// `BadArgument` for a row that isn't there.
    pub fn lengths(&self, rows: &[i64]) -> Result<Vec<i32>> {
        rows.iter().map(|&row| self.row_of(row).map(|row| (self.offset(row + 1) - self.offset(row)) as i32)).collect()
    }

    /// The tokens that occur in any text, in order, special ones included. One pass over the file.
    pub fn distinct_tokens(&self) -> Vec<i64> {
        let (mut common, mut rare) = (Vec::new(), BTreeSet::new());
        let mut mark = |token: u32| {
            if let Some(occurs) = common.get_mut(token as usize) {
                *occurs = true;
            } else if token < COMMON_TOKENS {
                common.resize(token as usize, false);
                common.push(true);
            } else {
                rare.insert(token);
            }
        };
        let width = self.info.width as usize;
        let bytes = &self.map[HEADER_BYTES..HEADER_BYTES + self.num_tokens * width];
        if width == 2 {
            bytes.as_chunks::<2>().0.iter().for_each(|token| mark(u16::from_le_bytes(*token).into()));
        } else {
            bytes.as_chunks::<4>().0.iter().for_each(|token| mark(u32::from_le_bytes(*token)));
        }
        let common = (0..).zip(common).filter_map(|(token, occurs)| occurs.then_some(token));
        common.chain(rare.into_iter().map(i64::from)).collect()
    }

    /// Bytes of the tokens of one text.
    fn token_bytes(&self, row: usize) -> &[u8] {
        let width = self.info.width as usize;
        &self.map[HEADER_BYTES + self.offset(row) * width..HEADER_BYTES + self.offset(row + 1) * width]
    }
}
