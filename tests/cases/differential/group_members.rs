//! The lives of groups: members come, work, and go, at every version of JoinGroup, with the nearest of the other APIs.

use odradek_common::ErrorCode;
use odradek_tests::differential::Pair;
use odradek_wire::JoinGroupRequest;

use super::groups::{
    Group, Join, KNOWN_MEMBER_ID, NAMED_PROTOCOL, REBALANCE_TIMEOUT, SESSION_MS_MIN, SIZE_MAX, STATIC_JOIN, Sync,
};

use ErrorCode::{
    FencedInstanceId, GroupIdNotFound, GroupMaxSizeReached, IllegalGeneration, InconsistentGroupProtocol,
    MemberIdRequired, NonEmptyGroup, None as Success, RebalanceInProgress, UnknownMemberId,
};

/// What happens to one group.
type Life = fn(&mut Group<'_>) -> anyhow::Result<()>;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    let lives: &[(&str, i16, Life)] = &[
        ("sharing", 0, sharing),
        ("choosing", 0, choosing),
        ("full", 0, full),
        ("late", 0, late),
        ("waiting-ids", KNOWN_MEMBER_ID, waiting_ids),
        ("static", STATIC_JOIN, static_members),
        ("replaced", STATIC_JOIN, replaced_members),
        ("fenced", STATIC_JOIN, fenced_while_waiting),
    ];
    for (what, least, life) in lives {
        for version in pair.versions::<JoinGroupRequest>()?.filter(|version| version >= least) {
            // One that goes astray leaves the others to be compared.
            if let Err(error) = life(&mut Group::new(pair, what, version)) {
                pair.fail(&format!("{what}, version {version}"), &error);
            }
        }
    }
    Ok(())
}

/// A stable group of these members in its next generation, the first of which leads. They enter one by one, so that on both
/// sides the first is the leader.
fn stable(group: &mut Group<'_>, members: &[(&str, Join<'_>)]) -> anyhow::Result<i32> {
    let mut generation = 0;
    for (n, (name, join)) in members.iter().enumerate() {
        let entering = group.enter(name, *join)?;
        let mut rejoining = Vec::new();
        if n > 0 {
            group.reach("PreparingRebalance", n + 1)?;
            for (name, join) in &members[..n] {
                rejoining.push((*name, group.begin_join(Join { member: name, metadata: name, ..*join })));
            }
        }
        for (name, waiting) in rejoining {
            group.joined(&format!("the {name} member joins again"), name, waiting, Success)?;
        }
        generation = group.joined(&format!("the {name} member enters"), name, entering, Success)?;
    }
    assign(group, members, generation)?;
    Ok(generation)
}

/// Followers wait, the leader hands in what each gets.
fn assign(group: &mut Group<'_>, members: &[(&str, Join<'_>)], generation: i32) -> anyhow::Result<()> {
    let protocol = |join: &Join<'_>| (join.protocol_type.to_owned(), join.protocols[0].to_owned());
    let assignments: Vec<(&str, &str)> = members.iter().map(|(name, _)| (*name, *name)).collect();
    let mut waiting = Vec::new();
    for (n, (name, join)) in members.iter().enumerate().rev() {
        let (protocol_type, protocol_name) = protocol(join);
        let sync = Sync {
            instance: join.instance,
            protocol: (&protocol_type, &protocol_name),
            assignments: if n == 0 { &assignments } else { &[] },
            ..Sync::of(name, generation)
        };
        waiting.push((*name, group.begin_sync(sync)?));
    }
    for (name, sync) in waiting {
        group.synced(&format!("the {name} member's part"), sync, Success)?;
    }
    group.reach("Stable", members.len())
}

const PLAIN: Join<'_> = Join {
    member: "",
    instance: None,
    protocol_type: "consumer",
    protocols: &["range"],
    metadata: "",
    session_timeout_ms: 60_000,
    rebalance_timeout_ms: 60_000,
};

