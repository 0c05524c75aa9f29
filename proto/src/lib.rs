//! The gRPC contracts of the project, generated from `proto/odradek/*.proto`: what controllers say to each other
//! (`raft`), what brokers ask of them (`broker`), what operators ask (`admin`), and the records of the metadata log
//! (`metadata`). Only messages and stubs; no behaviour.

#![allow(clippy::all)]

/// The tree of protobuf packages, as the generated code refers to itself.
mod odradek {
    pub mod metadata {
        pub mod v1 {
            tonic::include_proto!("odradek.metadata.v1");
        }
    }
    pub mod broker {
        pub mod v1 {
            tonic::include_proto!("odradek.broker.v1");
        }
    }
    pub mod raft {
        pub mod v1 {
            tonic::include_proto!("odradek.raft.v1");
        }
    }
    pub mod admin {
        pub mod v1 {
            tonic::include_proto!("odradek.admin.v1");
        }
    }
}

pub use odradek::admin::v1 as admin;
pub use odradek::broker::v1 as broker;
pub use odradek::metadata::v1 as metadata;
pub use odradek::raft::v1 as raft;

/// The encoded `FileDescriptorSet` of all contracts, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
