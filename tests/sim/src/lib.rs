//! A whole cluster in one thread from one seed: the real controller and broker code on a simulated network (turmoil),
//! disk (`MemFs`), clocks and randomness. The same seed gives the same trace.
//!
//! - `entropy` takes the place of the kernel's randomness, so that hash tables and libraries draw from the seed too.
//! - `world` is what `odradek_node::World` is in production.
//! - `cluster` boots controllers and brokers as hosts, and crashes, restarts, parts and heals them.
//! - `faults` is what is done to it, `scenario` a whole run (`mixes` says of what), `bad_days` one with faults of all kinds,
//!   `report` what a run tells.
//! - `scripts` are runs of which each plays one story: known losses of others, and what a seeded bug breaks. `stall` has
//!   sockets be full.
//! - `workload` is what clients do and remember, a module a workload; `oracle` what must be true whatever happens.
//!
//! # Seeded bugs
//!
//! `tests/sim/run --bugs` builds all of this with the feature `seeded-bugs` and shows that each bug of
//! `odradek_common::seeded_bugs` is caught, and that the run that caught it passes without. One more is
//!
//! 1. an entry in `bugs!` there: what is wrong, the name on command lines, and the run that must notice;
//! 2. a line where the product keeps the rule: `&& !active(Bug::TheNewOne)`. Nothing else of the product may know of it, so the
//!    branch is gone from every other build;
//! 3. a story, if no scenario or script notices yet: a `Script` in a module of `scripts`, listed in its `SCRIPTS`. It tells
//!    what happens and checks a rule, by a panic or `History::broken` whose text begins with the rule's number in
//!    `docs/ARCHITECTURE.md`, and says nothing of the bug. It has to pass on a sound build, and is run as a scenario by
//!    `tests/sim/run`; a loss that others had is a named test of `cases/known_losses.rs` too.
//!
//! `tests/sim/run --bugs --bug NAME` hunts that one alone; `tests/sim/run --trace --scenario STORY --seed S --bug NAME` shows
//! what it did.

mod bad_days;
pub mod client;
pub mod cluster;
pub mod entropy;
pub mod faults;
pub mod mixes;
pub mod oracle;
pub mod report;
pub mod scenario;
pub mod scripts;
pub mod stall;
pub mod workload;
pub mod world;
