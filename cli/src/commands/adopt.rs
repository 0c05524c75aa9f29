//! `odradek adopt`: a cluster of Apache Kafka goes on as one of ours, in the directories that it has.
//!
//! 1. Which nodes the new cluster has, and their directories, comes from their own `.properties` files.
//! 2. The metadata is read ([`kafka_metadata`]) from each copy that is there; the one that is furthest counts.
//! 3. Everything that speaks against it is found before anything is written ([`inspect`]).
//! 4. Each controller's directory is formatted with the cluster's id and given `bootstrap.metadata`, which the first leader
//!    writes into its log. The brokers' directories stay as they are: their files are Kafka's, and Kafka's are ours.
//!
//! Nothing of Kafka's is changed or removed. `docs/decisions/0003-adoption.md` says why it is done so.

mod inspect;
mod kafka_metadata;

use std::collections::BTreeSet;
use std::path::PathBuf;

use odradek_common::config::{BrokerConfig, ConfigErrors, ControllerConfig, Properties, Warning};
use odradek_common::fs::{Fs, read_file};
use odradek_common::meta_properties;
use odradek_metadata::{Image, ResourceType, bootstrap};
use serde::Serialize;

use self::inspect::{BrokerDirs, Inspection};
use self::kafka_metadata::Found;
use super::Context;
use crate::args::Adopt;
use crate::error::CliError;
use crate::output::{self, table};

/// Far more than a `.properties` file has.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// A controller of the new cluster.
struct Controller {
    node_id: i32,
    dir: PathBuf,
}

#[derive(Serialize)]
struct Plan {
    cluster_id: String,
    /// False: it was only looked at.
    adopted: bool,
    /// Where the metadata was read, and up to which offset.
    metadata: String,
    metadata_end: i64,
    topics: Vec<Topic>,
    brokers: Vec<BrokerDirs>,
    controllers: Vec<ControllerDir>,
    broker_configs: usize,
    group_configs: usize,
    client_metrics_configs: usize,
    next_producer_id: i64,
    /// What has no place here, and how many there are.
    left_behind: std::collections::BTreeMap<&'static str, i64>,
    /// What one should know.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Topic {
    topic: String,
    topic_id: String,
    partitions: i32,
    replication_factor: usize,
    configs: usize,
}

#[derive(Serialize)]
struct ControllerDir {
    node_id: i32,
    directory: String,
}

pub fn execute(context: &Context, command: &Adopt) -> Result<(), CliError> {
    let fs = &*context.world.fs;
    let (controllers, voters) = controllers(fs, command)?;
    let brokers: Vec<(i32, Vec<PathBuf>)> = command
        .broker
        .iter()
        .map(|file| {
            let properties = properties(fs, file, &command.set)?;
            let (config, warnings) = BrokerConfig::from_properties(&properties).map_err(|error| refused(&error))?;
            warn(&warnings);
            Ok((config.node_id.0, config.log_dirs))
        })
        .collect::<Result<_, CliError>>()?;
    check_voters(&controllers, &voters, command)?;
    let found = metadata(fs, command, &controllers, &brokers)?;
    let inspection = inspect::inspect(fs, &found, &brokers, &controllers_dirs(&controllers))?;
    let image = found
        .metadata
        .to_bootstrap(&inspection.cluster_id)
        .map_err(|error| CliError::failed(format!("{}: {error}", found.dir.display())))?;
    refuse(command, &inspection, &found)?;
    let bytes =
        bootstrap::encode(&image, context.world.timestamp().0).map_err(|error| CliError::failed(error.to_string()))?;
    if !command.dry_run {
        write(context, &controllers, &inspection.cluster_id, &bytes)?;
    }
    let plan = plan(command, &controllers, found, inspection, &image);
    output::print(context.global.output, &plan, text)
}

fn controllers_dirs(controllers: &[Controller]) -> Vec<PathBuf> {
    controllers.iter().map(|controller| controller.dir.clone()).collect()
}

fn warn(warnings: &[Warning]) {
    warnings.iter().for_each(|warning| eprintln!("odradek: {warning}"));
}

fn refused(error: &ConfigErrors) -> CliError {
    CliError::failed(error.to_string())
}

