//! A broker's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::definition::{Definition, list};
use super::dynamic::listener_config;
use super::listener::{self, HostPort, Listener, SecurityProtocol, Voter};
use super::properties::Properties;
use super::reader::{ConfigErrors, Reader, Setting, Warning, settings};
use super::topic::TopicDefaults;
use crate::types::BrokerId;

/// All that a broker's file says. Groups of fields are structs of their own, for the part that uses them.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// `node.id` (or its old name, `broker.id`).
    pub node_id: BrokerId,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// `listeners` with `listener.security.protocol.map`. Never empty. Port 0: a free port that the system picks.
    pub listeners: Vec<Listener>,
    /// `advertised.listeners`, or `listeners`. An empty host stands for this machine's name, port 0 for the one bound.
    pub advertised_listeners: Vec<Listener>,
    /// `inter.broker.listener.name`, or the listener of `security.inter.broker.protocol`. Always one of `listeners`.
    pub inter_broker_listener: String,
    /// Where the controllers are: `controller.quorum.bootstrap.servers`, or the addresses of the voters. Never empty.
    pub controllers: Vec<HostPort>,
    /// The controllers by id where `controller.quorum.voters` names them; empty otherwise.
    pub voters: Vec<Voter>,
    /// `log.dirs`, or `log.dir`. Never empty, no path twice.
    pub log_dirs: Vec<PathBuf>,
    /// `odradek.metrics.listener`: where metrics are served over HTTP, if anywhere.
    pub metrics_listener: Option<HostPort>,
    pub network: NetworkConfig,
    /// What `listener.name.<name>.` says, by the listener's name.
    pub listener_limits: BTreeMap<String, ListenerLimits>,
    pub log: LogConfig,
    pub cleaner: CleanerConfig,
    pub replication: ReplicationConfig,
    pub topic_creation: TopicCreationConfig,
    pub groups: GroupConfig,
    pub offsets: OffsetsConfig,
    pub transactions: TransactionConfig,
    /// What topics leave unset.
    pub topics: TopicDefaults,
    pub life: LifeConfig,
    /// What the file and the command line say, by name, for those who ask a broker for its configs.
    pub written: BTreeMap<String, String>,
    /// As `written`, with the dynamic configs that are in force on top.
    pub effective: BTreeMap<String, String>,
}

settings! {
    /// Sockets and the memory that requests may take.
    pub struct NetworkConfig {
        /// A longer frame closes its connection.
        request_bytes_max: usize = "socket.request.max.bytes",
        /// Absent: `request_memory_bytes` alone bounds them.
        queued_request_bytes_max: Option<u64> = "queued.max.request.bytes",
        /// Absent: idle connections stay.
        connection_idle_max: Option<Duration> = "connections.max.idle.ms",
        connections_max: usize = "max.connections",
        connections_per_ip_max: usize = "max.connections.per.ip",
        /// Addresses or host names with a limit of their own.
        connections_per_ip_overrides: Vec<IpOverride> = "max.connections.per.ip.overrides",
        /// New connections a second; more wait.
        connections_per_second_max: u32 = "max.connection.creation.rate",
        /// Connections that the kernel keeps until they are accepted.
        listen_backlog: u32 = "socket.listen.backlog.size",
        /// The memory that the bodies of requests may hold, all together; a larger one is taken alone.
        request_memory_bytes: u64 = "odradek.memory.request.bytes",
        /// The most that one Fetch answers with, whatever the client asks for.
        fetch_bytes_max: u32 = "fetch.max.bytes",
        /// KIP-227.
        fetch_session_slots: usize = "max.incremental.fetch.session.cache.slots",
        /// The default wait of requests that the broker makes of others.
        request_timeout: Duration = "request.timeout.ms",
    }
}

/// What is allowed to one listener, beside what is allowed to the broker.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ListenerLimits {
    /// `listener.name.<name>.max.connections`.
    pub connections_max: Option<usize>,
    /// `listener.name.<name>.max.connection.creation.rate`.
    pub connections_per_second_max: Option<u32>,
}

/// A limit of `max.connections.per.ip.overrides`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IpOverride {
    /// An address, or a name that stands for some.
    pub host: String,
    pub connections_max: usize,
}

