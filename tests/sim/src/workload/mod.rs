//! What clients ask of a cluster while faults are at work, a module a workload, and what all of them share. Each remembers what
//! it was promised, and gives its verdict when the faults are over.
//!
//! - `produce`: idempotent producers of acks=all, and readers: rules 1 to 4 of `docs/ARCHITECTURE.md`.
//! - `plain`: producers without identity, of every acks.
//! - `groups`: members of a classic group. `consumers`: of a group of the newer protocol. `transactions`: transactional producers, and `pipeline`: from topic to topic.
//! - `admin`: topics made, grown, changed and deleted; `recreated`: records to topics that come and go.
//! - `keyed` and `aging`: compaction and retention. `moves`: reassignments and elections.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use odradek_common::rng::Rng;
use odradek_node::World;

use crate::client::{Client, Producer, ReadFrom, Seen};

pub mod admin;
pub mod aging;
pub mod consumers;
pub mod groups;
pub mod keyed;
pub mod moves;
pub mod pipeline;
pub mod plain;
pub mod produce;
pub mod recreated;
pub mod transactions;

pub use produce::{check, create_topic, lost, produce, read_all, watch};

/// Something that a client does by itself.
pub type Job = Pin<Box<dyn Future<Output = ()>>>;

/// Where a job runs.
#[derive(Clone)]
pub struct Place {
    pub world: World,
    pub bootstrap: Vec<(String, u16)>,
    pub history: Arc<History>,
}

impl Place {
    pub fn client(&self) -> Client {
        Client::new(self.world.clone(), self.bootstrap.clone())
    }

    pub async fn pause(&self) {
        self.world.sleep(RETRY_PAUSE).await;
    }

    /// An id for an idempotent producer, however often the cluster has to be asked. `None`: the history says stop.
    pub async fn producer(&self, client: &mut Client) -> Option<Producer> {
        while !self.history.stops() {
            if let Ok(producer) = client.init_producer().await {
                return Some(producer);
            }
            self.pause().await;
        }
        None
    }

    /// What a partition holds in the end; when nobody can tell, a rule is broken.
    pub async fn read_in_the_end(
        &self,
        client: &mut Client,
        topic: &str,
        partition: i32,
        from: ReadFrom,
    ) -> Option<Vec<Seen>> {
        let records = client.read_to_end(topic, partition, from, END_PATIENCE).await;
        if records.is_none() {
            self.history.broken(format!("liveness: {topic}-{partition} cannot be read in the end"));
        }
        records
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&self, limit: u64) -> u64 {
        self.world.rng().below(limit)
    }
}

/// A workload, or an oracle that watches all the time.
pub trait Part {
    /// What it does until the history says stop.
    fn jobs(self: Rc<Self>, place: &Place) -> Vec<Job>;

    /// What it checks when the faults are over, the jobs have ended and everything serves again.
    fn verdict(self: Rc<Self>, place: Place) -> Job;
}

/// What a lock holds: a job that panicked has ended the run.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}

/// A topic of a run, and how it is produced to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topic {
    pub name: &'static str,
    pub partitions: i32,
    pub replicas: i16,
    pub acks: i16,
    pub configs: &'static [(&'static str, &'static str)],
}

/// One acknowledged record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    pub producer: usize,
    /// Counts the producer's records from 0.
    pub number: u64,
    pub partition: i32,
    pub offset: i64,
}

/// What all clients of a run share.
#[derive(Default)]
pub struct History {
    pub acknowledged: Mutex<Vec<Acknowledged>>,
    /// What a broken rule was, first one first.
    pub broken: Mutex<Vec<String>>,
    /// One line an event, with its simulated time: equal for equal seeds.
    pub trace: Mutex<Vec<String>>,
    pub stop: AtomicBool,
    /// Brokers that an operator decommissions: such a one stops by itself when it is unregistered.
    pub leaving: Mutex<BTreeSet<String>>,
    /// Those of them that have stopped, until they are started again.
    pub left: Mutex<BTreeSet<String>>,
    /// Records that an oracle compared.
    pub checked: AtomicU64,
    /// How often each workload or oracle did what it is for, by name.
    pub work: Mutex<BTreeMap<String, u64>>,
}

impl History {
    pub fn note(&self, event: impl std::fmt::Display) {
        self.note_at(turmoil::sim_elapsed().unwrap_or_default(), event);
    }

    /// As `note`, from outside of every host.
    pub fn note_at(&self, at: Duration, event: impl std::fmt::Display) {
        self.trace.lock().expect("no holder panics").push(format!("{:>9.3} {event}", at.as_secs_f64()));
    }

    pub fn broken(&self, rule: impl Into<String>) {
        let rule = rule.into();
        self.note(format_args!("BROKEN {rule}"));
        self.broken.lock().expect("no holder panics").push(rule);
    }

    pub fn count_work(&self, name: &str) {
        *self.work.lock().expect("no holder panics").entry(name.to_owned()).or_default() += 1;
    }

    pub fn count_work_by(&self, name: &str, count: u64) {
        if count > 0 {
            *held(&self.work).entry(name.to_owned()).or_default() += count;
        }
    }

    /// Adds to the records that an oracle compared.
    pub fn count_checked(&self, count: u64) {
        self.checked.fetch_add(count, Ordering::Relaxed);
    }

    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn acknowledged_count(&self) -> usize {
        self.acknowledged.lock().expect("no holder panics").len()
    }
}

/// In which a partition has to be read whole when the faults are over.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// The number that a value begins with.
fn leading_number(value: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(value?).ok()?.split(' ').next()?.parse().ok()
}

/// Before a request is sent again.
pub const RETRY_PAUSE: Duration = Duration::from_millis(50);
