//! A follower's decisions: where to truncate when its history and the leader's part, and what to do with each answer.
//!
//! Truncation goes by leader epochs (KIP-101, 279, 320), told in the fetch answer itself (KIP-595's diverging epoch):
//! the follower says the epoch of its last record; a leader whose own history knows that epoch to end earlier, or does
//! not know it, answers with the largest epoch not above it and its end. **Invariant:** nothing here ever truncates to
//! the high watermark, which lags and may lie below records that are committed.

use odradek_common::{ErrorCode, LeaderEpoch, Offset};

/// A leader epoch and the offset at which the next one begins (or the log ends).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    pub end: Offset,
}

/// What a follower's fetch came upon in the leader's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Divergence {
    /// The histories agree up to the fetch offset.
    None,
    /// They part: the leader's largest epoch not above the follower's, and its end.
    At(EpochEnd),
    /// The leader's history does not reach back to that epoch.
    OutOfRange,
}

/// The leader's side: compares the follower's last epoch and log end with its own history. `own` is the leader's
/// largest epoch not above `last_fetched` and its end.
pub fn divergence(
    last_fetched: LeaderEpoch,
    fetch_offset: Offset,
    own: Option<EpochEnd>,
    log_start: Offset,
) -> Divergence {
    if last_fetched == LeaderEpoch::NONE {
        return Divergence::None;
    }
    match own {
        None => Divergence::OutOfRange,
        Some(_) if fetch_offset < log_start => Divergence::OutOfRange,
        Some(own) if own.epoch < last_fetched || own.end < fetch_offset => Divergence::At(own),
        Some(_) => Divergence::None,
    }
}

/// The follower's side: the offset to truncate to. `own` is its own largest epoch not above the leader's, and its end.
///
/// When the follower does not know the leader's epoch, it truncates to the end of its largest smaller one, asks again
/// from there, and so finds the largest epoch that both share in as many rounds as there are such gaps (KIP-279).
pub fn truncation(leader: EpochEnd, own: Option<EpochEnd>, log_end: Offset) -> Offset {
    match own {
        Some(own) if own.epoch == leader.epoch => own.end.min(leader.end).min(log_end),
        Some(own) => own.end.min(log_end),
        None => leader.end.min(log_end),
    }
}

/// The high watermark a follower may take over: never beyond what it has, and never back.
pub fn high_watermark(own: Offset, leader: Offset, log_end: Offset) -> Offset {
    own.max(leader.min(log_end))
}

/// Where a follower goes on after OFFSET_OUT_OF_RANGE, given the leader's own ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutOfRange {
    /// The leader's log is shorter: an unclean election.
    TruncateTo(Offset),
    /// The leader has deleted what comes next: everything here goes.
    StartAt(Offset),
    /// The leader has moved on meanwhile; the offset is good now.
    Continue,
}

/// Decides after OFFSET_OUT_OF_RANGE.
pub fn out_of_range(log_end: Offset, leader_start: Offset, leader_end: Offset) -> OutOfRange {
    if leader_end < log_end {
        OutOfRange::TruncateTo(leader_end)
    } else if leader_start > log_end {
        OutOfRange::StartAt(leader_start)
    } else {
        OutOfRange::Continue
    }
}

/// What to do with one partition of a fetch answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FetchStep {
    Append,
    Truncate(EpochEnd),
    /// Ask the leader for its ends, then [`out_of_range`].
    AskOffsets,
    /// This replica's leader epoch is old: metadata will name another leader or epoch. No use asking again.
    AwaitMetadata,
    /// The leader is not ready for this follower, or has trouble: ask again after a pause.
    RetryLater,
}

