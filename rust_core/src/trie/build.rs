//! Sequences to the trie's file: sort them, then one pass for each level.
//!
//! No sequence is a prefix of another, since each ends in the end token and holds it nowhere else. So sequences differ within
//! the length of both, and their first tokens, packed into 64 bits, may be compared as one number.

use super::base::{Base, FAR};
use super::format::{GROUP, Header, SAMPLE, seal};
use super::{NONE, OnDuplicate, TrieInfo, WIDE};
use crate::error::{Error, ErrorKind, Result};

/// Sequences end to end, with the length of each.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    /// All tokens.
    pub tokens: &'a [u32],
    /// Tokens of each sequence, the end token included.
    pub lengths: &'a [u32],
}

impl<'a> Sequences<'a> {
    /// Where each begins, and the end.
    fn offsets(self) -> Vec<usize> {
        let mut at = 0;
        let mut offsets = vec![0];
        offsets.extend(self.lengths.iter().map(|&length| {
            at += length as usize;
            at
        }));
        offsets
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = &'a [u32]> {
        let mut rest = self.tokens;
        self.lengths.iter().map(move |&length| {
            let (sequence, others) = rest.split_at(length as usize);
            rest = others;
            sequence
        })
    }

    /// That lengths fit the tokens, and each sequence is one that a trie can hold.
    pub fn check(self, info: &TrieInfo, ids: Option<&[u32]>) -> Result<()> {
        let bad = |expected: String, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, ""));
        let total: usize = self.lengths.iter().map(|&length| length as usize).sum();
        if total != self.tokens.len() {
            return bad(format!("{total} tokens, the sum of the lengths"), self.tokens.len().to_string());
        }
        if let Some(ids) = ids.filter(|ids| ids.len() != self.lengths.len()) {
            return bad(format!("an id for each of {} sequences", self.lengths.len()), ids.len().to_string());
        }
        for (row, sequence) in self.iter().enumerate() {
            let Some((&last, inner)) = sequence.split_last() else {
                return bad("sequences of at least one token".into(), format!("none in sequence {row}"));
            };
            // Most are right; which of the two rules is broken is looked at after.
            if last == info.eos && inner.iter().all(|&token| token < info.vocab_size && token != info.eos) {
                continue;
            }
            let shown = format!("{:?}{}", &sequence[..sequence.len().min(8)], if sequence.len() > 8 { "…" } else { "" });
            if sequence.iter().any(|&token| token >= info.vocab_size) {
                return bad(format!("tokens below the vocabulary's {}", info.vocab_size), format!("{shown} as sequence {row}"));
            }
            let expected = format!("sequences that end in the end token {} and hold it nowhere else", info.eos);
            return bad(expected, format!("{shown} as sequence {row}"));
        }
        Ok(())
    }
}

/// Row numbers in the order of their sequences, then ids, then rows.
fn sorted_rows(sequences: Sequences<'_>, offsets: &[usize], id: impl Fn(u32) -> u32, narrow: bool) -> Vec<u32> {
    let (packed, bits) = if narrow { (4, 16) } else { (2, 32) };
    let of = |row: u32| &sequences.tokens[offsets[row as usize]..offsets[row as usize + 1]];
    let key = |row: u32| {
        let first = of(row).iter().chain(std::iter::repeat(&0)).take(packed);
        first.fold(0u64, |key, &token| key << bits | u64::from(token))
    };
    let rest = |row: u32| of(row).get(packed..).unwrap_or(&[]);
    let mut order: Vec<(u64, u32)> = (0..sequences.lengths.len() as u32).map(|row| (key(row), row)).collect();
    order.sort_unstable_by(|&(key_a, a), &(key_b, b)| {
        key_a.cmp(&key_b).then_with(|| rest(a).cmp(rest(b))).then_with(|| (id(a), a).cmp(&(id(b), b)))
    });
    order.into_iter().map(|(_, row)| row).collect()
}

/// Distinct sequences in order, with their ids.
struct Sorted {
    tokens: Vec<u32>,
    starts: Vec<usize>,
    /// Where the ids of each sequence begin, and the end.
    id_starts: Vec<u32>,
    ids: Vec<u32>,
}

impl Sorted {
    fn new(sequences: Sequences<'_>, ids: Option<&[u32]>, info: &TrieInfo, on_duplicate: OnDuplicate) -> Result<Self> {
        let offsets = sequences.offsets();
        let id = |row: u32| ids.map_or(row, |ids| ids[row as usize]);
        let rows = sorted_rows(sequences, &offsets, id, info.vocab_size <= 1 << 16);
        let mut sorted = Self { tokens: Vec::with_capacity(sequences.tokens.len()), starts: vec![], id_starts: vec![], ids: vec![] };
        let mut last: Option<u32> = None;
        for row in rows {
            let of = |row: u32| &sequences.tokens[offsets[row as usize]..offsets[row as usize + 1]];
            match last.filter(|&last| of(last) == of(row)) {
                Some(last) if on_duplicate == OnDuplicate::Refuse => {
                    let found = format!("sequence {} equal to sequence {}", last.max(row), last.min(row));
                    let remedy = "leave one of them out, or pass on_duplicate=\"keep\" to keep the ids of both";
                    return Err(Error::new(ErrorKind::BadArgument, "distinct sequences", found, remedy));
                }
                // The same id twice says nothing new; equal ids are neighbours.
                Some(last) if id(last) == id(row) => continue,
                Some(_) => {}
                None => {
                    sorted.starts.push(sorted.tokens.len());
                    sorted.id_starts.push(sorted.ids.len() as u32);
                    sorted.tokens.extend_from_slice(of(row));
                }
            }
            sorted.ids.push(id(row));
            last = Some(row);
        }
        sorted.id_starts.push(sorted.ids.len() as u32);
        Ok(sorted)
    }
}

