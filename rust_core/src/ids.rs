//! Ids of a collection: a compact list of strings with the way back from string to row.
//!
//! Cost: the id's own bytes, plus 8 bytes for its end, plus 5 to 11 bytes of hash slots. A look-up is one hash and, mostly, one comparison.

use crate::error::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::xxh3_64;

/// Distinct strings in order of arrival. Slots hold `row + 1`, 0 is free; collisions go to the next slot.
#[derive(Debug, Clone, Default)]
pub struct IdTable {
    bytes: Vec<u8>,
    ends: Vec<u64>,
    slots: Vec<u32>,
}

impl IdTable {
    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The id of `row < len`.
    pub fn get(&self, row: usize) -> &str {
        // Only whole strings are ever appended (`from_parts` checks), so the cut is at character borders.
        std::str::from_utf8(self.raw(row)).expect("ids are UTF-8")
    }

    fn raw(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.bytes[start..self.ends[row] as usize]
    }

    /// The row of `id`.
    pub fn row(&self, id: &str) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        self.find(id.as_bytes()).err()
    }

    /// `Err(row)` where `id` is, or `Ok(slot)` where it would go.
    fn find(&self, id: &[u8]) -> std::result::Result<usize, usize> {
        let mask = self.slots.len() - 1;
        let mut slot = xxh3_64(id) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => return Ok(slot),
                taken if self.raw(taken as usize - 1) == id => return Err(taken as usize - 1),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Appends `id`; `false`, and no change, if it's there already.
    ///
    /// # Panics
    /// At 2^32 - 1 ids.
    pub fn push(&mut self, id: &str) -> bool {
        self.reserve(self.len() + 1);
        let Ok(slot) = self.find(id.as_bytes()) else { return false };
        self.bytes.extend_from_slice(id.as_bytes());
        self.ends.push(self.bytes.len() as u64);
        self.slots[slot] = u32::try_from(self.len()).expect("fewer than 2^32 ids");
        true
    }

    /// Keeps the slots at most 3/4 full.
    fn reserve(&mut self, num_ids: usize) {
        if num_ids * 4 <= self.slots.len() * 3 {
            return;
        }
        self.slots = vec![0; (num_ids * 4).div_ceil(3).next_power_of_two().max(16)];
        for row in 0..self.len() {
            if let Ok(slot) = self.find(self.raw(row)) {
                self.slots[slot] = row as u32 + 1;
            }
        }
    }

    /// All ids end to end, and where each ends: what [`IdTable::from_parts`] takes.
    pub fn parts(&self) -> (&[u8], &[u64]) {
        (&self.bytes, &self.ends)
    }

    /// The table of ids that [`IdTable::parts`] gave.
    ///
    /// # Errors
    /// `BadStore` if the parts don't fit together.
    pub fn from_parts(bytes: Vec<u8>, ends: Vec<u64>) -> Result<Self> {
        let bad = |found: &str| {
            Error::new(ErrorKind::BadStore, "ids and their ends, as they were saved", found, "remove the file; it's built again")
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| bad(&error.to_string()))?;
        let ordered = ends.windows(2).all(|pair| pair[0] <= pair[1]);
        if !ordered
            || ends.last().copied().unwrap_or(0) != bytes.len() as u64
            || !ends.iter().all(|&end| text.is_char_boundary(end as usize))
        {
            return Err(bad("ends that don't fit the ids"));
        }
        let num_ids = ends.len();
        let mut table = Self { bytes, ends, slots: Vec::new() };
        table.reserve(num_ids);
        let distinct = table.slots.iter().filter(|&&slot| slot != 0).count();
        if distinct == num_ids { Ok(table) } else { Err(bad("an id that occurs twice")) }
    }
}

#[cfg(test)]
mod tests {
    use super::IdTable;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(ids in proptest::collection::vec("[a-d]{0,3}|é[0-9]{1,4}", 0..200)) {
            let mut table = IdTable::default();
            let mut twin: HashMap<String, usize> = HashMap::new();
            for id in &ids {
                let next = twin.len();
                prop_assert_eq!(table.push(id), !twin.contains_key(id));
                twin.entry(id.clone()).or_insert(next);
            }
            prop_assert_eq!(table.len(), twin.len());
            let (bytes, ends) = table.parts();
            let again = IdTable::from_parts(bytes.to_vec(), ends.to_vec()).unwrap();
            for (id, &row) in &twin {
                prop_assert_eq!(table.row(id), Some(row));
                prop_assert_eq!(again.row(id), Some(row));
                prop_assert_eq!(again.get(row), id.as_str());
            }
            prop_assert_eq!(table.row("not there"), None);
        }
    }

    #[test]
    fn refuses_parts_that_do_not_fit() {
        for (bytes, ends) in [("ab", vec![1]), ("ab", vec![2, 1, 2]), ("é", vec![1, 2]), ("aa", vec![1, 2]), ("", vec![1])] {
            assert!(IdTable::from_parts(bytes.as_bytes().to_vec(), ends.clone()).is_err(), "{bytes} {ends:?}");
        }
    }
}
