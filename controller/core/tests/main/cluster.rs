//! A cluster as the decider sees it: time, offsets and randomness are the test's, brokers are what it says on their
//! behalf, and every decision is replayed into a second image and held against the invariants.

use std::time::Duration;

use odradek_common::config::SecurityProtocol;
use odradek_common::rng::SplitMix64;
use odradek_common::time::{Instant, Now, Timestamp};
use odradek_common::{BrokerEpoch, BrokerId, ErrorCode, PartitionIndex, Uuid};
use odradek_controller_core::brokers::RegisterBroker;
use odradek_controller_core::heartbeat::{Heartbeat, HeartbeatReply};
use odradek_controller_core::topics::{CreatedTopic, NewTopic};
use odradek_controller_core::{ApiError, Context, Decider, Decision, Event, Settings, features};
use odradek_metadata::proto::{Record, record::Kind};
use odradek_metadata::{Endpoint, Image, PartitionRegistration};

pub const CLUSTER_ID: &str = "MkU3OEVBNTcwNTJENDM2Qg";

pub struct Cluster {
    pub decider: Decider,
    /// What the log says, replayed apart from the decider.
    pub image: Image,
    pub now: Instant,
    pub rng: SplitMix64,
    pub events: Vec<Event>,
    pub records: Vec<Record>,
    next_offset: i64,
    next_incarnation: u8,
    next_stream: u64,
}

impl Cluster {
    pub fn new(settings: Settings) -> Self {
        Self::born_of(settings, None)
    }

    /// A new cluster that begins with what another one had.
    pub fn born_of(settings: Settings, bootstrap: Option<&Image>) -> Self {
        let now = Instant(1_000_000_000);
        let mut cluster = Self {
            decider: Decider::new(settings, Image::new(), now),
            image: Image::new(),
            now,
            rng: SplitMix64::new(7),
            events: Vec::new(),
            records: Vec::new(),
            next_offset: 5,
            // Those of the other cluster are not used again.
            next_incarnation: if bootstrap.is_some() { 100 } else { 0 },
            next_stream: 0,
        };
        cluster.run(|decider, context| decider.begin(context, CLUSTER_ID, &[], bootstrap)).expect("a new cluster");
        cluster
    }

    /// Brokers 1 to `brokers`, unfenced, with the cluster's `min.insync.replicas` at 2.
    pub fn with_brokers(brokers: i32) -> (Self, Vec<Broker>) {
        let mut cluster = Self::new(settings(&["min.insync.replicas=2"]));
        let brokers = (1..=brokers).map(|id| cluster.start(id)).collect();
        (cluster, brokers)
    }

