//! A partition as a follower: it appends what the leader sent, and truncates where their histories part.

use odradek_broker_storage::AppendError;

use super::*;

impl Partition {
    /// Appends what the leader sent, and takes over its high watermark and log start. What is to be flushed besides by what
    /// the position says is told in `After`.
    pub fn append_as_follower(
        &self,
        following: Following,
        asked: Asked,
        records: &[u8],
        leader_high_watermark: Offset,
        leader_log_start: Offset,
        context: Context<'_>,
    ) -> Result<(FetchPosition, After), FollowError> {
        let mut guard = self.lock();
        let is_owed = guard.checkpoint_owed;
        let is_durable = guard.config.is_durable();
        let (log, _) = guard.follower_log(following)?;
        if !asked.is_current(log) {
            return Err(FollowError::Superseded);
        }
        let mut after = After::default();
        if !records.is_empty() {
            check_room(log, is_owed, Room::None)?;
            let appended = log.append_as_follower(records, following.epoch, context.now.wall);
            match appended {
                // It leads no more, and the next answer, or metadata, will say so.
                Err(AppendError::FutureLeaderEpoch { .. }) => return Err(FollowError::Superseded),
                Ok(info) => after.flush = info.is_some_and(|info| info.rolled || info.flush_due),
                Err(error) => return Err(guard.on_follow_error(error.into())),
            }
            after.flush_within = flush_within(log, context.now.wall);
        }
        let mark = follower::high_watermark(log.high_watermark(), leader_high_watermark, log.log_end());
        if mark != log.high_watermark() {
            log.set_high_watermark(mark);
        }
        if leader_log_start > log.log_start() && leader_log_start <= mark {
            let moved = log.delete_records_before(leader_log_start);
            if let Err(error) = moved {
                return Err(guard.on_follow_error(error.into()));
            }
        }
        Ok((position(log, is_durable), after))
    }

    /// Truncates to where the history parts from the leader's. `checkpoint` is called, still under the lock, when the
    /// recovery point moved back, or how far the log is clean: nothing may be appended before that is on disk.
    pub fn truncate(
        &self,
        following: Following,
        asked: Asked,
        leader: EpochEnd,
        checkpoint: impl FnOnce(&LogDir, MovedBack) -> Result<(), StorageError>,
        context: Context<'_>,
    ) -> Result<FetchPosition, FollowError> {
        self.change_follower(following, checkpoint, |log| {
            if !asked.is_current(log) {
                return Ok(());
            }
            let own = log.leader_epoch_end_offset(leader.epoch);
            let own = (own != EpochEndOffset::UNKNOWN).then_some(EpochEnd { epoch: own.epoch, end: own.end });
            let to = follower::truncation(leader, own, log.log_end());
            tracing::info!(
                partition = %self.name, from = %log.log_end(), to = %to, leader_epoch = %leader.epoch,
                leader_end = %leader.end, "truncating to where the leader's history parts"
            );
            log.truncate_to(to, context.now.wall).map(|_| ())
        })
    }

    /// Truncates to `offset`, after an unclean election left the leader with a shorter log.
    pub fn truncate_to(
        &self,
        following: Following,
        offset: Offset,
        checkpoint: impl FnOnce(&LogDir, MovedBack) -> Result<(), StorageError>,
        context: Context<'_>,
    ) -> Result<FetchPosition, FollowError> {
        self.change_follower(following, checkpoint, |log| {
            tracing::warn!(partition = %self.name, from = %log.log_end(), to = %offset, "the leader's log is shorter");
            log.truncate_to(offset, context.now.wall).map(|_| ())
        })
    }

    /// Drops everything and starts at the leader's log start: all that is here has been deleted there.
    pub fn start_at(
        &self,
        following: Following,
        offset: Offset,
        checkpoint: impl FnOnce(&LogDir, MovedBack) -> Result<(), StorageError>,
        context: Context<'_>,
    ) -> Result<FetchPosition, FollowError> {
        self.change_follower(following, checkpoint, |log| {
            tracing::warn!(partition = %self.name, from = %log.log_end(), to = %offset, "starting at the leader's log start");
            log.truncate_fully_and_start_at(offset, context.now.wall)
        })
    }

    fn change_follower(
        &self,
        following: Following,
        checkpoint: impl FnOnce(&LogDir, MovedBack) -> Result<(), StorageError>,
        change: impl FnOnce(&mut Log) -> Result<(), LogError>,
    ) -> Result<FetchPosition, FollowError> {
        let mut guard = self.lock();
        let is_durable = guard.config.is_durable();
        let (log, _) = guard.follower_log(following)?;
        let (recovery_point, cleaned_to) = (log.recovery_point(), log.cleaned_to());
        let changed = change(log);
        let result = changed.map_err(FollowError::from).and_then(|()| {
            self.save(log);
            let moved = MovedBack {
                recovery_point: log.recovery_point() < recovery_point,
                cleaned_to: log.cleaned_to() < cleaned_to,
            };
            if !moved.recovery_point && !moved.cleaned_to {
                return Ok(false);
            }
            match checkpoint(log.log_dir(), moved) {
                Err(error) if error.is_full() => Ok(true),
                result => result.map(|()| false).map_err(FollowError::from),
            }
        });
        match result {
            Ok(is_owed) => {
                let position = position(log, is_durable);
                guard.checkpoint_owed |= is_owed;
                Ok(position)
            }
            Err(error) => Err(guard.on_follow_error(error)),
        }
    }
}
