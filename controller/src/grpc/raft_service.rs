//! Raft's messages from the other controllers.
//!
//! A message of another cluster, or a transfer that names another node, is refused with FAILED_PRECONDITION, so that a
//! wrong `controller.quorum.voters` shows on both sides and harms neither.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use odradek_node::World;
use odradek_proto::raft as proto;
use odradek_proto::raft::raft_service_server::{RaftService, RaftServiceServer};
use tonic::{Request, Response, Status, Streaming};

use crate::raft::convert::{self, Malformed};
use crate::raft::network::{MESSAGE_BYTES_MAX, SNAPSHOT_CHUNK_BYTES};
use crate::raft::pulse::LeaderSign;
use crate::raft::snapshot::{self, SnapshotFile};
use crate::raft::state_machine::Snapshot;
use crate::raft::types::{
    AppendEntriesRequest, AppendEntriesResponse, NodeId, TransferLeaderRequest, TypeConfig, Vote, VoteRequest,
    VoteResponse,
};
use crate::raft::{Raft, RaftNode};

/// A snapshot of more than this is a mistake of the sender.
const SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;

/// Serves one node of the quorum.
pub struct Service {
    world: World,
    raft: Raft,
    sign: Arc<LeaderSign>,
    node_id: NodeId,
    cluster_id: Arc<str>,
    snapshots: PathBuf,
    /// Numbers the snapshots that are being received, so that two attempts do not share a file.
    received: AtomicU64,
}

impl Service {
    pub fn new(
        world: World,
        node: &RaftNode,
        node_id: NodeId,
        cluster_id: Arc<str>,
        snapshots: PathBuf,
    ) -> RaftServiceServer<Self> {
        let service = Self {
            world,
            raft: node.raft.clone(),
            sign: node.sign.clone(),
            node_id,
            cluster_id,
            snapshots,
            received: AtomicU64::new(0),
        };
        RaftServiceServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn check_cluster(&self, cluster_id: &str) -> Result<(), Status> {
        if cluster_id == &*self.cluster_id {
            return Ok(());
        }
        tracing::error!(
            theirs = cluster_id, ours = %self.cluster_id,
            "a controller of another cluster sent a Raft message; its or our `controller.quorum.voters` is wrong"
        );
        Err(Status::failed_precondition(format!(
            "this controller belongs to cluster {}, the message comes from cluster {cluster_id}: \
             check `controller.quorum.voters` on both sides",
            self.cluster_id
        )))
    }

    fn vote_request(&self, request: &proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
        self.check_cluster(&request.cluster_id)?;
        let vote = convert::vote_from_proto(request.vote.as_ref()).map_err(invalid)?;
        let last_log_id = request.last_log_id.as_ref().map(convert::log_id_from_proto);
        let mut vote = VoteRequest::new(vote, last_log_id);
        vote.leadership_transfer = request.leadership_transfer;
        Ok(vote)
    }

    /// Writes the chunks to an unfinished file. It is removed at the next start if this attempt fails.
    async fn receive(
        &self,
        length: u64,
        stream: &mut Streaming<proto::InstallSnapshotRequest>,
    ) -> Result<SnapshotFile, Status> {
        let (fs, dir) = (self.world.fs.clone(), self.snapshots.clone());
        let name = format!("received-{}", self.received.fetch_add(1, Ordering::Relaxed));
        let (file, path) = self.world.on_disk(move || snapshot::begin(&*fs, &dir, &name)).await.map_err(disk)?;
        let mut position = 0;
        while let Some(message) = stream.message().await? {
            let Some(proto::install_snapshot_request::Part::Chunk(chunk)) = message.part else {
                return Err(Status::invalid_argument("a snapshot goes on with chunks"));
            };
            if chunk.len() > SNAPSHOT_CHUNK_BYTES * 2 || position + chunk.len() as u64 > length {
                return Err(Status::invalid_argument("the snapshot is longer than was announced"));
            }
            let file = file.clone();
            position = self
                .world
                .on_disk(move || {
                    file.write_all_at(&[IoSlice::new(&chunk)], position).map(|()| position + chunk.len() as u64)
                })
                .await
                .map_err(disk)?;
        }
        if position != length {
            return Err(Status::aborted(format!("the snapshot ended after {position} of {length} bytes")));
        }
        Ok(SnapshotFile { path, file, length })
    }
}

fn invalid(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn disk(error: std::io::Error) -> Status {
    Status::internal(format!("the snapshot cannot be stored: {error}"))
}

/// Raft on this node has stopped; the process is about to.
fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("this controller is stopping: {error}"))
}