    /// Makes one decision, replays it and checks the invariants.
    pub fn run<R>(&mut self, decide: impl FnOnce(&mut Decider, &mut Context<'_>) -> Decision<R>) -> R {
        let mut context = Context {
            now: Now { instant: self.now, wall: Timestamp(0) },
            next_offset: self.next_offset,
            rng: &mut self.rng,
        };
        let decision = decide(&mut self.decider, &mut context);
        if decision.records.is_empty() {
            assert_eq!(decision.offset, self.image.offset());
        } else {
            assert_eq!(decision.offset, self.next_offset);
            let before = self.image.clone();
            self.image.apply_records(&decision.records, self.next_offset).expect("records that fit");
            check_invariants(&before, &self.image);
            self.next_offset += 1;
        }
        assert_eq!(*self.decider.image(), self.image, "the overlay is what the records say");
        self.records = decision.records;
        self.events.extend(decision.events);
        decision.response
    }

    /// Another controller leads: all soft state is gone.
    pub fn change_leader(&mut self, settings: Settings) {
        self.decider = Decider::new(settings, self.image.clone(), self.now);
        self.decider.skip(self.next_offset);
        self.image.set_offset(self.next_offset);
        self.next_offset += 1;
    }

    pub fn registration(&mut self, id: i32) -> RegisterBroker {
        self.next_incarnation += 1;
        RegisterBroker {
            cluster_id: CLUSTER_ID.to_owned(),
            broker_id: BrokerId(id),
            incarnation: Uuid([self.next_incarnation; 16]),
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "localhost".to_owned(),
                port: 9092,
                security_protocol: SecurityProtocol::Plaintext,
            }],
            features: features::supported_ranges(),
            rack: None,
            log_dirs: vec![Uuid([100 + id as u8; 16])],
            previous_broker_epoch: BrokerEpoch::NONE,
        }
    }

    pub fn register(&mut self, request: &RegisterBroker) -> Result<BrokerEpoch, ApiError> {
        self.run(|decider, context| decider.register_broker(context, request))
    }

    /// Registers a new process and lets it catch up.
    pub fn start(&mut self, id: i32) -> Broker {
        self.start_after(id, BrokerEpoch::NONE)
    }

    /// As `start`, with the epoch that the process found in its directory: given after a clean stop only.
    pub fn start_after(&mut self, id: i32, previous: BrokerEpoch) -> Broker {
        let mut broker = self.join(id, previous);
        let reply = self.beat(&mut broker).expect("registered");
        assert!(!reply.is_fenced);
        broker
    }

    /// Registers a new process, which is fenced until it has caught up.
    pub fn join(&mut self, id: i32, previous: BrokerEpoch) -> Broker {
        let request = RegisterBroker { previous_broker_epoch: previous, ..self.registration(id) };
        let epoch = self.register(&request).expect("registered");
        self.next_stream += 1;
        Broker { id: BrokerId(id), epoch, incarnation: request.incarnation, stream: self.next_stream }
    }

    pub fn heartbeat(&mut self, broker: &Broker, message: Heartbeat) -> Result<HeartbeatReply, ApiError> {
        let message =
            Heartbeat { broker_id: broker.id, broker_epoch: broker.epoch, incarnation: broker.incarnation, ..message };
        self.run(|decider, context| decider.heartbeat(context, broker.stream, &message))
    }

    /// A heartbeat of a broker that has published all metadata.
    pub fn beat(&mut self, broker: &mut Broker) -> Result<HeartbeatReply, ApiError> {
        let metadata_offset = self.image.offset();
        self.heartbeat(broker, Heartbeat { metadata_offset, ..Heartbeat::default() })
    }

    pub fn ask_to_shut_down(&mut self, broker: &Broker) -> HeartbeatReply {
        let metadata_offset = self.image.offset();
        let message = Heartbeat { metadata_offset, want_shutdown: true, ..Heartbeat::default() };
        self.heartbeat(broker, message).expect("registered")
    }

    /// The process is gone, and its connection with it.
    pub fn kill(&mut self, broker: &Broker) {
        let now = Now { instant: self.now, wall: Timestamp(0) };
        self.decider.stream_closed(broker.id, broker.stream, now);
    }

    /// The port of that process has refused a connection since.
    pub fn refuse(&mut self, broker: &Broker) {
        let now = Now { instant: self.now, wall: Timestamp(0) };
        self.decider.process_gone(broker.id, broker.stream, now);
    }

    /// Opens another stream for the same process.
    pub fn reconnect(&mut self, broker: &mut Broker) {
        self.next_stream += 1;
        broker.stream = self.next_stream;
        self.beat(broker).expect("registered");
    }

    /// Time passes, and the clock is looked at when the decider wants it, while these brokers are heard every half second.
    pub fn pass(&mut self, duration: Duration, heard: &mut [&mut Broker]) {
        let until = self.now + duration;
        let mut ticks = 0u32;
        while self.now < until {
            self.now = self.now + Duration::from_millis(100);
            ticks += 1;
            if ticks.is_multiple_of(5) {
                for broker in heard.iter_mut() {
                    // A broker that was refused has been told so, and stays away.
                    let _ = self.beat(broker);
                }
            }
            if self.now >= self.decider.tick_due() {
                self.tick();
            }
        }
    }

    pub fn tick(&mut self) {
        self.run(|decider, context| decider.tick(context));
    }

    pub fn create(&mut self, topic: NewTopic) -> Result<CreatedTopic, ApiError> {
        let mut outcomes = self.run(|decider, context| decider.create_topics(context, &[topic], false));
        outcomes.remove(0).result
    }

    /// A topic of one partition with these replicas.
    pub fn create_on(&mut self, name: &str, replicas: &[i32]) -> CreatedTopic {
        let replicas = replicas.iter().map(|id| BrokerId(*id)).collect();
        let assignments = vec![(PartitionIndex(0), replicas)];
        let topic =
            NewTopic { name: name.to_owned(), partitions: -1, replication_factor: -1, assignments, configs: vec![] };
        self.create(topic).expect("created")
    }

    pub fn partition(&self, topic: &str) -> &PartitionRegistration {
        self.image.partition_by_name(topic, PartitionIndex(0)).expect("the partition")
    }

    /// Leader, ISR, ELR and last known leader of the first partition, in short.
    pub fn state(&self, topic: &str) -> String {
        describe(self.partition(topic))
    }

    pub fn fenced(&self) -> Vec<i32> {
        self.image.brokers().filter(|broker| broker.fenced).map(|broker| broker.id.0).collect()
    }

    /// The kinds of the last decision's records.
    pub fn record_kinds(&self) -> Vec<&'static str> {
        self.records.iter().map(kind_of).collect()
    }
}