impl Setting for Vec<IpOverride> {
    fn read(_: &Definition, text: Option<&str>) -> Result<Self, String> {
        let each = list(text.unwrap_or_default()).map(|entry| {
            let parsed =
                entry.rsplit_once(':').and_then(|(host, count)| Some((host.trim(), count.trim().parse().ok()?)));
            match parsed {
                // An address of version 6 may stand in brackets.
                Some((host, connections_max)) if !host.is_empty() => {
                    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    Ok(IpOverride { host, connections_max })
                }
                _ => Err(format!("{entry} is not of the form host:connections, as in 10.0.0.7:200")),
            }
        });
        each.collect()
    }

    fn empty() -> Self {
        Vec::new()
    }
}

settings! {
    /// The log manager: recovery and intervals. What a single log obeys is in `TopicConfig`.
    pub struct LogConfig {
        recovery_threads_per_dir: usize = "num.recovery.threads.per.data.dir",
        retention_check_interval: Duration = "log.retention.check.interval.ms",
        recovery_point_checkpoint_interval: Duration = "log.flush.offset.checkpoint.interval.ms",
        start_offset_checkpoint_interval: Duration = "log.flush.start.offset.checkpoint.interval.ms",
        /// How often logs are looked at for `flush.ms`.
        flush_check_interval_ms: i64 = "log.flush.scheduler.interval.ms",
        producer_id_expiration: Duration = "producer.id.expiration.ms",
        /// Producers that one log remembers.
        producer_ids_max: usize = "odradek.log.producer.ids.max",
        /// Files that logs may have open; 0: half of what the process may.
        open_files_max: usize = "odradek.log.open.files.max",
        /// With less free room than this and than the percentage no client's records are taken.
        free_soft_bytes: u64 = "odradek.disk.free.soft.bytes",
        free_soft_percent: u32 = "odradek.disk.free.soft.percent",
        /// With less than this and than the percentage no records at all are written.
        free_hard_bytes: u64 = "odradek.disk.free.hard.bytes",
        free_hard_percent: u32 = "odradek.disk.free.hard.percent",
    }
}

settings! {
    /// Compaction: how much it may take. What a single log obeys is in `TopicConfig`.
    pub struct CleanerConfig {
        /// Without it compacted logs are left alone, by retention too, as in Kafka.
        enable: bool = "log.cleaner.enable",
        /// Logs that are cleaned at a time.
        threads: usize = "log.cleaner.threads",
        /// For the maps of keys, all threads together.
        dedupe_buffer_bytes: u64 = "log.cleaner.dedupe.buffer.size",
        /// The part of a map that may be filled.
        load_factor: f64 = "log.cleaner.io.buffer.load.factor",
        /// For what is read and written at once, all threads together.
        io_buffer_bytes: usize = "log.cleaner.io.buffer.size",
        /// Read and written, all threads together.
        bytes_per_second_max: f64 = "log.cleaner.io.max.bytes.per.second",
        /// The pause when there is nothing to clean.
        backoff: Duration = "log.cleaner.backoff.ms",
    }
}

settings! {
    /// Followers and the ISR.
    pub struct ReplicationConfig {
        /// Fetchers to each leader broker.
        fetchers: usize = "num.replica.fetchers",
        /// A follower that has not caught up for so long leaves the ISR.
        lag_time_max: Duration = "replica.lag.time.max.ms",
        fetch_bytes_min: u32 = "replica.fetch.min.bytes",
        fetch_wait_max: Duration = "replica.fetch.wait.max.ms",
        /// For one partition; a larger first batch is answered all the same.
        fetch_partition_bytes_max: u32 = "replica.fetch.max.bytes",
        fetch_response_bytes_max: u32 = "replica.fetch.response.max.bytes",
        fetch_backoff: Duration = "replica.fetch.backoff.ms",
        socket_timeout: Duration = "replica.socket.timeout.ms",
        high_watermark_checkpoint_interval: Duration = "replica.high.watermark.checkpoint.interval.ms",
    }
}

