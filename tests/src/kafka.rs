//! Apache Kafka itself, as Maven delivers it: its command-line tools, and a node of its own to be asked the same as ours.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::cluster::{format_storage, free_port, random_uuid};
use crate::java::{class_path, java};
use crate::process::{Finished, Process, run, run_ok};
use crate::{Client, wait_for};

/// How long a tool may take. It is a Java program that starts cold.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Kafka's tools, run as its scripts run them.
#[derive(Debug)]
pub struct Tools {
    class_path: String,
}

impl Tools {
    /// `None`, and said so, where there is no Java here.
    pub fn new() -> Option<Self> {
        class_path("kafka").map(|class_path| Self { class_path })
    }

    /// The command behind one of Kafka's scripts, as `org.apache.kafka.tools.TopicCommand` is behind `kafka-topics.sh`.
    pub fn command(&self, class: &str, arguments: &[&str]) -> Command {
        java(&self.class_path, class, arguments)
    }

    /// Runs it and fails unless it succeeds. What it printed.
    pub fn ok(&self, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
        run_ok(self.command(class, arguments), TOOL_LIMIT)
    }

    /// Runs it, whatever comes of it.
    pub fn run(&self, class: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
        run(self.command(class, arguments), TOOL_LIMIT)
    }

    /// Runs it with `input` on its standard input.
    pub fn ok_with_input(&self, class: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), input)?;
        // Through a shell, as the harness gives its children no standard input.
        let inner = self.command(class, arguments);
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" < \"$0\""]).arg(file.path()).arg(inner.get_program()).args(inner.get_args());
        run_ok(command, TOOL_LIMIT)
    }
}

/// A node of Apache Kafka, broker and controller in one, to compare answers with.
#[derive(Debug)]
pub struct Node {
    process: Process,
    pub bootstrap: String,
    dir: tempfile::TempDir,
    cluster_id: String,
    controller: u16,
}

impl Node {
    /// Starts a fresh one; `properties` are added to its `server.properties`.
    ///
    /// # Errors
    /// When it does not serve within a minute; its log is in the text.
    pub fn start(tools: &Tools, properties: &[(&str, &str)]) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("apache-kafka-").tempdir()?;
        let (port, controller) = (free_port(), free_port());
        let mut text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=3\ngroup.initial.rebalance.delay.ms=0\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n",
            dir.path().join("data").display()
        );
        for (name, value) in properties {
            text.push_str(&format!("{name}={value}\n"));
        }
        let config = dir.path().join("server.properties");
        fs::write(&config, text)?;
        let config = config.to_str().context("a path of UTF-8")?;
        let cluster_id = random_uuid()?;
        tools.ok("kafka.tools.StorageTool", &["format", "-t", &cluster_id, "-c", config])?;
        let mut command = tools.command("kafka.Kafka", &[config]);
        command.stdin(Stdio::null());
        let mut process = Process::start(command, &dir.path().join("log"))?;
        let bootstrap = format!("127.0.0.1:{port}");
        let served = wait_for("Apache Kafka serves", START_LIMIT, || {
            ensure!(process.exited().is_none(), "it has ended");
            let known = Client::new(&bootstrap).metadata(None);
            Ok(known.is_ok_and(|known| !known.brokers.is_empty()).then_some(()))
        });
        served.with_context(|| fs::read_to_string(dir.path().join("log")).unwrap_or_default())?;
        Ok(Self { process, bootstrap, dir, cluster_id, controller })
    }

    /// Starts a further broker of this node's cluster, with an id of its own, and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn join(&self, tools: &Tools, id: i32) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("apache-kafka-").tempdir()?;
        let (port, controller) = (free_port(), self.controller);
        let text = format!(
            "process.roles=broker\nnode.id={id}\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
             listeners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\n",
            dir.path().join("data").display()
        );
        let config = dir.path().join("server.properties");
        fs::write(&config, text)?;
        // As `odradek storage format` writes Kafka's layout, it spares a start of Java.
        format_storage(&self.cluster_id, &config)?;
        let mut command = tools.command("kafka.Kafka", &[config.to_str().context("a path of UTF-8")?]);
        command.stdin(Stdio::null());
        let process = Process::start(command, &dir.path().join("log"))?;
        let bootstrap = format!("127.0.0.1:{port}");
        Ok(Self { process, bootstrap, dir, cluster_id: self.cluster_id.clone(), controller })
    }

    /// Stops it in an orderly way: its leaderships go to others first.
    ///
    /// # Errors
    /// When it has not ended after a minute.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(STOP_LIMIT)?;
        Ok(())
    }

    /// Its `log.dirs`.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    pub fn log(&self) -> &Path {
        self.process.log()
    }
}
