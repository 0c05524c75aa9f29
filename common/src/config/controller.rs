//! A controller's configuration.

use std::path::PathBuf;
use std::time::Duration;

use super::broker::{
    TopicCreationConfig, check_role, controller_listener_names, log_dirs, metrics_listener, node_id, protocols, voters,
};
use super::group::GroupLimits;
use super::listener::{self, HostPort, Listener, Voter};
use super::properties::Properties;
use super::reader::{ConfigErrors, Reader, Warning, settings};
use super::topic::TopicDefaults;
use crate::types::ControllerId;

/// All that a controller's file says.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerConfig {
    /// `node.id`. One of `voters`.
    pub node_id: ControllerId,
    /// The first of `controller.listener.names` (default `CONTROLLER`) among `listeners`: where all gRPC is served.
    /// Without `listeners` it is this controller's own address in `controller.quorum.voters`.
    pub listener: Listener,
    /// `controller.quorum.voters`. Never empty; all controllers have the same.
    pub voters: Vec<Voter>,
    /// `metadata.log.dir`, or the first of `log.dirs`: the Raft log, snapshots and `meta.properties`.
    pub metadata_log_dir: PathBuf,
    /// `odradek.metrics.listener`: where metrics are served over HTTP, if anywhere.
    pub metrics_listener: Option<HostPort>,
    pub quorum: QuorumConfig,
    pub brokers: BrokersConfig,
    pub topic_creation: TopicCreationConfig,
    /// `min.insync.replicas`, `unclean.leader.election.enable` and the rest that topics leave unset.
    pub topics: TopicDefaults,
    /// What groups may be configured with.
    pub groups: GroupLimits,
}

settings! {
    /// The Raft quorum and its log.
    pub struct QuorumConfig {
        /// The least time without news from a leader before a controller asks for votes.
        election_timeout: Duration = "controller.quorum.election.timeout.ms",
        /// Between two heartbeats of the leader. At most a fifth of `election_timeout`.
        heartbeat_interval: Duration = "odradek.quorum.heartbeat.interval.ms",
        /// Of the Raft log's store, in memory.
        log_cache_bytes: u64 = "odradek.quorum.log.cache.bytes",
        /// `sled` or `segments`.
        log_store: String = "odradek.quorum.log.store",
        /// A snapshot is made after so many bytes of new records.
        snapshot_bytes_between_max: u64 = "metadata.log.max.record.bytes.between.snapshots",
        /// A snapshot is made after this time if there is anything new; zero: never for time alone.
        snapshot_interval_max: Duration = "metadata.log.max.snapshot.interval.ms",
    }
}

settings! {
    /// How controllers watch brokers and move leaders.
    pub struct BrokersConfig {
        heartbeat_interval: Duration = "broker.heartbeat.interval.ms",
        /// A silent broker is fenced after this time at the latest.
        session_timeout: Duration = "broker.session.timeout.ms",
        /// A broker whose connection ended is fenced after this time, unless the same incarnation is back.
        disconnect_grace: Duration = "odradek.fence.disconnected.ms",
        /// The least silence on a live connection that fences.
        silence_min: Duration = "odradek.fence.silent.min.ms",
        leader_rebalance_enable: bool = "auto.leader.rebalance.enable",
        leader_imbalance_check_interval: Duration = "leader.imbalance.check.interval.seconds",
    }
}

