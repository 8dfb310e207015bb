//! Several teachers' score files into one, pair by pair, whatever the order of their rows.
//!
//! A radix join outside the memory: every (query, doc, score) of every file goes into one of 256 buckets of a temporary file, by a
//! hash of the pair; each bucket is joined by itself; its merged scores are kept in the order in which the first file asks for
//! them. The first file is then read once more and written again with those scores, each row taking the next score of the bucket
//! of each of its pairs: no position is ever stored.
//!
//! Cost: on the disk 20 bytes a pair of a row (a row of two docs: 40) of every file and 4 of the first; in memory about 20 MiB of
//! buffers and one bucket: 1/256 of the distinct pairs, at some 40 bytes each. Ids that aren't plain numbers are known by 63 bits of
//! their hash: two pairs are confused if both of their ids' hashes are equal, or if the one that differs collides.

mod buckets;
mod table;

pub use table::{Normalize, Summary};

use super::columns::{Columns, STRING};
use super::{BadCounts, Format, ReaderOptions, ScoreFileWriter, ScoreReader};
use crate::disk::folder_aside;
use crate::error::{Error, ErrorKind, Result};
use buckets::{Buckets, NUM_BUCKETS, Record, Streams, bucket_of, mix};
use std::fs;
use std::path::{Path, PathBuf};
use table::{Table, combine};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

/// What happens to a pair of the first file that another file lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissingPair {
    /// It's an error.
    Error,
    /// The first file's rows that have it are left out.
    Drop,
    /// Its score is averaged over the files that have it.
    Average,
}

impl OnMissingPair {
    /// The value of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "error" => Self::Error,
            "drop" => Self::Drop,
            "average" => Self::Average,
            _ => return None,
        })
    }
}

/// How to merge.
#[derive(Debug, Clone)]
pub struct MergeOptions {
    /// One a teacher; what counts is their ratio.
    pub weights: Vec<f64>,
    /// What is done to each teacher's scores first.
    pub normalize: Normalize,
    /// Over each query's docs instead of over all pairs of the file; ranks always are.
    pub per_query: bool,
    /// See [`OnMissingPair`].
    pub on_missing: OnMissingPair,
    /// Each row's docs by their merged scores, the first file's order among equal ones; without, in the first file's order.
    pub best_first: bool,
    /// Of all files; `None` looks at each.
    pub format: Option<Format>,
    /// Count bad rows and go on.
    pub skip: bool,
}

/// What was found in one teacher's file.
#[derive(Debug, Clone, Copy, Default)]
pub struct TeacherCounts {
    /// Good rows.
    pub rows: u64,
    /// Its distinct pairs and the spread of their scores, before they're normalised.
    pub pairs: Summary,
    /// Pairs that occur with several scores; the last one counts.
    pub changed: u64,
    /// The largest step between two scores of such a pair.
    pub largest_change: f64,
    /// Pairs of the first file that this one lacks.
    pub missing: u64,
    /// Pairs that the first file lacks, which aren't used.
    pub unused: u64,
    /// Rows skipped.
    pub bad: BadCounts,
}

/// What there was to do, and how much of it is done.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// "read", "survey", "join" or "write".
    pub stage: &'static str,
    /// Bytes of files, or buckets.
    pub done: u64,
    /// The same.
    pub total: u64,
}

enum Stage {
    Read(usize),
    Survey(usize),
    Join(usize),
    Write(Box<ScoreReader>, Box<ScoreFileWriter>),
    Done,
}

/// A merge in steps, so that its caller can show progress and be interrupted. Dropping it removes what isn't finished.
pub struct Merge {
    teachers: Vec<Vec<PathBuf>>,
    output: PathBuf,
    options: MergeOptions,
    readers: Vec<Option<ScoreReader>>,
    format: Format,
    buckets: Buckets,
    streams: Streams,
    stage: Stage,
    counts: Vec<TeacherCounts>,
    num_averaged: u64,
    num_rows: u64,
    num_dropped: u64,
    // The last field to be dropped, when the files in it are closed.
    _folder: TempDir,
}

