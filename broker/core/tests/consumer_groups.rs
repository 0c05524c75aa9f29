//! Consumer groups (KIP-848) by scripts (`tests/scripts/consumer_groups/*.txt`): each line that is no output is a command,
//! and under it stands what comes of it. `UPDATE_EXPECT=1` rewrites the output.
//!
//! | output | |
//! | --- | --- |
//! | `= …` | an answer; with the number of the command where it comes later |
//! | `+ …` | a record that was appended, as a new leader would read it |
//! | `# …` | a line for the operator |
//!
//! Lines with `//` are comments. What is appended is committed at once, except between `hold` and `release`. After every
//! command it is checked that no partition has two owners, and that a new leader would know the same of all groups.

// The scripts are files.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_broker_core::coordinator::{
    Append, Completion, CoordinatorLog, Runtime, RuntimeConfig, Shard as _, Ticket,
};
use odradek_broker_core::group::consumer::{
    Assigned, Assignor, Bounded, ConsumerConfig, ConsumerRecord, MemberState, MigrationPolicy, Partitions,
};
use odradek_broker_core::group::{
    GroupClient, GroupConfig, GroupQuery, GroupRecord, GroupRequest, GroupResponse, GroupShard, History,
};
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{ErrorCode, Offset, TopicId, Uuid};
use odradek_metadata::Image;
use odradek_metadata::proto::{self, record::Kind};
use odradek_records::{Batches, Compression};
use odradek_wire::consumer_group_describe_response::{Assignment, DescribedGroup};
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::leave_group_request::MemberIdentity;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use odradek_wire::offset_fetch_request::OffsetFetchRequestGroup;
use odradek_wire::{
    ConsumerGroupHeartbeatRequest, ConsumerProtocolAssignment, ConsumerProtocolSubscription, HeartbeatRequest,
    JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetDeleteRequest, Str, SyncGroupRequest,
    decode_versioned_up_to, encode_versioned,
};

#[path = "../src/coordinator/memory_log.rs"]
mod memory_log;
use memory_log::MemoryLog;
#[path = "consumer_groups/random.rs"]
mod random;

const RECORDS_BYTES_MAX: usize = 1 << 20;
const START_MS: i64 = 1_000_000;

fn config() -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay_ms: 0,
        session_timeout_min_ms: 1_000,
        session_timeout_max_ms: 60_000,
        size_max: 4,
        metadata_max: 100,
        retention_ms: 1_000_000,
        journal_entries_max: 32,
        journal_bytes_max: 16_384,
        retention_check_interval: Duration::from_secs(600),
        consumer: ConsumerConfig {
            assignors: Assignor::ALL.to_vec(),
            session_timeout: Bounded { value_ms: 45_000, min_ms: 40_000, max_ms: 60_000 },
            heartbeat_interval: Bounded { value_ms: 5_000, min_ms: 5_000, max_ms: 15_000 },
            assignment_interval: Bounded { value_ms: 0, min_ms: 0, max_ms: 15_000 },
            size_max: 4,
            migration: MigrationPolicy::Bidirectional,
            regex_refresh_interval_ms: 600_000,
        },
    }
}

/// An entry a line, and under it its causes and moves.
fn history_text(history: &History) -> String {
    let name = |id: &Option<Arc<str>>| id.as_deref().unwrap_or("nobody").to_owned();
    let mut lines = vec![format!("since {} without {}", history.since_ms, history.dropped)];
    for entry in &history.entries {
        lines.push(format!(
            "{}: {} -> {} {} after {}ms, {} moved",
            entry.at_ms,
            entry.from_epoch,
            entry.to_epoch,
            entry.outcome.name(),
            entry.took_ms,
            entry.moved
        ));
        for cause in &entry.causes {
            let mut text = format!("  {}", cause.why.name());
            if cause.member.is_some() {
                let _ = write!(text, " {} of {}", name(&cause.member), cause.client_id);
            }
            if let Some(instance_id) = &cause.instance_id {
                let _ = write!(text, " instance={instance_id}");
            }
            if !cause.detail.is_empty() {
                let _ = write!(text, ": {}", cause.detail);
            }
            lines.push(text);
        }
        if entry.causes_left_out > 0 {
            lines.push(format!("  and {} more", entry.causes_left_out));
        }
        for one in &entry.moves {
            let partitions: Vec<String> = one.partitions.iter().map(i32::to_string).collect();
            let (from, to) = (name(&one.from), name(&one.to));
            lines.push(format!("  {}:{} from {from} to {to}", one.topic, partitions.join(",")));
        }
    }
    lines.join("\n= ")
}

