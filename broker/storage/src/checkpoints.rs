//! The small text files of a log directory, in Kafka's formats.
//!
//! ```text
//! recovery-point-offset-checkpoint, replication-offset-checkpoint, log-start-offset-checkpoint,
//! cleaner-offset-checkpoint:
//!     0                    version
//!     2                    number of lines that follow
//!     topic 0 1234         topic, partition, offset
//! partition.metadata:
//!     version: 0
//!     topic_id: MkU3OEVBNTcwNTJENDM2Qg
//! ```

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use odradek_common::fs::{Fs, read_file, write_file_atomically, write_temporary};
use odradek_common::{Offset, TopicId, TopicPartition, Uuid};

/// How far each log is on disk: what lies below is not scanned after a crash.
pub const RECOVERY_POINTS: &str = "recovery-point-offset-checkpoint";
/// Each partition's high watermark.
pub const HIGH_WATERMARKS: &str = "replication-offset-checkpoint";
/// Log starts that lie behind the first segment's base offset.
pub const LOG_STARTS: &str = "log-start-offset-checkpoint";
/// How far each log is compacted; a log that never was has no line.
pub const CLEANED_TO: &str = "cleaner-offset-checkpoint";
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Made by a clean shutdown, removed at the start.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";

/// 4,000,000 lines; larger is damaged.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;
const SMALL_BYTES_MAX: u64 = 64 * 1024;

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The lines of a checkpoint behind version and count. A file that is cut anywhere is refused.
pub(crate) fn parse_lines(bytes: &[u8]) -> io::Result<Vec<&str>> {
    let text = std::str::from_utf8(bytes).map_err(|_| invalid("not a text file".to_owned()))?;
    let text = text.strip_suffix('\n').ok_or_else(|| invalid("the last line is cut off".to_owned()))?;
    let mut lines = text.split('\n');
    match lines.next().map(str::trim) {
        Some("0") => {}
        version => return Err(invalid(format!("unknown version `{}`", version.unwrap_or_default()))),
    }
    let count: usize = lines
        .next()
        .and_then(|line| line.trim().parse().ok())
        .ok_or_else(|| invalid("the second line is not a number of lines".to_owned()))?;
    let lines: Vec<&str> = lines.collect();
    if lines.len() != count {
        return Err(invalid(format!("{count} lines are announced and {} are there", lines.len())));
    }
    Ok(lines)
}

/// Replaces a file by rename without waiting for the disk.
pub(crate) fn write_file_unsynced(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    write_temporary(fs, temporary, bytes, false)?;
    fs.rename(temporary, path)
}

/// Reads an offset checkpoint; a file that is not there has no entries. A damaged one is `InvalidData`.
pub fn read_offsets(fs: &dyn Fs, path: &Path) -> io::Result<BTreeMap<TopicPartition, Offset>> {
    let bytes = match read_file(fs, path, CHECKPOINT_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        result => result?,
    };
    parse_offsets(&bytes).map_err(|error| invalid(format!("{} is damaged: {error}", path.display())))
}

fn parse_offsets(bytes: &[u8]) -> io::Result<BTreeMap<TopicPartition, Offset>> {
    let mut offsets = BTreeMap::new();
    for line in parse_lines(bytes)? {
        let mut words = line.split_ascii_whitespace();
        let entry = (|| {
            let topic = words.next()?;
            let partition = words.next()?.parse().ok()?;
            let offset = words.next()?.parse().ok()?;
            words.next().is_none().then(|| (TopicPartition::new(topic, partition), Offset(offset)))
        })();
        let (partition, offset) =
            entry.ok_or_else(|| invalid(format!("the line `{line}` is not `topic partition offset`")))?;
        offsets.insert(partition, offset);
    }
    Ok(offsets)
}

/// Replaces an offset checkpoint, durably.
pub fn write_offsets<'a>(
    fs: &dyn Fs,
    path: &Path,
    offsets: impl ExactSizeIterator<Item = (&'a TopicPartition, Offset)>,
) -> io::Result<()> {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        text.push_str(&format!("{} {} {offset}\n", partition.topic, partition.partition));
    }
    write_file_atomically(fs, path, text.as_bytes())
}

/// The topic id in a partition's directory; `None` when there is no sound file.
pub fn read_topic_id(fs: &dyn Fs, dir: &Path) -> io::Result<Option<TopicId>> {
    let bytes = match read_file(fs, &dir.join(PARTITION_METADATA), SMALL_BYTES_MAX) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => return Ok(None),
        result => result?,
    };
    Ok(parse_topic_id(&bytes))
}

fn parse_topic_id(bytes: &[u8]) -> Option<TopicId> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    let version = lines.next()?.strip_prefix("version:")?.trim();
    let id = lines.next()?.strip_prefix("topic_id:")?.trim().parse::<Uuid>().ok()?;
    (version == "0" && !id.is_zero()).then_some(id)
}

pub(crate) fn encode_topic_id(id: TopicId) -> String {
    format!("version: 0\ntopic_id: {id}\n")
}

/// The broker epoch in the clean shutdown marker (KIP-966): `Some(None)` for a marker without one.
pub fn read_clean_shutdown(fs: &dyn Fs, dir: &Path) -> io::Result<Option<Option<i64>>> {
    let bytes = match read_file(fs, &dir.join(CLEAN_SHUTDOWN), SMALL_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let value: Option<serde_json::Value> = serde_json::from_slice(&bytes).ok();
    Ok(Some(value.and_then(|value| value.get("brokerEpoch")?.as_i64())))
}

/// Marks a clean shutdown, durably. Everything else must be on disk before.
pub fn write_clean_shutdown(fs: &dyn Fs, dir: &Path, broker_epoch: i64) -> io::Result<()> {
    let text = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
    write_file_atomically(fs, &dir.join(CLEAN_SHUTDOWN), text.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn offset_checkpoints_are_kafkas_and_a_cut_one_is_refused() {
        let text = "0\n2\nodd-topic 0 12\nx 11 9223372036854775807\n";
        let offsets = parse_offsets(text.as_bytes()).expect("valid");
        assert_eq!(offsets.get(&TopicPartition::new("odd-topic", 0)), Some(&Offset(12)));
        assert_eq!(offsets.get(&TopicPartition::new("x", 11)), Some(&Offset(i64::MAX)));
        for len in 0..text.len() {
            assert!(parse_offsets(&text.as_bytes()[..len]).is_err(), "{len} bytes");
        }
        assert!(parse_offsets(b"1\n0\n").is_err());
        assert!(parse_offsets(b"0\n1\na b c\n").is_err());
    }

    #[test]
    fn partition_metadata_is_read_with_and_without_a_last_line_feed() {
        let id: Uuid = "MkU3OEVBNTcwNTJENDM2Qg".parse().expect("valid");
        assert_eq!(parse_topic_id(b"version: 0\ntopic_id: MkU3OEVBNTcwNTJENDM2Qg"), Some(id));
        assert_eq!(parse_topic_id(encode_topic_id(id).as_bytes()), Some(id));
        assert_eq!(parse_topic_id(b"version: 0\ntopic_id: MkU3OEVBNTcwNTJENDM2"), None);
        assert_eq!(parse_topic_id(b"version: 1\ntopic_id: MkU3OEVBNTcwNTJENDM2Qg"), None);
        assert_eq!(parse_topic_id(b""), None);
    }
}
