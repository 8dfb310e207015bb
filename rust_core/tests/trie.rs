//! Tries against the plainest twin, an ordered map of sequences to sets of ids, on generated inputs.

mod fuzz;

use fuzz::{Rng, fuzz};
use rankdistill_core::error::ErrorKind;
use rankdistill_core::trie::{DeadEnd, NONE, OnDuplicate, Sequences, Snapshot, TokenTrie, TrieInfo};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

type Twin = BTreeMap<Vec<u32>, BTreeSet<u32>>;
type Pairs = Vec<(Vec<u32>, u32)>;

fn info(rng: &mut Rng) -> TrieInfo {
    let vocab_size = [4, 40, 65_536, 65_537, 300_000][rng.below(5)];
    let eos = rng.below(vocab_size) as u32;
    let pad = if rng.one_in(2) { eos } else { rng.below(vocab_size) as u32 };
    let fingerprint = if rng.one_in(2) { String::new() } else { "f".repeat(32) };
    TrieInfo { vocab_size: vocab_size as u32, eos, pad, fingerprint }
}

/// Few distinct tokens, so that sequences share beginnings; one of them is the greatest label.
fn token(rng: &mut Rng, info: &TrieInfo) -> u32 {
    let token = if rng.one_in(8) { info.vocab_size - 1 } else { rng.below(3) as u32 };
    if token == info.eos { (token + 1) % info.vocab_size } else { token }
}

fn sequence(rng: &mut Rng, info: &TrieInfo) -> Vec<u32> {
    let length = rng.below(5);
    (0..length).map(|_| token(rng, info)).chain([info.eos]).collect()
}

fn pairs(rng: &mut Rng, info: &TrieInfo, most: usize) -> Pairs {
    let mut pairs: Pairs = (0..rng.below(most + 1)).map(|_| (sequence(rng, info), rng.below(6) as u32)).collect();
    if rng.one_in(200) && info.vocab_size > 40 {
        // A node wide enough to have its bitmask kept.
        let before: Vec<u32> = (0..rng.below(3)).map(|_| token(rng, info)).collect();
        let labels = (0..1100u32).map(|i| i * 31).filter(|&label| label != info.eos);
        pairs.extend(labels.map(|label| ([&before[..], &[label, info.eos]].concat(), label)));
    }
    pairs
}

fn twin_of(pairs: &Pairs) -> Twin {
    let mut twin = Twin::new();
    for (sequence, id) in pairs {
        twin.entry(sequence.clone()).or_default().insert(*id);
    }
    twin
}

/// Tokens end to end, their lengths, and the ids.
fn flat(pairs: &Pairs) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let tokens = pairs.iter().flat_map(|(sequence, _)| sequence.iter().copied()).collect();
    let lengths = pairs.iter().map(|(sequence, _)| sequence.len() as u32).collect();
    (tokens, lengths, pairs.iter().map(|&(_, id)| id).collect())
}

fn build(pairs: &Pairs, info: &TrieInfo) -> TokenTrie {
    let (tokens, lengths, ids) = flat(pairs);
    TokenTrie::build(Sequences { tokens: &tokens, lengths: &lengths }, Some(&ids), info, OnDuplicate::Keep).unwrap()
}

/// What the twin allows after `prefix`.
fn allowed(twin: &Twin, info: &TrieInfo, prefix: &[u32]) -> BTreeSet<u32> {
    let below = twin.range(prefix.to_vec()..).take_while(|(sequence, _)| sequence.starts_with(prefix));
    let next: BTreeSet<u32> = below.filter_map(|(sequence, _)| sequence.get(prefix.len()).copied()).collect();
    if !next.is_empty() {
        return next;
    }
    // A complete sequence goes on with padding; for the rest, `DeadEnd::Eos` is what the tests ask for.
    let ended = prefix.iter().position(|&token| token == info.eos).map(|at| prefix.split_at(at + 1));
    let is_padded = ended.is_some_and(|(title, rest)| twin.contains_key(title) && rest.iter().all(|&token| token == info.pad));
    BTreeSet::from([if is_padded { info.pad } else { info.eos }])
}

