//! Which format a file is in, told by its first lines.

use super::parse::{Rules, careful_row, is_margin_header, without_return};
use super::{BadKind, Columns, Format, excerpt};
use crate::error::{Error, ErrorKind};

/// Lines looked at. One would do for whole files; more, so that a text without a space doesn't pass for an id, nor a bad first row for the format.
const NUM_LINES: usize = 100;

/// The format of the file that begins with `head`, of which only whole lines count.
pub(super) fn sniff(head: &[u8], max_line_bytes: usize) -> Result<Format, Error> {
    let lines = || head.split(|&byte| byte == b'\n').map(without_return).filter(|line| !line.is_empty()).take(NUM_LINES);
    let fits = |format, line: &[u8]| {
        // Rows that are bad for what they say, not for how they are written, tell the format too.
        let rules = Rules { format, num_docs: 0, max_line_bytes, max_score: f32::INFINITY, skip: false };
        careful_row(line, rules, &mut Columns::default()).map_or_else(|row| row.kind == BadKind::Repeated, |()| true)
    };
    for (number, line) in lines().enumerate() {
        if fits(Format::Nway, line) {
            return Ok(Format::Nway);
        }
        if fits(Format::Margin, line) || (number == 0 && is_margin_header(line)) {
            return Ok(Format::Margin);
        }
        if fits(Format::Text, line) {
            let is_text = |line: &[u8]| line.contains(&b' ');
            return Ok(if lines().any(is_text) { Format::Text } else { Format::Ids });
        }
    }
    let first = lines().next().unwrap_or(&[]);
    let num_columns = first.split(|&byte| byte == b'\t').count();
    let found = if first.is_empty() { "an empty file".into() } else { format!("{num_columns} columns ({})", excerpt(first)) };
    Err(Error::new(
        ErrorKind::BadData,
        "a row of a teacher score file (5 columns: pos_score, neg_score, query_id, pos_id, neg_id; 4: query_id, positive_id, negative_id, margin; or JSON: [query_id, [doc_id, score], ...])",
        found,
        "is it a score file? if it is, name its format (format=\"ids\", \"text\", \"margin\" or \"nway\")",
    ))
}
