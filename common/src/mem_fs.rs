//! `Fs` in memory, for tests and simulations: it knows which bytes and names were made durable, and a crash keeps those
//! and, of the rest, only what a disk might have kept.
//!
//! What it models: writes to one file are durable after its `sync_data`; until then each may survive whole, in part
//! (cut at a sector) or not at all, independently of the others. Creations, renames and removals are durable after
//! `sync_dir` of their directory; of the others a prefix survives, as with a journal. Handles opened before a crash fail
//! afterwards. A sync that fails gives up what it was to make durable, as Linux does: the bytes are read back until the
//! crash, and a later sync that succeeds does not save them. Everything is decided by the generator that is handed in, so
//! a seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::fs::{DirEntry, DiskSpace, File, Fs, OpenMode, WholeFs};
use crate::rng::Rng;

/// Disks write whole sectors of this size, in bytes.
const SECTOR_BYTES: usize = 512;

/// A call, as a fault hook sees it before it is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Open,
    Create,
    Read,
    Write {
        bytes: usize,
    },
    SetLen,
    Sync,
    SyncDir,
    Rename,
    Remove,
    List,
    /// Whether a name is there, or how much room the file system has.
    Look,
}

impl Operation {
    /// Whether it changes what is on the disk, or what of it is durable.
    pub fn is_mutation(self) -> bool {
        !matches!(self, Self::Open | Self::Read | Self::List | Self::Look)
    }
}

/// Answers an error that takes the place of the call.
pub type Fault = Box<dyn FnMut(Operation, &Path) -> Option<io::Error> + Send>;

/// What a crash does to bytes and names that were not made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The process was killed: the page cache is still there, nothing is lost.
    Process,
    /// The power failed: everything that was not synced is lost.
    PowerLosesAll,
    /// The power failed: of what was not synced, any part may have reached the disk.
    PowerTears,
}

/// A file system in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemFs {
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, oldest first.
    pending: Vec<Change>,
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// Counts crashes; a handle of an older life is dead.
    life: u64,
    locks: BTreeSet<PathBuf>,
    capacity_bytes: Option<u64>,
    fault: Option<Fault>,
    mutations: u64,
    power_off_after: Option<u64>,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => write(bytes, *at, data),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

fn write(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    let end = at + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    if let Some(range) = bytes.get_mut(at..end) {
        range.copy_from_slice(data);
    }
}

