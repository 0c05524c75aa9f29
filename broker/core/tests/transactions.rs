//! The transaction coordinator by scripts (`tests/scripts/transactions/*.txt`): each line that is no output is a command,
//! and under it stands what comes of it. `UPDATE_EXPECT=1` rewrites the output.
//!
//! | output | |
//! | --- | --- |
//! | `= …` | an answer; with the number of the command where it comes later |
//! | `+ …` | a record that was appended, as a new leader would read it |
//! | `! …` | what the rest of the broker is to do |
//! | `# …` | a line for the operator |
//!
//! Lines with `//` are comments. What is appended is committed at once, except between `hold` and `release`.

// The scripts are files.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::{
    Append, AppendKind, Completion, CoordinatorLog, Runtime, RuntimeConfig, Shard as _, Ticket,
};
use odradek_broker_core::transaction::{
    NamedPartition, Producer, State, Transaction, TransactionConfig, TransactionEffect, TransactionQuery,
    TransactionRecord, TransactionRequest, TransactionResponse, TransactionShard, TransactionVersion, TwoPhase,
};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{ErrorCode, Offset, ProducerEpoch, ProducerId};
use odradek_records::{Batches, Compression};

#[path = "../src/coordinator/memory_log.rs"]
mod memory_log;
use memory_log::MemoryLog;

const RECORDS_BYTES_MAX: usize = 1 << 20;

struct Bench {
    runtime: Runtime<TransactionShard>,
    log: MemoryLog,
    rng: SplitMix64,
    now: Now,
    level: TransactionVersion,
    next_ticket: u64,
    next_producer: i64,
    is_held: bool,
    /// What of the log has been shown.
    shown: usize,
    out: String,
}

const START_MS: i64 = 1_000_000;

fn runtime(level: TransactionVersion) -> Runtime<TransactionShard> {
    let config = TransactionConfig {
        timeout_max_ms: 900_000,
        id_expiration_ms: 7_000_000,
        abort_timed_out_interval: Duration::from_secs(10),
        remove_expired_interval: Duration::from_secs(3600),
    };
    let runtime = RuntimeConfig {
        write_timeout: Duration::from_secs(5),
        batch_bytes_max: 1 << 20,
        compression: Compression::default(),
    };
    Runtime::new(TransactionShard::new(Arc::new(config), level), runtime)
}

impl Bench {
    fn new() -> Self {
        let level = TransactionVersion::V2;
        let mut bench = Self {
            runtime: runtime(level),
            log: MemoryLog::default(),
            rng: SplitMix64::new(1),
            now: Now { instant: Instant::default(), wall: Timestamp(START_MS) },
            level,
            next_ticket: 0,
            next_producer: 1000,
            is_held: false,
            shown: 0,
            out: String::new(),
        };
        bench.load();
        bench.out.clear();
        bench
    }

    fn load(&mut self) {
        self.runtime = runtime(self.level);
        for batch in self.log.batches.clone() {
            self.runtime.load(batch, RECORDS_BYTES_MAX).expect("a good log");
        }
        let end = Offset(self.log.end);
        let done = self.runtime.loaded(end, end, self.now, &mut self.rng, &mut self.log);
        self.show(done, None);
    }

    fn request(&mut self, request: impl Fn(Option<ProducerId>) -> TransactionRequest) {
        let mut fresh = None;
        loop {
            let ticket = Ticket(self.next_ticket);
            self.next_ticket += 1;
            let mut done = self.runtime.request(ticket, request(fresh), self.now, &mut self.rng, &mut self.log);
            // As the shell does: it asks again with an id.
            if fresh.is_none()
                && done.iter().any(|(of, answer)| *of == ticket && *answer == Ok(TransactionResponse::WantProducerId))
            {
                fresh = Some(ProducerId(self.next_producer));
                self.next_producer += 1;
                continue;
            }
            if !self.is_held {
                done.extend(self.commit());
            }
            return self.show(done, Some(ticket));
        }
    }

    fn commit(&mut self) -> Vec<Completion<TransactionShard>> {
        let end = Offset(self.log.end);
        self.runtime.on_high_watermark(end, self.now, &mut self.rng, &mut self.log)
    }

