//! Programs in Go, built from the modules in `interop/`, which fetch what they need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cluster::repository;
use crate::process::{run, run_ok};
use crate::skip;

/// A cold build fetches the libraries and compiles Go's own, too.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

fn has_go() -> bool {
    let mut command = Command::new("go");
    command.arg("version");
    run(command, Duration::from_secs(30)).is_ok_and(|finished| finished.status.success())
}

/// The program of `interop/<module>`, built once; `None`, and said so, where there is no Go here.
///
/// # Panics
/// When the build fails.
pub fn program(module: &str) -> Option<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, Option<PathBuf>>> = Mutex::new(BTreeMap::new());
    // Held while it builds: whoever needs the same waits for it.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = built.entry(module.to_owned()).or_insert_with(|| {
        if !has_go() {
            return None;
        }
        let target = repository().join("target/go");
        let program = target.join("bin").join(module);
        let mut command = Command::new("go");
        command.args(["build", "-buildvcs=false", "-modcacherw", "-o"]).arg(&program).arg(".");
        command.current_dir(repository().join("tests/interop").join(module));
        // The compiler that is here, and what it fetches and builds beside what Cargo builds.
        command.env("GOTOOLCHAIN", "local").env("GOWORK", "off").env("CGO_ENABLED", "0");
        command.env("GOMODCACHE", target.join("mod")).env("GOCACHE", target.join("cache"));
        run_ok(command, BUILD_LIMIT).unwrap_or_else(|error| panic!("{module} builds: {error:#}"));
        Some(program)
    });
    if known.is_none() {
        skip(&format!("interop/{module}: `go` is missing"));
    }
    known.clone()
}
