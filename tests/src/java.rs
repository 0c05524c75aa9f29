//! Programs for the Java virtual machine, built by Maven from the projects in `interop/`, which fetch what they need.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cluster::repository;
use crate::process::{run, run_ok};
use crate::skip;

/// A cold build fetches the libraries and Maven's own plugins.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

fn has(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("-version");
    run(command, Duration::from_secs(30)).is_ok_and(|finished| finished.status.success())
}

/// The class path of `interop/<project>`, built once; `None`, and said so, where there is no Java here.
///
/// # Panics
/// When the build fails.
pub fn class_path(project: &str) -> Option<String> {
    static BUILT: Mutex<BTreeMap<String, Option<String>>> = Mutex::new(BTreeMap::new());
    // Held while it builds: whoever needs the same waits for it.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let known = built.entry(project.to_owned()).or_insert_with(|| {
        if !has("mvn") || !has("java") {
            return None;
        }
        let directory = repository().join("tests/interop").join(project);
        let mut command = Command::new("mvn");
        command.args(["-q", "-B", "process-classes"]).current_dir(&directory);
        run_ok(command, BUILD_LIMIT).unwrap_or_else(|error| panic!("{project} builds: {error:#}"));
        let target = directory.join("target");
        // `interop/framework` looks at it and does not build again.
        std::fs::write(target.join("built"), "").expect("the build has left target/");
        Some(format!("{}:{}/*", target.join("classes").display(), target.join("lib").display()))
    });
    if known.is_none() {
        skip(&format!("interop/{project}: `mvn` or `java` is missing"));
    }
    known.clone()
}

/// The command that users run, too, for the example of a framework in `interop/<project>`, built; `None`, and said so,
/// where there is no Java here.
///
/// # Panics
/// When the build fails.
pub fn example(project: &str) -> Option<Command> {
    class_path(project)?;
    Some(Command::new(repository().join("tests/interop").join(project).join("run")))
}

/// Runs a class, with flags that suit a short life.
pub fn java(class_path: &str, class: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", class_path, class]).args(arguments);
    command
}
