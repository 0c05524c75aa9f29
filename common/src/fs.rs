//! The seam to the disk: synchronous files behind two small traits, so that a test can tear, drop, corrupt, delay or
//! refuse any single operation.
//!
//! `RealFs` is the only implementation that touches `std::fs`; everything else in the project goes through `Fs`. Calls
//! block, so a shell makes them where blocking is cheap (an append to the page cache) or on the world's disk pool.
//! Durability follows POSIX: bytes are safe after `File::sync_data`, names after `Fs::sync_dir` of their directory.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::time::Timestamp;

mod cached_pages;

/// How `Fs::open` treats a file that is there or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// Must exist; only `read_at` is allowed.
    Read,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Made when missing; reads and writes; what is there stays.
    Create,
    /// Must not exist; reads and writes.
    CreateNew,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// Bytes of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    pub total: u64,
    pub available: u64,
}

/// What is about to be done with a range of a file, so that the page cache can be used well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    WillNeed,
    DontNeed,
    Sequential,
}

/// A directory tree.
pub trait Fs: Send + Sync + Debug {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Replaces `to` when it is there. Durable after `sync_dir` of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock file, or fails with `WouldBlock` when another process holds it. Held until the guard is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Whether another process holds the lock file. Makes no file; a lock that is free is held for a moment.
    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        if !self.exists(path)? {
            return Ok(false);
        }
        match self.lock(path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            result => result.map(|_| false),
        }
    }
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;
    /// Bytes of a file, by its name.
    fn len(&self, path: &Path) -> io::Result<u64> {
        self.open(path, OpenMode::Read)?.len()
    }
    /// A handle by which the whole file system that holds this directory is synced at once.
    fn whole(&self, dir: &Path) -> io::Result<Arc<dyn WholeFs>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, format!("{}: not to be synced whole", dir.display())))
    }
}