settings! {
    /// How topics are made and deleted.
    pub struct TopicCreationConfig {
        auto_create_enable: bool = "auto.create.topics.enable",
        partitions_default: i32 = "num.partitions",
        replication_factor_default: i16 = "default.replication.factor",
        delete_enable: bool = "delete.topic.enable",
        /// Partitions in one answer of DescribeTopicPartitions.
        describe_partitions_max: i32 = "max.request.partition.size.limit",
    }
}

settings! {
    /// Consumer groups of both protocols.
    pub struct GroupConfig {
        initial_rebalance_delay: Duration = "group.initial.rebalance.delay.ms",
        session_timeout_min: Duration = "group.min.session.timeout.ms",
        session_timeout_max: Duration = "group.max.session.timeout.ms",
        size_max: usize = "group.max.size",
        protocols: Vec<String> = "group.coordinator.rebalance.protocols",
        consumer_assignors: Vec<String> = "group.consumer.assignors",
        consumer_heartbeat_interval: Duration = "group.consumer.heartbeat.interval.ms",
        consumer_heartbeat_interval_min: Duration = "group.consumer.min.heartbeat.interval.ms",
        consumer_heartbeat_interval_max: Duration = "group.consumer.max.heartbeat.interval.ms",
        consumer_session_timeout: Duration = "group.consumer.session.timeout.ms",
        consumer_session_timeout_min: Duration = "group.consumer.min.session.timeout.ms",
        consumer_session_timeout_max: Duration = "group.consumer.max.session.timeout.ms",
        consumer_assignment_interval: Duration = "group.consumer.assignment.interval.ms",
        consumer_assignment_interval_min: Duration = "group.consumer.min.assignment.interval.ms",
        consumer_assignment_interval_max: Duration = "group.consumer.max.assignment.interval.ms",
        consumer_size_max: usize = "group.consumer.max.size",
        consumer_migration_policy: String = "group.consumer.migration.policy",
        journal_entries_max: usize = "odradek.group.journal.entries.max",
        journal_bytes_max: usize = "odradek.group.journal.bytes.max",
        /// Between two looks at the lag of all groups; 0: never.
        lag_interval: Duration = "odradek.group.lag.interval.ms",
        /// Partitions of groups that have metrics of their own.
        lag_metrics_max: usize = "odradek.group.lag.metrics.max",
    }
}

settings! {
    /// Committed offsets and their topic.
    pub struct OffsetsConfig {
        metadata_bytes_max: usize = "offset.metadata.max.bytes",
        commit_timeout: Duration = "offsets.commit.timeout.ms",
        load_buffer_bytes: usize = "offsets.load.buffer.size",
        retention: Duration = "offsets.retention.minutes",
        retention_check_interval: Duration = "offsets.retention.check.interval.ms",
        topic_partitions: i32 = "offsets.topic.num.partitions",
        topic_replication_factor: i16 = "offsets.topic.replication.factor",
        topic_segment_bytes: i32 = "offsets.topic.segment.bytes",
        topic_compression_codec: i32 = "offsets.topic.compression.codec",
    }
}

settings! {
    /// Transactions and their topic.
    pub struct TransactionConfig {
        timeout_max: Duration = "transaction.max.timeout.ms",
        partition_verification_enable: bool = "transaction.partition.verification.enable",
        /// How long a transaction's first batch waits for the end of the transaction before.
        add_partitions_patience: Duration = "add.partitions.to.txn.retry.backoff.max.ms",
        abort_timed_out_interval: Duration = "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        remove_expired_interval: Duration = "transaction.remove.expired.transaction.cleanup.interval.ms",
        /// KIP-939.
        two_phase_commit_enable: bool = "transaction.two.phase.commit.enable",
        id_expiration: Duration = "transactional.id.expiration.ms",
        topic_partitions: i32 = "transaction.state.log.num.partitions",
        topic_replication_factor: i16 = "transaction.state.log.replication.factor",
        topic_insync_replicas_min: i32 = "transaction.state.log.min.isr",
        topic_segment_bytes: i32 = "transaction.state.log.segment.bytes",
        load_buffer_bytes: usize = "transaction.state.log.load.buffer.size",
    }
}

