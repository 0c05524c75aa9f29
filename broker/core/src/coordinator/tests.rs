//! The runtime over a shard that counts, and the timeline.

use std::time::Duration;

use bytes::Bytes;
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{Decision, ErrorCode, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use odradek_records::{Compression, EndTxnMarker};
use odradek_wire::EncodeError;

use super::memory_log::MemoryLog;
use super::*;

/// Adds numbers.
#[derive(Default, Debug, PartialEq)]
struct Sum {
    total: i64,
    pending: i64,
    committed: Offset,
    outcomes: Vec<Result<(), ErrorCode>>,
    fired: u32,
}

enum Ask {
    Add(Vec<i64>),
    AddMany(Vec<i64>),
    AddInTransaction(i64),
    Read,
    Remind(Duration),
    Nothing,
}

impl Shard for Sum {
    type Record = i64;
    type Request = Ask;
    type Query = ();
    type Response = i64;
    type Timer = &'static str;
    type Pending = ();
    type Effect = ();

    fn encode(record: &i64) -> Result<EncodedRecord, EncodeError> {
        Ok((Bytes::from_static(b"n"), Some(Bytes::copy_from_slice(&record.to_be_bytes()))))
    }

    fn decode(_: Option<Bytes>, value: Option<Bytes>) -> Result<i64, String> {
        let value = value.ok_or("tombstones")?;
        Ok(i64::from_be_bytes(value[..].try_into().map_err(|_| "records that are no numbers")?))
    }

    fn handle(&mut self, ticket: Ticket, request: Ask, turn: &mut Turn<'_, Self>) {
        let add = |turn: &mut Turn<'_, Self>, numbers: Vec<i64>| numbers.into_iter().for_each(|n| turn.record(n));
        match request {
            Ask::Add(numbers) => {
                turn.reply(ticket, self.total + numbers.iter().sum::<i64>());
                turn.then(());
                add(turn, numbers);
            }
            Ask::AddMany(numbers) => {
                turn.divisible();
                turn.reply(ticket, self.total + numbers.iter().sum::<i64>());
                add(turn, numbers);
            }
            Ask::AddInTransaction(n) => {
                turn.transactional(InTransaction { producer: ProducerId(7), epoch: ProducerEpoch(0), guard: None });
                turn.reply(ticket, self.total);
                turn.record(n);
            }
            Ask::Read => turn.reply(ticket, self.total),
            Ask::Remind(after) => {
                turn.schedule("reminder", after);
                turn.reply_now(ticket, 0);
            }
            Ask::Nothing => {}
        }
    }

    fn query(&self, (): (), _: Now) -> i64 {
        self.committed.0
    }

    fn replay(&mut self, origin: Origin, record: i64) {
        match origin.producer {
            None => self.total += record,
            Some(_) => self.pending += record,
        }
    }

    fn replay_marker(&mut self, _: Offset, _: ProducerId, is_commit: bool) {
        let pending = std::mem::take(&mut self.pending);
        self.total += if is_commit { pending } else { 0 };
    }

    fn on_loaded(&mut self, turn: &mut Turn<'_, Self>) {
        turn.note("loaded".to_owned());
    }

    fn on_timer(&mut self, _: &'static str, _: &mut Turn<'_, Self>) {
        self.fired += 1;
    }

    fn on_appended(&mut self, (): (), result: Result<(), ErrorCode>, _: &mut Turn<'_, Self>) {
        self.outcomes.push(result);
    }

    fn on_committed(&mut self, offset: Offset) {
        self.committed = offset;
    }

    fn take_effects(&mut self) -> Vec<()> {
        Vec::new()
    }
}

struct Bench {
    runtime: Runtime<Sum>,
    log: MemoryLog,
    rng: SplitMix64,
    now: Now,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        let config = RuntimeConfig {
            write_timeout: Duration::from_secs(5),
            batch_bytes_max: 200,
            compression: Compression::default(),
        };
        let now = Now { instant: Instant::default(), wall: Timestamp(1_000) };
        let runtime = Runtime::new(Sum::default(), config);
        Self { runtime, log: MemoryLog::default(), rng: SplitMix64::new(1), now, next: 0 }
    }

    /// The answers by the number of the request.
    fn ask(&mut self, request: Ask) -> Vec<(u64, Result<i64, ErrorCode>)> {
        let ticket = Ticket(self.next);
        self.next += 1;
        let done = self.runtime.request(ticket, request, self.now, &mut self.rng, &mut self.log);
        plain(done)
    }

    fn commit(&mut self, offset: i64) -> Vec<(u64, Result<i64, ErrorCode>)> {
        plain(self.runtime.on_high_watermark(Offset(offset), self.now, &mut self.rng, &mut self.log))
    }

    fn after(&mut self, duration: Duration) -> Vec<(u64, Result<i64, ErrorCode>)> {
        self.now.instant = self.now.instant + duration;
        plain(self.runtime.on_time(self.now, &mut self.rng, &mut self.log))
    }
}