fn properties(fs: &dyn Fs, file: &std::path::Path, sets: &[String]) -> Result<Properties, CliError> {
    let source = file.display().to_string();
    let bytes =
        read_file(fs, file, CONFIG_BYTES_MAX).map_err(|error| CliError::failed(format!("{source}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| CliError::failed(format!("{source}: is not text")))?;
    Properties::load(&text, &source, sets).map_err(|error| CliError::failed(error.to_string()))
}

/// The controllers, and the ids of all voters that their files name.
fn controllers(fs: &dyn Fs, command: &Adopt) -> Result<(Vec<Controller>, BTreeSet<i32>), CliError> {
    let (mut controllers, mut voters) = (Vec::new(), BTreeSet::new());
    for file in &command.controller {
        let properties = properties(fs, file, &command.set)?;
        let (config, warnings) = ControllerConfig::from_properties(&properties).map_err(|error| refused(&error))?;
        warn(&warnings);
        voters.extend(config.voters.iter().map(|voter| voter.id));
        controllers.push(Controller { node_id: config.node_id.0, dir: config.metadata_log_dir });
    }
    Ok((controllers, voters))
}

/// One controller that knows nothing of the topics may be the one that leads first, and the brokers would then take their
/// logs for those of topics that are gone.
fn check_voters(controllers: &[Controller], voters: &BTreeSet<i32>, command: &Adopt) -> Result<(), CliError> {
    let is_known =
        |id: &&i32| controllers.iter().any(|controller| controller.node_id == **id) || command.elsewhere.contains(id);
    if let Some(missing) = voters.iter().find(|id| !is_known(id)) {
        return Err(CliError::usage(format!(
            "controller {missing} is one of controller.quorum.voters, and could lead first: give its file with --controller; if \
             its directory is on another machine, say --elsewhere {missing}, and copy meta.properties (with its own \
             node.id) and {} into it before it starts",
            bootstrap::FILE_NAME
        )));
    }
    for (index, controller) in controllers.iter().enumerate() {
        if controllers
            .iter()
            .take(index)
            .any(|other| other.dir == controller.dir || other.node_id == controller.node_id)
        {
            return Err(CliError::usage(format!(
                "controller {} is given twice, or shares its directory {} with another",
                controller.node_id,
                controller.dir.display()
            )));
        }
    }
    Ok(())
}

/// The copy of the metadata that is furthest.
fn metadata(
    fs: &dyn Fs,
    command: &Adopt,
    controllers: &[Controller],
    brokers: &[(i32, Vec<PathBuf>)],
) -> Result<Found, CliError> {
    let mut places = Vec::new();
    for dir in &command.metadata {
        match kafka_metadata::locate(fs, dir) {
            Some(place) => places.push(place),
            None => {
                let message = format!("{}: there is no __cluster_metadata-0 in it", dir.display());
                return Err(CliError::failed(message));
            }
        }
    }
    let others = brokers.iter().flat_map(|(_, dirs)| dirs).chain(controllers.iter().map(|controller| &controller.dir));
    for place in others.filter_map(|dir| kafka_metadata::locate(fs, dir)) {
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let mut best: Option<Found> = None;
    for place in &places {
        inspect::refuse_in_use(fs, place.parent().unwrap_or(place))?;
        let found = kafka_metadata::read(fs, place)?;
        if best.as_ref().is_none_or(|best| (best.epoch, best.end) < (found.epoch, found.end)) {
            best = Some(found);
        }
    }
    best.ok_or_else(|| {
        CliError::failed(
            "no directory here has Kafka's metadata (__cluster_metadata-0): name that of one of its controllers with \
             --metadata",
        )
    })
}

/// What speaks against it.
fn refuse(command: &Adopt, inspection: &Inspection, found: &Found) -> Result<(), CliError> {
    if let Some(first) = inspection.impossible.first() {
        let more = match inspection.impossible.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        return Err(CliError::failed(format!("{first}{more}")));
    }
    if let Some(first) = inspection.risks.first().filter(|_| !command.force) {
        let more = match inspection.risks.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        return Err(CliError::failed(format!("{first}{more}; --force goes on nevertheless")));
    }
    let security = ["ACLs", "SCRAM credentials", "delegation tokens", "client quotas"];
    let left: Vec<String> = security
        .iter()
        .filter_map(|what| Some((what, *found.metadata.left_behind.get(what)?)))
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    if !left.is_empty() && !command.without_security {
        return Err(CliError::failed(format!(
            "the cluster has {}, which are not served here: everybody would be let in, and without limits; \
             --without-security leaves them behind",
            left.join(", ")
        )));
    }
    Ok(())
}

fn write(context: &Context, controllers: &[Controller], cluster_id: &str, bytes: &[u8]) -> Result<(), CliError> {
    let fs = &*context.world.fs;
    // First what the quorum begins with: a directory that is formatted and lacks it would begin with nothing.
    for Controller { dir, .. } in controllers {
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
        fs.create_dir_all(dir).map_err(failed)?;
        bootstrap::write(fs, dir, bytes).map_err(failed)?;
    }
    for Controller { dir, node_id } in controllers {
        let mut rng = context.world.rng();
        meta_properties::format_all(fs, std::slice::from_ref(dir), cluster_id, *node_id, true, &mut rng)
            .map_err(|error| CliError::failed(error.to_string()))?;
    }
    Ok(())
}

fn plan(command: &Adopt, controllers: &[Controller], found: Found, inspection: Inspection, image: &Image) -> Plan {
    let topics = image.topics_by_name().map(|topic| Topic {
        topic: topic.name.to_string(),
        topic_id: topic.id.to_string(),
        partitions: topic.partition_count(),
        replication_factor: topic.partitions().map(|(_, partition)| partition.replicas.len()).max().unwrap_or(0),
        configs: image
            .resource_configs(&odradek_metadata::ConfigResource::topic(topic.name.clone()))
            .map_or(0, |set| set.len()),
    });
    let count = |kind| found.metadata.configs(kind).map(|(_, configs)| configs).sum();
    let mut notes = inspection.notes;
    if command.force {
        notes.extend(inspection.risks);
    }
    Plan {
        cluster_id: inspection.cluster_id,
        adopted: !command.dry_run,
        metadata: found.dir.display().to_string(),
        metadata_end: found.end.0,
        topics: topics.collect(),
        brokers: inspection.brokers,
        controllers: controllers
            .iter()
            .map(|controller| ControllerDir {
                node_id: controller.node_id,
                directory: controller.dir.display().to_string(),
            })
            .collect(),
        broker_configs: count(ResourceType::Broker),
        group_configs: count(ResourceType::Group),
        client_metrics_configs: count(ResourceType::ClientMetrics),
        next_producer_id: image.next_producer_id(),
        left_behind: found.metadata.left_behind,
        notes,
    }
}

fn text(plan: &Plan) -> String {
    let mut text = format!(
        "cluster {}, as {} has it up to metadata offset {}\n\n",
        plan.cluster_id, plan.metadata, plan.metadata_end
    );
    let row = |topic: &Topic| {
        let Topic { topic, topic_id, partitions, replication_factor, configs } = topic;
        vec![
            topic.clone(),
            topic_id.clone(),
            partitions.to_string(),
            replication_factor.to_string(),
            configs.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = plan.topics.iter().map(row).collect();
    text.push_str(&table(&["TOPIC", "ID", "PARTITIONS", "REPLICAS", "CONFIGS"], &rows));
    text.push('\n');
    for broker in &plan.brokers {
        text.push_str(&format!(
            "broker {}: {} partitions in {}\n",
            broker.node_id,
            broker.partitions,
            broker.directories.join(", ")
        ));
    }
    for controller in &plan.controllers {
        text.push_str(&format!("controller {}: {}\n", controller.node_id, controller.directory));
    }
    for (what, count) in plan.left_behind.iter().filter(|(_, count)| **count > 0) {
        text.push_str(&format!("left behind: {count} {what}\n"));
    }
    plan.notes.iter().for_each(|note| text.push_str(&format!("note: {note}\n")));
    text.push_str(match plan.adopted {
        true => {
            "taken over; start the controllers, then the brokers, and do not start Kafka on these directories again\n"
        }
        false => "nothing was written; without --dry-run it is taken over\n",
    });
    text
}
