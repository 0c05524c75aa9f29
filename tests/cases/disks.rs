//! Disks that fail, fill up and are exchanged, under real processes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::disk::SmallDisk;
use odradek_tests::kafka::Tools;
use odradek_tests::wire::{Batch, StoredRecord};
use odradek_tests::{Cluster, Spec, wait_for};
use serde_json::Value;

use crate::reassignment::ok;
use crate::values;

const LIMIT: Duration = Duration::from_secs(30);
const KAFKA_STORAGE_ERROR: i16 = 56;

/// Gives a broker these log directories, and starts it anew. Empty ones are formatted on the way.
fn restart_on(cluster: &Cluster, broker: i32, dirs: &[&Path]) -> anyhow::Result<()> {
    let node = cluster.broker(broker);
    node.stop()?;
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let mut config = fs::OpenOptions::new().append(true).open(node.config())?;
    writeln!(config, "log.dirs={}", dirs.join(","))?;
    node.start()?;
    cluster.wait_served()
}

/// What `odradek broker log-dirs` says of one directory.
fn directory(cluster: &Cluster, broker: i32, path: &Path) -> anyhow::Result<Value> {
    let said = ok(cluster, &format!("broker log-dirs {broker}"))?;
    let directories = said["directories"].as_array().context("directories")?;
    let found = directories.iter().find(|directory| directory["directory"] == path.display().to_string());
    found.cloned().with_context(|| format!("{} in {said}", path.display()))
}

/// The partitions of `topic` that are in a directory; and whether each is on its way there.
fn partitions(directory: &Value, topic: &str) -> Vec<(i64, bool)> {
    let replicas = directory["replicas"].as_array().into_iter().flatten();
    let of_topic = replicas.filter(|replica| replica["topic"] == topic);
    of_topic.filter_map(|replica| Some((replica["partition"].as_i64()?, replica["future"].as_bool()?))).collect()
}

fn values_of(records: &[StoredRecord]) -> Vec<Vec<u8>> {
    records.iter().map(|record| record.value.clone()).collect()
}

#[test]
fn a_failed_directory_costs_its_partitions_and_the_broker_serves_on() {
    Spec::new(1, 2).set("replica.lag.time.max.ms", 3000).set("replica.fetch.wait.max.ms", 100).run(|cluster| {
        let (first, second) = (cluster.broker(1).data(), cluster.scratch("second")?);
        restart_on(cluster, 1, &[&first, &second])?;
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("t", &[&[1, 2], &[1, 2], &[1, 2], &[1, 2]]))?;
        for partition in 0..4 {
            client.wait_isr("t", partition, &[1, 2])?;
            client.produce("t", partition, &values("before", 50, 100))?;
        }
        let lost: Vec<i32> =
            partitions(&directory(cluster, 1, &second)?, "t").into_iter().map(|(index, _)| index as i32).collect();
        ensure!(lost.len() == 2, "the partitions are spread over both directories: {lost:?}");

        // A plain file where the directory was, as a disk that is gone leaves nothing one can use.
        let away = second.with_extension("away");
        fs::rename(&second, &away)?;
        fs::write(&second, "no directory")?;
        for partition in 0..4 {
            client.produce("t", partition, &values("after", 50, 100))?;
            let (leader, _) = client.leader("t", partition)?;
            let expected = if lost.contains(&partition) { 2 } else { 1 };
            wait_for("the leader moves away", LIMIT, || {
                Ok((client.leader("t", partition)?.0 == expected).then_some(()))
            })
            .with_context(|| format!("{partition} was led by {leader}"))?;
        }
        for partition in &lost {
            client.wait_isr("t", *partition, &[2])?;
        }
        ensure!(cluster.broker(1).is_running(), "the broker serves on");
        ensure!(directory(cluster, 1, &second)?["error"] == "KAFKA_STORAGE_ERROR", "the directory is offline");
        ensure!(directory(cluster, 1, &first)?["error"].is_null(), "the other one is not");

        // It starts without it, and its partitions are not made anew in the other one.
        cluster.broker(1).kill()?;
        cluster.broker(1).start()?;
        cluster.wait_served()?;
        ensure!(directory(cluster, 1, &second)?["error"] == "KAFKA_STORAGE_ERROR", "it is still offline");
        for partition in 0..4 {
            if !lost.contains(&partition) {
                client.wait_isr("t", partition, &[1, 2])?;
            }
        }
        let here: Vec<i64> =
            partitions(&directory(cluster, 1, &first)?, "t").into_iter().map(|(index, _)| index).collect();
        ensure!(here.iter().all(|index| !lost.contains(&(*index as i32))), "{here:?} are not {lost:?}");

        // The disk is back.
        cluster.broker(1).stop()?;
        fs::remove_file(&second)?;
        fs::rename(&away, &second)?;
        cluster.broker(1).start()?;
        cluster.wait_served()?;
        for partition in 0..4 {
            client.wait_isr("t", partition, &[1, 2])?;
            let expected = [values("before", 50, 100), values("after", 50, 100)].concat();
            ensure!(
                values_of(&client.read_all("t", partition, 0)?).starts_with(&expected),
                "all of {partition} is there"
            );
        }

        // Without any directory there is nothing left to do.
        fs::rename(&first, first.with_extension("away"))?;
        fs::rename(&second, second.with_extension("away"))?;
        let status = cluster.broker(1).wait_exit(LIMIT)?;
        ensure!(!status.success(), "{status}");
        let log = cluster.broker(1).log_text();
        ensure!(log.contains("no log directory is usable any more"), "the log says why");
        Ok(())
    });
}

