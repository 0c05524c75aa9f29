//! Bugs that the simulation must find. Each is the opposite of a rule of `docs/ARCHITECTURE.md`, stands at the one place that
//! keeps the rule, and acts only when the program was built with the feature `seeded-bugs` and its process has switched it
//! on. Without the feature [`active`] is `false` at compile time, and the branch is gone.
//!
//! Only `odradek-sim` enables the feature: `tests/sim/run --bugs` shows that each of them is caught. A bug more is an entry
//! here, a line where its rule is kept, and a story that notices (`odradek_sim::scripts`), if none does yet.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal, noticed by $story:literal;)*) => {
        /// A mistake that somebody has made before, or might.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        #[cfg(feature = "seeded-bugs")]
        impl Bug {
            pub const ALL: &[Bug] = &[$(Bug::$bug,)*];

            /// The name on command lines.
            pub fn name(self) -> &'static str {
                match self {
                    $(Bug::$bug => $name,)*
                }
            }

            /// The simulated run that must notice.
            pub fn story(self) -> &'static str {
                match self {
                    $(Bug::$bug => $story,)*
                }
            }
        }
    };
}

bugs! {
    /// The high watermark is one beyond the least log end of the ISR.
    HighWatermarkTooHigh = "high-watermark-too-high", noticed by "unheard-leader";
    /// A follower takes records of a later leader epoch than the one it follows (KAFKA-18723).
    AppendWithoutEpochCheck = "append-without-epoch-check", noticed by "replaced-log";
    /// A follower joins the ISR before it has reached the high watermark.
    IsrAdmittedTooEarly = "isr-admitted-too-early", noticed by "rejoin";
    /// A controller answers for a vote that is not on its disk.
    VoteNotSynced = "vote-not-synced", noticed by "votes";
    /// Whoever begins to follow truncates to its high watermark (before KIP-101).
    TruncationToHighWatermark = "truncation-to-high-watermark", noticed by "fast-failovers";
    /// A batch that was appended before is appended again.
    DuplicateSequenceAccepted = "duplicate-sequence-accepted", noticed by "produce";
    /// The heartbeat of an older incarnation counts as the present one's.
    StaleHeartbeatAccepted = "stale-heartbeat-accepted", noticed by "twins";
    /// A snapshot of the metadata lacks its last record.
    SnapshotMissesRecord = "snapshot-misses-record", noticed by "snapshots";
    /// A marker that comes again ends the transaction that is open by then (KIP-890).
    MarkerAppliedTwice = "marker-applied-twice", noticed by "late-markers";
    /// The last stable offset passes the first record of an open transaction.
    LastStableOffsetTooHigh = "last-stable-offset-too-high", noticed by "open-transactions";
    /// A transaction's batch is taken in a partition that its coordinator does not know of (KIP-890).
    PartitionNotVerified = "partition-not-verified", noticed by "hanging-transactions";
    /// A member of a consumer group may commit in any older epoch, to what it has given up since (KIP-848).
    StaleMemberEpochAccepted = "stale-member-epoch-accepted", noticed by "groups";
    /// A partition is given to a member of a consumer group while another one has it (KIP-848).
    PartitionHandedOverTooEarly = "partition-handed-over-too-early", noticed by "groups";
}

#[cfg(not(feature = "seeded-bugs"))]
pub const fn active(_: Bug) -> bool {
    false
}

#[cfg(feature = "seeded-bugs")]
mod switch {
    use std::sync::OnceLock;

    use super::Bug;

    static ACTIVE: OnceLock<Bug> = OnceLock::new();

    /// For the rest of the process's life. The first call counts.
    pub fn switch_on(bug: Bug) {
        let _ = ACTIVE.set(bug);
    }

    pub fn active(bug: Bug) -> bool {
        ACTIVE.get() == Some(&bug)
    }
}

#[cfg(feature = "seeded-bugs")]
pub use switch::{active, switch_on};
