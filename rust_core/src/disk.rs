//! What the files of ours share: how they're mapped, what they're called until they're whole, and checksums of their blocks.

use crate::error::{Error, ErrorKind, Result};
use memmap2::Mmap;
use std::fs::{self, File};
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::{Builder, NamedTempFile, TempDir};
use xxhash_rust::xxh3::xxh3_64;

/// Bodies are checksummed in blocks of this size.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

pub(crate) fn checksum_of(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Maps a file.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|error| Error::io(&error, path))?;
    // SAFETY: the file is only ever replaced by a rename, never written in place, so the mapped bytes don't change under us.
    unsafe { Mmap::map(&file) }.map_err(|error| Error::io(&error, path))
}

/// A random hidden name beside a file, created exclusively: no link that waits there is followed.
fn beside<T>(path: &Path, mode: u32, create: impl Fn(&Builder<'_, '_>, &Path) -> io::Result<T>) -> Result<T> {
    // Part of a long name, since names may be of 255 bytes.
    let name: String = path.file_name().unwrap_or_default().to_string_lossy().chars().take(40).collect();
    let prefix = format!(".{name}.");
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(".tmp").rand_bytes(16);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create(&builder, folder).map_err(|error| Error::io(&error, path))
}

/// A file to write, which `publish` gives the name `path`; dropping it removes it.
///
/// # Arguments
/// `sources`: group and others may do no more with the file than with each of them, nor than with the file that it replaces.
///
/// # Errors
/// `BadArgument` if `path` is there and isn't a file; `Io` if the folder can't be written.
pub(crate) fn aside(path: &Path, sources: &[PathBuf]) -> Result<NamedTempFile> {
    let is_device = path.parent() == Some(Path::new("/dev")) && path.exists();
    if path.file_name().is_none() || is_device || fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let found = format!("{}, which is something else", path.display());
        return Err(Error::new(ErrorKind::BadArgument, "the name of a file", found, "choose another name"));
    }
    let mode = mode_like(sources.iter().map(PathBuf::as_path).chain([path]));
    beside(path, mode, |builder, folder| builder.tempfile_in(folder))
}

/// A folder beside `path` that nobody else can read; dropping it removes it.
///
/// # Errors
/// `Io` if it can't be made.
pub(crate) fn folder_aside(path: &Path) -> Result<TempDir> {
    beside(path, 0o700, |builder, folder| builder.tempdir_in(folder))
}

/// Brings a file to the disk, and gives it its name.
///
/// # Errors
/// What the system says; the file is removed then.
pub(crate) fn publish(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    if cfg!(unix) {
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The mode of a new file, before the umask: what each of the files allows group and others. Files that aren't there don't count.
pub(crate) fn mode_like<'a>(files: impl Iterator<Item = &'a Path>) -> u32 {
    #[cfg(unix)]
    let mode = |path: &Path| fs::metadata(path).map(|found| std::os::unix::fs::PermissionsExt::mode(&found.permissions()));
    #[cfg(not(unix))]
    let mode = |path: &Path| fs::metadata(path).map(|_| 0o666);
    files.filter_map(|path| mode(path).ok()).fold(0o666, |allowed, mode| allowed & (mode | 0o600))
}

/// A header, a body, and the checksum of each [`BLOCK_BYTES`] of the body; every block is compared before its first use.
#[derive(Debug)]
pub(crate) struct Checked<B> {
    bytes: B,
    body: Range<usize>,
    /// Which blocks of the body have been compared with their checksum.
    verified: Box<[AtomicBool]>,
    path: Option<PathBuf>,
    remedy: &'static str,
}

impl<B: Deref<Target = [u8]>> Checked<B> {
    /// Takes the bytes of a file, or of one in memory.
    ///
    /// # Arguments
    /// `table_checksum`: of the table of checksums; `None` trusts all, since it has just been made.
    ///
    /// # Errors
    /// `BadStore` for another number of bytes, or a table that was changed.
    pub fn new(
        bytes: B,
        path: Option<PathBuf>,
        remedy: &'static str,
        header_bytes: usize,
        body_bytes: u64,
        table_checksum: Option<u64>,
    ) -> Result<Self> {
        let num_blocks = body_bytes.div_ceil(BLOCK_BYTES as u64);
        let sum = |table: u64| table.checked_add(body_bytes)?.checked_add(header_bytes as u64);
        let length = num_blocks.checked_mul(8).and_then(sum);
        let mut checked = Self { bytes, body: 0..0, verified: Box::default(), path, remedy };
        let length = length.ok_or_else(|| checked.bad("sizes that fit together", "others"))?;
        if checked.bytes.len() as u64 != length {
            return Err(checked.bad(format!("{length} bytes"), format!("{}, so it is torn", checked.bytes.len())));
        }
        checked.body = header_bytes..header_bytes + body_bytes as usize;
        if table_checksum.is_some_and(|written| checksum_of(&checked.bytes[checked.body.end..]) != written) {
            return Err(checked.bad("the checksum table that was written", "a changed one"));
        }
        checked.verified = (0..num_blocks).map(|_| AtomicBool::new(table_checksum.is_none())).collect();
        Ok(checked)
    }

    /// The file, if these are bytes of one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A `BadStore` error of this file.
    pub fn bad(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        let error = Error::new(ErrorKind::BadStore, expected, found, self.remedy);
        if let Some(path) = &self.path { error.at(path, None) } else { error }
    }

    /// Bytes of the body, compared with their checksums if that hasn't been done.
    #[inline]
    pub fn body(&self, range: Range<usize>) -> Result<&[u8]> {
        let body = &self.bytes[self.body.clone()];
        let bytes = body.get(range.clone()).ok_or_else(|| self.bad("places inside the body", "others"))?;
        if !bytes.is_empty() {
            for block in range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES {
                if !self.verified[block].load(Ordering::Relaxed) {
                    self.verify_block(block)?;
                }
            }
        }
        Ok(bytes)
    }

    #[cold]
    fn verify_block(&self, block: usize) -> Result<()> {
        let first = self.body.start + block * BLOCK_BYTES;
        let bytes = &self.bytes[first..self.body.end.min(first + BLOCK_BYTES)];
        let at = self.body.end + 8 * block;
        let written = u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("8 bytes"));
        if checksum_of(bytes) != written {
            let expected = format!("bytes {first} to {} as they were written", first + bytes.len());
            return Err(self.bad(expected, "changed ones (their checksum differs)"));
        }
        self.verified[block].store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Compares every block with its checksum.
    ///
    /// # Errors
    /// `BadStore` if a byte was changed.
    pub fn verify(&self) -> Result<()> {
        (0..self.verified.len()).try_for_each(|block| self.verify_block(block))
    }
}
