//! Several files as one stream of blocks, each followed by a position to go on from.
//!
//! Memory: the block, and a buffer of a few MiB (or of the longest line), whatever the size of the files.

use super::parse::{self, Rules, is_margin_header, without_return};
use super::source::{STDIN, Source};
use super::{BadCounts, BadKind, Columns, Format, MAX_SCORE, sniff};
use crate::error::{Error, ErrorKind, Result};
use memchr::{memchr, memchr_iter, memrchr};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A place between two rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which file, from 0.
    pub file: u64,
    /// Byte in that file's (decompressed) content.
    pub offset: u64,
    /// Lines of that file before it.
    pub line: u64,
    /// Good rows before it, over all files.
    pub row: u64,
    /// Docs a row, which the first row decided; 0 before it.
    pub num_docs: u64,
}

/// How to read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// `None` looks at the first lines.
    pub format: Option<Format>,
    /// Count bad rows and go on, instead of stopping at the first.
    pub skip: bool,
    /// At most this many rows a block; a block doesn't reach over two files.
    pub block_rows: usize,
    /// Longer lines are bad rows, so that a file without line ends can't fill the memory.
    pub max_line_bytes: usize,
    /// Scores of a larger magnitude are bad; infinity lets all finite ones pass.
    pub max_score: f32,
    /// Where to begin.
    pub start: Position,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self { format: None, skip: false, block_rows: 1 << 16, max_line_bytes: 1 << 20, max_score: MAX_SCORE, start: Position::default() }
    }
}

/// Some rows, and where the next ones begin.
#[derive(Debug)]
pub struct Block {
    /// The rows.
    pub columns: Columns,
    /// The place after them.
    pub position: Position,
}

/// What Windows and spreadsheets write at the beginning of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Read at once.
const PIECE_BYTES: usize = 256 << 10;
/// A block ends early when its lines make this many bytes.
const BLOCK_BYTES: usize = 4 << 20;
/// No row that the fast way takes is longer, so it needn't look at the limit.
const MIN_LINE_LIMIT: usize = 128;

/// Reads blocks of rows; an iterator in spirit (`next_block`).
pub struct ScoreReader {
    paths: Vec<PathBuf>,
    options: ReaderOptions,
    format: Option<Format>,
    source: Option<Source>,
    /// Content at the position: `buffer[begin..]`.
    buffer: Vec<u8>,
    begin: usize,
    /// The file's end is in the buffer.
    ended: bool,
    position: Position,
    bad: BadCounts,
    num_threads: usize,
    count: Arc<AtomicU64>,
    begun: bool,
    finished: bool,
}

impl ScoreReader {
    /// A reader of `paths` as one; "-" is standard input. Nothing is opened yet.
    ///
    /// # Errors
    /// `BadArgument` for options that can't be.
    pub fn new(paths: Vec<PathBuf>, options: ReaderOptions) -> Result<Self> {
        let bad = |expected: String, found: String| Err(Error::new(ErrorKind::BadArgument, expected, found, ""));
        if paths.is_empty() {
            return bad("at least one file".into(), "none".into());
        }
        if options.block_rows == 0 {
            return bad("block_rows of at least 1".into(), "0".into());
        }
        if options.max_line_bytes < MIN_LINE_LIMIT {
            return bad(format!("max_line_bytes of at least {MIN_LINE_LIMIT}"), options.max_line_bytes.to_string());
        }
        if options.start.file > paths.len() as u64 {
            return bad(format!("a position in one of {} files", paths.len()), format!("file {}", options.start.file));
        }
        if options.start != Position::default() && paths.iter().any(|path| path == Path::new(STDIN)) {
            return bad("a start at the beginning of standard input".into(), "another position".into());
        }
        Ok(Self {
            format: options.format,
            position: Position::default(),
            source: None,
            buffer: Vec::new(),
            begin: 0,
            ended: false,
            bad: BadCounts::default(),
            num_threads: std::thread::available_parallelism().map_or(1, usize::from),
            count: Arc::default(),
            begun: false,
            finished: false,
            paths,
            options,
        })
    }

    /// Finds the format, and opens the file that reading begins in; the first `next_block` does it otherwise.
    ///
    /// # Errors
    /// `BadData` if the first lines fit no format; `Io` if a file can't be read, where `Interrupted` can be tried again.
    pub fn begin(&mut self) -> Result<()> {
        if self.begun {
            return Ok(());
        }
        if self.format.is_none() {
            self.sniff()?;
        }
        // From the beginning, what `sniff` has read is kept: standard input can't be opened a second time.
        if self.options.start != Position::default() {
            self.leave();
            self.bad = BadCounts::default();
            self.count = Arc::default();
            self.position = self.options.start;
        }
        if self.source.is_none() && (self.position.file as usize) < self.paths.len() {
            self.enter()?;
        }
        self.begun = true;
        Ok(())
    }

