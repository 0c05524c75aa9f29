//! Readers that are far behind a log's end, so that they neither push the ends of logs out of the page cache nor keep a
//! thread waiting that serves others.
//!
//! A partition knows who reads it far behind its end ([`ColdReaders`]); what such a reader gets carries its [`ColdStream`].
//! The connection tells the stream what it had to fetch from the disk, and has its work (reading ahead, dropping behind)
//! done by the disk pool beside the next answer. What to bring in and what to drop is the core's to decide
//! ([`ColdReader`]).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use odradek_broker_core::cold_reader::{ColdReader, Place, Plan, Span};
use odradek_broker_storage::{Log, ReadSlice};
use odradek_common::fs::{Advice, File};
use odradek_common::time::Instant;

/// Who is so many bytes behind a log's end is far behind. What is nearer stays in memory: consumers and followers that
/// hang back a little read it, one after another.
const FAR_BYTES: u64 = 16 << 20;
/// Readers of one partition that are looked after; others are as without this.
const READERS_MAX: usize = 16;
/// A reader that has not asked for so long has gone, or is no reason to keep anything.
const READER_IDLE_MAX: Duration = Duration::from_secs(30);
/// Files whose ranges are not dropped yet: that of a reader, and the one before.
const FILES_MAX: usize = 4;
/// Pages are looked for, and asked for, in pieces of this size.
const PIECE_BYTES: u64 = 256 << 10;

/// The readers of one partition that are far behind, by their connections.
#[derive(Debug, Default)]
pub(super) struct ColdReaders(Vec<(SocketAddr, Instant, Arc<ColdStream>)>);

/// One reader, as its connection sees it.
#[derive(Debug)]
pub struct ColdStream(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    reader: ColdReader,
    /// By base offset. Weak, as a file that was deleted meanwhile must not be kept on the disk by this.
    files: Vec<(i64, Weak<dyn File>)>,
    /// Up to where in the segment that is read is far behind the log's end: what comes then is left alone.
    far_to: u64,
    others: Vec<Place>,
    /// Its work is being done.
    is_at_work: bool,
}

/// What the disk pool is to do for a reader.
#[must_use]
pub struct ColdWork {
    stream: Arc<ColdStream>,
    plan: Plan,
}

/// Up to where in its segment the slice's reader is far behind the log's end.
fn far_to(log: &Log, slice: &ReadSlice) -> u64 {
    let (segment_bytes, later) = log.beyond(slice, FAR_BYTES);
    segment_bytes.saturating_sub(FAR_BYTES - later)
}

/// Whether who reads this slice is far behind the log's end.
pub(super) fn is_far(log: &Log, slice: &ReadSlice) -> bool {
    slice.position + slice.len as u64 <= far_to(log, slice)
}

impl ColdReaders {
    /// A reader gets `slice`. Answers with its stream when it is far behind, or was until now.
    pub fn on_read(
        &mut self,
        reader: SocketAddr,
        log: &Log,
        slice: &ReadSlice,
        now: Instant,
    ) -> Option<Arc<ColdStream>> {
        let file = slice.file.as_ref().filter(|_| slice.len > 0)?;
        let far_to = far_to(log, slice);
        let span = Span { segment: slice.segment_base.0, from: slice.position, to: slice.position + slice.len as u64 };
        let is_near = span.to > far_to;
        if is_near && !self.0.iter().any(|(of, ..)| *of == reader) {
            return None;
        }
        self.forget_idle(now);
        let at = match self.0.iter().position(|(of, ..)| *of == reader) {
            Some(at) => at,
            None if self.0.len() >= READERS_MAX => return None,
            None => {
                self.0.push((reader, now, Arc::new(ColdStream(Mutex::default()))));
                self.0.len() - 1
            }
        };
        let others = self.0.iter().filter(|(of, ..)| *of != reader).filter_map(|(.., stream)| stream.place()).collect();
        let (_, seen, stream) = self.0.get_mut(at)?;
        *seen = now;
        let stream = stream.clone();
        if stream.on_read(span, file, far_to, others) && is_near {
            self.0.swap_remove(at);
        }
        Some(stream)
    }

    pub fn forget_idle(&mut self, now: Instant) {
        self.0.retain(|(_, seen, _)| now.saturating_since(*seen) < READER_IDLE_MAX);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ColdStream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what it reads has to be fetched from the disk.
    pub fn is_cold(&self) -> bool {
        self.lock().reader.is_cold()
    }

    fn place(&self) -> Option<Place> {
        self.lock().reader.place()
    }

    /// Whether nothing is left to be dropped.
    fn on_read(&self, span: Span, file: &Arc<dyn File>, far_to: u64, others: Vec<Place>) -> bool {
        let mut state = self.lock();
        state.reader.on_read(span);
        state.far_to = far_to;
        state.others = others;
        match state.files.iter_mut().find(|(segment, _)| *segment == span.segment) {
            // It may have been closed and opened again.
            Some((_, known)) => *known = Arc::downgrade(file),
            None => {
                if state.files.len() >= FILES_MAX {
                    state.files.remove(0);
                }
                state.files.push((span.segment, Arc::downgrade(file)));
            }
        }
        state.reader.is_done()
    }

    /// So many bytes of `file`, which it reads, were fetched from the disk.
    pub fn on_brought(&self, file: &Arc<dyn File>, offset: u64, len: usize) {
        let mut state = self.lock();
        let of = state.files.iter().find(|(_, known)| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(file)));
        if let Some((segment, _)) = of {
            let span = Span { segment: *segment, from: offset, to: offset + len as u64 };
            if span.to <= state.far_to {
                state.reader.on_brought(span);
            }
        }
    }

    /// What is to be done now, one at a time.
    pub fn next_work(self: &Arc<Self>) -> Option<ColdWork> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.is_at_work {
            return None;
        }
        let plan = state.reader.plan(state.far_to, &state.others);
        state.is_at_work = !plan.is_empty();
        (!plan.is_empty()).then(|| ColdWork { stream: self.clone(), plan })
    }

    fn file(&self, segment: i64) -> Option<Arc<dyn File>> {
        let state = self.lock();
        state.files.iter().find(|(base, _)| *base == segment)?.1.upgrade()
    }
}

impl ColdWork {
    /// On a thread of the disk pool. What fails is advice, and no more.
    pub fn run(self) {
        let Self { stream, plan } = self;
        for span in &plan.behind {
            if let Some(file) = stream.file(span.segment) {
                let _ = file.advise(span.from, span.to - span.from, Advice::DontNeed);
            }
        }
        if let Some(span) = plan.ahead
            && let Some(file) = stream.file(span.segment)
        {
            let mut from = span.from;
            while from < span.to {
                let len = PIECE_BYTES.min(span.to - from);
                // What is there already is somebody else's, and stays.
                if !file.is_cached(from, len as usize) {
                    let _ = file.advise(from, len, Advice::WillNeed);
                    stream.on_brought(&file, from, len as usize);
                }
                from += len;
            }
        }
        stream.lock().is_at_work = false;
    }
}
