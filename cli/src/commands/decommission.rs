//! `odradek broker decommission` and `recommission`.

use std::time::Duration;

use odradek_proto::admin::{
    DecommissionBrokerRequest, DecommissionStatus, DescribeDecommissionRequest, ListBrokersRequest,
    RecommissionBrokerRequest,
};
use serde::Serialize;

use super::Context;
use super::pace::{self, Pace};
use super::reassign::sizes;
use crate::admin::{Admin, Client};
use crate::args::Decommission;
use crate::error::CliError;
use crate::kafka::log_dirs::Sizes;
use crate::output;

/// Between two looks at how far it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Clone, Serialize, PartialEq)]
struct Progress {
    broker_id: i32,
    state: &'static str,
    partitions_left: usize,
    /// Partitions that have no place to go to at the moment, or that wait for their turn.
    partitions_waiting: usize,
    /// Absent when it is not known.
    bytes_left: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
}

pub async fn decommission(context: &Context, command: Decommission) -> Result<(), CliError> {
    let id = command.id;
    let mut admin = context.admin()?;
    let request = DecommissionBrokerRequest { broker_id: id, validate_only: command.dry_run };
    let asked =
        admin.call("decommission", |mut client: Client| async move { client.decommission_broker(request).await }).await;
    let status = match asked {
        // A lost answer may have been ours.
        Err(_) if admin.in_doubt && !is_registered(&mut admin, id).await? => return done(context, id),
        asked => asked?,
    };
    let all = sizes(context).await;
    let before = bytes_left(&status, all.as_ref());
    if command.dry_run || command.no_wait {
        let state = if command.dry_run { "could be decommissioned" } else { "decommissioning" };
        let progress = progress(state, &status, before);
        return output::print(context.global.output, &progress, text);
    }
    watch(context, admin, status, before).await
}

async fn watch(
    context: &Context,
    mut admin: Admin,
    mut status: DecommissionStatus,
    first: Option<u64>,
) -> Result<(), CliError> {
    let id = status.broker_id;
    let (pace, mut bytes) = (Pace::new(context.world.instant(), first), first);
    let mut last: Option<Progress> = None;
    loop {
        let mut progress = progress("decommissioning", &status, bytes);
        if last.as_ref() != Some(&progress) {
            last = Some(progress.clone());
            progress.seconds_left = pace.seconds_left(bytes, context.world.instant());
            output::print(context.global.output, &progress, text)?;
        }
        context.world.sleep(LOOK_INTERVAL).await;
        admin.renew();
        let request = DescribeDecommissionRequest { broker_id: id };
        let asked = admin
            .call("decommission", |mut client: Client| async move { client.describe_decommission(request).await })
            .await;
        status = match asked {
            Ok(status) if !status.decommissioning => {
                return Err(CliError::failed(format!("broker {id} was recommissioned meanwhile")));
            }
            Ok(status) => status,
            Err(_) if !is_registered(&mut admin, id).await? => return done(context, id),
            Err(error) => return Err(error),
        };
        bytes = bytes_left(&status, sizes(context).await.as_ref());
    }
}

/// A broker that is not registered any more is done.
async fn is_registered(admin: &mut Admin, id: i32) -> Result<bool, CliError> {
    let ask = |mut client: Client| async move { client.list_brokers(ListBrokersRequest {}).await };
    Ok(admin.call("brokers", ask).await?.brokers.iter().any(|broker| broker.broker_id == id))
}

fn done(context: &Context, broker_id: i32) -> Result<(), CliError> {
    let progress = Progress {
        broker_id,
        state: "decommissioned",
        partitions_left: 0,
        partitions_waiting: 0,
        bytes_left: Some(0),
        seconds_left: None,
    };
    output::print(context.global.output, &progress, text)
}

fn progress(state: &'static str, status: &DecommissionStatus, bytes_left: Option<u64>) -> Progress {
    Progress {
        broker_id: status.broker_id,
        state,
        partitions_left: status.partitions.len(),
        partitions_waiting: status.partitions.iter().filter(|partition| !partition.moving).count(),
        bytes_left,
        seconds_left: None,
    }
}

/// What has still to be copied before the broker can let go.
fn bytes_left(status: &DecommissionStatus, sizes: Option<&Sizes>) -> Option<u64> {
    let sizes = sizes?;
    let left = status.partitions.iter().map(|partition| {
        let (topic, index) = (&partition.topic, partition.partition);
        let total = sizes.replica(status.broker_id, topic, index)?;
        let there = partition.waits_for.iter().filter_map(|id| sizes.replica(*id, topic, index)).max().unwrap_or(0);
        Some(total.saturating_sub(there))
    });
    left.sum()
}

fn text(progress: &Progress) -> String {
    let id = progress.broker_id;
    let size = progress.bytes_left.map_or_else(|| "of unknown size".to_owned(), output::bytes);
    match progress.state {
        "decommissioned" => format!(
            "broker {id} is decommissioned: it holds nothing, is unregistered, and its process ends; started again, it is \
             a broker of this cluster again"
        ),
        "could be decommissioned" => {
            format!("broker {id} could be decommissioned: {} partitions, {size}, would move", progress.partitions_left)
        }
        _ => {
            let eta = pace::text(progress.seconds_left);
            format!(
                "broker {id}: {} partitions to go ({} waiting), {size}{eta}",
                progress.partitions_left, progress.partitions_waiting
            )
        }
    }
}

#[derive(Serialize)]
struct Kept {
    broker_id: i32,
    undone: i32,
}

pub async fn recommission(context: &Context, id: i32) -> Result<(), CliError> {
    let request = RecommissionBrokerRequest { broker_id: id };
    let ask = |mut client: Client| async move { client.recommission_broker(request).await };
    let undone = context.admin()?.call("recommission", ask).await?.undone;
    output::print(context.global.output, &Kept { broker_id: id, undone }, |kept| {
        format!(
            "broker {} stays; {} moves were undone. What has moved away stays away: `odradek reassign plan` evens it out",
            kept.broker_id, kept.undone
        )
    })
}
