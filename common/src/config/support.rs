//! What Odradek does with each of Kafka's configs. `docs/COMPATIBILITY.md` is written from these tables, and a test
//! holds the page against them.

/// What becomes of a config.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    /// It does what Kafka's documentation says.
    Honoured,
    /// It may be written, and changes nothing, because.
    WithoutEffect(&'static str),
    /// Any value but the default refuses to start, because.
    Refused(&'static str),
}

use Support::{Honoured, Refused, WithoutEffect};

const BUFFERS: &str = "the system sizes the buffers of sockets by need";
const TLS: &str = "TLS is not served yet, and a listener that asks for it is refused";
const SASL: &str = "SASL is not served yet, and a listener that asks for it is refused";
const QUOTAS: &str = "quotas are not served yet";
const TIERED: &str = "tiered storage is not served yet";
const SHARE: &str = "share groups are not served yet";
const STREAMS: &str = "streams groups are not served yet";
const COORDINATOR: &str = "requests of groups are handled, and appended, where they are read";
const ADD_PARTITIONS: &str = "the coordinator answers by itself when the transaction before is complete";
const TOKENS: &str = "delegation tokens are not served yet";
const JAVA: &str = "it names a Java class, and none is loaded";
const JVM: &str = "it belongs to the JVM's metrics";
const PURGATORY: &str = "completed waits leave the purgatory at once";
const RAFT: &str = "it belongs to Kafka's own Raft; here followers are sent the log and do not fetch it";
const METADATA_LOG: &str = "the metadata log has no segments; it is cut when a snapshot is made";
const MOVES: &str = "one task makes all moves between log directories, a piece of each in turn";
const MOVES_QUOTA: &str = "the rate is kept by a bucket of one second";

/// By name, or by prefix with a `*` at its end. The first row that fits counts.
const BROKER: &[(&str, Support)] = &[
    // Odradek's own.
    ("odradek.*", Honoured),
    // Who and where.
    ("node.id", Honoured),
    ("broker.id", Honoured),
    ("broker.rack", Honoured),
    ("process.roles", Honoured),
    ("listeners", Honoured),
    ("advertised.listeners", Honoured),
    ("listener.security.protocol.map", Honoured),
    ("inter.broker.listener.name", Honoured),
    ("security.inter.broker.protocol", Honoured),
    ("controller.listener.names", Honoured),
    ("early.start.listeners", WithoutEffect("all listeners open when the broker is ready")),
    ("log.dir", Honoured),
    ("log.dirs", Honoured),
    ("metadata.log.dir", Honoured),
    ("cordoned.log.dirs", Refused("log directories cannot be cordoned yet")),
    // The quorum.
    ("controller.quorum.voters", Honoured),
    ("controller.quorum.bootstrap.servers", Honoured),
    ("controller.quorum.election.timeout.ms", Honoured),
    ("controller.quorum.auto.join.enable", Refused("the quorum is the static set of controller.quorum.voters")),
    (
        "controller.quorum.election.backoff.max.ms",
        WithoutEffect("a vote is asked for after a random part of the election timeout"),
    ),
    ("controller.quorum.*", WithoutEffect(RAFT)),
    ("controller.socket.timeout.ms", WithoutEffect("controllers are spoken to over gRPC")),
    ("metadata.log.max.record.bytes.between.snapshots", Honoured),
    ("metadata.log.max.snapshot.interval.ms", Honoured),
    ("metadata.max.idle.interval.ms", WithoutEffect("the Raft leader's heartbeats show that it lives")),
    ("metadata.*", WithoutEffect(METADATA_LOG)),
    // Brokers' lives and leaders.
    ("broker.heartbeat.interval.ms", Honoured),
    ("broker.session.timeout.ms", Honoured),
    ("initial.broker.registration.timeout.ms", Honoured),
    ("controlled.shutdown.enable", Honoured),
    ("auto.leader.rebalance.enable", Honoured),
    ("leader.imbalance.check.interval.seconds", Honoured),
    ("unclean.leader.election.enable", Honoured),
    ("min.insync.replicas", Honoured),
    ("default.replication.factor", Honoured),
    ("num.partitions", Honoured),
    ("auto.create.topics.enable", Honoured),
    ("delete.topic.enable", Honoured),
    ("max.request.partition.size.limit", Honoured),
    // Network.
    ("num.network.threads", WithoutEffect("two threads serve all sockets; more only passed work around when measured")),
    (
        "num.io.threads",
        WithoutEffect("requests are handled where they are read; disk reads that would block have a pool"),
    ),
    ("background.threads", WithoutEffect("background work runs on the same threads")),
    ("socket.request.max.bytes", Honoured),
    ("socket.send.buffer.bytes", WithoutEffect(BUFFERS)),
    ("socket.receive.buffer.bytes", WithoutEffect(BUFFERS)),
    ("socket.listen.backlog.size", Honoured),
    (
        "socket.connection.setup.timeout.*",
        WithoutEffect("a connection to another broker has replica.socket.timeout.ms"),
    ),
    (
        "queued.max.requests",
        WithoutEffect(
            "a request is handled where it is read, so none is queued; odradek.memory.request.bytes bounds what is in hand",
        ),
    ),
    ("queued.max.request.bytes", Honoured),
    ("connections.max.idle.ms", Honoured),
    ("connections.max.reauth.ms", WithoutEffect(SASL)),
    ("connection.failed.authentication.delay.ms", WithoutEffect(SASL)),
    ("max.connections", Honoured),
    ("max.connections.per.ip", Honoured),
    ("max.connections.per.ip.overrides", Honoured),
    ("max.connection.creation.rate", Honoured),
    ("max.incremental.fetch.session.cache.slots", Honoured),
    ("fetch.max.bytes", Honoured),
    ("request.timeout.ms", Honoured),
    ("*.purgatory.purge.interval.requests", WithoutEffect(PURGATORY)),
    // Replication.
    ("num.replica.fetchers", Honoured),
    ("num.replica.alter.log.dirs.threads", WithoutEffect(MOVES)),
    ("alter.log.dirs.replication.*", WithoutEffect(MOVES_QUOTA)),
    ("replica.selector.class", Refused("consumers fetch from leaders only, so far")),
    ("replica.socket.receive.buffer.bytes", WithoutEffect(BUFFERS)),
    ("replica.*", Honoured),
    // Logs.
    ("num.recovery.threads.per.data.dir", Honoured),
    ("message.max.bytes", Honoured),
    ("compression.*", Honoured),
    ("log.preallocate", Honoured),
    ("log.local.retention.*", WithoutEffect(TIERED)),
    ("log.dir.failure.timeout.ms", WithoutEffect("every heartbeat names the failed directories")),
    ("log.*", Honoured),
    ("producer.id.expiration.ms", Honoured),
    // Groups and transactions.
    ("group.share.*", WithoutEffect(SHARE)),
    ("group.streams.*", WithoutEffect(STREAMS)),
    ("group.initial.rebalance.delay.ms", Honoured),
    ("group.max.session.timeout.ms", Honoured),
    ("group.max.size", Honoured),
    ("group.min.session.timeout.ms", Honoured),
    ("group.coordinator.rebalance.protocols", Honoured),
    ("group.coordinator.*", WithoutEffect(COORDINATOR)),
    ("group.consumer.*", Honoured),
    ("offset.metadata.max.bytes", Honoured),
    ("offsets.*", Honoured),
    ("share.coordinator.*", WithoutEffect(SHARE)),
    ("transaction.*", Honoured),
    ("transactional.id.expiration.ms", Honoured),
    ("add.partitions.to.txn.retry.backoff.ms", WithoutEffect(ADD_PARTITIONS)),
    ("add.partitions.to.txn.retry.backoff.max.ms", Honoured),
    // What would silently weaken a cluster if it were ignored.
    ("authorizer.class.name", Refused("authorisation is not served yet, and ignoring this would let everybody in")),
    ("create.topic.policy.class.name", Refused(JAVA)),
    ("alter.config.policy.class.name", Refused(JAVA)),
    ("config.providers", Refused(JAVA)),
    ("remote.log.storage.system.enable", Refused(TIERED)),
    ("principal.builder.class", Refused(JAVA)),
    ("client.quota.callback.class", Refused(JAVA)),
    ("ssl.engine.factory.class", Refused(JAVA)),
    ("security.providers", Refused(JAVA)),
    // The rest.
    ("remote.*", WithoutEffect(TIERED)),
    ("follower.fetch.last.tiered.offset.enable", WithoutEffect(TIERED)),
    ("delegation.token.*", WithoutEffect(TOKENS)),
    ("ssl.*", WithoutEffect(TLS)),
    ("sasl.*", WithoutEffect(SASL)),
    ("quota.*", WithoutEffect(QUOTAS)),
    ("controller.quota.*", WithoutEffect(QUOTAS)),
    ("replication.quota.*", WithoutEffect(QUOTAS)),
    ("kafka.metrics.*", WithoutEffect(JVM)),
    ("metric.reporters", WithoutEffect(JVM)),
    ("metrics.*", WithoutEffect(JVM)),
    ("telemetry.max.bytes", WithoutEffect("clients' telemetry is not taken yet")),
];

const TOPIC: &[(&str, Support)] = &[
    ("preallocate", Honoured),
    ("local.retention.*", WithoutEffect(TIERED)),
    ("remote.log.*", WithoutEffect(TIERED)),
    ("remote.storage.enable", Refused(TIERED)),
    ("follower.replication.throttled.replicas", Honoured),
    ("leader.replication.throttled.replicas", Honoured),
    ("*", Honoured),
];

/// What becomes of a node's config; a name that is not defined is `WithoutEffect`.
pub fn broker_support(name: &str) -> Support {
    find(BROKER, name)
}

/// What becomes of a topic's config.
pub fn topic_support(name: &str) -> Support {
    find(TOPIC, name)
}

fn find(table: &[(&str, Support)], name: &str) -> Support {
    let fits = |pattern: &str| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => name.starts_with(prefix),
        (None, Some(suffix)) => name.ends_with(suffix),
        (None, None) => name == pattern,
    };
    let row = table.iter().find(|(pattern, _)| fits(pattern));
    row.map_or(WithoutEffect("it is not known"), |(_, support)| *support)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{broker_definitions, topic_definitions};

    #[test]
    fn every_config_has_a_row_and_every_row_a_config() {
        for definition in broker_definitions() {
            assert_ne!(broker_support(definition.name), WithoutEffect("it is not known"), "{}", definition.name);
        }
        let broker: Vec<&str> = broker_definitions().iter().map(|definition| definition.name).collect();
        let topic: Vec<&str> = topic_definitions().iter().map(|definition| definition.name).collect();
        for (table, names) in [(BROKER, broker), (TOPIC, topic)] {
            for (at, (pattern, _)) in table.iter().enumerate() {
                // The row must win for at least one name, or it is dead.
                let wins = |name: &&str| find(&table[..at], name) == WithoutEffect("it is not known");
                let fits = |name: &&str| find(&table[at..=at], name) != WithoutEffect("it is not known");
                assert!(
                    names.iter().any(|name| wins(name) && fits(name)),
                    "{pattern} is not the first to fit any config"
                );
            }
        }
    }
}
