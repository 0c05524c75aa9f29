//! From a frame to its handler, and from the handler's answer to a frame.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odradek_wire::frame::{RequestFrame, encode_response};
use odradek_wire::{ApiKey, Message, Part as WirePart, Request};

use super::{Api, Client, FilePart, Outcome, Part, Reply, RequestContext, Response};
use crate::memory::MemoryPermit;

/// What this broker serves, and nothing else but what [`Api::apis`] adds: ApiVersions is answered from it, frames are refused
/// by it, and `docs/COMPATIBILITY.md` is checked against it.
pub const APIS: &[(ApiKey, RangeInclusive<i16>)] = &[
    (ApiKey::Produce, 3..=13),
    (ApiKey::Fetch, 4..=18),
    (ApiKey::ListOffsets, 1..=11),
    (ApiKey::Metadata, 0..=13),
    (ApiKey::OffsetCommit, 2..=10),
    (ApiKey::OffsetFetch, 1..=10),
    (ApiKey::FindCoordinator, 0..=6),
    (ApiKey::JoinGroup, 0..=9),
    (ApiKey::Heartbeat, 0..=4),
    (ApiKey::LeaveGroup, 0..=5),
    (ApiKey::SyncGroup, 0..=5),
    (ApiKey::DescribeGroups, 0..=6),
    (ApiKey::ListGroups, 0..=5),
    (ApiKey::ApiVersions, 0..=5),
    (ApiKey::CreateTopics, 2..=7),
    (ApiKey::DeleteTopics, 1..=6),
    (ApiKey::DeleteRecords, 0..=2),
    (ApiKey::InitProducerId, 0..=5),
    (ApiKey::OffsetForLeaderEpoch, 2..=4),
    (ApiKey::AddPartitionsToTxn, 0..=5),
    (ApiKey::AddOffsetsToTxn, 0..=4),
    (ApiKey::EndTxn, 0..=5),
    (ApiKey::WriteTxnMarkers, 1..=2),
    (ApiKey::TxnOffsetCommit, 0..=6),
    (ApiKey::DescribeConfigs, 1..=4),
    (ApiKey::AlterConfigs, 0..=2),
    (ApiKey::AlterReplicaLogDirs, 1..=2),
    (ApiKey::DescribeLogDirs, 1..=5),
    (ApiKey::CreatePartitions, 0..=3),
    (ApiKey::ElectLeaders, 0..=2),
    (ApiKey::IncrementalAlterConfigs, 0..=1),
    (ApiKey::AlterPartitionReassignments, 0..=1),
    (ApiKey::ListPartitionReassignments, 0..=0),
    (ApiKey::DeleteGroups, 0..=3),
    (ApiKey::OffsetDelete, 0..=0),
    (ApiKey::DescribeQuorum, 0..=2),
    (ApiKey::UpdateFeatures, 0..=2),
    (ApiKey::DescribeCluster, 0..=2),
    (ApiKey::DescribeProducers, 0..=0),
    (ApiKey::UnregisterBroker, 0..=0),
    (ApiKey::DescribeTransactions, 0..=0),
    (ApiKey::ListTransactions, 0..=2),
    (ApiKey::ConsumerGroupHeartbeat, 0..=1),
    (ApiKey::ConsumerGroupDescribe, 0..=1),
    (ApiKey::ListConfigResources, 0..=1),
    (ApiKey::DescribeTopicPartitions, 0..=0),
];

/// The version of InitProducerId that knows of two-phase commit (KIP-939). Kafka 4.4 calls it unstable.
const TWO_PHASE_COMMIT: i16 = 6;

/// A decoded request with all that its handler may ask about it.
pub struct Asked<R> {
    pub context: Arc<RequestContext>,
    pub version: i16,
    pub body: R,
    /// The memory of the frame; dropped with the request.
    pub permit: MemoryPermit,
}

/// A response's message, with the file ranges that fill its holes in order.
pub struct Answer<M> {
    pub message: M,
    pub files: Vec<FilePart>,
}

impl<M> From<M> for Answer<M> {
    fn from(message: M) -> Self {
        Self { message, files: Vec::new() }
    }
}

/// What the answer's header and encoding depend on.
#[derive(Clone, Copy)]
pub struct Envelope {
    pub api_key: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
}

impl Api {
    /// What is served with this configuration.
    pub(super) fn apis(&self) -> impl Iterator<Item = (ApiKey, RangeInclusive<i16>)> {
        let has_two_phases = self.config.transactions.two_phase_commit_enable;
        APIS.iter().cloned().map(move |(key, versions)| match key {
            ApiKey::InitProducerId if has_two_phases => (key, *versions.start()..=TWO_PHASE_COMMIT),
            _ => (key, versions),
        })
    }

