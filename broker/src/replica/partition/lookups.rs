//! What is asked of a partition beside its records: offsets by time and by epoch, deletion, producers, its state.

use odradek_broker_core::purgatory::WaiterId;

use super::*;

impl Partition {
    /// ListOffsets. `reader` bounds what a client is told.
    pub fn list_offset(
        &self,
        current_leader_epoch: LeaderEpoch,
        wanted: i64,
        reader: Reader,
    ) -> Result<ListedOffset, PartitionError> {
        let guard = self.lock();
        let inner = &*guard;
        let (leader, log) = inner.leader(current_leader_epoch)?;
        let last_fetchable = inner.bound(leader, log, reader);
        let not_yet = || {
            (reader != Reader::Follower && !leader.offsets_are_available()).then(|| {
                let message = format!(
                    "the high watermark {} has not reached {}, where leader epoch {} began",
                    leader.high_watermark(),
                    leader.epoch_start(),
                    leader.leader_epoch()
                );
                PartitionError::new(ErrorCode::OffsetNotAvailable, message)
            })
        };
        let failed = |error: LogError| PartitionError::new(error.code(), error.to_string());
        let found = match wanted {
            timestamp::LATEST => match not_yet() {
                Some(error) => return Err(error),
                None => {
                    return Ok(ListedOffset {
                        offset: last_fetchable,
                        leader_epoch: leader.leader_epoch(),
                        ..ListedOffset::NONE
                    });
                }
            },
            timestamp::EARLIEST | timestamp::EARLIEST_LOCAL => {
                let offset = log.log_start();
                let leader_epoch = log.epoch_at(offset).unwrap_or(LeaderEpoch::NONE);
                return Ok(ListedOffset { offset, leader_epoch, ..ListedOffset::NONE });
            }
            timestamp::LATEST_TIERED => return Ok(ListedOffset::NONE),
            timestamp::MAX => log.offset_of_max_timestamp().map_err(failed)?,
            wanted => log.offset_for_timestamp(Timestamp(wanted)).map_err(failed)?,
        };
        match found {
            Some(found) if found.offset < last_fetchable => {
                Ok(ListedOffset { timestamp: found.timestamp, offset: found.offset, leader_epoch: found.leader_epoch })
            }
            // What was looked for may lie in what is not committed yet.
            _ => not_yet().map_or(Ok(ListedOffset::NONE), Err),
        }
    }

    /// OffsetForLeaderEpoch: the end of the largest epoch not above `epoch`.
    pub fn offset_for_leader_epoch(
        &self,
        current_leader_epoch: LeaderEpoch,
        epoch: LeaderEpoch,
    ) -> Result<EpochEnd, PartitionError> {
        let inner = self.lock();
        let (_, log) = inner.leader(current_leader_epoch)?;
        let EpochEndOffset { epoch, end } = log.leader_epoch_end_offset(epoch);
        Ok(EpochEnd { epoch, end })
    }

    /// DeleteRecords: moves the log start to `offset` (-1: to the high watermark). `waiter` is settled when all living
    /// replicas have followed; until then its id is handed out.
    pub fn delete_records(
        &self,
        offset: Offset,
        waiter: DeleteWaiter,
        context: Context<'_>,
    ) -> Result<Option<WaiterId>, PartitionError> {
        let mut guard = self.lock();
        guard.leader(LeaderEpoch::NONE)?;
        let Some(log) = &mut guard.log else { return Err(ErrorCode::KafkaStorageError.into()) };
        if !log.config().cleanup_delete {
            return Err(PartitionError::new(
                ErrorCode::PolicyViolation,
                "cleanup.policy does not contain delete, so records cannot be deleted",
            ));
        }
        let offset = if offset == Offset::NONE { log.high_watermark() } else { offset };
        if offset < Offset::ZERO {
            return Err(PartitionError::new(ErrorCode::OffsetOutOfRange, format!("offset {offset} is negative")));
        }
        let moved = log.delete_records_before(offset);
        moved.map_err(|error| PartitionError::new(error.code(), error.to_string()))?;
        self.save(log);
        let inner = &mut *guard;
        inner.tell_quietly();
        let low_watermark = inner.low_watermark(context).unwrap_or(Offset::NONE);
        if low_watermark >= offset {
            drop(guard);
            waiter.settle(DeletedRecords { error: ErrorCode::None, low_watermark });
            return Ok(None);
        }
        let id = inner.deletions.register(offset, waiter);
        id.map(Some).map_err(|full| PartitionError::new(ErrorCode::RequestTimedOut, full.to_string()))
    }

    pub fn forget_deletion(&self, id: WaiterId) {
        drop(self.lock().deletions.remove(id));
    }

    /// DescribeProducers.
    pub fn active_producers(&self) -> Result<Vec<ActiveProducer>, PartitionError> {
        let inner = self.lock();
        match (&inner.role, &inner.log) {
            (Role::Leader(_) | Role::Follower { .. }, Some(log)) => Ok(log.active_producers().collect()),
            _ => Err(inner.refusal()),
        }
    }

    /// How many producers the log remembers.
    pub fn producer_count(&self) -> usize {
        self.lock().log.as_ref().map_or(0, Log::producer_count)
    }

    /// As the leader: open transactions whose producers have been silent for longer than `limit_ms` (KIP-664).
    pub fn late_transactions(&self, now: Timestamp, limit_ms: i64) -> Vec<ActiveProducer> {
        let inner = self.lock();
        match (&inner.role, &inner.log) {
            (Role::Leader(_), Some(log)) => log.late_transactions(now, limit_ms).collect(),
            _ => Vec::new(),
        }
    }

    pub fn describe(&self) -> Option<ReplicaDescription> {
        let inner = self.lock();
        let log = inner.log.as_ref()?;
        let (is_leader, leader_epoch, isr) = match &inner.role {
            Role::Leader(leader) => (true, leader.leader_epoch(), leader.isr().to_vec()),
            Role::Follower { epoch, .. } => (false, *epoch, Vec::new()),
            _ => (false, LeaderEpoch::NONE, Vec::new()),
        };
        Some(ReplicaDescription {
            partition: self.id,
            topic: self.name.topic.clone(),
            index: self.name.partition.0,
            is_leader,
            leader_epoch,
            log_start: log.log_start(),
            log_end: log.log_end(),
            high_watermark: log.high_watermark(),
            last_stable_offset: log.last_stable_offset(),
            size_bytes: log.size_bytes(),
            log_dir: log.log_dir().path.clone(),
            isr,
        })
    }
}
