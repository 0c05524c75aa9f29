//! `odradek reassign`.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use odradek_common::config::HostPort;
use odradek_common::fs::read_file;
use odradek_proto::admin::{
    AlterReassignmentsRequest, ListBrokersRequest, ListReassignmentsRequest, OngoingReassignment, PartitionOutcome,
    PlanReassignmentRequest, PlannedMove, Reassignment,
};
use serde::{Deserialize, Serialize};

use super::Context;
use super::elect::partitions;
use super::pace::{self, Pace};
use crate::admin::{Admin, Client};
use crate::args::{Reassign, ReassignCancel, ReassignPlan, ReassignRun};
use crate::error::CliError;
use crate::kafka::Cluster;
use crate::kafka::log_dirs::Sizes;
use crate::output::{self, Format, ids, table};

/// Between two looks of `watch`.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const PLAN_BYTES_MAX: u64 = 256 * 1024 * 1024;

pub async fn execute(context: &Context, command: Reassign) -> Result<(), CliError> {
    match command {
        Reassign::Plan(command) => plan(context, command).await,
        Reassign::Run(command) => run(context, command).await,
        Reassign::Watch { topics } => watch(context, topics).await,
        Reassign::Cancel(command) => cancel(context, command).await,
        Reassign::List { topics } => list(context, topics).await,
    }
}

/// As Kafka's own tool reads and writes it, with what a person wants to know beside.
#[derive(Serialize, Deserialize)]
struct Plan {
    version: i32,
    partitions: Vec<PlanPartition>,
    /// What new replicas have to fetch; absent when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct PlanPartition {
    topic: String,
    partition: i32,
    replicas: Vec<i32>,
    #[serde(default)]
    current: Vec<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
}

impl PlanPartition {
    fn adding(&self) -> Vec<i32> {
        self.replicas.iter().copied().filter(|id| !self.current.contains(id)).collect()
    }
}

async fn plan(context: &Context, command: ReassignPlan) -> Result<(), CliError> {
    let request = PlanReassignmentRequest {
        topics: command.topic,
        brokers: command.brokers,
        replication_factor: command.replication_factor.unwrap_or(0),
    };
    let subject = request.topics.join(",");
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.plan_reassignment(request).await }
    };
    let moves = context.admin()?.call(&subject, ask).await?.moves;
    let sizes = match moves.is_empty() {
        true => None,
        false => sizes(context).await,
    };
    let plan = sized(moves, sizes.as_ref());
    output::print(context.global.output, &plan, text_of_plan)
}

/// `None`: the brokers cannot be asked. The plan is good without.
pub async fn sizes(context: &Context) -> Option<Sizes> {
    // Which brokers there are is the controllers' to say; a bootstrap address from elsewhere may be another cluster's.
    let brokers = match context.global.bootstrap {
        Some(_) => context.bootstrap().ok()?,
        None => match listed_brokers(context).await {
            Ok(listed) if !listed.is_empty() => listed,
            _ => context.bootstrap().ok()?,
        },
    };
    let mut cluster = Cluster::open_brokers(&context.world, brokers, context.global.timeout).await.ok()?;
    Some(Sizes::ask(&mut cluster).await)
}

/// An address of each broker that serves.
async fn listed_brokers(context: &Context) -> Result<Vec<HostPort>, CliError> {
    let ask = |mut client: Client| async move { client.list_brokers(ListBrokersRequest {}).await };
    let brokers = context.admin()?.call("brokers", ask).await?.brokers;
    let address = |endpoint: &String| endpoint.split_once("://").and_then(|(_, address)| address.parse().ok());
    Ok(brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .filter_map(|broker| broker.endpoints.iter().find_map(address))
        .collect())
}

fn sized(moves: Vec<PlannedMove>, sizes: Option<&Sizes>) -> Plan {
    let partitions = moves.into_iter().map(|planned| {
        let mut partition = PlanPartition {
            topic: planned.topic,
            partition: planned.partition,
            replicas: planned.target,
            current: planned.current,
            bytes: None,
        };
        let size = sizes.and_then(|sizes| sizes.largest(&partition.current, &partition.topic, partition.partition));
        partition.bytes = size.map(|size| size.saturating_mul(partition.adding().len() as u64));
        partition
    });
    let partitions: Vec<PlanPartition> = partitions.collect();
    let bytes = partitions.iter().map(|partition| partition.bytes).sum();
    Plan { version: 1, partitions, bytes }
}

fn text_of_plan(plan: &Plan) -> String {
    if plan.partitions.is_empty() {
        return "nothing has to move".to_owned();
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), output::bytes);
    let row = |one: &PlanPartition| {
        let partition = one.partition.to_string();
        vec![one.topic.clone(), partition, ids(&one.current), ids(&one.replicas), ids(&one.adding()), size(one.bytes)]
    };
    let rows: Vec<Vec<String>> = plan.partitions.iter().map(row).collect();
    let moved: usize = plan.partitions.iter().map(|one| one.adding().len()).sum();
    format!(
        "{}{} partitions change; {moved} replicas move, {}\n",
        table(&["TOPIC", "PARTITION", "FROM", "TO", "NEW ON", "BYTES"], &rows),
        plan.partitions.len(),
        plan.bytes.map_or_else(|| "of unknown size".to_owned(), output::bytes),
    )
}