impl ControllerConfig {
    /// Reads a file's text and the `NAME=VALUE`s of the command line; `source` is the file's name in messages.
    pub fn load(text: &str, source: &str, sets: &[String]) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        Self::from_properties(&Properties::load(text, source, sets)?)
    }

    pub fn from_properties(properties: &Properties) -> Result<(Self, Vec<Warning>), ConfigErrors> {
        let mut reader = Reader::new(properties);
        check_role(&mut reader, "controller", "odradek-controller")?;
        let warnings = reader.check_all();
        let node_id = ControllerId(node_id(&mut reader));
        let voters = voters(&mut reader);
        let own = voters.iter().find(|voter| voter.id == node_id.0);
        if reader.errors.is_empty() && own.is_none() {
            let problem = match voters.is_empty() {
                true => {
                    "is missing: name all controllers, this one included, as 1@HOST:PORT,2@HOST:PORT,...".to_owned()
                }
                false => format!("does not name this controller, node.id {node_id}"),
            };
            reader.refuse("controller.quorum.voters", problem);
        }
        let listener = controller_listener(&mut reader, own);
        let metadata_log_dir: Option<String> = reader.value("metadata.log.dir");
        let metadata_log_dir = match metadata_log_dir {
            Some(dir) => PathBuf::from(dir),
            None => log_dirs(&mut reader).into_iter().next().unwrap_or_default(),
        };
        let metrics_listener = metrics_listener(&mut reader);
        let quorum = QuorumConfig::read(&mut reader);
        if quorum.heartbeat_interval * 5 > quorum.election_timeout {
            let problem = "must be at least five times odradek.quorum.heartbeat.interval.ms";
            reader.refuse("controller.quorum.election.timeout.ms", problem);
        }
        let brokers = BrokersConfig::read(&mut reader);
        let topic_creation = TopicCreationConfig::read(&mut reader);
        let topics = TopicDefaults::read(&mut reader);
        let groups = GroupLimits::read(&reader);
        let errors = std::mem::take(&mut reader.errors);
        match listener {
            Some(listener) if errors.is_empty() => Ok((
                Self {
                    node_id,
                    listener,
                    voters,
                    metadata_log_dir,
                    metrics_listener,
                    quorum,
                    brokers,
                    topic_creation,
                    topics,
                    groups,
                },
                warnings,
            )),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// The names that are read into fields outside the groups.
    #[cfg(test)]
    pub(super) const NAMES: &'static [&'static str] = &["metadata.log.dir"];
}

/// `None` after a refusal.
fn controller_listener(reader: &mut Reader<'_>, own: Option<&Voter>) -> Option<Listener> {
    let protocol_of = protocols(reader);
    let names = controller_listener_names(reader);
    let Some(entry) = reader.get("listeners") else {
        let (name, own) = (names.into_iter().next()?, own?);
        return match protocol_of(&name) {
            Ok(protocol) => Some(Listener { name, address: own.address.clone(), protocol }),
            Err(problem) => {
                reader.refuse("controller.listener.names", problem);
                None
            }
        };
    };
    let problem = match listener::listeners(&entry.value, false, protocol_of) {
        Err(problem) => problem,
        Ok(listeners) => match listeners.iter().find(|listener| !names.contains(&listener.name)) {
            Some(other) => format!(
                "{other} is not one of controller.listener.names ({}), and a controller listens nowhere else",
                names.join(",")
            ),
            None => match names.iter().find_map(|name| listeners.iter().find(|listener| listener.name == *name)) {
                Some(listener) => return Some(listener.clone()),
                None => "must not be empty, as CONTROLLER://:9093".to_owned(),
            },
        },
    };
    reader.refuse("listeners", problem);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(more: &str) -> Result<ControllerConfig, String> {
        let text = format!("node.id=2\ncontroller.quorum.voters=1@a:9093,2@b:9093\n{more}");
        ControllerConfig::load(&text, "f", &[]).map(|loaded| loaded.0).map_err(|error| error.to_string())
    }

    #[test]
    fn the_least_file_listens_where_the_voters_say() {
        let config = load("").expect("valid");
        assert_eq!(config.listener.to_string(), "CONTROLLER://b:9093");
        assert_eq!(config.metadata_log_dir, PathBuf::from("/tmp/kafka-logs"));
        assert_eq!(config.quorum.election_timeout, Duration::from_secs(1));
        assert_eq!(config.brokers.session_timeout, Duration::from_secs(9));
    }

    #[test]
    fn kafkas_controller_file_is_read() {
        let config = load(
            "process.roles=controller\nlisteners=QUORUM://:9093\ncontroller.listener.names=QUORUM\n\
             log.dirs=/var/a,/var/b\nmetadata.log.dir=/var/m\nunclean.leader.election.enable=true",
        )
        .expect("valid");
        assert_eq!(config.listener.to_string(), "QUORUM://:9093");
        assert_eq!(config.metadata_log_dir, PathBuf::from("/var/m"));
        assert!(config.topics.config().unclean_leader_election_enable);
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (text, expected) in [
            ("process.roles=broker", "odradek-broker --config"),
            ("node.id=3", "does not name this controller, node.id 3"),
            ("controller.quorum.voters=2@b", "`b` is not HOST:PORT"),
            ("listeners=PLAINTEXT://:9092", "a controller listens nowhere else"),
            ("listeners=CONTROLLER://:1\nlistener.security.protocol.map=CONTROLLER:SSL", "only PLAINTEXT"),
            ("controller.quorum.election.timeout.ms=200", "five times odradek.quorum.heartbeat"),
        ] {
            let error = load(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
