//! Whether the simulation finds what it is there to find: each seeded bug is switched on, and seeds of the story that must
//! notice are run until a rule is broken. The seed that broke it is then run on the same program without the bug, and must
//! pass: the oracles know rules, and no bugs.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail};
use odradek_common::seeded_bugs::{Bug, switch_on};
use odradek_sim::report::Report;

use crate::start;

#[derive(clap::Args)]
pub struct Bugs {
    /// A bug that is not caught within so many seeds fails the command.
    #[arg(long, default_value_t = 40)]
    seeds: u64,
    /// Only this bug.
    #[arg(long)]
    bug: Option<String>,
    /// How many bugs at once [default: the cores].
    #[arg(long)]
    jobs: Option<usize>,
}

/// How a bug was caught.
struct Caught {
    seed: u64,
    rule: String,
}

impl Bugs {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let bugs: Vec<Bug> = match &self.bug {
            Some(name) => vec![named(name)?],
            None => Bug::ALL.to_vec(),
        };
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let (next, caught, failure) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let (name, story) = (bug.name(), bug.story());
                        match self.hunt(*bug) {
                            Ok(Some(Caught { seed, rule })) => {
                                caught.fetch_add(1, Ordering::Relaxed);
                                println!("{name:<30} caught by {story}, seed {seed}: {rule}");
                            }
                            Ok(None) => println!("{name:<30} NOT CAUGHT by {story} within {} seeds", self.seeds),
                            Err(error) => {
                                failure.lock().expect("no holder panics").get_or_insert(error);
                            }
                        }
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().expect("no holder panics") {
            return Err(error);
        }
        let caught = caught.into_inner();
        println!("{} bugs, {caught} caught", bugs.len());
        Ok(if caught == bugs.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn hunt(&self, bug: Bug) -> anyhow::Result<Option<Caught>> {
        let story = bug.story();
        for seed in 1..=self.seeds {
            let Some(broken) = broken_rule(story, seed, Some(bug))? else { continue };
            if let Some(sound) = broken_rule(story, seed, None)? {
                bail!("{story}, seed {seed}, breaks a rule without any bug: {sound}");
            }
            let rule = broken.lines().next().unwrap_or_default();
            let rule = rule.strip_prefix(&format!("seed {seed}: ")).unwrap_or(rule).chars().take(200).collect();
            return Ok(Some(Caught { seed, rule }));
        }
        Ok(None)
    }
}

fn broken_rule(story: &str, seed: u64, bug: Option<Bug>) -> anyhow::Result<Option<String>> {
    let output = start(story, seed, bug.map(Bug::name))?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.lines().last().and_then(|line| serde_json::from_str::<Report>(line).ok());
    let report =
        report.with_context(|| format!("{story}, seed {seed}, ended with {} and no report: {text}", output.status))?;
    Ok(report.broken)
}

fn named(name: &str) -> anyhow::Result<Bug> {
    Bug::ALL.iter().copied().find(|bug| bug.name() == name).with_context(|| {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        format!("there is no bug `{name}`; there are {}", names.join(", "))
    })
}

/// Makes this process have the bug.
pub fn switch_on_named(name: &str) -> anyhow::Result<()> {
    switch_on(named(name)?);
    Ok(())
}