/// A prefix of one of the sequences, sometimes changed, sometimes too long.
fn prefix(rng: &mut Rng, twin: &Twin, info: &TrieInfo) -> Vec<u32> {
    let mut prefix = match twin.len() {
        0 => vec![],
        len => twin.keys().nth(rng.below(len.min(20))).unwrap().clone(),
    };
    match rng.below(8) {
        0 => prefix.extend([info.pad, info.pad]),
        1 => prefix.push(token(rng, info)),
        2 => {
            let at = rng.below(prefix.len() + 1);
            prefix.insert(at, token(rng, info));
        }
        3 => {}
        _ => prefix.truncate(rng.below(prefix.len() + 1)),
    }
    prefix
}

fn wide(tokens: &[u32]) -> Vec<i64> {
    tokens.iter().map(|&token| i64::from(token)).collect()
}

/// Everything that a snapshot says, against the twin.
fn assert_equal(rng: &mut Rng, snapshot: &Snapshot, twin: &Twin, info: &TrieInfo) {
    assert_eq!(snapshot.info(), info);
    assert_eq!(snapshot.num_sequences(), twin.len() as u64);
    assert_eq!(snapshot.num_entities(), twin.values().map(BTreeSet::len).sum::<usize>() as u64);
    assert!(snapshot.max_depth() >= twin.keys().map(Vec::len).max().unwrap_or(0));
    let all = snapshot.sequences(&[], usize::MAX, None).unwrap();
    assert!(all.iter().map(|(sequence, ids)| (sequence, ids.iter().copied().collect())).eq(twin.iter().map(|(s, i)| (s, i.clone()))));
    let only: Vec<u32> = twin.values().flatten().copied().filter(|id| id % 2 == 0).collect::<BTreeSet<_>>().into_iter().collect();
    let some: Vec<_> = all.into_iter().map(|(sequence, ids)| (sequence, ids.into_iter().filter(|id| id % 2 == 0).collect())).collect();
    let some: Vec<_> = some.into_iter().filter(|(_, ids): &(_, Vec<u32>)| !ids.is_empty()).collect();
    assert_eq!(snapshot.sequences(&[], usize::MAX, Some(&only)).unwrap(), some);
    let prefixes: Vec<Vec<u32>> = (0..4).map(|_| prefix(rng, twin, info)).collect();
    let states: Vec<u32> = prefixes.iter().map(|prefix| snapshot.walk(&wide(prefix)).unwrap()).collect();
    let csr = snapshot.csr(&states, DeadEnd::Eos).unwrap();
    for (row, (prefix, &state)) in prefixes.iter().zip(&states).enumerate() {
        let range = csr.indptr[row] as usize..csr.indptr[row + 1] as usize;
        assert!(csr.ids[range].iter().map(|&id| id as u32).eq(allowed(twin, info, prefix)), "{prefix:?} {twin:?}");
        let ids: BTreeSet<u32> = snapshot.ids(state).unwrap().into_iter().collect();
        let title = prefix.iter().position(|&token| token == info.eos).map_or(&prefix[..], |at| &prefix[..=at]);
        let is_padded = prefix[title.len()..].iter().all(|&token| token == info.pad);
        assert_eq!(ids, if is_padded { twin.get(title).cloned().unwrap_or_default() } else { BTreeSet::new() });
        assert_eq!(snapshot.is_leaf(state).unwrap(), !ids.is_empty());
    }
}

/// A state that some row may be in.
fn reached(rng: &mut Rng, snapshot: &Snapshot) -> u32 {
    let mut state = if rng.one_in(6) { NONE } else { snapshot.root() };
    for _ in 0..rng.below(6) {
        let next = snapshot.csr(&[state], DeadEnd::Pad).unwrap().next;
        state = next[rng.below(next.len())] as u32;
    }
    state
}

