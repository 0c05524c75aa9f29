//! Calls every target, or those that are named, with good inputs that are changed at random.
//!
//! ```text
//! fuzz [--seconds N] [--seed S] [TARGET...]    N seconds each (10 when unset)
//! fuzz --list                                  the names of all targets
//! fuzz --input FILE TARGET                     one input again
//! ```
//!
//! An input that makes a target panic, or that takes it too long or too much memory, is left in `fuzz-<target>-<seed>` and named.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use odradek_fuzz::{TARGETS, Target, driver, find};
use rustix::process::{Resource, Rlimit, setrlimit};

/// No input takes so long, on a busy machine either.
const INPUT_PATIENCE: Duration = Duration::from_secs(20);
/// More address space than this is not to be had: whoever allocates without a bound ends here.
const MEMORY_BYTES_MAX: u64 = 2 << 30;

struct Arguments {
    seconds: u64,
    seed: u64,
    input: Option<PathBuf>,
    targets: Vec<&'static Target>,
}

fn arguments() -> anyhow::Result<Option<Arguments>> {
    let mut out = Arguments { seconds: 10, seed: 1, input: None, targets: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let mut value = || given.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--list" => {
                TARGETS.iter().for_each(|target| println!("{}", target.name));
                return Ok(None);
            }
            "--seconds" => out.seconds = value()?.parse().context("--seconds needs a number")?,
            "--seed" => out.seed = value()?.parse().context("--seed needs a number")?,
            "--input" => out.input = Some(value()?.into()),
            name => out.targets.push(find(name).with_context(|| format!("there is no target {name}; see --list"))?),
        }
    }
    if out.targets.is_empty() {
        ensure!(out.input.is_none(), "--input needs a target");
        out.targets = TARGETS.iter().collect();
    }
    Ok(Some(out))
}

/// What is being tried, for those who look from outside: the input, and since when.
type Current = Arc<Mutex<Option<(Vec<u8>, Instant)>>>;

fn main() -> anyhow::Result<()> {
    let Some(arguments) = arguments()? else { return Ok(()) };
    let limit = Some(MEMORY_BYTES_MAX);
    setrlimit(Resource::As, Rlimit { current: limit, maximum: limit }).context("bound the memory")?;
    for target in arguments.targets {
        match &arguments.input {
            Some(path) => (target.run)(&std::fs::read(path).with_context(|| path.display().to_string())?),
            None => fuzz(target, arguments.seed, Duration::from_secs(arguments.seconds))?,
        }
    }
    Ok(())
}

fn fuzz(target: &'static Target, seed: u64, during: Duration) -> anyhow::Result<()> {
    let current = Current::default();
    let kept = PathBuf::from(format!("fuzz-{}-{seed}", target.name));
    let watched = current.clone();
    let place = kept.clone();
    // Ends with the process, when it says that something hangs.
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let current = watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((input, since)) = &*current
                && since.elapsed() > INPUT_PATIENCE
            {
                let _ = std::fs::write(&place, input);
                let _ = writeln!(std::io::stderr(), "{} hangs on {}", target.name, place.display());
                std::process::exit(1);
            }
        }
    });
    let (began, mut count) = (Instant::now(), 0u64);
    for input in driver::Inputs::new(target, seed) {
        if began.elapsed() > during {
            break;
        }
        // For who aborts: there is no other trace of it.
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some((input.clone(), Instant::now()));
        if std::panic::catch_unwind(|| (target.run)(&input)).is_err() {
            std::fs::write(&kept, &input)?;
            bail!("{} panicked on {} (seed {seed}, input {count})", target.name, kept.display());
        }
        count += 1;
    }
    *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    println!("{:>10} inputs to {}", count, target.name);
    Ok(())
}