    fn show(&mut self, done: Vec<Completion<TransactionShard>>, own: Option<Ticket>) {
        let late = |ticket: Ticket| if Some(ticket) == own { String::new() } else { format!("({}) ", ticket.0) };
        for (ticket, answer) in done {
            let text = match answer {
                Ok(answer) => answer_text(&answer),
                Err(error) => error.to_string(),
            };
            let _ = writeln!(self.out, "= {}{text}", late(ticket));
        }
        for batch in self.log.batches[self.shown..].iter().cloned() {
            for batch in Batches::new(batch) {
                for record in batch.expect("a batch").records(RECORDS_BYTES_MAX).expect("records") {
                    let record = record.expect("a record");
                    let read = TransactionShard::decode(record.key, record.value).expect("a known record");
                    let _ = writeln!(self.out, "+ {}", record_text(&read));
                }
            }
        }
        self.shown = self.log.batches.len();
        for effect in self.runtime.take_effects() {
            let _ = writeln!(self.out, "! {}", effect_text(&effect));
        }
        for note in self.runtime.take_notes() {
            let _ = writeln!(self.out, "# {note}");
        }
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (command, rest) = words.split_first().expect("a command");
        let named: BTreeMap<&str, &str> = rest.iter().filter_map(|word| word.split_once('=')).collect();
        let plain: Vec<&str> = rest.iter().filter(|word| !word.contains('=')).copied().collect();
        let id = || -> Arc<str> { plain[0].into() };
        let version = match named.get("v") {
            Some(level) => TransactionVersion(level.parse().expect("a level")),
            None => self.level,
        };
        match *command {
            "level" => {
                self.level = TransactionVersion(plain[0].parse().expect("a level"));
                let level = self.level;
                self.request(|_| TransactionRequest::SetLevel(level));
            }
            "init" => {
                let timeout_ms = named.get("timeout").map_or(60_000, |text| text.parse().expect("milliseconds"));
                let expected = named.get("as").map(|text| producer(text));
                let two_phase = TwoPhase { enable: plain.contains(&"2pc"), keep_prepared: plain.contains(&"keep") };
                self.request(|fresh| TransactionRequest::Init { id: id(), timeout_ms, expected, two_phase, fresh });
            }
            "add" => {
                let patience = named.get("patience").map_or(0, |text| text.parse().expect("milliseconds"));
                self.request(|_| TransactionRequest::AddPartitions {
                    id: id(),
                    producer: producer(plain[1]),
                    partitions: partitions(&plain[2..]),
                    version,
                    patience: Duration::from_millis(patience),
                });
            }
            "verify" => self.request(|_| TransactionRequest::Verify {
                id: id(),
                producer: producer(plain[1]),
                partitions: partitions(&plain[2..]),
            }),
            "commit" | "abort" => self.request(|fresh| TransactionRequest::End {
                id: id(),
                producer: producer(plain[1]),
                is_commit: *command == "commit",
                version,
                fresh,
            }),
            "marked" => self.request(|_| TransactionRequest::Marked {
                id: id(),
                producer: producer(plain[1]),
                partitions: partitions(&plain[2..]),
            }),
            "abort-timed-out" => {
                let fresh = ProducerId(self.next_producer);
                self.next_producer += 1;
                self.request(|_| TransactionRequest::AbortTimedOut { id: id(), fresh });
            }
            "describe" => {
                let ids = plain.iter().map(|id| Arc::from(*id)).collect();
                self.query(TransactionQuery::Describe(ids));
            }
            "list" => {
                let list = |name: &str| named.get(name).map(|text| text.split(',').collect()).unwrap_or_default();
                let states: Vec<&str> = list("states");
                let producers: Vec<&str> = list("producers");
                self.query(TransactionQuery::List {
                    states: states.iter().map(|name| State::from_name(name).expect("a state")).collect(),
                    producers: producers.iter().map(|id| ProducerId(id.parse().expect("an id"))).collect(),
                    longer_than_ms: named.get("longer").map_or(-1, |text| text.parse().expect("milliseconds")),
                });
            }
            "wait" => {
                let ms: u64 = plain[0].parse().expect("milliseconds");
                self.now.instant = self.now.instant + Duration::from_millis(ms);
                self.now.wall.0 += ms as i64;
                let mut done = self.runtime.on_time(self.now, &mut self.rng, &mut self.log);
                if !self.is_held {
                    done.extend(self.commit());
                }
                self.show(done, None);
            }
            "hold" => self.is_held = true,
            "release" => {
                self.is_held = false;
                let done = self.commit();
                self.show(done, None);
            }
            "refuse" => {
                self.log.refuse = Some(match plain[0] {
                    "NOT_ENOUGH_REPLICAS" => ErrorCode::NotEnoughReplicas,
                    "NOT_LEADER_OR_FOLLOWER" => ErrorCode::NotLeaderOrFollower,
                    other => panic!("no such refusal: {other}"),
                })
            }
            "accept" => self.log.refuse = None,
            "failover" => self.load(),
            "epoch" => self.set_epoch(plain[0], plain[1].parse().expect("an epoch")),
            other => panic!("no such command: {other}"),
        }
    }

    fn query(&mut self, query: TransactionQuery) {
        let answer = self.runtime.query(query, self.now);
        let _ = writeln!(self.out, "= {}", answer_text(&answer));
    }

    /// As if the id had been through that many epochs: a record in the log, and a new leader.
    fn set_epoch(&mut self, id: &str, epoch: i16) {
        let found = self.runtime.shard().transaction(id).cloned().expect("an id");
        let transaction = Some(Transaction { epoch: ProducerEpoch(epoch), ..found });
        let (key, value) =
            TransactionShard::encode(&TransactionRecord { id: id.into(), transaction, format: 1 }).expect("small");
        let mut builder = odradek_records::RecordBatchBuilder::new();
        builder.append(self.now.wall, Some(&key), value.as_deref());
        let batch = builder.build().expect("small");
        self.log.append(Append { batch, records: 1, kind: AppendKind::Records }).expect("an open log");
        self.load();
    }
}

