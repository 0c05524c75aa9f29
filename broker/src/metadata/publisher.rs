//! The only place that tells the broker's parts of new metadata, one delta after another, in one fixed order: cache,
//! configs, replicas, coordinators, and, as they come to be, quotas, credentials, ACLs. Configs come before replicas: the
//! log of a new partition starts with the defaults that are in force.

use std::sync::Arc;

use odradek_metadata::Delta;

use super::{LiveConfig, MetadataCache};
use crate::coordinators::{GroupCoordinators, TransactionCoordinators};
use crate::replica::ReplicaManager;

/// Owned by the follower.
pub struct Publisher {
    cache: MetadataCache,
    config: LiveConfig,
    replicas: Arc<ReplicaManager>,
    groups: Arc<GroupCoordinators>,
    transactions: Arc<TransactionCoordinators>,
}

impl Publisher {
    pub fn new(
        cache: MetadataCache,
        config: LiveConfig,
        replicas: Arc<ReplicaManager>,
        groups: Arc<GroupCoordinators>,
        transactions: Arc<TransactionCoordinators>,
    ) -> Self {
        Self { cache, config, replicas, groups, transactions }
    }

    /// Returns when every part has acted on the delta.
    pub async fn publish(&self, delta: Delta) {
        let offset = delta.after.offset();
        self.cache.set_image(Arc::new(delta.after.clone()));
        if self.config.is_touched(&delta) {
            let config = self.config.publish(&delta.after);
            self.replicas.set_dynamic_config(&config);
        }
        if !delta.is_empty() {
            self.replicas.publish(&Arc::new(delta.after.clone()), &delta);
            self.groups.publish(&delta);
            self.transactions.publish(&delta);
        }
        self.cache.set_published(offset);
    }
}