/// The whole life of a group of members without instance ids.
fn sharing(group: &mut Group<'_>) -> anyhow::Result<()> {
    let (first, second) = (("first", None), ("second", None));
    let entering = group.enter("first", PLAIN)?;
    group.joined("the first member enters", "first", entering, Success)?;
    group.reach("CompletingRebalance", 1)?;
    group.describe("before the assignment")?;
    group.join("again, nothing changed", "first", Join::again("first"), Success)?;
    group.heartbeat("before the assignment", first, 1, Success)?;
    group.commit("before the assignment", first, 1, RebalanceInProgress)?;
    group.sync("an earlier generation", Sync::of("first", 0), IllegalGeneration)?;
    group.sync("a later generation", Sync::of("first", 2), IllegalGeneration)?;
    group.sync("not a member", Sync::of("nobody", 1), UnknownMemberId)?;
    group.delete("before the assignment", NonEmptyGroup)?;
    assign(group, &[("first", PLAIN)], 1)?;
    group.describe("of one member")?;
    group.commit("in a stable group", first, 1, Success)?;
    group.sync("again", Sync::of("first", 1), Success)?;

    let entering = group.enter("second", PLAIN)?;
    group.reach("PreparingRebalance", 2)?;
    group.describe("while members join")?;
    group.heartbeat("while members join", first, 1, RebalanceInProgress)?;
    group.heartbeat("while members join, an earlier generation", first, 0, IllegalGeneration)?;
    group.commit("while members join", first, 1, Success)?;
    group.sync("while members join", Sync::of("first", 1), RebalanceInProgress)?;
    group.join("while members join, not a member", "", Join::again("nobody"), UnknownMemberId)?;
    group.delete("while members join", NonEmptyGroup)?;
    group.join("the first joins again", "first", Join::again("first"), Success)?;
    group.joined("the second enters", "second", entering, Success)?;

    // The leader's metadata changes while a follower waits for its part: all join again.
    let waiting = group.begin_sync(Sync::of("second", 2))?;
    group.heartbeat("before the second assignment", second, 2, Success)?;
    let changed = group.begin_join(Join { metadata: "changed", ..Join::again("first") });
    group.reach("PreparingRebalance", 2)?;
    group.synced("the part of a generation that is over", waiting, RebalanceInProgress)?;
    group.join("the second joins again", "second", Join::again("second"), Success)?;
    group.joined("the first has changed", "first", changed, Success)?;
    assign(group, &[("first", PLAIN), ("second", PLAIN)], 3)?;
    group.describe("of two members")?;
    group.join("a follower again, nothing changed", "second", Join::again("second"), Success)?;
    group.heartbeat("a later generation", first, 4, IllegalGeneration)?;
    group.heartbeat("an earlier generation", first, 2, IllegalGeneration)?;
    group.heartbeat("not a member", ("nobody", None), 3, UnknownMemberId)?;
    group.heartbeat("no member", ("", None), 3, UnknownMemberId)?;
    group.heartbeat("a member", second, 3, Success)?;
    group.commit("a later generation", first, 4, IllegalGeneration)?;
    group.commit("an earlier generation", first, 2, IllegalGeneration)?;
    group.commit("not a member", ("nobody", None), 3, UnknownMemberId)?;
    group.commit("without a generation, not a member", ("nobody", None), -1, UnknownMemberId)?;
    group.commit("a member without a generation", first, -1, IllegalGeneration)?;
    group.commit("without a group", ("", None), -1, UnknownMemberId)?;
    group.delete("with members", NonEmptyGroup)?;

    group.leave("not a member", &[("nobody", None)], UnknownMemberId)?;
    group.leave("no member", &[("", None)], UnknownMemberId)?;
    group.leave("a follower", &[second], Success)?;
    group.reach("PreparingRebalance", 1)?;
    group.leave("a follower, again", &[second], UnknownMemberId)?;
    group.heartbeat("a follower that has left", second, 3, UnknownMemberId)?;
    group.join("a member that has left", "", Join::again("second"), UnknownMemberId)?;
    group.join("the first is left alone", "first", Join::again("first"), Success)?;
    group.leave("the last", &[first], Success)?;
    group.reach("Empty", 0)?;
    group.describe("of nobody")?;
    group.heartbeat("in an empty group", first, 4, UnknownMemberId)?;
    group.heartbeat("in an empty group, the next generation", first, 5, UnknownMemberId)?;
    group.sync("in an empty group", Sync::of("first", 5), UnknownMemberId)?;
    group.join("in an empty group", "", Join::again("first"), UnknownMemberId)?;
    group.leave("in an empty group", &[first], UnknownMemberId)?;
    group.commit("in an empty group, a member", first, 5, UnknownMemberId)?;
    group.commit("in an empty group", ("", None), -1, Success)?;
    let entering = group.enter("third", PLAIN)?;
    let generation = group.joined("a member comes to an empty group", "third", entering, Success)?;
    anyhow::ensure!(generation == 6, "generation {generation}");
    group.leave("the last one, again", &[("third", None)], Success)?;
    group.reach("Empty", 0)?;
    group.delete("of nobody", Success)?;
    group.delete("again", GroupIdNotFound)?;
    group.describe("deleted")?;
    let refusal = if_named_missing(group);
    group.commit("to a deleted group, a member", first, 5, refusal)
}

