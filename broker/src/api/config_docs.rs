//! What DescribeConfigs says about a config when it is asked for documentation (KIP-569): what may be written, and what
//! Odradek does with it.

use odradek_common::config::{
    Definition, Support, broker_support, broker_synonym, client_metrics_definitions, dynamic_definition,
    group_definition, topic_definition, topic_support,
};

/// Whose config it is: the same name can stand for different things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Described {
    Topic,
    Broker,
    Group,
    ClientMetrics,
}

/// A few words for people.
pub fn text(of: Described, name: &str) -> String {
    let (definition, support): (Option<&Definition>, Support) = match of {
        Described::Topic => (topic_definition(name), topic_support(name)),
        Described::Broker => (dynamic_definition(name), broker_support(name)),
        Described::Group => (group_definition(name), Support::Honoured),
        Described::ClientMetrics => {
            let found = client_metrics_definitions().iter().find(|definition| definition.name == name);
            (found, Support::WithoutEffect("clients do not push metrics to this version"))
        }
    };
    let allowed = definition.map(|definition| format!("Takes {}.", definition.allowed())).unwrap_or_default();
    let allowed = match meaning(of, name) {
        Some(meaning) => format!("{meaning} {allowed}"),
        None => allowed,
    };
    match support {
        Support::Honoured => allowed,
        Support::WithoutEffect(why) => format!("{allowed} Accepted without effect: {why}."),
        Support::Refused(why) => format!("{allowed} Only the default is accepted: {why}."),
    }
}

/// What it is for. A broker's config that stands in for a topic's is told as that.
fn meaning(of: Described, name: &str) -> Option<String> {
    let find =
        |table: &[(&'static str, &'static str)]| table.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    match of {
        Described::Topic => find(TOPIC).map(str::to_owned),
        Described::Group => find(GROUP).map(str::to_owned),
        Described::ClientMetrics => find(CLIENT_METRICS).map(str::to_owned),
        Described::Broker => {
            let stands_for = TOPIC.iter().find(|(topic, _)| broker_synonym(topic).any(|synonym| synonym == name));
            match (find(BROKER), stands_for) {
                (Some(text), _) => Some(text.to_owned()),
                (None, Some((topic, text))) => Some(format!("For topics that leave {topic} unset. {text}")),
                (None, None) => None,
            }
        }
    }
}

const TOPIC: &[(&str, &str)] = &[
    ("cleanup.policy", "What becomes of old records: removed by age and size, or only the last of each key kept."),
    ("compression.gzip.level", "How hard gzip tries where compression.type is gzip."),
    ("compression.lz4.level", "How hard lz4 tries where compression.type is lz4."),
    ("compression.type", "The codec in which batches are stored; producer leaves them as they came."),
    ("compression.zstd.level", "How hard zstd tries where compression.type is zstd."),
    ("delete.retention.ms", "For how long a compacted log keeps the marks of deleted keys."),
    ("file.delete.delay.ms", "From the moment a file is given up to its removal."),
    ("flush.messages", "Records after which a log is forced to the disk."),
    ("flush.ms", "Time after which what was written is forced to the disk."),
    (
        "follower.replication.throttled.replicas",
        "Replicas whose copying is held to the follower's rate, as partition:broker.",
    ),
    ("index.interval.bytes", "Bytes of log between two entries of an offset index."),
    (
        "leader.replication.throttled.replicas",
        "Replicas whose copying is held to the leader's rate, as partition:broker.",
    ),
    ("local.retention.bytes", "Bytes kept on local disks of a log that is stored remotely as well."),
    ("local.retention.ms", "Time kept on local disks of a log that is stored remotely as well."),
    ("max.compaction.lag.ms", "The longest that a record may wait to be compacted."),
    ("max.message.bytes", "The largest batch that is taken, as it comes over the wire."),
    ("message.timestamp.after.max.ms", "How far a record's time may lie in the future."),
    ("message.timestamp.before.max.ms", "How far a record's time may lie in the past."),
    ("message.timestamp.type", "Whose time a record bears: the producer's, or the broker's when it appends."),
    ("min.cleanable.dirty.ratio", "The part of a log that is not compacted yet at which it is worth a pass."),
    ("min.compaction.lag.ms", "The time for which a record is not compacted."),
    ("min.insync.replicas", "In-sync replicas without which producers that ask for all are refused."),
    ("preallocate", "Whether segments get their whole size when they are made."),
    ("remote.log.copy.disable", "Stops copying to remote storage."),
    ("remote.log.delete.on.disable", "Deletes what is stored remotely when remote storage is switched off."),
    ("remote.storage.enable", "Whether closed segments are stored remotely."),
    ("retention.bytes", "The size of a partition above which its oldest segments go; -1: no limit."),
    ("retention.ms", "The age at which segments go; -1: no limit."),
    ("segment.bytes", "The size at which a log goes on in a new segment."),
    ("segment.index.bytes", "The size of an offset index, at which its segment ends."),
    ("segment.jitter.ms", "At most so much earlier a segment ends by time, so that not all end at once."),
    ("segment.ms", "The age at which a log goes on in a new segment though it is not full."),
    (
        "unclean.leader.election.enable",
        "Whether a replica that is not in sync may lead rather than nobody; records may be lost.",
    ),
];

