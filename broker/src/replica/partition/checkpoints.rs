//! What the checkpoint files of a partition's directory are to say of it.

use super::*;

impl Partition {
    pub(super) fn save(&self, log: &Log) {
        let saved = (log.log_dir().clone(), log.checkpoint());
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
    }

    /// What the checkpoints of its directory are to say; brought up to date by [`Partition::refresh_checkpoint`].
    pub fn saved_checkpoint(&self) -> Option<(Arc<LogDir>, PartitionCheckpoint)> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn refresh_checkpoint(&self) {
        let inner = self.lock();
        if let Some(log) = &inner.log {
            self.save(log);
        }
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