settings! {
    /// From registration to shutdown.
    pub struct LifeConfig {
        heartbeat_interval: Duration = "broker.heartbeat.interval.ms",
        session_timeout: Duration = "broker.session.timeout.ms",
        /// Not registered by then: the process ends.
        registration_timeout: Duration = "initial.broker.registration.timeout.ms",
        controlled_shutdown_enable: bool = "controlled.shutdown.enable",
        /// After this the broker stops though it still leads.
        controlled_shutdown_timeout: Duration = "odradek.controlled.shutdown.timeout.ms",
    }
}

impl BrokerConfig {
    /// Reads a file's text and the `NAME=VALUE`s of the command line; `source` is the file's name in messages.
    pub fn load(text: &str, source: &str, sets: &[String]) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::from_properties(&Properties::load(text, source, sets)?)
    }

    pub fn from_properties(properties: &Properties) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let mut reader = Reader::new(properties);
        check_role(&mut reader, "broker", "odradek-broker")?;
        let warnings = reader.check_all();
        let node_id = BrokerId(node_id(&mut reader));
        let voters = voters(&mut reader);
        let listeners = broker_listeners(&mut reader);
        let advertised_listeners = advertised_listeners(&mut reader, &listeners);
        let config = Self {
            node_id,
            rack: reader.value("broker.rack"),
            inter_broker_listener: inter_broker_listener(&mut reader, &advertised_listeners),
            listeners,
            advertised_listeners,
            controllers: controllers(&mut reader, &voters),
            voters: voters.clone(),
            log_dirs: log_dirs(&mut reader),
            metrics_listener: metrics_listener(&mut reader),
            network: NetworkConfig::read(&mut reader),
            listener_limits: listener_limits(&reader),
            log: LogConfig::read(&mut reader),
            cleaner: CleanerConfig::read(&mut reader),
            replication: ReplicationConfig::read(&mut reader),
            topic_creation: TopicCreationConfig::read(&mut reader),
            groups: GroupConfig::read(&mut reader),
            offsets: OffsetsConfig::read(&mut reader),
            transactions: TransactionConfig::read(&mut reader),
            topics: TopicDefaults::read(&mut reader),
            life: LifeConfig::read(&mut reader),
            written: written(properties),
            effective: written(properties),
        };
        if voters.iter().any(|voter| voter.id == config.node_id.0) {
            let problem = "a broker must not have the id of a controller, and controller.quorum.voters names it";
            reader.refuse("node.id", problem);
        }
        check_together(&mut reader, &config);
        reader.finish(config, warnings)
    }

    /// The names that are read into fields outside the groups.
    #[cfg(test)]
    pub(super) const NAMES: &'static [&'static str] = &[
        "advertised.listeners",
        "broker.id",
        "broker.rack",
        "controller.listener.names",
        "controller.quorum.bootstrap.servers",
        "controller.quorum.voters",
        "inter.broker.listener.name",
        "listener.security.protocol.map",
        "listeners",
        "log.dir",
        "log.dirs",
        "node.id",
        "odradek.metrics.listener",
        "process.roles",
        "security.inter.broker.protocol",
    ];
}

/// The server-side assignors that there are.
const CONSUMER_ASSIGNORS: [&str; 2] = ["uniform", "range"];

fn listener_limits(reader: &Reader<'_>) -> BTreeMap<String, ListenerLimits> {
    let mut out: BTreeMap<String, ListenerLimits> = BTreeMap::new();
    for entry in reader.entries() {
        let Some((listener, name)) = listener_config(&entry.name) else { continue };
        // What is no number was refused already.
        let number = reader.number(&entry.name);
        let limits = out.entry(listener.to_ascii_uppercase()).or_default();
        match name {
            "max.connections" => limits.connections_max = number,
            _ => limits.connections_per_second_max = number.and_then(|number| u32::try_from(number).ok()),
        }
    }
    out
}

/// For each thread of the cleaner, exclusive.
const DEDUPE_BUFFER_BYTES_MIN: u64 = 1024 * 1024;

