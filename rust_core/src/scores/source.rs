//! Bytes of a score file, decompressed; what a file is, its first bytes tell, not its name.

use crate::error::{Error, ErrorKind, Result};
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// The name that stands for standard input.
pub(super) const STDIN: &str = "-";

/// Counts the bytes that come from the disk, before decompression.
struct Counting<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

enum Input {
    File(File),
    Stdin(io::Stdin),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::File(file) => file.read(buffer),
            Input::Stdin(stdin) => stdin.read(buffer),
        }
    }
}

/// One open file.
pub(super) struct Source {
    path: PathBuf,
    offset: u64,
    count: Arc<AtomicU64>,
    /// Until the first bytes are there; they tell how to go on.
    opened: Option<(Input, Vec<u8>)>,
    reader: Box<dyn Read + Send + Sync>,
    /// "gzip", "zstd" or "".
    pub archive: &'static str,
}

impl Source {
    /// Opens `path` at byte `offset` of its content: at once in a plain file, by reading up to there elsewhere. Nothing is read yet.
    pub fn open(path: &Path, offset: u64, count: &Arc<AtomicU64>) -> Result<Self> {
        let input = if path == Path::new(STDIN) {
            Input::Stdin(io::stdin())
        } else {
            Input::File(File::open(path).map_err(|error| Error::io(&error, path))?)
        };
        let reader = Box::new(io::empty());
        Ok(Self { path: path.into(), offset, count: count.clone(), opened: Some((input, Vec::new())), reader, archive: "" })
    }

    /// Reads up to the offset, if that hasn't been done. After an `Io(Interrupted)` it can be called again.
    pub fn prepare(&mut self) -> Result<()> {
        let Some((input, magic)) = &mut self.opened else { return Ok(()) };
        let failed = |error: io::Error| Error::io(&error, &self.path);
        while magic.len() < 4 {
            let mut bytes = [0; 4];
            let room = 4 - magic.len();
            match input.read(&mut bytes[..room]).map_err(failed)? {
                0 => break,
                length => magic.extend_from_slice(&bytes[..length]),
            }
        }
        let (mut input, magic) = self.opened.take().expect("looked at above");
        self.archive = match magic.as_slice() {
            [0x1f, 0x8b, ..] => "gzip",
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => "zstd",
            _ => "",
        };
        if let ("", Input::File(file), true) = (self.archive, &mut input, self.offset > 0) {
            let length = file.metadata().map_err(failed)?.len();
            // A pipe has no length and can't be sought in.
            if file.seek(SeekFrom::Start(self.offset)).is_ok() {
                if self.offset > length {
                    return Err(beyond(&self.path, self.offset));
                }
                self.count.fetch_add(self.offset, Ordering::Relaxed);
                self.reader = Box::new(Counting { inner: input, count: self.count.clone() });
                return Ok(());
            }
        }
        let whole = Counting { inner: Cursor::new(magic).chain(input), count: self.count.clone() };
        self.reader = match self.archive {
            "gzip" => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(1 << 18, whole))),
            "zstd" => Box::new(zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(1 << 18, whole)).map_err(failed)?),
            _ => Box::new(whole),
        };
        let skipped = io::copy(&mut (&mut self.reader).take(self.offset), &mut io::sink()).map_err(failed)?;
        if skipped < self.offset { Err(beyond(&self.path, self.offset)) } else { Ok(()) }
    }
}

fn beyond(path: &Path, offset: u64) -> Error {
    let remedy = "the file has become shorter since the position was taken; start from its beginning";
    Error::new(ErrorKind::BadArgument, format!("a file of at least {offset} bytes"), "a shorter one", remedy).at(path, None)
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Parts of a large file that its fingerprint looks at, spread evenly from its first byte to its last.
const NUM_SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 16 << 10;

/// 32 hexadecimal characters that name the content of some files, in order; names and times don't matter.
///
/// Files of up to 64 MiB are hashed whole. Of larger ones, their length and 256 samples of 16 KiB, from the first byte to the last.
///
/// # Errors
/// `Io` if a file can't be read.
pub fn fingerprint(paths: &[PathBuf]) -> Result<String> {
    let mut hasher = Xxh3::new();
    for path in paths {
        let mut hash = || {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            hasher.update(&length.to_le_bytes());
            let mut buffer = Vec::new();
            if length <= 64 << 20 {
                let mut file = BufReader::with_capacity(1 << 20, file);
                loop {
                    buffer.clear();
                    if (&mut file).take(1 << 20).read_to_end(&mut buffer)? == 0 {
                        return io::Result::Ok(());
                    }
                    hasher.update(&buffer);
                }
            }
            for sample in 0..NUM_SAMPLES {
                let at = u128::from(length - SAMPLE_BYTES) * u128::from(sample) / u128::from(NUM_SAMPLES - 1);
                file.seek(SeekFrom::Start(at as u64))?;
                buffer.clear();
                (&mut file).take(SAMPLE_BYTES).read_to_end(&mut buffer)?;
                hasher.update(&buffer);
            }
            Ok(())
        };
        hash().map_err(|error| Error::io(&error, path))?;
    }
    Ok(format!("{:032x}", hasher.digest128()))
}
