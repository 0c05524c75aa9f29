//! Idempotent and transactional producers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use odradek_broker_storage::{
    AbortedTxn, AppendError, AppendOrigin, Log, LogConfig, ProducerStateConfig, Recovery, Unverified,
};
use odradek_common::fs::Fs;
use odradek_common::mem_fs::{Crash, MemFs, Operation};
use odradek_common::rng::SplitMix64;
use odradek_common::time::Timestamp;
use odradek_common::{Decision, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId, VerificationGuard};
use odradek_records::{EndTxnMarker, RecordBatchBuilder};

use crate::support::{EVER, Home, NOW, TOPIC_ID, append, batch, fill, idempotent};

fn code(result: Result<odradek_broker_storage::AppendInfo, AppendError>) -> ErrorCode {
    result.map_or_else(
        |error| error.code(),
        |info| if info.duplicate { ErrorCode::DuplicateSequenceNumber } else { ErrorCode::None },
    )
}

#[test]
fn sequences_follow_each_other_and_epochs_never_go_back() {
    use ErrorCode::{
        DuplicateSequenceNumber as Duplicate, InvalidProducerEpoch, None, OutOfOrderSequenceNumber as Gap,
    };
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    // Epoch, first sequence, records, answer.
    let script = [
        (0, 5, 2, None), // A producer that is not known may begin anywhere: its past may be deleted.
        (0, 7, 3, None),
        (0, 5, 2, Duplicate),
        (0, 7, 3, Duplicate),
        (0, 7, 2, Gap), // Not the same batch.
        (0, 11, 1, Gap),
        (0, 10, 1, None),
        (1, 3, 1, Gap), // A new epoch begins with 0.
        (1, 0, 1, None),
        (0, 11, 1, InvalidProducerEpoch),
        (0, 10, 1, InvalidProducerEpoch),
        (1, 0, 1, Duplicate),
        (1, 1, 1, None),
        (7, 0, 4, None),
    ];
    for (step, (epoch, sequence, count, expected)) in script.into_iter().enumerate() {
        let end = log.log_end();
        assert_eq!(code(append(&mut log, &idempotent(9, epoch, sequence, count))), expected, "step {step}");
        let appended = if expected == None { count as i64 } else { 0 };
        assert_eq!(log.log_end(), end.plus(appended), "step {step}");
    }
}

#[test]
fn sequences_wrap_and_five_batches_are_remembered() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    let first = append(&mut log, &idempotent(9, 0, i32::MAX - 2, 5)).expect("across the wrap");
    let again = append(&mut log, &idempotent(9, 0, i32::MAX - 2, 5)).expect("known");
    assert!(again.duplicate && again.first_offset == first.first_offset && again.last_offset == first.last_offset);
    for sequence in 2..6 {
        append(&mut log, &idempotent(9, 0, sequence, 1)).expect("in order");
    }
    assert!(append(&mut log, &idempotent(9, 0, i32::MAX - 2, 5)).expect("one of the last five").duplicate);
    append(&mut log, &idempotent(9, 0, 6, 1)).expect("in order");
    assert_eq!(code(append(&mut log, &idempotent(9, 0, i32::MAX - 2, 5))), ErrorCode::OutOfOrderSequenceNumber);
    append(&mut log, &idempotent(10, 0, i32::MAX, 1)).expect("the last sequence there is");
    append(&mut log, &idempotent(10, 0, 0, 1)).expect("0 follows it");
}

