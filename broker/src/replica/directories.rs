//! Tells the controller in which directory each replica is, where it does not know or believes another (KIP-858), so that
//! it knows which partitions a failed directory takes with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_common::{ErrorCode, TopicIdPartition, Uuid};
use tokio::sync::Notify;

use super::ReplicaManager;
use super::isr::ControllerClient;

/// After a failure to tell; a broker whose partitions are being made tells of many at once.
const PAUSE: Duration = Duration::from_millis(500);
/// Replicas in one request: a decision of the controller stays small.
const REPLICAS_MAX: usize = 2_000;

/// What is to be told. Bounded by the number of replicas.
#[derive(Debug, Default)]
pub(super) struct DirectoryQueue {
    waiting: Mutex<BTreeMap<TopicIdPartition, Uuid>>,
    notify: Notify,
}

impl DirectoryQueue {
    pub fn push(&self, partition: TopicIdPartition, directory: Uuid) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, directory);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<(TopicIdPartition, Uuid)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::with_capacity(waiting.len().min(REPLICAS_MAX));
        while taken.len() < REPLICAS_MAX
            && let Some(next) = waiting.pop_first()
        {
            taken.push(next);
        }
        taken
    }

    /// What was not told is told later, unless something newer is known of it.
    fn push_back(&self, replicas: Vec<(TopicIdPartition, Uuid)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, directory) in replicas {
            waiting.entry(partition).or_insert(directory);
        }
    }
}

impl ReplicaManager {
    /// Compares where a replica is with what metadata says of it.
    pub(super) fn tell_directory(&self, id: TopicIdPartition, directory: Uuid) {
        let image = self.image();
        let believed = image.partition(id.topic_id, id.partition).and_then(|found| found.directory(self.local()));
        if believed.is_some_and(|believed| believed != directory) {
            self.directories.push(id, directory);
        }
    }
}

/// Runs for as long as the broker.
pub(super) async fn run(manager: Arc<ReplicaManager>, controller: Arc<dyn ControllerClient>) {
    loop {
        let replicas = manager.directories.take();
        if replicas.is_empty() {
            manager.directories.notify.notified().await;
            continue;
        }
        match controller.assign_directories(replicas.clone()).await {
            Ok(codes) => {
                for ((partition, directory), code) in replicas.iter().zip(codes) {
                    // One that has been moved away or deleted meanwhile is of no interest any more.
                    tracing::debug!(%partition, %directory, %code, "told where a replica is");
                }
            }
            Err(error) => {
                let again = !matches!(error, ErrorCode::StaleBrokerEpoch);
                tracing::info!(%error, replicas = replicas.len(), "the controller was not told where replicas are");
                if again {
                    manager.directories.push_back(replicas);
                }
                manager.world.sleep(PAUSE).await;
            }
        }
    }
}
