//! What speaks for and against taking a cluster over: whose the directories are, whether they are at rest, and whether they
//! hold what the metadata says. Reads only.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use odradek_broker_storage::{FUTURE_SUFFIX, checkpoints, parse_partition, verify};
use odradek_common::BrokerId;
use odradek_common::fs::Fs;
use odradek_common::meta_properties::{FILE_NAME as META_PROPERTIES, MetaProperties};
use odradek_metadata::{ResourceType, bootstrap};
use serde::Serialize;

use super::kafka_metadata::Found;
use crate::error::CliError;

/// The newest level of Kafka's metadata that is understood: that of Kafka 4.3.
const METADATA_VERSION_MAX: i16 = 30;
/// What the first start of a controller of ours leaves in its directory.
const OF_CONTROLLERS: [&str; 3] = ["raft-log", "raft-segments", "snapshots"];

#[derive(Serialize)]
pub struct BrokerDirs {
    pub node_id: i32,
    pub directories: Vec<String>,
    /// Directories of partitions that the metadata gives to this broker.
    pub partitions: usize,
}

#[derive(Default)]
pub struct Inspection {
    pub cluster_id: String,
    pub brokers: Vec<BrokerDirs>,
    /// It cannot be done.
    pub impossible: Vec<String>,
    /// Records may be lost.
    pub risks: Vec<String>,
    pub notes: Vec<String>,
}

/// # Errors
/// When a process uses the directory, or nobody can tell.
pub fn refuse_in_use(fs: &dyn Fs, dir: &Path) -> Result<(), CliError> {
    match verify::is_in_use(fs, dir) {
        Ok(false) => Ok(()),
        Ok(true) => Err(CliError::failed(format!("{}: a process uses it; stop all of Kafka first", dir.display()))),
        Err(error) => Err(CliError::failed(format!("{}: {error}", dir.display()))),
    }
}

fn unreadable(dir: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", dir.display()))
}

pub fn inspect(
    fs: &dyn Fs,
    found: &Found,
    brokers: &[(i32, Vec<PathBuf>)],
    controllers: &[PathBuf],
) -> Result<Inspection, CliError> {
    let mut inspection = Inspection::default();
    for (node_id, dirs) in brokers {
        inspection.broker(fs, found, *node_id, dirs)?;
    }
    for dir in controllers {
        inspection.controller(fs, dir)?;
    }
    inspection.metadata(found, brokers);
    Ok(inspection)
}

impl Inspection {
    fn broker(&mut self, fs: &dyn Fs, found: &Found, node_id: i32, dirs: &[PathBuf]) -> Result<(), CliError> {
        let mut has: BTreeMap<_, PathBuf> = BTreeMap::new();
        for dir in dirs {
            refuse_in_use(fs, dir)?;
            let meta = MetaProperties::read(fs, dir).map_err(|error| CliError::failed(error.to_string()))?;
            let Some(meta) = meta else {
                let message =
                    format!("{}: there is no {META_PROPERTIES}: it is no directory of a broker", dir.display());
                return Err(CliError::failed(message));
            };
            let cluster = Some(self.cluster_id.as_str()).filter(|id| !id.is_empty());
            meta.check(dir, node_id, cluster).map_err(|error| CliError::failed(error.to_string()))?;
            self.cluster_id = meta.cluster_id;
            if checkpoints::read_clean_shutdown(fs, dir).map_err(|error| unreadable(dir, &error))?.is_none() {
                self.risks.push(format!(
                    "{}: Kafka was not shut down in order there, and its last records may not be in agreement with the other \
                     replicas; start it and stop it in order",
                    dir.display()
                ));
            }
            for entry in fs.read_dir(dir).map_err(|error| unreadable(dir, &error))? {
                if let Some(partition) = parse_partition(&entry.name).filter(|_| entry.is_dir) {
                    has.insert(partition, dir.join(entry.name));
                } else if entry.is_dir && entry.name.ends_with(FUTURE_SUFFIX) {
                    let path = dir.join(&entry.name);
                    self.notes
                        .push(format!("{} was on its way into that directory, and is left alone", path.display()));
                }
            }
        }
        let mut held = 0;
        for (topic, index, partition) in found.metadata.image.partitions() {
            if !partition.replicas.contains(&BrokerId(node_id)) {
                continue;
            }
            let name = odradek_common::TopicPartition { topic: topic.name.to_string(), partition: index };
            let is_in_sync = partition.isr.contains(&BrokerId(node_id));
            let path = has.remove(&name);
            let id = match &path {
                Some(path) => checkpoints::read_topic_id(fs, path).map_err(|error| unreadable(path, &error))?,
                None => None,
            };
            if id == Some(topic.id) {
                held += 1;
            } else if is_in_sync {
                let what = match path {
                    Some(path) => format!("{} is of another topic of this name", path.display()),
                    None => format!("there is no directory of {name}"),
                };
                self.risks.push(format!("broker {node_id} is an in-sync replica of {name}, but {what}"));
            }
        }
        for (name, path) in has.into_iter().filter(|(name, _)| name.topic != "__cluster_metadata") {
            self.notes.push(format!(
                "{} is of no partition {name} that broker {node_id} has: the broker sets it aside as -stray",
                path.display()
            ));
        }
        let directories = dirs.iter().map(|dir| dir.display().to_string()).collect();
        self.brokers.push(BrokerDirs { node_id, directories, partitions: held });
        Ok(())
    }