/// A whole file system: what syncs thousands of files in one pass of the disk, where one sync for each takes minutes.
pub trait WholeFs: Send + Sync + Debug {
    /// Makes everything durable that was written before, names included, whoever wrote it. It fails when a write to this
    /// file system has failed since the handle was made or last synced: make it before anything is written.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. All positions are absolute, so one handle serves any number of threads.
pub trait File: Send + Sync + Debug {
    /// Reads at most `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`File::read_at`], but fails with `WouldBlock` where it would have to wait for the disk. A file that cannot tell
    /// waits.
    fn read_at_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buffer, offset)
    }
    /// Writes all buffers one after another from `offset`, with as few system calls as the kernel allows.
    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the bytes and the length durable. After an error the file's state is unknown: never retry as if nothing
    /// had happened.
    fn sync_data(&self) -> io::Result<()>;
    fn advise(&self, _offset: u64, _len: u64, _advice: Advice) -> io::Result<()> {
        Ok(())
    }
    /// Where, at `offset` or behind it, the file has bytes that may be other than zero; `None`: nowhere. What the file
    /// system knows as a hole is passed over.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
    /// Whether this range can, by samples of it, be read without waiting for the disk. `true` when unknown.
    fn is_cached(&self, _offset: u64, _len: usize) -> bool {
        true
    }
    /// The descriptor, for `sendfile`; `None` for a simulated file.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// When it was last written to; `None` where nobody knows.
    fn modified(&self) -> Option<Timestamp> {
        None
    }

    /// Fills the whole buffer or fails with `UnexpectedEof`.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = buffer.split_at_mut(read).1;
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads a small file whole, refusing one larger than `bytes_max`.
pub fn read_file(fs: &dyn Fs, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > bytes_max {
        let message = format!("{} has {len} bytes, more than the {bytes_max} it can have", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a small file so that a crash leaves the old or the new one: `.tmp`, write, sync, rename, sync the directory.
pub fn write_file_atomically(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    write_temporary(fs, temporary, bytes, true)?;
    fs.rename(temporary, path)?;
    match path.parent() {
        Some(parent) => fs.sync_dir(parent),
        None => Ok(()),
    }
}

/// Writes a file that is about to be renamed. What of it fits on a full disk goes again: it is of no use, and the room is.
pub fn write_temporary(fs: &dyn Fs, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let file = fs.open(path, OpenMode::Create)?;
    file.set_len(0)?;
    match file.write_all_at(&[IoSlice::new(bytes)], 0) {
        Err(error) if is_full(&error) => {
            drop(file);
            let _ = fs.remove_file(path);
            return Err(error);
        }
        result => result?,
    }
    if sync { file.sync_data() } else { Ok(()) }
}

/// Whether an operation failed for want of room, on the disk or within a quota, or for want of a descriptor: nothing is
/// wrong with the disk.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) || is_out_of_descriptors(error)
}

/// Whether as many files are open as the process, or the system, may have open.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = rustix::io::Errno::from_io_error(error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Of a longer piece of advice the kernel need not read more than this, as it is set up by default.
const WILL_NEED_BYTES: usize = 128 * 1024;

/// A range's pages are probed for at this distance, and its last one.
const PROBE_BYTES: usize = 128 * 1024;

/// The operating system's files.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealFs;

#[derive(Debug)]
struct RealFile(std::fs::File);

/// A directory's descriptor.
#[derive(Debug)]
struct RealWhole(std::fs::File);

impl WholeFs for RealWhole {
    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

impl Fs for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => &mut options,
            OpenMode::ReadWrite => options.write(true),
            OpenMode::Create => options.write(true).create(true).truncate(false),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        // Java takes the other kind of lock, which belongs to the process. So Kafka and we keep each other out.
        would_block(rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive))?;
        Ok(Box::new(file))
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
        let both = would_block(rustix::fs::flock(&file, shared))
            .and_then(|()| would_block(rustix::fs::fcntl_lock(&file, shared)));
        match both {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            result => result.map(|()| false),
        }
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(DiskSpace { total: stat.f_blocks * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn whole(&self, dir: &Path) -> io::Result<Arc<dyn WholeFs>> {
        Ok(Arc::new(RealWhole(std::fs::File::open(dir)?)))
    }
}

/// POSIX lets a lock that is held be told by either of two codes.
fn would_block(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::ACCESS) => Err(io::ErrorKind::WouldBlock.into()),
        result => Ok(result?),
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn read_at_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut buffers = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.0, &mut buffers, offset, rustix::io::ReadWriteFlags::NOWAIT) {
            // The file system cannot tell.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => self.0.read_at(buffer, offset),
            result => Ok(result?),
        }
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // The kernel takes at most IOV_MAX buffers in one call.
        const BUFFERS_MAX: usize = 1024;
        for chunk in buffers.chunks(BUFFERS_MAX) {
            let mut left: usize = chunk.iter().map(|buffer| buffer.len()).sum();
            let mut skip = 0;
            while left > 0 {
                // After a short write (rare: a signal, a nearly full disk) go on behind what was taken.
                let written = if skip == 0 {
                    rustix::io::pwritev(&self.0, chunk, offset)
                } else {
                    let mut passed = 0;
                    let rest = chunk.iter().find_map(|buffer| {
                        passed += buffer.len();
                        (passed > skip).then(|| buffer.get(buffer.len() - (passed - skip)..).unwrap_or_default())
                    });
                    rustix::io::pwrite(&self.0, rest.unwrap_or_default(), offset)
                };
                match written {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        left -= written;
                        skip += written;
                        offset += written as u64;
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        let advise = |offset, len, advice| rustix::fs::fadvise(&self.0, offset, std::num::NonZeroU64::new(len), advice);
        match advice {
            Advice::WillNeed => (0..len)
                .step_by(WILL_NEED_BYTES)
                .map(|at| (offset + at, (WILL_NEED_BYTES as u64).min(len - at)))
                .try_for_each(|(at, len)| advise(at, len, rustix::fs::Advice::WillNeed))?,
            Advice::DontNeed => advise(offset, len, rustix::fs::Advice::DontNeed)?,
            Advice::Sequential => advise(offset, len, rustix::fs::Advice::Sequential)?,
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        // It moves the descriptor's own position, which nothing here goes by.
        match rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn is_cached(&self, offset: u64, len: usize) -> bool {
        // One byte of a page, without waiting: EAGAIN says that it is not in memory, or is on its way there.
        let probe = |at: u64| {
            let mut byte = [0u8; 1];
            let mut buffers = [io::IoSliceMut::new(&mut byte)];
            !matches!(
                rustix::io::preadv2(&self.0, &mut buffers, at, rustix::io::ReadWriteFlags::NOWAIT),
                Err(rustix::io::Errno::AGAIN)
            )
        };
        if len == 0 {
            return true;
        }
        let last = offset + len as u64 - 1;
        match cached_pages::all_present(&self.0, offset, len as u64) {
            // The kernel knows of the pages, but not whether they are being read; what is read last is so the longest.
            Some(all) => all && probe(last),
            // Of some pages, as the kernel reads and evicts neighbours together. What is not there is begun to be read.
            None => (0..len).step_by(PROBE_BYTES).all(|at| probe(offset + at as u64)) && probe(last),
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn modified(&self) -> Option<Timestamp> {
        let since = self.0.metadata().ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis()).ok().map(Timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_many_buffers_are_read_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = RealFs.open(&dir.path().join("f"), OpenMode::CreateNew).expect("created");
        let parts: Vec<Vec<u8>> = (0..3000u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        file.write_all_at(&slices, 7).expect("written");
        let mut back = vec![0; 12_000];
        file.read_exact_at(&mut back, 7).expect("read");
        assert_eq!(back, parts.concat());
        assert!(file.is_cached(0, 12_007));
        let mut now = [0; 4];
        assert_eq!(file.read_at_now(&mut now, 7 + 4 * 2999).expect("in memory"), 4);
        assert_eq!(u32::from_be_bytes(now), 2999);
        assert_eq!(file.read_exact_at(&mut back, 8).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_lock_is_exclusive_and_ends_with_its_guard() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(".lock");
        let held = RealFs.lock(&path).expect("first");
        assert_eq!(RealFs.lock(&path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        assert!(RealFs.is_locked(&path).expect("looked at"));
        drop(held);
        assert!(!RealFs.is_locked(&path).expect("looked at"));
        assert!(!RealFs.is_locked(&dir.path().join("none")).expect("looked at"));
        RealFs.lock(&path).expect("free again");
    }

    #[test]
    fn an_atomic_write_replaces_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("meta.properties");
        for text in ["longer than the next", "short"] {
            write_file_atomically(&RealFs, &path, text.as_bytes()).expect("written");
            assert_eq!(read_file(&RealFs, &path, 100).expect("read"), text.as_bytes());
        }
        assert_eq!(read_file(&RealFs, &path, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