struct Bench {
    config: GroupConfig,
    runtime: Runtime<GroupShard>,
    log: MemoryLog,
    rng: SplitMix64,
    now: Now,
    image: Image,
    next_topic: u8,
    next_ticket: u64,
    is_held: bool,
    shown: usize,
    /// Ids that the coordinator has given to members of the classic kind: `$1`, `$2`, ... in commands.
    learned: Vec<String>,
    out: String,
}

/// The words of a command, and those with an equals sign.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (mut plain, mut named) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => {
                    named.insert(name, value);
                }
                None => plain.push(word),
            }
        }
        Self { plain, named }
    }

    fn word(&self, n: usize) -> &'a str {
        self.plain.get(n).copied().unwrap_or_else(|| panic!("word {n} is missing in {:?}", self.plain))
    }

    fn number<T: std::str::FromStr>(&self, n: usize) -> T {
        self.word(n).parse().unwrap_or_else(|_| panic!("{} is no number", self.word(n)))
    }

    fn named_number<T: std::str::FromStr>(&self, name: &str, default: T) -> T {
        self.named.get(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }

    fn text(&self, name: &str) -> Option<Str> {
        self.named.get(name).map(|value| Str::from(if *value == "-" { "" } else { value }))
    }

    fn group(&self) -> Str {
        self.text("group").unwrap_or_else(|| "g".into())
    }

    fn client(&self) -> GroupClient {
        GroupClient {
            client_id: self.named.get("client").copied().unwrap_or("app").to_owned(),
            host: "/127.0.0.1".to_owned(),
            api_version: self.named_number("version", 1),
        }
    }
}

fn runtime(config: &GroupConfig, image: &Image) -> Runtime<GroupShard> {
    let runtime = RuntimeConfig {
        write_timeout: Duration::from_secs(5),
        batch_bytes_max: 1 << 20,
        compression: Compression::default(),
    };
    Runtime::new(GroupShard::new(Arc::new(config.clone()), START_MS, Arc::new(image.clone())), runtime)
}

impl Bench {
    fn new() -> Self {
        let image = Image::new();
        let config = config();
        let mut bench = Self {
            runtime: runtime(&config, &image),
            config,
            log: MemoryLog::default(),
            rng: SplitMix64::new(1),
            now: Now { instant: Instant::default(), wall: Timestamp(START_MS) },
            image,
            next_topic: 1,
            next_ticket: 0,
            is_held: false,
            shown: 0,
            learned: Vec::new(),
            out: String::new(),
        };
        bench.load();
        bench.out.clear();
        bench
    }

    fn load(&mut self) {
        self.runtime = self.loaded();
        let end = Offset(self.log.end);
        let done = self.runtime.loaded(end, end, self.now, &mut self.rng, &mut self.log);
        self.show(done, None);
    }

    fn loaded(&self) -> Runtime<GroupShard> {
        let mut runtime = runtime(&self.config, &self.image);
        for batch in self.log.batches.clone() {
            runtime.load(batch, RECORDS_BYTES_MAX).expect("a good log");
        }
        assert_eq!(runtime.skipped().count(), 0, "records that cannot be read");
        runtime
    }

