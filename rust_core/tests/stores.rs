//! Files of ours, changed, cut and crafted: each is refused, or answers as the one that was written.

mod fuzz;

use fuzz::{Rng, fuzz, fuzz_each, mutated, scratch};
use rankdistill_core::error::{Error, ErrorKind};
use rankdistill_core::ids::IdTable;
use rankdistill_core::scores::{Format, IdKind, ReaderOptions, ScoreReader, ScoreStore, ScoreStoreWriter};
use rankdistill_core::tokens::{PairShape, TokenInfo, TokenStore, TokenWriter};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const IDS: [&str; 8] = ["0", "7", "8841822", "123456789012345678", "007", "D-1", "éü", "\u{10ffff}"];
/// Mutants of each generated file.
const MUTANTS: u64 = 8;
const SCORE_HEADER: usize = 256;
const TOKEN_HEADER: usize = 128;

/// One row: ids, and the bits of scores.
type ScoreRow = (String, Vec<String>, Vec<u32>);

fn score_rows(rng: &mut Rng) -> Vec<ScoreRow> {
    let num_docs = 2 + rng.below(3);
    let id = |rng: &mut Rng| if rng.one_in(2) { rng.pick(&IDS).into() } else { rng.below(40).to_string() };
    let score = |rng: &mut Rng| (rng.below(1000) as f32 / 8.0 - 60.0).to_bits();
    let num_rows = 1 + if rng.one_in(50) { rng.below(3000) } else { rng.below(20) };
    let docs = |rng: &mut Rng| {
        let mut docs = Vec::<String>::new();
        while docs.len() < num_docs {
            let doc = id(rng);
            if !docs.contains(&doc) {
                docs.push(doc);
            }
        }
        docs
    };
    (0..num_rows).map(|_| (id(rng), docs(rng), (0..num_docs).map(|_| score(rng)).collect())).collect()
}

fn write_scores(path: &Path, rows: &[ScoreRow]) {
    let lines = rows.iter().map(|(query, docs, scores)| {
        let docs: Vec<String> = docs.iter().zip(scores).map(|(doc, &score)| format!("[\"{doc}\", {:?}]", f32::from_bits(score))).collect();
        format!("[\"{query}\", {}]\n", docs.join(", "))
    });
    let source = path.with_extension("jsonl");
    fs::write(&source, lines.collect::<String>()).unwrap();
    let options = ReaderOptions { format: Some(Format::Nway), ..ReaderOptions::default() };
    let mut reader = ScoreReader::new(vec![source], options).unwrap();
    let mut writer = ScoreStoreWriter::create(path, Format::Nway, &[]).unwrap();
    while let Some(block) = reader.next_block().unwrap() {
        writer.push(&block.columns).unwrap();
    }
    writer.finish("", reader.bad_rows()).unwrap();
}

/// Everything that a store says.
fn read_scores(path: &Path) -> Result<Vec<ScoreRow>, Error> {
    let store = ScoreStore::open(path)?;
    let ids = |kind| -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        store.for_each_id(kind, 0..store.num_ids(kind), |id| ids.push(id.to_owned()))?;
        Ok(ids)
    };
    let (query_ids, doc_ids) = (ids(IdKind::Query)?, ids(IdKind::Doc)?);
    let mut rows = Vec::new();
    for row in 0..store.num_rows() as i64 {
        let (queries, docs, scores) = store.gather(&[row])?;
        // Only in a crafted file an index is that of no id.
        let name = |ids: &[String], index: u32| ids.get(index as usize).cloned().unwrap_or_default();
        let docs = docs.iter().map(|&doc| name(&doc_ids, doc)).collect();
        rows.push((name(&query_ids, queries[0]), docs, scores.iter().map(|score| score.to_bits()).collect()));
    }
    Ok(rows)
}

/// `Err` of the one kind that a file of ours may end in; an empty file can't be mapped.
fn refused(error: &Error, bytes: &[u8]) -> bool {
    error.kind == ErrorKind::BadStore || bytes.is_empty()
}

