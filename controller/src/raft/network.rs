//! Raft's messages to the other controllers, over gRPC.
//!
//! Every message carries the cluster's id, so that a controller with another cluster's address does no harm. Heartbeats
//! and snapshots have connections of their own: neither waits behind a large append. Nothing here retries; openraft
//! does, and backs off.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use odradek_common::time::Instant;
use odradek_node::World;
use odradek_proto::raft as proto;
use odradek_proto::raft::raft_service_client::RaftServiceClient;
use openraft::RaftNetworkFactory;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::convert::{self, Malformed};
use super::snapshot::SnapshotFile;
use super::state_machine::Snapshot;
use super::types::{NodeId, Peer, TypeConfig, Vote};

/// An append of entries may wait for the follower's disk; a heartbeat has openraft's own, shorter limit.
const APPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// A follower reads and installs the whole snapshot before it answers.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to leave a peer alone that cannot be reached.
const BACKOFF: Duration = Duration::from_millis(100);
/// A peer that refuses this node is named in the log at most so often.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(10);
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 * 1024;
/// Chunks in memory on the way to the socket.
const SNAPSHOT_CHUNKS_QUEUED: usize = 2;
/// One entry can be larger than gRPC's usual 4 MiB: the creation of a topic with very many partitions.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

type Client = RaftServiceClient<Channel>;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Lane {
    Replication,
    Heartbeat,
    Snapshot,
}

/// Connections by peer and lane. They connect on first use, and again after a failure.
pub struct Network {
    world: World,
    cluster_id: Arc<str>,
    clients: Mutex<HashMap<(NodeId, Lane), (Peer, Client)>>,
    refusals: Arc<Mutex<HashMap<NodeId, Instant>>>,
}

impl Network {
    pub fn new(world: World, cluster_id: Arc<str>) -> Self {
        Self { world, cluster_id, clients: Mutex::default(), refusals: Arc::default() }
    }