/// Rows that are random states, found again among bits and logits.
fn assert_outputs_agree(rng: &mut Rng, snapshot: &Snapshot) {
    let info = snapshot.info();
    let states: Vec<u32> = (0..1 + rng.below(3)).map(|_| reached(rng, snapshot)).collect();
    let dead_end = [DeadEnd::Eos, DeadEnd::Pad][rng.below(2)];
    let csr = snapshot.csr(&states, dead_end).unwrap();
    let num_words = info.vocab_size.div_ceil(32) as usize + rng.below(2);
    let num_logits = info.vocab_size as usize + rng.below(2);
    let mut bits = vec![rng.next() as i32; states.len() * num_words];
    let mut logits = vec![1.5f32; states.len() * num_logits];
    snapshot.fill_bitmask(&states, dead_end, num_words, &mut bits).unwrap();
    snapshot.mask_logits(&states, dead_end, num_logits, &mut logits).unwrap();
    assert_eq!(csr.indptr.len(), states.len() + 1);
    let (mut num_bits, mut num_finite) = (0, 0);
    for (row, &state) in states.iter().enumerate() {
        let range = csr.indptr[row] as usize..csr.indptr[row + 1] as usize;
        assert!(!range.is_empty());
        assert!(csr.ids[range.clone()].is_sorted_by(|a, b| a < b));
        for (&id, &next) in csr.ids[range.clone()].iter().zip(&csr.next[range]) {
            assert_eq!(bits[row * num_words + id as usize / 32] >> (id % 32) & 1, 1);
            assert_eq!(logits[row * num_logits + id as usize].to_bits(), 1.5f32.to_bits());
            // The one token of a dead end leads nowhere.
            assert_eq!(snapshot.step(state, i64::from(id)).unwrap(), next as u32);
        }
    }
    bits.iter().for_each(|word| num_bits += word.count_ones());
    logits.iter().for_each(|&logit| num_finite += usize::from(logit == 1.5));
    assert!(logits.iter().all(|&logit| logit == 1.5 || logit == f32::NEG_INFINITY));
    assert_eq!((num_bits as usize, num_finite), (csr.ids.len(), csr.ids.len()));
}

#[test]
fn a_trie_is_a_set_of_sequences() {
    fuzz("build", |rng| {
        let info = info(rng);
        let mut pairs = pairs(rng, &info, 10);
        let (trie, twin) = (build(&pairs, &info), twin_of(&pairs));
        let snapshot = trie.snapshot();
        snapshot.verify().unwrap();
        assert_equal(rng, &snapshot, &twin, &info);
        assert_eq!(snapshot.max_depth(), twin.keys().map(Vec::len).max().unwrap_or(0));
        // Neither order nor repetition matters.
        for at in (1..pairs.len()).rev() {
            pairs.swap(at, rng.below(at + 1));
        }
        pairs.extend(pairs.first().cloned());
        assert_eq!(build(&pairs, &info).snapshot().to_bytes().unwrap(), snapshot.to_bytes().unwrap());
    });
}

#[test]
fn bits_lists_and_logits_agree() {
    fuzz("outputs", |rng| {
        // Rows as wide as the vocabulary are most of the work.
        let info = if rng.one_in(20) { info(rng) } else { TrieInfo { vocab_size: 40, eos: 2, pad: 1, fingerprint: String::new() } };
        let pairs = pairs(rng, &info, 8);
        let (trie, mut twin) = (build(&pairs, &info), twin_of(&pairs));
        for _ in 0..rng.below(3) {
            change(rng, &trie, &mut twin, &info);
        }
        assert_outputs_agree(rng, &trie.snapshot());
    });
}