    /// It must not have been one of ours before.
    fn controller(&mut self, fs: &dyn Fs, dir: &Path) -> Result<(), CliError> {
        refuse_in_use(fs, dir)?;
        for name in OF_CONTROLLERS {
            if fs.exists(&dir.join(name)).map_err(|error| unreadable(dir, &error))? {
                self.impossible.push(format!(
                    "{}: a controller has run there already ({name}); a cluster is taken over before its first start: give \
                     the controller a directory of its own",
                    dir.display()
                ));
            }
        }
        if fs.exists(&dir.join(bootstrap::FILE_NAME)).map_err(|error| unreadable(dir, &error))? {
            self.notes
                .push(format!("{} was there already, and is made anew", dir.join(bootstrap::FILE_NAME).display()));
        }
        match MetaProperties::read(fs, dir) {
            Ok(Some(meta)) if meta.cluster_id != self.cluster_id => self.impossible.push(format!(
                "{}: it is formatted for cluster {}, not {}",
                dir.display(),
                meta.cluster_id,
                self.cluster_id
            )),
            Ok(_) => {}
            Err(error) => self.impossible.push(error.to_string()),
        }
        Ok(())
    }

    fn metadata(&mut self, found: &Found, brokers: &[(i32, Vec<PathBuf>)]) {
        let image = &found.metadata.image;
        let version = image.feature_level("metadata.version");
        if version > METADATA_VERSION_MAX {
            self.impossible.push(format!(
                "the cluster is at metadata.version {version}, and {METADATA_VERSION_MAX} (Kafka 4.3) is the newest that is \
                 understood"
            ));
        }
        for (resource, configs) in image.configs().filter(|(resource, _)| resource.kind == ResourceType::Topic) {
            if configs.get("remote.storage.enable").is_some_and(|value| &**value == "true") {
                self.impossible.push(format!(
                    "topic {} keeps records in remote storage (remote.storage.enable), which is not served here",
                    resource.name
                ));
            }
        }
        for kind in ["share.version", "streams.version"] {
            if image.feature_level(kind) > 0 {
                let what = match kind {
                    "share.version" => "share groups are not served",
                    _ => "streams groups are not served",
                };
                self.notes.push(format!("{kind} is not among the features here: {what}"));
            }
        }
        for broker in image.brokers() {
            if !brokers.iter().any(|(id, _)| *id == broker.id.0) {
                let partitions = image.partitions().filter(|(.., partition)| partition.replicas.contains(&broker.id));
                self.notes.push(format!(
                    "broker {} is not among those that are taken over: its {} replicas stay offline",
                    broker.id,
                    partitions.count()
                ));
            }
        }
        let source = found.dir.parent().unwrap_or(&found.dir);
        let is_a_brokers = brokers
            .iter()
            .any(|(id, dirs)| !found.metadata.controllers.contains(id) && dirs.iter().any(|dir| dir == source));
        if is_a_brokers {
            self.risks.push(format!(
                "{} is a broker's copy of the metadata, and may lack what was decided after that broker had stopped; name the \
                 directory of a controller of Kafka with --metadata",
                found.dir.display()
            ));
        }
    }
}
