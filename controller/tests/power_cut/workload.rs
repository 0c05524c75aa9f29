//! A log's life in short, and what a store must hold after each step of it.

use std::collections::BTreeMap;
use std::fmt;

use odradek_common::rng::{Rng, SplitMix64};
use odradek_controller::raft::log_store::{Change, LogStore, Recovered};
use odradek_controller::raft::types::{EncodedBatch, Entry, LogId, Vote, log_id};
use openraft::EntryPayload;

const STEPS: usize = 90;

pub enum Step {
    Write(Vec<Change>),
    Reopen,
}

/// The steps of a seed.
pub fn steps(seed: u64) -> Vec<Step> {
    let mut rng = SplitMix64::new(seed);
    let (mut term, mut first, mut next) = (1, 0u64, 0u64);
    let mut steps = Vec::new();
    for step in 0..STEPS {
        if step % 25 == 24 {
            steps.push(Step::Reopen);
        }
        let mut group = Vec::new();
        for _ in 0..=rng.below(3) {
            match rng.below(10) {
                0 => {
                    term += 1;
                    group.push(Change::Vote(Vote::new(term, 1 + rng.below(3))));
                }
                1 if next > first + 3 => {
                    let from = next - 1 - rng.below(3);
                    group.push(Change::Truncate { from });
                    next = from;
                }
                2 if next > first + 8 => {
                    let upto = first + rng.below(6);
                    group.push(Change::Purge { upto: log_id(term, upto) });
                    first = upto + 1;
                }
                _ => {
                    let entries = (0..=rng.below(4)).map(|_| {
                        let length = match rng.below(8) {
                            0 => 40_000,
                            1..=3 => 3_000,
                            _ => 60,
                        };
                        let bytes = vec![rng.next_u64() as u8; length];
                        next += 1;
                        let payload = EntryPayload::Normal(EncodedBatch(bytes.into()));
                        Entry { log_id: log_id(term, next - 1), payload }
                    });
                    group.push(Change::Append(entries.collect()));
                }
            }
        }
        steps.push(Step::Write(group));
    }
    steps
}

/// The groups of a seed's steps.
pub fn groups(seed: u64) -> Vec<Vec<Change>> {
    let groups = steps(seed).into_iter().filter_map(|step| match step {
        Step::Write(group) => Some(group),
        Step::Reopen => None,
    });
    groups.collect()
}

/// What a store says when it is asked for everything.
#[derive(Clone, Default, PartialEq)]
pub struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Append(entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            }
            Change::Truncate { from } => drop(self.entries.split_off(from)),
            Change::Purge { upto } => {
                self.purged = Some(*upto);
                self.entries = self.entries.split_off(&(upto.index + 1));
            }
            Change::Committed(_) => {}
        }
    }

    pub fn read(store: &dyn LogStore, recovered: &Recovered) -> std::io::Result<Self> {
        let mut entries = BTreeMap::new();
        if let (Some(first), Some(last)) = (recovered.first, recovered.last) {
            let read = store.read(first..last.index + 1)?;
            entries.extend(read.into_iter().map(|entry| (entry.log_id.index, entry)));
        }
        Ok(Self { vote: recovered.vote, purged: recovered.purged, entries })
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.entries.keys().next(), self.entries.keys().next_back());
        let last_id = self.entries.values().next_back().map(|entry| entry.log_id);
        write!(f, "vote {:?}, purged {:?}, entries {first:?}..={last:?} ({last_id:?})", self.vote, self.purged)
    }
}
