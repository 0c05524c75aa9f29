// Most steps only lead up to the one that is looked at.
#![allow(unused_must_use)]

use std::collections::BTreeMap;

use super::*;

const LAG_MAX: Duration = Duration::from_secs(30);

/// Brokers with epochs; a fenced one has no active epoch.
#[derive(Default)]
struct Cluster(BTreeMap<i32, (i64, bool)>);

impl Cluster {
    fn of(ids: &[i32]) -> Self {
        Self(ids.iter().map(|id| (*id, (i64::from(*id) * 10, true))).collect())
    }

    fn set(&mut self, id: i32, epoch: i64, active: bool) {
        self.0.insert(id, (epoch, active));
    }
}

impl Brokers for Cluster {
    fn epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.0.get(&broker.0).map(|(epoch, _)| BrokerEpoch(*epoch))
    }

    fn active_epoch(&self, broker: BrokerId) -> Option<BrokerEpoch> {
        self.0.get(&broker.0).filter(|(_, active)| *active).map(|(epoch, _)| BrokerEpoch(*epoch))
    }
}

fn at(seconds: u64) -> Instant {
    Instant(0) + Duration::from_secs(seconds)
}

fn registration(replicas: &[i32], isr: &[i32], leader_epoch: i32, partition_epoch: i32) -> PartitionRegistration {
    PartitionRegistration {
        replicas: replicas.iter().copied().map(BrokerId).collect(),
        isr: isr.iter().copied().map(BrokerId).collect(),
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(partition_epoch),
        ..PartitionRegistration::default()
    }
}

struct Scene {
    cluster: Cluster,
    leader: LeaderState,
    now: Instant,
}

impl Scene {
    /// Broker 1 leads brokers 1 to 3 from a log of `log_end` records, of which `high_watermark` are known committed.
    fn new(isr: &[i32], min_isr: usize, log_end: i64, high_watermark: i64) -> Self {
        let ends = LogEnds { log_end: Offset(log_end), high_watermark: Offset(high_watermark) };
        let registration = registration(&[1, 2, 3], isr, 5, 7);
        let leader = LeaderState::new(BrokerId(1), BrokerEpoch(10), &registration, ends, min_isr, LAG_MAX, at(100));
        Self { cluster: Cluster::of(&[1, 2, 3]), leader, now: at(100) }
    }

    fn append(&mut self, log_end: i64) -> Option<i64> {
        self.leader.on_appended(Offset(log_end), &self.cluster, self.now).high_watermark.map(|offset| offset.0)
    }

    fn fetch(&mut self, replica: i32, offset: i64) -> Effects {
        let fetch = FollowerFetch {
            replica: BrokerId(replica),
            broker_epoch: BrokerEpoch(i64::from(replica) * 10),
            fetch_offset: Offset(offset),
            log_start: Offset(0),
            leader_log_end: self.leader.log_end(),
        };
        self.leader.on_follower_fetch(&fetch, &self.cluster, self.now).expect("a valid fetch")
    }

    fn answer(&mut self, proposal: &IsrProposal, error: ErrorCode) -> IsrOutcome {
        self.leader.on_alter_partition(proposal, Err(error), &self.cluster, self.now)
    }

    fn commit(&mut self, proposal: &IsrProposal) -> IsrOutcome {
        let committed = IsrCommitted {
            leader_epoch: proposal.leader_epoch,
            partition_epoch: PartitionEpoch(proposal.partition_epoch.0 + 1),
            isr: proposal.isr.iter().map(|member| member.broker).collect(),
        };
        self.leader.on_alter_partition(proposal, Ok(&committed), &self.cluster, self.now)
    }

    fn tick(&mut self) -> Option<IsrProposal> {
        self.leader.on_tick(&self.cluster, self.now).proposal
    }

    fn mark(&self) -> i64 {
        self.leader.high_watermark().0
    }
}

fn moved(effects: &Effects) -> Option<i64> {
    effects.high_watermark.map(|offset| offset.0)
}

fn members(proposal: &IsrProposal) -> Vec<(i32, i64)> {
    proposal.isr.iter().map(|member| (member.broker.0, member.epoch.0)).collect()
}

#[test]
fn a_follower_joins_with_all_that_the_leader_began_with_flushed_or_not() {
    // Of 10 records, 6 count as they are on the leader's disk.
    let mut scene = Scene::new(&[1], 1, 6, 4);
    scene.leader.set_epoch_start(Offset(10));
    assert!(!scene.leader.offsets_are_available());
    assert_eq!(
        scene.fetch(2, 7).proposal,
        None,
        "more than counts, and yet less than its predecessor may have committed"
    );
    assert!(scene.fetch(2, 10).proposal.is_some());
    scene.append(10);
    assert!(scene.leader.offsets_are_available());
}

