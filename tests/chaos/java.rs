//! The Java client among the workers: `interop.Chaos` writes and reads in a process of its own, and prints what it was promised.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use odradek_tests::history::Ledger;
use odradek_tests::java::{class_path, java};
use odradek_tests::process::Process;
use odradek_tests::{Cluster, wait_for};

use crate::consumers::Delivered;
use crate::history::History;
use crate::{ALL, ALL_PARTITIONS, JAVA_WRITER, LIVE_LIMIT};

const GROUP: &str = "java-readers";

/// Nothing where there is no Java, which was said.
pub struct Worker(Option<Running>);

struct Running {
    process: Process,
    dir: PathBuf,
}

impl Worker {
    pub fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let Some(class_path) = class_path("java") else { return Ok(Self(None)) };
        let dir = cluster.scratch("java")?;
        let place = dir.display().to_string();
        let arguments =
            ["chaos", cluster.bootstrap(), ALL, &ALL_PARTITIONS.to_string(), &JAVA_WRITER.to_string(), GROUP, &place];
        let process = Process::start(java(&class_path, "interop.Main", &arguments), &dir.join("log"))?;
        Ok(Self(Some(Running { process, dir })))
    }

    pub fn stop_writing(&self) -> anyhow::Result<()> {
        self.tell("stop-writing")
    }

    pub fn stop_reading(&self) -> anyhow::Result<()> {
        self.tell("stop-reading")
    }

    fn tell(&self, what: &str) -> anyhow::Result<()> {
        self.0.as_ref().map_or(Ok(()), |running| Ok(fs::write(running.dir.join(what), "")?))
    }

    /// Waits until all that was sent is answered, and adds it to the ledger.
    pub fn wait_written(&mut self, ledger: &Ledger, id: u32) -> anyhow::Result<()> {
        let Some(running) = &mut self.0 else { return Ok(()) };
        let text = wait_for("liveness: the producer's end", LIVE_LIMIT, || {
            let text = running.said()?;
            ensure!(running.process.exited().is_none(), "it ended: {}", end_of(&text));
            Ok(text.contains("\nWRITTEN\n").then_some(text))
        })?;
        for [partition, sequence, offset] in lines(&text, "ACKNOWLEDGED") {
            ledger.acknowledge(i32::try_from(partition)?, id, u64::try_from(sequence)?, offset);
        }
        Ok(())
    }

    /// Waits for the end; all must have been delivered, and the last commits be at the end.
    pub fn check(&mut self, history: &History, ends: &BTreeMap<i32, i64>) -> anyhow::Result<()> {
        let Some(running) = &mut self.0 else { return Ok(()) };
        let status = wait_for("liveness: the end of Java's group", LIVE_LIMIT, || Ok(running.process.exited()))?;
        let text = running.said()?;
        ensure!(status.success() && text.ends_with("OK\n"), "java: {status}: {}", end_of(&text));
        let delivered = Delivered::default();
        for [partition, from, to] in lines(&text, "READ") {
            (from..to).for_each(|offset| delivered.add(partition as i32, offset));
        }
        delivered.check(GROUP, history, ends);
        history.count("records acknowledged to Java's producer", lines(&text, "ACKNOWLEDGED").count() as u64);
        Ok(())
    }
}

impl Running {
    fn said(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.dir.join("log")).context("what Java said")
    }
}

/// The numbers of all lines that begin with `word`.
fn lines<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = [i64; 3]> + 'a {
    text.lines().filter_map(move |line| {
        let mut words = line.strip_prefix(word)?.split_whitespace().map(str::parse);
        let mut next = || words.next()?.ok();
        Some([next()?, next()?, next()?])
    })
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
