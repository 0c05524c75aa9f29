//! A whole cluster in one thread from one seed: the real controller and broker code on a simulated network (turmoil),
//! disk (`MemFs`), clocks and randomness. The same seed gives the same trace.
//!
//! - `entropy` takes the place of the kernel's randomness, so that hash tables and libraries draw from the seed too.
//! - `world` is what `odradek_node::World` is in production.
//! - `cluster` boots controllers and brokers as hosts, and crashes, restarts, parts and heals them.
//! - `faults` is what is done to it, `scenario` a whole run (`mixes` says of what), `bad_days` one with faults of all kinds,
//!   `report` what a run tells.
//! - `workload` is what clients do and remember, a module a workload; `oracle` what must be true whatever happens.

mod bad_days;
pub mod client;
pub mod cluster;
pub mod entropy;
pub mod faults;
pub mod mixes;
pub mod oracle;
pub mod report;
pub mod scenario;
pub mod workload;
pub mod world;
