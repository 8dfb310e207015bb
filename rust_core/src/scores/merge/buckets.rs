//! Temporary files: pairs by bucket, and the scores that each bucket gives back.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// 40 million rows of three teachers make buckets of a million records.
pub const NUM_BUCKETS: usize = 256;
/// A bucket's records are written in chunks of at most this size: 16 MiB for all, and reading them is nearly sequential.
const CHUNK_BYTES: usize = 64 << 10;
/// Scores of a stream read at once: 4 MiB for all.
const STREAM_SCORES: usize = 4096;

/// One pair of one row.
pub struct Record {
    pub query: u64,
    pub doc: u64,
    pub score: f32,
}

const RECORD_BYTES: usize = 20;

/// The finaliser of SplitMix64: every input bit reaches every output bit.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// By query, so that all of a query's docs meet, or by pair, which is more even where few queries have many docs.
pub fn bucket_of(query: u64, doc: u64, per_query: bool) -> usize {
    let doc = if per_query { 0 } else { mix(doc) };
    (mix(query.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ doc) >> 56) as usize
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(|error| Error::io(&error, path))
}

/// Records by bucket and teacher, in one file of chunks; written teacher by teacher, then read.
pub struct Buckets {
    path: PathBuf,
    file: File,
    end: u64,
    pending: Vec<Vec<u8>>,
    /// Offset and bytes of each bucket's chunks.
    chunks: Vec<Vec<(u64, usize)>>,
    /// How many chunks each bucket had at the end of each teacher.
    ends: Vec<Vec<usize>>,
    buffer: Vec<u8>,
}

impl Buckets {
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.into(),
            file: open(path)?,
            end: 0,
            pending: vec![Vec::new(); NUM_BUCKETS],
            chunks: vec![Vec::new(); NUM_BUCKETS],
            ends: vec![Vec::new(); NUM_BUCKETS],
            buffer: Vec::new(),
        })
    }

    pub fn push(&mut self, bucket: usize, record: Record) -> Result<()> {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&record.query.to_le_bytes());
        bytes[8..16].copy_from_slice(&record.doc.to_le_bytes());
        bytes[16..].copy_from_slice(&record.score.to_le_bytes());
        self.pending[bucket].extend_from_slice(&bytes);
        if self.pending[bucket].len() + RECORD_BYTES > CHUNK_BYTES { self.flush(bucket) } else { Ok(()) }
    }

    fn flush(&mut self, bucket: usize) -> Result<()> {
        let bytes = &mut self.pending[bucket];
        if !bytes.is_empty() {
            self.file.write_all(bytes).map_err(|error| Error::io(&error, &self.path))?;
            self.chunks[bucket].push((self.end, bytes.len()));
            self.end += bytes.len() as u64;
            bytes.clear();
        }
        Ok(())
    }

    /// What follows is the next teacher's.
    pub fn end_teacher(&mut self) -> Result<()> {
        for bucket in 0..NUM_BUCKETS {
            self.flush(bucket)?;
            self.ends[bucket].push(self.chunks[bucket].len());
        }
        Ok(())
    }

    /// A teacher's records in a bucket, in the order in which they came.
    pub fn for_each(&mut self, bucket: usize, teacher: usize, mut take: impl FnMut(Record)) -> Result<()> {
        let start = if teacher == 0 { 0 } else { self.ends[bucket][teacher - 1] };
        for &(offset, length) in &self.chunks[bucket][start..self.ends[bucket][teacher]] {
            self.buffer.resize(length, 0);
            let mut read = || -> io::Result<()> {
                self.file.seek(SeekFrom::Start(offset))?;
                self.file.read_exact(&mut self.buffer)
            };
            read().map_err(|error| Error::io(&error, &self.path))?;
            for bytes in self.buffer.as_chunks::<RECORD_BYTES>().0 {
                take(Record {
                    query: u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")),
                    doc: u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")),
                    score: f32::from_le_bytes(bytes[16..].try_into().expect("4 bytes")),
                });
            }
        }
        Ok(())
    }
}

/// Scores of one bucket after the other; then read from all buckets at once, each in its order.
pub struct Streams {
    path: PathBuf,
    file: BufWriter<File>,
    num_scores: u64,
    streams: Vec<Stream>,
    bytes: Vec<u8>,
}

struct Stream {
    /// Scores of the file that aren't read yet.
    rest: std::ops::Range<u64>,
    /// Scores that are read, the next one last.
    ready: Vec<f32>,
}

impl Streams {
    pub fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::with_capacity(1 << 18, open(path)?);
        Ok(Self { path: path.into(), file, num_scores: 0, streams: Vec::new(), bytes: Vec::new() })
    }

    /// Appends the scores of the next bucket.
    pub fn put(&mut self, scores: impl Iterator<Item = f32>) -> Result<()> {
        let start = self.num_scores;
        for score in scores {
            self.file.write_all(&score.to_le_bytes()).map_err(|error| Error::io(&error, &self.path))?;
            self.num_scores += 1;
        }
        self.streams.push(Stream { rest: start..self.num_scores, ready: Vec::new() });
        Ok(())
    }

    /// The next score of a bucket; `None` after its last.
    pub fn next(&mut self, bucket: usize) -> Result<Option<f32>> {
        let stream = &mut self.streams[bucket];
        if stream.ready.is_empty() {
            let count = (stream.rest.end - stream.rest.start).min(STREAM_SCORES as u64);
            self.bytes.resize(4 * count as usize, 0);
            let mut read = || -> io::Result<()> {
                // Seeking writes what is still buffered.
                self.file.seek(SeekFrom::Start(4 * stream.rest.start))?;
                self.file.get_mut().read_exact(&mut self.bytes)
            };
            read().map_err(|error| Error::io(&error, &self.path))?;
            stream.ready.extend(self.bytes.as_chunks::<4>().0.iter().rev().map(|word| f32::from_le_bytes(*word)));
            stream.rest.start += count;
        }
        Ok(stream.ready.pop())
    }
}
