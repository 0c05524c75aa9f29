//! DescribeQuorum (KIP-595, KIP-836): what the active controller knows of the others and of the brokers that follow the
//! metadata. The shell gathers it; here is what it consists of, and how it is said in Kafka's encoding.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use bytes::Bytes;
use odradek_common::{BrokerId, ControllerId, ErrorCode};
use odradek_metadata::{DirectoryId, directory};
use odradek_wire::describe_quorum_request::DescribeQuorumRequest;
use odradek_wire::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};

use crate::api::{ForwardError, decode, encode};
use crate::topic_name::CLUSTER_METADATA;

/// The API's key.
pub const DESCRIBE_QUORUM: i16 = 55;

/// The first version that tells directories and addresses (KIP-853). Earlier ones cannot be written with them.
const WITH_DIRECTORIES: i16 = 2;

/// Milliseconds since 1970 UTC; -1: not known.
type Millis = i64;

/// One that follows the metadata log, or leads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follower {
    /// The last offset that it is known to have; -1 when that is unknown.
    pub offset: i64,
    pub last_fetch: Millis,
    pub last_caught_up: Millis,
}

impl Follower {
    pub const UNKNOWN: Self = Self { offset: -1, last_fetch: -1, last_caught_up: -1 };
}

/// One of the quorum.
#[derive(Clone, Debug)]
pub struct Controller {
    pub id: ControllerId,
    pub host: String,
    pub port: u16,
    pub is_voter: bool,
    pub follower: Follower,
}

/// A broker that follows.
#[derive(Clone, Debug)]
pub struct Observer {
    pub id: BrokerId,
    pub directory: DirectoryId,
    pub follower: Follower,
}

/// What this controller knows of the quorum. All but its own line are unknown where it does not lead.
#[derive(Clone, Debug)]
pub struct Quorum {
    pub leader: Option<ControllerId>,
    pub term: u64,
    /// The last offset that is applied here.
    pub committed: i64,
    pub controllers: Vec<Controller>,
    pub observers: Vec<Observer>,
}

/// The answer to a request without header, at `version`; `listener` is the name of the controllers' listener.
///
/// # Errors
/// [`ForwardError`].
pub fn answer(quorum: &Quorum, listener: &str, version: i16, body: Bytes) -> Result<Bytes, ForwardError> {
    let request = decode::<DescribeQuorumRequest>(version, body)?;
    let mut response = response(quorum, listener, &request);
    if version < WITH_DIRECTORIES {
        response.nodes.clear();
        let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
        for replica in partitions.flat_map(|one| one.current_voters.iter_mut().chain(&mut one.observers)) {
            replica.replica_directory_id = directory::UNASSIGNED;
        }
    }
    encode(version, &response)
}

/// In Kafka's terms, where offsets are those after the last.
fn response(quorum: &Quorum, listener: &str, request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let is_metadata = matches!(
        request.topics.as_slice(),
        [topic] if topic.topic_name == *CLUSTER_METADATA
            && matches!(topic.partitions.as_slice(), [partition] if partition.partition_index == 0)
    );
    if !is_metadata {
        return unknown(request);
    }
    let state = |id: i32, directory: DirectoryId, follower: &Follower| ReplicaState {
        replica_id: id,
        replica_directory_id: directory,
        log_end_offset: if follower.offset < 0 { -1 } else { follower.offset + 1 },
        last_fetch_timestamp: follower.last_fetch,
        last_caught_up_timestamp: follower.last_caught_up,
        ..ReplicaState::default()
    };
    let of = |is_voter: bool| {
        let members = quorum.controllers.iter().filter(move |controller| controller.is_voter == is_voter);
        members.map(|controller| state(controller.id.0, directory::UNASSIGNED, &controller.follower))
    };
    let brokers = quorum.observers.iter().map(|broker| state(broker.id.0, broker.directory, &broker.follower));
    let partition = PartitionData {
        leader_id: quorum.leader.map_or(-1, |id| id.0),
        leader_epoch: i32::try_from(quorum.term).unwrap_or(i32::MAX),
        high_watermark: quorum.committed + 1,
        current_voters: of(true).collect(),
        observers: of(false).chain(brokers).collect(),
        ..PartitionData::default()
    };
    let nodes = quorum.controllers.iter().filter(|controller| controller.is_voter).map(|controller| Node {
        node_id: controller.id.0,
        listeners: vec![Listener {
            name: listener.into(),
            host: controller.host.as_str().into(),
            port: controller.port,
            ..Listener::default()
        }],
        ..Node::default()
    });
    // Without an error Kafka's messages are what they are by default, empty.
    DescribeQuorumResponse {
        topics: vec![TopicData {
            topic_name: CLUSTER_METADATA.into(),
            partitions: vec![partition],
            ..TopicData::default()
        }],
        nodes: nodes.collect(),
        ..DescribeQuorumResponse::default()
    }
}