#[test]
fn stepping_with_parents_is_walking() {
    fuzz("states", |rng| {
        let info = info(rng);
        let pairs = pairs(rng, &info, 10);
        let trie = build(&pairs, &info);
        let mut twin = twin_of(&pairs);
        if rng.one_in(2) {
            change(rng, &trie, &mut twin, &info);
        }
        let snapshot = trie.snapshot();
        let mut rows: Vec<Vec<i64>> = vec![vec![]; 1 + rng.below(4)];
        let mut states = vec![snapshot.root(); rows.len()];
        for _ in 0..6 {
            let parents: Option<Vec<i64>> =
                if rng.one_in(3) { None } else { Some((0..1 + rng.below(5)).map(|_| rng.below(rows.len()) as i64).collect()) };
            rows = match &parents {
                None => rows,
                Some(parents) => parents.iter().map(|&parent| rows[parent as usize].clone()).collect(),
            };
            let csr = match &parents {
                None => snapshot.csr(&states, DeadEnd::Pad).unwrap(),
                Some(parents) => {
                    let chosen: Vec<u32> = parents.iter().map(|&parent| states[parent as usize]).collect();
                    snapshot.csr(&chosen, DeadEnd::Pad).unwrap()
                }
            };
            let tokens: Vec<i64> = (0..rows.len())
                .map(|row| match rng.below(8) {
                    0 => [-1, i64::from(info.vocab_size), i64::MAX, i64::MIN][rng.below(4)],
                    1 => i64::from(token(rng, &info)),
                    _ => {
                        let range = csr.indptr[row] as usize..csr.indptr[row + 1] as usize;
                        i64::from(csr.ids[range.start + rng.below(range.len())])
                    }
                })
                .collect();
            states = snapshot.advance(&states, &tokens, parents.as_deref()).unwrap();
            rows.iter_mut().zip(&tokens).for_each(|(row, &token)| row.push(token));
            let again: Vec<i64> = rows.iter().flat_map(|row| [&[9, 9], &row[..]].concat()).collect();
            assert_eq!(snapshot.walk_rows(&again, rows.len(), 2).unwrap(), states);
        }
        for (row, &state) in rows.iter().zip(&states).filter(|&(_, &state)| snapshot.is_leaf(state).unwrap()) {
            let title: Vec<u32> = row.iter().map(|&token| token as u32).collect();
            let end = title.iter().position(|&token| token == info.eos).unwrap() + 1;
            assert!(twin[&title[..end]].iter().copied().eq(snapshot.ids(state).unwrap()));
        }
    });
}

/// Adds or removes some, in both.
fn change(rng: &mut Rng, trie: &TokenTrie, twin: &mut Twin, info: &TrieInfo) {
    let some = |rng: &mut Rng, twin: &Twin| twin.keys().nth(rng.below(twin.len())).unwrap().clone();
    match rng.below(5) {
        0 | 1 => {
            let pairs = pairs(rng, info, 3);
            let (tokens, lengths, ids) = flat(&pairs);
            let before = twin.values().map(BTreeSet::len).sum::<usize>();
            pairs.into_iter().for_each(|(sequence, id)| {
                twin.entry(sequence).or_default().insert(id);
            });
            let added = trie.add(Sequences { tokens: &tokens, lengths: &lengths }, &ids).unwrap();
            assert_eq!(added, (twin.values().map(BTreeSet::len).sum::<usize>() - before) as u64);
        }
        2 if !twin.is_empty() => {
            let sequence = some(rng, twin);
            let ids = twin.remove(&sequence).unwrap();
            let lengths = [sequence.len() as u32];
            assert_eq!(trie.remove(Sequences { tokens: &sequence, lengths: &lengths }, None).unwrap(), ids.len() as u64);
        }
        3 if !twin.is_empty() => {
            let sequence = some(rng, twin);
            let lengths = [sequence.len() as u32];
            let sequences = Sequences { tokens: &sequence, lengths: &lengths };
            let id = rng.below(6) as u32;
            let ids = twin.get_mut(&sequence).unwrap();
            let is_there = ids.remove(&id);
            if ids.is_empty() {
                twin.remove(&sequence);
            }
            assert_eq!(trie.remove(sequences, Some(&[id])).ok(), is_there.then_some(1));
        }
        // All of them.
        4 if rng.one_in(3) => {
            let all: Pairs = twin.keys().map(|sequence| (sequence.clone(), 0)).collect();
            let (tokens, lengths, _) = flat(&all);
            trie.remove(Sequences { tokens: &tokens, lengths: &lengths }, None).unwrap();
            twin.clear();
        }
        _ => trie.compact().unwrap(),
    }
}