fn plain(done: Vec<(Ticket, Result<i64, ErrorCode>)>) -> Vec<(u64, Result<i64, ErrorCode>)> {
    done.into_iter().map(|(ticket, answer)| (ticket.0, answer)).collect()
}

#[test]
fn answers_wait_for_the_high_watermark_in_order() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(Ask::Read), [(0, Ok(0))], "nothing is written: no wait");
    assert_eq!(bench.ask(Ask::Add(vec![1, 2])), []);
    assert_eq!(bench.ask(Ask::Add(vec![10])), []);
    // A read that may have seen what is not committed waits as well.
    assert_eq!(bench.ask(Ask::Read), []);
    assert_eq!(bench.runtime.shard().total, 13, "the state is ahead");
    assert_eq!(bench.commit(1), [], "half of the first batch");
    assert_eq!(bench.commit(2), [(1, Ok(3))]);
    assert_eq!(bench.commit(3), [(2, Ok(13)), (3, Ok(13))]);
    assert_eq!(bench.runtime.shard().outcomes, [Ok(()), Ok(())]);
    assert_eq!(bench.runtime.query((), bench.now), 3);
    assert_eq!(bench.runtime.open_requests(), 0);
}

#[test]
fn a_failed_append_changes_nothing() {
    let mut bench = Bench::new();
    bench.ask(Ask::Add(vec![5]));
    bench.log.refuse = Some(ErrorCode::NotEnoughReplicas);
    assert_eq!(bench.ask(Ask::Add(vec![1])), [(1, Err(ErrorCode::CoordinatorNotAvailable))]);
    bench.log.refuse = Some(ErrorCode::NotLeaderOrFollower);
    assert_eq!(bench.ask(Ask::Add(vec![1])), [(2, Err(ErrorCode::NotCoordinator))]);
    assert_eq!(bench.runtime.shard().total, 5);
    assert_eq!(bench.runtime.written(), Offset(1));
    bench.log.refuse = None;
    bench.ask(Ask::Add(vec![1]));
    assert_eq!(bench.commit(2), [(0, Ok(5)), (3, Ok(6))]);
}

#[test]
fn what_is_not_committed_in_time_is_refused_and_stays() {
    let mut bench = Bench::new();
    bench.ask(Ask::Add(vec![5]));
    assert_eq!(bench.runtime.next_deadline(), Some(Instant::default() + Duration::from_secs(5)));
    assert_eq!(bench.after(Duration::from_secs(4)), []);
    assert_eq!(bench.after(Duration::from_secs(1)), [(0, Err(ErrorCode::CoordinatorNotAvailable))]);
    assert_eq!(bench.runtime.shard().outcomes, [Err(ErrorCode::CoordinatorNotAvailable)]);
    assert_eq!(bench.runtime.shard().total, 5, "it is in the log");
    assert_eq!(bench.commit(1), [], "answered once");
}

#[test]
fn a_resigning_coordinator_answers_everyone() {
    let mut bench = Bench::new();
    bench.ask(Ask::Add(vec![5]));
    bench.ask(Ask::Nothing);
    let refused = plain(bench.runtime.unload(ErrorCode::NotCoordinator));
    assert_eq!(refused, [(0, Err(ErrorCode::NotCoordinator)), (1, Err(ErrorCode::NotCoordinator))]);
}