/// There is no other topic that a quorum keeps.
fn unknown(request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let error_code = ErrorCode::UnknownTopicOrPartition.code();
    let topics = request.topics.iter().map(|topic| TopicData {
        topic_name: topic.topic_name.clone(),
        partitions: (topic.partitions.iter())
            .map(|partition| PartitionData {
                partition_index: partition.partition_index,
                error_code,
                error_message: Some("Only partition 0 of __cluster_metadata is kept by the quorum.".into()),
                ..PartitionData::default()
            })
            .collect(),
        ..TopicData::default()
    });
    DescribeQuorumResponse { topics: topics.collect(), ..DescribeQuorumResponse::default() }
}

#[cfg(test)]
mod tests {
    use odradek_wire::describe_quorum_request as request;
    use odradek_wire::{ApiKey, Decoder, Encoder, Message};

    use super::*;

    fn ask(version: i16, topic: &str, index: i32) -> DescribeQuorumResponse {
        let partition = request::PartitionData { partition_index: index, ..Default::default() };
        let topic = request::TopicData { topic_name: topic.into(), partitions: vec![partition], ..Default::default() };
        let mut body = Encoder::new();
        DescribeQuorumRequest { topics: vec![topic], ..Default::default() }
            .encode(&mut body, version)
            .expect("encodable");
        let quorum = Quorum {
            leader: Some(ControllerId(101)),
            term: 3,
            committed: 41,
            controllers: vec![Controller {
                id: ControllerId(101),
                host: "localhost".to_owned(),
                port: 9093,
                is_voter: true,
                follower: Follower { offset: 41, last_fetch: 7, last_caught_up: 7 },
            }],
            observers: vec![Observer {
                id: BrokerId(1),
                directory: odradek_common::Uuid([7; 16]),
                follower: Follower { offset: 40, last_fetch: 6, last_caught_up: 5 },
            }],
        };
        let bytes = answer(&quorum, "CONTROLLER", version, body.into_bytes().expect("no holes")).expect("answered");
        DescribeQuorumResponse::decode(&mut Decoder::new(bytes), version).expect("decodable")
    }

    #[test]
    fn the_quorum_is_told_at_every_version() {
        for version in ApiKey::DescribeQuorum.versions() {
            let told = ask(version, CLUSTER_METADATA, 0);
            let partition = told.topics.first().and_then(|topic| topic.partitions.first()).expect("the partition");
            assert_eq!((told.error_code, partition.error_code), (0, 0), "version {version}");
            assert_eq!((partition.leader_id, partition.leader_epoch, partition.high_watermark), (101, 3, 42));
            assert_eq!(partition.current_voters.first().map(|voter| voter.log_end_offset), Some(42));
            assert_eq!(partition.observers.first().map(|observer| observer.log_end_offset), Some(41));
            assert_eq!(told.nodes.len(), usize::from(version >= WITH_DIRECTORIES));
            let told = ask(version, "another", 0);
            let partition = told.topics.first().and_then(|topic| topic.partitions.first()).expect("the partition");
            assert_eq!(partition.error_code, ErrorCode::UnknownTopicOrPartition.code(), "version {version}");
        }
    }
}
