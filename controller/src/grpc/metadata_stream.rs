//! The metadata as a stream: a snapshot if need be, then every entry of the log, for ever. Any controller serves it.
//!
//! It is pulled: nothing is gathered for a broker that does not read, and one that reads slowly for long starts over
//! from a snapshot. A snapshot is made chunk by chunk from the image, which costs a few pointers to keep.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
use std::sync::Arc;

use futures::Stream;
use odradek_metadata::{Image, batch};
use odradek_proto::broker::{Delta, MetadataUpdate, SnapshotChunk, metadata_update::Kind};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use crate::raft::view::{MetadataView, Next, Progress, Recent};

/// A chunk is closed when it has grown to this.
const CHUNK_BYTES_TARGET: usize = 512 * 1024;
/// Deltas that are taken from the ring at a time.
const DELTAS_BYTES_MAX: usize = 256 * 1024;

struct Follower {
    view: Arc<MetadataView>,
    progress: watch::Receiver<Progress>,
    next_offset: i64,
    /// A snapshot that is being sent, and how many of its records have been.
    snapshot: Option<(Image, usize)>,
    recent: VecDeque<Recent>,
}

/// Everything from `next_offset` on.
pub fn follow(view: Arc<MetadataView>, next_offset: i64) -> impl Stream<Item = Result<MetadataUpdate, Status>> + Send {
    let progress = view.subscribe();
    let follower =
        Follower { view, progress, next_offset: next_offset.max(0), snapshot: None, recent: VecDeque::new() };
    futures::stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(update) => Some((Ok(update), Some(follower))),
            Err(status) => Some((Err(status), None)),
        }
    })
}

impl Follower {
    async fn next(&mut self) -> Result<MetadataUpdate, Status> {
        loop {
            if let Some((image, sent)) = self.snapshot.take() {
                return Ok(self.chunk(image, sent));
            }
            if let Some(recent) = self.recent.pop_front() {
                return self.delta(recent);
            }
            let next_offset = self.next_offset;
            // The view outlives every stream.
            let reached = self.progress.wait_for(|progress| progress.offset >= next_offset).await;
            reached.map_err(|_| Status::unavailable("this controller is stopping"))?;
            match self.view.next(next_offset, DELTAS_BYTES_MAX) {
                Next::Entries(entries) => self.recent.extend(entries),
                Next::Snapshot(image) => self.snapshot = Some((image, 0)),
            }
        }
    }

    fn update(&self, kind: Kind) -> MetadataUpdate {
        MetadataUpdate { kind: Some(kind), committed_offset: self.view.progress().offset }
    }

    fn delta(&mut self, recent: Recent) -> Result<MetadataUpdate, Status> {
        let records = match recent.batch {
            Some(bytes) => batch::decode(&bytes).map_err(|error| Status::internal(error.to_string()))?.records,
            None => Vec::new(),
        };
        self.next_offset = recent.offset + 1;
        Ok(self.update(Kind::Delta(Delta { offset: recent.offset, records })))
    }

    fn chunk(&mut self, image: Image, sent: usize) -> MetadataUpdate {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut rest = image.to_records().skip(sent).peekable();
        while bytes < CHUNK_BYTES_TARGET
            && let Some(record) = rest.next()
        {
            bytes += record.encoded_len();
            records.push(record);
        }
        let is_last = rest.peek().is_none();
        drop(rest);
        let (last_offset, sent) = (image.offset(), sent + records.len());
        if is_last {
            self.next_offset = last_offset + 1;
        } else {
            self.snapshot = Some((image, sent));
        }
        self.update(Kind::Snapshot(SnapshotChunk { last_offset, records, is_last }))
    }
}
