//! Rows of many kinds on standard output while they are read: tables for people, an object a line for programs. No more than
//! a screenful waits to be aligned.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

use crate::error::CliError;
use crate::output::Format;

/// Rows that are looked at before the width of a column is settled.
const ALIGNED_ROWS: usize = 500;

/// What an entry of a file is shown as.
pub trait Row: Serialize {
    /// What JSON calls it.
    const KIND: &'static str;
    const HEAD: &'static [&'static str];
    fn cells(&self) -> Vec<String>;
}

#[derive(Serialize)]
struct Line<'a, R> {
    file: &'a str,
    kind: &'static str,
    #[serde(flatten)]
    row: &'a R,
}

pub struct Printer {
    format: Format,
    out: BufWriter<StdoutLock<'static>>,
    file: String,
    head: &'static [&'static str],
    head_is_due: bool,
    widths: Vec<usize>,
    waiting: Vec<Text>,
}

/// What waits to be aligned.
enum Text {
    Cells(Vec<String>),
    Plain(String),
}

impl Printer {
    pub fn new(format: Format) -> Self {
        let out = BufWriter::new(io::stdout().lock());
        let (file, waiting, widths) = (String::new(), Vec::new(), Vec::new());
        Self { format, out, file, head: &[], head_is_due: false, widths, waiting }
    }

    /// What follows is of this file.
    pub fn begin(&mut self, file: &str) -> Result<(), CliError> {
        self.flush()?;
        if self.format == Format::Text {
            let gap = if self.file.is_empty() { "" } else { "\n" };
            writeln!(self.out, "{gap}{file}")?;
        }
        file.clone_into(&mut self.file);
        self.head = &[];
        self.widths.clear();
        Ok(())
    }

    pub fn row<R: Row>(&mut self, row: &R) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(row),
            Format::Text => {
                if self.head != R::HEAD {
                    self.flush()?;
                    (self.head, self.head_is_due) = (R::HEAD, true);
                    self.widths = R::HEAD.iter().map(|title| title.len()).collect();
                }
                self.wait(Text::Cells(row.cells()))
            }
        }
    }

    /// Beneath the last row, without columns.
    pub fn below<R: Row>(&mut self, row: &R) -> Result<(), CliError> {
        match self.format {
            Format::Json => self.json(row),
            Format::Text => self.wait(Text::Plain(row.cells().join("  "))),
        }
    }

    fn wait(&mut self, text: Text) -> Result<(), CliError> {
        self.waiting.push(text);
        if self.waiting.len() >= ALIGNED_ROWS { self.flush() } else { Ok(()) }
    }

    fn json<R: Row>(&mut self, row: &R) -> Result<(), CliError> {
        let line = Line { file: &self.file, kind: R::KIND, row };
        serde_json::to_writer(&mut self.out, &line).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    pub fn flush(&mut self) -> Result<(), CliError> {
        for text in &self.waiting {
            if let Text::Cells(cells) = text {
                for (width, cell) in self.widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        let mut lines = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<String> = cells.zip(&self.widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            lines.push_str("  ");
            lines.push_str(padded.join("  ").trim_end());
            lines.push('\n');
        };
        if std::mem::take(&mut self.head_is_due) {
            line(&mut self.head.iter().copied());
        }
        for text in self.waiting.drain(..) {
            match text {
                Text::Cells(cells) => line(&mut cells.iter().map(String::as_str)),
                Text::Plain(text) => line(&mut std::iter::once(format!("  | {text}").as_str())),
            }
        }
        self.out.write_all(lines.as_bytes())?;
        Ok(self.out.flush()?)
    }
}
