//! From whole lines to columns. A fast way for what files hold nearly always; a careful one that alone decides what is wrong.

use super::columns::Columns;
use super::{BadCounts, BadKind, BadRow, Format, excerpt, number, nway};
use memchr::{memchr, memchr2};
use std::ops::Range;

/// What holds for all lines of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub format: Format,
    /// Docs that each row must have; 0 if the first row is to decide.
    pub num_docs: usize,
    pub max_line_bytes: usize,
    pub max_score: f32,
    pub skip: bool,
}

/// What some lines gave. With an error, rows after it were not read.
#[derive(Default)]
pub(super) struct Parsed {
    pub columns: Columns,
    pub num_lines: u64,
    pub bad: BadCounts,
    /// The first bad row, and its line from 0.
    pub error: Option<(u64, BadRow)>,
}

/// Below this a second thread costs more than it saves.
const MIN_PART_BYTES: usize = 256 << 10;
const MAX_THREADS: usize = 4;

/// Parses the lines in `data[range]`, which ends with a newline, on as many threads as pay.
pub(super) fn parse_lines(data: &[u8], range: Range<usize>, rules: Rules, num_threads: usize) -> Parsed {
    let decides = rules.format == Format::Nway && rules.num_docs == 0;
    let num_parts = if decides { 1 } else { (range.len() / MIN_PART_BYTES).clamp(1, num_threads.clamp(1, MAX_THREADS)) };
    if num_parts == 1 {
        return parse_part(data, range, rules);
    }
    let mut parts = Vec::with_capacity(num_parts);
    let mut start = range.start;
    for part in 1..=num_parts {
        let aim = range.start + range.len() * part / num_parts;
        let end = memchr(b'\n', &data[aim - 1..range.end]).map_or(range.end, |at| aim + at);
        parts.push(start..end);
        start = end;
    }
    let mut results = std::thread::scope(|scope| {
        let threads: Vec<_> = parts[1..].iter().map(|part| scope.spawn(|| parse_part(data, part.clone(), rules))).collect();
        let mut results = vec![parse_part(data, parts[0].clone(), rules)];
        results.extend(threads.into_iter().map(|thread| thread.join().expect("parsing does not panic")));
        results
    })
    .into_iter();
    let mut whole = results.next().unwrap_or_default();
    for part in results {
        if whole.error.is_some() {
            break;
        }
        whole.columns.append(&part.columns);
        whole.error = part.error.map(|(line, row)| (whole.num_lines + line, row));
        whole.num_lines += part.num_lines;
        whole.bad.iter_mut().zip(part.bad).for_each(|(sum, count)| *sum += count);
    }
    whole
}

fn parse_part(data: &[u8], range: Range<usize>, mut rules: Rules) -> Parsed {
    let mut parsed = Parsed::default();
    let columns = &mut parsed.columns;
    columns.num_docs = rules.num_docs;
    // A guess that a file of ids makes good: no second allocation, little waste.
    columns.reserve(range.len() / 32, if rules.format == Format::Nway { 0 } else { 2 });
    let data = &data[..range.end];
    let mut at = range.start;
    while at < data.len() {
        let fast = match rules.format {
            Format::Ids => fast_ids(data, at, columns),
            Format::Margin => fast_margin(data, at, columns),
            Format::Text | Format::Nway => None,
        };
        let start = at;
        if let Some(next) = fast {
            at = next;
        } else {
            let end = memchr(b'\n', &data[at..]).map_or(data.len(), |length| at + length);
            at = end + 1;
            if let Err(row) = careful_row(without_return(&data[start..end]), rules, columns) {
                if !rules.skip {
                    parsed.error = Some((parsed.num_lines, row));
                    return parsed;
                }
                parsed.bad[row.kind as usize] += 1;
            } else if rules.num_docs == 0 {
                rules.num_docs = columns.num_docs;
            }
        }
        parsed.num_lines += 1;
    }
    parsed
}

/// The line without the carriage return that Windows leaves.
pub(super) fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[inline(always)]
fn after(data: &[u8], at: usize, byte: u8) -> Option<usize> {
    (data.get(at) == Some(&byte)).then_some(at + 1)
}

#[inline(always)]
fn after_line_end(data: &[u8], at: usize) -> Option<usize> {
    match data.get(at) {
        Some(b'\n') => Some(at + 1),
        Some(b'\r') => after(data, at + 1, b'\n'),
        _ => None,
    }
}

/// A row of plain numbers, which fits any sensible line limit; `None`, and no change, for any other.
#[inline(always)]
fn fast_ids(data: &[u8], at: usize, columns: &mut Columns) -> Option<usize> {
    let (positive, at) = number::float(data, at)?;
    let (negative, at) = number::float(data, after(data, at, b'\t')?)?;
    let (query, at) = number::id(data, after(data, at, b'\t')?)?;
    let (first, at) = number::id(data, after(data, at, b'\t')?)?;
    let (second, at) = number::id(data, after(data, at, b'\t')?)?;
    let next = after_line_end(data, at).filter(|_| first != second)?;
    columns.push_pair(query, [first, second], [positive, negative]);
    Some(next)
}

#[inline(always)]
fn fast_margin(data: &[u8], at: usize, columns: &mut Columns) -> Option<usize> {
    let (query, at) = number::id(data, at)?;
    let (first, at) = number::id(data, after(data, at, b'\t')?)?;
    let (second, at) = number::id(data, after(data, at, b'\t')?)?;
    let (margin, at) = number::float(data, after(data, at, b'\t')?)?;
    let next = after_line_end(data, at).filter(|_| first != second)?;
    columns.push_pair(query, [first, second], [margin, 0.0]);
    Some(next)
}

