//! `odradek group describe --history`: the rebalances of a group, as its coordinator remembers them.

use odradek_proto::admin::{DescribeGroupResponse, GroupHistory, PartitionMove, Rebalance, RebalanceCause};
use serde::Serialize;

use super::dash;
use crate::output::{ids, table};
use crate::time;

#[derive(Serialize)]
pub struct History {
    group: String,
    state: String,
    protocol_type: String,
    coordinator: i32,
    coordinator_address: String,
    /// No rebalance since then is missing but `dropped` of them.
    since_ms: i64,
    since: String,
    dropped: u64,
    /// The oldest first.
    rebalances: Vec<OneRebalance>,
}

#[derive(Serialize)]
struct OneRebalance {
    at_ms: i64,
    at: String,
    from_epoch: i32,
    to_epoch: i32,
    outcome: String,
    took_ms: i64,
    causes: Vec<Cause>,
    causes_left_out: i32,
    moved: i32,
    moves: Vec<Move>,
}

#[derive(Serialize)]
struct Cause {
    why: String,
    member_id: Option<String>,
    instance_id: Option<String>,
    client_id: String,
    detail: String,
}

#[derive(Serialize)]
struct Move {
    topic: String,
    partitions: Vec<i32>,
    /// Nobody had them.
    from_member_id: Option<String>,
    to_member_id: Option<String>,
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn cause(cause: RebalanceCause) -> Cause {
    Cause {
        why: cause.why,
        member_id: some(cause.member_id),
        instance_id: cause.instance_id,
        client_id: cause.client_id,
        detail: cause.detail,
    }
}

fn one_move(one: PartitionMove) -> Move {
    Move {
        topic: one.topic,
        partitions: one.partitions,
        from_member_id: some(one.from_member_id),
        to_member_id: some(one.to_member_id),
    }
}

fn rebalance(one: Rebalance) -> OneRebalance {
    OneRebalance {
        at_ms: one.at_ms,
        at: time::format(one.at_ms),
        from_epoch: one.from_epoch,
        to_epoch: one.to_epoch,
        outcome: one.outcome,
        took_ms: one.took_ms,
        causes: one.causes.into_iter().map(cause).collect(),
        causes_left_out: one.causes_left_out,
        moved: one.moved,
        moves: one.moves.into_iter().map(one_move).collect(),
    }
}

pub fn of(answer: &DescribeGroupResponse, history: GroupHistory) -> History {
    History {
        group: answer.group.clone(),
        state: answer.state.clone(),
        protocol_type: answer.protocol_type.clone(),
        coordinator: answer.coordinator,
        coordinator_address: answer.coordinator_address.clone(),
        since_ms: history.since_ms,
        since: time::format(history.since_ms),
        dropped: history.dropped,
        rebalances: history.rebalances.into_iter().map(rebalance).collect(),
    }
}

pub fn text(history: &History) -> String {
    let dropped = match history.dropped {
        0 => String::new(),
        count => format!(", without the {count} oldest"),
    };
    let head = [
        ("group", history.group.clone()),
        ("state", history.state.clone()),
        ("coordinator", format!("{} ({})", history.coordinator, history.coordinator_address)),
        ("known since", format!("{}{dropped}", history.since)),
    ];
    let head: String = head.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    if history.rebalances.is_empty() {
        return head + "it has not rebalanced since";
    }
    let rows: Vec<Vec<String>> = history.rebalances.iter().flat_map(rows).collect();
    head + &table(&["TIME", "EPOCH", "OUTCOME", "SECONDS", "WHAT", "MEMBER", "MORE"], &rows)
}

/// A row for each cause and each move; only the first tells of which rebalance.
fn rows(one: &OneRebalance) -> Vec<Vec<String>> {
    let name = |member: &Option<String>| member.clone().unwrap_or_else(|| "-".to_owned());
    let mut events: Vec<[String; 3]> = Vec::new();
    for cause in &one.causes {
        let mut more: Vec<String> = Vec::new();
        more.extend(some(cause.client_id.clone()).map(|client| format!("client {client}")));
        more.extend(cause.instance_id.as_ref().map(|instance| format!("instance {instance}")));
        more.extend(some(cause.detail.clone()));
        events.push([cause.why.clone(), name(&cause.member_id), dash(&more.join(", "))]);
    }
    if one.causes_left_out > 0 {
        events.push([format!("and {} more", one.causes_left_out), "-".to_owned(), "-".to_owned()]);
    }
    let mut listed = 0;
    for moved in &one.moves {
        listed += moved.partitions.len();
        let from =
            moved.from_member_id.as_ref().map_or_else(|| "from nobody".to_owned(), |from| format!("from {from}"));
        let more = format!("{}:{} {from}", moved.topic, ids(&moved.partitions));
        match &moved.to_member_id {
            Some(to) => events.push(["gets".to_owned(), to.clone(), more]),
            None => events.push(["free".to_owned(), "-".to_owned(), more]),
        }
    }
    let left_out = usize::try_from(one.moved).unwrap_or(0).saturating_sub(listed);
    if left_out > 0 {
        events.push(["moved".to_owned(), "-".to_owned(), format!("{left_out} partitions more")]);
    }
    if events.is_empty() {
        events.push(["-".to_owned(), "-".to_owned(), "-".to_owned()]);
    }
    let seconds = format!("{}.{:03}", one.took_ms / 1_000, one.took_ms % 1_000);
    let mut of_entry =
        vec![one.at.clone(), format!("{} -> {}", one.from_epoch, one.to_epoch), one.outcome.clone(), seconds];
    let rows = events.into_iter().map(|event| {
        let mut row = std::mem::replace(&mut of_entry, vec![String::new(); 4]);
        row.extend(event);
        row
    });
    rows.collect()
}