fn producer(text: &str) -> Producer {
    let (id, epoch) = text.split_once('/').expect("ID/EPOCH");
    Producer { id: ProducerId(id.parse().expect("an id")), epoch: ProducerEpoch(epoch.parse().expect("an epoch")) }
}

fn partitions(words: &[&str]) -> Vec<NamedPartition> {
    let parse = |word: &&str| {
        let (topic, index) = word.rsplit_once('-').expect("TOPIC-PARTITION");
        (Arc::from(topic), index.parse().expect("a partition"))
    };
    words.iter().map(parse).collect()
}

fn partitions_text<'a>(partitions: impl IntoIterator<Item = &'a NamedPartition>) -> String {
    let names: Vec<String> = partitions.into_iter().map(|(topic, index)| format!("{topic}-{index}")).collect();
    format!("[{}]", names.join(" "))
}

fn answer_text(answer: &TransactionResponse) -> String {
    match answer {
        TransactionResponse::Producer(producer) => format!("{}/{}", producer.id, producer.epoch),
        TransactionResponse::TookOver { producer, ongoing } => {
            format!("{}/{} to end {}/{}", producer.id, producer.epoch, ongoing.id, ongoing.epoch)
        }
        TransactionResponse::WantProducerId => "wants a producer id".to_owned(),
        TransactionResponse::Verified(verified) => {
            let all: Vec<String> =
                verified.iter().map(|((topic, index), error)| format!("{topic}-{index} {error}")).collect();
            all.join(", ")
        }
        TransactionResponse::Described(all) => {
            let text = |one: &odradek_wire::describe_transactions_response::TransactionState| {
                let error = ErrorCode::from_code(one.error_code);
                if error.is_error() {
                    return format!("{} {error}", one.transactional_id);
                }
                let topics = one.topics.iter().map(|topic| format!("{}{:?}", topic.topic, topic.partitions));
                format!(
                    "{} {} {}/{} timeout={} started={} {}",
                    one.transactional_id,
                    one.transaction_state,
                    one.producer_id,
                    one.producer_epoch,
                    one.transaction_timeout_ms,
                    one.transaction_start_time_ms,
                    topics.collect::<Vec<_>>().join(" ")
                )
            };
            all.iter().map(text).collect::<Vec<_>>().join(", ").trim_end().to_owned()
        }
        TransactionResponse::Listed(all) => {
            let mut all: Vec<String> = (all.iter())
                .map(|one| format!("{} {} {}", one.transactional_id, one.producer_id, one.transaction_state))
                .collect();
            all.sort();
            format!("[{}]", all.join(", "))
        }
        TransactionResponse::Done => "done".to_owned(),
    }
}

fn record_text(record: &TransactionRecord) -> String {
    let id = &record.id;
    let Some(transaction) = &record.transaction else { return format!("{id} forgotten") };
    let mut text = format!(
        "{id} {} {}/{} {} timeout={} started={} updated={} v{}",
        transaction.state.name(),
        transaction.producer,
        transaction.epoch,
        partitions_text(&*transaction.partitions),
        transaction.timeout_ms,
        transaction.started_ms,
        transaction.updated_ms,
        transaction.version.0
    );
    let (before, next) = (transaction.previous_producer, transaction.next_producer);
    if before.0 != -1 && before != transaction.producer {
        let _ = write!(text, " before={before}");
    }
    match transaction.next_epoch.0 {
        -1 if next.0 == -1 || next == transaction.producer => {}
        -1 => _ = write!(text, " next={next}"),
        epoch => _ = write!(text, " next={next}/{epoch}"),
    }
    if record.format != 1 {
        let _ = write!(text, " format={}", record.format);
    }
    text
}

fn effect_text(effect: &TransactionEffect) -> String {
    match effect {
        TransactionEffect::SendMarkers(markers) => format!(
            "{} {} {}/{} v{} decided at {} to {}",
            if markers.is_commit { "commit" } else { "abort" },
            markers.id,
            markers.producer.id,
            markers.producer.epoch,
            markers.version.0,
            markers.decided,
            partitions_text(&*markers.partitions)
        ),
        TransactionEffect::WantProducerId(id) => format!("{id} wants a producer id"),
    }
}

fn is_output(line: &str) -> bool {
    line.starts_with(['=', '+', '!', '#'])
}

#[test]
fn scripts() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/transactions");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("scripts").map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut wrong = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script");
        let mut found = String::new();
        let mut bench = Bench::new();
        for line in script.lines().filter(|line| !is_output(line)) {
            // A line of dashes begins anew.
            if line.starts_with("---") {
                bench = Bench::new();
            } else if !line.trim().is_empty() && !line.starts_with("//") {
                bench.run(line);
            }
            let _ = writeln!(found, "{line}");
            found.push_str(&std::mem::take(&mut bench.out));
        }
        if found != script {
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                std::fs::write(&path, found).expect("written");
            } else {
                wrong.push(format!("{}:\n{found}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 rewrites\n{}", wrong.join("\n"));
}