fn rename(names: &mut BTreeMap<PathBuf, Node>, from: &Path, to: &Path) {
    let moved: Vec<PathBuf> = names
        .range(from.to_path_buf()..)
        .map(|(path, _)| path.clone())
        .take_while(|path| path.starts_with(from))
        .collect();
    for path in moved {
        if let (Some(node), Ok(rest)) = (names.remove(&path), path.strip_prefix(from)) {
            let target = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
            names.insert(target, node);
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Link(path, node) => {
                for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                    names.entry(parent.to_path_buf()).or_insert(Node::Dir);
                }
                names.insert(path.clone(), *node);
            }
            Self::Unlink(path) => {
                names.retain(|name, _| !name.starts_with(path));
            }
            Self::Rename(from, to) => rename(names, from, to),
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => path.parent() == Some(dir),
            Self::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

impl State {
    fn check(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        if operation.is_mutation() {
            self.mutations += 1;
            if self.is_off() {
                return Err(io::Error::other("the power is off"));
            }
        }
        match self.fault.as_mut().and_then(|fault| fault(operation, path)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn is_off(&self) -> bool {
        self.power_off_after.is_some_and(|limit| self.mutations > limit)
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// What files hold that still have a name.
    fn used_bytes(&self) -> u64 {
        let named = self.names.values().filter_map(|node| if let Node::File(id) = node { Some(id) } else { None });
        named.filter_map(|id| self.inodes.get(id)).map(|inode| inode.content.len() as u64).sum()
    }

    fn room(&self) -> Option<u64> {
        self.capacity_bytes.map(|capacity| capacity.saturating_sub(self.used_bytes()))
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or directory", path.display()))
}

impl MemFs {
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// Ends this life: unsynced changes survive as `crash` says, handles and locks are void, the power is on again.
    pub fn crash(&self, crash: Crash, rng: &mut dyn Rng) {
        let state = &mut *self.state();
        state.life += 1;
        state.locks.clear();
        state.power_off_after = None;
        if crash == Crash::Process {
            return;
        }
        let pending = std::mem::take(&mut state.pending_names);
        let kept = match crash {
            Crash::PowerTears => rng.below(pending.len() as u64 + 1) as usize,
            Crash::Process | Crash::PowerLosesAll => 0,
        };
        for change in pending.iter().take(kept) {
            change.apply(&mut state.durable_names);
        }
        for inode in state.inodes.values_mut() {
            for change in std::mem::take(&mut inode.pending) {
                if crash == Crash::PowerTears {
                    survive(&change, &mut inode.durable, rng);
                }
            }
            inode.content = inode.durable.clone();
        }
        state.names = state.durable_names.clone();
        let linked: BTreeSet<u64> =
            state.names.values().filter_map(|node| if let Node::File(id) = node { Some(*id) } else { None }).collect();
        state.inodes.retain(|id, _| linked.contains(id));
    }

    /// Every later call passes through `fault` first; `None` takes it away.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// After so many more mutations every further one fails, until `crash`.
    pub fn power_off_after(&self, mutations: u64) {
        let state = &mut *self.state();
        state.power_off_after = Some(state.mutations + mutations);
    }

    /// How many mutations there were in all.
    pub fn mutations(&self) -> u64 {
        self.state().mutations
    }

    /// What makes the files larger than this in all fails with `StorageFull`; a write has stored what fitted by then.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Another disk with the same content, all of it durable, and nothing open or locked: an image of this one.
    pub fn copy(&self) -> Self {
        let state = &*self.state();
        let inodes = state.inodes.iter().map(|(id, inode)| {
            let (content, durable) = (inode.content.clone(), inode.content.clone());
            (*id, Inode { content, durable, pending: Vec::new() })
        });
        let (names, durable_names) = (state.names.clone(), state.names.clone());
        let copy =
            State { names, durable_names, inodes: inodes.collect(), next_inode: state.next_inode, ..State::default() };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// Takes everything away, at once and durably: the disk was replaced by an empty one. Whoever runs on it must be dead.
    pub fn wipe(&self) {
        let state = &mut *self.state();
        let (life, mutations) = (state.life + 1, state.mutations);
        *state = State { life, mutations, ..State::default() };
    }

    /// Changes bytes of a file behind the back of whoever wrote it, durably: a decaying disk.
    pub fn corrupt(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let state = &mut *self.state();
        let Some(Node::File(id)) = state.names.get(path).copied() else { return Err(not_found(path)) };
        let inode = state.inodes.get_mut(&id).ok_or_else(|| not_found(path))?;
        change(&mut inode.content);
        inode.durable = inode.content.clone();
        inode.pending.clear();
        Ok(())
    }

    /// The content of a file as a reader sees it now.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = &*self.state();
        match state.names.get(path) {
            Some(Node::File(id)) => Ok(state.inodes.get(id).map(|inode| inode.content.clone()).unwrap_or_default()),
            _ => Err(not_found(path)),
        }
    }

    /// All files, by path.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = &*self.state();
        state.names.iter().filter(|(_, node)| matches!(node, Node::File(_))).map(|(path, _)| path.clone()).collect()
    }
}

/// What a power failure leaves of one unsynced change.
fn survive(change: &Change, durable: &mut Vec<u8>, rng: &mut dyn Rng) {
    match (rng.below(3), change) {
        (0, _) => {}
        (1, Change::Write(at, data)) => {
            // Some sectors reached the disk and some did not.
            let mut start = 0;
            while start < data.len() {
                let end = ((at + start) / SECTOR_BYTES + 1) * SECTOR_BYTES - at;
                let end = end.min(data.len());
                if rng.below(2) == 0 {
                    write(durable, at + start, data.get(start..end).unwrap_or_default());
                }
                start = end;
            }
        }
        _ => change.apply(durable),
    }
}

impl Fs for MemFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let state = &mut *self.state();
        state.check(Operation::Open, path)?;
        let id = match (state.names.get(path).copied(), mode) {
            (Some(Node::Dir), _) => {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string()));
            }
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, path.display().to_string()));
            }
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(not_found(path)),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let parent = path.parent().unwrap_or(Path::new(""));
                if !parent.as_os_str().is_empty() && state.names.get(parent) != Some(&Node::Dir) {
                    return Err(not_found(parent));
                }
                state.check(Operation::Create, path)?;
                state.next_inode += 1;
                let id = state.next_inode;
                state.inodes.insert(id, Inode::default());
                state.change_name(NameChange::Link(path.to_path_buf(), Node::File(id)));
                id
            }
        };
        Ok(Arc::new(MemFile { fs: self.clone(), id, path: path.to_path_buf(), life: state.life, mode }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        let mut missing: Vec<&Path> = path
            .ancestors()
            .filter(|dir| !dir.as_os_str().is_empty())
            .take_while(|dir| state.names.get(*dir) != Some(&Node::Dir))
            .collect();
        missing.reverse();
        for dir in missing {
            if state.names.contains_key(dir) {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, dir.display().to_string()));
            }
            state.check(Operation::Create, dir)?;
            state.change_name(NameChange::Link(dir.to_path_buf(), Node::Dir));
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = &mut *self.state();
        state.check(Operation::List, path)?;
        if state.names.get(path) != Some(&Node::Dir) {
            return Err(not_found(path));
        }
        let below = state.names.range(path.to_path_buf()..).take_while(|(name, _)| name.starts_with(path));
        let mut entries: Vec<DirEntry> = below
            .filter(|(name, _)| name.parent() == Some(path))
            .filter_map(|(name, node)| {
                Some(DirEntry { name: name.file_name()?.to_str()?.to_owned(), is_dir: *node == Node::Dir })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.check(Operation::Rename, from)?;
        if !state.names.contains_key(from) {
            return Err(not_found(from));
        }
        state.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.check(Operation::Remove, path)?;
        if !matches!(state.names.get(path), Some(Node::File(_))) {
            return Err(not_found(path));
        }
        state.change_name(NameChange::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.check(Operation::Remove, path)?;
        if state.names.get(path) != Some(&Node::Dir) {
            return Err(not_found(path));
        }
        state.change_name(NameChange::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = &mut *self.state();
        state.check(Operation::Look, path)?;
        Ok(state.names.contains_key(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.check(Operation::SyncDir, path)?;
        let (durable, pending) = std::mem::take(&mut state.pending_names).into_iter().partition(|c| c.is_in(path));
        state.pending_names = pending;
        let durable: Vec<NameChange> = durable;
        for change in durable {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let state = &mut *self.state();
        if !state.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(LockGuard { fs: self.clone(), path: path.to_path_buf(), life: state.life }))
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        let state = &mut *self.state();
        state.check(Operation::Look, path)?;
        let total = state.capacity_bytes.unwrap_or(1 << 40);
        Ok(DiskSpace { total, available: total.saturating_sub(state.used_bytes()) })
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = &mut *self.state();
        state.check(Operation::Look, path)?;
        let Some(Node::File(id)) = state.names.get(path) else { return Err(not_found(path)) };
        Ok(state.inodes.get(id).map_or(0, |inode| inode.content.len() as u64))
    }

    fn whole(&self, dir: &Path) -> io::Result<Arc<dyn WholeFs>> {
        let state = &mut *self.state();
        state.check(Operation::Open, dir)?;
        Ok(Arc::new(MemWhole { fs: self.clone(), dir: dir.to_path_buf(), life: state.life }))
    }
}

#[derive(Debug)]
struct MemWhole {
    fs: MemFs,
    dir: PathBuf,
    life: u64,
}

impl WholeFs for MemWhole {
    fn sync(&self) -> io::Result<()> {
        let state = &mut *self.fs.state();
        if state.life != self.life {
            return Err(io::Error::other("the node that opened this file system has crashed"));
        }
        if let Err(error) = state.check(Operation::Sync, &self.dir) {
            if !state.is_off() {
                state.inodes.values_mut().for_each(|inode| inode.pending.clear());
            }
            return Err(error);
        }
        for change in std::mem::take(&mut state.pending_names) {
            change.apply(&mut state.durable_names);
        }
        for inode in state.inodes.values_mut() {
            inode.pending.clear();
            inode.durable = inode.content.clone();
        }
        Ok(())
    }
}

impl fmt::Debug for MemFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemFs")
    }
}

struct LockGuard {
    fs: MemFs,
    path: PathBuf,
    life: u64,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        let state = &mut *self.fs.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

struct MemFile {
    fs: MemFs,
    id: u64,
    path: PathBuf,
    life: u64,
    mode: OpenMode,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemFile {}", self.path.display())
    }
}

impl MemFile {
    fn with<T>(&self, operation: Operation, work: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let state = &mut *self.fs.state();
        if state.life != self.life {
            return Err(io::Error::other("the node that opened this file has crashed"));
        }
        if self.mode == OpenMode::Read && operation.is_mutation() && operation != Operation::Sync {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading"));
        }
        state.check(operation, &self.path)?;
        // An unlinked file lives on for whoever has it open.
        Ok(work(state.inodes.entry(self.id).or_default()))
    }
}

impl File for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(Operation::Read, |inode| {
            let rest = inode.content.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(rest) {
                *to = *from;
            }
            len
        })
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut data = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect::<Vec<u8>>();
        let (bytes, room) = (data.len(), self.fs.state().room());
        let is_full = self.with(Operation::Write { bytes }, |inode| {
            let growth = (offset + bytes as u64).saturating_sub(inode.content.len() as u64);
            let missing = room.map_or(0, |room| growth.saturating_sub(room));
            data.truncate(bytes.saturating_sub(missing as usize));
            write(&mut inode.content, offset as usize, &data);
            inode.pending.push(Change::Write(offset as usize, data));
            missing > 0
        })?;
        if is_full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn len(&self) -> io::Result<u64> {
        self.with(Operation::Read, |inode| inode.content.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(Operation::SetLen, |inode| {
            inode.content.resize(len as usize, 0);
            inode.pending.push(Change::SetLen(len as usize));
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.with(Operation::Sync, |inode| {
            for change in std::mem::take(&mut inode.pending) {
                change.apply(&mut inode.durable);
            }
        });
        let state = &mut *self.fs.state();
        if synced.is_err()
            && state.life == self.life
            && !state.is_off()
            && let Some(inode) = state.inodes.get_mut(&self.id)
        {
            inode.pending.clear();
        }
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    fn put(fs: &MemFs, path: &str, bytes: &[u8]) -> Arc<dyn File> {
        let file = fs.open(Path::new(path), OpenMode::Create).expect("opened");
        file.write_all_at(&[IoSlice::new(bytes)], 0).expect("written");
        file
    }

    #[test]
    fn a_power_failure_keeps_what_was_synced() {
        let fs = MemFs::new();
        let dir = Path::new("/data/log");
        fs.create_dir_all(dir).expect("made");
        fs.sync_dir(Path::new("/data")).expect("synced");
        put(&fs, "/data/log/a", b"durable").sync_data().expect("synced");
        put(&fs, "/data/log/b", b"no name").sync_data().expect("synced");
        fs.sync_dir(dir).expect("synced");
        put(&fs, "/data/log/a", b"DURABLE and more");
        put(&fs, "/data/log/c", b"nothing");
        fs.remove_file(Path::new("/data/log/b")).expect("removed");
        fs.crash(Crash::PowerLosesAll, &mut SplitMix64::new(1));
        assert_eq!(fs.content(Path::new("/data/log/a")).expect("there"), b"durable");
        assert_eq!(fs.content(Path::new("/data/log/b")).expect("its removal was not durable"), b"no name");
        assert!(!fs.exists(Path::new("/data/log/c")).expect("asked"));
    }

    #[test]
    fn what_a_failed_sync_was_to_save_no_later_one_saves() {
        let fs = MemFs::new();
        let file = put(&fs, "a", b"old");
        file.sync_data().expect("synced");
        fs.sync_dir(Path::new("")).expect("synced");
        put(&fs, "a", b"new");
        fs.set_fault(Some(Box::new(|operation, _| (operation == Operation::Sync).then(|| io::Error::other("EIO")))));
        assert!(file.sync_data().is_err());
        fs.set_fault(None);
        assert_eq!(fs.content(Path::new("a")).expect("there"), b"new");
        file.sync_data().expect("nothing is left to be synced");
        fs.crash(Crash::PowerTears, &mut SplitMix64::new(1));
        assert_eq!(fs.content(Path::new("a")).expect("there"), b"old");
    }

    #[test]
    fn a_copy_and_a_wiped_disk_are_disks_of_their_own() {
        let fs = MemFs::new();
        let file = put(&fs, "a", b"1");
        let copy = fs.copy();
        fs.wipe();
        assert!(file.len().is_err() && fs.files().is_empty());
        copy.crash(Crash::PowerLosesAll, &mut SplitMix64::new(1));
        assert_eq!(copy.content(Path::new("a")).expect("there"), b"1");
    }

    #[test]
    fn a_killed_process_loses_nothing_but_its_handles_and_locks() {
        let fs = MemFs::new();
        let file = put(&fs, "a", b"page cache");
        let lock = fs.lock(Path::new(".lock")).expect("free");
        assert!(fs.lock(Path::new(".lock")).is_err());
        fs.crash(Crash::Process, &mut SplitMix64::new(1));
        assert_eq!(fs.content(Path::new("a")).expect("there"), b"page cache");
        assert!(file.len().is_err());
        let again = fs.lock(Path::new(".lock")).expect("free after the crash");
        drop(lock);
        assert!(fs.lock(Path::new(".lock")).is_err(), "the old life's guard does not free the new life's lock");
        drop(again);
    }

    #[test]
    fn a_torn_write_survives_by_sectors() {
        let mut kept = BTreeSet::new();
        for seed in 0..64 {
            let fs = MemFs::new();
            put(&fs, "a", &[0; 2048]).sync_data().expect("synced");
            fs.sync_dir(Path::new("")).expect("synced");
            put(&fs, "a", &[1; 2048]);
            fs.crash(Crash::PowerTears, &mut SplitMix64::new(seed));
            let content = fs.content(Path::new("a")).expect("there");
            for sector in content.chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|byte| byte == &sector[0]));
            }
            kept.insert(content.iter().map(|byte| usize::from(*byte)).sum::<usize>() / SECTOR_BYTES);
        }
        assert!(kept.contains(&0) && kept.contains(&4) && kept.len() > 2, "{kept:?}");
    }

    #[test]
    fn faults_capacity_and_a_rename_of_a_directory() {
        let fs = MemFs::new();
        fs.create_dir_all(Path::new("t-0")).expect("made");
        put(&fs, "t-0/x", b"1");
        fs.rename(Path::new("t-0"), Path::new("t-0.gone")).expect("renamed");
        assert_eq!(fs.files(), [PathBuf::from("t-0.gone/x")]);
        fs.set_capacity(Some(4));
        let file = fs.open(Path::new("t-0.gone/x"), OpenMode::ReadWrite).expect("there");
        assert_eq!(file.write_all_at(&[IoSlice::new(b"12345")], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        fs.set_fault(Some(Box::new(|operation, _| (operation == Operation::Sync).then(|| io::Error::other("EIO")))));
        assert!(file.sync_data().is_err());
        fs.set_fault(None);
        fs.power_off_after(1);
        file.set_len(0).expect("the last one");
        assert!(file.set_len(1).is_err());
    }
}