impl Merge {
    /// A merge of teachers, each of one or more files that are read as one, into `output`. Looks at the beginning of each file.
    ///
    /// # Errors
    /// `BadArgument` for weights that can't be; `BadData` for files that can't be merged or aren't score files; `Io`.
    pub fn new(teachers: Vec<Vec<PathBuf>>, output: &Path, options: MergeOptions) -> Result<Self> {
        if teachers.is_empty() || options.weights.len() != teachers.len() {
            let found = format!("{} for {} files", options.weights.len(), teachers.len());
            return Err(Error::new(ErrorKind::BadArgument, "a weight for each file", found, ""));
        }
        if let Some(weight) = options.weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0)) {
            return Err(Error::new(ErrorKind::BadArgument, "weights above 0", weight.to_string(), "leave out files that don't count"));
        }
        let mut readers = Vec::new();
        for paths in &teachers {
            let mut reader = ScoreReader::new(paths.clone(), reader_options(&options))?;
            reader.begin()?;
            readers.push(Some(reader));
        }
        let formats: Vec<Format> = readers.iter().flatten().filter_map(ScoreReader::format).collect();
        for (paths, &format) in teachers.iter().zip(&formats) {
            fits_the_first(format, formats[0]).map_err(|error| error.at(&paths[0], None))?;
        }
        if formats[0] == Format::Margin && options.normalize != Normalize::None {
            let remedy = "a margin has no mean to take away; give the files weights instead";
            let expected = "normalize=\"none\" (--normalize none) for files of margins";
            return Err(Error::new(ErrorKind::BadArgument, expected, options.normalize.name(), remedy));
        }
        if formats[0] == Format::Margin && options.best_first {
            let expected = "pair scores, to put the best doc first";
            return Err(Error::new(ErrorKind::BadArgument, expected, "margins", "leave out best_first (--best-first)"));
        }
        let folder = folder_aside(output)?;
        Ok(Self {
            buckets: Buckets::create(&folder.path().join("pairs"))?,
            streams: Streams::create(&folder.path().join("scores"))?,
            _folder: folder,
            output: output.into(),
            counts: vec![TeacherCounts::default(); teachers.len()],
            teachers,
            options,
            readers,
            format: formats[0],
            stage: Stage::Read(0),
            num_averaged: 0,
            num_rows: 0,
            num_dropped: 0,
        })
    }

    /// By teacher.
    pub fn counts(&self) -> &[TeacherCounts] {
        &self.counts
    }

    /// The format of the output, which is the first file's.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Rows written.
    pub fn num_rows(&self) -> u64 {
        self.num_rows
    }

    /// Rows of the first file left out for a missing pair.
    pub fn num_dropped(&self) -> u64 {
        self.num_dropped
    }

    /// Pairs of the first file that were averaged over fewer than all files.
    pub fn num_averaged(&self) -> u64 {
        self.num_averaged
    }

    /// The next step: a block of rows, or a bucket; `None` when the output is written.
    ///
    /// # Errors
    /// `BadData` for a bad row, a pair that is missing, files that share no pair, or equal scores that are to be normalised; `Io`.
    pub fn advance(&mut self) -> Result<Option<Progress>> {
        match &mut self.stage {
            Stage::Read(teacher) => {
                let teacher = *teacher;
                self.read(teacher)?;
                let done = self.bytes_before(teacher) + self.readers[teacher].as_ref().map_or(0, ScoreReader::bytes_read);
                if self.readers[teacher].is_none() {
                    self.stage = if teacher + 1 < self.teachers.len() { Stage::Read(teacher + 1) } else { self.after_reading() };
                }
                Ok(Some(Progress { stage: "read", done, total: self.bytes_before(self.teachers.len()) }))
            }
            Stage::Survey(bucket) => {
                let bucket = *bucket;
                self.survey(bucket)?;
                self.stage = Stage::Survey(bucket + 1);
                if bucket + 1 == NUM_BUCKETS {
                    self.can_be_normalized()?;
                    self.stage = Stage::Join(0);
                }
                Ok(Some(Progress { stage: "survey", done: bucket as u64 + 1, total: NUM_BUCKETS as u64 }))
            }
            Stage::Join(bucket) => {
                let bucket = *bucket;
                self.join(bucket)?;
                self.stage = Stage::Join(bucket + 1);
                if bucket + 1 == NUM_BUCKETS {
                    self.begin_writing()?;
                }
                Ok(Some(Progress { stage: "join", done: bucket as u64 + 1, total: NUM_BUCKETS as u64 }))
            }
            Stage::Write(..) => self.write(),
            Stage::Done => Ok(None),
        }
    }

    /// Sizes of the files of teachers before `teacher`; a pipe counts nothing.
    fn bytes_before(&self, teacher: usize) -> u64 {
        self.teachers[..teacher].iter().flatten().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
    }

    fn read(&mut self, teacher: usize) -> Result<()> {
        let reader = self.readers[teacher].as_mut().expect("it's dropped after its last block");
        let Some(block) = reader.next_block()? else {
            self.counts[teacher].bad = reader.bad_rows();
            self.readers[teacher] = None;
            return self.buckets.end_teacher();
        };
        self.counts[teacher].rows += block.columns.num_rows() as u64;
        let per_query = self.per_query();
        let mut keys = Vec::new();
        for row in 0..block.columns.num_rows() {
            keys_of(&block.columns, row, self.format, &mut keys);
            let scores = &block.columns.scores[row * block.columns.num_docs..];
            for (&(query, doc), &score) in keys.iter().zip(scores) {
                self.buckets.push(bucket_of(query, doc, per_query), Record { query, doc, score })?;
            }
        }
        Ok(())
    }

    fn per_query(&self) -> bool {
        self.options.per_query || self.options.normalize == Normalize::Rank
    }

    fn after_reading(&self) -> Stage {
        if self.options.normalize == Normalize::None || self.per_query() { Stage::Join(0) } else { Stage::Survey(0) }
    }

    /// One bucket's pairs with each teacher's score, and which of them the first file's rows ask for, in order.
    fn table(&mut self, bucket: usize) -> Result<(Table, Vec<u32>)> {
        let mut table = Table::new(self.teachers.len());
        let mut asked = Vec::new();
        for (teacher, counts) in self.counts.iter_mut().enumerate() {
            let mut changed = Vec::new();
            self.buckets.for_each(bucket, teacher, |record| {
                let pair = table.pair(record.query, record.doc);
                if teacher == 0 {
                    asked.push(pair as u32);
                }
                if let Some(step) = table.set(pair, teacher, record.score) {
                    changed.push(pair as u32);
                    counts.largest_change = counts.largest_change.max(step);
                }
            })?;
            changed.sort_unstable();
            changed.dedup();
            table.changed.push(changed.len() as u64);
        }
        Ok((table, asked))
    }

    fn survey(&mut self, bucket: usize) -> Result<()> {
        let (table, _) = self.table(bucket)?;
        for (teacher, counts) in self.counts.iter_mut().enumerate() {
            counts.pairs = counts.pairs.with(table.summary(teacher));
        }
        Ok(())
    }

    fn can_be_normalized(&self) -> Result<()> {
        for (paths, counts) in self.teachers.iter().zip(&self.counts) {
            if counts.pairs.max <= counts.pairs.min {
                let found = format!("{} pairs of score {}", counts.pairs.count, counts.pairs.min);
                let remedy = "leave the file out, or pass normalize=\"none\" (--normalize none)";
                return Err(Error::new(ErrorKind::BadData, "scores that differ, to normalise them", found, remedy).at(&paths[0], None));
            }
        }
        Ok(())
    }

    fn join(&mut self, bucket: usize) -> Result<()> {
        let surveyed = matches!(self.after_reading(), Stage::Survey(_));
        let (table, asked) = self.table(bucket)?;
        for (teacher, counts) in self.counts.iter_mut().enumerate() {
            counts.changed += table.changed[teacher];
            if !surveyed {
                counts.pairs = counts.pairs.with(table.summary(teacher));
            }
        }
        for pair in 0..table.len() {
            let scores = table.scores(pair);
            let in_first = !scores[0].is_nan();
            for (counts, score) in self.counts.iter_mut().zip(scores) {
                counts.missing += u64::from(in_first && score.is_nan());
                counts.unused += u64::from(!in_first && !score.is_nan());
            }
            self.num_averaged += u64::from(in_first && scores.iter().any(|score| score.is_nan()));
        }
        let summaries: Vec<Summary> = self.counts.iter().map(|counts| counts.pairs).collect();
        let merged = combine(&table, &self.options.weights, self.options.normalize, self.per_query(), &summaries);
        let keeps = |pair: usize| self.options.on_missing == OnMissingPair::Average || table.scores(pair).iter().all(|s| !s.is_nan());
        // NaN stands for a pair whose rows are left out.
        let values = asked.iter().map(|&pair| if keeps(pair as usize) { merged[pair as usize] } else { f32::NAN });
        self.streams.put(values)
    }

    fn begin_writing(&mut self) -> Result<()> {
        if self.options.on_missing != OnMissingPair::Average {
            self.num_averaged = 0;
        }
        for (paths, counts) in self.teachers.iter().zip(&self.counts) {
            if counts.missing == self.counts[0].pairs.count && counts.missing > 0 {
                let expected = format!("pairs of {} among its own", self.teachers[0][0].display());
                let remedy = "do both files name the queries and docs of one collection, by the same ids?";
                let found = format!("none ({} other pairs)", counts.unused);
                return Err(Error::new(ErrorKind::BadData, expected, found, remedy).at(&paths[0], None));
            }
        }
        let mut options = reader_options(&self.options);
        options.format = Some(self.format);
        let reader = ScoreReader::new(self.teachers[0].clone(), options)?;
        let writer = ScoreFileWriter::create(&self.output, self.format, &self.teachers.concat())?;
        self.stage = Stage::Write(Box::new(reader), Box::new(writer));
        Ok(())
    }

    fn write(&mut self) -> Result<Option<Progress>> {
        let total = self.bytes_before(1);
        let Stage::Write(mut reader, mut writer) = std::mem::replace(&mut self.stage, Stage::Done) else { return Ok(None) };
        let Some(block) = reader.next_block()? else {
            if writer.num_rows() == 0 {
                let remedy = "pass on_missing_pair=\"average\" (--on-missing-pair average) to average over the files that have a pair";
                let expected = "a row whose pairs are in all files";
                let found = format!("none of {}", self.num_dropped);
                return Err(Error::new(ErrorKind::BadData, expected, found, remedy).at(&self.teachers[0][0], None));
            }
            self.num_rows = writer.num_rows();
            (*writer).finish()?;
            return Ok(Some(Progress { stage: "write", done: total, total }));
        };
        let columns = &block.columns;
        let per_query = self.per_query();
        let (mut keys, mut scores) = (Vec::new(), vec![0.0; columns.num_docs]);
        let mut sorted = Vec::new();
        for row in 0..columns.num_rows() {
            keys_of(columns, row, self.format, &mut keys);
            for (&(query, doc), score) in keys.iter().zip(&mut scores) {
                let next = self.streams.next(bucket_of(query, doc, per_query))?;
                *score = next.ok_or_else(|| changed_meanwhile().at(&self.teachers[0][0], None))?;
            }
            let docs = &columns.docs[row * columns.num_docs..][..columns.num_docs];
            let missing = scores.iter().position(|score| score.is_nan());
            match missing {
                None if self.options.best_first => {
                    sorted.clear();
                    sorted.extend(docs.iter().copied().zip(scores.iter().copied()));
                    sorted.sort_by(|(_, a): &(u64, f32), (_, b)| b.partial_cmp(a).expect("a missing pair's row isn't written"));
                    let (docs, scores): (Vec<_>, Vec<_>) = sorted.iter().copied().unzip();
                    writer.push(columns, columns.queries[row], &docs, &scores)?;
                }
                None => writer.push(columns, columns.queries[row], docs, &scores)?,
                Some(at) if self.options.on_missing == OnMissingPair::Error => {
                    return Err(self.missing_pair(&columns.id(columns.queries[row]), &columns.id(docs[at])));
                }
                Some(_) => self.num_dropped += 1,
            }
        }
        let done = reader.bytes_read();
        self.stage = Stage::Write(reader, writer);
        Ok(Some(Progress { stage: "write", done, total }))
    }

    fn missing_pair(&self, query: &str, doc: &str) -> Error {
        let lacking: Vec<String> = self
            .teachers
            .iter()
            .zip(&self.counts)
            .filter(|(_, counts)| counts.missing > 0)
            .map(|(paths, counts)| format!("{} missing in {}", counts.missing, paths[0].display()))
            .collect();
        let expected = format!("all {} pairs of the first file in the others", self.counts[0].pairs.count);
        let found = format!("{} (first: query {query:?}, doc {doc:?})", lacking.join(", "));
        let remedy = "pass on_missing_pair=\"drop\" (--on-missing-pair drop) to leave their rows out, or \"average\" to average over the files that have a pair";
        Error::new(ErrorKind::BadData, expected, found, remedy).at(&self.teachers[0][0], None)
    }
}