const GROUP: &[(&str, &str)] = &[
    ("consumer.assignment.interval.ms", "Between two computations of a consumer group's assignment."),
    ("consumer.heartbeat.interval.ms", "Between two heartbeats of a consumer."),
    ("consumer.session.timeout.ms", "A consumer that is silent for so long has left."),
    ("share.assignment.interval.ms", "Between two computations of a share group's assignment."),
    ("share.auto.offset.reset", "Where a share group begins in a partition that it does not know."),
    ("share.delivery.count.limit", "Deliveries after which a record is given up."),
    ("share.heartbeat.interval.ms", "Between two heartbeats of a share group's member."),
    ("share.isolation.level", "Whether a share group sees records of open transactions."),
    ("share.partition.max.record.locks", "Records of a partition that may be out for delivery at once."),
    ("share.record.lock.duration.ms", "For how long a delivered record is its consumer's."),
    ("share.renew.acknowledge.enable", "Whether a consumer may keep a record for longer."),
    ("share.session.timeout.ms", "A share group's member that is silent for so long has left."),
    ("streams.assignment.interval.ms", "Between two computations of a streams group's assignment."),
    ("streams.heartbeat.interval.ms", "Between two heartbeats of a streams group's member."),
    ("streams.initial.rebalance.delay.ms", "How long a new streams group waits for further members."),
    ("streams.num.standby.replicas", "Standby copies of each task's state."),
    ("streams.session.timeout.ms", "A streams group's member that is silent for so long has left."),
];

const CLIENT_METRICS: &[(&str, &str)] = &[
    ("interval.ms", "Between two pushes of a client's metrics."),
    ("match", "Which clients: pairs of a property and a pattern, all of which have to fit."),
    ("metrics", "Which metrics, by the beginnings of their names; an asterisk for all."),
];

const BROKER: &[(&str, &str)] = &[
    ("advertised.listeners", "Where clients and other brokers reach this one, if not at its listeners."),
    ("auto.create.topics.enable", "Whether a topic comes to be when somebody asks for it."),
    ("auto.leader.rebalance.enable", "Whether leadership goes back to the preferred replicas by itself."),
    ("broker.heartbeat.interval.ms", "Between two signs of life to the active controller."),
    ("broker.rack", "The rack of this broker, by which replicas are spread."),
    ("broker.session.timeout.ms", "A broker that is silent for so long is fenced."),
    ("connections.max.idle.ms", "A connection without requests for so long is closed."),
    ("controlled.shutdown.enable", "Whether a broker gives its leaderships away before it stops."),
    ("controller.quorum.voters", "The controllers, as ID@HOST:PORT."),
    ("default.replication.factor", "For topics that leave the number of replicas to the cluster."),
    ("delete.topic.enable", "Whether topics may be deleted."),
    ("fetch.max.bytes", "The most that one fetch is answered with."),
    ("follower.replication.throttled.rate", "Bytes a second for throttled replicas that this broker follows."),
    ("leader.replication.throttled.rate", "Bytes a second for throttled replicas that this broker leads."),
    ("listeners", "Where this broker listens, as NAME://HOST:PORT."),
    ("log.dirs", "The directories that hold the logs."),
    ("log.retention.check.interval.ms", "Between two looks for segments that are too old or too many."),
    ("max.connections", "Connections that may be open at once; further ones wait."),
    ("max.connections.per.ip", "Connections that may be open from one address."),
    ("node.id", "The id of this node, which no other has."),
    ("num.partitions", "For topics that leave the number of partitions to the cluster."),
    ("num.recovery.threads.per.data.dir", "How many logs of a directory are opened at once at the start."),
    ("num.replica.fetchers", "Connections to each other broker on which partitions are copied from it."),
    ("process.roles", "What this node is."),
    ("producer.id.expiration.ms", "A producer that is silent for so long is forgotten."),
    ("replica.fetch.max.bytes", "Bytes of one partition that a follower asks for at once."),
    ("replica.fetch.wait.max.ms", "How long a leader holds a follower's fetch that finds nothing."),
    ("replica.lag.time.max.ms", "A follower that has not caught up for so long leaves the in-sync replicas."),
    ("request.timeout.ms", "How long the broker waits for answers of others."),
    ("socket.request.max.bytes", "The largest request; a larger one closes its connection."),
];

#[cfg(test)]
mod tests {
    use odradek_common::config::{broker_definitions, group_definitions, topic_definitions};

    use super::*;

    #[test]
    fn every_config_is_told_of() {
        for definition in topic_definitions().iter().filter(|definition| definition.default.is_some()) {
            assert!(meaning(Described::Topic, definition.name).is_some(), "{}", definition.name);
        }
        for definition in group_definitions() {
            assert!(meaning(Described::Group, definition.name).is_some(), "{}", definition.name);
        }
        for definition in client_metrics_definitions() {
            assert!(meaning(Described::ClientMetrics, definition.name).is_some(), "{}", definition.name);
        }
        for (name, _) in BROKER {
            assert!(dynamic_definition(name).is_some(), "{name}");
        }
        for definition in broker_definitions() {
            assert!(!text(Described::Broker, definition.name).is_empty(), "{}", definition.name);
        }
        let told = text(Described::Broker, "log.retention.ms");
        assert!(told.starts_with("For topics that leave retention.ms unset. The age"), "{told}");
    }
}
