//! `odradek quorum`.

use odradek_proto::admin::{
    DescribeFeaturesRequest, QuorumStatusRequest, QuorumStatusResponse, UpdateFeatureRequest, UpgradeType,
};
use serde::Serialize;

use super::Context;
use crate::args::Quorum;
use crate::error::CliError;
use crate::output::{self, id, table};

#[derive(Serialize)]
struct Status {
    cluster_id: String,
    leader_id: Option<i32>,
    leader_epoch: i64,
    high_watermark: i64,
    controllers: Vec<Controller>,
    observers: Vec<Observer>,
}

#[derive(Serialize)]
struct Controller {
    controller_id: i32,
    endpoint: String,
    voter: bool,
    log_end_offset: Option<i64>,
    lag: Option<i64>,
    last_fetch_timestamp_ms: Option<i64>,
    last_caught_up_timestamp_ms: Option<i64>,
}

/// A broker that follows the metadata.
#[derive(Serialize)]
struct Observer {
    broker_id: i32,
    metadata_offset: Option<i64>,
    lag: Option<i64>,
    last_fetch_timestamp_ms: Option<i64>,
    last_caught_up_timestamp_ms: Option<i64>,
}

pub async fn execute(context: &Context, command: Quorum) -> Result<(), CliError> {
    match command {
        Quorum::Status => status(context).await,
        Quorum::Features { set: None, .. } => features(context).await,
        Quorum::Features { set: Some(set), downgrade, validate_only } => {
            set_feature(context, set, downgrade, validate_only).await
        }
    }
}

#[derive(Serialize)]
struct Features {
    features: Vec<Feature>,
}

#[derive(Serialize)]
struct Feature {
    feature: String,
    finalized_level: i32,
    min_level: i32,
    max_level: i32,
}

async fn features(context: &Context) -> Result<(), CliError> {
    let ask =
        |mut client: crate::admin::Client| async move { client.describe_features(DescribeFeaturesRequest {}).await };
    let answer = context.admin()?.call("features", ask).await?;
    let features = answer.features.into_iter().map(|feature| Feature {
        feature: feature.name,
        finalized_level: feature.finalized_level,
        min_level: feature.min_level,
        max_level: feature.max_level,
    });
    let features = Features { features: features.collect() };
    output::print(context.global.output, &features, |features| {
        let row = |feature: &Feature| {
            vec![
                feature.feature.clone(),
                feature.finalized_level.to_string(),
                format!("{} - {}", feature.min_level, feature.max_level),
            ]
        };
        let rows: Vec<Vec<String>> = features.features.iter().map(row).collect();
        table(&["FEATURE", "LEVEL", "SUPPORTED"], &rows)
    })
}

#[derive(Serialize)]
struct FeatureSet {
    feature: String,
    level: i32,
    changed: bool,
}

async fn set_feature(
    context: &Context,
    (name, level): (String, i32),
    downgrade: bool,
    validate_only: bool,
) -> Result<(), CliError> {
    let upgrade_type = if downgrade { UpgradeType::SafeDowngrade } else { UpgradeType::Upgrade };
    let ask = |mut client: crate::admin::Client| {
        let upgrade_type = upgrade_type.into();
        let request = UpdateFeatureRequest { name: name.clone(), level, upgrade_type, validate_only };
        async move { client.update_feature(request).await }
    };
    context.admin()?.call(&name, ask).await?;
    let done = FeatureSet { feature: name.clone(), level, changed: !validate_only };
    output::print(context.global.output, &done, |done| match done.changed {
        true => format!("{} is at {}", done.feature, done.level),
        false => format!("{} could be set to {}", done.feature, done.level),
    })
}

/// What is known; -1 stands for nothing.
fn known(number: i64) -> Option<i64> {
    (number >= 0).then_some(number)
}

async fn status(context: &Context) -> Result<(), CliError> {
    let ask = |mut client: crate::admin::Client| async move { client.quorum_status(QuorumStatusRequest {}).await };
    let status = Status::from(context.admin()?.call("quorum", ask).await?);
    output::print(context.global.output, &status, |status| {
        let number = |n: Option<i64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let row = |controller: &Controller| {
            let role = match (Some(controller.controller_id) == status.leader_id, controller.voter) {
                (true, _) => "active",
                (false, true) => "follower",
                (false, false) => "observer",
            };
            vec![
                controller.controller_id.to_string(),
                role.to_owned(),
                controller.endpoint.clone(),
                number(controller.log_end_offset),
                number(controller.lag),
            ]
        };
        let mut rows: Vec<Vec<String>> = status.controllers.iter().map(row).collect();
        rows.extend(status.observers.iter().map(|broker| {
            let (role, endpoint) = ("broker".to_owned(), "-".to_owned());
            vec![broker.broker_id.to_string(), role, endpoint, number(broker.metadata_offset), number(broker.lag)]
        }));
        format!(
            "cluster {}  active controller {}  epoch {}  high watermark {}\n{}",
            status.cluster_id,
            id(status.leader_id.unwrap_or(-1)),
            status.leader_epoch,
            status.high_watermark,
            table(&["NODE", "ROLE", "ENDPOINT", "LOG END", "LAG"], &rows)
        )
    })
}

impl From<QuorumStatusResponse> for Status {
    fn from(answer: QuorumStatusResponse) -> Self {
        let controllers = answer.controllers.into_iter().map(|controller| Controller {
            controller_id: controller.controller_id,
            endpoint: format!("{}:{}", controller.host, controller.port),
            voter: controller.voter,
            log_end_offset: (controller.log_end_offset >= 0).then_some(controller.log_end_offset),
            lag: (controller.lag >= 0 && controller.log_end_offset >= 0).then_some(controller.lag),
            last_fetch_timestamp_ms: known(controller.last_fetch_timestamp_ms),
            last_caught_up_timestamp_ms: known(controller.last_caught_up_timestamp_ms),
        });
        let mut controllers: Vec<Controller> = controllers.collect();
        controllers.sort_by_key(|controller| controller.controller_id);
        let observers = answer.observers.into_iter().map(|broker| Observer {
            broker_id: broker.broker_id,
            metadata_offset: known(broker.metadata_offset),
            lag: known(broker.lag),
            last_fetch_timestamp_ms: known(broker.last_fetch_timestamp_ms),
            last_caught_up_timestamp_ms: known(broker.last_caught_up_timestamp_ms),
        });
        Self {
            cluster_id: answer.cluster_id,
            leader_id: (answer.leader_id >= 0).then_some(answer.leader_id),
            leader_epoch: answer.leader_epoch,
            high_watermark: answer.high_watermark,
            controllers,
            observers: observers.collect(),
        }
    }
}