/// A broker's process.
#[derive(Clone, Debug)]
pub struct Broker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    pub incarnation: Uuid,
    pub stream: u64,
}

/// Settings as a controller's file would give them.
pub fn settings(lines: &[&str]) -> Settings {
    let file = "process.roles=controller\nnode.id=1\ncontroller.quorum.voters=1@localhost:9093\nlog.dirs=d\n";
    let text = format!("{file}{}\n", lines.join("\n"));
    let (config, _) =
        odradek_common::config::ControllerConfig::load(&text, "test.properties", &[]).expect("valid settings");
    Settings::from(&config)
}

pub fn describe(partition: &PartitionRegistration) -> String {
    let list = |ids: &[BrokerId]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let mut text = format!("leader {} isr [{}]", partition.leader, list(&partition.isr));
    if !partition.elr.is_empty() {
        text += &format!(" elr [{}]", list(&partition.elr));
    }
    if !partition.last_known_elr.is_empty() {
        text += &format!(" last {}", list(&partition.last_known_elr));
    }
    if partition.leader_recovery_state.code() == 1 {
        text += " recovering";
    }
    text
}

pub fn code<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorCode {
    result.expect_err("a refusal").code
}

fn kind_of(record: &Record) -> &'static str {
    match record.kind.as_ref().expect("a kind") {
        Kind::Topic(_) => "topic",
        Kind::RemoveTopic(_) => "remove topic",
        Kind::Partition(_) => "partition",
        Kind::PartitionChange(_) => "partition change",
        Kind::RegisterBroker(_) => "register broker",
        Kind::UnregisterBroker(_) => "unregister broker",
        Kind::BrokerRegistrationChange(_) => "broker change",
        Kind::Config(_) => "config",
        Kind::FeatureLevel(_) => "feature",
        Kind::ProducerIds(_) => "producer ids",
        Kind::Cluster(_) => "cluster",
        Kind::RegisterController(_) => "register controller",
    }
}

/// What holds after every decision.
fn check_invariants(before: &Image, after: &Image) {
    for (topic, index, partition) in after.partitions() {
        let at = format!("{}-{index}: {partition:?}", topic.name);
        let distinct: std::collections::BTreeSet<_> = partition.replicas.iter().collect();
        assert!(!distinct.is_empty() && distinct.len() == partition.replicas.len(), "replicas of {at}");
        assert_eq!(partition.directories.len(), partition.replicas.len(), "directories of {at}");
        assert!(partition.isr.iter().all(|id| distinct.contains(id)), "isr of {at}");
        assert!(partition.isr.iter().all(|id| after.is_active(*id)), "an inactive broker is in the isr of {at}");
        assert!(partition.elr.iter().all(|id| distinct.contains(id)), "elr of {at}");
        assert!(!partition.elr.iter().any(|id| partition.isr.contains(id)), "elr and isr of {at}");
        let moving = partition.adding.iter().chain(&partition.removing);
        assert!(moving.clone().all(|id| distinct.contains(id)), "adding and removing of {at}");
        let stays = partition.replicas.iter().any(|id| !partition.removing.contains(id));
        assert!(stays, "everybody leaves {at}");
        if partition.has_leader() {
            assert!(partition.isr.contains(&partition.leader), "the leader is not in the isr of {at}");
            assert!(partition.last_known_elr.is_empty(), "led, but with a last known leader: {at}");
        } else {
            assert!(partition.isr.is_empty(), "in sync, but not led: {at}");
            assert_eq!(partition.last_known_elr.len(), 1, "nobody is remembered as the leader of {at}");
        }
        if let Some(old) = before.partition(topic.id, index) {
            assert!(partition.partition_epoch >= old.partition_epoch, "partition epoch of {at}");
            assert!(partition.leader_epoch >= old.leader_epoch, "leader epoch of {at}");
            if partition != old {
                assert!(partition.partition_epoch > old.partition_epoch, "changed at the same epoch: {at}");
            }
            if partition.leader != old.leader {
                assert!(partition.leader_epoch > old.leader_epoch, "two leaders in one epoch: {at}");
            }
        }
    }
}
