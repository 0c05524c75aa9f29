//! A partition as its readers see it: clients up to the high watermark or the last stable offset, followers to the log's end,
//! and whoever waits for more.

use super::*;

impl Partition {
    /// Reads for a client or a follower, at most `bytes_max` bytes (with `min_one`: or the first batch). A follower's
    /// position counts when `counts`, which is for the first read of a request. With a session that is `watching` it is
    /// armed if there is no more to read now.
    #[allow(clippy::too_many_arguments)]
    pub fn read(
        &self,
        entry: &FetchEntry,
        params: &FetchParams,
        bytes_max: usize,
        min_one: bool,
        counts: bool,
        watching: Option<Watching<'_>>,
        context: Context<'_>,
    ) -> (FetchResult, After) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        match inner.read(entry, params, bytes_max, min_one, context) {
            Ok((mut result, leader_log_end)) => {
                // Before the fetch counts: if the high watermark moves by it, that is news already.
                if let Some(watching) = watching {
                    result.is_armed = inner.watch(watching, entry, params, &result);
                }
                let after = match (counts && result.diverging_epoch.is_none(), params.replica) {
                    (true, Some((replica, broker_epoch))) => inner.on_follower_fetch(
                        &FollowerFetch {
                            replica,
                            broker_epoch,
                            fetch_offset: entry.fetch_offset,
                            log_start: entry.log_start,
                            leader_log_end,
                        },
                        context,
                    ),
                    _ => After::default(),
                };
                (result, after)
            }
            Err(error) => {
                inner.watchers.disarm(watching.and_then(|watching| *watching.watcher));
                let result = FetchResult { current_leader: error.current_leader, ..FetchResult::failed(error.code) };
                (result, After::default())
            }
        }
    }

    /// The session has gone, or has this partition no longer.
    pub fn unwatch(&self, watcher: u64) {
        self.lock().watchers.remove(watcher);
    }

    /// Forgets those far behind who have gone.
    pub fn forget_cold_readers(&self, now: Instant) {
        let mut inner = self.lock();
        if let Some(readers) = &mut inner.cold_readers {
            readers.forget_idle(now);
            if readers.is_empty() {
                inner.cold_readers = None;
            }
        }
    }

    #[cfg(test)]
    pub fn watcher_count(&self) -> usize {
        self.lock().watchers.len()
    }

    /// Waits until this reader might read past `bound`, unless it already may.
    pub fn register_fetch(&self, row: FetchRow, bound: Offset, reader: Reader, wait: &Arc<FetchWait>) -> Registered {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let (Role::Leader(leader), Some(log)) = (&inner.role, &inner.log) else { return Registered::Moved };
        if inner.bound(leader, log, reader) != bound {
            return Registered::Moved;
        }
        let counted = inner.appended_bytes;
        let registered = match row {
            FetchRow::Followers => inner.followers.register(counted, wait.clone()),
            FetchRow::Clients => inner.clients.register(counted, wait.clone()),
        };
        registered.map_or(Registered::NoRoom, Registered::Waiting)
    }

    pub fn forget_fetch(&self, row: FetchRow, id: u64) {
        let mut inner = self.lock();
        let taken = match row {
            FetchRow::Followers => inner.followers.remove(id),
            FetchRow::Clients => inner.clients.remove(id),
        };
        drop(taken);
    }
}

