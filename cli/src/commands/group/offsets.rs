//! `odradek group reset-offsets` and `delete-offsets`: what a group has committed, and what it shall have.

use std::io::Read;
use std::path::Path;

use odradek_common::fs::read_file;
use odradek_proto::admin::{
    DeleteOffsetsRequest, OffsetReset, ResetKind, ResetOffset, ResetOffsetsRequest, ResetOffsetsResponse,
    TopicPartitions,
};
use serde::Serialize;

use super::super::Context;
use super::{csv, number};
use crate::admin::{Admin, Client, exit_of};
use crate::args::{ResetOffsets, Selection, Whereto};
use crate::error::CliError;
use crate::output::{self, Format, id, table};

const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;

// ---------------------------------------------------------------- reset

#[derive(Serialize)]
struct Reset {
    group: String,
    /// Whether it was done, or only planned.
    executed: bool,
    /// There was no such group.
    is_new: bool,
    offsets: Vec<ResetPartition>,
}

#[derive(Serialize)]
struct ResetPartition {
    topic: String,
    partition: i32,
    old_offset: Option<i64>,
    new_offset: Option<i64>,
    /// What was asked for, when that is out of the log's range.
    asked_offset: Option<i64>,
    error: Option<String>,
}

impl From<&ResetOffset> for ResetPartition {
    fn from(offset: &ResetOffset) -> Self {
        let error = (!offset.error.is_empty()).then(|| offset.error.clone());
        Self {
            topic: offset.topic.clone(),
            partition: offset.partition,
            old_offset: offset.old_offset,
            new_offset: error.is_none().then_some(offset.new_offset),
            asked_offset: offset.asked_offset,
            error,
        }
    }
}

pub async fn reset(context: &Context, mut command: ResetOffsets) -> Result<(), CliError> {
    if command.export && context.global.output == Format::Json {
        return Err(CliError::usage("--export prints CSV; leave out either it or --output json"));
    }
    let groups = std::mem::take(&mut command.groups);
    // With several groups, lines of files name theirs.
    let is_single = groups.groups.len() == 1;
    let what = What { is_all: groups.all_groups, is_single, plan: plan(context, &command)?, command };
    let one = async |admin: &mut Admin, group: &str, follows| reset_one(context, admin, &what, group, follows).await;
    super::each(&mut context.admin()?, groups, one).await
}

/// What is to be done to each group.
struct What {
    is_all: bool,
    is_single: bool,
    plan: Plan,
    command: ResetOffsets,
}

enum Plan {
    /// A file's text.
    File(String),
    /// The same for each.
    Resets(Vec<OffsetReset>),
}

async fn reset_one(
    context: &Context,
    admin: &mut Admin,
    What { is_all, is_single, plan, command }: &What,
    group: &str,
    follows: bool,
) -> Result<(), CliError> {
    let resets = match plan {
        Plan::Resets(resets) => resets.clone(),
        Plan::File(text) => {
            let path = command.to.from_file.as_deref().unwrap_or(Path::new("-")).display();
            let rows = csv::read(text, group, *is_single);
            let rows = rows.map_err(|error| CliError::failed(format!("{path}: {error}")))?;
            if rows.is_empty() && *is_all {
                return Ok(());
            }
            if rows.is_empty() {
                return Err(CliError::failed(format!("{path}: it has no offsets for group {group}")));
            }
            rows.into_iter().map(OffsetReset::from).collect()
        }
    };
    let ResetOffsetsResponse { offsets, is_new } = match command.to.shift_by {
        Some(_) if command.execute => shift(admin, group, resets).await?,
        _ => ask(admin, group, resets, !command.execute).await?,
    };
    for offset in &offsets {
        if let (Some(asked), true) = (offset.asked_offset, offset.error.is_empty()) {
            eprintln!(
                "odradek: warning: group {group}: {}-{}: offset {asked} is out of the log's range; {} is the nearest in it",
                offset.topic, offset.partition, offset.new_offset
            );
        }
    }
    let failed: Vec<&ResetOffset> = offsets.iter().filter(|offset| !offset.error.is_empty()).collect();
    let reset = Reset {
        executed: command.execute && failed.is_empty() && !offsets.is_empty(),
        is_new,
        offsets: offsets.iter().map(ResetPartition::from).collect(),
        group: group.to_owned(),
    };
    if !command.export {
        output::print(context.global.output, &reset, |reset| match (*is_single, follows) {
            (true, _) => text(reset),
            (false, false) => format!("group {group}\n{}", text(reset)),
            (false, true) => format!("\ngroup {group}\n{}", text(reset)),
        })?;
    } else if failed.is_empty() {
        let rows = offsets.iter().map(|offset| (offset.topic.as_str(), offset.partition, offset.new_offset));
        output::print(Format::Text, &reset, |_| csv::write((!is_single).then_some(group), rows))?;
    }
    let Some(first) = failed.first() else { return Ok(()) };
    // With a plan for all, some commits were taken and some were not.
    let what = if failed.iter().any(|offset| offset.new_offset < 0) { "nothing is reset" } else { "not all is reset" };
    let others = match failed.len() {
        1 => String::new(),
        count => format!("; so {} partitions", count),
    };
    Err(CliError::new(
        exit_of(&first.error),
        format!("group {group}: {what}: {} ({}){others}", first.message, first.error),
    ))
}

