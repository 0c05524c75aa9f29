//! The script `deploy/cluster`: its commands, what it writes, and how it answers what it does not understand.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::{Client, NewTopic};
use odradek_tests::cluster::{Permit, bin_dir, free_port_range, repository};
use odradek_tests::process::{Finished, run, run_ok};

use crate::values;

/// Nothing is built here, so everything is done within this.
const LIMIT: Duration = Duration::from_secs(60);

fn script(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(repository().join("deploy/cluster"));
    command
        .arg(arguments[0])
        .arg("--dir")
        .arg(dir)
        .args(&arguments[1..])
        .current_dir(repository())
        .env("ODRADEK_BIN_DIR", bin_dir());
    command
}

/// Takes the cluster down whatever happens to the test.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        let _ = run(script(self.0, &["down", "--wipe"]), LIMIT);
    }
}

fn pids(dir: &Path) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if let Ok(text) = fs::read_to_string(path.join("pid")) {
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            out.insert(name, text.trim().parse().with_context(|| text.clone())?);
        }
    }
    Ok(out)
}

fn is_alive(pid: u32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

#[test]
fn a_cluster_goes_up_and_down() -> anyhow::Result<()> {
    let _permit = Permit::take();
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let port = free_port_range(3);
    let up = ["up", "--controllers", "3", "--brokers", "3", "--port", &port.to_string()];
    let _down = Down(dir);
    let said = run_ok(script(dir, &up), LIMIT)?;
    let bootstrap = (port..port + 3).map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    ensure!(said.contains(&format!("127.0.0.1:{port}")), "it says where the cluster is:\n{said}");
    let env = fs::read_to_string(dir.join("env"))?;
    ensure!(env.lines().any(|line| line == format!("BOOTSTRAP={bootstrap}")), "DIR/env: {env}");
    ensure!(env.lines().any(|line| line.starts_with("ADMIN=")), "DIR/env: {env}");
    let first = pids(dir)?;
    let names = ["broker-1", "broker-2", "broker-3", "controller-1", "controller-2", "controller-3"];
    ensure!(first.keys().eq(names), "nodes: {first:?}");
    ensure!(first.values().all(|pid| is_alive(*pid)), "all run: {first:?}");
    ensure!(names.iter().all(|name| dir.join(name).join("log").is_file()), "every node has a log");

    // `up` returned: the cluster serves at once.
    let mut client = Client::new(&bootstrap);
    client.limit = Duration::from_secs(20);
    client.create_topic(&NewTopic::new("kept", 3, 3))?;
    client.produce("kept", 0, &values("kept", 10, 10))?;

    // Again: what runs is left alone.
    run_ok(script(dir, &up), LIMIT)?;
    ensure!(pids(dir)? == first, "nothing was restarted");
    let status = run_ok(script(dir, &["status"]), LIMIT)?;
    ensure!(names.iter().all(|name| status.contains(name)), "status names every node:\n{status}");

    run_ok(script(dir, &["kill", "broker-2"]), LIMIT)?;
    ensure!(!is_alive(first["broker-2"]), "killed");
    run_ok(script(dir, &["start", "broker-2"]), LIMIT)?;
    ensure!(is_alive(pids(dir)?["broker-2"]), "started again");
    run_ok(script(dir, &["stop", "controller-1"]), LIMIT)?;
    ensure!(!is_alive(first["controller-1"]), "stopped");
    run_ok(script(dir, &up), LIMIT)?;
    ensure!(is_alive(pids(dir)?["controller-1"]), "`up` starts what does not run");
    client.produce("kept", 0, &values("kept", 10, 10))?;

    let running = pids(dir)?;
    run_ok(script(dir, &["down"]), LIMIT)?;
    ensure!(running.values().all(|pid| !is_alive(*pid)), "all are down: {running:?}");
    run_ok(script(dir, &up), LIMIT)?;
    let mut client = Client::new(&bootstrap);
    ensure!(client.read_all("kept", 0, 0)?.len() == 20, "the records outlive `down`");
    run_ok(script(dir, &["down", "--wipe"]), LIMIT)?;
    ensure!(!dir.join("broker-1").exists(), "`--wipe` leaves nothing behind");
    run_ok(script(dir, &["up", "--controllers", "1", "--brokers", "1", "--port", &port.to_string()]), LIMIT)?;
    let metadata = Client::new(&format!("127.0.0.1:{port}")).metadata(None)?;
    ensure!(!metadata.topics.contains_key("kept"), "`--wipe` removes the data");
    Ok(())
}

#[test]
fn settings_reach_the_nodes() -> anyhow::Result<()> {
    let _permit = Permit::take();
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let port = free_port_range(1).to_string();
    let _down = Down(dir);
    let up = ["up", "--controllers", "1", "--brokers", "1", "--port", &port, "--set", "num.partitions=5"];
    run_ok(script(dir, &up), LIMIT)?;
    let mut client = Client::new(&format!("127.0.0.1:{port}"));
    client.create_topic(&NewTopic::new("by-default", -1, -1))?;
    let partitions = client.metadata(Some(&["by-default"]))?.topics["by-default"].partitions.len();
    ensure!(partitions == 5, "num.partitions=5 gave {partitions}");
    Ok(())
}

#[test]
fn wrong_words_are_explained() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    // `--dir` stands right after the command, so that the last word can lack its value.
    let table: [(&[&str], &str); 8] = [
        (&["fly"], "fly"),
        (&["up", "--broker", "3"], "--broker"),
        (&["up", "--brokers", "many"], "--brokers"),
        (&["up", "--brokers"], "--brokers"),
        (&["up", "--controllers", "0"], "controllers"),
        (&["up", "--set", "nonsense"], "--set takes"),
        (&["start", "broker-99"], "there is no cluster"),
        (&["kill"], "node"),
    ];
    for (arguments, word) in table {
        let Finished { status, output } = run(script(dir, arguments), LIMIT)?;
        ensure!(!status.success(), "{arguments:?} ended with success:\n{output}");
        ensure!(output.to_lowercase().contains(word), "{arguments:?}: nothing of `{word}` in:\n{output}");
    }
    ensure!(!dir.exists() || pids(dir)?.is_empty(), "nothing was started");
    Ok(())
}
