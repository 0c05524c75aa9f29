//! What every process of the project needs around its decisions: the seam to the outer world (`world`), gRPC over that
//! seam (`grpc`), a Kafka client's connection (`connection`), the shutdown signal (`shutdown`), the log output (`telemetry`),
//! and the numbers for whoever watches (`metrics`).
//!
//! Shells reach sockets, clocks, threads, randomness and disks only through `world::World`; a simulation hands them
//! another one. Nothing here knows of topics or partitions.

pub mod connection;
pub mod grpc;
pub mod memory;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod world;

pub use connection::Connection;
pub use shutdown::Shutdown;
pub use world::World;