impl Inner {
    /// Arms the session that reads, if it has read all there is. Whether it is armed. A follower outside of the ISR never
    /// is: each of its fetches may let it in.
    fn watch(
        &mut self,
        watching: Watching<'_>,
        entry: &FetchEntry,
        params: &FetchParams,
        result: &FetchResult,
    ) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let is_member = params.replica.is_none_or(|(replica, _)| leader.isr().contains(&replica));
        let has_all = result.is_empty() && result.diverging_epoch.is_none() && entry.fetch_offset >= result.bound;
        self.watchers.put(watching, params.replica.is_some(), is_member && has_all, self.appended_bytes)
    }

    /// How far a reader may read.
    pub(super) fn bound(&self, leader: &LeaderState, log: &Log, reader: Reader) -> Offset {
        match reader {
            // In a durable topic too: a follower may have what the leader has not synced yet.
            Reader::Follower => log.log_end(),
            reader => leader.read_bound(reader, log.last_stable_offset()),
        }
    }

    /// The result, and the log end before the read.
    fn read(
        &mut self,
        entry: &FetchEntry,
        params: &FetchParams,
        bytes_max: usize,
        min_one: bool,
        context: Context<'_>,
    ) -> Result<(FetchResult, Offset), PartitionError> {
        let (leader, log) = self.leader(entry.current_leader_epoch)?;
        if let Some((replica, broker_epoch)) = params.replica {
            let checked = leader.check_follower(replica, broker_epoch, context.image);
            checked.map_err(|error| follower_refusal(error, entry.current_leader_epoch))?;
        }
        let bound = self.bound(leader, log, params.reader);
        let mut result = FetchResult {
            error: ErrorCode::None,
            high_watermark: leader.high_watermark(),
            last_stable_offset: log.last_stable_offset(),
            log_start: log.log_start(),
            bound,
            ..FetchResult::failed(ErrorCode::None)
        };
        let own = log.leader_epoch_end_offset(entry.last_fetched_epoch);
        let own = match own != EpochEndOffset::UNKNOWN {
            true => Some(EpochEnd { epoch: own.epoch, end: own.end }),
            // A follower's last record cannot be of an epoch that is still to come: its log is damaged, in bytes that no
            // checksum covers. It is told to go back to what both know.
            false if params.replica.is_some() && entry.last_fetched_epoch > leader.leader_epoch() => {
                Some(EpochEnd { epoch: leader.leader_epoch(), end: log.log_end() })
            }
            false => None,
        };
        match follower::divergence(entry.last_fetched_epoch, entry.fetch_offset, own, log.log_start()) {
            Divergence::None => {}
            Divergence::At(end) => {
                result.diverging_epoch = Some(end);
                return Ok((result, log.log_end()));
            }
            Divergence::OutOfRange => {
                let message = "the log does not reach back to the epoch of the reader's last record";
                return Err(PartitionError::new(ErrorCode::OffsetOutOfRange, message));
            }
        }
        let log_end = log.log_end();
        let failed = |error: LogError| PartitionError::new(error.code(), error.to_string());
        let found = if params.waits_for_disk {
            log.read(entry.fetch_offset, bytes_max, bound, min_one).map(Found::Slice)
        } else {
            log.read_now(entry.fetch_offset, bytes_max, bound, min_one)
        };
        let slice = match found.map_err(failed)? {
            Found::Slice(slice) => slice,
            Found::Cold(range) => {
                result.cold = Some(range);
                return Ok((result, log_end));
            }
        };
        if params.reader == Reader::Client(Isolation::ReadCommitted) {
            result.aborted = Some(log.aborted_transactions(&slice).map_err(failed)?);
        }
        let is_far = self.cold_readers.is_some() || cold_readers::is_far(log, &slice);
        let stream = params.peer.filter(|_| is_far).and_then(|peer| self.cold_stream(peer, &slice, context));
        if let Some(file) = slice.file
            && slice.len > 0
        {
            result.records = Some(FileRange { file, position: slice.position, len: slice.len, stream });
        }
        Ok((result, log_end))
    }

    /// The stream of a reader that is far behind the log's end, or was until now.
    fn cold_stream(
        &mut self,
        peer: std::net::SocketAddr,
        slice: &ReadSlice,
        context: Context<'_>,
    ) -> Option<Arc<ColdStream>> {
        let log = self.log.as_ref()?;
        let readers = self.cold_readers.get_or_insert_default();
        let stream = readers.on_read(peer, log, slice, context.now.instant);
        if readers.is_empty() {
            self.cold_readers = None;
        }
        stream
    }
}
