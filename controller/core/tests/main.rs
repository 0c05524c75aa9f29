//! The controller's decisions, each checked for its response, its records and the invariants of the metadata.

#[path = "main/alter_partition.rs"]
mod alter_partition;
#[path = "main/api.rs"]
mod api;
#[path = "main/cluster.rs"]
mod cluster;
#[path = "main/configs.rs"]
mod configs;
#[path = "main/decommission.rs"]
mod decommission;
#[path = "main/failover.rs"]
mod failover;
#[path = "main/features.rs"]
mod features;
#[path = "main/fencing.rs"]
mod fencing;
#[path = "main/histories.rs"]
mod histories;
#[path = "main/liveness.rs"]
mod liveness;
#[path = "main/partition_change.rs"]
mod partition_change;
#[path = "main/placement.rs"]
mod placement;
#[path = "main/reassignment.rs"]
mod reassignment;
#[path = "main/registration.rs"]
mod registration;
#[path = "main/topics.rs"]
mod topics;
