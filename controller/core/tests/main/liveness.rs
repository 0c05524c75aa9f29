//! Who is fenced when, and who is not.

use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_controller_core::Event;
use odradek_controller_core::heartbeat::Heartbeat;

use crate::cluster::{Cluster, code, settings};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_broken_connection_that_is_back_in_time_is_forgiven() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(5 * SECOND, &mut [one, two]);
    cluster.kill(one);
    cluster.pass(Duration::from_millis(400), &mut [two]);
    cluster.reconnect(one);
    // The old stream's end is seen late, and means nothing any more.
    let late = crate::cluster::Broker { stream: one.stream - 1, ..one.clone() };
    cluster.kill(&late);
    cluster.pass(5 * SECOND, &mut [one, two]);
    assert!(cluster.fenced().is_empty());
}

#[test]
fn a_port_that_refuses_connections_ends_the_grace() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    let [one, two, three] = &mut brokers[..] else { panic!("three") };
    cluster.create_on("t", &[1, 2, 3]);
    cluster.pass(5 * SECOND, &mut [one, two, three]);
    // While the stream is there, or of a stream that has been replaced, it means nothing.
    cluster.refuse(one);
    let old = one.clone();
    cluster.kill(one);
    cluster.reconnect(one);
    cluster.refuse(&old);
    cluster.pass(SECOND, &mut [one, two, three]);
    assert!(cluster.fenced().is_empty());
    cluster.kill(one);
    cluster.refuse(one);
    cluster.pass(Duration::from_millis(100), &mut [two, three]);
    assert_eq!(cluster.fenced(), [1]);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
}

#[test]
fn silence_is_judged_by_the_pace_that_is_usual() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(3);
    let [one, two, three] = &mut brokers[..] else { panic!("three") };
    cluster.create_on("t", &[1, 2, 3]);
    cluster.pass(10 * SECOND, &mut [one, two, three]);
    // At one message in half a second, silence means something after the least bound of 3 s.
    cluster.pass(Duration::from_millis(2400), &mut [two, three]);
    assert!(cluster.fenced().is_empty());
    cluster.pass(Duration::from_millis(800), &mut [two, three]);
    assert_eq!(cluster.fenced(), [1]);
    assert_eq!(cluster.state("t"), "leader 2 isr [2,3]");
}

#[test]
fn a_slow_pace_stretches_the_bound_up_to_the_session_timeout() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    for _ in 0..5 {
        cluster.beat(one).expect("alive");
        cluster.pass(2 * SECOND, &mut [two]);
    }
    cluster.pass(Duration::from_millis(5800), &mut [two]);
    assert!(cluster.fenced().is_empty());
    cluster.pass(Duration::from_millis(1500), &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
}

#[test]
fn the_last_in_sync_replica_has_the_whole_session_timeout() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.create_on("single", &[1]);
    cluster.pass(10 * SECOND, &mut [one, two]);
    cluster.pass(Duration::from_millis(8500), &mut [two]);
    assert!(cluster.fenced().is_empty());
    cluster.pass(SECOND, &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
}

#[test]
fn a_controller_that_did_not_run_blames_nobody() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(10 * SECOND, &mut [one, two]);
    cluster.now = cluster.now + 60 * SECOND;
    cluster.tick();
    assert!(cluster.fenced().is_empty());
    assert!(cluster.events.iter().any(|event| matches!(event, Event::ControllerStalled { millis: 59_000.. })));
    // Who stays silent then is found out in the usual time.
    cluster.pass(4 * SECOND, &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
}

#[test]
fn the_clock_is_looked_at_rarely_unless_a_broker_is_in_doubt() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(10 * SECOND, &mut [one, two]);
    cluster.tick();
    let until_due = |cluster: &Cluster| cluster.decider.tick_due().saturating_since(cluster.now);
    assert_eq!(until_due(&cluster), SECOND);
    // Half of the least bound of silence.
    cluster.pass(Duration::from_millis(1600), &mut [two]);
    assert!(until_due(&cluster) <= Duration::from_millis(100));
    cluster.pass(SECOND, &mut [one, two]);
    cluster.tick();
    assert_eq!(until_due(&cluster), SECOND);
    cluster.kill(one);
    assert_eq!(until_due(&cluster), Duration::from_millis(100));
    cluster.pass(Duration::from_millis(600), &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
}

#[test]
fn a_new_leader_starts_every_clock_anew() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(2);
    let [one, two] = &mut brokers[..] else { panic!("two") };
    cluster.pass(10 * SECOND, &mut [one, two]);
    cluster.pass(2 * SECOND, &mut []);
    cluster.change_leader(settings(&[]));
    cluster.pass(8 * SECOND, &mut [two]);
    assert!(cluster.fenced().is_empty());
    cluster.pass(2 * SECOND, &mut [two]);
    assert_eq!(cluster.fenced(), [1]);
}

#[test]
fn heartbeats_write_nothing_when_nothing_changes() {
    let (mut cluster, mut brokers) = Cluster::with_brokers(1);
    cluster.beat(&mut brokers[0]).expect("alive");
    assert!(cluster.records.is_empty());
    cluster.tick();
    assert!(cluster.records.is_empty());
}

#[test]
fn old_epochs_and_other_incarnations_are_refused() {
    let (mut cluster, brokers) = Cluster::with_brokers(1);
    let one = &brokers[0];
    let stale = crate::cluster::Broker { epoch: (one.epoch.0 - 1).into(), ..one.clone() };
    assert_eq!(code(cluster.heartbeat(&stale, Heartbeat::default())), ErrorCode::StaleBrokerEpoch);
    let other = crate::cluster::Broker { incarnation: odradek_common::Uuid([9; 16]), ..one.clone() };
    assert_eq!(code(cluster.heartbeat(&other, Heartbeat::default())), ErrorCode::StaleBrokerEpoch);
    let unknown = crate::cluster::Broker { id: 7.into(), ..one.clone() };
    assert_eq!(code(cluster.heartbeat(&unknown, Heartbeat::default())), ErrorCode::StaleBrokerEpoch);
}

#[test]
fn a_broker_is_fenced_until_it_has_caught_up_and_when_it_asks() {
    let (mut cluster, _) = Cluster::with_brokers(1);
    let two = cluster.join(2, odradek_common::BrokerEpoch::NONE);
    let at = |metadata_offset| Heartbeat { metadata_offset, ..Heartbeat::default() };
    let reply = cluster.heartbeat(&two, at(two.epoch.0 - 1)).expect("registered");
    assert!(reply.is_fenced && !reply.is_caught_up);
    let reply = cluster.heartbeat(&two, Heartbeat { want_fence: true, ..at(two.epoch.0) }).expect("registered");
    assert!(reply.is_fenced && reply.is_caught_up);
    assert!(!cluster.heartbeat(&two, at(two.epoch.0)).expect("registered").is_fenced);
    assert_eq!(cluster.record_kinds(), ["broker change"]);
    let reply = cluster.heartbeat(&two, Heartbeat { want_fence: true, ..at(two.epoch.0) }).expect("registered");
    assert!(reply.is_fenced && !reply.should_shut_down);
}