/// Kafka's rules between two configs.
fn check_together(reader: &mut Reader<'_>, config: &BrokerConfig) {
    let replication = &config.replication;
    if replication.fetch_wait_max > replication.socket_timeout {
        reader.refuse("replica.fetch.wait.max.ms", "must not be longer than replica.socket.timeout.ms");
    }
    if replication.fetch_wait_max > replication.lag_time_max {
        let problem = "must not be longer than replica.lag.time.max.ms, or followers leave the ISR while they wait";
        reader.refuse("replica.fetch.wait.max.ms", problem);
    }
    if config.life.heartbeat_interval >= config.life.session_timeout {
        reader.refuse("broker.heartbeat.interval.ms", "must be shorter than broker.session.timeout.ms");
    }
    let network = &config.network;
    if network.queued_request_bytes_max.is_some_and(|bytes| bytes < network.request_bytes_max as u64) {
        let problem = "must not be less than socket.request.max.bytes, or the largest request would wait for ever";
        reader.refuse("queued.max.request.bytes", problem);
    }
    if network.connections_per_ip_max == 0 && network.connections_per_ip_overrides.is_empty() {
        let problem = "can be 0 only when max.connections.per.ip.overrides allows some addresses more";
        reader.refuse("max.connections.per.ip", problem);
    }
    let cleaner = &config.cleaner;
    match cleaner.dedupe_buffer_bytes.checked_div(cleaner.threads as u64) {
        None => {
            reader.refuse("log.cleaner.threads", "Value must be at least 1; log.cleaner.enable=false cleans nothing")
        }
        Some(0..=DEDUPE_BUFFER_BYTES_MIN) => {
            reader.refuse(
                "log.cleaner.dedupe.buffer.size",
                "must be more than 1048576 bytes for each of log.cleaner.threads",
            );
        }
        Some(_) => {}
    }
    let log = &config.log;
    if log.free_hard_bytes > log.free_soft_bytes {
        reader.refuse("odradek.disk.free.hard.bytes", "must not be more than odradek.disk.free.soft.bytes");
    }
    if log.free_hard_percent > log.free_soft_percent {
        reader.refuse("odradek.disk.free.hard.percent", "must not be more than odradek.disk.free.soft.percent");
    }
    let groups = &config.groups;
    if groups.consumer_heartbeat_interval >= groups.consumer_session_timeout {
        reader.refuse("group.consumer.heartbeat.interval.ms", "must be shorter than group.consumer.session.timeout.ms");
    }
    if let Some(unknown) = groups.consumer_assignors.iter().find(|name| !CONSUMER_ASSIGNORS.contains(&name.trim())) {
        let problem = format!("{unknown} is not known; there are {}", CONSUMER_ASSIGNORS.join(" and "));
        reader.refuse("group.consumer.assignors", problem);
    }
    if groups.consumer_assignors.is_empty() {
        reader.refuse("group.consumer.assignors", "must name at least one");
    }
    let within = |value: Duration, min: Duration, max: Duration| min <= value && value <= max;
    for (name, value, min, max) in [
        (
            "group.consumer.session.timeout.ms",
            groups.consumer_session_timeout,
            groups.consumer_session_timeout_min,
            groups.consumer_session_timeout_max,
        ),
        (
            "group.consumer.heartbeat.interval.ms",
            groups.consumer_heartbeat_interval,
            groups.consumer_heartbeat_interval_min,
            groups.consumer_heartbeat_interval_max,
        ),
        (
            "group.consumer.assignment.interval.ms",
            groups.consumer_assignment_interval,
            groups.consumer_assignment_interval_min,
            groups.consumer_assignment_interval_max,
        ),
    ] {
        if !within(value, min, max) {
            reader.refuse(name, "must lie between its group.consumer.min and group.consumer.max");
        }
    }
    if groups.session_timeout_min > groups.session_timeout_max {
        reader.refuse("group.min.session.timeout.ms", "must not be longer than group.max.session.timeout.ms");
    }
}

/// The last value of each name.
fn written(properties: &Properties) -> BTreeMap<String, String> {
    properties.entries().iter().map(|entry| (entry.name.clone(), entry.value.trim().to_owned())).collect()
}

