//! Runs simulated clusters. Each run is a process of its own: what libraries keep for a whole process (tokio's seeds count
//! runtimes, for one) is then the same whenever a seed is run, whatever ran before it or runs beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use odradek_sim::report::Report;
use odradek_sim::scenario::{SCENARIOS, Scenario};
use odradek_sim::scripts::{self, Script};

#[cfg(feature = "seeded-bugs")]
mod bugs;

/// Whole clusters from a seed: real controller and broker code on simulated network, disks and clocks.
#[derive(Parser)]
#[command(name = "odradek-sim")]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// List the scenarios.
    List,
    /// Run one seed in this process and print its report as a line of JSON.
    One(One),
    /// Run many seeds, each in a process of its own.
    Many(Many),
    /// Show that every seeded bug is caught.
    #[cfg(feature = "seeded-bugs")]
    Bugs(bugs::Bugs),
}

#[derive(clap::Args)]
struct One {
    #[arg(long)]
    scenario: String,
    #[arg(long)]
    seed: u64,
    /// Print the trace too, before the report.
    #[arg(long)]
    trace: bool,
    /// With this seeded bug.
    #[cfg(feature = "seeded-bugs")]
    #[arg(long)]
    bug: Option<String>,
}

#[derive(clap::Args)]
struct Many {
    /// How many seeds of each scenario; without it, until the minutes are over.
    #[arg(long, required_unless_present = "minutes")]
    seeds: Option<u64>,
    /// The first seed [default: where --state stands, or 1].
    #[arg(long)]
    seed: Option<u64>,
    /// Begin no new seed after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Only this scenario, which may be given several times; all in turn otherwise.
    #[arg(long)]
    scenario: Vec<String>,
    /// How many runs at once [default: the cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Keep the sums and the next seed in this file, and go on from there.
    #[arg(long)]
    state: Option<PathBuf>,
}

