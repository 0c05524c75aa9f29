//! What happened in a run, who was promised what, and which promises were broken.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lines of the trace that are shown when a rule is broken.
const TRACE_LINES: usize = 80;
/// Broken rules that are shown.
const BROKEN_LINES: usize = 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of a run share.
pub struct History {
    started: Instant,
    trace: Mutex<Vec<String>>,
    broken: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
    /// No more is to be begun.
    stop: AtomicBool,
    /// All that will ever be written is there: consumers are to read it to its end.
    pub ends: Mutex<Option<BTreeMap<i32, i64>>>,
    /// The positions that groups have committed: (group, partition) to offset.
    pub committed: Registers<(String, i32)>,
    /// A config of each topic that comes and goes.
    pub configs: Registers<String>,
}

impl History {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            trace: Mutex::default(),
            broken: Mutex::default(),
            counts: Mutex::default(),
            stop: AtomicBool::new(false),
            ends: Mutex::default(),
            committed: Registers::default(),
            configs: Registers::default(),
        }
    }

    pub fn note(&self, event: impl Display) {
        let line = format!("{:>8.3} {event}", self.started.elapsed().as_secs_f64());
        eprintln!("{line}");
        lock(&self.trace).push(line);
    }

    pub fn broken(&self, rule: impl Display) {
        let rule = rule.to_string();
        self.note(format_args!("BROKEN {rule}"));
        lock(&self.broken).push(rule);
    }

    /// Breaks a rule when a worker could not do what must be possible.
    pub fn must(&self, who: &str, outcome: anyhow::Result<()>) {
        if let Err(error) = outcome {
            self.broken(format_args!("{who}: {error:#}"));
        }
    }

    pub fn is_broken(&self) -> bool {
        !lock(&self.broken).is_empty()
    }

    pub fn count(&self, what: &str, more: u64) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += more;
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What was counted, a line each.
    pub fn figures(&self) -> String {
        lock(&self.counts).iter().map(|(what, count)| format!("{count:>10} {what}\n")).collect()
    }

    /// The broken rules and the end of the trace; nothing when all held.
    pub fn verdict(&self) -> Option<String> {
        let broken = lock(&self.broken);
        if broken.is_empty() {
            return None;
        }
        let trace = lock(&self.trace);
        let mut out = format!("{} broken rules:\n", broken.len());
        broken.iter().take(BROKEN_LINES).for_each(|rule| out += &format!("  {rule}\n"));
        out += "the end of the trace (seconds since the start):\n";
        trace.iter().skip(trace.len().saturating_sub(TRACE_LINES)).for_each(|line| out += &format!("  {line}\n"));
        Some(out)
    }
}

/// Single values that are written by requests whose answer may be lost, checked to be linearizable: a value that is read is
/// one that was written, and none that a later acknowledged write has replaced. A write without an answer may take effect
/// whenever it likes.
pub struct Registers<K> {
    writes: Mutex<BTreeMap<K, Vec<Write>>>,
}

impl<K> Default for Registers<K> {
    fn default() -> Self {
        Self { writes: Mutex::default() }
    }
}

#[derive(Clone, Copy, Debug)]
struct Write {
    value: i64,
    began: Instant,
    acknowledged: Option<Instant>,
}

impl<K: Ord + Clone> Registers<K> {
    /// A write begins; its number is for `acknowledge`.
    pub fn begin(&self, key: &K, value: i64) -> usize {
        let mut writes = lock(&self.writes);
        let of_key = writes.entry(key.clone()).or_default();
        of_key.push(Write { value, began: Instant::now(), acknowledged: None });
        of_key.len() - 1
    }

    pub fn acknowledge(&self, key: &K, number: usize) {
        if let Some(write) = lock(&self.writes).get_mut(key).and_then(|of_key| of_key.get_mut(number)) {
            write.acknowledged = Some(Instant::now());
        }
    }

    /// What is wrong with a value that was read by a request that began at `began`; `None` stands for no value at all.
    pub fn check(&self, key: &K, read: Option<i64>, began: Instant) -> Result<(), String> {
        let writes = lock(&self.writes);
        let of_key = writes.get(key).map_or(&[][..], Vec::as_slice);
        let before = of_key.iter().filter(|write| write.acknowledged.is_some_and(|at| at < began));
        let Some(read) = read else {
            return match before.clone().next_back() {
                Some(write) => Err(format!("nothing was read, though {} was acknowledged", write.value)),
                None => Ok(()),
            };
        };
        // The same value may have been written more than once: any of them explains it.
        let mut problem = format!("{read} was read, and never written");
        for write in of_key.iter().filter(|write| write.value == read) {
            let Some(ended) = write.acknowledged else { return Ok(()) };
            match before.clone().find(|other| other.began > ended && other.value != read) {
                Some(other) => problem = format!("{read} was read, though {} was acknowledged later", other.value),
                None => return Ok(()),
            }
        }
        Err(problem)
    }

    pub fn keys(&self) -> Vec<K> {
        lock(&self.writes).keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_replaced_is_found_and_one_without_an_answer_is_not() {
        let registers = Registers::default();
        let write = |value, answered| {
            let number = registers.begin(&"k", value);
            if answered {
                registers.acknowledge(&"k", number);
            }
        };
        let check = |read| registers.check(&"k", read, Instant::now()).is_ok();
        assert!(check(None) && !check(Some(1)));
        write(1, true);
        write(2, false);
        assert!(check(Some(1)) && check(Some(2)) && !check(None));
        write(3, true);
        assert!(check(Some(3)) && check(Some(2)) && !check(Some(1)));
        write(1, true);
        assert!(check(Some(1)) && !check(Some(3)));
    }
}
