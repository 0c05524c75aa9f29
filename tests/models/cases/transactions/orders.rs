//! Which orders of events are tried, a test for each kind of what may go wrong. In each scope a little of it comes with a little of
//! something else, as all together would be too much to see all of.

use odradek_broker_core::transaction::TransactionVersion;
use odradek_models::{check, is_long, search};

use super::{Scope, World};

/// Nothing goes wrong.
const QUIET: Scope = Scope {
    version: TransactionVersion::V2,
    transactions: 2,
    producers: 1,
    unheard: 0,
    late_requests: 0,
    late_markers: 0,
    tells_decision: true,
    coordinators_lost: 0,
    leaders_lost: 0,
    given_up: 0,
    timeouts: 0,
    states_max: 30_000,
};

const BOTH: [TransactionVersion; 2] = [TransactionVersion::V0, TransactionVersion::V2];

fn holds(name: &str, scope: Scope) {
    let scope = if is_long() { Scope { states_max: 300_000, ..scope } } else { scope };
    for version in BOTH {
        let scope = Scope { version, ..scope };
        check(&format!("{name}, protocol of level {}", version.0), World::new(scope), scope.states_max);
    }
}

#[test]
fn answers_that_nobody_hears_break_no_transaction() {
    holds("unheard answers", Scope { unheard: 2, ..QUIET });
}

#[test]
fn messages_that_come_again_break_no_transaction() {
    holds("late messages", Scope { late_requests: 1, late_markers: 1, given_up: 1, ..QUIET });
}

#[test]
fn coordinators_and_leaders_that_die_break_no_transaction() {
    holds("lost coordinators", Scope { coordinators_lost: 2, unheard: 1, ..QUIET });
    holds("a lost leader", Scope { leaders_lost: 1, late_requests: 1, given_up: 1, ..QUIET });
}

#[test]
fn transactions_that_take_too_long_are_ended() {
    holds("timeouts", Scope { timeouts: 1, late_requests: 1, late_markers: 1, ..QUIET });
}

#[test]
fn a_producer_that_takes_another_s_place_ends_what_that_began() {
    holds("two producers", Scope { producers: 2, late_markers: 1, coordinators_lost: 1, ..QUIET });
}

/// Jepsen's analysis of Redpanda 21.10.1: transactions of different producers saw and undid each other (aborted reads, circular
/// information flow). Whoever begins must be another one to the brokers than all before, whatever was asked for before and not
/// heard.
#[test]
fn redpanda_21_10_no_two_producers_have_one_id_and_epoch() {
    holds("one identity each", Scope { transactions: 1, producers: 2, unheard: 1, coordinators_lost: 1, ..QUIET });
}

/// Jepsen's analysis of Bufstream 0.1.0: readers of committed records got no further, though nobody wrote any more, and
/// transactions lost some of their records.
#[test]
fn bufstream_0_1_no_reader_is_stuck_behind_a_transaction_and_none_is_in_parts() {
    let scope = Scope { transactions: 1, unheard: 1, coordinators_lost: 1, leaders_lost: 1, timeouts: 1, ..QUIET };
    holds("no stuck reader", scope);
}

/// A marker that is sent again, as its answer was lost, and of which the first copy arrives when the next transaction is open, be
/// it that another leader knows nothing of what the one before has taken.
#[test]
fn a_late_marker_ends_no_other_transaction() {
    holds("a late marker", Scope { late_markers: 2, unheard: 1, ..QUIET });
    holds("a late marker, and another leader", Scope { late_markers: 1, leaders_lost: 2, ..QUIET });
    holds("a late marker, and another coordinator", Scope { late_markers: 1, coordinators_lost: 1, ..QUIET });
}

/// Kafka's markers do not say which transaction of an epoch they are of, and the coordinator's epoch is the same. With the first
/// protocol its partitions are ended so, and ours by an operator's tool that sends one twice.
#[test]
fn a_late_marker_that_does_not_tell_its_decision_ends_the_next_transaction() {
    let scope =
        Scope { version: TransactionVersion::V0, late_markers: 1, tells_decision: false, states_max: 30_000, ..QUIET };
    let broken = search(World::new(scope), scope.states_max).expect_err("it cannot be told");
    assert!(broken.rule.starts_with("rule 1"), "{broken}");
    assert!(
        broken.steps.iter().any(|step| step.starts_with("Mark") && step.ends_with("comes_again: true }")),
        "{broken}"
    );
}

/// The markers of a coordinator that has lost its place come too late: its successor has told every partition of its own epoch
/// before the next transaction begins.
#[test]
fn a_late_marker_of_an_older_coordinator_ends_nothing() {
    let scope = Scope { coordinators_lost: 1, ..QUIET };
    for version in BOTH {
        let searched =
            check("an older coordinator's markers", World::new(Scope { version, ..scope }), scope.states_max);
        assert!(searched.is_complete);
    }
}