    /// Handles a frame, without its length, as far as it goes at once.
    pub fn handle(self: &Arc<Self>, client: &mut Client, frame: Bytes, permit: MemoryPermit) -> Outcome<Reply> {
        let frame = match RequestFrame::parse(frame) {
            Ok(frame) => frame,
            Err(error) => return refuse(client, &error),
        };
        let (key, version) = (frame.api_key, frame.api_version);
        let envelope = Envelope { api_key: key, version, correlation_id: frame.correlation_id };
        if !self.apis().any(|(served, versions)| served == key && versions.contains(&version)) {
            if key == ApiKey::ApiVersions {
                let envelope = Envelope { version: 0, ..envelope };
                return Outcome::Done(encode(envelope, &self.unsupported_version().into()));
            }
            return refuse(client, &format_args!("{key} v{version} is not served"));
        }
        let context = client.context(frame.client_id.as_ref());
        let call = Call { api: self, envelope, frame, context, permit };
        match key {
            ApiKey::Produce => call.run_with(client, Api::produce, |envelope, answer| match answer {
                super::produce::Answered::Answer(message) => encode(envelope, &message.into()),
                super::produce::Answered::Nothing => Reply::Nothing,
                super::produce::Answered::Close => Reply::Close,
            }),
            ApiKey::Fetch => call.run(client, Api::fetch),
            ApiKey::ListOffsets => call.run(client, Api::list_offsets),
            ApiKey::Metadata => call.run(client, Api::metadata),
            ApiKey::OffsetCommit => call.run(client, Api::offset_commit),
            ApiKey::OffsetFetch => call.run(client, Api::offset_fetch),
            ApiKey::FindCoordinator => call.run(client, Api::find_coordinator),
            ApiKey::JoinGroup => call.run(client, Api::join_group),
            ApiKey::Heartbeat => call.run(client, Api::heartbeat),
            ApiKey::LeaveGroup => call.run(client, Api::leave_group),
            ApiKey::SyncGroup => call.run(client, Api::sync_group),
            ApiKey::ConsumerGroupHeartbeat => call.run(client, Api::consumer_group_heartbeat),
            ApiKey::ConsumerGroupDescribe => call.run(client, Api::consumer_group_describe),
            ApiKey::DescribeGroups => call.run(client, Api::describe_groups),
            ApiKey::ListGroups => call.run(client, Api::list_groups),
            ApiKey::DeleteGroups => call.run(client, Api::delete_groups),
            ApiKey::OffsetDelete => call.run(client, Api::offset_delete),
            ApiKey::ApiVersions => {
                let Some((asked, envelope)) = call.decode(client) else { return Outcome::Done(Reply::Close) };
                let message = self.api_versions(client, asked);
                Outcome::Done(encode(envelope, &message.into()))
            }
            ApiKey::CreateTopics => call.forward(client, Api::create_topics),
            ApiKey::DeleteTopics => call.forward(client, Api::delete_topics),
            ApiKey::DescribeQuorum => call.forward(client, Api::describe_quorum),
            ApiKey::UpdateFeatures => call.forward(client, Api::update_features),
            ApiKey::UnregisterBroker => call.forward(client, Api::unregister_broker),
            ApiKey::CreatePartitions => call.forward(client, Api::create_partitions),
            ApiKey::ElectLeaders => call.forward(client, Api::elect_leaders),
            ApiKey::AlterPartitionReassignments => call.forward(client, Api::alter_partition_reassignments),
            ApiKey::ListPartitionReassignments => call.forward(client, Api::list_partition_reassignments),
            ApiKey::DeleteRecords => call.run(client, Api::delete_records),
            ApiKey::AlterReplicaLogDirs => call.run(client, Api::alter_replica_log_dirs),
            ApiKey::DescribeLogDirs => call.run(client, Api::describe_log_dirs),
            ApiKey::DescribeProducers => call.run(client, Api::describe_producers),
            ApiKey::InitProducerId => call.run(client, Api::init_producer_id),
            ApiKey::AddPartitionsToTxn => call.run(client, Api::add_partitions_to_txn),
            ApiKey::AddOffsetsToTxn => call.run(client, Api::add_offsets_to_txn),
            ApiKey::EndTxn => call.run(client, Api::end_txn),
            ApiKey::WriteTxnMarkers => call.run(client, Api::write_txn_markers),
            ApiKey::TxnOffsetCommit => call.run(client, Api::txn_offset_commit),
            ApiKey::DescribeTransactions => call.run(client, Api::describe_transactions),
            ApiKey::ListTransactions => call.run(client, Api::list_transactions),
            ApiKey::OffsetForLeaderEpoch => call.run(client, Api::offset_for_leader_epoch),
            ApiKey::DescribeConfigs => call.run(client, Api::describe_configs),
            ApiKey::AlterConfigs => call.run(client, Api::alter_configs),
            ApiKey::IncrementalAlterConfigs => call.run(client, Api::incremental_alter_configs),
            ApiKey::ListConfigResources => call.run(client, Api::list_config_resources),
            ApiKey::DescribeCluster => call.run(client, Api::describe_cluster),
            ApiKey::DescribeTopicPartitions => call.run(client, Api::describe_topic_partitions),
            // The table above says what is served; a key that is in it and not here is a bug, and answered as unknown.
            other => refuse(client, &format_args!("{other} has no handler")),
        }
    }
}

struct Call<'a> {
    api: &'a Arc<Api>,
    envelope: Envelope,
    frame: RequestFrame,
    context: Arc<RequestContext>,
    permit: MemoryPermit,
}

