//! `odradek storage`: works on this machine's directories, with no cluster running.

use std::path::{Path, PathBuf};

use odradek_common::Uuid;
use odradek_common::config::{BrokerConfig, ConfigErrors, ControllerConfig, Properties, Warning};
use odradek_common::fs::read_file;
use odradek_common::meta_properties;
use serde::Serialize;

use super::Context;
use crate::args::{Storage, StorageFormat};
use crate::error::CliError;
use crate::output;

/// Far more than a `.properties` file has.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

pub fn execute(context: &Context, command: Storage) -> Result<(), CliError> {
    match command {
        Storage::RandomUuid => {
            let id = RandomUuid { cluster_id: context.world.random_uuid().to_string() };
            output::print(context.global.output, &id, |id| id.cluster_id.clone())
        }
        Storage::Format(command) => format(context, &command),
    }
}

#[derive(Serialize)]
struct RandomUuid {
    cluster_id: String,
}

#[derive(Serialize)]
struct Formatted {
    cluster_id: String,
    directories: Vec<Directory>,
}

#[derive(Serialize)]
struct Directory {
    node_id: i32,
    directory: String,
    /// False: it was formatted already.
    formatted: bool,
}

fn format(context: &Context, command: &StorageFormat) -> Result<(), CliError> {
    let cluster_id: Uuid =
        command.cluster_id.parse().map_err(|error| CliError::usage(format!("--cluster-id: {error}")))?;
    if cluster_id.is_zero() || cluster_id == Uuid::ONE {
        return Err(CliError::usage(format!("--cluster-id: {cluster_id} is reserved")));
    }
    // All files are read before anything is written.
    let nodes: Vec<(i32, Vec<PathBuf>)> =
        command.config.iter().map(|file| directories(context, file, &command.set)).collect::<Result<_, _>>()?;
    let fs = &*context.world.fs;
    let mut formatted = Formatted { cluster_id: cluster_id.to_string(), directories: Vec::new() };
    for (node_id, dirs) in nodes {
        let mut rng = context.world.rng();
        let written =
            meta_properties::format_all(fs, &dirs, &formatted.cluster_id, node_id, command.ignore_formatted, &mut rng)
                .map_err(|error| CliError::failed(error.to_string()))?;
        formatted.directories.extend(dirs.iter().map(|dir| Directory {
            node_id,
            directory: dir.display().to_string(),
            formatted: written.contains(dir),
        }));
    }
    output::print(context.global.output, &formatted, |formatted| {
        let line = |dir: &Directory| match dir.formatted {
            true => {
                format!("{} is formatted for node {} of cluster {}\n", dir.directory, dir.node_id, formatted.cluster_id)
            }
            false => format!("{} was formatted already\n", dir.directory),
        };
        formatted.directories.iter().map(line).collect()
    })
}

/// A node's id and the directories that its file names.
fn directories(context: &Context, file: &Path, sets: &[String]) -> Result<(i32, Vec<PathBuf>), CliError> {
    let source = file.display().to_string();
    let bytes = read_file(&*context.world.fs, file, CONFIG_BYTES_MAX)
        .map_err(|error| CliError::failed(format!("{source}: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| CliError::failed(format!("{source}: is not text")))?;
    let properties = Properties::load(&text, &source, sets).map_err(|error| CliError::failed(error.to_string()))?;
    let warn = |warnings: Vec<Warning>| warnings.iter().for_each(|warning| eprintln!("odradek: {warning}"));
    let fail = |errors: ConfigErrors| CliError::failed(errors.to_string());
    if is_controller(&properties) {
        let (config, warnings) = ControllerConfig::from_properties(&properties).map_err(fail)?;
        warn(warnings);
        Ok((config.node_id.0, vec![config.metadata_log_dir]))
    } else {
        let (config, warnings) = BrokerConfig::from_properties(&properties).map_err(fail)?;
        warn(warnings);
        Ok((config.node_id.0, config.log_dirs))
    }
}

/// By `process.roles`; a file without it is a controller's when `controller.quorum.voters` names its node.
fn is_controller(properties: &Properties) -> bool {
    let text = |name: &str| properties.get(name).map(|entry| entry.value.trim());
    match text("process.roles") {
        Some(roles) => roles == "controller",
        None => {
            let id = text("node.id").or_else(|| text("broker.id")).unwrap_or_default();
            let voters = text("controller.quorum.voters").unwrap_or_default();
            voters.split(',').any(|voter| voter.trim().split_once('@').is_some_and(|(voter, _)| voter == id))
        }
    }
}
