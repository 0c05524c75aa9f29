//! How long offsets and groups stay: by kind of group, by what its members read, and by an old client's own retention
//! (KIP-211).

use super::*;

#[test]
fn offsets_and_groups_expire() {
    let mut bench = Bench::new(config());
    bench.ask(commit_request("simple", "", -1, &[("t", 0, 1)])).expect("committed");
    let ids = bench.stable(1);
    bench.ask(commit_request("g", &ids[0], 1, &[("t", 0, 1), ("left", 0, 1)])).expect("committed");
    let left =
        |bench: &Bench, group: &str, topic: &str| bench.runtime.shard().committed_offset(group, topic, 0).is_some();
    for _ in 0..140 {
        bench.pass(9_000);
        assert_eq!(bench.beat(&ids[0], 1), ErrorCode::None);
    }
    assert!(!left(&bench, "simple", "t") && bench.runtime.shard().group("simple").is_none(), "by its commit");
    assert!(!left(&bench, "g", "left"), "nobody in the group reads it");
    assert!(left(&bench, "g", "t"), "the group reads it");
    bench.leave(&[(&ids[0], None)]);
    bench.pass(900_000);
    assert!(left(&bench, "g", "t"), "the group has not been empty for long enough");
    bench.pass(900_000);
    assert!(bench.runtime.shard().group("g").is_none() && !left(&bench, "g", "t"));
    assert_eq!(bench.failover().runtime.shard().group_count(), 0);
}

/// A commit of nobody's with its own retention, as clients up to OffsetCommit 4 can give it.
fn commit_kept_for(group: &str, retention_time_ms: i64) -> GroupRequest {
    let GroupRequest::Commit(client, request) = commit_request(group, "", -1, &[("t", 0, 1)]) else { unreachable!() };
    GroupRequest::Commit(client, OffsetCommitRequest { retention_time_ms, ..request })
}

#[test]
fn an_old_clients_own_retention_counts() {
    let mut bench = Bench::new(config());
    bench.ask(commit_kept_for("short", 100_000)).expect("committed");
    bench.ask(commit_kept_for("long", 3_000_000)).expect("committed");
    bench.ask(commit_kept_for("as-configured", -1)).expect("committed");
    let left = |bench: &Bench| {
        let is_left = |group: &&str| bench.runtime.shard().committed_offset(group, "t", 0).is_some();
        ["short", "long", "as-configured"].into_iter().filter(is_left).collect::<Vec<_>>()
    };
    bench.pass(700_000);
    assert_eq!(left(&bench), ["long", "as-configured"]);
    bench = bench.failover();
    bench.pass(1_300_000);
    assert_eq!(left(&bench), ["long"]);
    bench.pass(1_300_000);
    assert_eq!(left(&bench), [""; 0]);
}

#[test]
fn what_members_of_unknown_interest_have_committed_does_not_expire() {
    // Workers tell nobody what they read, and a consumer's subscription may be one that cannot be read.
    for (protocol_type, metadata) in [("connect", subscription(&["u"])), ("consumer", Bytes::from_static(b"?"))] {
        let mut bench = Bench::new(config());
        let join = |bench: &mut Bench, member: &str| {
            let request = JoinGroupRequest {
                group_id: "g".into(),
                session_timeout_ms: 60_000,
                rebalance_timeout_ms: 60_000,
                member_id: member.into(),
                protocol_type: protocol_type.into(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: metadata.clone(),
                    ..Default::default()
                }],
                ..Default::default()
            };
            let client = GroupClient { client_id: "app".into(), host: "/127.0.0.1".into(), api_version: 3 };
            bench.send(GroupRequest::Join(client, request))
        };
        let ticket = join(&mut bench, "");
        bench.pass_until(ticket);
        let id = joined(bench.answer(ticket)).1.member_id.to_string();
        let request = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: Str::from(&id),
            ..Default::default()
        };
        bench.ask(GroupRequest::Sync(request)).expect("synced");
        bench.ask(commit_request("g", &id, 1, &[("t", 0, 1)])).expect("committed");
        for _ in 0..60 {
            bench.pass(50_000);
            assert_eq!(bench.beat(&id, 1), ErrorCode::None);
        }
        assert!(bench.runtime.shard().committed_offset("g", "t", 0).is_some(), "{protocol_type}");
        let request = OffsetDeleteRequest { group_id: "g".into(), ..Default::default() };
        let is_refused = bench.ask(GroupRequest::DeleteOffsets(request)) == Err(ErrorCode::NonEmptyGroup);
        assert_eq!(is_refused, protocol_type == "connect");
    }
}
