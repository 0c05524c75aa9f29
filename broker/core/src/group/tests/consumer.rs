//! The records of consumer groups (KIP-848). What such groups do is shown by `tests/consumer_groups.rs`.

use super::*;
use crate::group::consumer::{
    Assignor, Bounded, ClassicInfo, ConsumerConfig, CurrentAssignment, GroupEpoch, MemberInfo, MemberState,
    MigrationPolicy, ResolvedRegex, TargetEpoch,
};

pub(super) fn config() -> ConsumerConfig {
    ConsumerConfig {
        assignors: Assignor::ALL.to_vec(),
        session_timeout: Bounded { value_ms: 45_000, min_ms: 45_000, max_ms: 60_000 },
        heartbeat_interval: Bounded { value_ms: 5_000, min_ms: 5_000, max_ms: 15_000 },
        assignment_interval: Bounded { value_ms: 0, min_ms: 0, max_ms: 15_000 },
        size_max: 100,
        migration: MigrationPolicy::Bidirectional,
        regex_refresh_interval_ms: 600_000,
    }
}

#[test]
fn consumer_records_are_read_as_they_were_written_and_hostile_ones_refused() {
    let topic = Uuid([7; 16]);
    let info = MemberInfo {
        instance_id: Some("i".into()),
        rack_id: Some("r".into()),
        client_id: "app".into(),
        client_host: "/127.0.0.1".into(),
        topics: ["t", "u"].map(Into::into).into(),
        regex: "a.*".into(),
        rebalance_timeout_ms: 7,
        assignor: Some("range".into()),
        classic: Some(ClassicInfo { session_timeout_ms: 9, protocols: vec![("range".into(), subscription(&["t"]))] }),
    };
    let current = CurrentAssignment {
        epoch: 4,
        previous_epoch: 3,
        state: MemberState::Unrevoked,
        assigned: [(topic, [(0, 2), (1, 4)].into())].into(),
        revoking: [(topic, [(2, 1)].into())].into(),
    };
    let resolved = ResolvedRegex { topics: ["a1"].map(Into::into).into(), version: 5, timestamp: 6 };
    let member = || Arc::<str>::from("m");
    let values = [
        ConsumerRecord::Group(Some(GroupEpoch { epoch: 4, metadata_hash: -5 })),
        ConsumerRecord::Member(member(), Some(info)),
        ConsumerRecord::Target(Some(TargetEpoch { epoch: 4, timestamp: 1 })),
        ConsumerRecord::TargetMember(member(), Some([(topic, [0, 1].into())].into())),
        ConsumerRecord::Current(member(), Some(current)),
        ConsumerRecord::Regex("a.*".into(), Some(resolved)),
    ];
    for record in values {
        let record = GroupRecord::Consumer("g".into(), record);
        let (key, value) = records::encode(&record).expect("encoded");
        let value = value.expect("a value");
        assert_eq!(records::decode(Some(key.clone()), Some(value.clone())), Ok(record));
        hostile(&key, &value);
    }
    for record in [
        ConsumerRecord::Group(None),
        ConsumerRecord::PartitionMetadata { is_gone: true },
        ConsumerRecord::Member(member(), None),
        ConsumerRecord::Target(None),
        ConsumerRecord::TargetMember(member(), None),
        ConsumerRecord::Current(member(), None),
        ConsumerRecord::Regex("a.*".into(), None),
    ] {
        assert!(record.is_tombstone());
        let record = GroupRecord::Consumer("g".into(), record);
        let (key, value) = records::encode(&record).expect("encoded");
        assert_eq!((value.is_none(), records::decode(Some(key), value)), (true, Ok(record)));
    }
}
