//! The broker: it follows the controllers' metadata, serves the Kafka protocol, keeps partition logs on local disks and
//! replicates them by follower fetch.
//!
//! A shell: sockets, tasks and timers are here, decisions are in `odradek-broker-core`, files in
//! `odradek-broker-storage`. Calls go one way: `network` -> `api` -> {`replica`, `coordinators`, `metadata`} -> core,
//! storage; news travels back as watch channels and futures, never as a call upwards. `server` builds it all and takes it
//! down.

mod api;
mod coordinators;
mod life;
mod memory;
mod metadata;
mod network;
pub mod replica;
mod server;

pub use server::run;