#[test]
fn updates_are_rebuilding() {
    fuzz("updates", |rng| {
        let info = info(rng);
        let pairs = pairs(rng, &info, 6);
        let mut twin = twin_of(&pairs);
        let mut trie = build(&pairs, &info);
        let (kept, before) = (trie.snapshot(), twin.clone());
        for _ in 0..rng.below(6) {
            change(rng, &trie, &mut twin, &info);
            assert_equal(rng, &trie.snapshot(), &twin, &info);
            if rng.one_in(8) {
                trie = TokenTrie::from_bytes(trie.snapshot().to_bytes().unwrap()).unwrap();
            }
        }
        // What a reader holds doesn't change.
        assert_equal(rng, &kept, &before, &info);
        let again: Pairs = twin.iter().flat_map(|(sequence, ids)| ids.iter().map(|&id| (sequence.clone(), id))).collect();
        assert_eq!(trie.snapshot().to_bytes().unwrap(), build(&again, &info).snapshot().to_bytes().unwrap());
    });
}

/// Asks everything; answers may be wrong, but they come.
fn exercise(rng: &mut Rng, trie: &TokenTrie) {
    let snapshot = trie.snapshot();
    let info = snapshot.info().clone();
    let states: Vec<u32> = (0..4).map(|_| rng.below(snapshot.num_nodes() + 1) as u32).chain([NONE]).collect();
    let _ = snapshot.csr(&states[..1 + rng.below(5)], DeadEnd::Eos);
    if info.vocab_size < 1 << 10 {
        let num_words = info.vocab_size.div_ceil(32) as usize;
        let _ = snapshot.fill_bitmask(&states, DeadEnd::Pad, num_words, &mut vec![0; num_words * states.len()]);
        let num_logits = info.vocab_size as usize;
        let _ = snapshot.mask_logits(&states, DeadEnd::Error, num_logits, &mut vec![0.0; num_logits * states.len()]);
    }
    for &state in &states {
        let _ = (snapshot.ids(state), snapshot.is_leaf(state), snapshot.step(state, i64::from(token(rng, &info))));
    }
    let _ = snapshot.sequences(&[], 50, None);
    let sequence = sequence(rng, &info);
    let lengths = [sequence.len() as u32];
    let sequences = Sequences { tokens: &sequence, lengths: &lengths };
    let _ = (trie.add(sequences, &[1]), trie.remove(sequences, None), trie.compact());
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Makes all checksums right again, as one who means harm would. The body's length is what is left beside 8 bytes for each 64 KiB.
fn reseal(bytes: &mut [u8]) {
    let rest = bytes.len() - 256;
    let body = (1..).map(|num_blocks| rest.saturating_sub(8 * num_blocks)).zip(1usize..).find(|&(body, n)| body.div_ceil(1 << 16) <= n);
    let (body, _) = body.unwrap();
    let table: Vec<u8> = bytes[256..256 + body].chunks(1 << 16).flat_map(|block| xxh3_64(block).to_le_bytes()).collect();
    bytes[256 + body..256 + body + table.len()].copy_from_slice(&table);
    bytes[56..64].copy_from_slice(&xxh3_64(&table).to_le_bytes());
    let checksum = xxh3_64(&bytes[..248]);
    bytes[248..256].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn any_bytes_are_refused_or_read() {
    fuzz("any bytes", |rng| {
        let mut bytes: Vec<u8> = (0..rng.below(700)).map(|_| if rng.one_in(2) { 0 } else { rng.next() as u8 }).collect();
        if bytes.len() >= 12 && !rng.one_in(4) {
            bytes[..12].copy_from_slice(b"RDTRIE\0\0\x01\0\0\0");
        }
        if bytes.len() > 256 && !rng.one_in(4) {
            // A header that fits, and a body of the length that it asks for.
            let (num_nodes, num_leaves) = (1 + rng.below(40), rng.below(12));
            let (num_entities, num_far, num_wide, num_shared) = (num_leaves + rng.below(3), rng.below(3), rng.below(3), rng.below(3));
            let counts = [num_nodes, num_leaves, num_entities, num_far, num_wide, num_shared];
            let vocab_size = [4, 40, 65_537][rng.below(3)];
            for (at, value) in [vocab_size, rng.below(4), rng.below(4), rng.below(9)].into_iter().chain(counts).enumerate() {
                bytes[16 + 4 * at..20 + 4 * at].copy_from_slice(&(value as u32).to_le_bytes());
            }
            bytes[64..96].fill(0);
            let label_bytes = if vocab_size > 65_536 { 4 } else { 2 };
            let sections =
                [num_nodes * label_bytes, (num_nodes + 1) * 2, 4, 4, num_entities * 4, num_shared * 8, num_far * 8, num_wide * 4];
            let body = sections.iter().fold(0usize, |end, section| end.next_multiple_of(64) + section);
            bytes.resize_with(256 + body + 8, || if rng.one_in(3) { rng.below(9) as u8 } else { 0 });
            if rng.one_in(2) {
                // The first children ascend.
                let deltas = 256 + sections[0].next_multiple_of(64);
                for node in 0..=num_nodes {
                    let first = (node + 1 + rng.below(3)).min(num_nodes) as u16;
                    bytes[deltas + 2 * node..deltas + 2 * node + 2].copy_from_slice(&first.to_le_bytes());
                }
                let bases = deltas + sections[1].next_multiple_of(64);
                bytes[bases..bases + 4].fill(0);
            }
            reseal(&mut bytes);
        }
        match TokenTrie::from_bytes(bytes) {
            Ok(trie) => exercise(rng, &trie),
            Err(error) => assert_eq!(error.kind, ErrorKind::BadStore),
        }
    });
}

#[test]
fn a_changed_file_is_refused_or_answers_as_before() {
    fuzz("changed files", |rng| {
        let info = info(rng);
        let pairs = pairs(rng, &info, 10);
        let whole = build(&pairs, &info).snapshot().to_bytes().unwrap();
        let mut bytes = whole.clone();
        match rng.below(4) {
            0 => bytes.truncate(rng.below(bytes.len())),
            1 => bytes.push(rng.next() as u8),
            _ => {
                for _ in 0..1 + rng.below(3) {
                    let at = rng.below(bytes.len());
                    bytes[at] ^= 1 << rng.below(8);
                }
            }
        }
        let twin = twin_of(&pairs);
        match TokenTrie::from_bytes(bytes.clone()) {
            Err(error) => assert!(error.kind == ErrorKind::BadStore && bytes != whole),
            Ok(trie) => {
                let snapshot = trie.snapshot();
                assert_eq!(snapshot.verify().is_ok(), bytes == whole);
                let same = |twin: &Twin| {
                    twin.iter().all(|(sequence, ids)| {
                        let found = snapshot.walk(&wide(sequence)).and_then(|state| snapshot.ids(state));
                        found.map_or_else(|error| error.kind == ErrorKind::BadStore, |found| ids.iter().copied().eq(found))
                    })
                };
                assert!(same(&twin));
            }
        }
    });
}

#[test]
fn a_crafted_file_is_read_without_harm() {
    fuzz("crafted files", |rng| {
        let info = info(rng);
        let mut bytes = build(&pairs(rng, &info, 10), &info).snapshot().to_bytes().unwrap();
        for _ in 0..1 + rng.below(6) {
            let at = match rng.below(3) {
                0 => 16 + rng.below(40),
                _ => 256 + rng.below(bytes.len() - 256),
            };
            bytes[at] = if rng.one_in(2) { bytes[at] ^ 1 << rng.below(8) } else { rng.next() as u8 };
        }
        reseal(&mut bytes);
        match TokenTrie::from_bytes(bytes.clone()) {
            Err(error) => assert_eq!(error.kind, ErrorKind::BadStore),
            Ok(trie) if trie.snapshot().verify().is_ok() => {
                // Another trie, but a trie: it equals what is built of its sequences.
                let snapshot = trie.snapshot();
                let all = snapshot.sequences(&[], usize::MAX, None).unwrap();
                let again: Pairs = all.iter().flat_map(|(sequence, ids)| ids.iter().map(|&id| (sequence.clone(), id))).collect();
                let rebuilt = build(&again, snapshot.info()).snapshot();
                assert_eq!(rebuilt.sequences(&[], usize::MAX, None).unwrap(), all);
                assert_eq!((rebuilt.num_nodes(), rebuilt.max_depth()), (snapshot.num_nodes(), snapshot.max_depth()));
                assert_eq!(rebuilt.num_entities(), snapshot.num_entities());
            }
            Ok(trie) => exercise(rng, &trie),
        }
    });
}

fn plain(vocab_size: u32) -> TrieInfo {
    TrieInfo { vocab_size, eos: 2, pad: 1, fingerprint: "0".repeat(32) }
}

#[test]
fn first_children_beyond_16_bits_are_found() {
    // Group 0 (nodes 0 to 63) has 300 + 63 x 1,500 children, more than a delta of 16 bits holds.
    let info = plain(50_000);
    let labels = |count: u32, step: u32| (0..count).map(move |i| 3 + i * step);
    let pairs: Pairs = labels(300, 7).flat_map(|a| labels(1500, 11).map(move |b| (vec![a, b, 2], a * 100_000 + b))).collect();
    let trie = build(&pairs, &info);
    let snapshot = trie.snapshot();
    assert!(number(&snapshot.to_bytes().unwrap(), 44) > 0, "far nodes");
    assert_eq!(number(&snapshot.to_bytes().unwrap(), 48), 300, "wide nodes");
    snapshot.verify().unwrap();
    for (sequence, id) in &pairs {
        assert_eq!(snapshot.ids(snapshot.walk(&wide(sequence)).unwrap()).unwrap(), [*id]);
    }
    let mut rng = Rng::new(1);
    (0..20).for_each(|_| assert_outputs_agree(&mut rng, &snapshot));
    // Every block of 64 KiB counts: one changed bit is found, at once or on use.
    let bytes = snapshot.to_bytes().unwrap();
    for at in (256..bytes.len()).step_by(bytes.len() / 10) {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        let trie = TokenTrie::from_bytes(changed);
        assert!(trie.is_err() || trie.unwrap().snapshot().verify().is_err(), "byte {at}");
    }
}

#[test]
fn the_bytes_of_version_1_stay() {
    // Every section is there: several blocks, several ids a leaf, a wide node, far children. Should this fail, files that users
    // have can't be read any more: then the version must rise, and this number with it.
    let children = |a: u32| 3..if a < 70 { 1100 } else { 4 };
    let pairs: Pairs = (3..4000).flat_map(|a| children(a).map(move |b| (vec![a, b, 2], a / 2 + b))).collect();
    let both = pairs.iter().cloned().chain(pairs.iter().step_by(1000).map(|(sequence, id)| (sequence.clone(), id + 1))).collect();
    let bytes = build(&both, &plain(40_000)).snapshot().to_bytes().unwrap();
    assert!((24..56).step_by(4).all(|at| number(&bytes, at) > 0));
    assert_eq!(xxh3_64(&bytes), 12_246_349_438_895_317_748);
}

#[test]
fn a_file_is_mapped_and_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.rdtrie");
    let trie = build(&vec![(vec![5, 2], 7), (vec![5, 6, 2], 8)], &plain(50));
    trie.snapshot().save(&path).unwrap();
    let opened = TokenTrie::open(&path).unwrap();
    assert_eq!(opened.snapshot().path(), Some(&*path));
    opened.snapshot().verify().unwrap();
    opened.add(Sequences { tokens: &[9, 2], lengths: &[2] }, &[9]).unwrap();
    opened.snapshot().save(&path).unwrap();
    assert_eq!(TokenTrie::open(&path).unwrap().snapshot().sequences(&[], 9, None).unwrap().len(), 3);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let kind = |path: &std::path::Path| TokenTrie::open(path).unwrap_err().kind;
    assert_eq!(kind(&folder.path().join("absent")), ErrorKind::Io(std::io::ErrorKind::NotFound));
    std::fs::write(&path, "").unwrap();
    assert_eq!(kind(&path), ErrorKind::BadStore);
}

#[test]
fn what_a_trie_cannot_hold_is_an_error() {
    let try_build = |tokens: &[u32], lengths: &[u32], ids: Option<&[u32]>, on_duplicate| {
        let sequences = Sequences { tokens, lengths };
        TokenTrie::build(sequences, ids, &plain(50), on_duplicate).map_or_else(|error| error.to_string(), |_| "built".into())
    };
    for (tokens, lengths, message) in [
        (
            &[5, 2, 5, 6][..],
            &[2, 2][..],
            "expected sequences that end in the end token 2 and hold it nowhere else, found [5, 6] as sequence 1",
        ),
        (&[2, 2], &[2], "expected sequences that end in the end token 2 and hold it nowhere else, found [2, 2] as sequence 0"),
        (&[50, 2], &[2], "expected tokens below the vocabulary's 50, found [50, 2] as sequence 0"),
        (&[2], &[0, 1], "expected sequences of at least one token, found none in sequence 0"),
        (&[2], &[2], "expected 2 tokens, the sum of the lengths, found 1"),
        (
            &[3; 12],
            &[12],
            "expected sequences that end in the end token 2 and hold it nowhere else, found [3, 3, 3, 3, 3, 3, 3, 3]… as sequence 0",
        ),
    ] {
        assert_eq!(try_build(tokens, lengths, None, OnDuplicate::Keep), message);
    }
    assert_eq!(try_build(&[5, 2], &[2], Some(&[]), OnDuplicate::Keep), "expected an id for each of 1 sequences, found 0");
    let twice = "expected distinct sequences, found sequence 2 equal to sequence 0; \
                 leave one of them out, or pass on_duplicate=\"keep\" to keep the ids of both";
    assert_eq!(try_build(&[5, 2, 2, 5, 2], &[2, 1, 2], None, OnDuplicate::Refuse), twice);
    for (info, message) in [
        (TrieInfo { vocab_size: 0, ..plain(0) }, "expected a vocabulary of 1 to 2,147,483,647 tokens, found 0"),
        (plain(2), "expected end and padding tokens below the vocabulary's 2, found 2 and 1"),
        (TrieInfo { fingerprint: "x".into(), ..plain(9) }, "expected a fingerprint of 32 characters, or none, found \"x\""),
    ] {
        let empty = Sequences { tokens: &[], lengths: &[] };
        assert_eq!(TokenTrie::build(empty, None, &info, OnDuplicate::Keep).unwrap_err().to_string(), message);
    }
}

#[test]
fn what_cannot_be_asked_is_an_error() {
    let trie = build(&vec![(vec![5, 2], 7)], &plain(50));
    let snapshot = trie.snapshot();
    let dead = snapshot.csr(&[0, NONE], DeadEnd::Error).unwrap_err();
    let message = "expected rows that begin a sequence of the trie, found none that begins like row 1; \
                   pass on_dead_end=\"eos\" or \"pad\" to let such rows end";
    assert_eq!(dead.to_string(), message);
    assert_eq!(snapshot.walk_rows(&[1, 2], 1, 3).unwrap_err().to_string(), "expected a start of at most 2, found 3");
    assert_eq!(snapshot.advance(&[0], &[1, 2], None).unwrap_err().to_string(), "expected 1 tokens, one a row, found 2");
    assert_eq!(snapshot.advance(&[0], &[1], Some(&[1])).unwrap_err().to_string(), "expected parents from 0 to 0, found 1");
    let message = "expected states from -1 to 2, found 3; states are of one snapshot";
    assert_eq!(snapshot.step(3, 5).unwrap_err().to_string(), message);
    let message = snapshot.fill_bitmask(&[0], DeadEnd::Eos, 1, &mut [0]).unwrap_err().to_string();
    assert_eq!(message, "expected 1 rows of 2 words, found 1 words, 1 a row");
    let message = snapshot.mask_logits(&[0], DeadEnd::Eos, 49, &mut [0.0; 49]).unwrap_err().to_string();
    assert_eq!(message, "expected 1 rows of 50 logits or more, found 49 logits, 49 a row");
    let sequences = Sequences { tokens: &[5, 2, 6, 2], lengths: &[2, 2] };
    let message = "expected sequences and ids of the trie, found sequence 1, which isn't there; nothing was removed";
    assert_eq!(trie.remove(sequences, None).unwrap_err().to_string(), message);
    assert_eq!(trie.snapshot().num_sequences(), 1);
}