#[test]
fn a_follower_knows_the_duplicates_of_its_leader() {
    let (leader_home, follower_home) = (Home::real(), Home::real());
    let mut leader = leader_home.open(&LogConfig::default(), Recovery::NEW);
    let mut follower = follower_home.open(&LogConfig::default(), Recovery::NEW);
    for sequence in 0..8 {
        append(&mut leader, &idempotent(9, 0, sequence, 1)).expect("appended");
    }
    let slice = leader.read(Offset(0), 1 << 20, leader.log_end(), true).expect("readable");
    let bytes = leader.load(&slice).expect("loaded");
    follower.append_as_follower(&bytes, EVER, NOW).expect("replicated");
    assert_eq!(follower.log_end(), Offset(8));
    let info = append(&mut follower, &idempotent(9, 0, 4, 1)).expect("known");
    assert!(info.duplicate);
    assert_eq!(info.first_offset, Offset(4));
    assert_eq!(follower.latest_epoch(), Some(LeaderEpoch(0)));
    let producers: Vec<_> = follower.active_producers().collect();
    assert_eq!((producers.len(), producers[0].last_sequence), (1, 7));
}

#[test]
fn a_silent_producer_is_forgotten() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &idempotent(9, 0, 0, 1)).expect("appended");
    let day = 24 * 60 * 60 * 1000;
    assert_eq!(log.expire_producers(Timestamp(NOW.0 + day - 1)), 0);
    assert_eq!(log.expire_producers(Timestamp(NOW.0 + day)), 1);
    append(&mut log, &idempotent(9, 0, 400, 1)).expect("it may go on anywhere");
}

#[test]
fn of_too_many_producers_the_longest_silent_are_forgotten_and_never_an_open_transaction() {
    let home = Home::real();
    let producers = ProducerStateConfig { producer_ids_max: 16, ..ProducerStateConfig::default() };
    let opened = Log::open(home.location(), TOPIC_ID, Arc::default(), producers, Recovery::NEW, NOW);
    let mut log = opened.expect("the log opens");
    append(&mut log, &transactional(0, 0)).expect("the oldest, open");
    for producer in 1..16 {
        let batch = RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), 0);
        append(&mut log, &fill(batch, 1, 10, Timestamp(NOW.0 + producer))).expect("appended");
    }
    assert_eq!(log.producer_count(), 16);
    append(&mut log, &idempotent(1, 0, 1, 1)).expect("one that is known takes no room");
    assert_eq!(log.producer_count(), 16);
    // Producer 1 spoke last, at NOW; it and producer 2 are the longest silent by the clock of their records.
    append(&mut log, &idempotent(16, 0, 0, 1)).expect("one more");
    let known: Vec<i64> = log.active_producers().map(|producer| producer.producer_id.0).collect();
    assert_eq!(known, [0].into_iter().chain(3..=16).collect::<Vec<_>>());
    assert!(append(&mut log, &idempotent(16, 0, 0, 1)).expect("known").duplicate);
}

#[test]
fn a_transaction_whose_producer_is_silent_is_late() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &idempotent(8, 0, 0, 1)).expect("no transaction");
    append(&mut log, &transactional(9, 0)).expect("open");
    let late = |log: &Log, after: i64| log.late_transactions(Timestamp(NOW.0 + after), 1_000).collect::<Vec<_>>();
    assert_eq!(late(&log, 1_000), []);
    let found = late(&log, 1_001);
    assert_eq!(
        found.iter().map(|producer| (producer.producer_id.0, producer.txn_start_offset)).collect::<Vec<_>>(),
        [(9, Some(Offset(1)))]
    );
    end(&mut log, 9, false, 1).expect("aborted");
    assert_eq!(late(&log, 1_001), []);
}

#[test]
fn truncation_takes_producers_back() {
    let home = Home::real();
    let config = LogConfig { segment_bytes: 1000, ..LogConfig::default() };
    let mut log = home.open(&config, Recovery::NEW);
    for sequence in 0..40 {
        append(&mut log, &idempotent(9, 0, sequence, 1)).expect("appended");
    }
    for end in [37, 20, 3] {
        log.truncate_to(Offset(end), NOW).expect("truncated");
        assert_eq!(log.log_end(), Offset(end));
        let next = end as i32;
        assert!(append(&mut log, &idempotent(9, 0, next - 1, 1)).expect("known").duplicate);
        assert_eq!(code(append(&mut log, &idempotent(9, 0, next + 1, 1))), ErrorCode::OutOfOrderSequenceNumber);
        append(&mut log, &idempotent(9, 0, next, 1)).expect("the next one");
    }
}

