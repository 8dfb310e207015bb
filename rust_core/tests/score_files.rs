//! Score files against a twin that reads them line by line, on generated and damaged inputs.

mod fuzz;
#[path = "fuzz/rows.rs"]
mod rows;

use fuzz::{Rng, fuzz, mutated, scratch};
use rankdistill_core::error::ErrorKind;
use rankdistill_core::scores::{BadCounts, BadKind, Format, MAX_SCORE, Position, ReaderOptions, ScoreFileWriter, ScoreReader};
use rows::Row;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const IDS: [&str; 12] =
    ["0", "7", "007", "8841822", "123456789012345678", "99999999999999999999", "D-1", "é ü", "", "\r", "+5", "\u{10ffff}"];
const NUMBERS: [&str; 20] = [
    "1.5",
    "-0.0",
    "7.25e1",
    ".5",
    "5.",
    "+3",
    "nan",
    "inf",
    "1e39",
    "",
    "x",
    "1e-46",
    "16777217",
    "1_0",
    " 1",
    "-",
    "0.1e",
    "1234567",
    "12345678.123456789",
    "0.000000000000000000000000000001",
];
const JSON_IDS: [&str; 14] = [
    "0",
    "7",
    "-3",
    "\"D-1\"",
    "\"é\"",
    "\"\"",
    "01",
    "1.0",
    "null",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"\\u0041\\n\"",
    "\"a\tb\"",
    "{}",
];
const JSON_NUMBERS: [&str; 12] = ["1.5", "-0.0", "1e5", "2E-3", "1.", "-", "01", "\"1\"", "NaN", "Infinity", "1e39", "-1.25e+2"];
const ENDS: [&str; 10] = ["\n", "\n", "\n", "\n", "\r\n", "\n\n", "\r\n\r\n\n", "\t\n", "\r\r\n", ""];
const WORDS: [&[u8]; 14] =
    [b"\t", b"\n", b"\r\n", b"\"", b"\\u", b"[", b"]", b", [", b"nan", b"e400", b"qid\t", b"\xff", b"\xe2\x82", b"000000000000000"];
const HEADERS: [&str; 4] = ["query_id\tpositive_id\tnegative_id\tscore\n", "QID\ta\tb\t1.0\r\n", "\nqid\ta\tb\tc\n", "query\tx\n"];

/// A number: often a plain one, as files hold.
fn number(rng: &mut Rng) -> String {
    match rng.below(4) {
        0 => rng.pick(&NUMBERS).into(),
        1 => format!("{:.*}", rng.below(17), f64::from(rng.next() as i32) / 1e4),
        2 => f32::from_bits(rng.next() as u32).to_string(),
        _ => format!("{:?}", f32::from_bits(rng.next() as u32 & 0x47ff_ffff)),
    }
}

fn id(rng: &mut Rng) -> String {
    match rng.below(3) {
        0 => rng.pick(&IDS).into(),
        1 => (rng.next() >> rng.below(64)).to_string(),
        _ => rng.below(100).to_string(),
    }
}

fn line(rng: &mut Rng, format: Format) -> String {
    let mut columns = match format {
        Format::Ids | Format::Text => vec![number(rng), number(rng), id(rng), id(rng), id(rng)],
        Format::Margin => vec![id(rng), id(rng), id(rng), number(rng)],
        Format::Nway => {
            let id = |rng: &mut Rng| if rng.one_in(3) { rng.pick(&JSON_IDS).into() } else { rng.below(99).to_string() };
            let score = |rng: &mut Rng| if rng.one_in(3) { rng.pick(&JSON_NUMBERS).into() } else { format!("{}.5", rng.below(9)) };
            let docs: Vec<String> =
                (0..if rng.one_in(4) { rng.below(4) } else { 2 }).map(|_| format!("[{}, {}]", id(rng), score(rng))).collect();
            return format!("[{}{}{}]", id(rng), if docs.is_empty() { "" } else { ", " }, docs.join(rng.pick(&[",", ", ", " ,\t"])));
        }
    };
    if rng.one_in(30) {
        columns.push(id(rng));
    }
    columns.join("\t")
}

/// A file, nearly always a small one; one in some thousands is longer than what is read at once.
fn content(rng: &mut Rng, format: Format) -> Vec<u8> {
    let mut text = String::new();
    if format == Format::Margin && rng.one_in(2) {
        text += rng.pick(&HEADERS);
    }
    for _ in 0..rng.below(9) {
        text += &line(rng, format);
        text += rng.pick(&ENDS);
        if rng.one_in(25) {
            text += &"x".repeat(rng.below(300));
        }
    }
    let mut bytes = text.into_bytes();
    if rng.one_in(2) {
        bytes = mutated(rng, bytes, &WORDS);
    }
    if rng.one_in(4000) && !bytes.is_empty() {
        bytes = bytes.repeat((100_000 + rng.below(600_000)) / bytes.len());
    }
    bytes
}

