//! What must not start does not start, and says why in words that help.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::cluster::{Node, format_storage, free_port, program, random_uuid};
use odradek_tests::process::run;
use odradek_tests::{Cluster, Spec};

/// A node that is refused ends within this.
const EXIT_LIMIT: Duration = Duration::from_secs(20);

/// Runs `command`, which must fail by itself, with all of `words` (lower case) in what it prints.
fn refused(what: &str, command: Command, words: &[&str]) -> anyhow::Result<()> {
    let finished = run(command, EXIT_LIMIT).with_context(|| what.to_owned())?;
    ensure!(!finished.status.success(), "{what}: it ended with success:\n{}", finished.output);
    ensure!(finished.status.code().is_some(), "{what}: it died of a signal: {}", finished.status);
    ensure!(!finished.output.contains("panicked at"), "{what}: it panicked:\n{}", finished.output);
    let text = finished.output.to_lowercase();
    for word in words {
        ensure!(text.contains(word), "{what}: nothing of `{word}` in:\n{}", finished.output);
    }
    Ok(())
}

/// A copy of a node's configuration with other lines for some names, in a directory of its own.
fn variant(
    cluster: &Cluster,
    node: &Node,
    name: &str,
    changes: &[(&str, String)],
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let dir = cluster.scratch(name)?;
    let data = dir.join("data");
    let mut lines: Vec<String> = Vec::new();
    let (data_text, address) = (data.display().to_string(), format!("127.0.0.1:{}", free_port()));
    let moved = [
        ("log.dirs", data_text),
        ("listeners", format!("PLAINTEXT://{address}")),
        ("advertised.listeners", format!("PLAINTEXT://{address}")),
    ];
    let changed = |name: &str| changes.iter().chain(&moved).find(|(changed, _)| *changed == name);
    for line in fs::read_to_string(node.config())?.lines() {
        let name = line.split('=').next().unwrap_or_default();
        match changed(name) {
            Some((_, value)) => lines.push(format!("{name}={value}")),
            None => lines.push(line.to_owned()),
        }
    }
    let present: Vec<String> = lines.iter().map(|line| line.split('=').next().unwrap_or_default().to_owned()).collect();
    for (name, value) in changes.iter().filter(|(name, _)| !present.iter().any(|p| p == name)) {
        lines.push(format!("{name}={value}"));
    }
    let config = dir.join("server.properties");
    fs::write(&config, lines.join("\n") + "\n")?;
    Ok((config, data))
}

fn broker(config: &Path) -> Command {
    let mut command = program("odradek-broker");
    command.arg("--config").arg(config);
    command
}

#[test]
fn nodes_that_do_not_belong_are_refused() {
    Spec::new(1, 1).run(|cluster| {
        let own = cluster.broker(1);
        second_process_with_the_same_id(cluster, own)?;
        wrong_directories(cluster, own)?;
        wrong_configuration(cluster, own)?;
        ensure!(own.is_running(), "the broker that was there first is untouched");
        cluster.client().metadata(None)?;
        Ok(())
    });
}

fn second_process_with_the_same_id(cluster: &Cluster, own: &Node) -> anyhow::Result<()> {
    let (config, _) = variant(cluster, own, "twin", &[])?;
    format_storage(&cluster.cluster_id, &config)?;
    refused("a second process with the same id", broker(&config), &["1", "regist"])?;
    // The very same directory: locked.
    let (config, _) = variant(cluster, own, "same-directory", &[("log.dirs", own.data().display().to_string())])?;
    refused("a second process in the same directory", broker(&config), &["data", "lock"])
}

fn wrong_directories(cluster: &Cluster, own: &Node) -> anyhow::Result<()> {
    let (config, _) = variant(cluster, own, "unformatted", &[("node.id", "7".into())])?;
    refused("a directory that was never formatted", broker(&config), &["format"])?;

    let (config, _) = variant(cluster, own, "foreign", &[("node.id", "7".into())])?;
    format_storage(&random_uuid()?, &config)?;
    refused("a directory of another cluster", broker(&config), &["cluster"])?;

    let (config, data) = variant(cluster, own, "others", &[("node.id", "7".into())])?;
    format_storage(&cluster.cluster_id, &config)?;
    let (config, _) = variant(cluster, own, "others", &[("node.id", "8".into())])?;
    refused("another node's directory", broker(&config), &["7", "8"])?;

    let (config, _) = variant(cluster, own, "others", &[("node.id", "7".into())])?;
    let meta = data.join("meta.properties");
    let text = fs::read_to_string(&meta)?;
    ensure!(text.contains("version=1"), "meta.properties: {text}");
    fs::write(&meta, text.replace("version=1", "version=99"))?;
    refused("a format from the future", broker(&config), &["version", "99"])?;

    let mut again = program("odradek");
    again.args(["storage", "format", "--cluster-id", &random_uuid()?, "--config"]).arg(own.config());
    refused("formatting what is formatted", again, &["meta.properties", "untouched"])
}

/// What is wrong, the settings, and the words that must be in the answer.
type Misconfigured = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

fn wrong_configuration(cluster: &Cluster, own: &Node) -> anyhow::Result<()> {
    let table: [Misconfigured; 6] = [
        ("not a number", &[("num.partitions", "many")], &["num.partitions", "many"]),
        ("out of range", &[("num.partitions", "0")], &["num.partitions"]),
        ("not one of the choices", &[("compression.type", "rar")], &["compression.type", "rar", "zstd"]),
        ("both roles", &[("process.roles", "broker,controller")], &["process.roles", "odradek-controller"]),
        ("an id that is no number", &[("node.id", "one")], &["node.id"]),
        ("no voters", &[("controller.quorum.voters", "")], &["controller.quorum"]),
    ];
    for (what, changes, words) in table {
        let changes: Vec<(&str, String)> = changes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let (config, _) = variant(cluster, own, "misconfigured", &changes)?;
        refused(what, broker(&config), words)?;
    }
    refused("no such file", broker(&cluster.scratch("none")?.join("absent.properties")), &["absent.properties"])?;
    refused("no arguments", program("odradek-broker"), &["--config"])?;
    refused("no arguments", program("odradek-controller"), &["--config"])
}

#[test]
fn an_unknown_setting_warns_and_starts() {
    Spec::new(1, 1).set("no.such.setting", 1).run(|cluster| {
        let text = cluster.broker(1).log_text();
        let warned = text.lines().any(|line| line.contains("no.such.setting") && line.contains("WARN"));
        ensure!(warned, "the broker warns of no.such.setting:\n{text}");
        Ok(())
    });
}