fn words(values: impl Iterator<Item = u32>) -> Vec<u8> {
    values.flat_map(u32::to_le_bytes).collect()
}

/// The nodes of all levels, from the root on.
#[derive(Default)]
struct Levels {
    labels: Vec<u32>,
    /// First child of each node, and the end.
    first: Vec<u32>,
    /// Which sequence each leaf ends, in the order of leaves.
    leaves: Vec<u32>,
    depth: u32,
}

impl Levels {
    fn new(sorted: &Sorted, eos: u32) -> Result<Self> {
        let mut levels = Self { labels: vec![0], ..Self::default() };
        // A node is the run of sequences that begin with it; a leaf's is empty.
        let mut level = vec![(0, sorted.starts.len())];
        let mut next = Vec::new();
        while !level.is_empty() {
            for &(start, end) in &level {
                levels.first.push(levels.labels.len() as u32);
                let label_of = |sequence: usize| sorted.tokens[sorted.starts[sequence] + levels.depth as usize];
                let mut from = start;
                while from < end {
                    let label = label_of(from);
                    let to = (from + 1..end).find(|&other| label_of(other) != label).unwrap_or(end);
                    levels.labels.push(label);
                    if label == eos {
                        levels.leaves.push(from as u32);
                        next.push((from, from));
                    } else {
                        next.push((from, to));
                    }
                    from = to;
                }
            }
            if levels.labels.len() >= (NONE >> 1) as usize {
                let found = format!("more at depth {}", levels.depth);
                return Err(Error::new(ErrorKind::BadArgument, "fewer than 2,147,483,647 nodes", found, "split the titles over two tries"));
            }
            std::mem::swap(&mut level, &mut next);
            next.clear();
            levels.depth += 1;
        }
        levels.first.push(levels.labels.len() as u32);
        // The last round found no children.
        levels.depth -= 1;
        Ok(levels)
    }
}

/// The trie of these sequences, each with an id (its row without `ids`). The same set of (sequence, id) gives the same bytes.
pub(super) fn build(sequences: Sequences<'_>, ids: Option<&[u32]>, info: &TrieInfo, on_duplicate: OnDuplicate) -> Result<Base> {
    info.check()?;
    sequences.check(info, ids)?;
    if sequences.lengths.len() >= NONE as usize {
        return Err(Error::new(ErrorKind::BadArgument, "fewer than 4,294,967,295 sequences", "more", ""));
    }
    let sorted = Sorted::new(sequences, ids, info, on_duplicate)?;
    let Levels { labels, first, leaves, depth } = Levels::new(&sorted, info.eos)?;
    let num_nodes = labels.len();
    let delta = |node: usize| first[node] - first[node / GROUP as usize * GROUP as usize];
    let is_far = |node: &usize| delta(*node) >= u32::from(FAR);
    let far: Vec<u32> = (0..=num_nodes).filter(is_far).flat_map(|node| [node as u32, first[node]]).collect();
    let wide: Vec<u32> = (0..num_nodes).filter(|&node| (first[node + 1] - first[node]) as usize > WIDE).map(|node| node as u32).collect();
    let ids_of = |&leaf: &u32| &sorted.ids[sorted.id_starts[leaf as usize] as usize..sorted.id_starts[leaf as usize + 1] as usize];
    let (mut shared, mut beyond) = (Vec::new(), 0);
    for (rank, leaf) in leaves.iter().enumerate().filter(|(_, leaf)| ids_of(leaf).len() > 1) {
        beyond += ids_of(leaf).len() as u32 - 1;
        shared.extend([rank as u32, beyond]);
    }
    let header = Header {
        info: info.clone(),
        max_depth: depth,
        num_nodes: num_nodes as u32,
        num_leaves: leaves.len() as u32,
        num_entities: sorted.ids.len() as u32,
        num_far: far.len() as u32 / 2,
        num_wide: wide.len() as u32,
        num_shared: shared.len() as u32 / 2,
    };
    let label_bytes: Vec<u8> = if header.label_bytes() == 2 {
        labels.iter().flat_map(|&label| (label as u16).to_le_bytes()).collect()
    } else {
        words(labels.iter().copied())
    };
    let deltas: Vec<u8> = (0..=num_nodes).flat_map(|node| (delta(node).min(u32::from(FAR)) as u16).to_le_bytes()).collect();
    let mut samples = Vec::with_capacity(num_nodes / SAMPLE as usize + 1);
    let mut before = 0;
    for (node, &label) in labels.iter().enumerate() {
        if node.is_multiple_of(SAMPLE as usize) {
            samples.push(before);
        }
        before += u32::from(node > 0 && label == info.eos);
    }
    let bytes = seal(
        &header,
        [
            &label_bytes,
            &deltas,
            &words(first.iter().step_by(GROUP as usize).copied()),
            &words(samples.into_iter()),
            &words(leaves.iter().flat_map(ids_of).copied()),
            &words(shared.into_iter()),
            &words(far.into_iter()),
            &words(wide.into_iter()),
        ],
    );
    Base::from_sealed(bytes)
}
