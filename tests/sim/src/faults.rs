//! What is done to a cluster while it works. Each kind of fault has a name that the report counts; its victims and its
//! length are the seed's ([`inject`], [`overlap`]) or a script's ([`on`], [`start`]).
//!
//! A fault is something that can be begun and ended, so that two can be under way at once. What it costs ([`Cost`])
//! says when it may be done: oracles are as strict as ever, so a fault that takes one replica's unsynced records may not
//! meet another one that does, and one that takes everybody's needs a topic that is flushed.

mod clock;
mod crash;
mod damage;
mod disk;
mod identity;
mod network;

use std::time::Duration;

use odradek_common::rng::Rng;

pub use damage::flip_bit;

use crate::cluster::Cluster;

/// The longest that a random fault lasts, in milliseconds.
const FAULT_MS_MAX: u64 = 8_200;

/// A broker whose session has to end, or a log that has to be copied again, takes this long at most.
pub const HEALING_MAX: Duration = Duration::from_secs(120);

/// What of the records that were acknowledged a fault may take away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cost {
    /// Nothing: whoever runs on has its page cache and its disk.
    Nothing,
    /// What one broker had, or had not synced. `min.insync.replicas=2` says that another one has it; so the others must
    /// be in sync before, and no second broker may lose anything until they are again.
    OneReplica,
    /// What no broker had synced: only a topic with `flush.messages=1` keeps its records.
    AllUnsynced,
}

/// The kinds of fault, each with its name in reports.
macro_rules! faults {
    ($($fault:ident = $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Fault {
            $($fault,)*
        }

        use Fault::*;

        impl Fault {
            pub const ALL: &[Fault] = &[$($fault,)*];

            /// The name in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $($fault => $name,)*
                }
            }
        }
    };
}

faults! {
    KillBroker = "kill broker",
    LoseUnsyncedOfBroker = "lose all unsynced of broker",
    PowerOffBroker = "power off broker",
    KillController = "kill controller",
    LoseUnsyncedOfController = "lose all unsynced of controller",
    PowerOffController = "power off controller",
    KillAllBrokers = "kill all brokers",
    PowerOffAllBrokers = "power off all brokers",
    KillAllNodes = "kill all nodes",
    PowerOffAllNodes = "power off all nodes",
    LoseMinorityOfControllers = "lose minority of controllers",
    LoseMajorityOfControllers = "lose majority of controllers",
    RestartAllInTurn = "restart all in turn",
    DamageLog = "flip bit in log",
    DamageIndex = "flip bit in index",
    DamageTimeIndex = "flip bit in time index",
    DamageCheckpoint = "flip bit in checkpoint",
    DamageProducerSnapshot = "flip bit in producer snapshot",
    DamageControllerSnapshot = "flip bit in controller snapshot",
    DamageRaftLog = "flip bit in Raft log",
    FullDisk = "full disk",
    FailedReads = "failed reads",
    FailedWrites = "failed writes",
    FailedSync = "failed sync",
    SlowDisk = "slow disk",
    ReadOnlyDisk = "read-only disk",
    FailedLogDir = "failed log directory",
    LoseMessages = "lose messages",
    LongDelays = "long delays",
    SlowLink = "slow link",
    PartBrokerAndController = "part broker and controller",
    PartBrokers = "part brokers",
    PartControllers = "part controllers",
    PartOneWay = "part one way",
    IsolateNode = "isolate node",
    PartHalves = "part halves",
    HoldMessages = "hold and release messages",
    ClockForward = "clock jumps forward",
    ClockBackward = "clock jumps backward",
    ClockDrift = "clock drifts",
    PauseBroker = "pause broker",
    PauseController = "pause controller",
    DuplicateBroker = "duplicate broker beside a live one",
    ReplaceByDuplicate = "duplicate broker takes over",
    WipeBroker = "wipe broker",
    WipeController = "wipe controller",
    OlderFiles = "files of an older version",
    NewerFiles = "files of a newer version",
}

impl Fault {
    /// Those after which a topic without a flush policy, with three replicas and `min.insync.replicas=2`, has all its
    /// records, one at a time, and which are over by themselves in seconds.
    pub const BRIEF: [Fault; 12] = [
        KillBroker,
        PowerOffBroker,
        KillController,
        PowerOffController,
        PartBrokerAndController,
        PartBrokers,
        PartControllers,
        PartOneWay,
        SlowDisk,
        LongDelays,
        HoldMessages,
        PauseBroker,
    ];