#[test]
fn changed_score_stores_are_refused_or_the_same() {
    let folder = scratch();
    let path = folder.path().join("x.rdscores");
    fuzz_each("changed score stores", MUTANTS, |rng| {
        let rows = score_rows(rng);
        write_scores(&path, &rows);
        assert_eq!(read_scores(&path).unwrap(), rows);
        let whole = fs::read(&path).unwrap();
        for _ in 0..MUTANTS {
            let bytes = mutated(rng, whole.clone(), &[]);
            fs::write(&path, &bytes).unwrap();
            // Bytes of the header and the checksums are all compared, so nothing else can be read.
            match read_scores(&path) {
                Ok(found) => assert!(found == rows),
                Err(error) => assert!(refused(&error, &bytes) && bytes != whole, "{error}"),
            }
            let verified = ScoreStore::open(&path).and_then(|store| store.verify());
            assert_eq!(verified.is_ok(), bytes == whole);
        }
    });
}

#[test]
fn every_cut_and_every_bit_of_small_stores_is_found() {
    let folder = scratch();
    let path = folder.path().join("x.rdscores");
    write_scores(&path, &score_rows(&mut Rng::new(7)));
    let tokens = folder.path().join("x.rdtokens");
    write_tokens(&tokens, &[vec![1, 2, 3], vec![1, 3], vec![1, 9, 9, 3]], &info(2));
    let is_whole = |path: &Path| match path.extension() {
        Some(suffix) if suffix == "rdscores" => ScoreStore::open(path).and_then(|store| store.verify()).is_ok(),
        _ => TokenStore::open(path, true).is_ok(),
    };
    for path in [&path, &tokens] {
        let whole = fs::read(path).unwrap();
        assert!(is_whole(path));
        for at in 0..whole.len() {
            fs::write(path, &whole[..at]).unwrap();
            assert!(!is_whole(path), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs::write(path, &bytes).unwrap();
                assert!(!is_whole(path), "bit {bit} of byte {at}");
            }
        }
    }
}

/// Makes all checksums of a score store right again, as somebody who means harm would.
fn reseal_scores(bytes: &mut [u8]) {
    let rest = bytes.len() - SCORE_HEADER;
    let body = (1usize..).map(|blocks| (rest.saturating_sub(8 * blocks), blocks)).find(|&(body, blocks)| body.div_ceil(1 << 16) <= blocks);
    let (body, _) = body.unwrap();
    let table: Vec<u8> = bytes[SCORE_HEADER..][..body].chunks(1 << 16).flat_map(|block| xxh3_64(block).to_le_bytes()).collect();
    bytes[SCORE_HEADER + body..][..table.len()].copy_from_slice(&table);
    bytes[88..96].copy_from_slice(&xxh3_64(&table).to_le_bytes());
    let checksum = xxh3_64(&bytes[..SCORE_HEADER - 8]);
    bytes[SCORE_HEADER - 8..SCORE_HEADER].copy_from_slice(&checksum.to_le_bytes());
}

/// `bytes` with edits that keep the length, at the header more often than elsewhere.
fn crafted(rng: &mut Rng, mut bytes: Vec<u8>, header: usize) -> Vec<u8> {
    for _ in 0..1 + rng.below(3) {
        let end = if rng.one_in(2) { header } else { bytes.len() };
        let from = 16.min(end) + rng.below(end.saturating_sub(24).max(1)) / 8 * 8;
        let part = mutated(rng, bytes[from..end.min(from + 8)].to_vec(), &[]);
        let length = part.len().min(end - from).min(8);
        bytes[from..from + length].copy_from_slice(&part[..length]);
    }
    bytes
}