#[test]
fn the_mark_is_the_least_log_end_of_the_isr() {
    let mut scene = Scene::new(&[1, 2, 3], 2, 0, 0);
    assert_eq!(scene.append(10), None);
    assert_eq!(moved(&scene.fetch(2, 10)), None);
    assert_eq!(moved(&scene.fetch(3, 4)), Some(4));
    assert_eq!(moved(&scene.fetch(3, 10)), Some(10));
    assert_eq!(scene.append(12), None);
    // A follower that went back (its disk was lost) does not pull the mark down.
    assert_eq!(moved(&scene.fetch(2, 3)), None);
    assert_eq!(scene.mark(), 10);
}

#[test]
fn a_leader_alone_commits_at_once() {
    let ends = LogEnds { log_end: Offset(3), high_watermark: Offset(1) };
    let alone = registration(&[1], &[1], 1, 1);
    let mut leader = LeaderState::new(BrokerId(1), BrokerEpoch(1), &alone, ends, 2, LAG_MAX, at(1));
    let cluster = Cluster::of(&[1]);
    assert_eq!(moved(&leader.start(&cluster, at(1))), Some(3));
    assert!(leader.check_append(-1).is_ok(), "the minimum is bounded by the number of replicas");
    assert_eq!(moved(&leader.on_appended(Offset(9), &cluster, at(1))), Some(9));
    assert_eq!(leader.acknowledged(Offset(9)), Some(Ok(())));
    assert_eq!(leader.acknowledged(Offset(10)), None);
}

#[test]
fn below_the_minimum_the_mark_stands_still() {
    let mut scene = Scene::new(&[1], 2, 5, 5);
    let refused = NotEnoughReplicas { in_sync: 1, required: 2 };
    assert_eq!(scene.leader.check_append(-1), Err(refused));
    assert_eq!(scene.leader.check_append(1), Ok(()));
    assert_eq!(scene.append(8), None);
    assert_eq!(scene.mark(), 5);
    // A member joins: once that is committed, the mark moves.
    let proposal = scene.fetch(2, 8).proposal.expect("caught up");
    assert_eq!(scene.mark(), 5);
    assert_eq!(moved(&scene.commit(&proposal).effects), Some(8));
    assert_eq!(scene.leader.acknowledged(Offset(8)), Some(Ok(())));
}

#[test]
fn a_produce_whose_isr_shrank_is_told_so() {
    let mut scene = Scene::new(&[1, 2], 2, 0, 0);
    scene.append(4);
    scene.fetch(2, 4);
    let shrunk = registration(&[1, 2, 3], &[1], 5, 8);
    let _ = scene.leader.on_metadata(&shrunk, &scene.cluster, scene.now);
    let expected = NotEnoughReplicasAfterAppend { in_sync: 1, required: 2 };
    assert_eq!(scene.leader.acknowledged(Offset(4)), Some(Err(expected)));
}

#[test]
fn a_pending_member_counts_before_it_is_committed() {
    let mut scene = Scene::new(&[1, 2], 1, 0, 0);
    scene.append(10);
    scene.fetch(2, 10);
    let proposal = scene.fetch(3, 10).proposal.expect("caught up");
    assert_eq!(members(&proposal), [(1, 10), (2, 20), (3, 30)]);
    assert_eq!((proposal.leader_epoch.0, proposal.partition_epoch.0), (5, 7));
    scene.append(20);
    assert_eq!(moved(&scene.fetch(2, 20)), None, "broker 3 may be in the ISR already");
    assert_eq!(moved(&scene.fetch(3, 15)), Some(15));
    let _ = scene.commit(&proposal);
    assert_eq!(scene.leader.isr(), [BrokerId(1), BrokerId(2), BrokerId(3)]);
    assert_eq!(scene.leader.partition_epoch().0, 8);
}

#[test]
fn a_pending_leaver_counts_until_it_is_committed() {
    let mut scene = Scene::new(&[1, 2, 3], 1, 0, 0);
    scene.append(10);
    scene.fetch(2, 10);
    scene.now = at(131);
    scene.fetch(2, 10);
    let proposal = scene.tick().expect("broker 3 has never fetched");
    assert_eq!(members(&proposal), [(1, 10), (2, 20)]);
    assert_eq!(scene.mark(), 0);
    assert_eq!(scene.tick(), None, "one change at a time");
    assert_eq!(moved(&scene.commit(&proposal).effects), Some(10));
}

