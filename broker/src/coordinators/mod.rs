//! Coordinators of this broker: for each partition of a coordinator's topic that it leads, one driver.
//!
//! - [`GroupCoordinators`] and [`TransactionCoordinators`] find the driver of a group or a transactional id and follow the
//!   metadata: they are told after the replicas. `led` is what they have in common.
//! - `driver` holds a core [`Runtime`](odradek_broker_core::coordinator::Runtime) behind one lock. Requests are decided and
//!   appended in place, on the task that brought them; one task a driver loads it, then carries the high watermark and the
//!   clock to it.
//! - [`LagWatch`] looks at the lag of groups, for metrics.
//! - `loader` replays the partition from its log.
//! - [`MarkerSender`] tells partitions of the ends of their transactions; [`MarkerWriter`] writes them where they are led;
//!   [`Peers`] reaches other brokers; [`ProducerIds`] has ids that nobody uses.
//!
//! **Invariant:** a driver belongs to one leader epoch, which its appends are fenced by. Its lock is not held across an
//! await; a partition's lock is taken under it, never the other way round.

mod driver;
mod groups;
mod lag;
mod led;
mod loader;
mod marker_writer;
mod markers;
mod peers;
mod producer_ids;
mod transactions;

pub use groups::GroupCoordinators;
pub use lag::{LagBoard, LagWatch};
pub use marker_writer::MarkerWriter;
pub use markers::MarkerSender;
pub use peers::Peers;
pub use producer_ids::{ProducerIdBlocks, ProducerIds};
pub use transactions::TransactionCoordinators;

/// A batch of a coordinator stays below this, which topics take by default (`message.max.bytes`).
const BATCH_BYTES_MAX: usize = 1024 * 1024;