fn reader_options(options: &MergeOptions) -> ReaderOptions {
    ReaderOptions { format: options.format, skip: options.skip, ..ReaderOptions::default() }
}

fn fits_the_first(format: Format, first: Format) -> Result<()> {
    const MARGINS: &str = "margins, which can't be taken apart into pair scores";
    let (expected, found) = match (first, format) {
        (Format::Margin, Format::Margin) => return Ok(()),
        (Format::Margin, _) => (MARGINS, format.name()),
        (_, Format::Margin) => ("pair scores, as in the first file", MARGINS),
        (Format::Text, Format::Ids) => ("texts, as in the first file", "ids"),
        (Format::Ids, Format::Text) => ("ids, as in the first file", "texts"),
        _ => return Ok(()),
    };
    let remedy = "merge files of one kind; \"rankdistill scores convert\" makes margins of pair scores, and texts of ids";
    Err(Error::new(ErrorKind::BadData, expected, found, remedy))
}

fn changed_meanwhile() -> Error {
    let remedy = "it was written to meanwhile; merge again";
    Error::new(ErrorKind::BadData, "the same rows on the second reading", "others", remedy)
}

/// What stands for an id in every file: itself if it's a plain number, else a hash.
fn key(columns: &Columns, code: u64) -> u64 {
    if code & STRING == 0 { code } else { STRING | (xxh3_64(columns.string(code).as_bytes()) >> 1) }
}

/// The pairs of a row. A row of margins is one, of the query with both docs.
fn keys_of(columns: &Columns, row: usize, format: Format, keys: &mut Vec<(u64, u64)>) {
    keys.clear();
    let query = key(columns, columns.queries[row]);
    let docs = columns.docs[row * columns.num_docs..][..columns.num_docs].iter().map(|&doc| key(columns, doc));
    if format == Format::Margin {
        // The order of the docs counts.
        keys.push((query, docs.fold(0, |both, doc| mix(both ^ doc).wrapping_add(doc))));
    } else {
        keys.extend(docs.map(|doc| (query, doc)));
    }
}