fn transactional(producer: i64, sequence: i32) -> Bytes {
    let builder =
        RecordBatchBuilder::new().producer(ProducerId(producer), ProducerEpoch(0), sequence).transactional(true);
    fill(builder, 1, 10, NOW)
}

fn end(log: &mut Log, producer: i64, is_commit: bool, coordinator_epoch: i32) -> Result<Offset, AppendError> {
    let marker = EndTxnMarker { is_commit, coordinator_epoch };
    let batch = marker.batch(ProducerId(producer), ProducerEpoch(0), NOW);
    Ok(log.append_as_leader(&batch, LeaderEpoch(0), AppendOrigin::Coordinator, NOW)?.first_offset)
}

#[test]
fn open_transactions_hold_the_last_stable_offset_and_aborted_ones_are_indexed() {
    for restart in ["none", "clean", "crash"] {
        let home = Home::real();
        let config = LogConfig { segment_bytes: 400, ..LogConfig::default() };
        let mut log = home.open(&config, Recovery::NEW);
        append(&mut log, &batch(1, 10, NOW)).expect("0");
        append(&mut log, &transactional(1, 0)).expect("1");
        append(&mut log, &transactional(2, 0)).expect("2");
        append(&mut log, &transactional(1, 1)).expect("3");
        log.set_high_watermark(Offset(4));
        assert_eq!(log.last_stable_offset(), Offset(1));
        assert!(log.has_ongoing_transaction(ProducerId(1)));
        assert_eq!(end(&mut log, 1, false, 5).expect("aborted"), Offset(4));
        // The marker is not below the high watermark yet.
        assert_eq!(log.last_stable_offset(), Offset(1));
        log.set_high_watermark(Offset(5));
        assert_eq!(log.last_stable_offset(), Offset(2));
        assert_eq!(end(&mut log, 2, true, 5).expect("committed"), Offset(5));
        log.set_high_watermark(Offset(6));
        assert_eq!(log.last_stable_offset(), Offset(6));
        append(&mut log, &transactional(3, 0)).expect("6");

        let fenced = end(&mut log, 1, false, 4).expect_err("an old coordinator");
        assert_eq!(fenced.code(), ErrorCode::TransactionCoordinatorFenced);
        let outside = append(&mut log, &idempotent(3, 0, 1, 1)).expect_err("a transaction is open");
        assert_eq!(outside.code(), ErrorCode::InvalidTxnState);
        if restart != "none" {
            if restart == "clean" {
                log.close(NOW).expect("closed");
            }
            drop(log);
            log = home.open(&config, Recovery { clean: restart == "clean", ..Recovery::NEW });
            log.set_high_watermark(log.log_end());
        }
        assert_eq!(log.last_stable_offset(), Offset(6));
        let aborted = AbortedTxn {
            producer_id: ProducerId(1),
            first_offset: Offset(1),
            last_offset: Offset(4),
            last_stable_offset: Offset(2),
        };
        for (from, expected) in [(0, vec![aborted]), (4, vec![aborted]), (5, vec![])] {
            let slice = log.read(Offset(from), 1 << 20, log.log_end(), true).expect("readable");
            assert_eq!(log.aborted_transactions(&slice).expect("readable"), expected, "from {from}, restart {restart}");
        }
    }
}

