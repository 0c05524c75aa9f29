//! ListGroups, DescribeGroups and DeleteGroups.

use odradek_common::ErrorCode;
use odradek_tests::differential::Pair;
use odradek_wire::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, ListGroupsRequest,
    ListGroupsResponse, Str,
};

use super::group_offsets::one_member;
use super::groups::{Group, Join};

/// The first versions of ListGroups with filters: by state, and by type.
const STATES: i16 = 4;
const TYPES: i16 = 5;

/// The first version of DescribeGroups that tells what is allowed.
const OPERATIONS: i16 = 3;

pub fn compare(pair: &mut Pair) -> anyhow::Result<()> {
    one_member(&mut Group::new(pair, "admin-stable", 9), "consumer", "range")?;
    one_member(&mut Group::new(pair, "admin-workers", 9), "connect", "compatible")?;
    let mut emptied = Group::new(pair, "admin-emptied", 9);
    one_member(&mut emptied, "consumer", "range")?;
    emptied.leave("the only one", &[("member", None)], ErrorCode::None)?;
    emptied.reach("Empty", 0)?;
    let mut completing = Group::new(pair, "admin-completing", 9);
    let entering = completing.enter("member", Join::default())?;
    completing.joined("one member", "member", entering, ErrorCode::None)?;
    Group::new(pair, "admin-offsets", 9).commit("nobody", ("", None), -1, ErrorCode::None)?;
    list(pair)?;
    describe(pair)?;
    delete(pair)
}

// ---------------------------------------------------------------- list

fn list(pair: &mut Pair) -> anyhow::Result<()> {
    let level = |answer: &mut ListGroupsResponse| answer.groups.sort_by_key(|group| group.group_id.clone());
    let ask = |states: &[&str], types: &[&str]| ListGroupsRequest {
        states_filter: states.iter().map(|state| Str::from(*state)).collect(),
        types_filter: types.iter().map(|kind| Str::from(*kind)).collect(),
        ..Default::default()
    };
    pair.same("all", |_| ask(&[], &[]), level)?;
    for version in pair.versions::<ListGroupsRequest>()?.filter(|version| *version >= STATES) {
        for states in [
            &["Stable"][..],
            &["stable"],
            &["STABLE", "Empty"],
            &["Empty"],
            &["CompletingRebalance"],
            &["PreparingRebalance", "Dead"],
            &["Assigning", "Reconciling"],
            &["Unknown"],
            &["nonsense"],
            &["nonsense", "Stable"],
            &[" Stable "],
            &[""],
        ] {
            let request = ask(states, &[]);
            pair.same_at(&format!("in states {states:?}"), version, &request, &request, level)?;
        }
        if version < TYPES {
            continue;
        }
        for types in [
            &["classic"][..],
            &["Classic"],
            &["CLASSIC", "consumer"],
            &["consumer"],
            &["share", "streams"],
            &["unknown"],
            &["nonsense"],
            &["nonsense", "classic"],
            &[""],
        ] {
            let request = ask(&[], types);
            pair.same_at(&format!("of types {types:?}"), version, &request, &request, level)?;
            let request = ask(&["Stable"], types);
            pair.same_at(&format!("stable, of types {types:?}"), version, &request, &request, level)?;
        }
    }
    Ok(())
}

// ---------------------------------------------------------------- describe

fn describe(pair: &mut Pair) -> anyhow::Result<()> {
    let level = |answer: &mut DescribeGroupsResponse| answer.groups.sort_by_key(|group| group.group_id.clone());
    let ask = |groups: &'static [&'static str], version: i16| DescribeGroupsRequest {
        groups: groups.iter().map(|group| Str::from(*group)).collect(),
        include_authorized_operations: version >= OPERATIONS,
        ..Default::default()
    };
    for groups in [
        &["admin-workers-9"][..],
        &["admin-emptied-9"],
        &["admin-offsets-9"],
        &["admin-none"],
        &[""],
        &["admin-workers-9", "admin-none", "admin-offsets-9", "admin-none"],
        &[],
    ] {
        let case = format!("{groups:?}");
        pair.same(&case, |v| ask(groups, v), |answer| level_ids(answer, &level))?;
        let without = |v| DescribeGroupsRequest { include_authorized_operations: false, ..ask(groups, v) };
        pair.same(&format!("{case}, without operations"), without, |answer| level_ids(answer, &level))?;
    }
    Ok(())
}

/// Of the groups here several members have the name "member"; only the last one's id is known by it.
fn level_ids(answer: &mut DescribeGroupsResponse, level: &impl Fn(&mut DescribeGroupsResponse)) {
    level(answer);
    for member in answer.groups.iter_mut().flat_map(|group| &mut group.members) {
        let kept = member.member_id.rsplitn(6, '-').last().unwrap_or_default().to_owned();
        member.member_id = Str::from(kept);
    }
}

// ---------------------------------------------------------------- delete

fn delete(pair: &mut Pair) -> anyhow::Result<()> {
    let level = |answer: &mut DeleteGroupsResponse| {
        answer.results.sort_by_key(|result| result.group_id.clone());
        // From version 3 on, errors have texts. Ours say what to do.
        answer
            .results
            .iter_mut()
            .filter(|result| result.error_code != 0)
            .for_each(|result| result.error_message = None);
    };
    let ask = |groups: &[&str]| DeleteGroupsRequest {
        groups_names: groups.iter().map(|group| Str::from(*group)).collect(),
        ..Default::default()
    };
    pair.same("no group", |_| ask(&["admin-none"]), level)?;
    // At the first version there is one of that name, with offsets; then there is none.
    pair.same("no name", |_| ask(&[""]), level)?;
    pair.same("none", |_| ask(&[]), level)?;
    pair.same("one with a member", |_| ask(&["admin-stable-9"]), level)?;
    pair.same("one whose assignment is awaited", |_| ask(&["admin-completing-9"]), level)?;
    for version in pair.versions::<DeleteGroupsRequest>()? {
        let mut gone = Group::new(pair, "admin-gone", version);
        gone.commit("nobody", ("", None), -1, ErrorCode::None)?;
        let name = gone.id;
        let request = ask(&[&name, "admin-none", "admin-stable-9", "admin-none"]);
        pair.same_at("several, one of them twice", version, &request, &request, level)?;
        let request = ask(&[&name]);
        pair.same_at("again", version, &request, &request, level)?;
    }
    Ok(())
}
