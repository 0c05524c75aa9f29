//! A disk whose syncs wait at a gate, and are counted.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use odradek_common::fs::{DirEntry, DiskSpace, File, Fs, OpenMode};
use odradek_common::mem_fs::MemFs;

#[derive(Debug, Default)]
struct State {
    /// Syncs of what lies below wait.
    closed: Option<PathBuf>,
    waiting: usize,
    synced: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct GateFs {
    inner: MemFs,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl GateFs {
    pub fn new(inner: &MemFs) -> Self {
        Self { inner: inner.clone(), state: Arc::default() }
    }

    pub fn close(&self, below: &str) {
        self.state.0.lock().expect("no test panicked").closed = Some(below.into());
    }

    pub fn open_gate(&self) {
        self.state.0.lock().expect("no test panicked").closed = None;
        self.state.1.notify_all();
    }

    /// Syncs that wait now.
    pub fn waiting(&self) -> usize {
        self.state.0.lock().expect("no test panicked").waiting
    }

    /// The files that were synced since the last call, with this ending.
    pub fn take_synced(&self, ending: &str) -> Vec<PathBuf> {
        let synced = std::mem::take(&mut self.state.0.lock().expect("no test panicked").synced);
        synced.into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect()
    }

    fn pass(&self, path: &Path) {
        let (state, changed) = &*self.state;
        let mut state = state.lock().expect("no test panicked");
        state.waiting += 1;
        while state.closed.as_ref().is_some_and(|below| path.starts_with(below)) {
            state = changed.wait(state).expect("no test panicked");
        }
        state.waiting -= 1;
        state.synced.push(path.to_owned());
    }
}

impl Fs for GateFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(GateFile { inner: self.inner.open(path, mode)?, path: path.to_owned(), gate: self.clone() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.inner.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.inner.space(path)
    }
}

#[derive(Debug)]
struct GateFile {
    inner: Arc<dyn File>,
    path: PathBuf,
    gate: GateFs,
}

impl File for GateFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buffers, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass(&self.path);
        self.inner.sync_data()
    }
}