/// The disk had the entry, and not its marker. The first start emptied the index, and was killed before it synced it.
#[test]
fn the_entry_of_a_marker_that_was_lost_does_not_come_back_when_the_start_that_dropped_it_was_killed() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let config = LogConfig::default();
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &transactional(1, 0)).expect("0");
    let size = log.size_bytes() as usize;
    end(&mut log, 1, false, 0).expect("1");
    log.close(NOW).expect("closed");
    drop(log);
    fs.corrupt(&home.file("00000000000000000000.log"), |bytes| bytes.truncate(size)).expect("there");
    for _ in 0..2 {
        let log = home.reopen_after_crash(&config);
        assert_eq!(log.log_end(), Offset(1));
        fs.crash(Crash::Process, &mut SplitMix64::new(1));
    }
    let mut log = home.reopen_after_crash(&config);
    append(&mut log, &transactional(1, 1)).expect("1");
    log.roll(None, NOW).expect("rolled");
    log.flush(NOW).expect("flushed");
    assert_eq!(log.recovery_point(), Offset(2));
    drop(log);
    fs.crash(Crash::PowerLosesAll, &mut SplitMix64::new(1));
    let log = home.open(&config, Recovery { recovery_point: Offset(2), clean: false, ..Recovery::NEW });
    let slice = log.read(Offset(0), 1 << 20, log.log_end(), true).expect("readable");
    assert_eq!(log.aborted_transactions(&slice).expect("readable"), []);
}

/// A stop in the middle of the first segment left a snapshot, the power failed when retention had taken that segment and
/// not yet the snapshot, and the one at the next segment's start was torn.
#[test]
fn a_snapshot_from_before_the_first_segment_is_not_used() {
    let fs = MemFs::new();
    let home = Home::memory(&fs);
    let config = LogConfig::default();
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &idempotent(9, 0, 0, 3)).expect("0 to 2");
    log.close(NOW).expect("closed");
    drop(log);
    let mut log = home.open(&config, Recovery::NEW);
    append(&mut log, &idempotent(9, 0, 3, 3)).expect("3 to 5");
    log.roll(None, NOW).expect("rolled");
    append(&mut log, &batch(1, 10, NOW)).expect("6");
    log.set_high_watermark(log.log_end());
    log.delete_records_before(Offset(6)).expect("deleted");
    let off = |operation, _: &Path| (operation == Operation::Remove).then(|| std::io::Error::other("the power is off"));
    fs.set_fault(Some(Box::new(off)));
    log.delete_old_segments(NOW).expect_err("the power is off");
    fs.set_fault(None);
    drop(log);
    fs.corrupt(&home.file("00000000000000000006.snapshot"), |bytes| bytes.truncate(20)).expect("there");
    assert!(fs.exists(&home.file("00000000000000000003.snapshot")).expect("known"));

    let mut log = home.reopen_after_crash(&config);
    assert_eq!((log.log_start(), log.log_end()), (Offset(6), Offset(7)));
    assert_eq!(log.active_producers().count(), 0);
    append(&mut log, &idempotent(9, 0, 6, 1)).expect("of a producer that is not known any sequence is taken");
    assert!(!fs.exists(&home.file("00000000000000000003.snapshot")).expect("known"));
}

#[test]
fn truncation_keeps_what_the_snapshot_at_the_logs_start_knows() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &idempotent(9, 0, 0, 3)).expect("0 to 2");
    log.roll(None, NOW).expect("rolled");
    append(&mut log, &batch(1, 10, NOW)).expect("3");
    append(&mut log, &batch(1, 10, NOW)).expect("4");
    log.set_high_watermark(Offset(4));
    log.delete_records_before(Offset(3)).expect("deleted");
    log.delete_old_segments(NOW).expect("chosen").run().expect("removed");
    assert_eq!((log.log_start(), log.segment_count()), (Offset(3), 1));
    assert!(log.truncate_to(Offset(4), NOW).expect("truncated"));
    assert!(append(&mut log, &idempotent(9, 0, 0, 3)).expect("known").duplicate);
    // As after a restart.
    drop(log);
    let mut log = home.reopen_after_crash(&LogConfig::default());
    assert!(append(&mut log, &idempotent(9, 0, 0, 3)).expect("known").duplicate);
}