#[test]
fn crafted_score_stores_do_no_harm() {
    let folder = scratch();
    let path = folder.path().join("x.rdscores");
    fuzz_each("crafted score stores", MUTANTS, |rng| {
        write_scores(&path, &score_rows(rng));
        let whole = fs::read(&path).unwrap();
        for _ in 0..MUTANTS {
            let mut bytes = crafted(rng, whole.clone(), SCORE_HEADER);
            if rng.one_in(20) {
                // No row and no id, but rows of 32 GiB.
                bytes = whole[..SCORE_HEADER].to_vec();
                bytes[24..88].fill(0);
                bytes[20..24].fill(0xff);
            }
            reseal_scores(&mut bytes);
            fs::write(&path, &bytes).unwrap();
            let Ok(store) = ScoreStore::open(&path) else { continue };
            for rows in [&[0, 1][..], &[-1], &[i64::MAX], &[store.num_rows() as i64]] {
                let _ = store.gather(rows);
            }
            if let Err(error) = read_scores(&path) {
                assert!(refused(&error, &bytes), "{error}");
            }
        }
    });
}

fn info(width: u32) -> TokenInfo {
    TokenInfo { tokenizer: "t".repeat(32), source: "s".repeat(32), max_length: 40, num_prefix: 1, num_suffix: 1, width }
}

fn texts(rng: &mut Rng, max_token: u32) -> Vec<Vec<u32>> {
    let token = |rng: &mut Rng| (rng.next() >> rng.below(64)) as u32 % (max_token + 1);
    (0..rng.below(9)).map(|_| (0..2 + rng.below(38)).map(|_| token(rng)).collect()).collect()
}

fn write_tokens(path: &Path, texts: &[Vec<u32>], info: &TokenInfo) {
    let mut writer = TokenWriter::open(path, info.clone(), &[]).unwrap();
    let lengths: Vec<u32> = texts.iter().map(|text| text.len() as u32).collect();
    writer.push(&texts.concat(), &lengths).unwrap();
    writer.finish().unwrap();
}

/// The texts of a store, each asked for by itself.
fn read_texts(store: &TokenStore) -> Vec<Vec<u32>> {
    let text = |row| store.batch(&[row], -1, None, 1).unwrap();
    (0..store.num_rows() as i64)
        .map(|row| text(row).input_ids.iter().filter(|&&token| token >= 0).map(|&token| token as u32).collect())
        .collect()
}

/// Asks a store for everything; rows are right or wrong, and answers come.
fn ask_tokens(rng: &mut Rng, store: &TokenStore) {
    let rows: Vec<i64> = (0..3).map(|_| rng.below(store.num_rows() + 2) as i64 - 1).collect();
    let most = rng.pick(&[None, Some(0), Some(1), Some(2), Some(7), Some(usize::MAX)]);
    let _ = (store.lengths(&rows), store.batch(&rows, 0, most, 1 + rng.below(9)));
    if rng.one_in(32) {
        let _ = store.distinct_tokens();
    }
    let shape = PairShape { joiner: vec![102; rng.below(3)], second_type: 1, max_length: rng.pick(&[0, 3, 9, 100]) };
    let _ = store.pair_batch(&rows, store, &rows, &shape, 0, 1 + rng.below(9));
}

#[test]
fn changed_token_stores_are_refused() {
    let folder = scratch();
    let path = folder.path().join("x.rdtokens");
    fuzz_each("changed token stores", MUTANTS, |rng| {
        let width = rng.pick(&[2, 4]);
        let texts = texts(rng, if width == 2 { 65_535 } else { 300_000 });
        write_tokens(&path, &texts, &info(width));
        let store = TokenStore::open(&path, true).unwrap();
        assert_eq!(read_texts(&store), texts);
        let distinct: BTreeSet<i64> = texts.concat().into_iter().map(i64::from).collect();
        assert!(store.distinct_tokens().into_iter().eq(distinct));
        let whole = fs::read(&path).unwrap();
        for _ in 0..MUTANTS {
            let bytes = mutated(rng, whole.clone(), &[]);
            fs::write(&path, &bytes).unwrap();
            match TokenStore::open(&path, true) {
                Ok(_) => assert!(bytes == whole),
                Err(error) => assert!(refused(&error, &bytes) && bytes != whole, "{error}"),
            }
            // Workers open without the checksum.
            if let Ok(store) = TokenStore::open(&path, false) {
                ask_tokens(rng, &store);
            }
        }
    });
}