fn read_plan(context: &Context, path: &Path) -> Result<Plan, CliError> {
    let name = path.display();
    let text = if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().lock().take(PLAN_BYTES_MAX).read_to_end(&mut text)?;
        text
    } else {
        read_file(&*context.world.fs, path, PLAN_BYTES_MAX)
            .map_err(|error| CliError::failed(format!("{name}: {error}")))?
    };
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| {
        CliError::failed(format!("{name}: {error}; a plan is what `odradek reassign plan --output json` prints"))
    })?;
    match plan.version {
        1 => Ok(plan),
        version => Err(CliError::failed(format!("{name}: version {version} of a plan is not known, only 1"))),
    }
}

async fn run(context: &Context, command: ReassignRun) -> Result<(), CliError> {
    let reassignment = |topic: String, partition, replicas| Reassignment { topic, partition, replicas, cancel: false };
    let reassignments: Vec<Reassignment> = match &command.plan {
        Some(path) => {
            let partitions = read_plan(context, path)?.partitions.into_iter();
            partitions.map(|one| reassignment(one.topic, one.partition, one.replicas)).collect()
        }
        None => command.moves.into_iter().map(|one| reassignment(one.topic, one.partition, one.replicas)).collect(),
    };
    let topics: Vec<String> = reassignments.iter().map(|one| one.topic.clone()).collect();
    let outcomes = alter(context, reassignments, command.keep_replication_factor).await?;
    report(context, outcomes, "begun", command.watch)?;
    if command.watch { watch(context, topics).await } else { Ok(()) }
}

async fn cancel(context: &Context, command: ReassignCancel) -> Result<(), CliError> {
    let cancelled = |topic: String, partition| Reassignment { topic, partition, replicas: Vec::new(), cancel: true };
    let reassignments: Vec<Reassignment> = match (&command.plan, command.all) {
        (Some(path), _) => {
            let partitions = read_plan(context, path)?.partitions.into_iter();
            partitions.map(|one| cancelled(one.topic, one.partition)).collect()
        }
        (None, true) => {
            let ongoing = ongoing(&mut context.admin()?, &[]).await?.into_iter();
            ongoing.map(|one| cancelled(one.topic, one.partition)).collect()
        }
        (None, false) => {
            let mut admin = context.admin()?;
            let named = partitions(&mut admin, &command.targets).await?;
            let whole: Vec<&str> = (command.targets.iter())
                .filter(|target| target.partition.is_none())
                .map(|target| target.topic.as_str())
                .collect();
            let ongoing = ongoing(&mut admin, &[]).await?;
            // Of a whole topic, what is under way.
            let is_meant = |topic: &str, partition: i32| {
                !whole.contains(&topic) || ongoing.iter().any(|one| one.topic == topic && one.partition == partition)
            };
            let named = named.into_iter().filter(|one| is_meant(&one.topic, one.partition));
            named.map(|one| cancelled(one.topic, one.partition)).collect()
        }
    };
    let outcomes = alter(context, reassignments, false).await?;
    report(context, outcomes, "cancelled", false)
}

async fn alter(
    context: &Context,
    reassignments: Vec<Reassignment>,
    keep_replication_factor: bool,
) -> Result<Vec<PartitionOutcome>, CliError> {
    if reassignments.is_empty() {
        return Ok(Vec::new());
    }
    let request = AlterReassignmentsRequest { reassignments, keep_replication_factor };
    let mut admin = context.admin()?;
    let ask = |mut client: Client| {
        let request = request.clone();
        async move { client.alter_reassignments(request).await }
    };
    let mut outcomes = admin.call("reassignments", ask).await?.partitions;
    if admin.in_doubt && request.reassignments.iter().all(|one| one.cancel) {
        // An attempt whose answer was lost may have undone it already.
        outcomes.iter_mut().filter(|one| one.error == "NO_REASSIGNMENT_IN_PROGRESS").for_each(|one| one.error.clear());
    }
    Ok(outcomes)
}

#[derive(Serialize)]
struct Outcomes {
    partitions: Vec<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    topic: String,
    partition: i32,
    error: Option<String>,
    message: Option<String>,
}

/// Prints what became of each partition; an error if any was refused. `is_begin`: more output follows.
fn report(context: &Context, outcomes: Vec<PartitionOutcome>, done: &str, is_begin: bool) -> Result<(), CliError> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let partitions = outcomes.into_iter().map(|one| {
        let (error, message) = (some(one.error), some(one.message));
        Outcome { topic: one.topic, partition: one.partition, message: error.as_ref().and(message), error }
    });
    let outcomes = Outcomes { partitions: partitions.collect() };
    let refused = outcomes.partitions.iter().filter(|one| one.error.is_some()).count();
    if !is_begin || context.global.output == Format::Text || refused > 0 {
        output::print(context.global.output, &outcomes, |outcomes| {
            let row = |one: &Outcome| {
                let result = match (&one.error, &one.message) {
                    (None, _) => done.to_owned(),
                    (Some(error), Some(message)) => format!("{message} ({error})"),
                    (Some(error), None) => error.clone(),
                };
                vec![one.topic.clone(), one.partition.to_string(), result]
            };
            match outcomes.partitions.is_empty() {
                true => "no partition is meant".to_owned(),
                false => {
                    let rows: Vec<Vec<String>> = outcomes.partitions.iter().map(row).collect();
                    table(&["TOPIC", "PARTITION", "RESULT"], &rows)
                }
            }
        })?;
    }
    match refused {
        0 => Ok(()),
        refused => Err(CliError::failed(format!("{refused} of {} partitions were refused", outcomes.partitions.len()))),
    }
}

