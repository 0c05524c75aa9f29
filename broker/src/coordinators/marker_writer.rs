//! Writes the ends of transactions to partitions that are led here, for whoever coordinates them.

use std::sync::Arc;
use std::time::Duration;

use odradek_broker_core::coordinator::TransactionEnd;
use odradek_broker_core::group::OFFSETS_TOPIC;
use odradek_common::{
    BrokerId, Decision, ErrorCode, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicIdPartition,
};
use odradek_metadata::Image;
use odradek_node::World;
use odradek_node::world::BoxFuture;
use odradek_records::EndTxnMarker;
use odradek_wire::own;
use odradek_wire::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use odradek_wire::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};

use super::GroupCoordinators;
use crate::metadata::MetadataCache;
use crate::replica::{AppendEntry, AppendOrigin, Outcome, ReplicaManager};

/// From this `transaction.version` on a marker's epoch is above that of its transaction (KIP-890, KIP-1228).
const BUMPED_EPOCH: i8 = 2;

/// Each marker is a batch of its own in each partition; it counts when all of the ISR has it.
pub struct MarkerWriter {
    world: World,
    local: BrokerId,
    cache: MetadataCache,
    replicas: Arc<ReplicaManager>,
    groups: Arc<GroupCoordinators>,
    /// `request.timeout.ms`.
    patience: Duration,
}

/// What becomes of one partition's marker.
type Written = Outcome<ErrorCode>;

impl MarkerWriter {
    pub fn new(
        world: World,
        local: BrokerId,
        cache: MetadataCache,
        replicas: Arc<ReplicaManager>,
        groups: Arc<GroupCoordinators>,
        patience: Duration,
    ) -> Self {
        Self { world, local, cache, replicas, groups, patience }
    }

    /// Appends at once; what comes back is ready when all of it is committed, or has failed.
    pub fn write(&self, markers: &[WritableTxnMarker]) -> BoxFuture<Vec<WritableTxnMarkerResult>> {
        let image = self.cache.image();
        let mut written = Vec::with_capacity(markers.len());
        for marker in markers {
            let mut topics = Vec::with_capacity(marker.topics.len());
            for topic in &marker.topics {
                let decisions = decisions(marker, topic).chain(std::iter::repeat(None));
                let partitions = topic.partition_indexes.iter().zip(decisions).map(|(index, decision)| {
                    (*index, self.write_to(&image, marker, decision, &topic.name, PartitionIndex(*index)))
                });
                topics.push((topic.name.detached(), partitions.collect::<Vec<_>>()));
            }
            // As with Kafka, a marker for nowhere has no result.
            if !topics.is_empty() {
                written.push((marker.producer_id, topics));
            }
        }
        Box::pin(async move {
            let mut results = Vec::with_capacity(written.len());
            for (producer_id, topics) in written {
                let mut topic_results = Vec::with_capacity(topics.len());
                for (name, partitions) in topics {
                    let mut partition_results = Vec::with_capacity(partitions.len());
                    for (partition_index, outcome) in partitions {
                        let error_code = outcome.wait().await.code();
                        partition_results.push(WritableTxnMarkerPartitionResult {
                            partition_index,
                            error_code,
                            ..WritableTxnMarkerPartitionResult::default()
                        });
                    }
                    topic_results.push(WritableTxnMarkerTopicResult {
                        name,
                        partitions: partition_results,
                        ..WritableTxnMarkerTopicResult::default()
                    });
                }
                results.push(WritableTxnMarkerResult {
                    producer_id,
                    topics: topic_results,
                    ..WritableTxnMarkerResult::default()
                });
            }
            results
        })
    }

    fn write_to(
        &self,
        image: &Image,
        marker: &WritableTxnMarker,
        decision: Option<Decision>,
        topic: &str,
        index: PartitionIndex,
    ) -> Written {
        let found = image.topic_by_name(topic);
        let registration = found.and_then(|topic| topic.partition(index));
        // A partition that is not here is unknown, as with Kafka: whoever sends markers looks for its leader again.
        let (Some(found), true) = (found, registration.is_some_and(|it| it.replicas.contains(&self.local))) else {
            return Outcome::Done(ErrorCode::UnknownTopicOrPartition);
        };
        let id = TopicIdPartition { topic_id: found.id, partition: index };
        let end = TransactionEnd {
            producer: ProducerId(marker.producer_id),
            epoch: ProducerEpoch(marker.producer_epoch),
            marker: EndTxnMarker { is_commit: marker.transaction_result, coordinator_epoch: marker.coordinator_epoch },
            bumped: marker.transaction_version >= BUMPED_EPOCH,
            decision,
        };
        if topic == OFFSETS_TOPIC {
            return self.groups.end_transaction(index, end).map(|result| result.err().unwrap_or(ErrorCode::None));
        }
        let batch = end.marker.batch(end.producer, end.epoch, self.world.timestamp());
        let entries = vec![AppendEntry::new(id, batch)];
        let origin = AppendOrigin::Marker { bumped: end.bumped, decision };
        self.replicas
            .append_as(origin, entries, -1, self.patience)
            .map(|results| results.first().map_or(ErrorCode::UnknownServerError, |result| result.error))
    }
}

/// What a marker for each of a topic's partitions is of, as far as its sender tells: Kafka's do not.
fn decisions<'a>(
    marker: &'a WritableTxnMarker,
    topic: &'a WritableTxnMarkerTopic,
) -> impl Iterator<Item = Option<Decision>> + 'a {
    let offset = own::field(&marker.unknown_tagged_fields, own::MARKER_DECISION);
    let offset = offset.and_then(|field| own::numbers(field).next()).map(Offset);
    let epochs = own::field(&topic.unknown_tagged_fields, own::MARKER_LEADER_EPOCHS);
    epochs.into_iter().flat_map(own::numbers).map(move |epoch| {
        let leader_epoch = LeaderEpoch(i32::try_from(epoch).ok()?);
        Some(Decision { offset: offset?, leader_epoch })
    })
}