    /// Looks at the first file that isn't empty, and stays at its beginning with what was read.
    fn sniff(&mut self) -> Result<()> {
        loop {
            if self.source.is_none() {
                self.enter()?;
            }
            while !self.ended && (self.buffer.len() < PIECE_BYTES || memchr(b'\n', &self.buffer).is_none()) {
                if self.buffer.len() > self.options.max_line_bytes {
                    break;
                }
                self.fill()?;
            }
            let last = self.position.file + 1 == self.paths.len() as u64;
            if self.begin == self.buffer.len() && !last {
                self.leave();
                self.position = Position { file: self.position.file + 1, ..Position::default() };
                continue;
            }
            let data = &self.buffer[self.begin..];
            let whole = if self.ended { data.len() } else { memrchr(b'\n', data).map_or(0, |at| at + 1) };
            self.format = Some(sniff::sniff(&data[..whole], self.options.max_line_bytes).map_err(|error| error.at(self.path(), Some(1)))?);
            return Ok(());
        }
    }

    fn path(&self) -> &Path {
        &self.paths[(self.position.file as usize).min(self.paths.len() - 1)]
    }

    /// The format: given, or found by `begin`.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Rows skipped so far, by kind.
    pub fn bad_rows(&self) -> BadCounts {
        self.bad
    }

