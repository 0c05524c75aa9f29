//! Tables for people, JSON for programs.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::CliError;

/// `--output`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// For people; may change.
    #[default]
    Text,
    /// For programs: fields are only ever added.
    Json,
}

/// Prints one value as JSON on a line, or as the text that `text` makes of it.
pub fn print<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), CliError> {
    let line = match format {
        Format::Json => serde_json::to_string(value).map_err(|error| CliError::failed(error.to_string()))?,
        Format::Text => text(value),
    };
    let mut out = io::stdout().lock();
    out.write_all(line.trim_end_matches('\n').as_bytes())?;
    if !line.is_empty() {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Columns of equal width, two blanks apart; a column of numbers stands to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|title| title.len())).max().unwrap_or(0)
    };
    let numeric = |column: usize| {
        let is_number =
            |row: &Vec<String>| row.get(column).is_some_and(|cell| cell.parse::<f64>().is_ok() || cell == "-");
        !rows.is_empty() && rows.iter().all(is_number)
    };
    let columns: Vec<(usize, bool)> = (0..head.len()).map(|column| (width(column), numeric(column))).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&columns)
            .map(|(cell, (width, right))| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    rows.iter().for_each(|row| text.push_str(&line(&mut row.iter().map(String::as_str))));
    text
}

/// `1,2,3`, or `-` for nothing.
pub fn ids(ids: &[i32]) -> String {
    match ids {
        [] => "-".to_owned(),
        ids => ids.iter().map(i32::to_string).collect::<Vec<_>>().join(","),
    }
}

/// `3.2 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// An id, or `-` for -1.
pub fn id(id: i32) -> String {
    if id < 0 { "-".to_owned() } else { id.to_string() }
}

/// Reports a failed flush at the end of the process, as on a full disk.
pub fn finish(code: ExitCode) -> ExitCode {
    match io::stdout().flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("odradek: standard output: {error}");
            crate::error::Exit::Failed.into()
        }
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let rows = [vec!["orders".to_owned(), "12".to_owned()], vec!["a".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["TOPIC", "N"], &rows), "TOPIC    N\norders  12\na        3\n");
        assert_eq!(table(&["TOPIC", "N"], &[]), "TOPIC  N\n");
        assert_eq!((ids(&[]), ids(&[1, 2]), id(-1)), ("-".to_owned(), "1,2".to_owned(), "-".to_owned()));
    }
}