#[test]
fn many_records_may_be_divided_and_a_new_leader_loads_the_same() {
    let mut bench = Bench::new();
    bench.ask(Ask::AddMany((1..=100).collect()));
    assert!(bench.log.batches.len() > 10, "{} batches", bench.log.batches.len());
    bench.ask(Ask::Add((1..=100).collect()));
    bench.ask(Ask::AddInTransaction(1_000));
    assert_eq!(bench.runtime.shard().total, 10_100);
    let marker = |is_commit| EndTxnMarker { is_commit, coordinator_epoch: 0 };
    let end = |is_commit| TransactionEnd {
        producer: ProducerId(7),
        epoch: ProducerEpoch(0),
        marker: marker(is_commit),
        bumped: false,
        decision: None,
    };
    let at = Ticket(bench.next);
    bench.runtime.end_transaction(at, end(true), 0, bench.now, &mut bench.log);
    assert_eq!(bench.runtime.shard().total, 11_100);
    bench.ask(Ask::AddInTransaction(1_000));

    let mut other = Bench::new();
    for batch in &bench.log.batches {
        other.runtime.load(batch.clone(), 1 << 20).expect("a good log");
    }
    assert_eq!(other.runtime.written(), bench.runtime.written());
    let end = other.runtime.written();
    other.runtime.loaded(end, Offset(50), other.now, &mut other.rng, &mut other.log);
    assert_eq!((other.runtime.shard().total, other.runtime.shard().pending), (11_100, 1_000));
    assert_eq!(other.runtime.take_notes(), ["loaded"]);
    // What the former leader could not commit is known, and waited for.
    assert_eq!(other.ask(Ask::Read), []);
    assert_eq!(other.commit(end.0), [(0, Ok(11_100))]);
}

#[test]
fn a_marker_that_was_appended_before_is_not_taken_in_again_and_is_answered_when_it_is_committed() {
    let mut bench = Bench::new();
    let end = TransactionEnd {
        producer: ProducerId(7),
        epoch: ProducerEpoch(0),
        marker: EndTxnMarker { is_commit: true, coordinator_epoch: 0 },
        bumped: false,
        decision: Some(Decision { offset: Offset(3), leader_epoch: LeaderEpoch(0) }),
    };
    let mark = |bench: &mut Bench, ticket: u64| {
        plain(bench.runtime.end_transaction(Ticket(ticket), end, 7, bench.now, &mut bench.log))
    };
    bench.ask(Ask::AddInTransaction(1_000));
    assert_eq!(mark(&mut bench, 10), []);
    bench.ask(Ask::AddInTransaction(1_000));
    bench.log.repeated = Some(Offset(1));
    assert_eq!(mark(&mut bench, 11), [], "the first copy is not committed");
    assert_eq!((bench.runtime.shard().total, bench.runtime.shard().pending), (1_000, 1_000));
    assert_eq!(bench.runtime.written(), Offset(3));
    assert_eq!(bench.commit(3), [(0, Ok(0)), (10, Ok(7)), (1, Ok(1_000)), (11, Ok(7))]);
    bench.log.repeated = Some(Offset(1));
    assert_eq!(mark(&mut bench, 12), [(12, Ok(7))]);
    assert_eq!((bench.runtime.shard().total, bench.runtime.shard().pending), (1_000, 1_000));
    assert_eq!(bench.runtime.open_requests(), 0);
}

