//! Where the cluster is: a flag, else the environment, else the file that `deploy/cluster` writes.

use std::path::Path;

use odradek_common::config::HostPort;
use odradek_common::fs::{Fs, read_file};

use crate::error::CliError;

/// Which side of the cluster is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub flag: &'static str,
    /// The name in the environment and in the file.
    pub variable: &'static str,
    nodes: &'static str,
    example: &'static str,
}

/// The controllers' gRPC.
pub const ADMIN: Side =
    Side { flag: "--admin", variable: "ADMIN", nodes: "controllers", example: "127.0.0.1:9192,127.0.0.1:9193" };
/// The brokers' Kafka protocol.
pub const BOOTSTRAP: Side =
    Side { flag: "--bootstrap", variable: "BOOTSTRAP", nodes: "brokers", example: "127.0.0.1:9092,127.0.0.1:9093" };

/// The file that `deploy/cluster` writes, seen from its repository.
const ENV_FILE: &str = ".odradek/env";
const ENV_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Finds the addresses: `given` by flag, `environment`, or the nearest `.odradek/env` in `from` and above.
pub fn find(
    side: Side,
    given: Option<&str>,
    environment: Option<&str>,
    fs: &dyn Fs,
    from: &Path,
) -> Result<Vec<HostPort>, CliError> {
    let environment = environment.filter(|text| !text.trim().is_empty());
    if let Some(text) = given.or(environment) {
        let source = if given.is_some() { side.flag } else { side.variable };
        return parse(text, source);
    }
    let files = from.ancestors().map(|dir| dir.join(ENV_FILE));
    for file in files {
        if let Some(text) = read(fs, &file).as_deref().and_then(|text| variable(text, side.variable)) {
            return parse(text, &file.display().to_string());
        }
    }
    Err(CliError::usage(format!(
        "which {}? Give {} HOST:PORT,... (as {}), set {} in the environment, or start a cluster with `deploy/cluster up`",
        side.nodes, side.flag, side.example, side.variable
    )))
}

fn read(fs: &dyn Fs, file: &Path) -> Option<String> {
    String::from_utf8(read_file(fs, file, ENV_FILE_BYTES_MAX).ok()?).ok()
}

fn variable<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
}

fn parse(text: &str, source: &str) -> Result<Vec<HostPort>, CliError> {
    let parsed: Result<Vec<HostPort>, String> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect();
    match parsed {
        Ok(addresses) if addresses.is_empty() => Err(CliError::usage(format!("{source}: no HOST:PORT is given"))),
        Ok(addresses) => match addresses.iter().find(|address| address.host.is_empty() || address.port == 0) {
            Some(address) => Err(CliError::usage(format!("{source}: `{address}` is not HOST:PORT"))),
            None => Ok(addresses),
        },
        Err(problem) => Err(CliError::usage(format!("{source}: {problem}"))),
    }
}

#[cfg(test)]
mod tests {
    use odradek_common::fs::RealFs;

    use super::*;

    #[test]
    fn the_flag_outweighs_the_environment_and_that_the_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).expect("made");
        let found = |given, environment| {
            find(ADMIN, given, environment, &RealFs, &deep)
                .map(|all| all.iter().map(HostPort::to_string).collect::<Vec<_>>().join(","))
                .map_err(|error| error.to_string())
        };
        assert!(found(None, None).unwrap_err().contains("deploy/cluster up"));
        std::fs::create_dir(dir.path().join(".odradek")).expect("made");
        std::fs::write(dir.path().join(".odradek/env"), "BOOTSTRAP=x:1\nADMIN=c:1,d:2\n").expect("written");
        assert_eq!(found(None, None), Ok("c:1,d:2".to_owned()));
        assert_eq!(found(None, Some("e:3")), Ok("e:3".to_owned()));
        assert_eq!(found(Some("f:4"), Some("e:3")), Ok("f:4".to_owned()));
        assert_eq!(found(Some("f"), None), Err("--admin: `f` is not HOST:PORT".to_owned()));
        assert_eq!(found(Some(":4"), None), Err("--admin: `:4` is not HOST:PORT".to_owned()));
        assert_eq!(found(Some(","), None), Err("--admin: no HOST:PORT is given".to_owned()));
    }
}
