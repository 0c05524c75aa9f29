//! WriteTxnMarkers: a transaction's coordinator, or an administrator who aborts one that hangs (KIP-664), ends it on
//! partitions that are led here.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use odradek_common::ErrorCode;
use odradek_wire::write_txn_markers_request::WritableTxnMarker;
use odradek_wire::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use odradek_wire::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

use super::dispatch::Asked;
use super::{Api, Operation, Outcome, Resource};

impl Api {
    pub(super) fn write_txn_markers(
        self: &Arc<Self>,
        asked: Asked<WriteTxnMarkersRequest>,
    ) -> Outcome<WriteTxnMarkersResponse> {
        let Asked { context, body: request, .. } = asked;
        let may = |operation| self.allows(&context, operation, Resource::Cluster);
        if !may(Operation::Alter) && !may(Operation::ClusterAction) {
            let markers = request.markers.iter().map(refused).collect();
            return Outcome::Done(WriteTxnMarkersResponse { markers, ..WriteTxnMarkersResponse::default() });
        }
        let written = self.markers.write(&request.markers);
        Outcome::waiting(async move {
            WriteTxnMarkersResponse { markers: written.await, ..WriteTxnMarkersResponse::default() }
        })
    }
}

fn refused(marker: &WritableTxnMarker) -> WritableTxnMarkerResult {
    let topics = marker.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|partition_index| WritableTxnMarkerPartitionResult {
            partition_index: *partition_index,
            error_code: ErrorCode::ClusterAuthorizationFailed.code(),
            ..WritableTxnMarkerPartitionResult::default()
        });
        WritableTxnMarkerTopicResult {
            name: topic.name.detached(),
            partitions: partitions.collect(),
            ..WritableTxnMarkerTopicResult::default()
        }
    });
    WritableTxnMarkerResult {
        producer_id: marker.producer_id,
        topics: topics.collect(),
        ..WritableTxnMarkerResult::default()
    }
}
