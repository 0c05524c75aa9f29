//! `odradek`, the operators' command line: topics, brokers and the quorum over the controllers' gRPC admin service;
//! produce and consume over the Kafka protocol; formatting of directories, and the files of logs.
//!
//! `args` is what can be typed, `commands` does it, `admin` finds the active controller, `kafka` is a small client,
//! `format` turns records to text and back, `histogram` says how durations are spread, and `output` prints for people or as
//! JSON. It decides nothing about a cluster. Exit codes are in `error::Exit`.

mod admin;
mod args;
mod commands;
mod endpoints;
mod error;
mod format;
mod histogram;
mod kafka;
mod output;
mod time;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::error::{CliError, Exit};

/// Runs one command line and says how the process ends.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failed(format!("no runtime: {error}")))
        .and_then(|runtime| runtime.block_on(commands::execute(args)));
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("odradek: {error}");
            error.exit.into()
        }
    };
    output::finish(code)
}

/// What was typed makes no sense, or asks for help. A mistake is told in one line, as every other error.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    // Help and version are not errors; clap knows which stream each belongs to.
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    match error.kind() {
        DisplayHelpOnMissingArgumentOrSubcommand | MissingSubcommand => {
            let _ = error.print();
        }
        _ => eprintln!("odradek: {}", one_line(&error.render().to_string())),
    }
    Exit::Usage.into()
}

/// Of clap's paragraphs the first and the tips, and where to read more in place of the rest.
fn one_line(rendered: &str) -> String {
    let joined = |lines: &str| lines.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut paragraphs = rendered.split("\n\n");
    let problem = joined(paragraphs.next().unwrap_or_default());
    let problem = problem.strip_prefix("error: ").unwrap_or(&problem).to_owned();
    let rest: Vec<&str> = paragraphs.collect();
    let tips = rest.iter().filter_map(|paragraph| paragraph.trim().strip_prefix("tip: "));
    let tips: String = tips.map(|tip| format!("; {}", joined(tip))).collect();
    let usage = rest.iter().find_map(|paragraph| paragraph.trim().strip_prefix("Usage: ")).unwrap_or("odradek");
    let is_command = |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase());
    let command = usage.split_whitespace().take_while(is_command).collect::<Vec<_>>().join(" ");
    format!("{problem}{tips}; `{command} --help` shows what it takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_in_one_line() {
        for (line, words) in [
            (
                "odradek topic create t --partitons 3",
                "unexpected argument '--partitons' found; a similar argument exists: '--partitions'; \
                 `odradek topic create --help` shows what it takes",
            ),
            (
                "odradek topic create",
                "the following required arguments were not provided: <TOPIC>; `odradek topic create --help` shows what it takes",
            ),
            (
                "odradek topik list",
                "unrecognized subcommand 'topik'; a similar subcommand exists: 'topic'; `odradek --help`",
            ),
            (
                "odradek produce t --acks 2",
                "invalid value '2' for '--acks <ACKS>' [possible values: all, 1, 0]; `odradek",
            ),
            ("odradek consume t --from soon", "it takes earliest, latest"),
        ] {
            let error = Args::try_parse_from(line.split(' ')).expect_err(line);
            let told = one_line(&error.render().to_string());
            assert!(told.contains(words) && !told.contains('\n'), "{line}: {told}");
        }
    }
}
