//! Whether what administrators were told could have happened one call after the other, each between its invocation and its
//! answer (Wing and Gong, "Testing and verifying concurrent objects", 1993; states that were seen are not searched twice, as in
//! Lowe's "Testing for linearizability"). A call without a clear answer may have happened at any time after it began, or never.
//! Calls to different topics do not touch each other, so each topic has a history of its own.

use std::collections::BTreeSet;

/// What was asked of one topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    Create(i32),
    Delete,
    /// To so many partitions.
    Grow(i32),
    /// A config to this value.
    Set(u32),
    /// What is found when all is quiet.
    Find(State),
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Done,
    Exists,
    Missing,
    /// It has as many partitions or more.
    NotMore,
    /// Nothing that says whether it was done.
    Unknown,
}

/// Partitions and the config's value, of a topic that is there.
pub type State = Option<(i32, Option<u32>)>;

/// One call. Times are nanoseconds of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub op: Op,
    pub outcome: Outcome,
    pub invoked: u64,
    pub answered: u64,
}

impl Call {
    /// The state after the call, if it can have had its outcome in this one.
    ///
    /// A broker that loses its controller while it passes a call on asks the next one. So "exists" may be the echo of the
    /// call's own success, and so may "missing" and "not more": as in Kafka.
    fn step(&self, state: State) -> Option<State> {
        match (self.op, self.outcome, state) {
            (Op::Create(partitions), Outcome::Done | Outcome::Unknown | Outcome::Exists, None) => {
                Some(Some((partitions, None)))
            }
            (Op::Create(_), Outcome::Exists, Some(_)) => Some(state),
            (Op::Delete, Outcome::Done | Outcome::Unknown | Outcome::Missing, Some(_)) => Some(None),
            (Op::Delete | Op::Grow(_) | Op::Set(_), Outcome::Missing, None) => Some(None),
            (Op::Grow(to), Outcome::Done | Outcome::Unknown | Outcome::NotMore, Some((count, value))) if to > count => {
                Some(Some((to, value)))
            }
            (Op::Grow(to), Outcome::NotMore, Some((count, _))) if to <= count => Some(state),
            (Op::Set(value), Outcome::Done | Outcome::Unknown, Some((count, _))) => Some(Some((count, Some(value)))),
            (Op::Find(found), Outcome::Done, _) if found == state => Some(state),
            _ => None,
        }
    }
}

/// What the search found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    NotLinearizable,
    /// The search was given up.
    Undecided,
}

/// Steps of a search before it is given up: some seconds.
const STEPS_MAX: usize = 300_000;

/// Searches for an order. The topic is not there at first.
pub fn check(calls: &[Call]) -> Verdict {
    let mut calls = calls.to_vec();
    calls.sort_by_key(|call| call.invoked);
    for call in &mut calls {
        if call.outcome == Outcome::Unknown {
            call.answered = u64::MAX;
        }
    }
    let mut seen: BTreeSet<(Vec<u64>, State)> = BTreeSet::new();
    let mut stack: Vec<(Vec<u64>, State)> = vec![(vec![0; calls.len().div_ceil(64)], None)];
    let mut steps = 0;
    while let Some((done, state)) = stack.pop() {
        let is_done = |at: usize| done[at / 64] & (1 << (at % 64)) != 0;
        let left = || calls.iter().enumerate().filter(|(at, _)| !is_done(*at));
        if left().all(|(_, call)| call.outcome == Outcome::Unknown) {
            return Verdict::Linearizable;
        }
        steps += 1;
        if steps > STEPS_MAX {
            return Verdict::Undecided;
        }
        // The next one cannot have begun after another one that is left was answered.
        let first_answer = left().map(|(_, call)| call.answered).min().unwrap_or(u64::MAX);
        for (at, call) in left().filter(|(_, call)| call.invoked <= first_answer) {
            if let Some(next) = call.step(state) {
                let mut with = done.clone();
                with[at / 64] |= 1 << (at % 64);
                if seen.insert((with.clone(), next)) {
                    stack.push((with, next));
                }
            }
        }
    }
    Verdict::NotLinearizable
}

#[cfg(test)]
mod tests {
    use super::{Call, Op, Outcome, Verdict, check};

    fn call(op: Op, outcome: Outcome, invoked: u64, answered: u64) -> Call {
        Call { op, outcome, invoked, answered }
    }

    fn verdict(calls: &[Call], expected: Verdict) {
        assert_eq!(check(calls), expected, "{calls:?}");
    }

    #[test]
    fn orders_are_found_and_missed() {
        use Outcome::{Done, Exists, Missing, NotMore, Unknown};
        let create = call(Op::Create(1), Done, 0, 10);
        verdict(&[create, call(Op::Create(1), Exists, 20, 30)], Verdict::Linearizable);
        // Twice created, never deleted.
        verdict(&[create, call(Op::Create(1), Done, 20, 30)], Verdict::NotLinearizable);
        // Deleted in between, by a call that may or may not have happened.
        verdict(&[create, call(Op::Delete, Unknown, 5, 6), call(Op::Create(1), Done, 20, 30)], Verdict::Linearizable);
        // An answer before the call that it needs began.
        verdict(&[call(Op::Delete, Done, 0, 5), call(Op::Create(1), Done, 10, 20)], Verdict::NotLinearizable);
        // At the same time, in the other order than they were invoked.
        verdict(&[call(Op::Delete, Done, 0, 15), call(Op::Create(1), Done, 10, 20)], Verdict::Linearizable);
        let sets = [call(Op::Set(1), Done, 20, 40), call(Op::Set(2), Done, 30, 50)];
        let found = |value| call(Op::Find(Some((3, Some(value)))), Done, 90, 91);
        let grown = [create, call(Op::Grow(3), Done, 11, 12), call(Op::Grow(2), NotMore, 60, 61)];
        verdict(&[&grown[..], &sets, &[found(1)]].concat(), Verdict::Linearizable);
        verdict(&[&grown[..], &sets, &[found(2)]].concat(), Verdict::Linearizable);
        verdict(&[&grown[..], &sets, &[found(3)]].concat(), Verdict::NotLinearizable);
        verdict(&[create, call(Op::Set(1), Missing, 20, 30)], Verdict::NotLinearizable);
        verdict(&[create, call(Op::Find(None), Done, 20, 30)], Verdict::NotLinearizable);
    }
}