/// `odradek.metrics.listener`: an address, or nothing for none.
pub(super) fn metrics_listener(reader: &mut Reader<'_>) -> Option<HostPort> {
    let text = reader.text("odradek.metrics.listener").map(str::trim).filter(|text| !text.is_empty())?;
    match text.parse() {
        Ok(address) => Some(address),
        Err(problem) => {
            reader.refuse("odradek.metrics.listener", problem);
            None
        }
    }
}

/// `process.roles`, if it is there, must be this process's own.
pub(super) fn check_role(reader: &mut Reader<'_>, role: &str, program: &str) -> Result<(), ConfigErrors> {
    let Some(text) = reader.text("process.roles") else { return Ok(()) };
    let roles: Vec<&str> = list(text).collect();
    let problem = match roles.as_slice() {
        [only] if *only == role => return Ok(()),
        ["broker", "controller"] | ["controller", "broker"] => "one process has one role. Make two files of this one: \
            in the first process.roles=controller, a node.id of its own, `listeners` with the controller's listener \
            only, and start it with `odradek-controller --config FILE`; in the second process.roles=broker, another \
            node.id, another log.dirs, `listeners` without the controller's, and start it with `odradek-broker \
            --config FILE`. Both keep the same controller.quorum.voters. `deploy/cluster up` shows such files."
            .to_owned(),
        ["broker"] => format!("this is {program}; a file of a broker is for `odradek-broker --config FILE`"),
        ["controller"] => {
            format!("this is {program}; a file of a controller is for `odradek-controller --config FILE`")
        }
        _ => format!("Invalid value {text} for configuration process.roles: it takes {role} here"),
    };
    reader.refuse("process.roles", problem);
    Err(ConfigErrors(std::mem::take(&mut reader.errors)))
}

pub(super) fn node_id(reader: &mut Reader<'_>) -> i32 {
    let old: Option<i32> = reader.value("broker.id");
    match (reader.get("node.id").is_some(), old) {
        (false, Some(old)) => old,
        (true, Some(old)) => {
            let node_id: i32 = reader.value("node.id");
            if node_id != old {
                let problem = format!("is {old} and node.id is {node_id}: write only node.id");
                reader.refuse("broker.id", problem);
            }
            node_id
        }
        _ => reader.value("node.id"),
    }
}

pub(super) fn voters(reader: &mut Reader<'_>) -> Vec<Voter> {
    let name = "controller.quorum.voters";
    let parsed: Result<Vec<Voter>, String> = list(reader.text(name).unwrap_or_default()).map(str::parse).collect();
    match parsed {
        Err(problem) => {
            reader.refuse(name, problem);
            Vec::new()
        }
        Ok(voters) => {
            for (at, voter) in voters.iter().enumerate() {
                if voters.iter().take(at).any(|other| other.id == voter.id || other.address == voter.address) {
                    reader
                        .refuse(name, format!("{}@{} shares its id or address with another", voter.id, voter.address));
                }
            }
            voters
        }
    }
}

fn controllers(reader: &mut Reader<'_>, voters: &[Voter]) -> Vec<HostPort> {
    let name = "controller.quorum.bootstrap.servers";
    let parsed: Result<Vec<HostPort>, String> = list(reader.text(name).unwrap_or_default()).map(str::parse).collect();
    let mut controllers = parsed.unwrap_or_else(|problem| {
        reader.refuse(name, problem);
        Vec::new()
    });
    if controllers.is_empty() {
        controllers = voters.iter().map(|voter| voter.address.clone()).collect();
    }
    if controllers.is_empty() && reader.errors.is_empty() {
        let problem = "names no controller: write controller.quorum.voters=1@HOST:PORT,... (or \
                       controller.quorum.bootstrap.servers=HOST:PORT,...)";
        reader.refuse("controller.quorum.voters", problem);
    }
    controllers
}

