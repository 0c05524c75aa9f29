//! What one simulated run did and found, as a line of JSON: a run's process hands it to whoever started it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One run. A rule that was broken is in `broken`; everything else is figures.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    /// How much time passed inside the simulation.
    pub simulated_ms: u64,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<String, u64>,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Records that the oracles compared with what was acknowledged.
    pub checked: u64,
    /// How often each workload or oracle did what it is for, by name.
    pub work: BTreeMap<String, u64>,
    /// Lines of the trace, and the FNV-1a hash of them all: equal for two runs of one seed.
    pub events: u64,
    pub trace_hash: u64,
    /// The rule that was broken, with the end of the trace.
    pub broken: Option<String>,
}

impl Report {
    pub fn simulated(&self) -> Duration {
        Duration::from_millis(self.simulated_ms)
    }

    /// Adds another run's figures. Its seed, trace and broken rule are its own.
    pub fn add(&mut self, other: &Report) {
        self.simulated_ms += other.simulated_ms;
        self.acknowledged += other.acknowledged;
        self.checked += other.checked;
        self.events += other.events;
        for (sum, part) in [(&mut self.faults, &other.faults), (&mut self.work, &other.work)] {
            for (name, count) in part {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), over lines.
pub fn hash_lines<'a>(lines: impl IntoIterator<Item = &'a String>) -> u64 {
    let bytes = lines.into_iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::{Report, hash_lines};

    #[test]
    fn figures_of_two_runs_are_summed() {
        let run = |faults: &[(&str, u64)]| Report {
            acknowledged: 10,
            faults: faults.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            ..Report::default()
        };
        let mut sum = run(&[("kill", 2)]);
        sum.add(&run(&[("kill", 1), ("part", 4)]));
        assert_eq!(sum, Report { acknowledged: 20, ..run(&[("kill", 3), ("part", 4)]) });
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // The empty input's and, with the newline, "a\n"'s.
        assert_eq!(hash_lines([]), 0xcbf2_9ce4_8422_2325);
        assert_ne!(hash_lines(["a".to_owned()].iter()), hash_lines(["b".to_owned()].iter()));
    }
}
