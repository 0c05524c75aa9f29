//! `odradek group`: consumer groups, which the controllers ask the brokers about.

mod csv;
mod history;
mod offsets;

use std::collections::HashMap;

use odradek_proto::admin::{
    BrokerFailure, DeleteGroupsRequest, DescribeGroupRequest, DescribeGroupResponse, GroupMember, GroupOffset,
    GroupOutcome, ListGroupsRequest, ListGroupsResponse, TopicPartitions,
};
use serde::Serialize;

use super::Context;
use crate::admin::{Admin, Client, exit_of};
use crate::args::{Group, GroupDescribe, GroupList, Groups};
use crate::error::{CliError, Exit};
use crate::output::{self, Format, ids, table};

/// Kafka's name for a group that is not there.
const NOT_FOUND: &str = "GROUP_ID_NOT_FOUND";

pub async fn execute(context: &Context, command: Group) -> Result<(), CliError> {
    match command {
        Group::List(command) => list(context, command).await,
        Group::Describe(command) => describe(context, command).await,
        Group::Members { group } => members(context, group).await,
        Group::ResetOffsets(command) => offsets::reset(context, command).await,
        Group::Delete { groups } => delete(context, groups).await,
        Group::DeleteOffsets { group, topic } => offsets::delete(context, group, topic).await,
    }
}

/// `-` for nothing.
fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn number(number: Option<i64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// What was printed is not all that there is.
fn check_complete(what: &str, failures: &[BrokerFailure]) -> Result<(), CliError> {
    if failures.is_empty() {
        return Ok(());
    }
    let messages: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
    Err(CliError::failed(format!("{what}: {}", messages.join("; "))))
}

// ---------------------------------------------------------------- list

#[derive(Serialize)]
struct Listing {
    groups: Vec<ListedGroup>,
}

#[derive(Serialize)]
struct ListedGroup {
    group: String,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    protocol_type: String,
    coordinator: i32,
}

async fn ask_for_all(admin: &mut Admin, request: ListGroupsRequest) -> Result<ListGroupsResponse, CliError> {
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.list_groups(request).await }
    };
    admin.call("groups", ask).await
}

/// The groups that are meant, one after another. What fails with one says nothing of the others; each failure is told,
/// and the exit code is theirs if they agree.
async fn each(
    admin: &mut Admin,
    groups: Groups,
    mut work: impl AsyncFnMut(&mut Admin, &str, bool) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut failures = Vec::new();
    let names = match groups.all_groups {
        false => groups.groups,
        true => {
            let answer = ask_for_all(admin, ListGroupsRequest::default()).await?;
            failures.extend(check_complete("not all groups are known", &answer.failures).err());
            answer.groups.into_iter().map(|group| group.group).collect()
        }
    };
    for (position, group) in names.iter().enumerate() {
        admin.renew();
        match work(admin, group, position > 0).await {
            Err(error) if error.is_broken_pipe() => return Err(error),
            outcome => failures.extend(outcome.err()),
        }
    }
    let Some(mut last) = failures.pop() else { return Ok(()) };
    for failure in failures {
        eprintln!("odradek: {failure}");
        if failure.exit != last.exit {
            last.exit = Exit::Failed;
        }
    }
    Err(last)
}

async fn list(context: &Context, command: GroupList) -> Result<(), CliError> {
    let request = ListGroupsRequest { states: command.state, types: command.kind };
    let is_filtered = !request.states.is_empty() || !request.types.is_empty();
    let answer = ask_for_all(&mut context.admin()?, request).await?;
    let groups = answer.groups.into_iter().map(|group| ListedGroup {
        group: group.group,
        kind: group.r#type,
        state: group.state,
        protocol_type: group.protocol_type,
        coordinator: group.coordinator,
    });
    let listing = Listing { groups: groups.collect() };
    output::print(context.global.output, &listing, |listing| {
        if listing.groups.is_empty() {
            let text =
                if is_filtered { "no group is so" } else { "there are no groups; a consumer makes one when it joins" };
            return text.to_owned();
        }
        let row = |group: &ListedGroup| {
            vec![
                group.group.clone(),
                group.kind.clone(),
                group.state.clone(),
                group.coordinator.to_string(),
                dash(&group.protocol_type),
            ]
        };
        let rows: Vec<Vec<String>> = listing.groups.iter().map(row).collect();
        table(&["GROUP", "TYPE", "STATE", "COORDINATOR", "PROTOCOL"], &rows)
    })?;
    check_complete("the list is not complete", &answer.failures)
}

// ---------------------------------------------------------------- describe