async fn ongoing(admin: &mut Admin, topics: &[String]) -> Result<Vec<OngoingReassignment>, CliError> {
    let ask = |mut client: Client| {
        let request = ListReassignmentsRequest { topics: topics.to_vec() };
        async move { client.list_reassignments(request).await }
    };
    Ok(admin.call("reassignments", ask).await?.reassignments)
}

#[derive(Serialize)]
struct Listing {
    reassignments: Vec<Ongoing>,
}

#[derive(Serialize)]
struct Ongoing {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    adding: Vec<i32>,
    removing: Vec<i32>,
    isr: Vec<i32>,
}

async fn list(context: &Context, topics: Vec<String>) -> Result<(), CliError> {
    let ongoing = ongoing(&mut context.admin()?, &topics).await?.into_iter().map(|one| Ongoing {
        topic: one.topic,
        partition: one.partition,
        leader: (one.leader >= 0).then_some(one.leader),
        replicas: one.replicas,
        adding: one.adding,
        removing: one.removing,
        isr: one.isr,
    });
    let listing = Listing { reassignments: ongoing.collect() };
    output::print(context.global.output, &listing, |listing| {
        if listing.reassignments.is_empty() {
            return "no partition is being reassigned".to_owned();
        }
        let row = |one: &Ongoing| {
            vec![
                one.topic.clone(),
                one.partition.to_string(),
                ids(&one.replicas),
                ids(&one.adding),
                ids(&one.removing),
                ids(&one.isr),
            ]
        };
        let rows: Vec<Vec<String>> = listing.reassignments.iter().map(row).collect();
        table(&["TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING", "ISR"], &rows)
    })
}

#[derive(Clone, Serialize, PartialEq)]
struct Progress {
    partitions_left: usize,
    /// What new replicas have, and are to have; absent when it is not known.
    bytes_done: Option<u64>,
    bytes_total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

impl Progress {
    fn bytes_left(&self) -> Option<u64> {
        Some(self.bytes_total?.saturating_sub(self.bytes_done?))
    }
}

async fn watch(context: &Context, topics: Vec<String>) -> Result<(), CliError> {
    let mut admin = context.admin()?;
    let mut last = None;
    let mut pace = None;
    loop {
        admin.renew();
        let ongoing = ongoing(&mut admin, &topics).await?;
        let sizes = match ongoing.is_empty() {
            true => None,
            false => sizes(context).await,
        };
        let progress = progress(&ongoing, sizes.as_ref());
        if last.as_ref() != Some(&progress) {
            let (now, left) = (context.world.instant(), progress.bytes_left());
            let pace = *pace.get_or_insert_with(|| Pace::new(now, left));
            let shown = Progress { seconds_left: pace.seconds_left(left, now), ..progress.clone() };
            output::print(context.global.output, &shown, text_of_progress)?;
        }
        if ongoing.is_empty() {
            return Ok(());
        }
        last = Some(progress);
        context.world.sleep(LOOK_INTERVAL).await;
    }
}

fn text_of_progress(progress: &Progress) -> String {
    match (progress.partitions_left, progress.bytes_done, progress.bytes_total) {
        (0, _, _) => "done: no partition is being reassigned".to_owned(),
        (left, Some(done), Some(total)) => format!(
            "{left} partitions to go, {} of {} are there{}",
            output::bytes(done),
            output::bytes(total),
            pace::text(progress.seconds_left)
        ),
        (left, _, _) => format!("{left} partitions to go"),
    }
}

fn progress(ongoing: &[OngoingReassignment], sizes: Option<&Sizes>) -> Progress {
    let of_partition = |one: &OngoingReassignment| {
        let total = sizes?.replica(one.leader, &one.topic, one.partition)?;
        let done = one.adding.iter().map(|id| sizes?.replica(*id, &one.topic, one.partition));
        let done: u64 = done.map(|size| size.unwrap_or(0).min(total)).sum();
        Some((done, total * one.adding.len() as u64))
    };
    let known: Option<Vec<(u64, u64)>> = ongoing.iter().map(of_partition).collect();
    let sum = known.map(|all| all.iter().fold((0, 0), |(done, total), one| (done + one.0, total + one.1)));
    Progress {
        partitions_left: ongoing.len(),
        bytes_done: sum.map(|(done, _)| done),
        bytes_total: sum.map(|(_, total)| total),
        seconds_left: None,
    }
}
