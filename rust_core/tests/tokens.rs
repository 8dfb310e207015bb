//! Token stores against the plainest twin: a vector of vectors.

use proptest::prelude::*;
use rankdistill_core::error::ErrorKind;
use rankdistill_core::tokens::{PairShape, TokenInfo, TokenStore, TokenWriter};
use std::fs;
use std::path::Path;

const CLS: u32 = 101;
const SEP: u32 = 102;

fn info(width: u32) -> TokenInfo {
    TokenInfo { tokenizer: "t".repeat(32), source: "s".repeat(32), max_length: 40, num_prefix: 1, num_suffix: 1, width }
}

fn push(writer: &mut TokenWriter, texts: &[Vec<u32>]) {
    let lengths: Vec<u32> = texts.iter().map(|text| text.len() as u32).collect();
    writer.push(&texts.concat(), &lengths).unwrap();
}

fn build(path: &Path, texts: &[Vec<u32>], width: u32) -> TokenStore {
    let mut writer = TokenWriter::open(path, info(width), &[]).unwrap();
    push(&mut writer, texts);
    writer.finish().unwrap();
    TokenStore::open(path, true).unwrap()
}

fn texts(max_token: u32) -> impl Strategy<Value = Vec<Vec<u32>>> {
    let text = proptest::collection::vec(0..=max_token, 0..38).prop_map(|own| [vec![CLS], own, vec![SEP]].concat());
    proptest::collection::vec(text, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_batch_is_cut_and_padded(texts in texts(70_000), most in 2usize..50, multiple in 1usize..9) {
        let folder = tempfile::tempdir().unwrap();
        let store = build(&folder.path().join("x"), &texts, 4);
        let rows: Vec<i64> = (0..texts.len() as i64).rev().collect();
        let batch = store.batch(&rows, 7, Some(most), multiple).unwrap();
        prop_assert_eq!(batch.length % multiple, 0);
        for (i, &row) in rows.iter().enumerate() {
            let mut text = texts[row as usize].clone();
            if text.len() > most {
                text.truncate(most - 1);
                text.push(SEP);
            }
            let mut expected: Vec<i64> = text.iter().map(|&token| i64::from(token)).collect();
            expected.resize(batch.length, 7);
            prop_assert_eq!(&batch.input_ids[i * batch.length..(i + 1) * batch.length], &expected[..]);
            let mask = &batch.attention_mask[i * batch.length..(i + 1) * batch.length];
            prop_assert!(mask.iter().enumerate().all(|(at, &bit)| bit == i64::from(at < text.len())));
        }
    }

    #[test]
    fn distinct_tokens_are_those_of_a_set(texts in texts(70_000), wide in any::<bool>()) {
        let texts: Vec<Vec<u32>> = texts.iter().map(|text| text.iter().map(|token| if wide { *token } else { token % 300 }).collect()).collect();
        let folder = tempfile::tempdir().unwrap();
        let store = build(&folder.path().join("x"), &texts, if wide { 4 } else { 2 });
        let expected: std::collections::BTreeSet<i64> = texts.concat().into_iter().map(i64::from).collect();
        prop_assert_eq!(store.distinct_tokens(), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_build_cut_anywhere_goes_on_to_the_same_bytes(
        texts in texts(60_000), chunk in 1usize..9, tokens_lost in 0.0f64..1.0, journal_lost in 0.0f64..1.0, flip in 0usize..2000,
    ) {
        let folder = tempfile::tempdir().unwrap();
        build(&folder.path().join("whole"), &texts, 2);
        let (path, partial, journal) = (folder.path().join("x"), folder.path().join("x.partial"), folder.path().join("x.journal"));
        let mut writer = TokenWriter::open(&path, info(2), &[]).unwrap();
        texts.chunks(chunk).for_each(|chunk| push(&mut writer, chunk));
        drop(writer);
        // What a crash may leave: fewer bytes of either file, or a changed one.
        for (path, lost) in [(&partial, tokens_lost), (&journal, journal_lost)] {
            let mut bytes = fs::read(path).unwrap();
            bytes.truncate((bytes.len() as f64 * (1.0 - lost / 2.0)) as usize);
            // A journal with another magic isn't ours.
            if let Some(byte) = bytes.get_mut(flip.max(8)) {
                *byte ^= 1;
            }
            fs::write(path, bytes).unwrap();
        }
        let mut writer = TokenWriter::open(&path, info(2), &[]).unwrap();
        let done = writer.num_rows();
        prop_assert!(done.is_multiple_of(chunk) || done == texts.len());
        texts[done..].chunks(chunk + 1).for_each(|chunk| push(&mut writer, chunk));
        writer.finish().unwrap();
        prop_assert!(fs::read(&path).unwrap() == fs::read(folder.path().join("whole")).unwrap());
        prop_assert!(!partial.exists() && !journal.exists());
    }

    #[test]
    fn a_changed_or_cut_store_is_refused(texts in texts(60_000), at in 0.0f64..1.0, bit in 0u32..8, cut: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        build(&path, &texts, 2);
        let mut bytes = fs::read(&path).unwrap();
        let at = (bytes.len() as f64 * at) as usize;
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        fs::write(&path, &bytes).unwrap();
        let error = TokenStore::open(&path, true).unwrap_err();
        // An empty file can't be mapped on some systems.
        prop_assert!(error.kind == ErrorKind::BadStore || bytes.is_empty());
        prop_assert_eq!(error.path, Some(path));
    }
}

#[test]
fn an_uninterrupted_build_resumes_all_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let mut writer = TokenWriter::open(&path, info(2), &[]).unwrap();
    push(&mut writer, &[vec![CLS, 5, SEP], vec![CLS, SEP]]);
    drop(writer);
    assert_eq!(TokenWriter::open(&path, info(2), &[]).unwrap().num_rows(), 2);
    let other = TokenInfo { source: "o".repeat(32), ..info(2) };
    assert_eq!(TokenWriter::open(&path, other, &[]).unwrap().num_rows(), 0);
}

#[test]
fn pairs_are_joined_and_cut_longest_first() {
    let folder = tempfile::tempdir().unwrap();
    let queries = build(&folder.path().join("q"), &[vec![CLS, 1, 2, SEP], vec![CLS, 1, 2, 3, 4, 5, SEP]], 2);
    let docs = build(&folder.path().join("d"), &[vec![CLS, 11, 12, 13, 14, SEP], vec![CLS, 11, SEP]], 4);
    let shape = |max_length| PairShape { joiner: vec![102], second_type: 1, max_length };
    let batch = queries.pair_batch(&[0, 1], &docs, &[0, 1], &shape(8), 0, 1).unwrap();
    assert_eq!(batch.input_ids, [101, 1, 2, 102, 11, 12, 13, 102, 101, 1, 2, 3, 4, 102, 11, 102]);
    assert_eq!(batch.token_type_ids, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
    let batch = queries.pair_batch(&[1], &docs, &[0], &shape(8), 0, 8).unwrap();
    assert_eq!(batch.input_ids, [101, 1, 2, 3, 102, 11, 12, 102]);
    assert_eq!(queries.pair_batch(&[0], &docs, &[], &shape(8), 0, 1).unwrap_err().kind, ErrorKind::BadArgument);
    assert_eq!(queries.pair_batch(&[0], &docs, &[0], &shape(2), 0, 1).unwrap_err().kind, ErrorKind::BadArgument);
}

#[test]
fn rows_and_tokens_that_do_not_fit_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let store = build(&folder.path().join("x"), &[vec![CLS, SEP]], 2);
    for row in [-1, 1] {
        assert_eq!(store.batch(&[row], 0, None, 1).unwrap_err().kind, ErrorKind::BadArgument);
        assert!(store.lengths(&[row]).is_err());
    }
    assert!(store.batch(&[0], 0, Some(1), 1).is_err());
    let mut writer = TokenWriter::open(&folder.path().join("y"), info(2), &[]).unwrap();
    assert!(writer.push(&[65_536], &[1]).is_err());
    assert!(writer.push(&[1], &[2]).is_err());
    assert!(writer.push(&[1; 41], &[41]).is_err());
}
