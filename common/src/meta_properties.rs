//! `meta.properties`: says to which node of which cluster a directory belongs (Kafka's format, version 1, KIP-858).
//!
//! `odradek storage format` writes one into each log directory. A node reads them all before it opens anything else and
//! refuses a directory of another cluster or another node, because a log that is opened as somebody else's is a log lost.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

use std::io;
use std::path::{Path, PathBuf};

use crate::config::Properties;
use crate::fs::{Fs, read_file, write_file_atomically};
use crate::rng::Rng;
use crate::types::Uuid;

/// The file's name in each log directory.
pub const FILE_NAME: &str = "meta.properties";

/// The only version that is written; what is newer is refused by name.
const VERSION: i64 = 1;

/// Far more than the file ever has.
const BYTES_MAX: u64 = 64 * 1024;

/// Whose directory this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaProperties {
    pub cluster_id: String,
    pub node_id: i32,
    /// Names the directory itself, so that a controller can say where a replica is (KIP-858). A directory that an older
    /// Kafka wrote has none.
    pub directory_id: Option<Uuid>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MetaPropertiesError {
    #[error(
        "{}: the directory is not formatted; run `odradek storage format --cluster-id ID --config FILE` with the id of \
         the cluster (a new one is made by `odradek storage random-uuid`)", .dir.display()
    )]
    NotFormatted { dir: PathBuf },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {problem}", .path.display())]
    Malformed { path: PathBuf, problem: String },
    #[error("{}: version={version} is not known; a newer version of the software wrote it, and this one reads up to \
             version {VERSION}", .path.display())]
    NewerVersion { path: PathBuf, version: i64 },
    #[error("{}: the directory belongs to cluster {found}, not to {expected}; it is left untouched", .path.display())]
    OtherCluster { path: PathBuf, found: String, expected: String },
    #[error("{}: the directory belongs to node {found}, not to node {expected}; look at node.id and log.dirs, and let \
             no two nodes share a directory", .path.display())]
    OtherNode { path: PathBuf, found: i32, expected: i32 },
    #[error("{}: the directory is formatted already, for node {} of cluster {}; with --ignore-formatted it is left as \
             it is", .path.display(), .found.node_id, .found.cluster_id)]
    Formatted { path: PathBuf, found: MetaProperties },
}

use MetaPropertiesError::{Formatted, Io, Malformed, NewerVersion, NotFormatted, OtherCluster, OtherNode};

impl MetaProperties {
    /// Reads the file's text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, MetaPropertiesError> {
        let malformed = |problem: String| Malformed { path: path.to_owned(), problem };
        let properties = Properties::parse(text, FILE_NAME)
            .map_err(|error| malformed(format!("{}: {}", error.name, error.problem)))?;
        let text = |name: &str| properties.get(name).map(|entry| entry.value.trim());
        let required = |name: &str| text(name).ok_or_else(|| malformed(format!("{name} is missing")));
        let number = |name: &str| {
            let value = required(name)?;
            value.parse::<i64>().map_err(|_| malformed(format!("{name}={value} is not a number")))
        };
        match number("version")? {
            VERSION => {}
            0 => return Err(malformed("version=0 is of a Kafka with ZooKeeper; only version 1 is read".to_owned())),
            version => return Err(NewerVersion { path: path.to_owned(), version }),
        }
        let node_id = number("node.id")?;
        let node_id = i32::try_from(node_id).map_err(|_| malformed(format!("node.id={node_id} is out of range")))?;
        let directory_id = match text("directory.id") {
            None => None,
            Some(id) => Some(id.parse().map_err(|error| malformed(format!("directory.id: {error}")))?),
        };
        Ok(Self { cluster_id: required("cluster.id")?.to_owned(), node_id, directory_id })
    }

    /// The file's text.
    pub fn format(&self) -> String {
        let mut text = format!("version={VERSION}\ncluster.id={}\nnode.id={}\n", self.cluster_id, self.node_id);
        if let Some(id) = self.directory_id {
            text.push_str(&format!("directory.id={id}\n"));
        }
        text
    }

    /// Reads a directory's file; `None` when there is none.
    pub fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Self>, MetaPropertiesError> {
        let path = dir.join(FILE_NAME);
        let bytes = match read_file(fs, &path, BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Io { path, source }),
        };
        // Java writes Latin-1 with escapes; every value that is allowed here is ASCII.
        let text = String::from_utf8(bytes)
            .map_err(|_| Malformed { path: path.clone(), problem: "is not text".to_owned() })?;
        Self::parse(&text, &path).map(Some)
    }

    /// Writes a directory's file durably. The directory must be there.
    pub fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<(), MetaPropertiesError> {
        let path = dir.join(FILE_NAME);
        write_file_atomically(fs, &path, self.format().as_bytes()).map_err(|source| Io { path, source })
    }

    /// Whether the directory is of this node, and of this cluster where one is expected.
    pub fn check(&self, dir: &Path, node_id: i32, cluster_id: Option<&str>) -> Result<(), MetaPropertiesError> {
        let path = dir.join(FILE_NAME);
        if let Some(expected) = cluster_id.filter(|id| *id != self.cluster_id) {
            return Err(OtherCluster { path, found: self.cluster_id.clone(), expected: expected.to_owned() });
        }
        match self.node_id == node_id {
            true => Ok(()),
            false => Err(OtherNode { path, found: self.node_id, expected: node_id }),
        }
    }
}