/// What `--state` keeps.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct State {
    next_seed: u64,
    runs: u64,
    /// CPU time of the runs, in seconds.
    cpu_seconds: f64,
    failed: BTreeMap<String, Vec<u64>>,
    sum: Report,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().command {
        Verb::List => {
            for scenario in SCENARIOS {
                println!("{:<20} {}", scenario.name, scenario.about);
            }
            for script in scripts::all() {
                println!("{:<20} {}", script.name, script.about);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::One(one) => one.run(),
        Verb::Many(many) => many.run(),
        #[cfg(feature = "seeded-bugs")]
        Verb::Bugs(bugs) => bugs.run(),
    }
}

impl One {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let run = runner(&self.scenario)?;
        #[cfg(feature = "seeded-bugs")]
        self.bug.as_deref().map(bugs::switch_on_named).transpose()?;
        if std::env::var_os("RUST_LOG").is_none() {
            // A broken rule is in the report; its panic needs no words of its own.
            std::panic::set_hook(Box::new(|_| ()));
        }
        let (report, lines) = run(self.seed);
        if self.trace {
            lines.iter().for_each(|line| println!("{line}"));
        }
        println!("{}", serde_json::to_string(&report)?);
        Ok(if report.broken.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

type Run = Box<dyn FnOnce(u64) -> (Report, Vec<String>)>;

fn runner(name: &str) -> anyhow::Result<Run> {
    if let Some(script) = Script::named(name) {
        return Ok(Box::new(|seed| script.run(seed)));
    }
    let scenario = Scenario::named(name);
    let scenario =
        scenario.with_context(|| format!("there is no scenario `{name}`; there are {}", names().join(", ")))?;
    Ok(Box::new(|seed| scenario.run(seed)))
}

/// Of scenarios and scripts.
fn names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).chain(scripts::all().map(|script| script.name)).collect()
}

/// A run that goes on.
struct Running {
    scenario: &'static str,
    seed: u64,
    child: Child,
}

impl Many {
    fn run(&self) -> anyhow::Result<ExitCode> {
        let mut state = self.load()?;
        if let Some(seed) = self.seed {
            state.next_seed = seed;
        }
        for wanted in &self.scenario {
            drop(runner(wanted)?);
        }
        let is_wanted = |name: &&str| self.scenario.is_empty() || self.scenario.iter().any(|wanted| wanted == name);
        let scenarios: Vec<&'static str> = names().into_iter().filter(is_wanted).collect();
        let jobs = self.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
        let started = Instant::now();
        let until = self.minutes.map(|minutes| started + Duration::from_secs(minutes * 60));
        let last = self.seeds.map(|seeds| state.next_seed.saturating_add(seeds));
        let mut queue = (state.next_seed..last.unwrap_or(u64::MAX))
            .flat_map(|seed| scenarios.iter().map(move |scenario| (*scenario, seed)));
        let mut running: Vec<Running> = Vec::new();
        let (mut failed, earlier) = (0, state.cpu_seconds);
        loop {
            let late = until.is_some_and(|until| Instant::now() >= until);
            while running.len() < jobs && !late {
                let Some((scenario, seed)) = queue.next() else { break };
                running.push(Running { scenario, seed, child: start(scenario, seed, None)? });
                state.next_seed = state.next_seed.max(seed + 1);
            }
            if running.is_empty() {
                break;
            }
            let ended = running.iter_mut().position(|run| !matches!(run.child.try_wait(), Ok(None)));
            let Some(at) = ended else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let run = running.swap_remove(at);
            failed += usize::from(!self.note(run, &mut state)?);
            state.cpu_seconds = earlier + children_cpu_seconds();
            self.store(&state)?;
        }
        let hours = state.sum.simulated().as_secs_f64() / 3600.0;
        println!(
            "{} runs, {:.1} simulated hours in {:.1} core-minutes ({:.0} simulated hours an hour of a core)",
            state.runs,
            hours,
            state.cpu_seconds / 60.0,
            hours / (state.cpu_seconds / 3600.0).max(f64::MIN_POSITIVE),
        );
        println!(
            "{} records acknowledged, {} compared, {} events",
            state.sum.acknowledged, state.sum.checked, state.sum.events
        );
        for (title, counts) in [("fault", &state.sum.faults), ("work", &state.sum.work)] {
            counts.iter().for_each(|(name, count)| println!("{title:<6} {name:<40} {count}"));
        }
        for (scenario, seeds) in &state.failed {
            println!("failed {scenario}: seeds {seeds:?}");
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Adds an ended run to the sums; whether it kept all rules.
    fn note(&self, run: Running, state: &mut State) -> anyhow::Result<bool> {
        let Running { scenario, seed, child } = run;
        let again = format!("tests/sim/run --scenario {scenario} --seed {seed} --seeds 1");
        let output = child.wait_with_output()?;
        let line = String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
        state.runs += 1;
        let broken = match serde_json::from_str::<Report>(&line) {
            Ok(report) => {
                state.sum.add(&report);
                println!(
                    "{scenario} {seed}: {} acknowledged, {} compared, {:.0} s simulated, {}",
                    report.acknowledged,
                    report.checked,
                    report.simulated().as_secs_f64(),
                    if report.broken.is_none() { "ok" } else { "BROKEN" }
                );
                report.broken
            }
            Err(_) => Some(format!("the process ended with {} and no report", output.status)),
        };
        let Some(broken) = broken else { return Ok(true) };
        println!("{broken}\nagain: {again}");
        state.failed.entry(scenario.to_owned()).or_default().push(seed);
        Ok(false)
    }

    fn load(&self) -> anyhow::Result<State> {
        let fresh = State { next_seed: 1, ..State::default() };
        let Some(path) = self.state.as_ref().filter(|path| path.exists()) else { return Ok(fresh) };
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a state of this program", path.display()))
    }

    fn store(&self, state: &State) -> anyhow::Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        let new = path.with_extension("new");
        std::fs::write(&new, serde_json::to_string_pretty(state)?)?;
        std::fs::rename(&new, path).with_context(|| format!("writing {}", path.display()))
    }
}

fn start(scenario: &str, seed: u64, bug: Option<&str>) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("where this program is")?;
    Command::new(program)
        .args(["one", "--scenario", scenario, "--seed", &seed.to_string()])
        .args(bug.iter().flat_map(|bug| ["--bug", bug]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting a run")
}

/// User and system time of all ended children, in seconds.
fn children_cpu_seconds() -> f64 {
    // SAFETY: an all-zero `rusage` is a value of the type, and the call only writes into it.
    #[allow(unsafe_code)]
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
