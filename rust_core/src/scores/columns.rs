//! Rows as columns, with ids held compactly.

use std::borrow::Cow;
use std::collections::HashSet;
use xxhash_rust::xxh3::xxh3_64;

/// Marks a code that is an index into the block's own strings.
pub(super) const STRING: u64 = 1 << 63;
/// Ids of at most this many digits are held as numbers.
const MAX_DIGITS: usize = 18;

/// Columns of some rows. An id that is a plain decimal number (no sign, no leading zero) is its own code; any other is
/// `STRING | index` into the strings that belong to these columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// One code a row.
    pub queries: Vec<u64>,
    /// `num_docs` codes a row.
    pub docs: Vec<u64>,
    /// `num_docs` scores a row.
    pub scores: Vec<f32>,
    /// Docs in each row; 0 while no row has been seen.
    pub num_docs: usize,
    strings: Vec<u8>,
    ends: Vec<u64>,
}

/// Where columns ended, to go back to when a row turns out to be bad.
pub(super) type Mark = (usize, usize, usize, usize);

/// The value of an id that is a plain decimal number.
pub(super) fn decimal(id: &[u8]) -> Option<u64> {
    if id.is_empty() || id.len() > MAX_DIGITS || (id[0] == b'0' && id.len() > 1) {
        return None;
    }
    id.iter().try_fold(0u64, |value, &byte| byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0')))
}

impl Columns {
    /// How many rows there are.
    pub fn num_rows(&self) -> usize {
        self.queries.len()
    }

    /// The string of a code that is marked as one.
    pub fn string(&self, code: u64) -> &str {
        let index = (code & !STRING) as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        std::str::from_utf8(&self.strings[start..self.ends[index] as usize]).expect("only whole strings are pushed")
    }

    /// The id of a code.
    pub fn id(&self, code: u64) -> Cow<'_, str> {
        if code & STRING == 0 { Cow::Owned(code.to_string()) } else { Cow::Borrowed(self.string(code)) }
    }

    pub(super) fn code(&mut self, id: &str) -> u64 {
        decimal(id.as_bytes()).unwrap_or_else(|| {
            self.strings.extend_from_slice(id.as_bytes());
            self.ends.push(self.strings.len() as u64);
            STRING | (self.ends.len() as u64 - 1)
        })
    }

    /// A doc of a row that the row holds twice, if there is one.
    pub(super) fn repeated(&self, docs: &[u64]) -> Option<u64> {
        if let &[first, second] = docs
            && first != second
            && first & second & STRING == 0
        {
            return None; // nearly every row of two
        }
        // Docs whose hashes differ are different; few rows have two with the same one of so many.
        const NUM_HASHES: usize = 1 << 14;
        let mut seen = [0u64; NUM_HASHES / 64];
        let mut collides = false;
        for &doc in docs {
            let hash = if doc & STRING == 0 { doc } else { xxh3_64(self.string(doc).as_bytes()) };
            let bit = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as usize;
            collides |= seen[bit / 64] >> (bit % 64) & 1 == 1;
            seen[bit / 64] |= 1 << (bit % 64);
        }
        if !collides {
            return None;
        }
        let mut seen = HashSet::with_capacity(docs.len());
        docs.iter().copied().find(|&doc| !seen.insert(self.id(doc)))
    }

    pub(super) fn push_pair(&mut self, query: u64, docs: [u64; 2], scores: [f32; 2]) {
        self.num_docs = 2;
        self.queries.push(query);
        self.docs.extend_from_slice(&docs);
        self.scores.extend_from_slice(&scores);
    }

    pub(super) fn reserve(&mut self, num_rows: usize, num_docs: usize) {
        self.queries.reserve_exact(num_rows);
        self.docs.reserve_exact(num_rows * num_docs);
        self.scores.reserve_exact(num_rows * num_docs);
    }

    pub(super) fn mark(&self) -> Mark {
        (self.queries.len(), self.docs.len(), self.strings.len(), self.ends.len())
    }

    pub(super) fn back_to(&mut self, (queries, docs, strings, ends): Mark) {
        self.queries.truncate(queries);
        self.docs.truncate(docs);
        self.scores.truncate(docs);
        self.strings.truncate(strings);
        self.ends.truncate(ends);
    }

    /// Appends the rows of another part of the same block.
    pub(super) fn append(&mut self, other: &Columns) {
        let (shift, bytes) = (self.ends.len() as u64, self.strings.len() as u64);
        let moved = |&code: &u64| if code & STRING == 0 { code } else { code + shift };
        if other.ends.is_empty() {
            self.queries.extend_from_slice(&other.queries);
            self.docs.extend_from_slice(&other.docs);
        } else {
            self.queries.extend(other.queries.iter().map(moved));
            self.docs.extend(other.docs.iter().map(moved));
        }
        self.scores.extend_from_slice(&other.scores);
        self.strings.extend_from_slice(&other.strings);
        self.ends.extend(other.ends.iter().map(|end| end + bytes));
        self.num_docs = self.num_docs.max(other.num_docs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were() {
        let mut columns = Columns::default();
        for id in ["0", "7", "00", "07", "+7", "-7", "", "é", "999999999999999999", "1000000000000000000", "18446744073709551616"] {
            let code = columns.code(id);
            assert_eq!(columns.id(code), id);
        }
    }
}