/// Reads the files of all directories of a node, in their order, and checks that they are of this node and of one
/// cluster.
pub fn read_all(fs: &dyn Fs, dirs: &[PathBuf], node_id: i32) -> Result<Vec<MetaProperties>, MetaPropertiesError> {
    let mut all: Vec<MetaProperties> = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let found = MetaProperties::read(fs, dir)?.ok_or_else(|| NotFormatted { dir: dir.clone() })?;
        found.check(dir, node_id, all.first().map(|first| first.cluster_id.as_str()))?;
        all.push(found);
    }
    Ok(all)
}

/// Formats the directories of a node, making those that are missing, and returns the ones it wrote. One that is
/// formatted already is left as it is if `ignore_formatted`, and it is this node's; else nothing at all is written.
pub fn format_all(
    fs: &dyn Fs,
    dirs: &[PathBuf],
    cluster_id: &str,
    node_id: i32,
    ignore_formatted: bool,
    rng: &mut dyn Rng,
) -> Result<Vec<PathBuf>, MetaPropertiesError> {
    let mut missing = Vec::new();
    for dir in dirs {
        match MetaProperties::read(fs, dir)? {
            None => missing.push(dir.clone()),
            Some(found) => {
                found.check(dir, node_id, Some(cluster_id))?;
                if !ignore_formatted {
                    return Err(Formatted { path: dir.join(FILE_NAME), found });
                }
            }
        }
    }
    for dir in &missing {
        fs.create_dir_all(dir).map_err(|source| Io { path: dir.clone(), source })?;
        let directory_id = Some(Uuid::from_random(rng.bytes16()));
        MetaProperties { cluster_id: cluster_id.to_owned(), node_id, directory_id }.write(fs, dir)?;
        // A new directory's own name is durable with its parent.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs.sync_dir(parent).map_err(|source| Io { path: parent.to_owned(), source })?;
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;
    use crate::rng::SplitMix64;

    fn parse(text: &str) -> Result<MetaProperties, String> {
        MetaProperties::parse(text, Path::new("d/meta.properties")).map_err(|error| error.to_string())
    }

    #[test]
    fn kafkas_file_is_read_and_written() {
        let text = "#\n#Sun Nov 22 06:27:55 UTC 2026\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\n\
                    directory.id=vVzLGdZCm4P9iQIZ3ZgQtQ\nnode.id=3\nversion=1\n";
        let found = parse(text).expect("valid");
        assert_eq!((found.cluster_id.as_str(), found.node_id), ("MkU3OEVBNTcwNTJENDM2Qg", 3));
        assert_eq!(parse(&found.format()), Ok(found));
        assert_eq!(parse("version=1\ncluster.id=c\nnode.id=1").expect("valid").directory_id, None);
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        for (text, expected) in [
            ("", "version is missing"),
            ("version=2\nnode.id=1", "version=2 is not known; a newer version"),
            ("version=0\nbroker.id=1", "of a Kafka with ZooKeeper"),
            ("version=1\ncluster.id=c", "node.id is missing"),
            ("version=1\nnode.id=1", "cluster.id is missing"),
            ("version=1\nnode.id=5000000000\ncluster.id=c", "out of range"),
            ("version=1\nnode.id=1\ncluster.id=c\ndirectory.id=x", "directory.id: `x` is not an id"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with("d/meta.properties: ") && error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_directory_of_another_node_or_cluster_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let dirs = [dir.path().join("a"), dir.path().join("deep/b")];
        let mut rng = SplitMix64::new(1);
        let format = |cluster: &str, node, ignore, rng: &mut SplitMix64| {
            format_all(&RealFs, &dirs, cluster, node, ignore, rng).map_err(|error| error.to_string())
        };
        assert!(read_all(&RealFs, &dirs, 1).unwrap_err().to_string().contains("is not formatted"));
        assert_eq!(format("c", 1, false, &mut rng), Ok(dirs.to_vec()));
        let all = read_all(&RealFs, &dirs, 1).expect("formatted");
        assert_ne!(all[0].directory_id, all[1].directory_id);
        assert!(read_all(&RealFs, &dirs, 2).unwrap_err().to_string().contains("belongs to node 1, not to node 2"));
        assert!(format("c", 1, false, &mut rng).unwrap_err().contains("formatted already, for node 1 of cluster c"));
        assert_eq!(format("c", 1, true, &mut rng), Ok(vec![]));
        assert!(format("other", 1, true, &mut rng).unwrap_err().contains("belongs to cluster c, not to other"));
        std::fs::remove_file(dirs[0].join(FILE_NAME)).expect("removed");
        assert_eq!(format("c", 1, true, &mut rng), Ok(vec![dirs[0].clone()]));
    }
}