    pub fn cost(self) -> Cost {
        match self {
            PowerOffAllBrokers | PowerOffAllNodes => Cost::AllUnsynced,
            // What cannot be written or synced any more takes the broker's directory offline, and with it what it had.
            LoseUnsyncedOfBroker
            | PowerOffBroker
            | DamageLog
            | DamageIndex
            | DamageTimeIndex
            | DamageCheckpoint
            | DamageProducerSnapshot
            | FailedReads
            | FailedWrites
            | FailedSync
            | ReadOnlyDisk
            | FailedLogDir
            | DuplicateBroker
            | ReplaceByDuplicate
            | WipeBroker
            | OlderFiles
            | NewerFiles => Cost::OneReplica,
            _ => Cost::Nothing,
        }
    }

    /// Whether no other fault of any kind may be under way beside it: it is a sequence of its own, or asks the others to
    /// be well. A controller whose vote and log are gone may take part again only while all others are well.
    fn is_alone(self) -> bool {
        matches!(
            self,
            RestartAllInTurn
                | DamageRaftLog
                | DamageControllerSnapshot
                | WipeController
                | DuplicateBroker
                | ReplaceByDuplicate
                | NewerFiles
                | KillAllNodes
                | PowerOffAllNodes
        )
    }

    /// Whether a fault may begin while another one is under way.
    fn goes_with(self, other: Fault) -> bool {
        let is_costly = |fault: Fault| fault.cost() != Cost::Nothing;
        // A whole group that is killed has nobody else beside it to be killed.
        let is_group = |fault: Fault| matches!(fault, KillAllBrokers | PowerOffAllBrokers);
        let is_apart = |fault: Fault| fault.is_alone() || is_group(fault);
        let is_too_costly = is_costly(self) && is_costly(other);
        !(is_apart(self) || is_apart(other) || is_too_costly)
    }
}

type Undo = Box<dyn for<'c> FnOnce(&mut Cluster<'c>)>;

/// A fault that has begun.
pub struct Ongoing {
    victims: Vec<String>,
    undo: Undo,
}

impl Ongoing {
    fn new(victims: Vec<String>, undo: impl for<'c> FnOnce(&mut Cluster<'c>) + 'static) -> Self {
        Self { victims, undo: Box::new(undo) }
    }

    /// Ends it: what was killed runs again, what was lost is replaced.
    pub fn end(self, cluster: &mut Cluster<'_>) {
        (self.undo)(cluster);
        self.victims.iter().for_each(|victim| cluster.set_busy(victim, false));
    }
}

/// Begins a fault, on `victim` if it has one and it is given. `None`: there is nobody or nothing to do it to.
pub fn start(cluster: &mut Cluster<'_>, fault: Fault, victim: Option<&str>) -> Option<Ongoing> {
    let begun = match fault {
        KillBroker
        | LoseUnsyncedOfBroker
        | PowerOffBroker
        | KillController
        | LoseUnsyncedOfController
        | PowerOffController
        | KillAllBrokers
        | PowerOffAllBrokers
        | KillAllNodes
        | PowerOffAllNodes
        | LoseMinorityOfControllers
        | LoseMajorityOfControllers
        | RestartAllInTurn => crash::start(cluster, fault, victim),
        DamageLog
        | DamageIndex
        | DamageTimeIndex
        | DamageCheckpoint
        | DamageProducerSnapshot
        | DamageControllerSnapshot
        | DamageRaftLog => damage::start(cluster, fault, victim),
        FullDisk | FailedReads | FailedWrites | FailedSync | SlowDisk | ReadOnlyDisk | FailedLogDir => {
            disk::start(cluster, fault, victim)
        }
        LoseMessages
        | LongDelays
        | SlowLink
        | PartBrokerAndController
        | PartBrokers
        | PartControllers
        | PartOneWay
        | IsolateNode
        | PartHalves
        | HoldMessages => network::start(cluster, fault, victim),
        ClockForward | ClockBackward | ClockDrift | PauseBroker | PauseController => {
            clock::start(cluster, fault, victim)
        }
        DuplicateBroker | ReplaceByDuplicate | WipeBroker | WipeController | OlderFiles | NewerFiles => {
            identity::start(cluster, fault, victim)
        }
    }?;
    cluster.count_fault(fault.name());
    begun.victims.iter().for_each(|victim| cluster.set_busy(victim, true));
    Some(begun)
}