/// Classifies an answer.
pub fn on_fetched(error: ErrorCode, diverging: Option<EpochEnd>) -> FetchStep {
    match (error, diverging) {
        (ErrorCode::None, Some(leader)) => FetchStep::Truncate(leader),
        (ErrorCode::None, None) => FetchStep::Append,
        (ErrorCode::OffsetOutOfRange, _) => FetchStep::AskOffsets,
        (ErrorCode::FencedLeaderEpoch, _) => FetchStep::AwaitMetadata,
        _ => FetchStep::RetryLater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(epoch: i32, end: i64) -> EpochEnd {
        EpochEnd { epoch: LeaderEpoch(epoch), end: Offset(end) }
    }

    #[test]
    fn divergence_is_found_by_epoch_and_by_end() {
        let check = |last_fetched: i32, fetch_offset: i64, own, expected| {
            let found = divergence(LeaderEpoch(last_fetched), Offset(fetch_offset), own, Offset(5));
            assert_eq!(found, expected, "epoch {last_fetched} offset {fetch_offset} own {own:?}");
        };
        // An empty follower has no epoch and cannot diverge.
        check(-1, 0, None, Divergence::None);
        check(3, 10, Some(end(3, 20)), Divergence::None);
        check(3, 20, Some(end(3, 20)), Divergence::None);
        // It wrote more in epoch 3 than the leader has of it.
        check(3, 21, Some(end(3, 20)), Divergence::At(end(3, 20)));
        // It has an epoch that the leader never saw.
        check(4, 10, Some(end(3, 20)), Divergence::At(end(3, 20)));
        check(3, 4, Some(end(3, 20)), Divergence::OutOfRange);
        check(2, 10, None, Divergence::OutOfRange);
    }

    #[test]
    fn truncation_goes_to_the_largest_shared_epoch() {
        let check = |leader, own, log_end: i64, expected: i64| {
            assert_eq!(truncation(leader, own, Offset(log_end)), Offset(expected), "{leader:?} {own:?}");
        };
        // Same epoch: the shorter of both.
        check(end(3, 20), Some(end(3, 25)), 30, 20);
        check(end(3, 25), Some(end(3, 20)), 30, 20);
        // The follower does not know epoch 3: to the end of its epoch 2, then it asks again.
        check(end(3, 25), Some(end(2, 15)), 30, 15);
        // All that the follower has is newer than the leader's epoch.
        check(end(1, 8), None, 30, 8);
        check(end(1, 40), None, 30, 30);
    }

    #[test]
    fn followers_mark_never_passes_its_log_and_never_falls() {
        let check = |own: i64, leader: i64, log_end: i64, expected: i64| {
            assert_eq!(high_watermark(Offset(own), Offset(leader), Offset(log_end)), Offset(expected));
        };
        check(0, 10, 5, 5);
        check(0, 3, 5, 3);
        check(4, 3, 5, 4);
    }

    #[test]
    fn out_of_range_restarts_truncates_or_goes_on() {
        let check = |log_end: i64, start: i64, leader_end: i64, expected| {
            assert_eq!(out_of_range(Offset(log_end), Offset(start), Offset(leader_end)), expected);
        };
        check(10, 0, 5, OutOfRange::TruncateTo(Offset(5)));
        check(10, 20, 50, OutOfRange::StartAt(Offset(20)));
        check(10, 5, 50, OutOfRange::Continue);
    }

    #[test]
    fn answers_are_classified() {
        let check = |error, diverging, expected| assert_eq!(on_fetched(error, diverging), expected, "{error}");
        check(ErrorCode::None, None, FetchStep::Append);
        check(ErrorCode::None, Some(end(1, 2)), FetchStep::Truncate(end(1, 2)));
        check(ErrorCode::OffsetOutOfRange, None, FetchStep::AskOffsets);
        check(ErrorCode::FencedLeaderEpoch, None, FetchStep::AwaitMetadata);
        for error in [
            ErrorCode::UnknownLeaderEpoch,
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::UnknownTopicId,
            ErrorCode::InconsistentTopicId,
            ErrorCode::KafkaStorageError,
            ErrorCode::UnknownServerError,
        ] {
            check(error, None, FetchStep::RetryLater);
        }
    }
}
