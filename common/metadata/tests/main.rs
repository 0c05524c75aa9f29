//! What images, deltas and snapshots promise.

#[path = "main/generator.rs"]
mod generator;
#[path = "main/properties.rs"]
mod properties;
#[path = "main/replay.rs"]
mod replay;
#[path = "main/snapshots.rs"]
mod snapshots;
