//! `odradek broker`.

use std::time::Duration;

use odradek_proto::admin::{
    BrokerDescription, FenceBrokerRequest, ListBrokersRequest, UnfenceBrokerRequest, UnregisterBrokerRequest,
};
use serde::Serialize;

use super::Context;
use crate::admin::Admin;
use crate::args::Broker;
use crate::error::{CliError, Exit};
use crate::output::{self, table};

/// Between two looks of `broker wait`.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub async fn execute(context: &Context, command: Broker) -> Result<(), CliError> {
    let admin = || context.admin();
    let listing =
        |brokers: Vec<BrokerDescription>| Listing { brokers: brokers.into_iter().map(ListedBroker::from).collect() };
    match command {
        Broker::Decommission(command) => super::decommission::decommission(context, command).await,
        Broker::LogDirs { ids, topic } => super::log_dirs::execute(context, &ids, &topic).await,
        Broker::Recommission { id } => super::decommission::recommission(context, id).await,
        Broker::List => output::print(context.global.output, &listing(brokers(&mut admin()?).await?), text),
        Broker::Describe { id } => {
            let broker = ListedBroker::from(find(&mut admin()?, id).await?);
            output::print(context.global.output, &broker, description)
        }
        Broker::Unregister { id, force } => unregister(context, &mut admin()?, id, force).await,
        Broker::Fence { id, force } => fence(context, &mut admin()?, id, force).await,
        Broker::Unfence { id } => unfence(context, &mut admin()?, id).await,
        Broker::Wait { count } => {
            let brokers = wait(context, &mut admin()?, count).await?;
            match context.global.output {
                // A script wants its exit code, not a table.
                output::Format::Text => Ok(()),
                output::Format::Json => output::print(context.global.output, &listing(brokers), text),
            }
        }
    }
}

async fn find(admin: &mut Admin, id: i32) -> Result<BrokerDescription, CliError> {
    let found = brokers(admin).await?.into_iter().find(|broker| broker.broker_id == id);
    let missing = || format!("no broker {id} is registered; `odradek broker list` shows all");
    found.ok_or_else(|| CliError::new(Exit::NotFound, missing()))
}

#[derive(Serialize)]
struct Unregistered {
    broker_id: i32,
    unregistered: bool,
    /// Partitions that still name it.
    replicas: i32,
}

async fn unregister(context: &Context, admin: &mut Admin, id: i32, force: bool) -> Result<(), CliError> {
    let broker = find(admin, id).await?;
    if !broker.fenced && !force {
        return Err(CliError::failed(format!(
            "broker {id} is serving; stop it first (or, if it shall lose its place while it runs, --force)"
        )));
    }
    let ask = |mut client: crate::admin::Client| async move {
        client.unregister_broker(UnregisterBrokerRequest { broker_id: id }).await
    };
    match admin.call(&format!("broker {id}"), ask).await {
        Ok(_) => {}
        // A lost answer may have been ours.
        Err(error) if error.exit == Exit::NotFound && admin.in_doubt => {}
        Err(error) => return Err(error),
    }
    let done = Unregistered { broker_id: id, unregistered: true, replicas: broker.replicas };
    output::print(context.global.output, &done, |done| match done.replicas {
        0 => format!("broker {} is unregistered", done.broker_id),
        replicas => format!(
            "broker {} is unregistered; {replicas} partitions still name it as a replica, and have one copy less until \
             they are reassigned",
            done.broker_id
        ),
    })
}

#[derive(Serialize)]
struct Fenced {
    broker_id: i32,
    fenced_by_operator: bool,
}

async fn fence(context: &Context, admin: &mut Admin, id: i32, force: bool) -> Result<(), CliError> {
    let ask = |mut client: crate::admin::Client| async move {
        client.fence_broker(FenceBrokerRequest { broker_id: id, force }).await
    };
    admin.call(&format!("broker {id}"), ask).await?;
    output::print(context.global.output, &Fenced { broker_id: id, fenced_by_operator: true }, |_| {
        format!("broker {id} is fenced, and stays so until `odradek broker unfence {id}`")
    })
}