/// The marker finds room, and its entry in the transaction index does not.
#[test]
fn a_marker_that_a_full_disk_has_refused_does_not_come_back() {
    for seed in 0..40 {
        let fs = MemFs::new();
        let home = Home::memory(&fs);
        let mut log = home.open(&LogConfig::default(), Recovery::NEW);
        append(&mut log, &transactional(1, 0)).expect("0");
        log.flush(NOW).expect("flushed");
        let used: usize = fs.files().iter().map(|file| fs.content(file).expect("there").len()).sum();
        fs.set_capacity(Some(used as u64 + 100));
        let refused = end(&mut log, 1, false, 0).expect_err("full");
        assert!(refused.to_string().contains(" is full: "), "{refused}");
        assert_eq!((log.log_end(), log.log_dir().failure().is_some()), (Offset(1), false));
        drop(log);
        fs.set_capacity(None);
        fs.crash(Crash::PowerTears, &mut SplitMix64::new(seed));
        assert_eq!(home.reopen_after_crash(&LogConfig::default()).log_end(), Offset(1), "seed {seed}");
    }
}

/// The marker of a decision for the leader of `leader_epoch`, at the leader of epoch 0: where it is, and whether it was there.
fn decide(
    log: &mut Log,
    is_commit: bool,
    (coordinator_epoch, decided): (i32, i64),
    leader_epoch: i32,
) -> Result<(i64, bool), ErrorCode> {
    let marker = EndTxnMarker { is_commit, coordinator_epoch };
    let batch = marker.batch(ProducerId(1), ProducerEpoch(0), NOW);
    let decision = Some(Decision { offset: Offset(decided), leader_epoch: LeaderEpoch(leader_epoch) });
    let origin = AppendOrigin::Marker { bumped: false, decision };
    let appended = log.append_as_leader(&batch, LeaderEpoch(0), origin, NOW).map_err(|error| error.code())?;
    Ok((appended.first_offset.0, appended.duplicate))
}

#[test]
fn a_marker_that_comes_again_is_known_by_its_decision() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &transactional(1, 0)).expect("0");
    assert_eq!(decide(&mut log, true, (5, 10), 0), Ok((1, false)));
    assert_eq!(decide(&mut log, true, (5, 10), 0), Ok((1, true)));
    // The next transaction of the same epoch is open; what comes now is of the one before, or of an earlier one.
    append(&mut log, &transactional(1, 1)).expect("2");
    assert_eq!(decide(&mut log, true, (5, 10), 0), Ok((1, true)));
    assert_eq!(decide(&mut log, false, (5, 4), 0), Ok((1, true)));
    assert_eq!(decide(&mut log, true, (4, 20), 0), Err(ErrorCode::TransactionCoordinatorFenced));
    assert!(log.has_ongoing_transaction(ProducerId(1)));
    assert_eq!(log.log_end(), Offset(3));
    // Its own.
    assert_eq!(decide(&mut log, false, (5, 11), 0), Ok((3, false)));
    assert!(!log.has_ongoing_transaction(ProducerId(1)));
    // The next coordinator tells everybody of its epoch, and then counts its own decisions, whatever offsets were lost.
    assert_eq!(decide(&mut log, false, (6, 11), 0), Ok((4, false)));
    append(&mut log, &transactional(1, 2)).expect("5");
    assert_eq!(decide(&mut log, true, (7, 2), 0), Ok((6, false)));
    // Who does not tell its decision ends what is open, as with Kafka.
    append(&mut log, &transactional(1, 3)).expect("7");
    assert_eq!(end(&mut log, 1, false, 7).expect("taken"), Offset(8));
    assert!(!log.has_ongoing_transaction(ProducerId(1)));
}

#[test]
fn a_marker_for_another_leadership_is_refused() {
    let home = Home::real();
    let mut log = home.open(&LogConfig::default(), Recovery::NEW);
    append(&mut log, &transactional(1, 0)).expect("0");
    assert_eq!(decide(&mut log, true, (5, 10), 1), Err(ErrorCode::UnknownLeaderEpoch));
    // What the log is read from does not tell the decision: only who was sent the marker knows.
    assert_eq!(decide(&mut log, true, (5, 10), 0), Ok((1, false)));
    append(&mut log, &transactional(1, 1)).expect("2");
    log.flush(NOW).expect("flushed");
    drop(log);
    let mut log = home.reopen_after_crash(&LogConfig::default());
    let marker = EndTxnMarker { is_commit: true, coordinator_epoch: 5 };
    let decision = Some(Decision { offset: Offset(10), leader_epoch: LeaderEpoch(0) });
    let origin = AppendOrigin::Marker { bumped: false, decision };
    let batch = marker.batch(ProducerId(1), ProducerEpoch(0), NOW);
    let late = log.append_as_leader(&batch, LeaderEpoch(1), origin, NOW);
    assert_eq!(late.map_err(|error| error.code()), Err(ErrorCode::FencedLeaderEpoch));
    assert!(log.has_ongoing_transaction(ProducerId(1)));
}