/// How a file is packed: plain, or in one or two members of gzip or frames of zstd.
fn packed(rng: &mut Rng, content: &[u8], kind: usize) -> Vec<u8> {
    let (first, second) = content.split_at(rng.below(content.len() + 1));
    let pack = |content: &[u8]| match kind {
        0 => content.to_vec(),
        1 => {
            let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        }
        _ => zstd::encode_all(content, 1).unwrap(),
    };
    [pack(first), pack(second)].concat()
}

/// Kind, file and line of an error.
type Place = (ErrorKind, PathBuf, u64);

/// All rows, the places behind blocks, what was skipped, and the error that ended them.
fn read(paths: &[PathBuf], options: ReaderOptions) -> (Vec<Row>, Vec<Position>, BadCounts, Option<Place>) {
    let first_row = options.start.row;
    let mut reader = ScoreReader::new(paths.to_vec(), options).unwrap();
    let (mut rows, mut places) = (Vec::new(), Vec::new());
    loop {
        match reader.next_block() {
            Ok(None) => return (rows, places, reader.bad_rows(), None),
            Err(error) => {
                let place = (error.kind, error.path.expect("a path"), error.line.unwrap_or(0));
                return (rows, places, reader.bad_rows(), Some(place));
            }
            Ok(Some(block)) => {
                let columns = &block.columns;
                for (row, &query) in columns.queries.iter().enumerate() {
                    let range = row * columns.num_docs..(row + 1) * columns.num_docs;
                    rows.push(Row {
                        query: columns.id(query).into(),
                        docs: columns.docs[range.clone()].iter().map(|&doc| columns.id(doc).into()).collect(),
                        scores: columns.scores[range].iter().map(|score| score.to_bits()).collect(),
                    });
                }
                assert_eq!(block.position.row, first_row + rows.len() as u64);
                places.push(block.position);
            }
        }
    }
}

fn counts(bad: &[(usize, u64, BadKind)]) -> BadCounts {
    let mut counts = BadCounts::default();
    bad.iter().for_each(|&(_, _, kind)| counts[kind as usize] += 1);
    counts
}

fn write_all(folder: &Path, contents: impl Iterator<Item = Vec<u8>>) -> Vec<PathBuf> {
    contents
        .enumerate()
        .map(|(number, content)| {
            let path = folder.join(number.to_string());
            fs::write(&path, content).unwrap();
            path
        })
        .collect()
}

#[test]
fn score_files_are_read_as_by_the_twin() {
    let folder = scratch();
    fuzz("score files", |rng| {
        let format = rng.pick(&Format::ALL);
        let files: Vec<Vec<u8>> = (0..if rng.one_in(4) { 2 } else { 1 }).map(|_| content(rng, format)).collect();
        let archive = if rng.one_in(2) { 0 } else { 1 + rng.below(2) };
        let packs: Vec<Vec<u8>> = files.iter().map(|content| packed(rng, content, archive)).collect();
        // Plain text that begins as an archive does is read as one.
        if archive == 0 && packs.iter().any(|pack| pack.starts_with(&[0x1f, 0x8b]) || pack.get(1..4) == Some(&[0x2a, 0x4d, 0x18])) {
            return;
        }
        let paths = write_all(folder.path(), packs.into_iter());
        let max_line_bytes = rng.pick(&[128, 1 << 20]);
        let block_rows = if rng.one_in(2) { 1 + rng.below(4) } else { 1 << 16 };
        let options = ReaderOptions {
            format: Some(format),
            skip: true,
            block_rows,
            max_line_bytes,
            max_score: MAX_SCORE,
            start: Position::default(),
        };
        let (rows, bad) = rows::read(&files, format, max_line_bytes);
        let (found, places, skipped, error) = read(&paths, options.clone());
        assert_eq!(error, None);
        assert!(found == rows, "{found:?} {rows:?}");
        if format == Format::Nway {
            // A line with two faults may be counted under either.
            assert_eq!(skipped.iter().sum::<u64>(), bad.len() as u64);
        } else {
            assert_eq!(skipped, counts(&bad));
        }
        let strict = read(&paths, ReaderOptions { skip: false, ..options.clone() });
        let first = bad.first().map(|&(file, line, _)| (ErrorKind::BadData, paths[file].clone(), line));
        assert_eq!(strict.3, first);
        assert!(rows.starts_with(&strict.0) && (first.is_some() || rows == strict.0));
        if let Some(&start) = places.get(rng.below(places.len() + 1)) {
            let rest = read(&paths, ReaderOptions { start, block_rows: 3, ..options.clone() });
            assert!(rest.3.is_none() && rest.0 == rows[start.row as usize..]);
        }
        // A format that is found by looking is one in which the same rows are read as when it's named.
        let mut looking = ScoreReader::new(paths.clone(), ReaderOptions { format: None, ..options.clone() }).unwrap();
        if looking.begin().is_ok() {
            let format = looking.format();
            assert!(
                read(&paths, ReaderOptions { format: None, ..options.clone() }).0 == read(&paths, ReaderOptions { format, ..options }).0
            );
        }
    });
}

