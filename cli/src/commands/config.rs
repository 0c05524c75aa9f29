//! `odradek config`: what is set is the controllers' to change; what is in force is each broker's to tell, as only it
//! knows its file.

use std::collections::BTreeMap;
use std::time::Duration;

use odradek_common::ErrorCode;
use odradek_proto::admin::{AlterConfigsRequest, ConfigChange, ConfigOperation, ConfigResource, ListConfigsRequest};
use odradek_wire::Str;
use odradek_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use odradek_wire::describe_configs_response::DescribeConfigsResourceResult;
use serde::Serialize;

use super::Context;
use crate::args::{Config, ConfigEdit, Configured, ConfiguredKind};
use crate::error::{CliError, Exit};
use crate::kafka::{Cluster, Trouble};
use crate::output::{self, table};

/// One broker's answer is waited for so long at most.
const ANSWER_MAX: Duration = Duration::from_secs(10);

pub async fn execute(context: &Context, command: Config) -> Result<(), CliError> {
    match command {
        Config::List { kind } => list(context, kind).await,
        Config::Get { of, names, all } => get(context, &of, &names, all).await,
        Config::Set { of, configs, validate_only } => {
            let changes = configs.into_iter().map(|edit| match edit {
                ConfigEdit::Set(name, value) => change(name, ConfigOperation::Set, value),
                ConfigEdit::Append(name, value) => change(name, ConfigOperation::Append, value),
                ConfigEdit::Subtract(name, value) => change(name, ConfigOperation::Subtract, value),
            });
            alter(context, &of, changes.collect(), validate_only).await
        }
        Config::Unset { of, names, validate_only } => {
            let changes = names.into_iter().map(|name| change(name, ConfigOperation::Delete, String::new()));
            alter(context, &of, changes.collect(), validate_only).await
        }
    }
}

fn change(name: String, operation: ConfigOperation, value: String) -> ConfigChange {
    ConfigChange { name, operation: operation.into(), value }
}

/// As it is typed.
fn shown(of: &Configured) -> String {
    match (of.kind, of.name.as_str()) {
        (ConfiguredKind::Broker, "") => "brokers".to_owned(),
        (ConfiguredKind::Broker, id) => format!("broker/{id}"),
        (ConfiguredKind::Topic, name) => format!("topic/{name}"),
        (ConfiguredKind::Group, name) => format!("group/{name}"),
        (ConfiguredKind::ClientMetrics, name) => format!("client-metrics/{name}"),
    }
}

#[derive(Serialize)]
struct Listing {
    resources: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    resource: String,
    configs: BTreeMap<String, String>,
}

