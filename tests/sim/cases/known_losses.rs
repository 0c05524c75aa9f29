//! How others have lost what they had acknowledged, each as a run of the simulation (`tests/sim/src/scripts` tells the stories, with
//! what must hold; `docs/RELIABILITY.md` has the table). That the scripts can fail is shown by `tests/sim/run --bugs` for those that
//! a seeded bug belongs to. What a power failure may cost (NATS 2.12.1) is in `power.rs` and the scenario `bad-days`.

use crate::one;

/// Plays a story from one seed, or from several.
fn play(script: &str) {
    let seeds = if std::env::var_os("ODRADEK_LONG").is_some() { 1..=20 } else { 1..=1 };
    seeds.for_each(|seed| drop(one(script, seed)));
}

/// Kafka's KIP-101: truncation to the high watermark lost what was acknowledged when two leaders died one after the other.
#[test]
fn kip_101_truncation_goes_by_epochs() {
    play("fast-failovers");
}

/// Kafka's KIP-279 (KAFKA-6361): after fast failovers two replicas differed for ever.
#[test]
fn kip_279_divergent_tails_meet_at_the_largest_shared_epoch() {
    play("divergent-tails");
}

/// Kafka's KIP-320: readers went on in another history, and zombies served what was not committed.
#[test]
fn kip_320_stale_readers_are_fenced_and_told_where_their_history_parts() {
    play("stale-readers");
}

/// Kafka's KIP-966: the last replica standing was the only one that could lead, with or without its data.
#[test]
fn kip_966_who_left_before_the_last_replica_leads_with_all_that_was_acknowledged() {
    play("last-replica");
}

/// Kafka's KAFKA-18723: records of a later epoch than the follower's hid that the histories part before them.
#[test]
fn kafka_18723_no_records_of_a_later_epoch_are_taken() {
    play("replaced-log");
}

/// Kafka's KAFKA-10706: epochs without records kept a follower from ever ending its truncation.
#[test]
fn kafka_10706_leaders_that_write_nothing_keep_nobody_from_following() {
    play("idle-elections");
}

/// KAFKA-19012, of Java's producer: a buffer that was used again too early brought records into another topic.
#[test]
fn kafka_19012_no_record_comes_into_another_topic() {
    play("broken-off");
}

/// Jepsen's analysis of NATS 2.12.1: one flipped bit on one node lost what all had acknowledged.
#[test]
fn nats_2_12_a_flipped_bit_in_one_replica_loses_nothing() {
    // The first flips a leader epoch, the other an offset: no checksum covers them.
    play("flipped-bit");
    drop(one("flipped-bit", 7));
}

/// Kafka's KIP-890: a batch that came after its transaction's end opened one that nobody ended.
#[test]
fn kip_890_no_transaction_hangs_by_a_batch_that_comes_too_late() {
    play("hanging-transactions");
}

/// Kafka's KIP-890: a marker that came late ended the next transaction.
#[test]
fn kip_890_a_late_marker_ends_no_other_transaction() {
    play("late-markers");
}

/// Kafka, with the first protocol: a marker that came late ended the next transaction of its epoch.
#[test]
fn a_late_marker_ends_no_other_transaction_of_its_epoch() {
    play("late-markers-of-one-epoch");
}

/// Jepsen's analysis of Bufstream 0.1.0, and of Kafka there: an end that was long under way ended a later transaction.
#[test]
fn bufstream_0_1_a_delayed_end_ends_no_later_transaction() {
    play("delayed-ends");
}

/// Jepsen's analysis of Redpanda 21.10.1: records of aborted transactions were read.
#[test]
fn redpanda_21_10_readers_of_committed_records_see_all_of_a_transaction_or_nothing() {
    play("open-transactions");
}
