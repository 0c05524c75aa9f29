//! What the checkpoint files of a partition's directory are to say of it.

use odradek_common::Uuid;

use super::*;

impl Partition {
    pub(super) fn save(&self, log: &Log) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let offsets = log.checkpoint_offsets();
        match &mut *saved {
            Some((dir, saved)) if Arc::ptr_eq(dir, log.log_dir()) => *saved = offsets,
            saved => *saved = Some((log.log_dir().clone(), offsets)),
        }
    }

    fn saved(&self) -> Option<(Arc<LogDir>, CheckpointOffsets)> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The log directory of its log, open or offline.
    pub fn saved_dir(&self) -> Option<Arc<LogDir>> {
        self.saved().map(|(dir, _)| dir)
    }

    /// What the checkpoints of this directory are to say; brought up to date by [`Partition::refresh_checkpoint`]. `None`:
    /// it is not in there.
    pub fn saved_checkpoint(&self, dir: &LogDir) -> Option<PartitionCheckpoint> {
        let (_, offsets) = self.saved().filter(|(of, _)| of.id == dir.id)?;
        Some(PartitionCheckpoint::of(self.name.clone(), offsets))
    }

    /// Takes down where the log is now. Answers with that.
    pub fn refresh_checkpoint(&self) -> Option<(Uuid, CheckpointOffsets)> {
        let inner = self.lock();
        if let Some(log) = &inner.log {
            self.save(log);
        }
        drop(inner);
        self.saved().map(|(dir, offsets)| (dir.id, offsets))
    }

    /// Whether the recovery points of this directory have to be written before anything is appended here.
    pub fn owes_checkpoint(&self, dir: &LogDir) -> bool {
        let inner = self.lock();
        inner.checkpoint_owed && inner.log.as_ref().is_some_and(|log| log.log_dir().id == dir.id)
    }

    pub fn checkpoint_is_paid(&self) {
        self.lock().checkpoint_owed = false;
    }
}