async fn list(context: &Context, kind: Option<ConfiguredKind>) -> Result<(), CliError> {
    let wanted = kind.map_or(0, |kind| i32::from(kind.code()));
    let ask = |mut client: crate::admin::Client| async move {
        client.list_configs(ListConfigsRequest { r#type: wanted }).await
    };
    let answer = context.admin()?.call("configs", ask).await?;
    let kinds = [ConfiguredKind::Topic, ConfiguredKind::Broker, ConfiguredKind::ClientMetrics, ConfiguredKind::Group];
    let resources = answer.resources.into_iter().filter_map(|found| {
        let resource = found.resource?;
        let kind = kinds.into_iter().find(|kind| i32::from(kind.code()) == resource.r#type)?;
        let resource = shown(&Configured { kind, name: resource.name });
        Some(Listed { resource, configs: found.configs.into_iter().collect() })
    });
    let listing = Listing { resources: resources.collect() };
    output::print(context.global.output, &listing, |listing| {
        if listing.resources.is_empty() {
            return "nothing is set; `odradek config get WHAT --all` shows defaults".to_owned();
        }
        let rows: Vec<Vec<String>> = (listing.resources.iter())
            .flat_map(|listed| {
                let row =
                    |(name, value): (&String, &String)| vec![listed.resource.clone(), name.clone(), value.clone()];
                listed.configs.iter().map(row).collect::<Vec<_>>()
            })
            .collect();
        table(&["WHAT", "CONFIG", "VALUE"], &rows)
    })
}

#[derive(Serialize)]
struct Configs {
    resource: String,
    configs: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    name: String,
    /// Absent: not set, or secret.
    value: Option<String>,
    source: &'static str,
    read_only: bool,
    sensitive: bool,
}

/// Kafka's `ConfigSource`, for people.
fn source(code: i8) -> &'static str {
    match code {
        1 => "topic",
        2 => "broker",
        3 => "brokers",
        4 => "file",
        5 => "default",
        7 => "client-metrics",
        8 => "group",
        _ => "unknown",
    }
}

/// Kafka's number of the default.
const DEFAULT: i8 = 5;

async fn get(context: &Context, of: &Configured, names: &[String], all: bool) -> Result<(), CliError> {
    let mut cluster = Cluster::open_brokers(&context.world, context.bootstrap()?, context.global.timeout).await?;
    let brokers = cluster.broker_ids();
    let asked = match (of.kind, of.name.parse::<i32>()) {
        // Only it knows its own file.
        (ConfiguredKind::Broker, Ok(id)) if brokers.contains(&id) => id,
        (ConfiguredKind::Broker, Ok(id)) => {
            let message = format!("broker {id} is not serving; `odradek broker list` shows all");
            return Err(CliError::new(Exit::NotFound, message));
        }
        _ => brokers.first().copied().ok_or_else(|| CliError::unreachable("no broker is serving"))?,
    };
    let keys: Vec<Str> = names.iter().map(|name| name.as_str().into()).collect();
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: of.kind.code(),
            resource_name: of.name.as_str().into(),
            configuration_keys: if keys.is_empty() { None } else { Some(keys) },
            ..DescribeConfigsResource::default()
        }],
        ..DescribeConfigsRequest::default()
    };
    let within = context.global.timeout.min(ANSWER_MAX);
    let answer = cluster.ask(asked, within, (1, 4), &request).await.map_err(|trouble| cluster.give_up(&trouble))?;
    let result = answer.results.into_iter().next();
    let result = result.ok_or_else(|| cluster.give_up(&Trouble::Nobody("the answer is empty".to_owned())))?;
    if result.error_code != 0 {
        let code = ErrorCode::from_code(result.error_code);
        return Err(CliError::kafka(code, &of.name, result.error_message.as_deref()));
    }
    let is_wanted =
        |config: &DescribeConfigsResourceResult| all || !names.is_empty() || config.config_source != DEFAULT;
    let configs = result.configs.into_iter().filter(is_wanted).map(|config| Shown {
        name: config.name.to_string(),
        value: config.value.map(|value| value.to_string()),
        source: source(config.config_source),
        read_only: config.read_only,
        sensitive: config.is_sensitive,
    });
    let found = Configs { resource: shown(of), configs: configs.collect() };
    if let Some(unknown) = names.iter().find(|name| !found.configs.iter().any(|config| config.name == **name)) {
        let message = format!("{0} has no config {unknown}; `odradek config get {0} --all` shows all", found.resource);
        return Err(CliError::failed(message));
    }
    output::print(context.global.output, &found, |found| {
        if found.configs.is_empty() {
            return format!("nothing is set for {0}; `odradek config get {0} --all` shows defaults", found.resource);
        }
        let row = |config: &Shown| {
            let hidden = if config.sensitive { "[hidden]" } else { "-" };
            let value = config.value.clone().unwrap_or_else(|| hidden.to_owned());
            vec![config.name.clone(), value, config.source.to_owned()]
        };
        let rows: Vec<Vec<String>> = found.configs.iter().map(row).collect();
        table(&["CONFIG", "VALUE", "SET BY"], &rows)
    })
}

#[derive(Serialize)]
struct Altered {
    resource: String,
    configs: Vec<String>,
    changed: bool,
}

async fn alter(
    context: &Context,
    of: &Configured,
    changes: Vec<ConfigChange>,
    validate_only: bool,
) -> Result<(), CliError> {
    let names = changes.iter().map(|change| change.name.clone()).collect();
    let ask = |mut client: crate::admin::Client| {
        let resource = ConfigResource { r#type: i32::from(of.kind.code()), name: of.name.clone() };
        let request = AlterConfigsRequest { resource: Some(resource), changes: changes.clone(), validate_only };
        async move { client.alter_configs(request).await }
    };
    context.admin()?.call(&of.name, ask).await?;
    let done = Altered { resource: shown(of), configs: names, changed: !validate_only };
    output::print(context.global.output, &done, |done| match done.changed {
        true => format!("{}: changed {}", done.resource, done.configs.join(", ")),
        false => format!("{}: could change {}", done.resource, done.configs.join(", ")),
    })
}
