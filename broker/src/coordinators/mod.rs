//! Coordinators of this broker: for each partition of a coordinator's topic that it leads, one driver.
//!
//! - [`GroupCoordinators`] finds the driver of a group and follows the metadata: it is told after the replicas.
//! - `driver` holds a core [`Runtime`](odradek_broker_core::coordinator::Runtime) behind one lock. Requests are decided and
//!   appended in place, on the task that brought them; one task a driver loads it, then carries the high watermark and the
//!   clock to it.
//! - `loader` replays the partition from its log.
//!
//! **Invariant:** a driver belongs to one leader epoch, which its appends are fenced by. Its lock is not held across an
//! await; a partition's lock is taken under it, never the other way round.

mod driver;
mod groups;
mod loader;

pub use groups::GroupCoordinators;
