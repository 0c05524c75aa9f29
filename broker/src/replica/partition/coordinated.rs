//! A partition under a coordinator of this broker: appends fenced by the leader epoch, and news of what is committed.

use odradek_broker_core::coordinator::AppendKind;
use odradek_broker_storage::{AppendOrigin, Unverified};
use odradek_common::{ErrorCode, LeaderEpoch, Offset, VerificationGuard};
use tokio::sync::watch;

use super::{After, Context, News, Partition, Role, Room, check_room, flush_within};
use crate::replica::types::PartitionError;

impl Partition {
    /// Appends a batch that needs all of the ISR, as the leader of `epoch`. Answers its first offset; whether it is
    /// committed shows in [`Partition::watch_commits`].
    pub fn append_as_coordinator(
        &self,
        epoch: LeaderEpoch,
        records: &[u8],
        kind: AppendKind,
        context: Context<'_>,
    ) -> (Result<Offset, PartitionError>, After) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if let Err(error) = inner.leader(epoch) {
            return (Err(error), After::default());
        }
        let (Role::Leader(leader), Some(log)) = (&mut inner.role, &mut inner.log) else {
            return (Err(inner.refusal()), After::default());
        };
        if let Err(error) = leader.check_append(-1) {
            let error = PartitionError::new(ErrorCode::NotEnoughReplicas, error.to_string());
            return (Err(error), After::default());
        }
        if let Err(full) = check_room(log, inner.checkpoint_owed, Room::None) {
            return (Err(PartitionError::new(ErrorCode::KafkaStorageError, full.to_string())), After::default());
        }
        let origin = match kind {
            AppendKind::Records => AppendOrigin::Coordinator,
            AppendKind::Verified(guard) => AppendOrigin::VerifiedCoordinator(guard),
            AppendKind::Marker { bumped, decision } => AppendOrigin::Marker { bumped, decision },
        };
        let appended = log.append_as_leader(records, leader.leader_epoch(), origin, context.now.wall);
        let info = match appended {
            Ok(info) => info,
            Err(error) => {
                let refused = PartitionError::new(error.code(), error.to_string());
                let is_offline = log.log_dir().failure().is_some();
                let after = if is_offline { inner.go_offline(error.to_string()) } else { After::default() };
                return (Err(refused), after);
            }
        };
        inner.appended_bytes += info.bytes as u64;
        let position = if inner.config.is_durable() { log.recovery_point() } else { info.log_end };
        let flush_within = flush_within(log, context.now.wall);
        let effects = leader.on_appended(position, context.image, context.now.instant);
        let mut after = inner.take_effects(effects);
        after.flush = info.rolled || info.flush_due;
        after.flush_within = flush_within;
        after.wake.fetches.extend(inner.wake_followers());
        after.wake.sessions.extend(inner.tell(News::Appended));
        (Ok(info.first_offset), after)
    }

    /// Begins the verification of a transaction's first batch, as the leader. `None`: the transaction is open here.
    pub fn begin_verification(
        &self,
        batch: Unverified,
        context: Context<'_>,
    ) -> Result<Option<VerificationGuard>, PartitionError> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        match (&inner.role, &mut inner.log) {
            (Role::Leader(_), Some(log)) => log
                .begin_verification(batch, context.now.wall)
                .map_err(|error| PartitionError::new(error.code(), error.to_string())),
            _ => Err(inner.refusal()),
        }
    }

    /// The high watermark as it moves, while this replica leads. It ends with the leadership.
    pub fn watch_commits(&self, epoch: LeaderEpoch) -> Result<watch::Receiver<Offset>, PartitionError> {
        let mut guard = self.lock();
        let high_watermark = guard.leader(epoch)?.0.high_watermark();
        let commits = guard.commits.get_or_insert_with(|| watch::Sender::new(high_watermark));
        Ok(commits.subscribe())
    }
}
