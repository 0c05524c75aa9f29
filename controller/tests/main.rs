//! The controller's shell with real disks and sockets, in one process.

mod quorum;
mod storage;