#[derive(Serialize)]
struct Described {
    group: String,
    state: String,
    protocol_type: String,
    /// What the members agreed on, as `range`.
    assignor: Option<String>,
    coordinator: i32,
    coordinator_address: String,
    members: usize,
    /// Of all partitions; absent when that of some partition with a committed offset is not known.
    lag: Option<i64>,
    /// The longest of all partitions; absent when that of some partition with a committed offset is not known.
    lag_seconds: Option<f64>,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct DescribedPartition {
    topic: String,
    partition: i32,
    committed: Option<i64>,
    metadata: String,
    log_end: Option<i64>,
    lag: Option<i64>,
    /// For how long the oldest record that is not consumed has been there.
    lag_seconds: Option<f64>,
    /// Who has it.
    member_id: Option<String>,
    instance_id: Option<String>,
    client_id: Option<String>,
    host: Option<String>,
    error: Option<String>,
}

async fn ask(admin: &mut Admin, group: &str, history: bool) -> Result<DescribeGroupResponse, CliError> {
    let ask = |mut client: Client| {
        let request = DescribeGroupRequest { group: group.to_owned(), history };
        async move { client.describe_group(request).await }
    };
    admin.call(&format!("group {group}"), ask).await
}

async fn describe(context: &Context, command: GroupDescribe) -> Result<(), CliError> {
    let GroupDescribe { groups, history } = command;
    let one = async |admin: &mut Admin, group: &str, follows| match history {
        true => tell_history(context, admin, group, follows).await,
        false => describe_one(context, admin, group, follows).await,
    };
    each(&mut context.admin()?, groups, one).await
}

async fn tell_history(context: &Context, admin: &mut Admin, group: &str, follows: bool) -> Result<(), CliError> {
    let mut answer = ask(admin, group, true).await?;
    let Some(history) = answer.history.take() else {
        let message = format!(
            "group {group}: its coordinator, broker {}, tells no history: upgrade it, or try again once it coordinates",
            answer.coordinator
        );
        return Err(CliError::failed(message));
    };
    output::print(context.global.output, &history::of(&answer, history), |told| match follows {
        true => format!("\n{}", history::text(told)),
        false => history::text(told),
    })
}

async fn describe_one(context: &Context, admin: &mut Admin, group: &str, follows: bool) -> Result<(), CliError> {
    let answer = ask(admin, group, false).await?;
    let members: HashMap<&str, &GroupMember> =
        answer.members.iter().map(|member| (member.member_id.as_str(), member)).collect();
    let partitions: Vec<DescribedPartition> = answer
        .offsets
        .iter()
        .map(|offset| partition(offset, members.get(offset.member_id.as_str()).copied()))
        .collect();
    let is_timed = |partition: &DescribedPartition| partition.committed.is_none() || partition.lag_seconds.is_some();
    let longest = partitions.iter().filter_map(|partition| partition.lag_seconds).fold(0.0, f64::max);
    let is_known = |partition: &DescribedPartition| partition.committed.is_none() || partition.lag.is_some();
    let described = Described {
        state: answer.state,
        protocol_type: answer.protocol_type,
        assignor: (!answer.protocol.is_empty()).then_some(answer.protocol),
        coordinator: answer.coordinator,
        coordinator_address: answer.coordinator_address,
        members: answer.members.len(),
        lag: partitions.iter().all(is_known).then(|| partitions.iter().filter_map(|partition| partition.lag).sum()),
        lag_seconds: partitions.iter().all(is_timed).then_some(longest),
        partitions,
        group: answer.group,
    };
    output::print(context.global.output, &described, |described| match follows {
        true => format!("\n{}", description(described)),
        false => description(described),
    })?;
    check_complete(&format!("group {group}: log ends are missing"), &answer.failures)
}

fn partition(offset: &GroupOffset, member: Option<&GroupMember>) -> DescribedPartition {
    DescribedPartition {
        topic: offset.topic.clone(),
        partition: offset.partition,
        committed: offset.committed,
        metadata: offset.metadata.clone(),
        log_end: offset.log_end,
        lag: offset.lag,
        lag_seconds: offset.lag_ms.map(|lag_ms| lag_ms as f64 / 1_000.0),
        member_id: member.map(|member| member.member_id.clone()),
        instance_id: member.and_then(|member| member.instance_id.clone()),
        client_id: member.map(|member| member.client_id.clone()),
        host: member.map(|member| member.host.clone()),
        error: (!offset.error.is_empty()).then(|| offset.error.clone()),
    }
}

/// To a tenth, but more than nothing where there is something.
fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds > 0.0 => format!("{:.1}", seconds.max(0.1)),
        Some(_) => "0.0".to_owned(),
    }
}

fn description(described: &Described) -> String {
    let known: i64 = described.partitions.iter().filter_map(|partition| partition.lag).sum();
    let head = [
        ("group", described.group.clone()),
        ("state", described.state.clone()),
        ("coordinator", format!("{} ({})", described.coordinator, described.coordinator_address)),
        ("assignor", described.assignor.clone().unwrap_or_else(|| "-".to_owned())),
        ("members", described.members.to_string()),
        ("lag", described.lag.map_or_else(|| format!("{known}, and what is not known"), |lag| lag.to_string())),
        ("behind", described.lag_seconds.map_or_else(|| "-".to_owned(), |lag| format!("{} s", seconds(Some(lag))))),
    ];
    let head: String = head.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect();
    if described.partitions.is_empty() {
        return head + "it has committed nothing, and no member has a partition";
    }
    let row = |partition: &DescribedPartition| {
        vec![
            partition.topic.clone(),
            partition.partition.to_string(),
            number(partition.committed),
            partition.log_end.map_or_else(|| dash(partition.error.as_deref().unwrap_or("")), |end| end.to_string()),
            number(partition.lag),
            seconds(partition.lag_seconds),
            dash(partition.member_id.as_deref().unwrap_or("")),
            dash(partition.client_id.as_deref().unwrap_or("")),
            dash(partition.host.as_deref().unwrap_or("")),
        ]
    };
    let rows: Vec<Vec<String>> = described.partitions.iter().map(row).collect();
    head + &table(&["TOPIC", "PARTITION", "COMMITTED", "LOG END", "LAG", "SECONDS", "MEMBER", "CLIENT", "HOST"], &rows)
}

