//! Applies committed entries to the image, and keeps it in snapshots.
//!
//! The image lives in memory; what makes it durable is the newest snapshot and the log behind it. Applying is
//! deterministic: times and random choices are in the entry (rule 11). An entry that cannot be applied (of an unknown
//! format, or one that does not fit the image) stops this controller with its reason: to skip it would be to serve
//! something else than the rest of the quorum.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, TryStreamExt};
use odradek_metadata::{Image, batch};
use odradek_node::World;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::snapshot::{self, SnapshotFile, Stored};
use super::types::{Applied, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use super::view::MetadataView;

pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// See the module.
pub struct StateMachine {
    world: World,
    dir: PathBuf,
    view: Arc<MetadataView>,
    image: Image,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Of the last batch, for the snapshot's head.
    timestamp_ms: i64,
    /// The newest; shared with the builder, which replaces it.
    current: Arc<Mutex<Option<Stored>>>,
}

impl StateMachine {
    /// Starts from the newest snapshot in `dir`.
    ///
    /// # Errors
    /// When that snapshot is damaged.
    pub async fn open(world: World, dir: PathBuf) -> io::Result<Self> {
        let mut machine = Self {
            world: world.clone(),
            dir: dir.clone(),
            view: Arc::default(),
            image: Image::new(),
            applied: None,
            membership: StoredMembership::default(),
            timestamp_ms: 0,
            current: Arc::default(),
        };
        let read = world
            .on_disk({
                let fs = world.fs.clone();
                move || -> io::Result<_> {
                    let Some(file) = snapshot::newest(&*fs, &dir)? else { return Ok(None) };
                    Ok(Some((snapshot::read(&file)?, file)))
                }
            })
            .await?;
        if let Some(((meta, position, image), snapshot)) = read {
            machine.adopt(Stored { meta, snapshot }, position.timestamp_ms, image);
        }
        Ok(machine)
    }

    /// What was applied, for everybody else.
    pub fn view(&self) -> Arc<MetadataView> {
        self.view.clone()
    }

    fn adopt(&mut self, stored: Stored, timestamp_ms: i64, image: Image) {
        self.applied = stored.meta.last_log_id;
        self.membership = stored.meta.last_membership.clone();
        self.timestamp_ms = timestamp_ms;
        self.image = image;
        self.view.reset(self.image.clone(), self.applied.map_or(0, |id| id.leader_id.term));
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored);
    }

    fn apply_payload(
        &mut self,
        id: LogId,
        payload: EntryPayload<super::types::EncodedBatch, u64, super::types::Peer>,
    ) -> io::Result<Applied> {
        let offset = i64::try_from(id.index).map_err(io::Error::other)?;
        let mut encoded = None;
        match payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => self.membership = StoredMembership::new(Some(id), membership),
            EntryPayload::Normal(bytes) => {
                let cannot = |error: &dyn std::fmt::Display| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("metadata offset {offset}: {error}"))
                };
                let batch = batch::decode(&bytes.0).map_err(|error| cannot(&error))?;
                if batch.offset == 0 || batch.offset == offset {
                    self.image.apply(&batch, offset).map_err(|error| cannot(&error))?;
                    self.timestamp_ms = batch.timestamp_ms;
                    encoded = Some(bytes.0);
                } else {
                    tracing::warn!(
                        offset,
                        decided_for = batch.offset,
                        "a metadata entry is void: one before it was lost"
                    );
                }
            }
        }
        self.image.set_offset(offset);
        self.applied = Some(id);
        self.view.advance(self.image.clone(), encoded, id.leader_id.term);
        Ok(Applied { offset })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let applied = self.apply_payload(entry.log_id, entry.payload).inspect_err(|error| {
                tracing::error!(%error, "an entry of the metadata log cannot be applied; this controller stops");
            })?;
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            world: self.world.clone(),
            dir: self.dir.clone(),
            image: self.image.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            timestamp_ms: self.timestamp_ms,
            current: self.current.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> Result<(), io::Error> {
        let (fs, dir, meta) = (self.world.fs.clone(), self.dir.clone(), meta.clone());
        let (stored, position, image) = self
            .world
            .on_disk(move || -> io::Result<_> {
                let (found, position, image) = snapshot::read(&snapshot)?;
                if found.last_log_id != meta.last_log_id {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{} is another snapshot than was announced", snapshot.path.display()),
                    ));
                }
                let stored = if snapshot.path.parent() == Some(&dir) {
                    snapshot::finish(&*fs, &dir, &meta, &snapshot.path, snapshot.file)?
                } else {
                    snapshot::copy(&*fs, &dir, &meta, &snapshot)?
                };
                Ok((stored, position, image))
            })
            .await?;
        tracing::info!(offset = position.last_offset, "installed a snapshot of the metadata");
        self.adopt(stored, position.timestamp_ms, image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(current.clone().map(|stored| Snapshot { meta: stored.meta, snapshot: stored.snapshot }))
    }
}

/// Writes the image as it was when the builder was made.
pub struct Builder {
    world: World,
    dir: PathBuf,
    image: Image,
    meta: SnapshotMeta,
    timestamp_ms: i64,
    current: Arc<Mutex<Option<Stored>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let (fs, dir, image) = (self.world.fs.clone(), self.dir.clone(), self.image.clone());
        let (meta, timestamp_ms) = (self.meta.clone(), self.timestamp_ms);
        let stored = self.world.on_disk(move || snapshot::write(&*fs, &dir, &meta, &image, timestamp_ms)).await?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer one may have been received while this was written.
        if current.as_ref().is_none_or(|current| current.meta.last_log_id <= stored.meta.last_log_id) {
            *current = Some(stored.clone());
        }
        Ok(Snapshot { meta: stored.meta, snapshot: stored.snapshot })
    }
}