    fn request(&mut self, request: GroupRequest) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let refusal = request.refusal(&self.config).map(|refusal| (ticket, Ok(refusal)));
        let mut done = match refusal {
            Some(refusal) => vec![refusal],
            None => self.runtime.request(ticket, request, self.now, &mut self.rng, &mut self.log),
        };
        done.extend(self.commit());
        // What is due at once, as the driver's task would come to do it.
        let due = self.runtime.on_time(self.now, &mut self.rng, &mut self.log);
        done.extend(due);
        done.extend(self.commit());
        self.show(done, Some(ticket));
    }

    fn commit(&mut self) -> Vec<Completion<GroupShard>> {
        if self.is_held {
            return Vec::new();
        }
        let end = Offset(self.log.end);
        self.runtime.on_high_watermark(end, self.now, &mut self.rng, &mut self.log)
    }

    fn name(&self, topic: TopicId) -> String {
        self.image.topic(topic).map_or_else(|| format!("gone{}", topic.0[0]), |topic| topic.name.to_string())
    }

    fn partitions(&self, partitions: impl IntoIterator<Item = (TopicId, Vec<String>)>) -> String {
        let topics =
            partitions.into_iter().map(|(topic, indexes)| format!("{}:{}", self.name(topic), indexes.join(",")));
        format!("[{}]", topics.collect::<Vec<_>>().join(" "))
    }

    fn targets(&self, partitions: &Partitions) -> String {
        self.partitions(partitions.iter().map(|(topic, of)| (*topic, of.iter().map(i32::to_string).collect())))
    }

    fn assigned(&self, partitions: &Assigned) -> String {
        let with_epoch = |(index, epoch): (&i32, &i32)| format!("{index}@{epoch}");
        self.partitions(partitions.iter().map(|(topic, of)| (*topic, of.iter().map(with_epoch).collect())))
    }

    fn show(&mut self, done: Vec<Completion<GroupShard>>, own: Option<Ticket>) {
        let late = |ticket: Ticket| if Some(ticket) == own { String::new() } else { format!("({}) ", ticket.0) };
        for (ticket, answer) in done {
            if let Ok(GroupResponse::Join(response)) = &answer
                && !response.member_id.is_empty()
                && !self.learned.iter().any(|id| response.member_id == *id)
            {
                self.learned.push(response.member_id.to_string());
            }
            let text = match answer {
                Ok(answer) => self.answer_text(answer),
                Err(error) => error.to_string(),
            };
            let _ = writeln!(self.out, "= {}{text}", late(ticket));
        }
        let batches = self.log.batches.split_off(self.shown.min(self.log.batches.len()));
        for batch in &batches {
            for batch in Batches::new(batch.clone()) {
                for record in batch.expect("a batch").records(RECORDS_BYTES_MAX).expect("records") {
                    let record = record.expect("a record");
                    let read = GroupShard::decode(record.key, record.value).expect("a known record");
                    let line = self.record_text(&read);
                    let _ = writeln!(self.out, "+ {line}");
                }
            }
        }
        self.log.batches.extend(batches);
        self.shown = self.log.batches.len();
        for note in self.runtime.take_notes() {
            let _ = writeln!(self.out, "# {note}");
        }
    }

    fn record_text(&self, record: &GroupRecord) -> String {
        let (group, record) = match record {
            GroupRecord::Offset(key, value) => {
                let value = value.as_ref().map_or("gone".to_owned(), |value| value.offset.to_string());
                return format!("{} offset {}-{} {value}", key.group, key.topic, key.partition);
            }
            GroupRecord::Group(group, None) => return format!("{group} classic gone"),
            GroupRecord::Group(group, Some(metadata)) => {
                let members = metadata
                    .members
                    .iter()
                    .map(|member| format!("{} {}", member.id, self.classic_assignment(member.assignment.clone())));
                return format!(
                    "{group} classic generation={} protocol={} leader={} [{}]",
                    metadata.generation,
                    metadata.protocol.as_deref().unwrap_or("-"),
                    metadata.leader.as_deref().unwrap_or("-"),
                    members.collect::<Vec<_>>().join(", ")
                );
            }
            GroupRecord::Consumer(group, record) => (group, record),
        };
        let state = |state: MemberState| format!("{state:?}");
        let what = match record {
            ConsumerRecord::Group(None) => "epoch gone".to_owned(),
            ConsumerRecord::Group(Some(epoch)) => {
                format!("epoch {} #{:04x}", epoch.epoch, epoch.metadata_hash as u16)
            }
            ConsumerRecord::PartitionMetadata { .. } => "partition metadata gone".to_owned(),
            ConsumerRecord::Member(id, None) => format!("member {id} gone"),
            ConsumerRecord::Member(id, Some(info)) => {
                let topics: Vec<&str> = info.topics.iter().map(|topic| &**topic).collect();
                let mut text = format!("member {id} topics={}", topics.join(","));
                let optional = [
                    ("regex", Some(&info.regex).filter(|regex| !regex.is_empty())),
                    ("instance", info.instance_id.as_ref()),
                    ("rack", info.rack_id.as_ref()),
                    ("assignor", info.assignor.as_ref()),
                ];
                for (name, value) in optional {
                    if let Some(value) = value {
                        let _ = write!(text, " {name}={value}");
                    }
                }
                if let Some(classic) = &info.classic {
                    let names: Vec<&str> = classic.protocols.iter().map(|(name, _)| &**name).collect();
                    let _ = write!(text, " classic={}", names.join(","));
                }
                format!("{text} rebalance={}", info.rebalance_timeout_ms)
            }
            ConsumerRecord::Target(None) => "target gone".to_owned(),
            ConsumerRecord::Target(Some(epoch)) => format!("target epoch {} at {}", epoch.epoch, epoch.timestamp),
            ConsumerRecord::TargetMember(id, None) => format!("target {id} gone"),
            ConsumerRecord::TargetMember(id, Some(partitions)) => format!("target {id} {}", self.targets(partitions)),
            ConsumerRecord::Current(id, None) => format!("current {id} gone"),
            ConsumerRecord::Current(id, Some(current)) => {
                let mut text = format!(
                    "current {id} {}<-{} {} {}",
                    current.epoch,
                    current.previous_epoch,
                    state(current.state),
                    self.assigned(&current.assigned)
                );
                if !current.revoking.is_empty() {
                    let _ = write!(text, " revoking {}", self.assigned(&current.revoking));
                }
                text
            }
            ConsumerRecord::Regex(regex, None) => format!("regex {regex} gone"),
            ConsumerRecord::Regex(regex, Some(resolved)) => {
                let topics: Vec<&str> = resolved.topics.iter().map(|topic| &**topic).collect();
                format!("regex {regex} topics={} version={}", topics.join(","), resolved.version)
            }
        };
        format!("{group} {what}")
    }

    fn classic_assignment(&self, assignment: Bytes) -> String {
        if assignment.is_empty() {
            return "[]".to_owned();
        }
        let Ok((_, assignment)) = decode_versioned_up_to::<ConsumerProtocolAssignment>(assignment) else {
            return "[?]".to_owned();
        };
        let topics = assignment.assigned_partitions.iter().map(|topic| {
            let partitions: Vec<String> = topic.partitions.iter().map(i32::to_string).collect();
            format!("{}:{}", topic.topic, partitions.join(","))
        });
        let mut topics: Vec<String> = topics.collect();
        topics.sort();
        format!("[{}]", topics.join(" "))
    }

    fn answer_text(&self, answer: GroupResponse) -> String {
        let error = |code: i16| ErrorCode::from_code(code);
        match answer {
            GroupResponse::ConsumerHeartbeat(response) if response.error_code != 0 => {
                format!("{} {}", error(response.error_code), response.error_message.unwrap_or_default())
            }
            GroupResponse::ConsumerHeartbeat(response) => {
                let assignment = response.assignment.map(|assignment| {
                    let topics = assignment.topic_partitions.iter();
                    self.partitions(
                        topics.map(|topic| (topic.topic_id, topic.partitions.iter().map(i32::to_string).collect())),
                    )
                });
                format!(
                    "{}@{} {}{}",
                    response.member_id.unwrap_or_default(),
                    response.member_epoch,
                    if response.heartbeat_interval_ms == 5_000 {
                        String::new()
                    } else {
                        format!("every {}ms ", response.heartbeat_interval_ms)
                    },
                    assignment.unwrap_or_else(|| "as before".to_owned())
                )
            }
            GroupResponse::ConsumerDescribe(groups) => {
                groups.iter().map(|group| self.described_text(group)).collect::<Vec<_>>().join("\n= ")
            }
            GroupResponse::Commit(response) => {
                let partitions = response.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        format!("{}-{} {}", topic.name, partition.partition_index, error(partition.error_code))
                    })
                });
                partitions.collect::<Vec<_>>().join(", ")
            }
            GroupResponse::Fetch(response) => {
                let partitions = response.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        format!("{}-{}:{}", topic.name, partition.partition_index, partition.committed_offset)
                    })
                });
                format!("{} {}", error(response.error_code), partitions.collect::<Vec<_>>().join(" "))
            }
            GroupResponse::List(groups) => {
                let groups = groups.iter().map(|group| {
                    format!("{} {} {} {}", group.group_id, group.group_type, group.protocol_type, group.group_state)
                });
                format!("[{}]", groups.collect::<Vec<_>>().join(", "))
            }
            GroupResponse::Describe(groups) => {
                let groups = groups.iter().map(|group| {
                    let message = group.error_message.as_deref().unwrap_or_default();
                    format!("{} {} {}", group.group_id, group.group_state, message)
                });
                groups.collect::<Vec<_>>().join(", ")
            }
            GroupResponse::Delete(results) => {
                let results = results.iter().map(|result| format!("{} {}", result.group_id, error(result.error_code)));
                results.collect::<Vec<_>>().join(", ")
            }
            GroupResponse::DeleteOffsets(response) => {
                let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
                let partitions = partitions.map(|partition| error(partition.error_code).to_string());
                format!("{} {}", error(response.error_code), partitions.collect::<Vec<_>>().join(" "))
            }
            GroupResponse::Join(response) => format!(
                "{} {} generation={} protocol={} leader={} members={}",
                error(response.error_code),
                response.member_id,
                response.generation_id,
                response.protocol_name.as_deref().unwrap_or("-"),
                response.leader,
                response.members.len()
            ),
            GroupResponse::Sync(response) => {
                format!("{} {}", error(response.error_code), self.classic_assignment(response.assignment))
            }
            GroupResponse::Heartbeat(response) => error(response.error_code).to_string(),
            GroupResponse::Leave(response) => {
                let members = response.members.iter();
                let members = members.map(|member| format!("{} {}", member.member_id, error(member.error_code)));
                format!("{} [{}]", error(response.error_code), members.collect::<Vec<_>>().join(", "))
            }
            GroupResponse::History(None) => "there is no such group".to_owned(),
            GroupResponse::History(Some(history)) => history_text(&history),
            GroupResponse::Committed(offsets) => {
                let offsets = offsets
                    .iter()
                    .map(|(key, offset)| format!("{} {}-{}:{offset}", key.group, key.topic, key.partition));
                offsets.collect::<Vec<_>>().join(", ")
            }
            GroupResponse::Done => "done".to_owned(),
        }
    }

    fn described_text(&self, group: &DescribedGroup) -> String {
        if group.error_code != 0 {
            let message = group.error_message.as_deref().unwrap_or_default();
            return format!("{} {} {message}", group.group_id, ErrorCode::from_code(group.error_code));
        }
        let assignment = |assignment: &Assignment| {
            let topics = assignment.topic_partitions.iter();
            self.partitions(topics.map(|topic| {
                let mut partitions = topic.partitions.clone();
                partitions.sort_unstable();
                (topic.topic_id, partitions.iter().map(i32::to_string).collect())
            }))
        };
        let members = group.members.iter().map(|member| {
            format!(
                "{}@{}{} has {} of {}",
                member.member_id,
                member.member_epoch,
                if member.member_type == 0 { " classic" } else { "" },
                assignment(&member.assignment),
                assignment(&member.target_assignment)
            )
        });
        format!(
            "{} {} epoch={} target={} {} {{{}}}",
            group.group_id,
            group.group_state,
            group.group_epoch,
            group.assignment_epoch,
            group.assignor_name,
            members.collect::<Vec<_>>().join("; ")
        )
    }

    // ---- the cluster ----

    fn topic(&self, name: &str) -> TopicId {
        self.image.topic_id(name).unwrap_or_else(|| panic!("there is no topic {name}"))
    }

    /// Changes the image, and tells the shard.
    fn change(&mut self, records: Vec<Kind>, name: &str, has_new: bool) {
        let records: Vec<_> = records.into_iter().map(|kind| proto::Record { kind: Some(kind) }).collect();
        let offset = self.image.offset() + 1;
        self.image.apply_records(&records, offset).expect("good records");
        let names = Arc::new(BTreeSet::<Arc<str>>::from([name.into()]));
        let image = Arc::new(self.image.clone());
        let request = GroupRequest::TopicsChanged { image, names, has_new };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let done = self.runtime.request(ticket, request, self.now, &mut self.rng, &mut self.log);
        assert_eq!(done, vec![(ticket, Ok(GroupResponse::Done))]);
    }

    fn partition_records(&self, id: TopicId, range: std::ops::Range<i32>) -> Vec<Kind> {
        let record = |partition| {
            Kind::Partition(proto::PartitionRecord {
                topic_id: id.0.to_vec(),
                partition,
                replicas: vec![1],
                isr: vec![1],
                leader: 1,
                ..Default::default()
            })
        };
        range.map(record).collect()
    }

    /// `t:0,1/u:2`; `-` is none.
    fn owned(&self, text: &str) -> Vec<TopicPartitions> {
        let topics = text.split('/').filter(|topic| *topic != "-");
        let topics = topics.map(|topic| {
            let (name, partitions) = topic.split_once(':').expect("a topic with partitions");
            TopicPartitions {
                topic_id: self.topic(name),
                partitions: partitions.split(',').map(|partition| partition.parse().expect("a partition")).collect(),
                ..Default::default()
            }
        });
        topics.collect()
    }

    fn beat(&mut self, words: &Words<'_>, member: &str, epoch: i32) {
        let joins = epoch == 0 && !words.named.contains_key("partial");
        let names = words.named.get("topics").or_else(|| words.plain.get(2).filter(|_| joins));
        let list = |names: &&str| names.split(',').filter(|name| *name != "-").map(Str::from).collect();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: words.group(),
            member_id: if member == "-" { "".into() } else { member.into() },
            member_epoch: epoch,
            instance_id: words.text("instance"),
            rack_id: words.text("rack"),
            rebalance_timeout_ms: words.named_number("rebalance", if joins { 30_000 } else { -1 }),
            subscribed_topic_names: names.map(list),
            subscribed_topic_regex: words.text("regex"),
            server_assignor: words.text("assignor"),
            topic_partitions: match words.named.get("owned") {
                Some(owned) => Some(self.owned(owned)),
                None => joins.then(Vec::new),
            },
            ..Default::default()
        };
        let image = Arc::new(self.image.clone());
        self.request(GroupRequest::ConsumerHeartbeat(words.client(), image, request));
    }

    fn commit_offsets(&mut self, words: &Words<'_>) {
        let (topic, partition) = words.word(3).rsplit_once('-').expect("topic-partition");
        let topic_id = self.image.topic_id(topic).unwrap_or_default();
        let partition = OffsetCommitRequestPartition {
            partition_index: partition.parse().expect("a partition"),
            committed_offset: words.named_number("offset", 7),
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: words.group(),
            generation_id_or_member_epoch: words.number(2),
            member_id: if words.word(1) == "-" { "".into() } else { words.word(1).into() },
            group_instance_id: words.text("instance"),
            retention_time_ms: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: topic.into(),
                topic_id,
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        let client = GroupClient { api_version: words.named_number("version", 10), ..words.client() };
        self.request(GroupRequest::Commit(client, request));
    }

    // ---- the classic protocol ----

    /// `classic-join a range:t,u`, with `owned=t:0/u:1` in generation `owned-in=3`.
    fn classic_join(&mut self, words: &Words<'_>) {
        let offers = words.plain.get(2).copied().unwrap_or("range:t");
        let protocols = offers.split('/').map(|offer| {
            let (name, topics) = offer.split_once(':').expect("protocol:topics");
            let owned = words.named.get("owned").map(|owned| self.owned(owned)).unwrap_or_default();
            let subscription = ConsumerProtocolSubscription {
                topics: topics.split(',').map(Str::from).collect(),
                owned_partitions: (owned.iter())
                    .map(|topic| odradek_wire::consumer_protocol_subscription::TopicPartition {
                        topic: self.name(topic.topic_id).into(),
                        partitions: topic.partitions.clone(),
                    })
                    .collect(),
                generation_id: words.named_number("owned-in", -1),
                ..Default::default()
            };
            JoinGroupRequestProtocol {
                name: name.into(),
                metadata: encode_versioned(&subscription, 3).expect("encoded"),
                ..Default::default()
            }
        });
        let request = JoinGroupRequest {
            group_id: words.group(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
            member_id: if words.word(1) == "-" { "".into() } else { words.word(1).into() },
            group_instance_id: words.text("instance"),
            protocol_type: words.text("type").unwrap_or_else(|| "consumer".into()),
            protocols: protocols.collect(),
            ..Default::default()
        };
        let client = GroupClient { api_version: words.named_number("version", 9), ..words.client() };
        self.request(GroupRequest::Join(client, request));
    }

    /// `classic-sync a 1 a=t:0 b=t:1`
    fn classic_sync(&mut self, words: &Words<'_>) {
        let others = ["group", "instance"];
        let assignments = words.named.iter().filter(|(name, _)| !others.contains(name));
        let assignments = assignments.map(|(member, owned)| {
            let topics = self.owned(owned);
            let assignment = ConsumerProtocolAssignment {
                assigned_partitions: (topics.iter())
                    .map(|topic| odradek_wire::consumer_protocol_assignment::TopicPartition {
                        topic: self.name(topic.topic_id).into(),
                        partitions: topic.partitions.clone(),
                    })
                    .collect(),
                ..Default::default()
            };
            odradek_wire::sync_group_request::SyncGroupRequestAssignment {
                member_id: Str::from(*member),
                assignment: encode_versioned(&assignment, 3).expect("encoded"),
                ..Default::default()
            }
        });
        let request = SyncGroupRequest {
            group_id: words.group(),
            generation_id: words.number(2),
            member_id: words.word(1).into(),
            group_instance_id: words.text("instance"),
            protocol_type: Some("consumer".into()),
            protocol_name: Some("range".into()),
            assignments: assignments.collect(),
            ..Default::default()
        };
        self.request(GroupRequest::Sync(request));
    }

    // ---- one command ----

    fn run(&mut self, line: &str) {
        let words = Words::of(line);
        match words.word(0) {
            "topic" => {
                let id = Uuid([self.next_topic; 16]);
                self.next_topic += 1;
                let name = words.word(1);
                let head = Kind::Topic(proto::TopicRecord { name: name.to_owned(), topic_id: id.0.to_vec() });
                let partitions = self.partition_records(id, 0..words.number(2));
                self.change([vec![head], partitions].concat(), name, true);
            }
            "grow" => {
                let id = self.topic(words.word(1));
                let from = self.image.topic(id).map_or(0, |topic| topic.partition_count());
                let records = self.partition_records(id, from..words.number(2));
                self.change(records, words.word(1), false);
            }
            "drop" => {
                let topic_id = self.topic(words.word(1)).0.to_vec();
                let record = Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id });
                self.change(vec![record], words.word(1), false);
            }
            "config" => {
                let record = Kind::Config(proto::ConfigRecord {
                    resource_type: 32,
                    resource_name: "g".to_owned(),
                    name: words.word(1).to_owned(),
                    value: Some(words.word(2).to_owned()),
                });
                self.change(vec![record], "", false);
            }
            "policy" => {
                self.config.consumer.migration = match words.word(1) {
                    "bidirectional" => MigrationPolicy::Bidirectional,
                    "upgrade" => MigrationPolicy::Upgrade,
                    "downgrade" => MigrationPolicy::Downgrade,
                    _ => MigrationPolicy::Disabled,
                };
                self.load();
            }
            "interval" => {
                self.config.consumer.assignment_interval.value_ms = words.number(1);
                self.load();
            }
            "join" => self.beat(&words, words.word(1), 0),
            "beat" => self.beat(&words, words.word(1), words.number(2)),
            "leave" => self.beat(&words, words.word(1), -1),
            "away" => self.beat(&words, words.word(1), -2),
            "commit" => self.commit_offsets(&words),
            "fetch" => {
                let request = OffsetFetchRequestGroup {
                    group_id: words.group(),
                    member_id: (words.word(1) != "-").then(|| words.word(1).into()),
                    member_epoch: words.number(2),
                    topics: None,
                    ..Default::default()
                };
                let answer = self.runtime.query(GroupQuery::Fetch(request), self.now);
                let text = self.answer_text(answer);
                let _ = writeln!(self.out, "= {text}");
            }
            "describe" => {
                let ids = match words.plain.len() {
                    1 => vec!["g".into()],
                    _ => words.plain[1..].iter().map(|id| Str::from(*id)).collect(),
                };
                self.request(GroupRequest::ConsumerDescribe(ids));
            }
            "history" => {
                let group = words.plain.get(1).map_or("g".into(), |id| Str::from(*id));
                self.request(GroupRequest::History(group));
            }
            "journal" => {
                self.config.journal_entries_max = words.named_number("entries", 32);
                self.config.journal_bytes_max = words.named_number("bytes", 16_384);
                self.load();
            }
            "journals" => {
                let _ = writeln!(self.out, "= {} groups have one", self.runtime.shard().journal_count());
            }
            "all-committed" => {
                let answer = self.runtime.query(GroupQuery::Committed, self.now);
                let text = self.answer_text(answer);
                let _ = writeln!(self.out, "= {text}");
            }
            "list" | "classic-describe" => {
                let list = |name: &str| words.named.get(name).map_or_else(Vec::new, |value| vec![Str::from(*value)]);
                let query = match words.word(0) {
                    "list" => GroupQuery::List { states: list("state"), types: list("type") },
                    _ => GroupQuery::Describe {
                        groups: vec![words.group()],
                        api_version: words.named_number("version", 6),
                    },
                };
                let answer = self.runtime.query(query, self.now);
                let text = self.answer_text(answer);
                let _ = writeln!(self.out, "= {text}");
            }
            "delete" => self.request(GroupRequest::Delete(vec![words.word(1).into()])),
            "delete-offset" => {
                let (topic, partition) = words.word(1).rsplit_once('-').expect("topic-partition");
                let request = OffsetDeleteRequest {
                    group_id: words.group(),
                    topics: vec![OffsetDeleteRequestTopic {
                        name: topic.into(),
                        partitions: vec![OffsetDeleteRequestPartition {
                            partition_index: partition.parse().expect("a partition"),
                        }],
                    }],
                };
                self.request(GroupRequest::DeleteOffsets(request));
            }
            "classic-join" => self.classic_join(&words),
            "classic-sync" => self.classic_sync(&words),
            "classic-beat" => {
                let request = HeartbeatRequest {
                    group_id: words.group(),
                    generation_id: words.number(2),
                    member_id: words.word(1).into(),
                    group_instance_id: words.text("instance"),
                    ..Default::default()
                };
                self.request(GroupRequest::Heartbeat(request));
            }
            "classic-leave" => {
                let members = vec![MemberIdentity {
                    member_id: if words.word(1) == "-" { "".into() } else { words.word(1).into() },
                    group_instance_id: words.text("instance"),
                    reason: words.text("reason"),
                    ..Default::default()
                }];
                self.request(GroupRequest::Leave(LeaveGroupRequest {
                    group_id: words.group(),
                    members,
                    ..Default::default()
                }));
            }
            "wait" => {
                let end = self.now.instant + Duration::from_millis(words.number(1));
                while let Some(deadline) = self.runtime.next_deadline().filter(|deadline| *deadline <= end) {
                    self.set_time(deadline.max(self.now.instant));
                    let mut done = self.runtime.on_time(self.now, &mut self.rng, &mut self.log);
                    done.extend(self.commit());
                    self.show(done, None);
                }
                self.set_time(end);
            }
            "reload" => self.load(),
            "hold" => self.is_held = true,
            "release" => {
                self.is_held = false;
                let done = self.commit();
                self.show(done, None);
            }
            "refuse" => {
                let all = (0..200).map(ErrorCode::from_code);
                self.log.refuse = all.into_iter().find(|code| code.to_string() == words.word(1));
                assert!(self.log.refuse.is_some(), "{} is no error", words.word(1));
            }
            "accept" => self.log.refuse = None,
            other => panic!("{other} is no command"),
        }
        self.check();
    }

    fn set_time(&mut self, to: Instant) {
        let passed = to.saturating_since(self.now.instant).as_millis() as i64;
        self.now = Now { instant: to, wall: Timestamp(self.now.wall.0 + passed) };
    }

    /// What must hold at all times.
    fn check(&self) {
        let fresh = self.loaded();
        for id in ["g", "h"] {
            let (own, new) = (self.runtime.shard().consumer_group(id), fresh.shard().consumer_group(id));
            let text = |group: &odradek_broker_core::group::consumer::ConsumerGroup| {
                let members: Vec<_> =
                    group.members().map(|member| (member.clone(), group.target(&member.id))).collect();
                format!("{} {} {members:?}", group.epoch(), group.target_epoch())
            };
            assert_eq!(own.map(text), new.map(text), "a new leader would know other things of {id}");
            let Some(group) = own else { continue };
            assert!(self.runtime.shard().group(id).is_none(), "{id} is a group of both kinds");
            let mut owners = BTreeMap::new();
            for member in group.members() {
                for partition in member.current.held() {
                    let other = owners.insert(partition, member.id.clone());
                    assert!(other.is_none(), "{partition:?} is held by {} and {other:?}", member.id);
                    assert_eq!(group.owner(partition.0, partition.1), Some(&member.id));
                }
            }
        }
    }
}

#[test]
fn scripts_say_what_happens() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/consumer_groups");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&directory).expect("the scripts").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let updates = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a script");
        let mut bench = Bench::new();
        let mut found = String::new();
        for line in text.lines() {
            if ["= ", "+ ", "# "].iter().any(|mark| line.starts_with(mark)) {
                continue;
            }
            let _ = writeln!(found, "{line}");
            if line == "new" {
                bench = Bench::new();
            } else if !line.trim().is_empty() && !line.starts_with("//") {
                let named = (1..=bench.learned.len())
                    .rev()
                    .fold(line.to_owned(), |line, n| line.replace(&format!("${n}"), &bench.learned[n - 1]));
                bench.run(&named);
                found.push_str(&std::mem::take(&mut bench.out));
            }
        }
        if found != text {
            if updates {
                std::fs::write(&path, &found).expect("written");
            } else {
                wrong.push(format!("{}:\n{found}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 rewrites these:\n{}", wrong.join("\n"));
}