/// The protocol of a listener by `listener.security.protocol.map`; a listener that only controllers use is PLAINTEXT
/// unless the map says otherwise, as in Kafka.
pub(super) fn protocols(reader: &mut Reader<'_>) -> impl Fn(&str) -> Result<SecurityProtocol, String> + use<> {
    let name = "listener.security.protocol.map";
    let map = listener::protocol_map(reader.text(name).unwrap_or_default()).unwrap_or_else(|problem| {
        reader.refuse(name, problem);
        Vec::new()
    });
    let of_controllers = controller_listener_names(reader);
    move |listener: &str| match map.iter().find(|(name, _)| name == listener) {
        Some((_, SecurityProtocol::Plaintext)) => Ok(SecurityProtocol::Plaintext),
        Some((_, protocol)) => {
            Err(format!("listener {listener} asks for {}, and only PLAINTEXT is served so far", protocol.name()))
        }
        None if of_controllers.iter().any(|name| name == listener) => Ok(SecurityProtocol::Plaintext),
        None => Err(format!("no protocol is known for listener {listener}: add {listener}:PLAINTEXT to {name}")),
    }
}

pub(super) fn controller_listener_names(reader: &Reader<'_>) -> Vec<String> {
    list(reader.text("controller.listener.names").unwrap_or("CONTROLLER")).map(str::to_ascii_uppercase).collect()
}

fn broker_listeners(reader: &mut Reader<'_>) -> Vec<Listener> {
    let protocol_of = protocols(reader);
    let of_controllers = controller_listener_names(reader);
    let parsed = listener::listeners(reader.text("listeners").unwrap_or_default(), false, protocol_of);
    let problem = match parsed {
        Err(problem) => problem,
        Ok(listeners) if listeners.is_empty() => "must not be empty, as PLAINTEXT://:9092".to_owned(),
        Ok(listeners) => match listeners.iter().find(|listener| of_controllers.contains(&listener.name)) {
            None => return listeners,
            Some(listener) => format!("{listener} is one of controller.listener.names; a broker does not listen there"),
        },
    };
    reader.refuse("listeners", problem);
    Vec::new()
}

fn advertised_listeners(reader: &mut Reader<'_>, listeners: &[Listener]) -> Vec<Listener> {
    let name = "advertised.listeners";
    let text = reader.text(name).unwrap_or_default();
    let protocol_of = protocols(reader);
    let advertised = match listener::listeners(text, true, protocol_of) {
        Ok(advertised) if advertised.is_empty() => listeners.to_vec(),
        Ok(advertised) => advertised,
        Err(problem) => {
            reader.refuse(name, problem);
            return Vec::new();
        }
    };
    for listener in &advertised {
        if matches!(listener.address.host.as_str(), "0.0.0.0" | "::") {
            let problem = format!("{listener}: clients cannot connect to that address; advertise a name or a real one");
            reader.refuse(name, problem);
        }
        if !listeners.is_empty() && !listeners.iter().any(|other| other.name == listener.name) {
            reader.refuse(name, format!("{} is not one of `listeners`", listener.name));
        }
    }
    advertised
}

fn inter_broker_listener(reader: &mut Reader<'_>, advertised: &[Listener]) -> String {
    let chosen: Option<String> = reader.value("inter.broker.listener.name");
    let chosen = chosen.map(|name| name.to_ascii_uppercase());
    if advertised.is_empty() {
        return chosen.unwrap_or_default();
    }
    match chosen {
        Some(name) if advertised.iter().any(|listener| listener.name == name) => name,
        Some(name) => {
            reader.refuse("inter.broker.listener.name", format!("{name} is not one of the advertised listeners"));
            name
        }
        None => {
            let name: String = reader.value("security.inter.broker.protocol");
            if !advertised.iter().any(|listener| listener.name == name) {
                let problem = format!("must say which of the listeners brokers use, because none is named {name}");
                reader.refuse("inter.broker.listener.name", problem);
            }
            name
        }
    }
}