// ---------------------------------------------------------------- members

#[derive(Serialize)]
struct Members {
    group: String,
    state: String,
    assignor: Option<String>,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    member_id: String,
    instance_id: Option<String>,
    client_id: String,
    host: String,
    /// How many it has.
    partitions: usize,
    assigned: Vec<Assigned>,
}

#[derive(Serialize)]
struct Assigned {
    topic: String,
    partitions: Vec<i32>,
}

async fn members(context: &Context, group: String) -> Result<(), CliError> {
    let answer = ask(&mut context.admin()?, &group, false).await?;
    let assigned = |topic: TopicPartitions| Assigned { topic: topic.topic, partitions: topic.partitions };
    let members = answer.members.into_iter().map(|member| Member {
        member_id: member.member_id,
        instance_id: member.instance_id,
        client_id: member.client_id,
        host: member.host,
        partitions: member.assigned.iter().map(|topic| topic.partitions.len()).sum(),
        assigned: member.assigned.into_iter().map(assigned).collect(),
    });
    let mut members = Members {
        group: answer.group,
        state: answer.state,
        assignor: (!answer.protocol.is_empty()).then_some(answer.protocol),
        members: members.collect(),
    };
    members.members.sort_by(|a, b| (&a.client_id, &a.member_id).cmp(&(&b.client_id, &b.member_id)));
    output::print(context.global.output, &members, text_of_members)
}

fn text_of_members(members: &Members) -> String {
    if members.members.is_empty() {
        return format!("group {} has no members (state {})", members.group, members.state);
    }
    let row = |member: &Member| {
        let assigned = member.assigned.iter().map(|topic| format!("{}:{}", topic.topic, ids(&topic.partitions)));
        vec![
            member.member_id.clone(),
            dash(member.instance_id.as_deref().unwrap_or("")),
            dash(&member.client_id),
            member.host.clone(),
            member.partitions.to_string(),
            dash(&assigned.collect::<Vec<_>>().join(" ")),
        ]
    };
    let rows: Vec<Vec<String>> = members.members.iter().map(row).collect();
    table(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS", "ASSIGNED"], &rows)
}

// ---------------------------------------------------------------- delete

#[derive(Serialize)]
struct Deleted {
    groups: Vec<DeletedGroup>,
}

#[derive(Serialize)]
struct DeletedGroup {
    group: String,
    deleted: bool,
    error: Option<String>,
}

async fn delete(context: &Context, groups: Vec<String>) -> Result<(), CliError> {
    let request = DeleteGroupsRequest { groups };
    let mut admin = context.admin()?;
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.delete_groups(request).await }
    };
    let outcomes = admin.call("groups", ask).await?.groups;
    // An attempt whose answer was lost may have deleted what is not there any more.
    let is_done = |outcome: &GroupOutcome| outcome.error.is_empty() || admin.in_doubt && outcome.error == NOT_FOUND;
    let failed: Vec<&GroupOutcome> = outcomes.iter().filter(|outcome| !is_done(outcome)).collect();
    let deleted = outcomes.iter().map(|outcome| DeletedGroup {
        group: outcome.group.clone(),
        deleted: is_done(outcome),
        error: (!is_done(outcome)).then(|| outcome.error.clone()),
    });
    let deleted = Deleted { groups: deleted.collect() };
    // Of a single group that failed the error says all, to people.
    if failed.len() < outcomes.len() || outcomes.len() > 1 || context.global.output == Format::Json {
        output::print(context.global.output, &deleted, |deleted| {
            let row = |group: &DeletedGroup| {
                vec![group.group.clone(), group.error.clone().unwrap_or_else(|| "deleted".to_owned())]
            };
            table(&["GROUP", "RESULT"], &deleted.groups.iter().map(row).collect::<Vec<_>>())
        })?;
    }
    let Some(first) = failed.first() else { return Ok(()) };
    let is_alike = failed.iter().all(|outcome| outcome.error == first.error);
    let exit = if is_alike { exit_of(&first.error) } else { Exit::Failed };
    let others = match failed.len() {
        1 => String::new(),
        count => format!(" (and {} more groups failed)", count - 1),
    };
    Err(CliError::new(exit, format!("{} ({}){others}", first.message, first.error)))
}
