//! `odradek log verify`: checks directories, and tells what the next start of a broker makes of what is wrong.

use std::path::Path;

use odradek_broker_storage::verify::{self, Checked, Finding, Options};
use serde::Serialize;

use super::super::Context;
use crate::args::LogVerify;
use crate::error::CliError;
use crate::output::{self, Format};

/// A directory with more problems than this is past being told one by one.
const PROBLEMS_MAX: usize = 10_000;

#[derive(Serialize)]
struct Report {
    sound: bool,
    problems: Vec<Problem>,
    notes: Vec<Note>,
    checked: Counts,
}

#[derive(Serialize)]
struct Problem {
    file: String,
    /// In bytes.
    position: Option<u64>,
    offset: Option<i64>,
    problem: String,
    at_next_start: String,
}

#[derive(Serialize)]
struct Note {
    file: String,
    note: String,
}

#[derive(Default, Serialize)]
struct Counts {
    directories: u64,
    partitions: u64,
    segments: u64,
    batches: u64,
    records: u64,
    bytes: u64,
    index_entries: u64,
    producer_snapshots: u64,
    problems: u64,
}

impl Counts {
    fn add(&mut self, checked: Checked) {
        self.directories += checked.directories;
        self.partitions += checked.partitions;
        self.segments += checked.segments;
        self.batches += checked.batches;
        self.records += checked.records;
        self.bytes += checked.bytes;
        self.index_entries += checked.index_entries;
        self.producer_snapshots += checked.producer_snapshots;
        self.problems += checked.problems;
    }
}

pub fn execute(context: &Context, command: &LogVerify) -> Result<(), CliError> {
    let fs = &*context.world.fs;
    let unreadable = |dir: &Path, error: &std::io::Error| CliError::failed(format!("{}: {error}", dir.display()));
    let mut kinds = Vec::new();
    for dir in &command.dirs {
        // Names and locks are those of the directory itself, however it was typed.
        let dir = std::path::absolute(dir).map_err(|error| unreadable(dir, &error))?;
        fs.read_dir(&dir).map_err(|error| unreadable(&dir, &error))?;
        let is_partition = verify::is_partition_dir(fs, &dir).map_err(|error| unreadable(&dir, &error))?;
        let log_dir = if is_partition { dir.parent().unwrap_or(&dir) } else { &dir };
        if !command.in_use && verify::is_in_use(fs, log_dir).map_err(|error| unreadable(log_dir, &error))? {
            return Err(CliError::failed(format!(
                "{}: a broker uses this directory, and what it is just writing would be taken for damage; stop it first, \
                 or read it nevertheless with --in-use",
                log_dir.display()
            )));
        }
        kinds.push((dir, is_partition));
    }
    let mut report = Report { sound: true, problems: Vec::new(), notes: Vec::new(), checked: Counts::default() };
    let options = Options { records: command.records };
    for (dir, is_partition) in &kinds {
        let checked = {
            let mut sink = |finding| report.take(finding);
            match is_partition {
                true => verify::partition(fs, dir, options, &mut sink),
                false => verify::log_dir(fs, dir, options, &mut sink),
            }
        };
        report.checked.add(checked.map_err(|error| unreadable(dir, &error))?);
    }
    report.sound = report.checked.problems == 0;
    if report.checked.directories + report.checked.segments == 0 {
        return Err(CliError::failed("there was nothing to check"));
    }
    match context.global.output {
        Format::Json => output::print(Format::Json, &report, |_| String::new())?,
        Format::Text => output::print(Format::Text, &report, text)?,
    }
    match report.checked.problems {
        0 => Ok(()),
        1 => Err(CliError::failed("there is one problem")),
        many => Err(CliError::failed(format!("there are {many} problems"))),
    }
}

impl Report {
    fn take(&mut self, finding: Finding) {
        match finding {
            Finding::Problem(problem) if self.problems.len() < PROBLEMS_MAX => self.problems.push(Problem {
                file: problem.file.display().to_string(),
                position: problem.position,
                offset: problem.offset.map(|offset| offset.0),
                problem: problem.what,
                at_next_start: problem.at_next_start,
            }),
            Finding::Note { file, what } if self.notes.len() < PROBLEMS_MAX => {
                self.notes.push(Note { file: file.display().to_string(), note: what });
            }
            _ => {}
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        let position = problem.position.map_or_else(String::new, |position| format!(" at byte {position}"));
        let offset = problem.offset.map_or_else(String::new, |offset| format!(" (offset {offset})"));
        text.push_str(&format!("{}{position}{offset}: {}\n", problem.file, problem.problem));
        text.push_str(&format!("  at the next start: {}\n", problem.at_next_start));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {} {}\n", note.file, note.note));
    }
    let Counts { partitions, segments, batches, records, bytes, index_entries, producer_snapshots, problems, .. } =
        &report.checked;
    let bytes = output::bytes(*bytes);
    text.push_str(&format!(
        "checked {partitions} partitions: {segments} segments with {batches} batches, {records} records, {bytes}; \
         {index_entries} index entries, {producer_snapshots} producer snapshots; problems: {problems}\n"
    ));
    text
}
