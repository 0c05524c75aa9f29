//! What this controller has applied, for everybody beside Raft: the image, and the recent entries for the brokers'
//! metadata streams.
//!
//! The state machine is the only writer. Readers clone the image (a few pointers) and wait on a `watch` of the offset;
//! nobody holds a lock across a wait, and a slow reader costs nothing: when what it needs has left the ring it starts
//! over from a snapshot.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use odradek_metadata::Image;
use tokio::sync::watch;

/// Recent entries are kept up to this many bytes: some thousand changes, or a few creations of large topics.
const RING_BYTES_MAX: usize = 1024 * 1024;
const RING_ENTRIES_MAX: usize = 8192;
/// An entry without records costs this much.
const ENTRY_BYTES: usize = 48;

/// How far this controller has applied the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Progress {
    /// -1: nothing yet.
    pub offset: i64,
    /// The term of that entry.
    pub term: u64,
}

/// One entry of the log as brokers get it.
#[derive(Clone, Debug)]
pub struct Recent {
    pub offset: i64,
    /// An encoded batch; `None` for an entry without records.
    pub batch: Option<Bytes>,
}

/// What follows an offset.
#[derive(Clone, Debug)]
pub enum Next {
    /// These, without a gap; empty when nothing has come since.
    Entries(Vec<Recent>),
    /// The ring no longer reaches back that far.
    Snapshot(Image),
}

#[derive(Default)]
struct Ring {
    image: Image,
    recent: VecDeque<Recent>,
    bytes: usize,
    bytes_applied: u64,
}

/// See the module.
pub struct MetadataView {
    ring: Mutex<Ring>,
    progress: watch::Sender<Progress>,
}

impl Default for MetadataView {
    fn default() -> Self {
        Self { ring: Mutex::default(), progress: watch::Sender::new(Progress { offset: -1, term: 0 }) }
    }
}

impl MetadataView {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image after the last applied entry.
    pub fn image(&self) -> Image {
        self.ring().image.clone()
    }

    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// Of all batches since the start.
    pub fn bytes_applied(&self) -> u64 {
        self.ring().bytes_applied
    }

    /// Wakes after each applied entry.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// What comes at `next_offset` and after, at most about `bytes_max` of it.
    pub fn next(&self, next_offset: i64, bytes_max: usize) -> Next {
        let ring = self.ring();
        let last = ring.image.offset();
        if next_offset > last {
            return Next::Entries(Vec::new());
        }
        let Some(first) = ring.recent.front().map(|entry| entry.offset).filter(|first| *first <= next_offset) else {
            return Next::Snapshot(ring.image.clone());
        };
        let mut bytes = 0;
        let from = usize::try_from(next_offset - first).unwrap_or(usize::MAX);
        let entries = ring.recent.iter().skip(from).take_while(|entry| {
            let before = bytes;
            bytes += entry.batch.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
            before < bytes_max
        });
        Next::Entries(entries.cloned().collect())
    }

    pub(super) fn advance(&self, image: Image, batch: Option<Bytes>, term: u64) {
        let offset = image.offset();
        {
            let mut ring = self.ring();
            ring.image = image;
            ring.bytes_applied += batch.as_ref().map_or(0, Bytes::len) as u64;
            ring.bytes += batch.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
            ring.recent.push_back(Recent { offset, batch });
            while ring.bytes > RING_BYTES_MAX || ring.recent.len() > RING_ENTRIES_MAX {
                let Some(oldest) = ring.recent.pop_front() else { break };
                ring.bytes -= oldest.batch.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
            }
        }
        self.progress.send_replace(Progress { offset, term });
    }

    /// Starts over from a snapshot.
    pub(super) fn reset(&self, image: Image, term: u64) {
        let offset = image.offset();
        {
            let mut ring = self.ring();
            *ring = Ring { image, bytes_applied: ring.bytes_applied, ..Ring::default() };
        }
        self.progress.send_replace(Progress { offset, term });
    }
}
