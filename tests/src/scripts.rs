//! Programs in Python and JavaScript from `interop/`, with the client libraries that they name. Those are installed once,
//! by pip and npm, into `target/interop/`; nothing is written beside the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::cluster::repository;
use crate::history::compare_replicas;
use crate::process::{Process, run, run_ok};
use crate::{Spec, skip, wait_for};

/// A cold installation fetches the libraries.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
/// Each program has bounds of its own, of a minute for each thing that it waits for.
const RUN_LIMIT: Duration = Duration::from_secs(240);

/// `tests/interop/python/<program>`, with the libraries of `requirements.txt`; `None`, and said so, where there is no
/// Python for them.
///
/// # Panics
/// When the installation fails.
pub fn python(program: &str, arguments: &[&str]) -> Option<Command> {
    // On some systems `venv` and `ensurepip` are packages of their own.
    let probe = ["-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))"];
    if !succeeds("python3", &probe) {
        skip("interop/python: `python3` of 3.10 or newer, with `venv`, is missing");
        return None;
    }
    let (project, bin) = (repository().join("tests/interop/python"), PathBuf::from("bin/python"));
    let installed = install("python", &project.join("requirements.txt"), |target| {
        let mut command = Command::new("python3");
        command.args(["-m", "venv"]).arg(target);
        run_ok(command, INSTALL_LIMIT)?;
        let mut command = Command::new(target.join(&bin));
        // Wheels only: nothing is to need a compiler.
        command.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "-r",
        ]);
        command.arg(project.join("requirements.txt"));
        run_ok(command, INSTALL_LIMIT)
    });
    let mut command = Command::new(installed.join(&bin));
    // -B: no compiled copies beside the sources.
    command.arg("-B").arg(project.join(program)).args(arguments);
    Some(command)
}

/// `tests/interop/node/<program>`, with the libraries of `package-lock.json`; `None`, and said so, where there is no
/// Node.js.
///
/// # Panics
/// When the installation fails.
pub fn node(program: &str, arguments: &[&str]) -> Option<Command> {
    if !succeeds("node", &["--version"]) || !succeeds("npm", &["--version"]) {
        skip("interop/node: `node` or `npm` is missing");
        return None;
    }
    let project = repository().join("tests/interop/node");
    let installed = install("node", &project.join("package-lock.json"), |target| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(project.join(file), target.join(file))?;
        }
        let mut command = Command::new("npm");
        command.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]).current_dir(target);
        run_ok(command, INSTALL_LIMIT)
    });
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed.join("node_modules")).arg(project.join(program)).args(arguments);
    Some(command)
}

fn succeeds(tool: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(tool);
    command.args(arguments);
    run(command, Duration::from_secs(60)).is_ok_and(|finished| finished.status.success())
}

/// The directory `target/interop/<name>`, filled by `fill` unless it was from the same `list` of libraries before.
fn install(name: &str, list: &Path, fill: impl FnOnce(&Path) -> anyhow::Result<String>) -> PathBuf {
    let directory = repository().join("target/interop");
    let target = directory.join(name);
    let attempt = || -> anyhow::Result<()> {
        fs::create_dir_all(&directory)?;
        // Held to the end: whoever needs the same waits for it.
        let lock = fs::File::create(directory.join(format!("{name}.lock")))?;
        lock.lock()?;
        let (wanted, stamp) = (fs::read(list)?, target.join("installed"));
        if fs::read(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(());
        }
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        fs::create_dir_all(&target)?;
        fill(&target)?;
        fs::write(stamp, wanted)?;
        Ok(())
    };
    attempt().unwrap_or_else(|error| panic!("the libraries of interop/{name} are installed: {error:#}"));
    target
}

// ---------------------------------------------------------------- what is done with them

/// Makes the command of a program of `interop/` from its arguments.
pub type Program = fn(&[&str]) -> Option<Command>;

fn cluster() -> Spec {
    // With one partition of `__consumer_offsets`, whose leader is the coordinator of every group.
    Spec::new(1, 3).set("offsets.topic.num.partitions", 1).set("group.initial.rebalance.delay.ms", 0)
}

fn is_ok(text: &str) -> bool {
    text.lines().any(|line| line == "OK")
}

/// `serve BOOTSTRAP`: all that the client can do, on a cluster that nothing happens to.
pub fn serves(program: Program) {
    // Before the cluster, which would wait for an installation.
    if program(&[]).is_none() {
        return;
    }
    cluster().run(|cluster| {
        let command = program(&["serve", cluster.bootstrap()]).context("it was there before")?;
        let said = run_ok(command, RUN_LIMIT)?;
        ensure!(is_ok(&said), "{said}");
        Ok(())
    });
}

/// `survive BOOTSTRAP`: when it says STARTED, the coordinator of its group is killed, which leads some of the four
/// partitions of each of its `topics`, too.
pub fn survives(program: Program, topics: &[&str]) {
    if program(&[]).is_none() {
        return;
    }
    cluster().run(|cluster| {
        let log = tempfile::NamedTempFile::new()?;
        let said = || fs::read_to_string(log.path()).unwrap_or_default();
        let command = program(&["survive", cluster.bootstrap()]).context("it was there before")?;
        let mut running = Process::start(command, log.path())?;
        wait_for("the first acknowledgements", RUN_LIMIT, || {
            ensure!(running.exited().is_none(), "the program ended:\n{}", said());
            Ok(said().contains("STARTED").then_some(()))
        })?;
        let mut client = cluster.client();
        let (coordinator, _) = client.leader("__consumer_offsets", 0)?;
        cluster.broker(coordinator).kill()?;
        let status = running.wait(RUN_LIMIT).with_context(said)?;
        let text = said();
        ensure!(status.success() && is_ok(&text), "{text}");
        text.lines().filter(|line| line.contains("acknowledged")).for_each(|line| eprintln!("{line}"));
        if !cluster.is_attached() {
            cluster.broker(coordinator).start()?;
            for topic in topics {
                for partition in 0..4 {
                    client.wait_isr(topic, partition, &[1, 2, 3])?;
                }
                compare_replicas(cluster, &mut client, topic, 4)?;
            }
        }
        Ok(())
    });
}