#[test]
fn a_full_disk_refuses_records_until_there_is_room() {
    let spec = Spec::new(1, 2).set("replica.lag.time.max.ms", 2000).set("replica.fetch.wait.max.ms", 100);
    let spec = spec.set("log.retention.check.interval.ms", 500).set("odradek.disk.free.soft.percent", 10);
    spec.run(|cluster| {
        let Some(disk) = SmallDisk::mount(cluster.scratch("disk")?, 48)? else { return Ok(()) };
        let data = disk.path().join("data");
        fs::create_dir_all(&data)?;
        let first = cluster.broker(1).data();
        restart_on(cluster, 1, &[&data, &first])?;
        restart_on(cluster, 1, &[&data])?;
        let mut client = cluster.client();
        let config = |topic: NewTopic| topic.config("segment.bytes", 1 << 20).config("file.delete.delay.ms", 0);
        client.create_topic(&config(NewTopic::assigned("led", &[&[1]])))?;
        client.create_topic(&config(NewTopic::assigned("followed", &[&[2, 1]])))?;
        client.wait_isr("followed", 0, &[1, 2])?;

        // Up to the soft mark.
        let (_, address) = client.leader("led", 0)?;
        let mut acknowledged = 0;
        let refused = loop {
            let batch = Batch::of(&values(&format!("v{acknowledged}"), 1, 256 << 10)).encode();
            let answer = client.connection(&address)?.produce("led", 0, &batch, -1)?;
            match answer.error {
                0 => acknowledged += 1,
                code => break code,
            }
            ensure!(acknowledged < 300, "the disk is full by now");
        };
        ensure!(refused == KAFKA_STORAGE_ERROR, "error {refused}");
        // Replication, administration and reads go on.
        client.produce("followed", 0, &values("small", 10, 100))?;
        client.wait_isr("followed", 0, &[1, 2])?;
        ensure!(client.read_all("led", 0, 0)?.len() == acknowledged, "all that was acknowledged is there");
        ensure!(directory(cluster, 1, &data)?["error"].is_null(), "a full directory is not offline");
        // Deletion makes room.
        ok(cluster, &format!("records delete led --before {}", acknowledged - 4))?;
        wait_for("records are taken again", LIMIT, || {
            let batch = Batch::of(&values("again", 1, 1000)).encode();
            Ok((client.connection(&address)?.produce("led", 0, &batch, -1)?.error == 0).then_some(()))
        })?;

        // Not a byte is left: the leader refuses, the follower leaves the ISR.
        disk.fill()?;
        wait_for("records are refused", LIMIT, || {
            let batch = Batch::of(&values("full", 1, 100_000)).encode();
            let answer = client.connection(&address)?.produce("led", 0, &batch, -1)?;
            Ok((answer.error == KAFKA_STORAGE_ERROR).then_some(()))
        })?;
        client.produce("followed", 0, &values("large", 8, 100_000))?;
        client.wait_isr("followed", 0, &[2])?;
        ensure!(cluster.broker(1).is_running(), "the broker serves on");
        ensure!(directory(cluster, 1, &data)?["error"].is_null(), "a full directory is not offline");
        let before = client.read_all("led", 0, acknowledged as i64 - 4)?;
        disk.clear()?;
        client.wait_isr("followed", 0, &[1, 2])?;
        client.produce("led", 0, &values("last", 1, 1000))?;

        // Nothing that was acknowledged is gone, and no torn end is left, after a kill either.
        cluster.broker(1).kill()?;
        cluster.broker(1).start()?;
        cluster.wait_served()?;
        let after = client.read_all("led", 0, acknowledged as i64 - 4)?;
        ensure!(values_of(&after).starts_with(&values_of(&before)), "{} and {} records", before.len(), after.len());
        ensure!(values_of(&after).last().is_some_and(|value| value.starts_with(b"last")), "the last one too");
        cluster.broker(1).kill()
    });
}