    fn connection(&self, target: NodeId, peer: &Peer, lane: Lane) -> Connection {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let connect = || {
            let client = Client::new(odradek_node::grpc::channel(&self.world, &peer.host, peer.port));
            let client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
            (peer.clone(), client.max_encoding_message_size(MESSAGE_BYTES_MAX))
        };
        let known = clients.entry((target, lane)).or_insert_with(connect);
        if known.0 != *peer {
            *known = connect();
        }
        Connection {
            world: self.world.clone(),
            cluster_id: self.cluster_id.clone(),
            target,
            peer: peer.clone(),
            client: known.1.clone(),
            refusals: self.refusals.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Connection {
        self.connection(target, node, Lane::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Peer) -> Connection {
        self.connection(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Peer) -> Connection {
        self.connection(target, node, Lane::Snapshot)
    }
}

/// One way to one peer.
pub struct Connection {
    world: World,
    cluster_id: Arc<str>,
    target: NodeId,
    peer: Peer,
    client: Client,
    /// When each peer's refusal was last logged.
    refusals: Arc<Mutex<HashMap<NodeId, Instant>>>,
}

impl Connection {
    fn may_log_refusal(&self) -> bool {
        let now = self.world.instant();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let due = refusals.get(&self.target).is_none_or(|last| now.saturating_since(*last) >= REFUSAL_LOG_INTERVAL);
        if due {
            refusals.insert(self.target, now);
        }
        due
    }

    async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<TypeConfig>> {
        match self.world.timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(elapsed) => Err(RPCError::Unreachable(Unreachable::from_string(elapsed))),
        }
    }

    fn failed(&self, status: &Status) -> RPCError<TypeConfig> {
        if status.code() == Code::FailedPrecondition && self.may_log_refusal() {
            // The peer refuses us for good reason, and both operators have to know.
            tracing::error!(
                controller = self.target, peer = %self.peer,
                "a controller of `controller.quorum.voters` refuses this one: {}", status.message()
            );
        } else {
            tracing::debug!(controller = self.target, peer = %self.peer, %status, "no answer from a controller");
        }
        RPCError::Unreachable(Unreachable::from_string(status.message()))
    }

    fn vote_request(&self, rpc: &VoteRequest<TypeConfig>) -> proto::VoteRequest {
        proto::VoteRequest {
            cluster_id: self.cluster_id.to_string(),
            vote: Some(convert::vote_to_proto(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(convert::log_id_to_proto),
            leadership_transfer: rpc.leadership_transfer,
        }
    }
}

fn malformed(error: Malformed) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(error))
}

fn vote_response(response: &proto::VoteResponse) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let vote = convert::vote_from_proto(response.vote.as_ref())?;
    let last = response.last_log_id.as_ref().map(convert::log_id_from_proto);
    Ok(VoteResponse::new(vote, last, response.granted))
}

fn append_response(
    response: proto::AppendEntriesResponse,
    has_previous: bool,
) -> Result<AppendEntriesResponse<TypeConfig>, Malformed> {
    use proto::append_entries_response::Outcome;
    match response.outcome.ok_or(Malformed::Missing("outcome"))? {
        Outcome::Success(_) => Ok(AppendEntriesResponse::Success),
        Outcome::PartialSuccess(last) => {
            Ok(AppendEntriesResponse::PartialSuccess(Some(convert::log_id_from_proto(&last))))
        }
        // The start of the log conflicts with nothing; openraft would panic on such an answer.
        Outcome::Conflict(_) if !has_previous => Err(Malformed::Invalid("outcome.conflict")),
        Outcome::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
        Outcome::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(convert::vote_from_proto(Some(&vote))?)),
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = if rpc.entries.is_empty() { option.hard_ttl() } else { APPEND_TIMEOUT };
        let has_previous = rpc.prev_log_id.is_some();
        let request = proto::AppendEntriesRequest {
            cluster_id: self.cluster_id.to_string(),
            vote: Some(convert::vote_to_proto(&rpc.vote)),
            previous: rpc.prev_log_id.as_ref().map(convert::log_id_to_proto),
            entries: rpc.entries.iter().map(convert::entry_to_proto).collect(),
            committed: rpc.leader_commit.as_ref().map(convert::log_id_to_proto),
        };
        let mut client = self.client.clone();
        let response = self.call(limit, client.append_entries(request)).await?;
        append_response(response, has_previous).map_err(malformed)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client.clone();
        let response = self.call(option.hard_ttl(), client.vote(self.vote_request(&rpc))).await?;
        vote_response(&response).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut client = self.client.clone();
        let response = self.call(option.hard_ttl(), client.pre_vote(self.vote_request(&rpc))).await?;
        vote_response(&response).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (chunks, queue) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
        let start = proto::SnapshotStart {
            cluster_id: self.cluster_id.to_string(),
            vote: Some(convert::vote_to_proto(&vote)),
            meta: Some(convert::meta_to_proto(&snapshot.meta)),
            bytes: snapshot.snapshot.length,
        };
        let send = send_chunks(self.world.clone(), start, snapshot.snapshot, chunks);
        let mut client = self.client.clone();
        let call = async {
            let receive = client.install_snapshot(tokio_stream::wrappers::ReceiverStream::new(queue));
            // A file that cannot be read closes the stream early, which the receiver refuses.
            let (response, sent) = futures::future::join(receive, send).await;
            if let Err(error) = sent {
                return Err(Status::aborted(format!("the snapshot could not be read: {error}")));
            }
            response
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            response = self.call(SNAPSHOT_TIMEOUT, call) => {
                let response = response.map_err(Unreachable::from_string)?;
                let vote = convert::vote_from_proto(response.vote.as_ref())
                    .map_err(NetworkError::from_string)?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = proto::TransferLeaderRequest {
            cluster_id: self.cluster_id.to_string(),
            from: Some(convert::vote_to_proto(rpc.from_leader())),
            to: *rpc.to_node_id(),
            last_log_id: rpc.last_log_id().map(convert::log_id_to_proto),
        };
        let mut client = self.client.clone();
        let response = self.world.timeout(option.hard_ttl(), client.transfer_leader(request)).await;
        match response {
            Ok(Ok(_)) => Ok(Ok(())),
            Ok(Err(status)) if status.code() == Code::Aborted => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: rpc.last_log_id().copied(), actual: None }))
            }
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(elapsed) => Err(RPCError::Unreachable(Unreachable::from_string(elapsed))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

async fn send_chunks(
    world: World,
    start: proto::SnapshotStart,
    snapshot: SnapshotFile,
    chunks: mpsc::Sender<proto::InstallSnapshotRequest>,
) -> std::io::Result<()> {
    use proto::install_snapshot_request::Part;
    let length = start.bytes;
    if chunks.send(proto::InstallSnapshotRequest { part: Some(Part::Start(start)) }).await.is_err() {
        return Ok(());
    }
    let mut position = 0;
    while position < length {
        let (file, bytes) = (snapshot.file.clone(), (length - position).min(SNAPSHOT_CHUNK_BYTES as u64));
        let read = world.on_disk(move || {
            let mut chunk = vec![0; bytes as usize];
            file.read_exact_at(&mut chunk, position).map(|()| chunk)
        });
        let chunk = Bytes::from(read.await?);
        position += chunk.len() as u64;
        // The receiver has gone: its answer, or the lack of one, says why.
        if chunks.send(proto::InstallSnapshotRequest { part: Some(Part::Chunk(chunk)) }).await.is_err() {
            break;
        }
    }
    Ok(())
}