/// Does a fault to a node for a while. Whether there was anything to do it to.
pub fn on(cluster: &mut Cluster<'_>, fault: Fault, victim: &str, duration: Duration) -> bool {
    let Some(begun) = start(cluster, fault, Some(victim)) else { return false };
    cluster.run_for(duration);
    begun.end(cluster);
    true
}

/// Draws a fault, does it, lets it last and ends it. Answers what it was.
pub fn inject(cluster: &mut Cluster<'_>, faults: &[Fault]) -> Option<Fault> {
    let fault = draw(cluster, faults)?;
    let pause = draw_pause(cluster, fault);
    let begun = start(cluster, fault, None)?;
    cluster.run_for(pause);
    begun.end(cluster);
    Some(fault)
}

/// Draws up to `count` faults that may be under way at once, begins them one after another, and ends them in an order
/// that is drawn too. Answers what they were.
pub fn overlap(cluster: &mut Cluster<'_>, faults: &[Fault], count: usize) -> Vec<Fault> {
    let mut done: Vec<Fault> = Vec::new();
    let mut ongoing = Vec::new();
    for _ in 0..count {
        let fitting: Vec<Fault> =
            faults.iter().copied().filter(|fault| done.iter().all(|other| fault.goes_with(*other))).collect();
        let Some(fault) = draw(cluster, &fitting) else { break };
        let pause = draw_pause(cluster, fault);
        if let Some(begun) = start(cluster, fault, None) {
            ongoing.push(begun);
            done.push(fault);
        }
        cluster.run_for(pause / 2);
    }
    while !ongoing.is_empty() {
        let next = cluster.rng.below(ongoing.len() as u64) as usize;
        ongoing.swap_remove(next).end(cluster);
        let pause = cluster.rng.below(2_000);
        cluster.run_for(Duration::from_millis(pause));
    }
    done
}

fn draw(cluster: &mut Cluster<'_>, faults: &[Fault]) -> Option<Fault> {
    if faults.is_empty() { None } else { Some(faults[cluster.rng.below(faults.len() as u64) as usize]) }
}

/// How long a fault lasts: some only show after a timeout.
fn draw_pause(cluster: &mut Cluster<'_>, fault: Fault) -> Duration {
    let brief = 200 + cluster.rng.below(FAULT_MS_MAX - 200);
    Duration::from_millis(match fault {
        // Longer than the session's, the connections' and the requests' timeouts.
        PauseBroker | PauseController if cluster.rng.below(2) == 0 => 35_000 + cluster.rng.below(20_000),
        // The session of the first has to end before the second may come.
        ReplaceByDuplicate => 25_000 + cluster.rng.below(5_000),
        _ => brief,
    })
}

/// The nodes whose name begins so and that no fault has.
fn free(cluster: &Cluster<'_>, prefix: &str) -> Vec<String> {
    let mut names = cluster.node_names(prefix);
    names.retain(|name| !cluster.is_busy(name) && !name.starts_with("twin-"));
    names
}

/// `victim`, or one of the free nodes whose name begins so.
fn pick(cluster: &mut Cluster<'_>, prefix: &str, victim: Option<&str>) -> Option<String> {
    if let Some(victim) = victim {
        return Some(victim.to_owned());
    }
    let names = free(cluster, prefix);
    if names.is_empty() { None } else { Some(names[cluster.rng.below(names.len() as u64) as usize].clone()) }
}

/// As `pick`, another one than `but`.
fn pick_other(cluster: &mut Cluster<'_>, prefix: &str, but: &str) -> Option<String> {
    let mut names = free(cluster, prefix);
    names.retain(|name| name != but);
    if names.is_empty() { None } else { Some(names[cluster.rng.below(names.len() as u64) as usize].clone()) }
}

/// Starts a node that is down, because it was killed or stopped by itself.
fn revive(cluster: &mut Cluster<'_>, name: &str) {
    if !cluster.is_up(name) {
        cluster.restart(name);
    }
}