async fn unfence(context: &Context, admin: &mut Admin, id: i32) -> Result<(), CliError> {
    let ask = |mut client: crate::admin::Client| async move {
        client.unfence_broker(UnfenceBrokerRequest { broker_id: id }).await
    };
    admin.call(&format!("broker {id}"), ask).await?;
    output::print(context.global.output, &Fenced { broker_id: id, fenced_by_operator: false }, |_| {
        format!("broker {id} may serve again, and does as soon as it runs and has caught up")
    })
}

fn description(broker: &ListedBroker) -> String {
    let rows = [
        ("broker", broker.broker_id.to_string()),
        ("state", broker.state.to_owned()),
        ("endpoints", broker.endpoints.join(" ")),
        ("rack", broker.rack.clone().unwrap_or_else(|| "-".to_owned())),
        ("leaders", broker.leaders.to_string()),
        ("replicas", broker.replicas.to_string()),
        ("epoch", broker.broker_epoch.to_string()),
        ("incarnation", broker.incarnation_id.clone()),
    ];
    rows.iter().map(|(name, value)| format!("{name:<12} {value}\n")).collect()
}

async fn brokers(admin: &mut Admin) -> Result<Vec<BrokerDescription>, CliError> {
    let ask = |mut client: crate::admin::Client| async move { client.list_brokers(ListBrokersRequest {}).await };
    let mut brokers = admin.call("brokers", ask).await?.brokers;
    brokers.sort_by_key(|broker| broker.broker_id);
    Ok(brokers)
}

async fn wait(context: &Context, admin: &mut Admin, count: usize) -> Result<Vec<BrokerDescription>, CliError> {
    loop {
        let brokers = brokers(admin).await?;
        let serving = brokers.iter().filter(|broker| !broker.fenced && !broker.in_controlled_shutdown).count();
        if serving >= count {
            return Ok(brokers);
        }
        if !admin.has_time() {
            return Err(CliError::failed(format!(
                "{serving} of {count} brokers serve after {} s ({} are registered)",
                context.global.timeout.as_secs_f64(),
                brokers.len()
            )));
        }
        context.world.sleep(LOOK_INTERVAL).await;
    }
}

#[derive(Serialize)]
struct Listing {
    brokers: Vec<ListedBroker>,
}

#[derive(Serialize)]
struct ListedBroker {
    broker_id: i32,
    state: &'static str,
    endpoints: Vec<String>,
    rack: Option<String>,
    leaders: i32,
    replicas: i32,
    broker_epoch: i64,
    incarnation_id: String,
    fenced: bool,
    in_controlled_shutdown: bool,
    decommissioning: bool,
    fenced_by_operator: bool,
}

impl From<BrokerDescription> for ListedBroker {
    fn from(broker: BrokerDescription) -> Self {
        let state = match (broker.fenced, broker.in_controlled_shutdown) {
            (true, _) if broker.fenced_by_operator => "fenced by hand",
            (true, _) => "fenced",
            (false, true) => "shutting down",
            (false, false) if broker.decommissioning => "decommissioning",
            (false, false) => "serving",
        };
        Self {
            broker_id: broker.broker_id,
            state,
            endpoints: broker.endpoints,
            rack: broker.rack,
            leaders: broker.leaders,
            replicas: broker.replicas,
            broker_epoch: broker.broker_epoch,
            incarnation_id: broker.incarnation_id,
            fenced: broker.fenced,
            in_controlled_shutdown: broker.in_controlled_shutdown,
            decommissioning: broker.decommissioning,
            fenced_by_operator: broker.fenced_by_operator,
        }
    }
}

fn text(listing: &Listing) -> String {
    if listing.brokers.is_empty() {
        return "no broker has registered".to_owned();
    }
    let row = |broker: &ListedBroker| {
        vec![
            broker.broker_id.to_string(),
            broker.state.to_owned(),
            broker.endpoints.join(" "),
            broker.rack.clone().unwrap_or_else(|| "-".to_owned()),
            broker.leaders.to_string(),
            broker.replicas.to_string(),
            broker.broker_epoch.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = listing.brokers.iter().map(row).collect();
    table(&["BROKER", "STATE", "ENDPOINTS", "RACK", "LEADERS", "REPLICAS", "EPOCH"], &rows)
}