#[test]
fn lag_is_measured_by_when_a_follower_was_caught_up() {
    let mut scene = Scene::new(&[1, 2, 3], 1, 0, 0);
    scene.append(10);
    scene.now = at(110);
    // Each fetch is behind the present end, but at the end of the fetch before: that counts as of then.
    for (second, end) in [(120, 20), (130, 30), (140, 40), (150, 50)] {
        scene.now = at(second);
        scene.fetch(2, end - 10);
        scene.fetch(3, 0);
        scene.append(end);
    }
    let proposal = scene.tick().expect("broker 3 lags");
    assert_eq!(members(&proposal), [(1, 10), (2, 20)]);
    // A follower with everything is in sync however long ago it fetched: nothing was written since.
    let mut scene = Scene::new(&[1, 2], 1, 10, 0);
    scene.fetch(2, 10);
    scene.now = at(1000);
    assert_eq!(scene.tick(), None);
}

#[test]
fn only_who_is_caught_up_and_eligible_may_join() {
    let joins = |change: fn(&mut Scene), offset: i64| {
        let mut scene = Scene::new(&[1, 2], 1, 10, 6);
        scene.append(12);
        change(&mut scene);
        scene.fetch(3, offset).proposal.is_some()
    };
    assert!(joins(|_| (), 12));
    assert!(joins(|_| (), 10), "the mark and the start of the epoch are enough");
    assert!(!joins(|_| (), 9), "before the start of the leader's epoch");
    assert!(!joins(|scene| scene.cluster.set(3, 30, false), 12), "fenced or shutting down");
    assert!(!joins(|scene| assert!(scene.cluster.0.remove(&3).is_some()), 12), "not registered");
    assert!(!joins(|scene| scene.cluster.set(3, 29, true), 12), "an incarnation that the metadata does not know yet");
}

#[test]
fn a_stale_incarnation_and_a_stranger_do_not_count() {
    let mut scene = Scene::new(&[1, 2], 1, 10, 0);
    scene.cluster.set(2, 21, true);
    let fetch = |replica: i32, epoch: i64| FollowerFetch {
        replica: BrokerId(replica),
        broker_epoch: BrokerEpoch(epoch),
        fetch_offset: Offset(10),
        log_start: Offset(0),
        leader_log_end: Offset(10),
    };
    let mut check = |fetch: FollowerFetch| scene.leader.on_follower_fetch(&fetch, &scene.cluster, at(100));
    let stale = FollowerFetchError::StaleBrokerEpoch {
        replica: BrokerId(2),
        fetched: BrokerEpoch(20),
        current: BrokerEpoch(21),
    };
    assert_eq!(check(fetch(2, 20)), Err(stale));
    assert_eq!(check(fetch(9, 90)), Err(FollowerFetchError::NotAReplica(BrokerId(9))));
    assert_eq!(check(fetch(2, 21)).map(|effects| moved(&effects)), Ok(Some(10)));
}

#[test]
fn answers_of_the_controller() {
    let check = |error, pending_after: bool, retry: bool| {
        let mut scene = Scene::new(&[1], 1, 0, 0);
        scene.append(4);
        let proposal = scene.fetch(2, 4).proposal.expect("caught up");
        let outcome = scene.answer(&proposal, error);
        assert_eq!((scene.leader.has_pending_change(), outcome.retry), (pending_after, retry), "{error}");
    };
    check(ErrorCode::IneligibleReplica, false, false);
    check(ErrorCode::OperationNotAttempted, false, false);
    // Whether it was made is open: only metadata can tell.
    check(ErrorCode::InvalidUpdateVersion, true, false);
    check(ErrorCode::FencedLeaderEpoch, true, false);
    check(ErrorCode::UnknownTopicId, true, false);
    check(ErrorCode::NewLeaderElected, true, false);
    check(ErrorCode::NotController, true, true);
    check(ErrorCode::NetworkException, true, true);
    check(ErrorCode::StaleBrokerEpoch, true, true);
}

#[test]
fn a_refused_follower_is_not_proposed_with_each_of_its_fetches() {
    let mut scene = Scene::new(&[1], 1, 4, 4);
    let proposal = scene.fetch(2, 4).proposal.expect("caught up");
    let _ = scene.answer(&proposal, ErrorCode::IneligibleReplica);
    assert_eq!(scene.fetch(2, 4).proposal, None);
    scene.now = scene.now + PROPOSAL_PAUSE;
    assert!(scene.fetch(2, 4).proposal.is_some());
}

#[test]
fn a_late_answer_to_an_old_proposal_is_ignored() {
    let mut scene = Scene::new(&[1], 1, 4, 4);
    let proposal = scene.fetch(2, 4).proposal.expect("caught up");
    // Metadata overtakes: broker 2 was admitted and broker 3 too.
    let newer = registration(&[1, 2, 3], &[1, 2, 3], 5, 9);
    let _ = scene.leader.on_metadata(&newer, &scene.cluster, scene.now);
    assert_eq!(scene.commit(&proposal), IsrOutcome::default());
    assert_eq!((scene.leader.isr().len(), scene.leader.partition_epoch().0), (3, 9));
}