impl Call<'_> {
    fn decode<R: Request>(self, client: &Client) -> Option<(Asked<R>, Envelope)> {
        match self.frame.decode::<R>() {
            Ok(body) => {
                let version = self.envelope.version;
                Some((Asked { context: self.context, version, body, permit: self.permit }, self.envelope))
            }
            Err(error) => {
                tracing::info!(peer = %client.context.peer, %error, "closed a connection: bad request");
                None
            }
        }
    }

    fn run<R: Request, A: Into<Answer<R::Response>> + Send + 'static>(
        self,
        client: &Client,
        handler: impl FnOnce(&Arc<Api>, Asked<R>) -> Outcome<A>,
    ) -> Outcome<Reply> {
        self.run_with(client, handler, |envelope, answer| encode(envelope, &answer.into()))
    }

    fn run_with<R: Request, A: Send + 'static>(
        self,
        client: &Client,
        handler: impl FnOnce(&Arc<Api>, Asked<R>) -> Outcome<A>,
        encode: impl FnOnce(Envelope, A) -> Reply + Send + 'static,
    ) -> Outcome<Reply> {
        let api = self.api;
        let Some((asked, envelope)) = self.decode(client) else { return Outcome::Done(Reply::Close) };
        handler(api, asked).map(move |answer| encode(envelope, answer))
    }

    /// For requests that the controller answers: the handler gets the undecoded body beside the decoded one.
    fn forward<R: Request>(
        self,
        client: &Client,
        handler: impl FnOnce(&Arc<Api>, Asked<R>, Bytes, Envelope) -> Outcome<Reply>,
    ) -> Outcome<Reply> {
        let (api, body) = (self.api, self.frame.body.clone().take_rest());
        let Some((asked, envelope)) = self.decode(client) else { return Outcome::Done(Reply::Close) };
        handler(api, asked, body, envelope)
    }
}

fn refuse(client: &Client, why: &dyn std::fmt::Display) -> Outcome<Reply> {
    tracing::info!(peer = %client.context.peer, %why, "closed a connection");
    Outcome::Done(Reply::Close)
}

/// The frame of an answer.
pub fn encode<M: Message>(envelope: Envelope, answer: &Answer<M>) -> Reply {
    let Envelope { api_key, version, correlation_id } = envelope;
    let parts = match encode_response(api_key, version, correlation_id, &answer.message) {
        Ok(parts) => parts,
        Err(error) => {
            tracing::error!(%error, "an answer could not be encoded; the connection is closed");
            return Reply::Close;
        }
    };
    let mut files = answer.files.iter();
    let parts: Option<Vec<Part>> = parts
        .into_iter()
        .map(|part| match part {
            WirePart::Bytes(bytes) => Some(Part::Bytes(bytes)),
            WirePart::Outside(len) => files.next().filter(|file| file.len == len).cloned().map(Part::File),
        })
        .collect();
    match parts {
        Some(parts) => Reply::Send(Response { parts, throttle: Duration::ZERO }),
        None => {
            tracing::error!(api = %api_key, "an answer's records are not where it says; the connection is closed");
            Reply::Close
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stable_versions_are_served() {
        for (key, versions) in APIS {
            let stable = key.stable_versions();
            assert!(stable.contains(versions.start()) && stable.contains(versions.end()), "{key} {versions:?}");
            assert!(key.is_broker_api(), "{key}");
        }
    }

    /// The APIs' part of the page, as the table has it: every API that Kafka's brokers serve, with our versions.
    fn page() -> String {
        let of = |versions: &RangeInclusive<i16>| match versions.start() == versions.end() {
            true => versions.start().to_string(),
            false => format!("{} - {}", versions.start(), versions.end()),
        };
        let mut page = String::from("\n| API | key | Kafka 4.4 | here |\n| --- | --- | --- | --- |\n");
        for key in ApiKey::ALL.iter().filter(|key| key.is_broker_api() && !key.stable_versions().is_empty()) {
            let here = APIS.iter().find(|(served, _)| served == key).map(|(_, versions)| of(versions));
            let here = here.unwrap_or_else(|| "not served yet".to_owned());
            page.push_str(&format!("| {key} | {} | {} | {here} |\n", key.code(), of(&key.stable_versions())));
        }
        page + "\nProduce is advertised from version 0, as Kafka does for the sake of old clients (KAFKA-18659).\n\n"
    }

    #[test]
    fn the_page_says_what_the_table_says() {
        const BEGIN: &str = "<!-- apis:begin -->\n";
        const END: &str = "<!-- apis:end -->";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/COMPATIBILITY.md");
        let text = std::fs::read_to_string(path).expect("docs/COMPATIBILITY.md");
        let (head, rest) = text.split_once(BEGIN).expect("the mark where APIs begin");
        let (found, tail) = rest.split_once(END).expect("the mark where APIs end");
        if found == page() {
            return;
        }
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, format!("{head}{BEGIN}{}{END}{tail}", page())).expect("written");
            return;
        }
        panic!("docs/COMPATIBILITY.md is not what is served; UPDATE_EXPECT=1 cargo test -p odradek-broker rewrites it");
    }
}
