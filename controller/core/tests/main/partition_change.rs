//! One partition's change, as a table: a registration, what is wanted, and the record that comes of it.

use odradek_common::{BrokerId, PartitionIndex, TopicIdPartition, Uuid};
use odradek_controller_core::partition_change::{Elected, Election, PartitionChange};
use odradek_metadata::{LeaderRecoveryState, PartitionRegistration, Replicas, directory};

use crate::cluster::describe;

fn ids(list: &[i32]) -> Replicas {
    list.iter().map(|id| BrokerId(*id)).collect()
}

/// Replicas 1, 2, 3 with this leader, ISR, ELR and last known leader; a minimum ISR of 2.
fn partition(leader: i32, isr: &[i32], elr: &[i32], last: &[i32]) -> PartitionRegistration {
    PartitionRegistration {
        replicas: ids(&[1, 2, 3]),
        directories: [directory::UNASSIGNED; 3].into_iter().collect(),
        isr: ids(isr),
        elr: ids(elr),
        last_known_elr: ids(last),
        leader: BrokerId(leader),
        ..PartitionRegistration::default()
    }
}

/// What becomes of the partition when only `alive` can lead; `None` when nothing changes.
fn check(
    partition: &PartitionRegistration,
    alive: &[i32],
    elr_enabled: bool,
    describe_change: impl FnOnce(PartitionChange<'_>) -> PartitionChange<'_>,
) -> Option<(String, Elected)> {
    let at = TopicIdPartition { topic_id: Uuid([1; 16]), partition: PartitionIndex(0) };
    let can_lead = |id: BrokerId| alive.contains(&id.0);
    let change = describe_change(PartitionChange::new(partition, at, &can_lead, 2, elr_enabled)).build()?;
    let after = partition.merge(at, &change.record).expect("a record that fits");
    let raised = if after.leader_epoch > partition.leader_epoch { " (new epoch)" } else { "" };
    Some((describe(&after) + raised, change.elected))
}

/// A name; the partition, who can lead, the election and the ISR that is wanted; what becomes of it and how.
type Case = (&'static str, PartitionRegistration, &'static [i32], Election, &'static [i32], &'static str, Elected);

#[test]
fn who_leads_after_what() {
    let clean = |id| Elected::Clean(BrokerId(id));
    let none = || Elected::Nobody;
    let cases: &[Case] = &[
        (
            "the leader stays while it can",
            partition(2, &[1, 2, 3], &[], &[]),
            &[1, 2],
            Election::Online,
            &[1, 2],
            "leader 2 isr [1,2]",
            Elected::Unchanged,
        ),
        (
            "the first replica in sync follows, not the first of the ISR",
            partition(1, &[3, 2, 1], &[], &[]),
            &[2, 3],
            Election::Online,
            &[3, 2],
            "leader 2 isr [3,2] (new epoch)",
            clean(2),
        ),
        (
            "below the minimum, who leaves is eligible",
            partition(1, &[1, 2], &[], &[]),
            &[2],
            Election::Online,
            &[2],
            "leader 2 isr [2] elr [1] (new epoch)",
            clean(2),
        ),
        (
            "an eligible replica does not lead while one is in sync",
            partition(2, &[2], &[1], &[]),
            &[1],
            Election::Online,
            &[2],
            "leader -1 isr [2] elr [1] (new epoch)",
            none(),
        ),
        (
            "an eligible replica leads when none is in sync",
            partition(2, &[2], &[1], &[]),
            &[1],
            Election::Online,
            &[],
            "leader 1 isr [1] elr [2] (new epoch)",
            clean(1),
        ),
        (
            "the leader is remembered when all are gone",
            partition(2, &[2], &[], &[]),
            &[],
            Election::Online,
            &[],
            "leader -1 isr [] elr [2] last 2 (new epoch)",
            none(),
        ),
        (
            "the last known leader leads when nobody is eligible",
            partition(-1, &[], &[], &[3]),
            &[2, 3],
            Election::Online,
            &[],
            "leader 3 isr [3] recovering (new epoch)",
            Elected::LastKnown(BrokerId(3)),
        ),
        (
            "it goes before an unclean election",
            partition(-1, &[], &[], &[3]),
            &[2, 3],
            Election::Unclean,
            &[],
            "leader 3 isr [3] recovering (new epoch)",
            Elected::LastKnown(BrokerId(3)),
        ),
        (
            "an unclean election takes who is there, and forgets the rest",
            partition(-1, &[], &[1], &[1]),
            &[3],
            Election::Unclean,
            &[],
            "leader 3 isr [3] recovering (new epoch)",
            Elected::Unclean(BrokerId(3)),
        ),
        (
            "the preferred replica leads again",
            partition(2, &[1, 2, 3], &[], &[]),
            &[1, 2, 3],
            Election::Preferred,
            &[1, 2, 3],
            "leader 1 isr [1,2,3] (new epoch)",
            clean(1),
        ),
    ];
    for (name, partition, alive, election, isr, expected, elected) in cases {
        let change = check(partition, alive, true, |change| change.election(*election).isr(ids(isr)));
        assert_eq!(change, Some(((*expected).to_owned(), *elected)), "{name}");
    }
}

#[test]
fn nothing_to_change_is_no_record() {
    let quiet: &[(PartitionRegistration, &[i32], Election, &[i32])] = &[
        (partition(1, &[1, 2], &[], &[]), &[1, 2, 3], Election::Online, &[1, 2]),
        (partition(2, &[2, 3], &[], &[]), &[1, 2, 3], Election::Preferred, &[2, 3]),
        // Still without anybody; the last known leader is not forgotten.
        (partition(-1, &[], &[2], &[2]), &[1, 3], Election::Online, &[]),
        (partition(-1, &[], &[], &[2]), &[1, 3], Election::Online, &[]),
        // Former eligible replicas, of which none is known to have been the last.
        (partition(-1, &[], &[], &[2, 3]), &[2, 3], Election::Online, &[]),
    ];
    for (number, (partition, alive, election, isr)) in quiet.iter().enumerate() {
        assert_eq!(check(partition, alive, true, |c| c.election(*election).isr(ids(isr))), None, "{number}");
    }
}

#[test]
fn an_unclean_shutdown_leaves_isr_and_elr() {
    let left = |partition: &PartitionRegistration, alive: &[i32]| {
        check(partition, alive, true, |change| change.unclean_shutdown(BrokerId(1))).map(|(state, _)| state)
    };
    assert_eq!(left(&partition(1, &[1, 2], &[], &[]), &[2]).as_deref(), Some("leader 2 isr [2] (new epoch)"));
    assert_eq!(left(&partition(2, &[2], &[1], &[]), &[2]).as_deref(), Some("leader 2 isr [2]"));
    assert_eq!(
        left(&partition(1, &[1], &[2], &[]), &[]).as_deref(),
        Some("leader -1 isr [] elr [2] last 1 (new epoch)")
    );
}

#[test]
fn a_last_known_leader_without_a_replica_is_replaced_by_an_eligible_one() {
    let offline = partition(-1, &[], &[2, 3], &[1]);
    // As when a reassignment is undone to fewer replicas.
    let (told, elected) =
        check(&offline, &[], true, |change| change.reassign(ids(&[3]), ids(&[]), ids(&[]))).expect("a change");
    assert_eq!((told.as_str(), elected), ("leader -1 isr [] elr [3] last 3 (new epoch)", Elected::Unchanged));
    // It comes back after an unclean end, as the only one that there is.
    let undone = PartitionRegistration { replicas: ids(&[3]), ..partition(-1, &[], &[], &[3]) };
    let (told, elected) = check(&undone, &[3], true, |change| change).expect("a change");
    assert_eq!((told.as_str(), elected), ("leader 3 isr [3] recovering (new epoch)", Elected::LastKnown(BrokerId(3))));
    // Who has no replica leaves the ELR as well; nobody is left to be remembered.
    let (told, _) =
        check(&partition(-1, &[], &[2], &[1]), &[], true, |change| change.reassign(ids(&[3]), ids(&[]), ids(&[])))
            .expect("a change");
    assert_eq!(told, "leader -1 isr [] (new epoch)");
}

#[test]
fn without_elr_the_last_in_sync_replica_stays() {
    let alone = partition(1, &[1], &[], &[]);
    let gone = check(&alone, &[], false, |change| change.isr_without(BrokerId(1)));
    assert_eq!(gone, Some(("leader -1 isr [1] (new epoch)".to_owned(), Elected::Nobody)));
    let stale = partition(-1, &[1], &[2], &[3]);
    let back = check(&stale, &[1], false, |change| change);
    assert_eq!(back.map(|(state, _)| state).as_deref(), Some("leader 1 isr [1] last 3 (new epoch)"));
}

#[test]
fn recovery_is_confirmed_by_the_leader() {
    let mut recovering = partition(1, &[1], &[], &[]);
    recovering.leader_recovery_state = LeaderRecoveryState::Recovering;
    let confirmed = check(&recovering, &[1], true, |change| {
        change.isr(ids(&[1])).leader_recovery_state(LeaderRecoveryState::Recovered)
    });
    assert_eq!(confirmed.map(|(state, _)| state).as_deref(), Some("leader 1 isr [1]"));
}

#[test]
fn a_reassignment_waits_for_its_replicas_and_then_completes() {
    let before = partition(1, &[1, 2, 3], &[], &[]);
    // From 1, 2, 3 to 4, 2, 3.
    let mut moving = before.clone();
    (moving.replicas, moving.adding, moving.removing) = (ids(&[4, 2, 3, 1]), ids(&[4]), ids(&[1]));
    moving.directories = [directory::UNASSIGNED; 4].into_iter().collect();
    let begun = check(&before, &[1, 2, 3, 4], true, |change| change.reassign(ids(&[4, 2, 3, 1]), ids(&[1]), ids(&[4])));
    assert_eq!(begun.map(|(state, _)| state).as_deref(), Some("leader 1 isr [1,2,3]"));
    let waiting = check(&moving, &[1, 2, 3, 4], true, |change| change.isr(ids(&[1, 2, 3])));
    assert_eq!(waiting, None);
    let done = check(&moving, &[1, 2, 3, 4], true, |change| change.isr(ids(&[1, 2, 3, 4])));
    assert_eq!(done, Some(("leader 4 isr [2,3,4] (new epoch)".to_owned(), Elected::Clean(BrokerId(4)))));
}