#[test]
fn the_same_metadata_again_keeps_a_pending_change() {
    let mut scene = Scene::new(&[1], 1, 4, 4);
    scene.fetch(2, 4).proposal.expect("caught up");
    let _ = scene.leader.on_metadata(&registration(&[1, 2, 3], &[1], 5, 7), &scene.cluster, scene.now);
    assert!(scene.leader.has_pending_change());
    scene.append(8);
    assert_eq!(scene.mark(), 4, "broker 2 may have been admitted");
}

#[test]
fn a_caught_up_follower_outside_holds_the_mark_until_it_is_gone() {
    let mut scene = Scene::new(&[1], 1, 10, 10);
    scene.append(12);
    // Not yet in sync (below the mark's 12), but caught up a moment ago.
    scene.fetch(2, 12);
    let proposal = scene.leader.pending.as_ref().map(|pending| pending.proposal().clone()).expect("proposed");
    let _ = scene.answer(&proposal, ErrorCode::IneligibleReplica);
    assert_eq!(scene.append(14), None);
    scene.cluster.set(2, 20, false);
    let effects = scene.leader.on_brokers_changed(&scene.cluster, scene.now);
    assert_eq!(moved(&effects), Some(14));
    // Or until it has not caught up for too long.
    scene.cluster.set(2, 20, true);
    assert_eq!(scene.append(16), None);
    scene.now = at(200);
    let effects = scene.leader.on_tick(&scene.cluster, scene.now);
    assert_eq!(moved(&effects), Some(16));
}

#[test]
fn a_new_epoch_of_the_same_leader_starts_anew() {
    let mut scene = Scene::new(&[1, 2], 1, 10, 4);
    scene.fetch(2, 6);
    assert!(!scene.leader.offsets_are_available());
    let newer = registration(&[1, 2, 3], &[1, 2], 6, 8);
    scene.append(15);
    let _ = scene.leader.on_metadata(&newer, &scene.cluster, scene.now);
    assert_eq!((scene.leader.epoch_start().0, scene.leader.leader_epoch().0), (15, 6));
    assert!(!scene.leader.offsets_are_available());
    assert_eq!(moved(&scene.fetch(2, 15)), Some(15));
    assert!(scene.leader.offsets_are_available());
}

#[test]
fn a_replica_that_is_removed_stops_counting() {
    let mut scene = Scene::new(&[1, 2, 3], 1, 0, 0);
    scene.append(10);
    scene.fetch(2, 10);
    let without = registration(&[1, 2], &[1, 2], 5, 8);
    let effects = scene.leader.on_metadata(&without, &scene.cluster, scene.now);
    assert_eq!(moved(&effects), Some(10));
    assert_eq!(scene.leader.follower_log_end(BrokerId(3)), None);
}

#[test]
fn readers_have_their_bounds() {
    let mut scene = Scene::new(&[1, 2, 3], 1, 0, 0);
    scene.append(10);
    scene.fetch(2, 8);
    scene.fetch(3, 6);
    let bound = |reader, stable: i64| scene.leader.read_bound(reader, Offset(stable)).0;
    assert_eq!(bound(Reader::Follower, 5), 10);
    assert_eq!(bound(Reader::Client(Isolation::ReadUncommitted), 5), 6);
    assert_eq!(bound(Reader::Client(Isolation::ReadCommitted), 5), 5);
    assert_eq!(bound(Reader::Client(Isolation::ReadCommitted), 9), 6);
}

#[test]
fn leader_epochs_are_fenced() {
    let check = |requested: i32, expected: Option<ErrorCode>| {
        let got = check_leader_epoch(LeaderEpoch(requested), LeaderEpoch(5)).err().map(EpochCheckError::code);
        assert_eq!(got, expected, "{requested}");
    };
    check(-1, None);
    check(5, None);
    check(4, Some(ErrorCode::FencedLeaderEpoch));
    check(6, Some(ErrorCode::UnknownLeaderEpoch));
}

#[test]
fn the_low_watermark_is_the_least_log_start_of_active_replicas() {
    let mut scene = Scene::new(&[1, 2, 3], 1, 10, 10);
    scene.fetch(2, 10);
    scene.fetch(3, 10);
    assert_eq!(scene.leader.low_watermark(Offset(5), &scene.cluster).0, 0);
    let _ = scene.leader.on_metadata(&registration(&[1], &[1], 5, 8), &scene.cluster, scene.now);
    assert_eq!(scene.leader.low_watermark(Offset(5), &scene.cluster).0, 5);
}
