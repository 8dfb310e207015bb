//! Writing score files in their published layouts: whole or not at all, compressed as the name says.

use super::columns::{Columns, STRING};
use super::parse::has_space;
use super::{Format, MAX_SCORE, excerpt};
use crate::disk::{aside, publish};
use crate::error::{Error, ErrorKind, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Handed on at once.
const PIECE_BYTES: usize = 1 << 20;
/// Of zstd: the level where the time for scores is well spent.
const ZSTD_LEVEL: i32 = 6;

enum Output {
    Plain(NamedTempFile),
    // Without name and time in its header, the same rows make the same file.
    Gzip(GzEncoder<NamedTempFile>),
    Zstd(zstd::Encoder<'static, NamedTempFile>),
}

impl Output {
    fn create(file: NamedTempFile, path: &Path) -> io::Result<Self> {
        Ok(match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("gz") => Output::Gzip(GzEncoder::new(file, Compression::new(6))),
            Some("zst") => Output::Zstd(zstd::Encoder::new(file, ZSTD_LEVEL)?),
            _ => Output::Plain(file),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Plain(file) => file.write_all(bytes),
            Output::Gzip(encoder) => encoder.write_all(bytes),
            Output::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<NamedTempFile> {
        match self {
            Output::Plain(file) => Ok(file),
            Output::Gzip(encoder) => encoder.finish(),
            Output::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// Writes rows into a temporary file that gets its name when all is on the disk; dropping it unfinished removes it.
///
/// Scores have the fewest digits that give the same float32 again. In JSON, ids that are plain decimal numbers are numbers, as
/// ColBERT has them; reading gives the same id for `7` and `"7"`.
pub struct ScoreFileWriter {
    path: PathBuf,
    output: Output,
    format: Format,
    pending: Vec<u8>,
    num_rows: u64,
}

impl ScoreFileWriter {
    /// Starts a file that will be at `path`; compressed if that ends in .gz or .zst.
    ///
    /// # Arguments
    /// `sources`: what it's made of; it's as private as they are.
    ///
    /// # Errors
    /// `BadArgument` if `path` is there and isn't a file; `Io` if the folder can't be written.
    pub fn create(path: &Path, format: Format, sources: &[PathBuf]) -> Result<Self> {
        let output = Output::create(aside(path, sources)?, path).map_err(|error| Error::io(&error, path))?;
        Ok(Self { path: path.into(), output, format, pending: Vec::with_capacity(PIECE_BYTES + 4096), num_rows: 0 })
    }

    /// Rows so far.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Appends a row of `columns`' ids; the format `margin` writes the difference of the first two scores.
    ///
    /// # Errors
    /// `BadArgument` for what the layout can't hold: a score that isn't finite, a number of docs other than 2 (but in JSON), an
    /// id without a character or with white space, a text with a tab or line end. `Io` if the disk refuses.
    pub fn push(&mut self, columns: &Columns, query: u64, docs: &[u64], scores: &[f32]) -> Result<()> {
        if let Some(doc) = columns.repeated(docs) {
            let found = format!("{} twice", excerpt(columns.id(doc).as_bytes()));
            return Err(refusal("different docs in a row", found, "leave the repeated doc out").at(&self.path, Some(self.num_rows + 1)));
        }
        let start = self.pending.len();
        let out = &mut self.pending;
        let result = match self.format {
            Format::Nway => nway(out, columns, query, docs, scores),
            _ if docs.len() != 2 || scores.len() != 2 => {
                let expected = format!("2 docs for format=\"{}\"", self.format.name());
                Err(refusal(expected, docs.len().to_string(), "use format=\"nway\""))
            }
            Format::Margin => margin(out, columns, query, docs, scores[0] - scores[1]),
            Format::Ids => pair(out, columns, query, docs, scores, check_id),
            Format::Text => pair(out, columns, query, docs, scores, check_text),
        };
        if let Err(refusal) = result {
            self.pending.truncate(start);
            return Err(refusal.at(&self.path, Some(self.num_rows + 1)));
        }
        self.num_rows += 1;
        if self.pending.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Appends a row whose ids are strings, as [`ScoreFileWriter::push`].
    ///
    /// # Errors
    /// As there.
    pub fn push_row(&mut self, query: &str, docs: &[&str], scores: &[f32]) -> Result<()> {
        let mut columns = Columns::default();
        let query = columns.code(query);
        let docs: Vec<u64> = docs.iter().map(|doc| columns.code(doc)).collect();
        self.push(&columns, query, &docs, scores)
    }

    fn flush(&mut self) -> Result<()> {
        self.output.write_all(&self.pending).map_err(|error| Error::io(&error, &self.path))?;
        self.pending.clear();
        Ok(())
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// `Io` if the disk refuses.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.output.finish().and_then(|file| publish(file, &self.path)).map_err(|error| Error::io(&error, &self.path))
    }
}

/// What a layout can't hold; the writer adds the place.
fn refusal(expected: impl Into<String>, found: impl Into<String>, remedy: &str) -> Error {
    Error::new(ErrorKind::BadArgument, expected, found, remedy)
}

fn number(out: &mut Vec<u8>, score: f32) -> Result<()> {
    if !score.is_finite() {
        return Err(refusal("finite scores", score.to_string(), ""));
    }
    if score.abs() > MAX_SCORE {
        return Err(refusal(format!("scores of at most {MAX_SCORE:e}"), format!("{score:e}"), "clip them"));
    }
    // Writing to a Vec doesn't fail; Debug, unlike Display, turns to exponents for the very large and small.
    write!(out, "{score:?}").expect("a Vec takes it");
    Ok(())
}

fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn check_id(id: &str) -> Result<&str> {
    match id {
        "" => Err(refusal("ids of at least one character", "an empty one", "")),
        _ if has_space(id) => Err(refusal("ids without white space", excerpt(id.as_bytes()), "change the ids")),
        _ => Ok(id),
    }
}

fn check_text(text: &str) -> Result<&str> {
    match text {
        "" => Err(refusal("texts of at least one character", "an empty one", "")),
        _ if text.contains(['\t', '\n']) || text.ends_with('\r') => {
            Err(refusal("texts without tab and line end", excerpt(text.as_bytes()), "replace them by spaces"))
        }
        _ => Ok(text),
    }
}

/// How an id, or a text, is looked at before it's written.
type Check = fn(&str) -> Result<&str>;

fn column(out: &mut Vec<u8>, columns: &Columns, code: u64, check: Check) -> Result<()> {
    if code & STRING == 0 {
        decimal(out, code);
        return Ok(());
    }
    let id = check(columns.string(code))?;
    out.extend_from_slice(id.as_bytes());
    Ok(())
}

fn pair(out: &mut Vec<u8>, columns: &Columns, query: u64, docs: &[u64], scores: &[f32], check: Check) -> Result<()> {
    for &score in scores {
        number(out, score)?;
        out.push(b'\t');
    }
    column(out, columns, query, check)?;
    for &doc in docs {
        out.push(b'\t');
        column(out, columns, doc, check)?;
    }
    out.push(b'\n');
    Ok(())
}

fn margin(out: &mut Vec<u8>, columns: &Columns, query: u64, docs: &[u64], margin: f32) -> Result<()> {
    for &code in [query].iter().chain(docs) {
        column(out, columns, code, check_id)?;
        out.push(b'\t');
    }
    number(out, margin)?;
    out.push(b'\n');
    Ok(())
}

fn nway(out: &mut Vec<u8>, columns: &Columns, query: u64, docs: &[u64], scores: &[f32]) -> Result<()> {
    if docs.len() < 2 || docs.len() != scores.len() {
        return Err(refusal("at least 2 docs, and a score for each", format!("{} and {}", docs.len(), scores.len()), ""));
    }
    out.push(b'[');
    json_id(out, columns, query)?;
    for (&doc, &score) in docs.iter().zip(scores) {
        out.extend_from_slice(b", [");
        json_id(out, columns, doc)?;
        out.extend_from_slice(b", ");
        number(out, score)?;
        out.push(b']');
    }
    out.extend_from_slice(b"]\n");
    Ok(())
}

fn json_id(out: &mut Vec<u8>, columns: &Columns, code: u64) -> Result<()> {
    if code & STRING == 0 {
        decimal(out, code);
        return Ok(());
    }
    out.push(b'"');
    for &byte in check_id(columns.string(code))?.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => write!(out, "\\u{byte:04x}").expect("a Vec takes it"),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    Ok(())
}