/// One line, without its end. The checks come in this order: length, UTF-8, columns, ids (there, distinct), scores.
pub(super) fn careful_row(line: &[u8], rules: Rules, columns: &mut Columns) -> Result<(), BadRow> {
    if line.len() > rules.max_line_bytes {
        return Err(overlong(rules.max_line_bytes, line));
    }
    let text = std::str::from_utf8(line).map_err(|error| {
        let found = format!("byte 0x{:02x} at column {} ({})", line[error.valid_up_to()], error.valid_up_to() + 1, excerpt(line));
        BadRow::new(BadKind::Utf8, "UTF-8", found)
    })?;
    match rules.format {
        Format::Nway => nway::row(text, rules, columns),
        Format::Margin => {
            let [query, positive, negative, margin] = split(text, rules.format)?;
            let ids = [("query_id", query), ("positive_id", positive), ("negative_id", negative)];
            ids.into_iter().try_for_each(|(name, id)| check_id(name, id, line))?;
            distinct(positive, negative)?;
            let scores = [score("margin", margin, rules.max_score)?, 0.0];
            let codes = ids.map(|(_, id)| columns.code(id));
            columns.push_pair(codes[0], [codes[1], codes[2]], scores);
            Ok(())
        }
        Format::Ids | Format::Text => {
            let [positive_score, negative_score, query, positive, negative] = split(text, rules.format)?;
            let ids = [("query", query), ("positive", positive), ("negative", negative)];
            let check = if rules.format == Format::Ids { check_id } else { not_empty };
            ids.into_iter().try_for_each(|(name, id)| check(name, id, line))?;
            distinct(positive, negative)?;
            let max = rules.max_score;
            let scores = [score("pos_score", positive_score, max)?, score("neg_score", negative_score, max)?];
            let codes = ids.map(|(_, id)| columns.code(id));
            columns.push_pair(codes[0], [codes[1], codes[2]], scores);
            Ok(())
        }
    }
}

pub(super) fn overlong(limit: usize, line: &[u8]) -> BadRow {
    let found = format!("a longer one ({})", excerpt(line));
    BadRow {
        remedy: "is it a text file? if it is, raise max_line_bytes",
        ..BadRow::new(BadKind::Overlong, format!("a line of at most {limit} bytes"), found)
    }
}

fn split<const N: usize>(text: &str, format: Format) -> Result<[&str; N], BadRow> {
    let mut columns = [""; N];
    let mut count = 0;
    for column in text.split('\t') {
        if count < N {
            columns[count] = column;
        }
        count += 1;
    }
    if count == N {
        return Ok(columns);
    }
    let found = if text.is_empty() { "an empty line".to_owned() } else { format!("{count} ({})", excerpt(text.as_bytes())) };
    Err(BadRow::new(BadKind::Columns, format.expected(), found))
}

fn not_empty(name: &str, id: &str, line: &[u8]) -> Result<(), BadRow> {
    if id.is_empty() {
        return Err(BadRow::new(BadKind::Id, format!("a {name} of at least one character"), format!("none ({})", excerpt(line))));
    }
    Ok(())
}

/// Ids stand in TREC files sooner or later, whose columns white space parts.
pub(super) fn check_id(name: &str, id: &str, line: &[u8]) -> Result<(), BadRow> {
    not_empty(name, id, line)?;
    if has_space(id) {
        return Err(BadRow {
            remedy: "if the columns are texts, name the format \"text\"; if they're ids, change them",
            ..BadRow::new(BadKind::Id, format!("a {name} without white space"), format!("{id:?} ({})", excerpt(line)))
        });
    }
    Ok(())
}

/// Whether an id has white space of ASCII in it.
pub(super) fn has_space(id: &str) -> bool {
    id.bytes().any(|byte| matches!(byte, b' ' | b'\t'..=b'\r'))
}

fn distinct(positive: &str, negative: &str) -> Result<(), BadRow> {
    if positive == negative { Err(repeated(positive)) } else { Ok(()) }
}

pub(super) fn repeated(id: &str) -> BadRow {
    BadRow::new(BadKind::Repeated, "different docs in a row", format!("{} twice", excerpt(id.as_bytes())))
}

/// A finite number of at most `max` as magnitude.
pub(super) fn score(name: &str, text: &str, max: f32) -> Result<f32, BadRow> {
    let value = number::parse_f32(text.as_bytes())
        .filter(|value| value.is_finite())
        .ok_or_else(|| BadRow::new(BadKind::Score, format!("a finite number as {name}"), excerpt(text.as_bytes())))?;
    if value.abs() > max {
        let expected = format!("a number of at most {max:e} as {name}, so that gradients stay finite in float32");
        return Err(BadRow { remedy: TOO_LARGE, ..BadRow::new(BadKind::Score, expected, excerpt(text.as_bytes())) });
    }
    Ok(value)
}

const TOO_LARGE: &str = "clip the scores (rankdistill scores clean --clip LOW HIGH), correct the row, or pass on_bad_row=\"skip\" to leave \
                         such rows out, counted";

/// Whether a margin file's first line names its columns.
pub(super) fn is_margin_header(line: &[u8]) -> bool {
    let Some(tab) = memchr2(b'\t', b'\n', line) else { return false };
    let first = line[..tab].to_ascii_lowercase();
    let last = line.rsplit(|&byte| byte == b'\t').next().unwrap_or(&[]);
    matches!(first.as_slice(), b"query_id" | b"query-id" | b"qid" | b"query") && number::parse_f32(last).is_none()
}