fn vote_response(response: &VoteResponse<TypeConfig>) -> Response<proto::VoteResponse> {
    Response::new(proto::VoteResponse {
        vote: Some(convert::vote_to_proto(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(convert::log_id_to_proto),
    })
}

fn outcome(response: AppendEntriesResponse<TypeConfig>) -> proto::append_entries_response::Outcome {
    use proto::append_entries_response::Outcome;
    match response {
        AppendEntriesResponse::Success => Outcome::Success(proto::Success {}),
        AppendEntriesResponse::PartialSuccess(Some(last)) => Outcome::PartialSuccess(convert::log_id_to_proto(&last)),
        // Nothing of it was taken: the sender starts over from what both have.
        AppendEntriesResponse::PartialSuccess(None) | AppendEntriesResponse::Conflict => {
            Outcome::Conflict(proto::Conflict {})
        }
        AppendEntriesResponse::HigherVote(vote) => Outcome::HigherVote(convert::vote_to_proto(&vote)),
    }
}

#[tonic::async_trait]
impl RaftService for Service {
    async fn append_entries(
        &self,
        request: Request<proto::AppendEntriesRequest>,
    ) -> Result<Response<proto::AppendEntriesResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        let entries = request.entries.into_iter().map(convert::entry_from_proto).collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(invalid)?;
        let previous = request.previous.as_ref().map(convert::log_id_from_proto);
        check_consecutive(previous.map_or(0, |id| id.index.saturating_add(1)), &entries)?;
        let rpc = AppendEntriesRequest {
            vote: convert::vote_from_proto(request.vote.as_ref()).map_err(invalid)?,
            prev_log_id: previous,
            entries,
            leader_commit: request.committed.as_ref().map(convert::log_id_from_proto),
        };
        let came_at = self.world.instant();
        let response = self.raft.append_entries(rpc).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.sign.heard(came_at);
        }
        Ok(Response::new(proto::AppendEntriesResponse { outcome: Some(outcome(response)) }))
    }

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let rpc = self.vote_request(&request.into_inner())?;
        Ok(vote_response(&self.raft.vote(rpc).await.map_err(stopped)?))
    }

    async fn pre_vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        let rpc = self.vote_request(&request.into_inner())?;
        Ok(vote_response(&self.raft.pre_vote(rpc).await.map_err(stopped)?))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::InstallSnapshotRequest>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        let mut stream = request.into_inner();
        let first = stream.message().await?.and_then(|message| message.part);
        let Some(proto::install_snapshot_request::Part::Start(start)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its start"));
        };
        self.check_cluster(&start.cluster_id)?;
        let vote: Vote = convert::vote_from_proto(start.vote.as_ref()).map_err(invalid)?;
        let meta = start.meta.as_ref().ok_or_else(|| invalid(Malformed::Missing("meta")))?;
        let meta = convert::meta_from_proto(meta).map_err(invalid)?;
        if start.bytes > SNAPSHOT_BYTES_MAX {
            return Err(invalid(Malformed::Invalid("bytes")));
        }
        let file = self.receive(start.bytes, &mut stream).await?;
        // Checked here, for openraft stops the node when the state machine refuses a snapshot.
        let announced = meta.last_log_id;
        let checked = file.clone();
        let found = self.world.on_disk(move || snapshot::read(&checked)).await;
        let (found, _, _) = found.map_err(|error| Status::invalid_argument(error.to_string()))?;
        if found.last_log_id != announced {
            return Err(invalid(Malformed::Invalid("meta.last_log_id")));
        }
        let snapshot = Snapshot { meta, snapshot: file };
        let response = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        Ok(Response::new(proto::InstallSnapshotResponse { vote: Some(convert::vote_to_proto(&response.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        self.check_cluster(&request.cluster_id)?;
        if request.to != self.node_id {
            let message = format!("this is controller {}, not {}", self.node_id, request.to);
            return Err(Status::failed_precondition(message));
        }
        let from = convert::vote_from_proto(request.from.as_ref()).map_err(invalid)?;
        let last = request.last_log_id.as_ref().map(convert::log_id_from_proto);
        let rpc = TransferLeaderRequest::new(from, request.to, last);
        match self.raft.handle_transfer_leader(rpc).await.map_err(stopped)? {
            Ok(()) => Ok(Response::new(proto::TransferLeaderResponse {})),
            Err(rejected) => Err(Status::aborted(rejected.to_string())),
        }
    }
}

/// openraft takes it for granted that a request's entries follow each other.
fn check_consecutive(mut next: u64, entries: &[crate::raft::types::Entry]) -> Result<(), Status> {
    for entry in entries {
        if entry.log_id.index != next {
            return Err(Status::invalid_argument(format!("entry {} where {next} was due", entry.log_id.index)));
        }
        next = next.saturating_add(1);
    }
    Ok(())
}