/// OffsetCommit is told of a missing group as such since version 9, and of a wrong generation before.
fn if_named_missing(group: &Group<'_>) -> ErrorCode {
    if group.version >= 9 { GroupIdNotFound } else { IllegalGeneration }
}

/// Protocols: what all support counts, and what most of them like best.
fn choosing(group: &mut Group<'_>) -> anyhow::Result<()> {
    let both = Join { protocols: &["range", "roundrobin"], ..PLAIN };
    let other = Join { protocols: &["roundrobin", "range"], ..PLAIN };
    stable(group, &[("first", both)])?;
    let refused: &[(&str, Join<'_>)] = &[
        ("another protocol", Join { protocols: &["sticky"], ..PLAIN }),
        ("another type", Join { protocol_type: "connect", ..PLAIN }),
        ("no type", Join { protocol_type: "", ..PLAIN }),
        ("no protocols", Join { protocols: &[], ..PLAIN }),
    ];
    for (case, join) in refused {
        group.join(case, "", *join, InconsistentGroupProtocol)?;
        group.join(&format!("{case}, a member"), "", Join { member: "first", ..*join }, InconsistentGroupProtocol)?;
        let nobody = Join { member: "nobody", ..*join };
        group.join(&format!("{case}, not a member"), "", nobody, InconsistentGroupProtocol)?;
    }
    let refusal = with_names(group);
    group.sync("another protocol", Sync { protocol: ("consumer", "sticky"), ..Sync::of("first", 1) }, refusal)?;
    group.sync("another type", Sync { protocol: ("connect", "range"), ..Sync::of("first", 1) }, refusal)?;
    let entering = group.enter("second", other)?;
    group.reach("PreparingRebalance", 2)?;
    let again = Join { protocols: &["roundrobin", "range"], ..Join::again("first") };
    group.join("the first likes another best now", "first", again, Success)?;
    group.joined("the second enters", "second", entering, Success)?;
    group.describe("with another protocol")?;
    group.sync("the protocol of before", Sync::of("first", 2), refusal)?;
    let of = |member| Sync { protocol: ("consumer", "roundrobin"), ..Sync::of(member, 2) };
    group.sync(
        "an assignment for others too",
        Sync { assignments: &[("nobody", "part"), ("first", "")], ..of("first") },
        Success,
    )?;
    group.sync("nothing for the second", of("second"), Success)?;
    group.describe("nothing assigned")?;
    // Leaves in one request.
    group.leave("the leader", &[("first", None)], Success)?;
    group.reach("PreparingRebalance", 1)?;
    let alone = Join { protocol_type: "consumer", protocols: &["sticky"], ..Join::again("second") };
    group.join("the last may not change its protocols", "", alone, InconsistentGroupProtocol)?;
    group.leave("the last", &[("second", None)], Success)?;
    group.reach("Empty", 0)?;
    // An empty group may take up another protocol.
    let worker = Join { protocol_type: "connect", protocols: &["compatible"], ..PLAIN };
    stable(group, &[("worker", worker)])?;
    group.describe("of another type")
}

/// SyncGroup names the protocol since version 5.
fn with_names(group: &Group<'_>) -> ErrorCode {
    if group.version >= NAMED_PROTOCOL { InconsistentGroupProtocol } else { Success }
}

/// More want to come than `group.max.size` has room for.
fn full(group: &mut Group<'_>) -> anyhow::Result<()> {
    let members = [("first", PLAIN), ("second", PLAIN), ("third", PLAIN)];
    assert_eq!(members.len(), SIZE_MAX);
    let generation = stable(group, &members)?;
    group.join("one too many", "", PLAIN, GroupMaxSizeReached)?;
    group.join("one too many, with an id", "", Join::again("nobody"), GroupMaxSizeReached)?;
    group.join("a member", "third", Join::again("third"), Success)?;
    group.describe("full")?;
    let leader = group.begin_join(Join::again("first"));
    group.reach("PreparingRebalance", 3)?;
    let second = group.begin_join(Join::again("second"));
    group.join("the last to join again", "third", Join::again("third"), Success)?;
    group.joined("the second joins again", "second", second, Success)?;
    group.joined("the first joins again", "first", leader, Success)?;
    group.join("one too many, before the assignment", "", PLAIN, GroupMaxSizeReached)?;
    assign(group, &members, generation + 1)?;
    group.leave("the last", &[("third", None)], Success)?;
    let (first, second) = (group.begin_join(Join::again("first")), group.begin_join(Join::again("second")));
    group.joined("there is room: the first", "first", first, Success)?;
    group.joined("there is room: the second", "second", second, Success)?;
    let entering = group.enter("fourth", PLAIN)?;
    group.reach("PreparingRebalance", 3)?;
    let (first, second) = (group.begin_join(Join::again("first")), group.begin_join(Join::again("second")));
    group.joined("a new one: the first", "first", first, Success)?;
    group.joined("a new one: the second", "second", second, Success)?;
    group.joined("a new one", "fourth", entering, Success)?;
    Ok(())
}

/// Members that do not keep their time are out.
fn late(group: &mut Group<'_>) -> anyhow::Result<()> {
    // Its session ends before it has done anything.
    let hasty = Join { session_timeout_ms: SESSION_MS_MIN, ..PLAIN };
    let entering = group.enter("first", hasty)?;
    group.joined("a short session", "first", entering, Success)?;
    group.reach("Empty", 0)?;
    group.heartbeat("after the session", ("first", None), 1, UnknownMemberId)?;
    if group.version < REBALANCE_TIMEOUT {
        return Ok(());
    }
    // It does not ask for its assignment.
    let slow = Join { rebalance_timeout_ms: SESSION_MS_MIN, ..PLAIN };
    let entering = group.enter("second", slow)?;
    group.joined("a short rebalance", "second", entering, Success)?;
    group.reach("Empty", 0)?;
    group.sync("after its time", Sync::of("second", 3), UnknownMemberId)?;
    if group.version != *group.pair.versions::<JoinGroupRequest>()?.end() {
        return Ok(());
    }
    // It does not join again. Once will do: this waits as long as the member may take for its assignment.
    let patient = Join { rebalance_timeout_ms: 3_000, ..PLAIN };
    let generation = stable(group, &[("third", patient)])?;
    let entering = group.enter("fourth", patient)?;
    group.joined("instead of one that did not join again", "fourth", entering, Success)?;
    group.heartbeat("did not join again", ("third", None), generation, UnknownMemberId)
}

/// Ids that were handed out.
fn waiting_ids(group: &mut Group<'_>) -> anyhow::Result<()> {
    group.join("an id", "first", PLAIN, MemberIdRequired)?;
    group.describe("an id is out")?;
    group.heartbeat("an id", ("first", None), 0, UnknownMemberId)?;
    group.sync("an id", Sync::of("first", 0), UnknownMemberId)?;
    group.commit("an id", ("first", None), 0, UnknownMemberId)?;
    group.commit("while an id is out", ("", None), -1, Success)?;
    group.leave("an id", &[("first", None)], Success)?;
    group.join("an id that was given back", "", Join::again("first"), UnknownMemberId)?;
    stable(group, &[("second", PLAIN)])?;
    // The group waits for an id that is out.
    group.join("another id", "third", PLAIN, MemberIdRequired)?;
    group.describe("an id is out, stable")?;
    let leader = group.begin_join(Join::again("second"));
    group.reach("PreparingRebalance", 1)?;
    group.leave("the id that is waited for", &[("third", None)], Success)?;
    group.joined("the leader need not wait any more", "second", leader, Success)?;
    Ok(())
}

/// Static members: known by their instance, and told from each other by their ids.
fn static_members(group: &mut Group<'_>) -> anyhow::Result<()> {
    let first = Join { instance: Some("one"), ..PLAIN };
    let second = Join { instance: Some("two"), ..PLAIN };
    let generation = stable(group, &[("first", first), ("second", second)])?;
    group.describe("of static members")?;
    let named = |member, instance| (member, Some(instance));
    group.heartbeat("a static member", named("first", "one"), generation, Success)?;
    group.heartbeat("without its instance", ("first", None), generation, Success)?;
    for (case, member, error) in [
        ("the instance of another", named("first", "two"), FencedInstanceId),
        ("an instance under a wrong id", named("nobody", "one"), FencedInstanceId),
        ("an instance without an id", named("", "one"), FencedInstanceId),
        ("an unknown instance", named("first", "three"), UnknownMemberId),
        ("an unknown instance and id", named("nobody", "three"), UnknownMemberId),
    ] {
        group.heartbeat(case, member, generation, error)?;
        group.heartbeat(&format!("{case}, an earlier generation"), member, generation - 1, error)?;
        group.sync(case, Sync { instance: member.1, ..Sync::of(member.0, generation) }, error)?;
        group.commit(case, member, generation, error)?;
        group.commit(&format!("{case}, without a generation"), member, -1, error)?;
        if !member.0.is_empty() {
            group.join(case, "", Join { instance: member.1, ..Join::again(member.0) }, error)?;
            group.leave(case, &[member], error)?;
        }
    }
    group.commit("a static member", named("first", "one"), generation, Success)?;
    group.commit("a static member, a later generation", named("first", "one"), generation + 1, IllegalGeneration)?;
    group.join("a follower again", "second", Join { instance: Some("two"), ..Join::again("second") }, Success)?;
    group.leave(
        "many",
        &[("nobody", None), named("nobody", "one"), named("", "three"), named("", "two"), named("", "two")],
        UnknownMemberId,
    )?;
    group.reach("PreparingRebalance", 1)?;
    group.leave("an instance, rightly named", &[named("first", "one")], Success)?;
    group.reach("Empty", 0)?;
    group.leave("in an empty group", &[named("", "one")], UnknownMemberId)
}

/// Static members that come back without their id.
fn replaced_members(group: &mut Group<'_>) -> anyhow::Result<()> {
    let first = Join { instance: Some("one"), ..PLAIN };
    let second = Join { instance: Some("two"), ..PLAIN };
    let generation = stable(group, &[("first", first), ("second", second)])?;
    let comes_back = |name, join| Join { metadata: name, ..join };
    group.join("a follower", "second-again", comes_back("second", second), Success)?;
    group.reach("Stable", 2)?;
    group.describe("a follower was replaced")?;
    group.heartbeat("the id of before", ("second", Some("two")), generation, FencedInstanceId)?;
    group.heartbeat("the id of before, alone", ("second", None), generation, UnknownMemberId)?;
    group.heartbeat("the new id", ("second-again", Some("two")), generation, Success)?;
    group.sync("its part is there", Sync { instance: Some("two"), ..Sync::of("second-again", generation) }, Success)?;
    group.join("the leader", "first-again", comes_back("first", first), Success)?;
    group.reach("Stable", 2)?;
    group.describe("the leader was replaced")?;
    let sync = Sync { instance: Some("one"), ..Sync::of("first-again", generation) };
    group.sync("the leader's part is there", sync, Success)?;
    // Its metadata may have changed: a new one of the same protocol is no reason to rebalance.
    group.join("with other metadata", "second-changed", comes_back("other", second), Success)?;
    group.reach("Stable", 2)?;
    group.describe("with other metadata")?;
    // Protocols that change what is selected are one.
    let roundrobin = Join { protocols: &["roundrobin", "range"], ..first };
    group.join("with more protocols", "first-more", comes_back("first", roundrobin), Success)?;
    group.reach("Stable", 2)?;
    // It did not come before the others waited for it.
    let leader = group.begin_join(Join { member: "first-more", metadata: "first", ..roundrobin });
    group.reach("PreparingRebalance", 2)?;
    let back = group.begin_join(comes_back("second", second));
    group.joined("came back in a rebalance", "second-late", back, Success)?;
    group.joined("the leader of the next generation", "first-more", leader, Success)?;
    group.reach("CompletingRebalance", 2)?;
    // And before the assignment.
    let back = group.begin_join(comes_back("second", second));
    group.reach("PreparingRebalance", 2)?;
    group.join(
        "the leader, once more",
        "first-more",
        Join { member: "first-more", metadata: "first", ..roundrobin },
        Success,
    )?;
    group.joined("came back before the assignment", "second-last", back, Success)?;
    group.reach("CompletingRebalance", 2)?;
    group.describe("before the assignment")
}

/// A static member that waits under its old id is told that it was replaced.
fn fenced_while_waiting(group: &mut Group<'_>) -> anyhow::Result<()> {
    let first = Join { instance: Some("one"), ..PLAIN };
    let second = Join { instance: Some("two"), ..PLAIN };
    let generation = stable(group, &[("first", first), ("second", second)])?;
    let waiting = group.begin_join(Join { member: "first", metadata: "first", ..first });
    group.reach("PreparingRebalance", 2)?;
    let twin = group.begin_join(Join { metadata: "first", ..first });
    group.joined("replaced while it waits to join", "", waiting, FencedInstanceId)?;
    group.join("the second", "second", Join { member: "second", metadata: "second", ..second }, Success)?;
    group.joined("the twin", "first", twin, Success)?;
    let waiting = group.begin_sync(Sync { instance: Some("two"), ..Sync::of("second", generation + 1) })?;
    group.heartbeat("meanwhile", ("second", Some("two")), generation + 1, Success)?;
    let twin = group.begin_join(Join { metadata: "second", ..second });
    group.synced("replaced while it waits for its part", waiting, FencedInstanceId)?;
    group.join("the first", "first", Join { member: "first", metadata: "first", ..first }, Success)?;
    group.joined("the second's twin", "second", twin, Success)?;
    Ok(())
}
