//! What was done to the files, and what of it a power cut leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use odradek_common::rng::{Rng, SplitMix64};

/// One completed operation. Paths are relative to the recorded directory.
#[derive(Clone, Debug)]
pub enum Operation {
    Create(PathBuf),
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: u64,
    },
    /// `fsync` or `fdatasync`; `sync_file_range` promises nothing and is recorded as nothing.
    Sync(PathBuf),
    SyncDir(PathBuf),
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink(PathBuf),
}

/// What survives of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Crash {
    /// Nothing: neither bytes nor names.
    Strict,
    /// Names do, bytes do not.
    NamesKept,
    /// Names do, and of the writes some, in whole or up to some sector, in any order.
    Torn { seed: u64 },
}

const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
pub struct Recorder {
    root: PathBuf,
    operations: Arc<Mutex<Vec<Operation>>>,
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// Writes and truncations since the last sync.
    pending: Vec<Operation>,
}

impl Recorder {
    pub fn new(root: &Path) -> Self {
        let root = root.canonicalize().expect("the directory is there");
        Self { root, operations: Arc::default() }
    }

    pub fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// Held while an operation runs, so that the record has the order of the disk.
    pub fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn len(&self) -> usize {
        self.operations().len()
    }

    /// The operation before the cut, without its bytes.
    pub fn describe(&self, prefix: usize) -> String {
        match prefix.checked_sub(1).and_then(|last| self.operations().get(last).cloned()) {
            Some(Operation::Write { path, offset, bytes }) => {
                format!("wrote {} bytes at {offset} of {}", bytes.len(), path.display())
            }
            other => format!("{other:?}"),
        }
    }

    /// Writes into `to` what is left after the first `prefix` operations.
    pub fn rebuild(&self, prefix: usize, crash: Crash, to: &Path) {
        let mut inodes: Vec<Inode> = Vec::new();
        let mut names: BTreeMap<PathBuf, usize> = BTreeMap::new();
        let mut durable_names: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for operation in self.operations().iter().take(prefix) {
            match operation {
                Operation::Create(path) => {
                    names.insert(path.clone(), inodes.len());
                    inodes.push(Inode::default());
                }
                Operation::Write { path, .. } | Operation::Truncate { path, .. } => {
                    inodes[names[path]].pending.push(operation.clone());
                }
                Operation::Sync(path) => {
                    let inode = &mut inodes[names[path]];
                    for pending in std::mem::take(&mut inode.pending) {
                        apply(&mut inode.durable, &pending);
                    }
                }
                Operation::SyncDir(dir) => {
                    durable_names.retain(|path, _| path.parent() != Some(dir));
                    let of_dir = names.iter().filter(|(path, _)| path.parent() == Some(dir));
                    durable_names.extend(of_dir.map(|(path, inode)| (path.clone(), *inode)));
                }
                Operation::Rename { from, to } => {
                    let inode = names.remove(from).expect("it is renamed, so it is there");
                    names.insert(to.clone(), inode);
                }
                Operation::Unlink(path) => drop(names.remove(path)),
            }
        }
        let names = if matches!(crash, Crash::Strict) { durable_names } else { names };
        for (path, inode) in names {
            let inode = &inodes[inode];
            let mut bytes = inode.durable.clone();
            if let Crash::Torn { seed } = crash {
                tear(&mut bytes, &inode.pending, SplitMix64::new(seed ^ prefix as u64));
            }
            let path = to.join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::fs::write(path, bytes).expect("written");
        }
    }
}

fn apply(bytes: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, bytes: written, .. } => {
            let end = *offset as usize + written.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(written);
        }
        Operation::Truncate { length, .. } => bytes.resize(*length as usize, 0),
        _ => {}
    }
}

fn tear(bytes: &mut Vec<u8>, pending: &[Operation], mut rng: SplitMix64) {
    for operation in pending {
        match (rng.below(3), operation) {
            (0, _) => {}
            (1, Operation::Write { path, offset, bytes: written }) => {
                let sectors = written.len().div_ceil(SECTOR_BYTES) as u64;
                let kept = (rng.below(sectors + 1) as usize * SECTOR_BYTES).min(written.len());
                let bytes_kept = written[..kept].to_vec();
                apply(bytes, &Operation::Write { path: path.clone(), offset: *offset, bytes: bytes_kept });
            }
            (_, operation) => apply(bytes, operation),
        }
    }
}