#[test]
fn replicas_move_between_directories_by_kafkas_tool() {
    Spec::new(1, 2).run(|cluster| {
        let (first, second) = (cluster.broker(1).data(), cluster.scratch("second")?);
        restart_on(cluster, 1, &[&first, &second])?;
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("moved", &[&[1, 2]]))?;
        client.create_topic(&NewTopic::assigned("new", &[&[2]]))?;
        for _ in 0..4 {
            client.produce("moved", 0, &values("before", 100, 5000))?;
        }
        client.produce("new", 0, &values("before", 10, 100))?;
        let is_in =
            |path: &Path, topic: &str| anyhow::Ok(partitions(&directory(cluster, 1, path)?, topic) == [(0, false)]);
        let (from, to) = if is_in(&first, "moved")? { (&first, &second) } else { (&second, &first) };
        let plan = serde_json::json!({"version": 1, "partitions": [
            {"topic": "moved", "partition": 0, "replicas": [1, 2], "log_dirs": [to, "any"]},
            {"topic": "new", "partition": 0, "replicas": [2, 1], "log_dirs": ["any", to]},
        ]});
        let Some(tools) = Tools::new() else { return Ok(()) };
        let file = cluster.scratch("plan")?.join("moves.json");
        fs::write(&file, plan.to_string())?;
        let file = file.to_str().context("a path of UTF-8")?;
        let with = |more: &[&str]| {
            let common = ["--bootstrap-server", cluster.bootstrap(), "--reassignment-json-file", file];
            tools.ok("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", &[&common, more].concat())
        };
        // Slowly, so that it can be looked at.
        let said = with(&["--execute", "--replica-alter-log-dirs-throttle", "200000"])?;
        ensure!(said.contains("Successfully started"), "{said}");
        wait_for("the copy is seen on its way", LIMIT, || {
            Ok((partitions(&directory(cluster, 1, to)?, "moved") == [(0, true)]).then_some(()))
        })?;
        let said = with(&["--verify", "--preserve-throttles"])?;
        ensure!(said.contains("Reassignment of replica moved-0-1 is still in progress"), "{said}");
        client.produce("moved", 0, &values("during", 10, 100))?;
        ensure!(is_in(from, "moved")?, "it serves from where it is");
        // Killed in between, it goes on.
        cluster.broker(1).kill()?;
        cluster.broker(1).start()?;
        cluster.wait_served()?;
        let said = with(&["--execute", "--additional", "--replica-alter-log-dirs-throttle", "100000000"])?;
        ensure!(said.contains("Successfully started"), "{said}");
        wait_for("both are where they were wanted", LIMIT, || {
            Ok((is_in(to, "moved")? && is_in(to, "new")?).then_some(()))
        })?;
        let said = with(&["--verify"])?;
        ensure!(said.contains("Reassignment of replica moved-0-1 completed successfully"), "{said}");
        let mut expected: Vec<_> = (0..4).flat_map(|_| values("before", 100, 5000)).collect();
        expected.extend(values("during", 10, 100));
        ensure!(values_of(&client.read_all("moved", 0, 0)?) == expected, "all of it is there");
        client.wait_isr("moved", 0, &[1, 2])?;
        client.wait_isr("new", 0, &[1, 2])?;
        Ok(())
    });
}