pub(super) fn log_dirs(reader: &mut Reader<'_>) -> Vec<PathBuf> {
    let name = match reader.get("log.dirs").is_some() {
        true => "log.dirs",
        false => "log.dir",
    };
    let mut dirs: Vec<PathBuf> = Vec::new();
    for dir in list(reader.text(name).unwrap_or_default()).map(PathBuf::from) {
        if dirs.contains(&dir) {
            reader.refuse(name, format!("{} stands there twice", dir.display()));
        }
        dirs.push(dir);
    }
    if dirs.is_empty() {
        reader.refuse(name, "must not be empty");
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "node.id=1\ncontroller.quorum.voters=101@localhost:9192\n";

    fn load(more: &str) -> Result<BrokerConfig, String> {
        BrokerConfig::load(&format!("{LEAST}{more}"), "f", &[]).map(|loaded| loaded.0).map_err(|e| e.to_string())
    }

    #[test]
    fn the_least_file_has_kafkas_defaults() {
        let config = load("").expect("valid");
        assert_eq!(config.node_id, BrokerId(1));
        assert_eq!(config.listeners.first().map(Listener::to_string).as_deref(), Some("PLAINTEXT://:9092"));
        assert_eq!(config.advertised_listeners, config.listeners);
        assert_eq!(config.inter_broker_listener, "PLAINTEXT");
        assert_eq!(config.controllers, ["localhost:9192".parse().expect("valid")]);
        assert_eq!(config.log_dirs, [PathBuf::from("/tmp/kafka-logs")]);
        assert_eq!(config.network.connection_idle_max, Some(Duration::from_secs(600)));
        assert_eq!(config.network.queued_request_bytes_max, None);
        assert_eq!(config.offsets.retention, Duration::from_secs(7 * 24 * 3600));
        assert_eq!(config.replication, ReplicationConfig::default());
    }

    #[test]
    fn combined_roles_are_answered_with_how_to_split_them() {
        let error = load("process.roles=broker,controller").unwrap_err();
        assert!(error.starts_with("f:3: process.roles: one process has one role. Make two files"), "{error}");
        assert!(load("process.roles=controller").unwrap_err().contains("odradek-controller --config"));
        assert!(load("process.roles=broker").is_ok());
        assert!(load("process.roles=zebra").is_err());
    }

    #[test]
    fn several_listeners_are_told_apart() {
        let config = load(
            "listeners=INTERNAL://10.0.0.1:9092,EXTERNAL://:9093\n\
             advertised.listeners=INTERNAL://10.0.0.1:9092,EXTERNAL://kafka.example.com:19093\n\
             listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT\n\
             inter.broker.listener.name=internal\n",
        )
        .expect("valid");
        assert_eq!(config.inter_broker_listener, "INTERNAL");
        assert_eq!(config.advertised_listeners.len(), 2);
        for (text, expected) in [
            ("listeners=SSL://:9093", "only PLAINTEXT is served"),
            ("listeners=NEW://:9093", "no protocol is known for listener NEW"),
            ("listeners=CONTROLLER://:9093", "a broker does not listen there"),
            ("listeners=PLAINTEXT://0.0.0.0:9092", "clients cannot connect"),
            ("advertised.listeners=SASL_SSL://h:1", "only PLAINTEXT is served"),
            ("inter.broker.listener.name=X", "X is not one of the advertised listeners"),
            ("controller.quorum.voters=1@localhost:9093", "must not have the id of a controller"),
            ("controller.quorum.voters=2@a:1,2@b:1", "shares its id"),
            ("controller.quorum.voters=", "must not be an empty list"),
            ("log.dirs=/a,/a", "stands there twice"),
            ("log.cleaner.threads=0", "log.cleaner.enable=false"),
            ("log.cleaner.dedupe.buffer.size=1048576", "more than 1048576 bytes"),
            ("log.cleaner.threads=128", "for each of log.cleaner.threads"),
            ("replica.fetch.wait.max.ms=40000", "must not be longer than replica.lag.time.max.ms"),
            ("odradek.metrics.listener=9292", "`9292` is not HOST:PORT"),
            ("odradek.disk.free.hard.bytes=2000000000", "must not be more than odradek.disk.free.soft.bytes"),
            ("broker.id=7", "write only node.id"),
            ("socket.request.max.bytes=0", "Value must be at least 1"),
            ("replica.lag.time.max.ms=-5", "Value must be at least 0"),
        ] {
            let error = load(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let error = BrokerConfig::load("num.partitions=x\nnum.io.threads=0\n", "f", &[]).unwrap_err();
        let names: Vec<&str> = error.0.iter().map(|error| error.name.as_str()).collect();
        assert_eq!(names, ["num.partitions", "num.io.threads", "node.id"]);
    }
}