async fn ask(
    admin: &mut Admin,
    group: &str,
    resets: Vec<OffsetReset>,
    validate_only: bool,
) -> Result<ResetOffsetsResponse, CliError> {
    let request = ResetOffsetsRequest { group: group.to_owned(), resets, validate_only };
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.reset_offsets(request).await }
    };
    admin.call(&format!("group {group}"), ask).await
}

impl From<csv::Row> for OffsetReset {
    fn from(row: csv::Row) -> Self {
        Self { topic: row.topic, partitions: vec![row.partition], kind: ResetKind::Offset.into(), value: row.offset }
    }
}

/// Plans the shift, then commits where it leads: a question is repeated when its answer is lost, and a shift that was
/// asked twice would go twice as far.
async fn shift(admin: &mut Admin, group: &str, resets: Vec<OffsetReset>) -> Result<ResetOffsetsResponse, CliError> {
    let mut planned = ask(admin, group, resets, true).await?;
    if planned.offsets.is_empty() || planned.offsets.iter().any(|offset| !offset.error.is_empty()) {
        return Ok(planned);
    }
    let to_offset = |offset: &ResetOffset| OffsetReset {
        topic: offset.topic.clone(),
        partitions: vec![offset.partition],
        kind: ResetKind::Offset.into(),
        value: offset.new_offset,
    };
    let offsets = planned.offsets.iter().map(to_offset).collect();
    let done = ask(admin, group, offsets, false).await?.offsets;
    // Both are by topic and partition.
    for (planned, done) in planned.offsets.iter_mut().zip(done) {
        (planned.new_offset, planned.error, planned.message) = (done.new_offset, done.error, done.message);
    }
    Ok(planned)
}

/// What is asked of the controllers. Durations end now, by the clock of this machine.
fn plan(context: &Context, command: &ResetOffsets) -> Result<Plan, CliError> {
    let to = &command.to;
    if let Some(path) = &to.from_file {
        let text = read(context, path);
        return text.map(Plan::File).map_err(|error| CliError::new(error.exit, format!("{}: {error}", path.display())));
    }
    let (kind, value) = aim(to, context.world.timestamp().0);
    let reset = |selection: &Selection| OffsetReset {
        topic: selection.topic.clone(),
        partitions: selection.partitions.clone(),
        kind: kind.into(),
        value,
    };
    // Without a topic, it is what the group has committed.
    let everything = Selection { topic: String::new(), partitions: Vec::new() };
    let selected = if command.all_topics { std::slice::from_ref(&everything) } else { command.topic.as_slice() };
    Ok(Plan::Resets(selected.iter().map(reset).collect()))
}

fn aim(to: &Whereto, now_ms: i64) -> (ResetKind, i64) {
    match to {
        Whereto { to_earliest: true, .. } => (ResetKind::Earliest, 0),
        Whereto { to_latest: true, .. } => (ResetKind::Latest, 0),
        Whereto { to_offset: Some(offset), .. } => (ResetKind::Offset, *offset),
        Whereto { shift_by: Some(by), .. } => (ResetKind::Shift, *by),
        Whereto { to_datetime: Some(at), .. } => (ResetKind::Timestamp, *at),
        Whereto { by_duration: Some(duration), .. } => {
            let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            (ResetKind::Timestamp, now_ms.saturating_sub(millis).max(0))
        }
        // One of them is given.
        Whereto { .. } => (ResetKind::Current, 0),
    }
}

fn read(context: &Context, path: &Path) -> Result<String, CliError> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        bytes
    } else {
        read_file(&*context.world.fs, path, FILE_BYTES_MAX).map_err(|error| CliError::failed(error.to_string()))?
    };
    String::from_utf8(bytes).map_err(|_| CliError::failed("it is no text"))
}

fn text(reset: &Reset) -> String {
    if reset.offsets.is_empty() {
        return format!("group {} has committed nothing: name topics by --topic", reset.group);
    }
    let row = |offset: &ResetPartition| {
        let change = offset.new_offset.zip(offset.old_offset).map(|(new, old)| new.saturating_sub(old));
        vec![
            offset.topic.clone(),
            id(offset.partition),
            number(offset.old_offset),
            offset.error.clone().unwrap_or_else(|| number(offset.new_offset)),
            change.map_or_else(|| "-".to_owned(), |change| format!("{change:+}")),
        ]
    };
    let rows: Vec<Vec<String>> = reset.offsets.iter().map(row).collect();
    let rows = table(&["TOPIC", "PARTITION", "OLD OFFSET", "NEW OFFSET", "CHANGE"], &rows);
    let end = match reset.executed {
        true => format!("group {} goes on from there", reset.group),
        false if reset.is_new => {
            format!("nothing is changed: there is no group {}, and --execute makes it so", reset.group)
        }
        false => "nothing is changed: this is what --execute does".to_owned(),
    };
    // What failed is told as the error.
    if reset.offsets.iter().any(|offset| offset.error.is_some()) { rows } else { format!("{rows}{end}") }
}