/// A log that takes a transaction's first batch only under a guard.
fn verifying(home: &Home) -> Log {
    let producers = ProducerStateConfig { verify_transactions: true, ..ProducerStateConfig::default() };
    Log::open(home.location(), TOPIC_ID, Arc::default(), producers, Recovery::NEW, NOW).expect("the log opens")
}

fn begin(log: &mut Log, epoch: i16, sequence: i32, bumps_epoch: bool) -> Result<Option<VerificationGuard>, ErrorCode> {
    let (producer, epoch) = (ProducerId(9), ProducerEpoch(epoch));
    let batch = Unverified { producer, epoch, sequence, bumps_epoch };
    log.begin_verification(batch, NOW).map_err(|error| error.code())
}

fn in_transaction(log: &mut Log, epoch: i16, sequence: i32, origin: AppendOrigin) -> ErrorCode {
    let builder = RecordBatchBuilder::new().producer(ProducerId(9), ProducerEpoch(epoch), sequence).transactional(true);
    code(log.append_as_leader(&fill(builder, 1, 10, NOW), LeaderEpoch(0), origin, NOW))
}

fn mark(log: &mut Log, epoch: i16, bumped: bool) -> ErrorCode {
    let marker = EndTxnMarker { is_commit: true, coordinator_epoch: 5 };
    let batch = marker.batch(ProducerId(9), ProducerEpoch(epoch), NOW);
    code(log.append_as_leader(&batch, LeaderEpoch(0), AppendOrigin::Marker { bumped, decision: None }, NOW))
}

#[test]
fn a_transaction_begins_under_its_guard_and_no_other() {
    use AppendOrigin::{Client, Coordinator, Verified, VerifiedCoordinator};
    use ErrorCode::{InvalidProducerEpoch, InvalidTxnState, None as Fine};
    let home = Home::real();
    let mut log = verifying(&home);
    assert_eq!(in_transaction(&mut log, 0, 0, Client), InvalidTxnState);
    assert_eq!(in_transaction(&mut log, 0, -1, Coordinator), InvalidTxnState);
    let first = begin(&mut log, 0, 0, false).expect("begun").expect("nothing is open");
    assert_eq!(begin(&mut log, 0, 0, false), Ok(Some(first)), "who asks again goes on with it");
    assert_eq!(in_transaction(&mut log, 0, 0, Client), InvalidTxnState);
    assert_eq!(in_transaction(&mut log, 0, 0, Verified(first)), Fine);
    // It is open here, and needs no more.
    assert_eq!(begin(&mut log, 0, 1, false), Ok(None));
    assert_eq!(in_transaction(&mut log, 0, 1, Client), Fine);
    assert_eq!(mark(&mut log, 0, false), Fine);
    // What was verified for the transaction before says nothing of the next (ABA).
    let late = begin(&mut log, 0, 2, false).expect("begun").expect("nothing is open");
    assert_eq!(mark(&mut log, 0, false), Fine);
    assert_eq!(in_transaction(&mut log, 0, 2, Verified(late)), InvalidTxnState);
    let next = begin(&mut log, 0, 2, false).expect("begun").expect("nothing is open");
    assert_ne!(next, late);
    assert_eq!(in_transaction(&mut log, 0, 2, Verified(late)), InvalidTxnState);
    assert_eq!(in_transaction(&mut log, 0, 2, Verified(next)), Fine);
    assert_eq!(mark(&mut log, 1, false), Fine);
    assert_eq!(begin(&mut log, 0, 3, false), Err(InvalidProducerEpoch));
    assert_eq!(in_transaction(&mut log, 0, 3, Verified(next)), InvalidProducerEpoch);
    // Offsets of a group have no sequences.
    let offsets = begin(&mut log, 1, -1, false).expect("begun").expect("nothing is open");
    assert_eq!(in_transaction(&mut log, 1, -1, VerifiedCoordinator(offsets)), Fine);
    // One that nobody comes back for is forgotten.
    assert_eq!(mark(&mut log, 1, false), Fine);
    let forgotten = begin(&mut log, 1, 0, false).expect("begun").expect("nothing is open");
    log.expire_producers(Timestamp(NOW.0 + 24 * 60 * 60 * 1000));
    assert_eq!(in_transaction(&mut log, 1, 0, Verified(forgotten)), InvalidTxnState);
}

