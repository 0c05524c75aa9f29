//! Several log directories: whose they are, and what survives a clean shutdown.

use std::path::PathBuf;
use std::sync::Arc;

use odradek_broker_storage::{IdentityError, LogConfig, LogDirs, LogDirsConfig, ProducerStateConfig};
use odradek_common::fs::{Fs, OpenMode};
use odradek_common::mem_fs::{MemFs, Operation};
use odradek_common::meta_properties::{MetaPropertiesError, format_all};
use odradek_common::rng::SplitMix64;
use odradek_common::{BrokerId, Offset, TopicPartition};

use crate::support::{NOW, TOPIC_ID, append, batch};

fn config(dirs: &[&str]) -> LogDirsConfig {
    LogDirsConfig {
        dirs: dirs.iter().map(PathBuf::from).collect(),
        node_id: BrokerId(1),
        cluster_id: Some("cluster".to_owned()),
        open_files_max: 64,
    }
}

fn formatted(dirs: &[&str]) -> MemFs {
    let fs = MemFs::new();
    let dirs = config(dirs).dirs;
    format_all(&fs, &dirs, "cluster", 1, false, &mut SplitMix64::new(1)).expect("formatted");
    fs
}

fn open(fs: &MemFs, config: &LogDirsConfig) -> Result<LogDirs, IdentityError> {
    LogDirs::open(Arc::new(fs.clone()), config, &mut SplitMix64::new(2))
}

#[test]
fn a_directory_of_somebody_else_refuses_the_start() {
    let fs = formatted(&["/a", "/b"]);
    let good = config(&["/a", "/b"]);
    let cases = [
        (LogDirsConfig { node_id: BrokerId(2), ..good.clone() }, "belongs to node 1, not to node 2"),
        (
            LogDirsConfig { cluster_id: Some("other".to_owned()), ..good.clone() },
            "belongs to cluster cluster, not to other",
        ),
        (config(&["/a", "/a"]), "names /a twice"),
        (config(&["/nowhere"]), "/nowhere: the directory is not formatted"),
    ];
    for (wrong, message) in cases {
        let error = open(&fs, &wrong).expect_err("refused").to_string();
        assert!(error.contains(message), "{error}");
    }
    let held = open(&fs, &good).expect("opened");
    assert!(matches!(open(&fs, &good), Err(IdentityError::InUse { .. })));
    drop(held);
    open(&fs, &good).expect("the lock is free again");
}

#[test]
fn an_empty_directory_beside_formatted_ones_is_formatted_but_one_with_logs_is_not() {
    let fs = formatted(&["/a"]);
    let dirs = open(&fs, &config(&["/a", "/new"])).expect("opened");
    assert_eq!(dirs.online().count(), 2);
    drop(dirs);
    fs.create_dir_all("/found/topic-0".as_ref()).expect("made");
    let error = open(&fs, &config(&["/a", "/found"])).expect_err("refused");
    assert!(matches!(error, IdentityError::Unidentified { .. }), "{error}");
}

#[test]
fn a_newer_version_and_damage_are_named() {
    for (text, expected) in [("version=7\ncluster.id=c\nnode.id=1\n", "version"), ("nonsense", "version")] {
        let fs = formatted(&["/a"]);
        fs.corrupt("/a/meta.properties".as_ref(), |bytes| *bytes = text.as_bytes().to_vec()).expect("there");
        let error = open(&fs, &config(&["/a"])).expect_err("refused");
        assert!(matches!(error, IdentityError::MetaProperties(_)) && error.to_string().contains(expected), "{error}");
    }
    let fs = formatted(&["/a"]);
    fs.corrupt("/a/meta.properties".as_ref(), |bytes| *bytes = b"version=7\ncluster.id=c\nnode.id=1\n".to_vec())
        .expect("there");
    let error = open(&fs, &config(&["/a"])).expect_err("refused");
    assert!(matches!(error, IdentityError::MetaProperties(MetaPropertiesError::NewerVersion { .. })), "{error}");
}

#[test]
fn the_cleaners_checkpoint_is_kafkas_and_is_found_again() {
    let fs = formatted(&["/a"]);
    let settings = config(&["/a"]);
    let producers = ProducerStateConfig::default();
    let dirs = open(&fs, &settings).expect("opened");
    for (partition, name) in ["compacted", "other"].iter().enumerate() {
        let name = TopicPartition::new(*name, partition as i32);
        dirs.create(name, TOPIC_ID, None, Arc::default(), producers, NOW).expect("usable").expect("made");
    }
    drop(dirs);
    let path = PathBuf::from("/a/cleaner-offset-checkpoint");
    odradek_common::fs::write_file_atomically(&fs, &path, b"0\n2\ncompacted 0 7\ngone 3 1\n").expect("written");
    let dirs = open(&fs, &settings).expect("opened");
    let mut found = dirs.partitions();
    found.sort_by(|a, b| a.location.partition.cmp(&b.location.partition));
    let cleaned_to: Vec<_> = found.iter().map(|request| request.recovery.cleaned_to).collect();
    assert_eq!(cleaned_to, [Some(Offset(7)), None]);
    let logs: Vec<_> = found
        .into_iter()
        .map(|request| LogDirs::load(request, TOPIC_ID, Arc::default(), producers, NOW).expect("opened").checkpoint())
        .collect();
    let dir = dirs.online().next().expect("usable").clone();
    dirs.write_cleaned_to(&dir, &logs).expect("written");
    let bytes = odradek_common::fs::read_file(&fs, &path, 1000).expect("there");
    assert_eq!(String::from_utf8_lossy(&bytes), "0\n1\ncompacted 0 7\n");
}