// ---------------------------------------------------------------- delete

#[derive(Serialize)]
struct Deleted {
    group: String,
    partitions: Vec<DeletedPartition>,
}

#[derive(Serialize)]
struct DeletedPartition {
    topic: String,
    partition: i32,
    deleted: bool,
    error: Option<String>,
}

pub async fn delete(context: &Context, group: String, topics: Vec<Selection>) -> Result<(), CliError> {
    let topics = topics.into_iter().map(|one| TopicPartitions { topic: one.topic, partitions: one.partitions });
    let request = DeleteOffsetsRequest { group: group.clone(), topics: topics.collect() };
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.delete_offsets(request).await }
    };
    let outcomes = context.admin()?.call(&format!("group {group}"), ask).await?.partitions;
    let partitions = outcomes.iter().map(|outcome| DeletedPartition {
        topic: outcome.topic.clone(),
        partition: outcome.partition,
        deleted: outcome.error.is_empty(),
        error: (!outcome.error.is_empty()).then(|| outcome.error.clone()),
    });
    let deleted = Deleted { group, partitions: partitions.collect() };
    output::print(context.global.output, &deleted, |deleted| {
        let row = |one: &DeletedPartition| {
            let result = one.error.clone().unwrap_or_else(|| "deleted".to_owned());
            vec![one.topic.clone(), id(one.partition), result]
        };
        table(&["TOPIC", "PARTITION", "RESULT"], &deleted.partitions.iter().map(row).collect::<Vec<_>>())
    })?;
    let mut failed = outcomes.iter().filter(|outcome| !outcome.error.is_empty());
    let Some(first) = failed.next() else { return Ok(()) };
    let message = if first.message.is_empty() { "it was refused" } else { first.message.as_str() };
    let others = match failed.count() {
        0 => String::new(),
        count => format!("; {count} more partitions failed"),
    };
    Err(CliError::new(exit_of(&first.error), format!("{message} ({}){others}", first.error)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NONE: Whereto = Whereto {
        to_earliest: false,
        to_latest: false,
        to_current: false,
        to_offset: None,
        shift_by: None,
        to_datetime: None,
        by_duration: None,
        from_file: None,
    };

    #[test]
    fn each_way_has_its_kind() {
        for (to, expected) in [
            (Whereto { to_earliest: true, ..NONE }, (ResetKind::Earliest, 0)),
            (Whereto { to_latest: true, ..NONE }, (ResetKind::Latest, 0)),
            (Whereto { to_current: true, ..NONE }, (ResetKind::Current, 0)),
            (Whereto { to_offset: Some(7), ..NONE }, (ResetKind::Offset, 7)),
            (Whereto { shift_by: Some(-7), ..NONE }, (ResetKind::Shift, -7)),
            (Whereto { to_datetime: Some(9_000), ..NONE }, (ResetKind::Timestamp, 9_000)),
            (Whereto { by_duration: Some(Duration::from_secs(2)), ..NONE }, (ResetKind::Timestamp, 8_000)),
            // Before 1970 there are no records; the numbers below 0 mean something else.
            (Whereto { by_duration: Some(Duration::from_secs(20)), ..NONE }, (ResetKind::Timestamp, 0)),
        ] {
            assert_eq!(aim(&to, 10_000), expected, "{to:?}");
        }
    }

    #[test]
    fn a_plan_shows_old_and_new() {
        let offset = |partition, old_offset, new_offset| ResetPartition {
            topic: "orders".to_owned(),
            partition,
            old_offset,
            new_offset: Some(new_offset),
            asked_offset: None,
            error: None,
        };
        let mut reset = Reset {
            group: "g".to_owned(),
            executed: false,
            is_new: false,
            offsets: vec![offset(0, Some(12), 2), offset(1, None, 5)],
        };
        assert_eq!(
            text(&reset),
            "TOPIC   PARTITION  OLD OFFSET  NEW OFFSET  CHANGE\n\
             orders          0          12           2     -10\n\
             orders          1           -           5       -\n\
             nothing is changed: this is what --execute does"
        );
        reset.is_new = true;
        assert!(text(&reset).ends_with("there is no group g, and --execute makes it so"));
        reset.executed = true;
        assert!(text(&reset).ends_with("group g goes on from there"));
        reset.offsets.clear();
        assert_eq!(text(&reset), "group g has committed nothing: name topics by --topic");
    }
}
