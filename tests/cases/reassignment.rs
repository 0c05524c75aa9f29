//! Partitions move under load, records are deleted, leaders chosen, a broker retired: by the command line, as an operator
//! would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::NewTopic;
use odradek_tests::cluster::program;
use odradek_tests::{Cluster, Spec, wait_for};
use serde_json::Value;

use crate::values;

/// Runs `odradek`; its JSON lines, and whether it succeeded.
fn odradek(cluster: &Cluster, line: &str) -> anyhow::Result<(Vec<Value>, bool, String)> {
    let admin: Vec<&str> = cluster.controllers().map(|node| node.address.as_str()).collect();
    let output = program("odradek")
        .args(["--output", "json", "--timeout", "20", "--admin", &admin.join(","), "--bootstrap", cluster.bootstrap()])
        .args(line.split(' '))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let said = format!("odradek {line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok((lines.with_context(|| said.clone())?, output.status.success(), said))
}

pub(crate) fn ok(cluster: &Cluster, line: &str) -> anyhow::Result<Value> {
    let (mut lines, done, said) = odradek(cluster, line)?;
    ensure!(done, "{said}");
    Ok(lines.pop().unwrap_or_default())
}

#[test]
fn a_partition_moves_under_load_and_a_broker_retires() {
    Spec::new(1, 4).set("min.insync.replicas", 2).run(|cluster| {
        let mut client = cluster.client();
        client.create_topic(&NewTopic::assigned("moved", &[&[1, 2, 3]]))?;
        client.create_topic(&NewTopic::assigned("kept", &[&[1, 2]]).config("min.insync.replicas", 1))?;
        client.produce("moved", 0, &values("before", 200, 1000))?;

        // From 1,2,3 to 2,3,4, the leader among those who leave, while records are acknowledged.
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let producing = scope.spawn(|| {
                let (mut client, mut acknowledged) = (cluster.client(), 0);
                while !stop.load(Ordering::Relaxed) {
                    client.produce("moved", 0, &values(&format!("during-{acknowledged}"), 1, 500))?;
                    acknowledged += 1;
                }
                anyhow::Ok(acknowledged)
            });
            let moved = ok(cluster, "reassign run moved:0=2,3,4 --watch").and_then(|last| {
                ensure!(last["partitions_left"] == 0, "{last}");
                client.wait_isr("moved", 0, &[2, 3, 4])
            });
            stop.store(true, Ordering::Relaxed);
            let acknowledged = producing.join().expect("no panic")?;
            ensure!(moved?.replicas == [2, 3, 4], "the replicas are as asked");
            anyhow::Ok(acknowledged)
        })?;
        let records = client.read_all("moved", 0, 0)?;
        ensure!(records.len() >= 200 + acknowledged, "{} of {} records", records.len(), 200 + acknowledged);
        wait_for("broker 1 lets go of its log", Duration::from_secs(10), || {
            Ok((!cluster.broker(1).data().join("moved-0").exists()).then_some(()))
        })?;

        deletes_and_elects(cluster)?;
        undoes(cluster)?;
        retires(cluster)
    });
}

fn deletes_and_elects(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    let deleted = ok(cluster, "records delete moved --before 150")?;
    ensure!(deleted["partitions"][0]["log_start"] == 150, "{deleted}");
    let (_, start) = client.at_leader("moved", 0, |connection| {
        let (code, _, offset, _) = connection.list_offset("moved", 0, -2)?;
        Ok((code, offset))
    })?;
    ensure!(start == 150, "the log starts at {start}");
    let (_, done, said) = odradek(cluster, "records delete moved --before 1000000")?;
    ensure!(!done && said.contains("OFFSET_OUT_OF_RANGE"), "{said}");

    let leader = client.leader("moved", 0)?.0;
    let preferred = if leader == 3 { 4 } else { 3 };
    let rest: Vec<i32> = [2, 3, 4].into_iter().filter(|id| *id != preferred).collect();
    ok(cluster, &format!("reassign run moved:0={preferred},{},{}", rest[0], rest[1]))?;
    ensure!(client.leader("moved", 0)?.0 == leader, "another order changes no leader");
    let elected = ok(cluster, "elect preferred moved:0")?;
    ensure!(elected["elections"][0]["error"].is_null(), "{elected}");
    wait_for("the preferred leader", Duration::from_secs(30), || {
        Ok((client.leader("moved", 0)?.0 == preferred).then_some(()))
    })?;
    let again = ok(cluster, "elect preferred moved:0")?;
    ensure!(again["elections"][0]["error"] == "ELECTION_NOT_NEEDED", "{again}");
    Ok(())
}

fn undoes(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    cluster.broker(4).kill()?;
    ok(cluster, "reassign run kept:0=4,1")?;
    let listed = ok(cluster, "reassign list kept")?;
    ensure!(listed["reassignments"][0]["adding"] == serde_json::json!([4]), "{listed}");
    ensure!(client.metadata(Some(&["kept"]))?.partition("kept", 0).is_some_and(|one| one.replicas == [4, 1, 2]));
    ok(cluster, "reassign cancel kept:0")?;
    let (_, done, said) = odradek(cluster, "reassign cancel kept:0")?;
    ensure!(!done && said.contains("NO_REASSIGNMENT_IN_PROGRESS"), "{said}");
    wait_for("the old replicas", Duration::from_secs(30), || {
        let metadata = client.metadata(Some(&["kept"]))?;
        Ok(metadata.partition("kept", 0).filter(|one| one.replicas == [1, 2]).map(|_| ()))
    })?;
    cluster.broker(4).start()?;
    client.wait_isr("moved", 0, &[2, 3, 4]).map(drop)
}

fn retires(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    let plan = ok(cluster, "reassign plan --topic moved --brokers 1,2,3")?;
    ensure!(plan["partitions"][0]["bytes"].as_u64().is_some_and(|bytes| bytes > 50_000), "{plan}");
    let dry = ok(cluster, "broker decommission 4 --dry-run")?;
    ensure!(dry["partitions_left"] == 1, "{dry}");
    let done = ok(cluster, "broker decommission 4")?;
    ensure!(done["state"] == "decommissioned", "{done}");
    let state = client.wait_isr("moved", 0, &[1, 2, 3])?;
    ensure!(!state.replicas.contains(&4), "{state:?}");
    cluster.broker(4).wait_exit(Duration::from_secs(10))?;
    let brokers = ok(cluster, "broker list")?;
    ensure!(brokers["brokers"].as_array().is_some_and(|all| all.len() == 3), "{brokers}");
    let (_, done, said) = odradek(cluster, "broker decommission 3")?;
    ensure!(!done && said.contains("INVALID_REPLICATION_FACTOR"), "{said}");
    Ok(())
}
