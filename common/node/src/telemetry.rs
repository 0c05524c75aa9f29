//! Log output: one line an event on standard error. Levels by `RUST_LOG` (default `info`) when the process starts, and by
//! logger while it runs: a logger is a module's path, `root` is all that have no level of their own (KIP-412).

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The logger above all others.
pub const ROOT: &str = "root";

const DEFAULT: &str = "info,openraft=error,sled=warn,h2=warn,hyper=warn,tower=warn";

/// What there is to be logged: the crates of this workspace all begin so.
const OWN_PREFIX: &str = "odradek";

/// Those that are told of though they have no level of their own.
const OWN: &[&str] =
    &["odradek_broker", "odradek_common", "odradek_metadata", "odradek_node", "odradek_records", "odradek_wire"];

static LEVELS: OnceLock<Levels> = OnceLock::new();

struct Levels {
    filter: reload::Handle<EnvFilter, Registry>,
    directives: Mutex<Directives>,
}

#[derive(Clone, Default)]
struct Directives {
    /// By logger, `root` included.
    levels: BTreeMap<String, LevelFilter>,
    /// Directives of the environment that say more than a level; they stay.
    others: Vec<String>,
}

/// A new level of a logger; `None`: that of the logger above it.
#[derive(Clone, Debug)]
pub struct LevelChange {
    pub logger: String,
    pub level: Option<LevelFilter>,
}

/// Starts the log output of this process. A second call changes nothing.
pub fn init() {
    let text = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.trim().is_empty());
    let text = text.filter(|text| EnvFilter::try_new(text).is_ok()).unwrap_or_else(|| DEFAULT.to_owned());
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&text));
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    if tracing_subscriber::registry().with(filter).with(output).try_init().is_ok() {
        let directives = Mutex::new(Directives::parse(&text));
        let _ = LEVELS.set(Levels { filter: handle, directives });
    }
}

/// Kafka's names of levels, as it writes them: FATAL (which is ERROR here), ERROR, WARN, INFO, DEBUG, TRACE.
pub fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "FATAL" | "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "INFO" => LevelFilter::INFO,
        "DEBUG" => LevelFilter::DEBUG,
        "TRACE" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Whether a level can be set for it.
pub fn is_logger(name: &str) -> bool {
    let is_path = name
        .split("::")
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    name == ROOT || (name.starts_with(OWN_PREFIX) && is_path) || loggers().iter().any(|(logger, _)| logger == name)
}

/// Every logger that has a level, and the crates of a broker, with the level that is in force; `root` among them.
pub fn loggers() -> Vec<(String, &'static str)> {
    let Some(levels) = LEVELS.get() else { return Vec::new() };
    let directives = levels.directives.lock().unwrap_or_else(PoisonError::into_inner);
    let root = directives.levels.get(ROOT).copied().unwrap_or(LevelFilter::ERROR);
    let mut levels = directives.levels.clone();
    for own in OWN {
        levels.entry((*own).to_owned()).or_insert(root);
    }
    levels.into_iter().map(|(logger, level)| (logger, level_name(level))).collect()
}

/// Sets levels; they hold until the process ends.
///
/// # Errors
/// When this process has no log output of its own.
pub fn set_levels(changes: Vec<LevelChange>) -> Result<(), String> {
    let levels = LEVELS.get().ok_or("this process has no log levels to change")?;
    let mut directives = levels.directives.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wanted = directives.clone();
    for LevelChange { logger, level } in changes {
        match level {
            Some(level) => drop(wanted.levels.insert(logger, level)),
            None => drop(wanted.levels.remove(&logger)),
        }
    }
    let filter = EnvFilter::try_new(wanted.text()).map_err(|error| error.to_string())?;
    levels.filter.reload(filter).map_err(|error| error.to_string())?;
    *directives = wanted;
    Ok(())
}

fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::OFF => "OFF",
        LevelFilter::ERROR => "ERROR",
        LevelFilter::WARN => "WARN",
        LevelFilter::INFO => "INFO",
        LevelFilter::DEBUG => "DEBUG",
        _ => "TRACE",
    }
}

impl Directives {
    fn parse(text: &str) -> Self {
        let mut directives = Self::default();
        // Without a level for all, only errors are shown.
        directives.levels.insert(ROOT.to_owned(), LevelFilter::ERROR);
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (logger, level) = directive.split_once('=').unwrap_or((ROOT, directive));
            match level.parse() {
                Ok(level) if !logger.contains(['[', '{']) => drop(directives.levels.insert(logger.to_owned(), level)),
                _ => directives.others.push(directive.to_owned()),
            }
        }
        directives
    }

    fn text(&self) -> String {
        let level = |(logger, level): (&String, &LevelFilter)| match logger.as_str() {
            ROOT => level.to_string(),
            logger => format!("{logger}={level}"),
        };
        self.levels.iter().map(level).chain(self.others.iter().cloned()).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_survive_a_round_trip() {
        let directives = Directives::parse("info,openraft=error,odradek_broker[span]=debug,odradek_node=trace");
        assert_eq!(directives.text(), "odradek_node=trace,openraft=error,info,odradek_broker[span]=debug");
        assert_eq!(Directives::parse("odradek_broker=debug").levels.get(ROOT), Some(&LevelFilter::ERROR));
        assert!(EnvFilter::try_new(Directives::parse(DEFAULT).text()).is_ok());
        assert!(is_logger("root") && is_logger("odradek_broker::replica"));
        assert!(!is_logger("org.apache.kafka") && !is_logger("odradek_broker=info,x") && level("LOUD").is_none());
    }
}