#[test]
fn a_batch_does_not_overtake_one_that_is_being_verified() {
    use ErrorCode::{None as Fine, OutOfOrderSequenceNumber as Gap};
    let home = Home::real();
    let mut log = verifying(&home);
    let guard = begin(&mut log, 0, 7, false).expect("begun").expect("nothing is open");
    assert_eq!(begin(&mut log, 0, 3, false), Ok(Some(guard)));
    assert_eq!(in_transaction(&mut log, 0, 7, AppendOrigin::Verified(guard)), Gap, "3 comes first");
    assert_eq!(begin(&mut log, 2, 5, false), Ok(Some(guard)), "a new epoch counts anew");
    assert_eq!(in_transaction(&mut log, 2, 5, AppendOrigin::Verified(guard)), Fine);
    // With the second protocol each transaction begins with 0.
    assert_eq!(mark(&mut log, 3, true), Fine);
    let guard = begin(&mut log, 3, 1, true).expect("begun").expect("nothing is open");
    assert_eq!(in_transaction(&mut log, 3, 1, AppendOrigin::Verified(guard)), Gap);
    assert_eq!(begin(&mut log, 3, 0, true), Ok(Some(guard)));
    assert_eq!(in_transaction(&mut log, 3, 0, AppendOrigin::Verified(guard)), Fine);
}

#[test]
fn a_late_marker_does_not_end_the_next_transaction() {
    use ErrorCode::{InvalidProducerEpoch, None as Fine};
    let home = Home::real();
    let mut log = verifying(&home);
    let guard = begin(&mut log, 4, 0, true).expect("begun").expect("nothing is open");
    assert_eq!(in_transaction(&mut log, 4, 0, AppendOrigin::Verified(guard)), Fine);
    assert_eq!(mark(&mut log, 4, true), InvalidProducerEpoch, "an epoch above that of the records");
    assert_eq!(mark(&mut log, 5, true), Fine);
    // Its answer was lost, and the coordinator sends it again.
    assert_eq!(mark(&mut log, 5, true), Fine);
    let guard = begin(&mut log, 5, 0, true).expect("begun").expect("nothing is open");
    assert_eq!(in_transaction(&mut log, 5, 0, AppendOrigin::Verified(guard)), Fine);
    // The next transaction is open: this is the one before's, on its way since then.
    assert_eq!(mark(&mut log, 5, true), InvalidProducerEpoch);
    assert_eq!(mark(&mut log, 4, true), InvalidProducerEpoch);
    assert!(log.has_ongoing_transaction(ProducerId(9)));
    assert_eq!(mark(&mut log, 6, true), Fine);
    assert!(!log.has_ongoing_transaction(ProducerId(9)));
    // The first protocol ends a transaction in its own epoch.
    let guard = begin(&mut log, 6, 0, false).expect("begun").expect("nothing is open");
    assert_eq!(in_transaction(&mut log, 6, 0, AppendOrigin::Verified(guard)), Fine);
    assert_eq!(mark(&mut log, 6, false), Fine);
}
