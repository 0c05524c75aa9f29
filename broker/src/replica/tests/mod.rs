//! Replicas as their callers see them: one broker alone, and clusters of three that replicate, fail over and heal.

mod cleaning;
mod cluster;
mod disks;
mod flushes;
mod gate;
mod moves;
mod replication;
mod sessions;
mod single;
mod unread;