#[test]
fn partitions_spread_over_the_directories_and_are_found_again() {
    let fs = formatted(&["/a", "/b"]);
    let settings = config(&["/a", "/b"]);
    let topic = Arc::new(LogConfig::default());
    let producers = ProducerStateConfig::default();
    let dirs = open(&fs, &settings).expect("opened");
    assert!(!dirs.was_clean());
    let mut logs = Vec::new();
    for partition in 0..6 {
        let partition = TopicPartition::new("some.topic-x", partition);
        let mut log =
            dirs.create(partition, TOPIC_ID, None, topic.clone(), producers, NOW).expect("usable").expect("made");
        append(&mut log, &batch(2, 10, NOW)).expect("appended");
        log.set_high_watermark(Offset(1));
        logs.push(log);
    }
    assert_eq!(logs.iter().filter(|log| log.log_dir().path.as_os_str() == "/a").count(), 3);
    for log in &mut logs {
        log.close(NOW).expect("closed");
    }
    for dir in dirs.online() {
        let of_dir: Vec<_> = logs.iter().filter(|log| log.log_dir().id == dir.id).map(|log| log.checkpoint()).collect();
        dirs.write_checkpoints(dir, &of_dir).expect("written");
        dirs.write_clean_shutdown(dir, 42).expect("written");
    }
    let deleted = logs.pop().expect("six").delete(TOPIC_ID).expect("renamed");
    drop((deleted, logs, dirs));

    let dirs = open(&fs, &settings).expect("opened");
    assert!(dirs.was_clean());
    assert_eq!(dirs.previous_broker_epoch(), Some(42));
    let report = dirs.load_all(|_, _| topic.clone(), producers, NOW);
    assert!(report.failed.is_empty());
    assert_eq!(report.logs.len(), 5);
    for log in &report.logs {
        assert_eq!((log.log_end(), log.high_watermark(), log.recovery_point()), (Offset(2), Offset(1), Offset(2)));
        assert_eq!(log.recovery().segments_scanned, 0);
    }
    drop(dirs);
    // The marker is good for one start.
    let dirs = open(&fs, &settings).expect("opened");
    assert!(!dirs.was_clean());
    assert_eq!(dirs.previous_broker_epoch(), None);
}

#[test]
fn a_failing_disk_takes_its_own_partitions_offline_and_no_others() {
    let fs = formatted(&["/a", "/b"]);
    let dirs = open(&fs, &config(&["/a", "/b"])).expect("opened");
    let topic = Arc::new(LogConfig::default());
    let producers = ProducerStateConfig::default();
    let create = |partition| {
        let partition = TopicPartition::new("t", partition);
        dirs.create(partition, TOPIC_ID, None, topic.clone(), producers, NOW).expect("usable").expect("made")
    };
    let (mut sick, mut well) = (create(0), create(1));
    append(&mut sick, &batch(1, 10, NOW)).expect("appended");
    let bad = sick.log_dir().path.clone();
    fs.set_fault(Some(Box::new(move |operation, path| {
        (operation == Operation::Sync && path.starts_with(&bad)).then(|| std::io::Error::other("the disk is dying"))
    })));
    let error = sick.flush(NOW).expect_err("the sync fails");
    assert!(error.to_string().contains("is offline: syncing"), "{error}");
    fs.set_fault(None);
    // Never retried as if nothing had happened.
    for _ in 0..2 {
        assert!(append(&mut sick, &batch(1, 10, NOW)).is_err());
        assert!(sick.flush(NOW).is_err());
        assert!(sick.read(Offset(0), 100, Offset(1), true).is_err());
    }
    append(&mut well, &batch(1, 10, NOW)).expect("the other directory serves on");
    well.flush(NOW).expect("flushed");
    assert_eq!(dirs.online().count(), 1);
    let next = create(2);
    assert_eq!(next.log_dir().path, well.log_dir().path);
}

#[test]
fn a_damaged_checkpoint_costs_a_scan_and_no_data() {
    let fs = formatted(&["/a"]);
    let dirs = open(&fs, &config(&["/a"])).expect("opened");
    let topic = Arc::new(LogConfig::default());
    let producers = ProducerStateConfig::default();
    let partition = TopicPartition::new("t", 0);
    let mut log = dirs.create(partition, TOPIC_ID, None, topic.clone(), producers, NOW).expect("usable").expect("made");
    append(&mut log, &batch(5, 10, NOW)).expect("appended");
    log.flush(NOW).expect("flushed");
    dirs.write_checkpoints(log.log_dir(), &[log.checkpoint()]).expect("written");
    drop((log, dirs));
    let path = "/a/recovery-point-offset-checkpoint";
    fs.open(path.as_ref(), OpenMode::ReadWrite).expect("there").set_len(5).expect("cut");
    let dirs = open(&fs, &config(&["/a"])).expect("opened");
    let report = dirs.load_all(|_, _| topic.clone(), producers, NOW);
    assert_eq!(report.logs[0].log_end(), Offset(5));
    assert_eq!(report.logs[0].recovery().segments_scanned, 1);
}
