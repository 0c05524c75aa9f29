//! Many partitions on one broker, with fewer open files than partitions, through stops and crashes.

use std::fs;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::{Cluster, Spec};

use crate::values;

const PARTITIONS: i32 = 600;
const OPEN_FILES_MAX: usize = 40;
/// For sockets, directories, locks, the runtime.
const OTHERS_MAX: usize = 60;

/// What the broker has open: all of it, and of that the files of partitions.
fn descriptors(cluster: &Cluster) -> anyhow::Result<(usize, usize)> {
    let broker = cluster.broker(1);
    let (pid, data) = (broker.pid().context("it runs")?, broker.data());
    let open: Vec<_> =
        fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect();
    let of_logs = open.iter().filter(|path| path.parent().is_some_and(|dir| dir != data && dir.starts_with(&data)));
    Ok((open.len(), of_logs.count()))
}

fn check_descriptors(cluster: &Cluster) -> anyhow::Result<()> {
    let (all, of_logs) = descriptors(cluster)?;
    ensure!(of_logs <= OPEN_FILES_MAX, "{of_logs} files of logs are open");
    ensure!(all <= OPEN_FILES_MAX + OTHERS_MAX, "{all} descriptors");
    Ok(())
}

#[test]
fn many_partitions_are_served_with_few_descriptors_through_stops_and_crashes() {
    Spec::new(1, 1).set("odradek.log.open.files.max", OPEN_FILES_MAX).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("many", PARTITIONS, 1))?;
        ensure!(descriptors(cluster)?.1 == 0, "a partition that nobody uses has nothing open");
        for round in 0..3 {
            let mut client = cluster.client();
            for partition in 0..PARTITIONS {
                let offset = client.produce("many", partition, &values("many", 2, 100))?;
                ensure!(offset == 2 * round, "partition {partition}, round {round}: offset {offset}");
            }
            check_descriptors(cluster)?;
            let broker = cluster.broker(1);
            if round == 1 {
                broker.kill()?;
            } else {
                ensure!(broker.stop()?.success(), "the broker stops in order");
            }
            broker.start()?;
            cluster.wait_served()?;
            let mut client = cluster.client();
            for partition in (0..PARTITIONS).step_by(7) {
                let found = client.read_all("many", partition, 0)?.len() as i64;
                ensure!(found == 2 * (round + 1), "partition {partition}, round {round}: {found} records");
            }
            check_descriptors(cluster)?;
        }
        let log = cluster.broker(1).log_text();
        ensure!(!log.contains("rebuilding the indexes"), "no index was missed");
        ensure!(log.contains("opened the logs"), "the start says what it did");
        Ok(())
    });
}
