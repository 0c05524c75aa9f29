//! Every order of events in a small world, one after the other: a breadth-first search over the states of a [`Model`].
//!
//! A model is made of the pure cores of the product and of what stands between them: messages that are lost, late or come
//! twice, and whoever sends them and dies. How much of each there is is bounded by the model, so that the search ends; within
//! the bounds there is no order that is not tried. The models themselves are the cases of this crate. Nothing here knows what
//! is modelled.

use std::collections::{HashSet, VecDeque};
use std::fmt::{self, Debug, Write};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

/// A small world.
pub trait Model: Clone {
    type Step: Copy + Debug;

    /// What may happen next.
    fn steps(&self) -> Vec<Self::Step>;

    /// One of these happens. An error is a rule that was broken.
    fn step(&mut self, step: Self::Step) -> Result<(), String>;

    /// No fault comes any more, and all that can happen does. An error is a rule that was broken, or something that is under
    /// way for ever.
    fn settle(self) -> Result<(), String>;

    /// What makes two states the same.
    fn describe(&self, out: &mut dyn Write) -> fmt::Result;
}

/// What a search has seen.
#[derive(Clone, Copy, Debug)]
pub struct Searched {
    pub states: usize,
    pub steps: usize,
    /// All states within the bounds of the model were seen.
    pub is_complete: bool,
    pub took: Duration,
}

/// A rule that was broken, with the shortest way there.
#[derive(Clone, Debug)]
pub struct Broken {
    pub rule: String,
    /// Each as `Debug` tells it.
    pub steps: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, after", self.rule)?;
        self.steps.iter().enumerate().try_for_each(|(n, step)| write!(out, "\n{:4}. {step}", n + 1))
    }
}

/// Two hashes of what is written, so that two states are not taken for one by chance.
struct Key {
    hashers: [DefaultHasher; 2],
}

impl Key {
    fn of(model: &impl Model) -> u128 {
        let mut key = Self { hashers: Default::default() };
        key.hashers[1].write_u8(1);
        // Hashing cannot fail.
        let _ = model.describe(&mut key);
        u128::from(key.hashers[0].finish()) << 64 | u128::from(key.hashers[1].finish())
    }
}

impl Write for Key {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for hasher in &mut self.hashers {
            hasher.write(text.as_bytes());
        }
        Ok(())
    }
}

/// Searches until all is seen, or `states_max` states are.
pub fn search<M: Model>(start: M, states_max: usize) -> Result<Searched, Broken> {
    let started = Instant::now();
    // The history of each state: its predecessor, and the step that led here.
    let mut history: Vec<(usize, Option<M::Step>)> = vec![(0, None)];
    let way = |history: &[(usize, Option<M::Step>)], mut at: usize| {
        let mut steps = Vec::new();
        while let Some((before, Some(step))) = history.get(at) {
            steps.push(format!("{step:?}"));
            at = *before;
        }
        steps.reverse();
        steps
    };
    let mut known = HashSet::from([Key::of(&start)]);
    let mut queue = VecDeque::from([(0, start)]);
    let mut steps = 0;
    let mut is_complete = true;
    while let Some((at, state)) = queue.pop_front() {
        if let Err(rule) = state.clone().settle() {
            return Err(Broken { rule, steps: way(&history, at) });
        }
        for step in state.steps() {
            steps += 1;
            let mut next = state.clone();
            if let Err(rule) = next.step(step) {
                let mut steps = way(&history, at);
                steps.push(format!("{step:?}"));
                return Err(Broken { rule, steps });
            }
            if known.len() >= states_max {
                is_complete &= known.contains(&Key::of(&next));
                continue;
            }
            if known.insert(Key::of(&next)) {
                history.push((at, Some(step)));
                queue.push_back((history.len() - 1, next));
            }
        }
    }
    Ok(Searched { states: known.len(), steps, is_complete, took: started.elapsed() })
}

/// Searches a model that must hold: panics with the way to the broken rule, and tells what was seen.
pub fn check<M: Model>(name: &str, start: M, states_max: usize) -> Searched {
    match search(start, states_max) {
        Err(broken) => panic!("{name}: {broken}"),
        Ok(searched) => {
            let Searched { states, steps, is_complete, took } = searched;
            let extent = if is_complete { "all of the scope" } else { "cut off" };
            println!("{name}: {states} states, {steps} steps, {extent}, {:.1} s", took.as_secs_f64());
            searched
        }
    }
}

/// Whether there is time for more.
pub fn is_long() -> bool {
    std::env::var_os("ODRADEK_LONG").is_some()
}
