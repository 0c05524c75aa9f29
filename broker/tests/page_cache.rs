//! The operating system's files with a page cache that a test can empty and look into, and that knows who waits for the disk.
//!
//! Bytes are read from real files; what is modelled is which of their pages are in memory. A read of a page that is not
//! there waits for the disk: on a thread of the disk pool it may, on any other that is noted.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use odradek_common::fs::{Advice, DirEntry, DiskSpace, File, Fs, OpenMode, RealFs};
use odradek_node::World;
use odradek_node::world::DiskPool;

pub const PAGE_BYTES: u64 = 4096;

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(false) };
}

#[derive(Debug, Default)]
struct State {
    pages: BTreeMap<PathBuf, BTreeSet<u64>>,
    /// Pages that were read from the disk.
    fetched: u64,
    /// Reads that waited for the disk on a thread that serves others, and of what.
    waits: Vec<(PathBuf, u64)>,
    dropped: u64,
    /// Nothing is read because of advice.
    is_deaf: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PageCache(Arc<Mutex<State>>);

impl PageCache {
    /// The operating system's world with this cache.
    pub fn world(&self) -> World {
        let real = World::real();
        World { fs: Arc::new(self.clone()), disk: Arc::new(Pool(real.disk.clone())), ..real }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked")
    }

    /// Nothing is in memory any more.
    pub fn drop_all(&self) {
        let mut state = self.lock();
        state.pages.clear();
        (state.fetched, state.dropped) = (0, 0);
    }

    /// From now on nothing is read ahead when that is advised, as a kernel may choose.
    pub fn be_deaf(&self) {
        self.lock().is_deaf = true;
    }

    pub fn fetched_bytes(&self) -> u64 {
        self.lock().fetched * PAGE_BYTES
    }

    /// What was in memory and was dropped by advice.
    pub fn dropped_bytes(&self) -> u64 {
        self.lock().dropped * PAGE_BYTES
    }

    pub fn waits(&self) -> Vec<(PathBuf, u64)> {
        self.lock().waits.clone()
    }

    /// What is in memory of the files with this ending.
    pub fn cached_bytes(&self, ending: &str) -> u64 {
        let state = self.lock();
        let files = state.pages.iter().filter(|(path, _)| path.to_string_lossy().ends_with(ending));
        files.map(|(_, pages)| pages.len() as u64 * PAGE_BYTES).sum()
    }
}

struct Pool(Arc<dyn DiskPool>);

impl DiskPool for Pool {
    fn execute(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.execute(Box::new(|| {
            MAY_WAIT.set(true);
            work();
            MAY_WAIT.set(false);
        }));
    }
}

impl Fs for PageCache {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(CachedFile { inner: RealFs.open(path, mode)?, path: path.to_owned(), cache: self.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealFs.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealFs.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        RealFs.space(path)
    }
}

#[derive(Debug)]
struct CachedFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    cache: PageCache,
}

fn pages(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES)
}

impl CachedFile {
    /// The pages of a range, as far as the file goes.
    fn within(&self, offset: u64, len: u64) -> io::Result<std::ops::Range<u64>> {
        let end = self.inner.len()?.min(offset + len);
        Ok(if end > offset { pages(offset, end - offset) } else { 0..0 })
    }

    fn missing(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        let state = self.cache.lock();
        let known = state.pages.get(&self.path);
        range.filter(|page| known.is_none_or(|known| !known.contains(page))).collect()
    }

    fn fetch(&self, missing: Vec<u64>) {
        let mut state = self.cache.lock();
        state.fetched += missing.len() as u64;
        state.pages.entry(self.path.clone()).or_default().extend(missing);
    }
}

impl File for CachedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let missing = self.missing(self.within(offset, buffer.len() as u64)?);
        if !missing.is_empty() {
            if !MAY_WAIT.get() {
                self.cache.lock().waits.push((self.path.clone(), offset));
            }
            self.fetch(missing);
        }
        self.inner.read_at(buffer, offset)
    }

    fn read_at_now(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.missing(self.within(offset, buffer.len() as u64)?).is_empty() {
            return self.inner.read_at(buffer, offset);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        self.inner.write_all_at(buffers, offset)?;
        self.cache.lock().pages.entry(self.path.clone()).or_default().extend(pages(offset, len as u64));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        assert!(MAY_WAIT.get(), "advice may take long");
        match advice {
            Advice::WillNeed if self.cache.lock().is_deaf => {}
            Advice::WillNeed => self.fetch(self.missing(self.within(offset, len)?)),
            Advice::DontNeed => {
                let state = &mut *self.cache.lock();
                let known = state.pages.entry(self.path.clone()).or_default();
                // Whole pages only.
                for page in offset.div_ceil(PAGE_BYTES)..(offset + len) / PAGE_BYTES {
                    state.dropped += u64::from(known.remove(&page));
                }
            }
            Advice::Sequential => {}
        }
        Ok(())
    }

    fn is_cached(&self, offset: u64, len: usize) -> bool {
        self.within(offset, len as u64).is_ok_and(|range| self.missing(range).is_empty())
    }
}
