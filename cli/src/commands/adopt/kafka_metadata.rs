//! The metadata of a KRaft cluster, as a node of Kafka keeps it: the newest snapshot and the log behind it, replayed into our
//! image.
//!
//! Kafka's `BatchFileReader`, `MetadataDelta` and the replay methods of its control managers, for the records that mean
//! something here. What is left behind is counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use odradek_broker_storage::KAFKAS_METADATA_DIR;
use odradek_broker_storage::files::{self, BatchFile, FileKind};
use odradek_common::Offset;
use odradek_common::config::SecurityProtocol;
use odradek_common::fs::Fs;
use odradek_metadata::proto::{self, Record, record::Kind};
use odradek_metadata::{ConfigResource, Image, ResourceType, partition_record};
use odradek_records::{ControlType, DECOMPRESSED_BYTES_MAX, control};
use odradek_wire as wire;
use odradek_wire::{MetadataFrame, TypedRecord};

use crate::error::CliError;

/// What one directory has.
#[derive(Debug)]
pub struct Found {
    pub dir: PathBuf,
    /// The Raft epoch of the last batch, and the offset behind it: how two copies compare.
    pub epoch: i32,
    pub end: Offset,
    pub metadata: KafkaMetadata,
}

/// A cluster's metadata.
#[derive(Debug, Default)]
pub struct KafkaMetadata {
    pub image: Image,
    /// Controllers of Kafka that registered.
    pub controllers: Vec<i32>,
    /// Records of what has no place here, by what they are.
    pub left_behind: BTreeMap<&'static str, i64>,
    /// Records of a metadata transaction that has not ended.
    transaction: Option<Vec<MetadataRecord>>,
}

#[derive(Debug)]
struct MetadataRecord {
    offset: i64,
    frame: MetadataFrame,
}

/// The directory of the metadata: `dir` itself, or the one in it.
pub fn locate(fs: &dyn Fs, dir: &Path) -> Option<PathBuf> {
    let inner = dir.join(KAFKAS_METADATA_DIR);
    if fs.exists(&inner).unwrap_or(false) {
        return Some(inner);
    }
    dir.ends_with(KAFKAS_METADATA_DIR).then(|| dir.to_owned())
}

/// Reads what a directory has.
///
/// # Errors
/// When it is damaged, or has records that this version does not know.
pub fn read(fs: &dyn Fs, dir: &Path) -> Result<Found, CliError> {
    let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
    let files = files::list(fs, dir).map_err(failed)?;
    let mut found = Found { dir: dir.to_owned(), epoch: -1, end: Offset(0), metadata: KafkaMetadata::default() };
    let snapshots = files.iter().filter_map(|(path, kind)| match kind {
        FileKind::MetadataSnapshot { end } => Some((*end, path)),
        _ => None,
    });
    if let Some((end, path)) = snapshots.max_by_key(|(end, _)| *end) {
        if !found.read_file(fs, path, None)? {
            return Err(damaged(path, "it ends before its footer"));
        }
        found.end = end;
    }
    let logs: Vec<(i64, &PathBuf)> = files
        .iter()
        .filter_map(|(path, kind)| match kind {
            FileKind::Log { base } => Some((base.0, path)),
            _ => None,
        })
        .collect();
    for (index, (_, path)) in logs.iter().enumerate() {
        // A segment that ends at or below the snapshot is in it.
        if logs.get(index + 1).is_none_or(|(next, _)| *next > found.end.0) {
            found.read_file(fs, path, Some(found.end))?;
        }
    }
    if found.metadata.transaction.take().is_some() {
        // What was not ended was not done.
        note(dir, "a metadata transaction that had not ended is left out");
    }
    Ok(found)
}