#[test]
fn a_surveyed_log_is_loaded_without_what_is_superseded() {
    let mut bench = Bench::new();
    bench.ask(Ask::Add((1..=10).collect()));
    bench.ask(Ask::AddInTransaction(1_000));
    bench.ask(Ask::Add(vec![20]));
    bench.ask(Ask::Add(vec![30]));
    bench.ask(Ask::Add(vec![40]));

    let mut other = Bench::new();
    other.runtime.load_committed(Offset(12));
    other.runtime.begin_survey((1, 2));
    let surveyed =
        bench.log.batches.iter().map(|batch| other.runtime.survey(batch.clone(), 1 << 20).expect("readable"));
    assert_eq!(surveyed.flatten().map(|next| next.0).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    assert_eq!(other.runtime.survey(Bytes::new(), 1 << 20), Ok(None));
    for batch in &bench.log.batches {
        other.runtime.load(batch.clone(), 1 << 20).expect("readable");
    }
    // The last committed one of the key, and what may be taken back; transactions apart.
    assert_eq!((other.runtime.shard().total, other.runtime.shard().pending), (20 + 30 + 40, 1_000));
    assert_eq!(other.runtime.written(), Offset(14));
    let mut cut = bench.log.batches[0].clone();
    cut.truncate(cut.len() - 1);
    assert!(other.runtime.survey(cut, 1 << 20).is_err());
}

#[test]
fn a_damaged_log_is_an_error_and_unknown_records_are_counted() {
    let mut bench = Bench::new();
    let mut builder = odradek_records::RecordBatchBuilder::new();
    builder.append(Timestamp(1), None, Some(b"short"));
    builder.append(Timestamp(1), None, None);
    builder.append(Timestamp(1), None, Some(&4i64.to_be_bytes()));
    let batch = builder.build().expect("small");
    bench.runtime.load(batch.clone(), 1 << 20).expect("readable");
    assert_eq!(bench.runtime.shard().total, 4);
    assert_eq!(bench.runtime.skipped().collect::<Vec<_>>(), [("records that are no numbers", 1), ("tombstones", 1)]);
    for cut in 1..batch.len() {
        assert!(bench.runtime.load(batch.slice(..cut), 1 << 20).is_err(), "cut at {cut}");
    }
}

#[test]
fn timers_fire_once_and_the_last_schedule_counts() {
    let mut bench = Bench::new();
    bench.ask(Ask::Remind(Duration::from_secs(1)));
    bench.ask(Ask::Remind(Duration::from_secs(3)));
    bench.after(Duration::from_secs(2));
    assert_eq!(bench.runtime.shard().fired, 0);
    bench.after(Duration::from_secs(1));
    bench.after(Duration::from_secs(9));
    assert_eq!(bench.runtime.shard().fired, 1);
    assert_eq!(bench.runtime.next_deadline(), None);
}

#[test]
fn a_timeline_knows_the_newest_and_the_committed_value() {
    let mut map = TimelineMap::default();
    map.insert(Offset(0), "a", 1);
    map.insert(Offset(1), "b", 1);
    map.commit(Offset(2));
    map.insert(Offset(2), "a", 2);
    map.insert(Offset(3), "a", 3);
    map.remove(Offset(4), &"b");
    map.insert(Offset(5), "c", 1);
    let committed = |map: &TimelineMap<&'static str, i32>| {
        let mut all: Vec<_> =
            map.range_committed::<std::ops::RangeFull>(..).map(|(key, value)| (*key, *value)).collect();
        all.sort_unstable();
        all
    };
    assert_eq!((map.get("a"), map.get("b"), map.get("c")), (Some(&3), None, Some(&1)));
    assert_eq!((map.get_committed("a"), map.get_committed("b"), map.get_committed("c")), (Some(&1), Some(&1), None));
    assert_eq!(committed(&map), [("a", 1), ("b", 1)]);
    map.commit(Offset(3));
    assert_eq!(committed(&map), [("a", 2), ("b", 1)]);
    map.commit(Offset(5));
    assert_eq!(committed(&map), [("a", 3)]);
    map.commit(Offset(6));
    assert_eq!(committed(&map), [("a", 3), ("c", 1)]);
    assert_eq!(map.uncommitted(), 0);
}

#[test]
fn partitions_are_kafkas() {
    // As `String.hashCode` has it.
    assert_eq!(java_hash(""), 0);
    assert_eq!(
        java_hash("console-consumer-1"),
        "console-consumer-1".bytes().fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(i32::from(b)))
    );
    assert_eq!(java_hash("polygenelubricants"), i32::MIN);
    assert_eq!(partition_for("polygenelubricants", 50), 0, "the least number has no absolute value");
    assert_eq!(java_hash("€"), 0x20ac);
    assert_eq!(java_hash("𝄞"), 0xd834i32.wrapping_mul(31).wrapping_add(0xdd1e), "two units of UTF-16");
    assert_eq!((java_hash("g1"), partition_for("g1", 50)), (3242, 42));
    assert_eq!(partition_for("any", 0), 0);
}