    /// Where the next block begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Bytes read from the disk, compressed as they are.
    pub fn bytes_read(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Opens the file of the position.
    fn enter(&mut self) -> Result<()> {
        self.source = Some(Source::open(&self.paths[self.position.file as usize], self.position.offset, &self.count)?);
        Ok(())
    }

    fn leave(&mut self) {
        self.source = None;
        self.buffer.clear();
        self.begin = 0;
        self.ended = false;
    }

    /// Reads a piece more. Damage in an archive is an error; skipped, it ends the file after its last whole line.
    fn fill(&mut self) -> Result<()> {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin.., 0);
            self.buffer.truncate(self.buffer.len() - self.begin);
            self.begin = 0;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + PIECE_BYTES, 0);
        let source = self.source.as_mut().expect("entered");
        if let Err(error) = source.prepare() {
            self.buffer.truncate(length);
            return Err(error);
        }
        let result = source.read(&mut self.buffer[length..]);
        self.buffer.truncate(length + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => self.ended = true,
            // A byte order mark is no part of the first row; only there can the position be 0 with something read.
            Ok(_) if self.position.offset == 0 && self.buffer.starts_with(BYTE_ORDER_MARK) => {
                self.begin = BYTE_ORDER_MARK.len();
                self.position.offset = BYTE_ORDER_MARK.len() as u64;
            }
            Ok(_) => {}
            Err(error) if source.archive.is_empty() || error.raw_os_error().is_some() || error.kind() == io::ErrorKind::Interrupted => {
                return Err(Error::io(&error, self.path()));
            }
            Err(damage) if !self.options.skip => {
                let expected = format!("a whole {} archive", source.archive);
                let found = format!("one that can't be read after byte {} of its content ({damage})", self.position.offset + length as u64);
                let remedy = "fetch the file again, or pass on_bad_row=\"skip\" to use the rows before";
                let line = self.position.line + memchr_iter(b'\n', &self.buffer).count() as u64 + 1;
                return Err(Error::new(ErrorKind::BadData, expected, found, remedy).at(self.path(), Some(line)));
            }
            Err(_) => {
                self.bad[BadKind::Archive as usize] += 1;
                // The last line may be cut anywhere.
                self.buffer.truncate(memrchr(b'\n', &self.buffer).map_or(0, |at| at + 1));
                self.ended = true;
            }
        }
        Ok(())
    }

    /// The next rows, or `None` after the last.
    ///
    /// # Errors
    /// `BadData` at a bad row, unless those are skipped; `Io`. After an error there are no more blocks, except after
    /// `Io(Interrupted)`, which can be tried again.
    pub fn next_block(&mut self) -> Result<Option<Block>> {
        if self.finished {
            return Ok(None);
        }
        let result = self.advance();
        self.finished = match &result {
            Ok(block) => block.is_none(),
            Err(error) => error.kind != ErrorKind::Io(io::ErrorKind::Interrupted),
        };
        result
    }

    fn advance(&mut self) -> Result<Option<Block>> {
        self.begin()?;
        while (self.position.file as usize) < self.paths.len() {
            if self.source.is_none() {
                self.enter()?;
            }
            let length = self.whole_lines()?;
            if length == 0 {
                self.leave();
                self.position = Position { file: self.position.file + 1, offset: 0, line: 0, ..self.position };
                continue;
            }
            let block = self.parse(length)?;
            if block.columns.num_rows() > 0 {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// How many bytes of the buffer are the next whole lines: up to `block_rows` of them, or `BLOCK_BYTES`; 0 at the file's end.
    ///
    /// Empty lines at the file's end are no rows. So empty lines are only taken together with something that follows them.
    fn whole_lines(&mut self) -> Result<usize> {
        let (mut scanned, mut num_lines, mut length) = (0, 0, 0);
        loop {
            let data = &self.buffer[self.begin..];
            let run = empty_lines(data);
            // Not beyond the end: a damaged archive's last, cut line was taken away.
            scanned = scanned.max(run).min(data.len());
            if run == data.len() {
                if self.ended {
                    return Ok(0);
                }
                if run > BLOCK_BYTES {
                    return Ok(run);
                }
                self.fill()?;
                continue;
            }
            let piece = &data[scanned..];
            let count = memchr_iter(b'\n', piece).count();
            if num_lines + count >= self.options.block_rows {
                let last = memchr_iter(b'\n', piece).nth(self.options.block_rows - num_lines - 1);
                let length = scanned + last.expect("it was counted") + 1;
                return Ok(without_empty_lines(&data[..length]));
            }
            if let Some(last) = memrchr(b'\n', piece) {
                length = scanned + last + 1;
            }
            (num_lines, scanned) = (num_lines + count, data.len());
            if self.ended {
                return Ok(without_empty_lines(data));
            }
            if scanned >= BLOCK_BYTES && length > 0 {
                return Ok(without_empty_lines(&data[..length]));
            }
            if length == 0 && scanned - run > self.options.max_line_bytes + 1 {
                if run > 0 {
                    return Ok(run);
                }
                self.drop_overlong()?;
                scanned = 0;
                continue;
            }
            self.fill()?;
        }
    }

    /// Counts, or reports, a line that is longer than the buffer may get, and reads to its end.
    fn drop_overlong(&mut self) -> Result<()> {
        if !self.options.skip {
            let row = parse::overlong(self.options.max_line_bytes, &self.buffer[self.begin..]);
            return Err(Error::new(ErrorKind::BadData, row.expected, row.found, row.remedy).at(self.path(), Some(self.position.line + 1)));
        }
        loop {
            let data = &self.buffer[self.begin..];
            let end = memchr(b'\n', data).map(|at| at + 1);
            let dropped = end.unwrap_or(data.len());
            self.begin += dropped;
            self.position.offset += dropped as u64;
            if end.is_some() || self.ended {
                break;
            }
            self.fill()?;
        }
        self.position.line += 1;
        self.bad[BadKind::Overlong as usize] += 1;
        Ok(())
    }

    fn parse(&mut self, length: usize) -> Result<Block> {
        let format = self.format.expect("begin() decides it");
        let mut range = self.begin..self.begin + length;
        let mut header = 0;
        if format == Format::Margin && self.position.line == 0 {
            let end = memchr(b'\n', &self.buffer[range.clone()]).unwrap_or(length);
            if is_margin_header(without_return(&self.buffer[range.start..range.start + end])) {
                range.start = (range.start + end + 1).min(range.end);
                header = 1;
            }
        }
        let rules = Rules {
            format,
            num_docs: self.position.num_docs as usize,
            max_line_bytes: self.options.max_line_bytes,
            max_score: self.options.max_score,
            skip: self.options.skip,
        };
        let parsed = parse::parse_lines(&self.buffer, range, rules, self.num_threads);
        if let Some((line, row)) = parsed.error {
            let error = Error::new(ErrorKind::BadData, row.expected, row.found, row.remedy);
            return Err(error.at(self.path(), Some(self.position.line + header + line + 1)));
        }
        self.begin += length;
        self.bad.iter_mut().zip(parsed.bad).for_each(|(sum, count)| *sum += count);
        self.position.offset += length as u64;
        self.position.line += header + parsed.num_lines;
        self.position.row += parsed.columns.num_rows() as u64;
        self.position.num_docs = parsed.columns.num_docs as u64;
        Ok(Block { columns: parsed.columns, position: self.position })
    }
}

/// Bytes of the empty lines at the beginning.
fn empty_lines(data: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += match &data[at..] {
            [b'\n', ..] | [b'\r'] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return at,
        };
    }
}

/// How long whole lines are without the empty ones at their end.
fn without_empty_lines(lines: &[u8]) -> usize {
    let mut length = lines.len();
    loop {
        let line = without_return(lines[..length].strip_suffix(b"\n").unwrap_or(&lines[..length]));
        if line.is_empty() || !line.ends_with(b"\n") {
            return length;
        }
        length = line.len();
    }
}