/// What an archive gives before it ends or turns out to be damaged.
fn unpacked(pack: &[u8]) -> (Vec<u8>, bool) {
    // In the portions in which the reader gets them: the first four bytes tell what the file is.
    let source = std::io::BufReader::with_capacity(1 << 18, pack[..4.min(pack.len())].chain(&pack[4.min(pack.len())..]));
    let mut decoder: Box<dyn Read> = match pack {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Box::new(zstd::Decoder::with_buffer(source).unwrap()),
        _ => Box::new(source),
    };
    let (mut content, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => return (content, true),
            Ok(length) => content.extend_from_slice(&buffer[..length]),
            Err(_) => return (content, false),
        }
    }
}

#[test]
fn damaged_archives_give_their_whole_lines() {
    let folder = scratch();
    fuzz("damaged archives", |rng| {
        let format = rng.pick(&Format::ALL);
        let (content, kind) = (content(rng, format), 1 + rng.below(2));
        let whole = packed(rng, &content, kind);
        let pack = mutated(rng, whole, &[&[0x28, 0xb5, 0x2f, 0xfd], &[0x1f, 0x8b, 8, 0]]);
        let (mut content, is_whole) = unpacked(&pack);
        if !is_whole {
            content.truncate(content.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        }
        let paths = write_all(folder.path(), [pack].into_iter());
        let options = ReaderOptions { format: Some(format), skip: true, ..ReaderOptions::default() };
        let (rows, bad) = rows::read(&[content], format, options.max_line_bytes);
        let (found, _, skipped, error) = read(&paths, options.clone());
        assert_eq!(error, None);
        assert!(found == rows, "{found:?} {rows:?}");
        assert_eq!(skipped[BadKind::Archive as usize], u64::from(!is_whole));
        assert_eq!(skipped.iter().sum::<u64>(), bad.len() as u64 + u64::from(!is_whole));
        let strict = read(&paths, ReaderOptions { skip: false, ..options }).3;
        assert_eq!(strict.is_some(), !is_whole || !bad.is_empty());
    });
}

#[test]
fn any_bytes_are_read_or_refused() {
    let folder = scratch();
    fuzz("any bytes as scores", |rng| {
        let length = rng.below(300);
        let bytes = (0..length).map(|_| rng.next() as u8).collect();
        let seed =
            rng.pick(&[b"" as &[u8], b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"[1, [2, 3.0]", b"1\t2\t3\t4\t5\n"]);
        let paths = write_all(folder.path(), [[seed, &mutated(rng, bytes, &WORDS)].concat()].into_iter());
        for (format, skip) in [(None, true), (None, false), (Some(rng.pick(&Format::ALL)), true)] {
            let (rows, _, _, error) = read(&paths, ReaderOptions { format, skip, ..ReaderOptions::default() });
            assert!(error.is_none_or(|(kind, ..)| kind == ErrorKind::BadData), "{} rows", rows.len());
        }
    });
}

#[test]
fn what_is_written_is_read() {
    let folder = scratch();
    fuzz("written score files", |rng| {
        let format = rng.pick(&Format::ALL);
        let name = rng.pick(&["x", "x.gz", "x.zst"]);
        let path = folder.path().join(name);
        let mut writer = ScoreFileWriter::create(&path, format, &[]).unwrap();
        let num_docs = if format == Format::Nway { 2 + rng.below(3) } else { 2 };
        let mut rows = Vec::new();
        for _ in 0..rng.below(6) {
            let (query, docs) = (id(rng), (0..num_docs).map(|_| id(rng)).collect::<Vec<_>>());
            let scores: Vec<f32> = docs.iter().map(|_| f32::from_bits(rng.next() as u32)).collect();
            let strs: Vec<&str> = docs.iter().map(String::as_str).collect();
            let ids = || docs.iter().chain([&query]);
            // Texts may have spaces, but no tab and no line end.
            let held = ids().all(|id| if format == Format::Text { !id.is_empty() && !id.ends_with('\r') } else { rows::is_id(id) });
            let written = if format == Format::Margin { vec![scores[0] - scores[1], 0.0] } else { scores.clone() };
            let is_good = held && !rows::is_repeated(&docs) && written.iter().all(|score| score.abs() <= MAX_SCORE);
            assert_eq!(writer.push_row(&query, &strs, &scores).is_ok(), is_good, "{query} {docs:?} {scores:?}");
            if is_good {
                rows.push(Row { query, docs, scores: written.iter().map(|score| score.to_bits()).collect() });
            }
        }
        writer.finish().unwrap();
        let (found, _, _, error) = read(&[path], ReaderOptions { format: Some(format), ..ReaderOptions::default() });
        assert_eq!(error, None);
        assert_eq!(found, rows);
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.').count(),
            0
        );
    });
}
