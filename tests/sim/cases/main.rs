//! Simulated clusters: fixed seeds, each run is a whole cluster with faults, in a process of its own as by `tests/sim/run`.
//! `ODRADEK_LONG` runs more.

use std::process::Command;

mod faults;
mod known_losses;
mod power;

const PROGRAM: &str = env!("CARGO_BIN_EXE_odradek-sim");

/// What one run prints: its trace and its report.
fn one(scenario: &str, seed: u64) -> String {
    let seed = seed.to_string();
    let output = Command::new(PROGRAM).args(["one", "--trace", "--scenario", scenario, "--seed", &seed]).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("the program prints text");
    assert!(output.status.success(), "seed {seed}: {}", text.lines().last().unwrap_or_default());
    text
}

/// The names of all scenarios.
fn scenarios() -> impl Iterator<Item = &'static str> {
    odradek_sim::scenario::SCENARIOS.iter().map(|scenario| scenario.name)
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for scenario in scenarios() {
        // Side by side: they are processes of their own.
        let run = || std::thread::spawn(move || one(scenario, 1));
        let runs = [run(), run()];
        let [first, second] = runs.map(|run| run.join().expect("the run keeps all rules"));
        for (line, (a, b)) in first.lines().zip(second.lines()).enumerate() {
            assert_eq!(a, b, "{scenario}, line {line}");
        }
        assert_eq!(first.len(), second.len(), "{scenario}");
    }
}

/// Of every kind of run; by default the stories have `known_losses` and `tests/sim/run --bugs`.
#[test]
fn no_rule_is_broken_in_any_seed() {
    let is_long = std::env::var_os("ODRADEK_LONG").is_some();
    let mut many = Command::new(PROGRAM);
    many.args(["many", "--seed", "2", "--seeds", if is_long { "20" } else { "1" }]);
    if !is_long {
        many.args(scenarios().flat_map(|name| ["--scenario", name]));
    }
    let output = many.output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}