fn note(dir: &Path, what: &str) {
    eprintln!("odradek: {}: {what}", dir.display());
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> CliError {
    CliError::failed(format!(
        "{} cannot be used: {what}; name the directory of another controller with --metadata",
        path.display()
    ))
}

impl Found {
    /// Replays the records of a file, of a log those from `from` on. Whether it closes with a snapshot's footer.
    fn read_file(&mut self, fs: &dyn Fs, path: &Path, from: Option<Offset>) -> Result<bool, CliError> {
        let file = BatchFile::open(fs, path).map_err(|error| damaged(path, error))?;
        let mut has_footer = false;
        for found in file.batches(0) {
            let found = found.map_err(|error| damaged(path, error))?;
            found.crc.map_err(|error| damaged(path, format!("at byte {}: {error}", found.position)))?;
            let header = &found.header;
            self.epoch = self.epoch.max(header.leader_epoch.0);
            if from.is_some() {
                if header.last_offset() < self.end {
                    continue;
                }
                if header.base_offset > self.end {
                    let gap = format!("records from offset {} to {} are missing", self.end, header.base_offset);
                    return Err(damaged(path, gap));
                }
            }
            let batch = file.read(&found).map_err(|error| damaged(path, error))?;
            let records = batch.records(DECOMPRESSED_BYTES_MAX).map_err(|error| damaged(path, error))?;
            for record in records {
                let record = record.map_err(|error| damaged(path, error))?;
                if from.is_some_and(|_| record.offset < self.end) {
                    continue;
                }
                if header.attributes.is_control() {
                    // Kafka's number of a snapshot's footer.
                    has_footer |= control::control_type(&record).is_ok_and(|kind| kind == ControlType::Other(4));
                    continue;
                }
                let (offset, value) = (record.offset.0, record.value.unwrap_or_default());
                let wrong =
                    |what: &dyn std::fmt::Display| damaged(path, format!("the record at offset {offset}: {what}"));
                let frame = MetadataFrame::open(value).map_err(|error| wrong(&error))?;
                self.metadata.take(MetadataRecord { offset, frame }).map_err(|what| wrong(&what))?;
            }
            if from.is_some() {
                self.end = header.next_offset();
            }
        }
        Ok(has_footer)
    }
}

impl KafkaMetadata {
    /// Replays a record, or keeps it until its transaction ends.
    fn take(&mut self, record: MetadataRecord) -> Result<(), String> {
        match record.frame.kind {
            wire::BeginTransactionRecord::RECORD_TYPE => self.transaction = Some(Vec::new()),
            wire::AbortTransactionRecord::RECORD_TYPE => self.transaction = None,
            wire::EndTransactionRecord::RECORD_TYPE => {
                for record in self.transaction.take().unwrap_or_default() {
                    self.replay(record)?;
                }
            }
            _ => match &mut self.transaction {
                Some(transaction) => transaction.push(record),
                None => self.replay(record)?,
            },
        }
        Ok(())
    }

    fn replay(&mut self, record: MetadataRecord) -> Result<(), String> {
        let MetadataRecord { offset, frame } = record;
        let kind = match frame.kind {
            wire::TopicRecord::RECORD_TYPE => {
                let record: wire::TopicRecord = decode(frame)?;
                Kind::Topic(proto::TopicRecord { name: record.name.to_string(), topic_id: record.topic_id.0.to_vec() })
            }
            wire::RemoveTopicRecord::RECORD_TYPE => {
                let record: wire::RemoveTopicRecord = decode(frame)?;
                Kind::RemoveTopic(proto::RemoveTopicRecord { topic_id: record.topic_id.0.to_vec() })
            }
            wire::PartitionRecord::RECORD_TYPE => Kind::Partition(partition(decode(frame)?)),
            wire::PartitionChangeRecord::RECORD_TYPE => Kind::PartitionChange(partition_change(decode(frame)?)),
            wire::ConfigRecord::RECORD_TYPE => match config(decode(frame)?) {
                Some(record) => Kind::Config(record),
                None => return self.leave("configs of an unknown kind", 1),
            },
            wire::FeatureLevelRecord::RECORD_TYPE => {
                let record: wire::FeatureLevelRecord = decode(frame)?;
                Kind::FeatureLevel(proto::FeatureLevelRecord {
                    name: record.name.to_string(),
                    level: i32::from(record.feature_level),
                })
            }
            wire::ProducerIdsRecord::RECORD_TYPE => {
                let record: wire::ProducerIdsRecord = decode(frame)?;
                Kind::ProducerIds(proto::ProducerIdsRecord {
                    broker_id: record.broker_id,
                    broker_epoch: record.broker_epoch,
                    next_producer_id: record.next_producer_id,
                })
            }
            wire::RegisterBrokerRecord::RECORD_TYPE => Kind::RegisterBroker(broker(decode(frame)?)?),
            wire::UnregisterBrokerRecord::RECORD_TYPE => {
                let record: wire::UnregisterBrokerRecord = decode(frame)?;
                Kind::UnregisterBroker(proto::UnregisterBrokerRecord {
                    broker_id: record.broker_id,
                    broker_epoch: record.broker_epoch,
                })
            }
            wire::BrokerRegistrationChangeRecord::RECORD_TYPE => {
                let record: wire::BrokerRegistrationChangeRecord = decode(frame)?;
                // Kafka's `BrokerRegistrationFencingChange`: 1 fences, -1 takes it back.
                let fenced = match record.fenced {
                    0 => None,
                    change => Some(change > 0),
                };
                let ids: Vec<Vec<u8>> = record.log_dirs.iter().map(|id| id.0.to_vec()).collect();
                Kind::BrokerRegistrationChange(proto::BrokerRegistrationChangeRecord {
                    broker_id: record.broker_id,
                    broker_epoch: record.broker_epoch,
                    fenced,
                    in_controlled_shutdown: (record.in_controlled_shutdown > 0).then_some(true),
                    log_dirs: (!ids.is_empty()).then_some(proto::Directories { ids }),
                    ..Default::default()
                })
            }
            wire::ClearElrRecord::RECORD_TYPE => {
                return self.clear_elr(&decode::<wire::ClearElrRecord>(frame)?, offset);
            }
            wire::RegisterControllerRecord::RECORD_TYPE => {
                self.controllers.push(decode::<wire::RegisterControllerRecord>(frame)?.controller_id);
                return Ok(());
            }
            wire::FenceBrokerRecord::RECORD_TYPE => {
                let record: wire::FenceBrokerRecord = decode(frame)?;
                Kind::BrokerRegistrationChange(fencing(record.id, record.epoch, true))
            }
            wire::UnfenceBrokerRecord::RECORD_TYPE => {
                let record: wire::UnfenceBrokerRecord = decode(frame)?;
                Kind::BrokerRegistrationChange(fencing(record.id, record.epoch, false))
            }
            wire::NoOpRecord::RECORD_TYPE | wire::ZkMigrationStateRecord::RECORD_TYPE => return Ok(()),
            wire::AccessControlEntryRecord::RECORD_TYPE => return self.leave("ACLs", 1),
            wire::RemoveAccessControlEntryRecord::RECORD_TYPE => return self.leave("ACLs", -1),
            wire::UserScramCredentialRecord::RECORD_TYPE => return self.leave("SCRAM credentials", 1),
            wire::RemoveUserScramCredentialRecord::RECORD_TYPE => return self.leave("SCRAM credentials", -1),
            wire::DelegationTokenRecord::RECORD_TYPE => return self.leave("delegation tokens", 1),
            wire::RemoveDelegationTokenRecord::RECORD_TYPE => return self.leave("delegation tokens", -1),
            wire::ClientQuotaRecord::RECORD_TYPE => {
                let removed = decode::<wire::ClientQuotaRecord>(frame)?.remove;
                return self.leave("client quotas", if removed { -1 } else { 1 });
            }
            other => return Err(format!("of the unknown type {other}; a newer Kafka wrote it")),
        };
        self.apply(kind, offset)
    }

    fn apply(&mut self, kind: Kind, offset: i64) -> Result<(), String> {
        self.image.replay(&Record { kind: Some(kind) }, offset).map_err(|error| error.to_string())
    }

    fn leave(&mut self, what: &'static str, count: i64) -> Result<(), String> {
        let left = self.left_behind.entry(what).or_default();
        // Quotas are set anew by the same record, so that the number is an upper bound of what there is.
        *left = (*left + count).max(0);
        Ok(())
    }

    /// Of a topic, or of all.
    fn clear_elr(&mut self, record: &wire::ClearElrRecord, offset: i64) -> Result<(), String> {
        let names = |name: &str| record.topic_name.is_empty() || *record.topic_name == *name;
        let partitions = self.image.partitions().filter(|(topic, ..)| names(&topic.name));
        let cleared: Vec<_> = partitions
            .map(|(topic, index, registration)| {
                let mut record = partition_record(topic.id, index, registration);
                record.elr.clear();
                record.last_known_elr.clear();
                record
            })
            .collect();
        cleared.into_iter().try_for_each(|record| self.apply(Kind::Partition(record), offset))
    }

    /// The image that a quorum of ours begins with: what Kafka's last controller knew. Brokers that were serving then are
    /// taken for alive until they register anew or are fenced for their silence, as when a whole cluster of ours starts again.
    ///
    /// # Errors
    /// When the records do not fit together.
    pub fn to_bootstrap(&self, cluster_id: &str) -> Result<Image, String> {
        let mut image = self.image.clone();
        let offset = image.offset();
        let kind = Kind::Cluster(proto::ClusterRecord { cluster_id: cluster_id.to_owned() });
        image.replay(&Record { kind: Some(kind) }, offset).map_err(|error| error.to_string())?;
        Ok(image)
    }

    /// What was set on things of this kind, and how much of it.
    pub fn configs(&self, kind: ResourceType) -> impl Iterator<Item = (&ConfigResource, usize)> {
        self.image
            .configs()
            .filter(move |(resource, _)| resource.kind == kind)
            .map(|(resource, set)| (resource, set.len()))
    }
}

fn decode<M: odradek_wire::Message>(frame: MetadataFrame) -> Result<M, String> {
    frame.decode().map_err(|error| error.to_string())
}

fn directories(ids: &[wire::Uuid]) -> Vec<Vec<u8>> {
    ids.iter().map(|id| id.0.to_vec()).collect()
}

fn partition(record: wire::PartitionRecord) -> proto::PartitionRecord {
    proto::PartitionRecord {
        topic_id: record.topic_id.0.to_vec(),
        partition: record.partition_id,
        directories: directories(&record.directories),
        replicas: record.replicas,
        isr: record.isr,
        removing_replicas: record.removing_replicas,
        adding_replicas: record.adding_replicas,
        leader: record.leader,
        leader_recovery_state: i32::from(record.leader_recovery_state),
        leader_epoch: record.leader_epoch,
        partition_epoch: record.partition_epoch,
        elr: record.eligible_leader_replicas.unwrap_or_default(),
        last_known_elr: record.last_known_elr.unwrap_or_default(),
    }
}

fn partition_change(record: wire::PartitionChangeRecord) -> proto::PartitionChangeRecord {
    /// Kafka's `PartitionRegistration.NO_LEADER_CHANGE`; -1 is no leader.
    const NO_LEADER_CHANGE: i32 = -2;
    let ids = |ids: Option<Vec<i32>>| ids.map(|ids| proto::Ids { ids });
    proto::PartitionChangeRecord {
        topic_id: record.topic_id.0.to_vec(),
        partition: record.partition_id,
        isr: ids(record.isr),
        leader: Some(record.leader).filter(|leader| *leader != NO_LEADER_CHANGE),
        replicas: ids(record.replicas),
        removing_replicas: ids(record.removing_replicas),
        adding_replicas: ids(record.adding_replicas),
        leader_recovery_state: Some(i32::from(record.leader_recovery_state)).filter(|state| *state >= 0),
        directories: record.directories.map(|ids| proto::Directories { ids: directories(&ids) }),
        elr: ids(record.eligible_leader_replicas),
        last_known_elr: ids(record.last_known_elr),
    }
}

/// `None`: of a kind that has no place here.
fn config(record: wire::ConfigRecord) -> Option<proto::ConfigRecord> {
    let kind = ResourceType::from_code(i32::from(record.resource_type))?;
    Some(proto::ConfigRecord {
        resource_type: i32::from(kind.code()),
        resource_name: record.resource_name.to_string(),
        name: record.name.to_string(),
        value: record.value.map(|value| value.to_string()),
    })
}

fn fencing(broker_id: i32, broker_epoch: i64, fenced: bool) -> proto::BrokerRegistrationChangeRecord {
    proto::BrokerRegistrationChangeRecord { broker_id, broker_epoch, fenced: Some(fenced), ..Default::default() }
}

fn broker(record: wire::RegisterBrokerRecord) -> Result<proto::RegisterBrokerRecord, String> {
    let mut endpoints = Vec::with_capacity(record.end_points.len());
    for endpoint in &record.end_points {
        // Kafka's ids of its security protocols.
        let protocol = match endpoint.security_protocol {
            0 => SecurityProtocol::Plaintext,
            1 => SecurityProtocol::Ssl,
            2 => SecurityProtocol::SaslPlaintext,
            3 => SecurityProtocol::SaslSsl,
            other => return Err(format!("a listener has the unknown security protocol {other}")),
        };
        endpoints.push(proto::Endpoint {
            listener: endpoint.name.to_string(),
            host: endpoint.host.to_string(),
            port: u32::from(endpoint.port),
            security_protocol: protocol.name().to_owned(),
        });
    }
    let features = record.features.iter().map(|feature| proto::FeatureRange {
        name: feature.name.to_string(),
        min_level: i32::from(feature.min_supported_version),
        max_level: i32::from(feature.max_supported_version),
    });
    Ok(proto::RegisterBrokerRecord {
        broker_id: record.broker_id,
        incarnation_id: record.incarnation_id.0.to_vec(),
        broker_epoch: record.broker_epoch,
        endpoints,
        features: features.collect(),
        rack: record.rack.map(|rack| rack.to_string()),
        fenced: record.fenced,
        in_controlled_shutdown: record.in_controlled_shutdown,
        log_dirs: directories(&record.log_dirs),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use odradek_common::{BrokerId, LeaderEpoch, PartitionIndex, Uuid};
    use odradek_records::RecordBatchBuilder;
    use odradek_wire::{Encoder, Message};

    use super::*;

    const TOPIC: Uuid = Uuid([7; 16]);

    /// As Kafka frames it.
    fn framed<M: TypedRecord>(message: &M, version: i16) -> Bytes {
        let mut out = Encoder::new();
        for byte in [1, M::RECORD_TYPE as i8, version as i8] {
            out.i8(byte);
        }
        Message::encode(message, &mut out, version).expect("encoded");
        out.into_bytes().expect("no records in it")
    }

    fn taken(records: &[Bytes]) -> Result<KafkaMetadata, String> {
        let mut metadata = KafkaMetadata::default();
        for (offset, record) in (0..).zip(records) {
            let frame = MetadataFrame::open(record.clone()).map_err(|error| error.to_string())?;
            metadata.take(MetadataRecord { offset, frame })?;
        }
        Ok(metadata)
    }

    fn topic() -> [Bytes; 2] {
        let topic = wire::TopicRecord { name: "orders".into(), topic_id: TOPIC, ..Default::default() };
        let partition = wire::PartitionRecord {
            partition_id: 0,
            topic_id: TOPIC,
            replicas: vec![1, 2],
            isr: vec![1, 2],
            leader: 1,
            leader_epoch: 4,
            partition_epoch: 9,
            directories: vec![Uuid([1; 16]), Uuid([2; 16])],
            eligible_leader_replicas: Some(vec![3]),
            ..Default::default()
        };
        [framed(&topic, 0), framed(&partition, 2)]
    }

    fn partition(metadata: &KafkaMetadata) -> odradek_metadata::PartitionRegistration {
        metadata.image.partition(TOPIC, PartitionIndex(0)).expect("a partition").as_ref().clone()
    }

    #[test]
    fn changes_add_up_as_kafka_adds_them_up() {
        let isr = wire::PartitionChangeRecord {
            partition_id: 0,
            topic_id: TOPIC,
            isr: Some(vec![2]),
            leader: 2,
            ..Default::default()
        };
        let config = wire::ConfigRecord {
            resource_type: 2,
            resource_name: "orders".into(),
            name: "retention.ms".into(),
            value: Some("7".into()),
            ..Default::default()
        };
        let acl = wire::AccessControlEntryRecord::default();
        let [first, second] = topic();
        let records = [first, second, framed(&isr, 2), framed(&config, 0), framed(&acl, 0)];
        let metadata = taken(&records).expect("understood");
        let found = partition(&metadata);
        assert_eq!((found.leader, found.leader_epoch, found.partition_epoch.0), (BrokerId(2), LeaderEpoch(5), 10));
        assert_eq!(found.directories.as_slice(), [Uuid([1; 16]), Uuid([2; 16])]);
        assert_eq!(metadata.image.topic_config("orders", "retention.ms"), Some("7"));
        assert_eq!(metadata.left_behind.get("ACLs"), Some(&1));

        let bootstrap = metadata.to_bootstrap("MkU3OEVBNTcwNTJENDM2Qg").expect("it fits");
        let found = bootstrap.partition(TOPIC, PartitionIndex(0)).expect("a partition");
        assert_eq!((found.leader, found.isr.as_slice()), (BrokerId(2), &[BrokerId(2)][..]));
        assert_eq!(bootstrap.cluster_id(), "MkU3OEVBNTcwNTJENDM2Qg");
    }

    #[test]
    fn a_transaction_counts_when_it_has_ended() {
        let begin = framed(&wire::BeginTransactionRecord::default(), 0);
        let end = framed(&wire::EndTransactionRecord::default(), 0);
        let abort = framed(&wire::AbortTransactionRecord::default(), 0);
        let [first, second] = topic();
        for (last, topics) in [(Some(&end), 1), (Some(&abort), 0), (None, 0)] {
            let mut records = vec![begin.clone(), first.clone(), second.clone()];
            records.extend(last.cloned());
            assert_eq!(taken(&records).expect("understood").image.topic_count(), topics);
        }
    }

    #[test]
    fn eligible_replicas_are_cleared_and_topics_removed() {
        let [first, second] = topic();
        let clear = framed(&wire::ClearElrRecord::default(), 0);
        let metadata = taken(&[first.clone(), second.clone(), clear]).expect("understood");
        assert!(partition(&metadata).elr.is_empty());
        let remove = framed(&wire::RemoveTopicRecord { topic_id: TOPIC, ..Default::default() }, 0);
        assert_eq!(taken(&[first, second, remove]).expect("understood").image.topic_count(), 0);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let [first, second] = topic();
        assert!(taken(std::slice::from_ref(&second)).is_err(), "a partition of no topic");
        assert!(taken(&[Bytes::from_static(&[1, 99, 0])]).unwrap_err().contains("unknown type 99"));
        assert!(taken(&[Bytes::from_static(&[2, 2, 0])]).is_err(), "a frame of another version");
        for length in 0..first.len() {
            assert!(taken(&[first.slice(..length)]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_directory_is_read_and_a_gap_in_it_refused() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let fs = odradek_common::fs::RealFs;
        let write = |name: &str, batches: &[(i64, &Bytes)]| {
            let mut bytes = Vec::new();
            for (offset, value) in batches {
                let mut builder = RecordBatchBuilder::new().base_offset(Offset(*offset)).leader_epoch(LeaderEpoch(3));
                builder.append(odradek_common::time::Timestamp(1), None, Some(value));
                bytes.extend_from_slice(&builder.build().expect("a batch"));
            }
            std::fs::write(home.path().join(name), bytes).expect("written");
        };
        let [first, second] = topic();
        write("00000000000000000000.log", &[(0, &first), (1, &second)]);
        let found = read(&fs, home.path()).expect("readable");
        assert_eq!((found.epoch, found.end, found.metadata.image.topic_count()), (3, Offset(2), 1));
        write("00000000000000000000.log", &[(0, &first), (2, &second)]);
        let error = read(&fs, home.path()).expect_err("a gap").to_string();
        assert!(error.contains("from offset 1 to 2 are missing") && error.contains("--metadata"), "{error}");
        // A snapshot without its footer was not finished.
        write("00000000000000000002-0000000003.checkpoint", &[(0, &first), (1, &second)]);
        assert!(read(&fs, home.path()).expect_err("cut off").to_string().contains("before its footer"));
    }
}
