//! Takes the leaders' ISR proposals to the controller (AlterPartition): one request at a time, all that has gathered
//! meanwhile in the next, again after a pause when the controller cannot be reached.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use odradek_broker_core::partition::{IsrCommitted, IsrProposal};
use odradek_common::{ErrorCode, TopicIdPartition, Uuid};
use odradek_node::world::BoxFuture;
use tokio::sync::Notify;

use super::ReplicaManager;

/// The first pause after a failure; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// A controller that is elected anew is found within this.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Partitions in one request: a decision of the controller stays small.
const CHANGES_MAX: usize = 2_000;

/// One partition of an AlterPartition request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrChange {
    pub partition: TopicIdPartition,
    pub proposal: IsrProposal,
}

/// The controller's answer for one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IsrChangeResult {
    pub partition: TopicIdPartition,
    pub result: Result<IsrCommitted, ErrorCode>,
}

/// What replicas ask of the active controller.
pub trait ControllerClient: Send + Sync {
    /// Sends the changes with this broker's id and epoch. An error is one of the whole request, or of the way there
    /// (NETWORK_EXCEPTION, NOT_CONTROLLER, STALE_BROKER_EPOCH): it may or may not have been carried out.
    fn alter_partition(&self, changes: Vec<IsrChange>) -> BoxFuture<Result<Vec<IsrChangeResult>, ErrorCode>>;

    /// Tells in which directory replicas are; one code for each. Errors as above.
    fn assign_directories(
        &self,
        replicas: Vec<(TopicIdPartition, Uuid)>,
    ) -> BoxFuture<Result<Vec<ErrorCode>, ErrorCode>>;
}

/// Proposals that wait for the next request. Bounded by the number of partitions: a leader has one at a time.
#[derive(Debug, Default)]
pub(super) struct IsrQueue {
    waiting: Mutex<BTreeMap<TopicIdPartition, IsrProposal>>,
    notify: Notify,
}

impl IsrQueue {
    pub fn push(&self, partition: TopicIdPartition, proposal: IsrProposal) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, proposal);
        self.notify.notify_one();
    }

    /// A proposal of a former state must not replace a newer one.
    fn push_back(&self, partition: TopicIdPartition, proposal: IsrProposal) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(partition).or_insert(proposal);
        self.notify.notify_one();
    }

    fn take(&self) -> Vec<IsrChange> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::with_capacity(waiting.len().min(CHANGES_MAX));
        while changes.len() < CHANGES_MAX
            && let Some((partition, proposal)) = waiting.pop_first()
        {
            changes.push(IsrChange { partition, proposal });
        }
        if !waiting.is_empty() {
            self.notify.notify_one();
        }
        changes
    }
}

/// Runs for as long as the broker.
pub(super) async fn run(manager: Arc<ReplicaManager>, controller: Arc<dyn ControllerClient>) {
    let mut pause = PAUSE_MIN;
    loop {
        let changes = manager.isr.take();
        if changes.is_empty() {
            manager.isr.notify.notified().await;
            continue;
        }
        let must_pause = match controller.alter_partition(changes.clone()).await {
            Ok(results) => apply(&manager, changes, results),
            Err(error) => {
                tracing::info!(%error, partitions = changes.len(), "the controller did not take the ISR changes; again soon");
                let mut retry = false;
                for change in changes {
                    retry |= settle(&manager, change, Err(error));
                }
                retry
            }
        };
        if must_pause {
            manager.world.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = PAUSE_MIN;
        }
    }
}

/// Whether some are to be sent again.
fn apply(manager: &Arc<ReplicaManager>, changes: Vec<IsrChange>, results: Vec<IsrChangeResult>) -> bool {
    let mut answers: BTreeMap<_, _> = results.into_iter().map(|result| (result.partition, result.result)).collect();
    let mut retry = false;
    for change in changes {
        let answer = answers.remove(&change.partition).unwrap_or(Err(ErrorCode::UnknownServerError));
        retry |= settle(manager, change, answer);
    }
    retry
}

fn settle(manager: &Arc<ReplicaManager>, change: IsrChange, answer: Result<IsrCommitted, ErrorCode>) -> bool {
    let Some(partition) = manager.partition(change.partition) else { return false };
    let image = manager.image();
    let result = answer.as_ref().map_err(|error| *error);
    let (after, retry) = partition.on_alter_partition(&change.proposal, result, manager.context(&image));
    match &answer {
        Ok(committed) => tracing::info!(
            partition = %partition.name, isr = ?committed.isr, partition_epoch = %committed.partition_epoch,
            "the ISR has changed"
        ),
        Err(error) => tracing::debug!(partition = %partition.name, %error, retry, "the ISR has not changed"),
    }
    manager.finish(&partition, after);
    if retry {
        manager.isr.push_back(change.partition, change.proposal);
    }
    retry
}
