//! One partition as a broker holds it: [`leader`] decides on the ISR and the high watermark, [`follower`] on where to
//! truncate and what to do with a fetched answer, [`isr`] has the changes that a leader proposes to the controller.
//!
//! The log itself is the shell's business. These states are told of its ends and answer with what moved.

pub mod follower;
pub mod isr;
pub mod leader;

pub use follower::{Divergence, EpochEnd, FetchStep, OutOfRange};
pub use isr::{IsrCommitted, IsrMember, IsrProposal};
pub use leader::{
    Effects, EpochCheckError, FollowerFetch, FollowerFetchError, Isolation, IsrOutcome, LeaderState, LogEnds,
    NotEnoughReplicas, NotEnoughReplicasAfterAppend, Reader, check_leader_epoch,
};