#[test]
fn crafted_token_stores_do_no_harm() {
    let folder = scratch();
    let path = folder.path().join("x.rdtokens");
    fuzz_each("crafted token stores", MUTANTS, |rng| {
        let texts = texts(rng, u32::MAX - 1);
        write_tokens(&path, &texts, &info(4));
        let whole = fs::read(&path).unwrap();
        for _ in 0..MUTANTS {
            let mut bytes = crafted(rng, whole.clone(), TOKEN_HEADER);
            let body = xxh3_64(&bytes[TOKEN_HEADER..]);
            bytes[40..48].copy_from_slice(&body.to_le_bytes());
            let checksum = xxh3_64(&bytes[..TOKEN_HEADER - 8]);
            bytes[TOKEN_HEADER - 8..TOKEN_HEADER].copy_from_slice(&checksum.to_le_bytes());
            fs::write(&path, &bytes).unwrap();
            match TokenStore::open(&path, true) {
                Ok(store) => ask_tokens(rng, &store),
                Err(error) => assert!(refused(&error, &bytes), "{error}"),
            }
        }
    });
}

#[test]
fn torn_builds_of_tokens_go_on_to_the_same_bytes() {
    let folder = scratch();
    let [path, partial, journal, whole] = ["x", "x.partial", "x.journal", "whole"].map(|name| folder.path().join(name));
    fuzz("torn token builds", |rng| {
        let texts = texts(rng, 65_535);
        write_tokens(&whole, &texts, &info(2));
        let chunk = 1 + rng.below(4);
        let push = |writer: &mut TokenWriter, texts: &[Vec<u32>]| {
            let lengths: Vec<u32> = texts.iter().map(|text| text.len() as u32).collect();
            writer.push(&texts.concat(), &lengths).unwrap();
        };
        let mut writer = TokenWriter::open(&path, info(2), &[]).unwrap();
        texts.chunks(chunk).for_each(|chunk| push(&mut writer, chunk));
        drop(writer);
        for path in [&partial, &journal] {
            if rng.one_in(2) {
                let bytes = fs::read(path).unwrap();
                fs::write(path, mutated(rng, bytes, &[])).unwrap();
            }
        }
        let mut writer = match TokenWriter::open(&path, info(2), &[]) {
            Ok(writer) => writer,
            // A file that doesn't begin as ours isn't ours to overwrite.
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::BadArgument, "{error}");
                [&partial, &journal].into_iter().for_each(|path| fs::remove_file(path).unwrap());
                return;
            }
        };
        let done = writer.num_rows();
        assert!(done.is_multiple_of(chunk) || done == texts.len());
        texts[done..].chunks(chunk).for_each(|chunk| push(&mut writer, chunk));
        writer.finish().unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&whole).unwrap());
    });
}

#[test]
fn tables_of_ids_fit_together_or_are_refused() {
    fuzz("tables of ids", |rng| {
        let mut table = IdTable::default();
        (0..rng.below(9)).for_each(|_| _ = table.push(rng.pick(&IDS)));
        let (bytes, ends) = table.parts();
        let mut ends: Vec<u64> = ends.to_vec();
        let bytes = if rng.one_in(2) { bytes.to_vec() } else { mutated(rng, bytes.to_vec(), &[]) };
        if !ends.is_empty() && rng.one_in(2) {
            let at = rng.below(ends.len());
            ends[at] = rng.pick(&[0, 1, 2, 9, 1 << 60, u64::MAX]);
        }
        if let Ok(table) = IdTable::from_parts(bytes.clone(), ends.clone()) {
            assert_eq!(table.parts(), (&bytes[..], &ends[..]));
            for row in 0..table.len() {
                assert_eq!(table.row(table.get(row)), Some(row));
            }
        }
    });
}
