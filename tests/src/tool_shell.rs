//! Many of Kafka's tools in one virtual machine, as each start of one costs seconds: `interop/kafka`'s `ToolShell` runs them
//! one after the other by their own `main`, with what they read, print and exit with.
//!
//! Tools that end the machine by themselves, as the verifiable producer and consumer do, are run by `kafka::Tools` instead.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::kafka::Tools;
use crate::process::Process;
use crate::wait_for;

/// How long a tool may take; the first ones find nothing compiled yet.
const TOOL_LIMIT: Duration = Duration::from_secs(90);
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a tool said, and the code that its process would have exited with.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    /// Standard output and standard error, as they came.
    pub output: String,
}

#[derive(Debug)]
pub struct ToolShell {
    port: u16,
    // Dropped, and with it killed, before its log goes.
    _process: Process,
    log: tempfile::NamedTempFile,
}

impl ToolShell {
    pub fn start(tools: &Tools) -> anyhow::Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        let mut process = Process::start(tools.command("interop.ToolShell", &[]), log.path())?;
        let port = wait_for("the shell of Kafka's tools", START_LIMIT, || {
            let text = std::fs::read_to_string(log.path())?;
            ensure!(process.exited().is_none(), "it has ended:\n{text}");
            // With its end: the line may be half written.
            let line = text.lines().find_map(|line| line.strip_prefix("PORT ")).filter(|_| text.contains('\n'));
            Ok(line.and_then(|number| number.parse().ok()))
        })?;
        Ok(Self { port, _process: process, log })
    }

    /// Runs the tool behind a class, whatever comes of it; `input` is its standard input.
    pub fn run_with_input(&self, class: &str, arguments: &[&str], input: &str) -> anyhow::Result<Said> {
        let text = format!("{class} {}", arguments.join(" "));
        let said = self.call(class, arguments, input);
        said.with_context(|| format!("{text}\n{}", std::fs::read_to_string(self.log.path()).unwrap_or_default()))
    }

    fn call(&self, class: &str, arguments: &[&str], input: &str) -> anyhow::Result<Said> {
        let mut request = Vec::new();
        request.extend(u32::try_from(1 + arguments.len())?.to_be_bytes());
        for text in [&[class], arguments, &[input]].concat() {
            request.extend(u32::try_from(text.len())?.to_be_bytes());
            request.extend(text.as_bytes());
        }
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(TOOL_LIMIT))?;
        stream.write_all(&request)?;
        let mut number = || -> anyhow::Result<i32> {
            let mut four = [0; 4];
            stream.read_exact(&mut four).context("the tool has not ended in time, or has ended the shell with it")?;
            Ok(i32::from_be_bytes(four))
        };
        let (code, length) = (number()?, number()?);
        let mut output = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut output)?;
        Ok(Said { code, output: String::from_utf8_lossy(&output).into_owned() })
    }

    /// Runs it, whatever comes of it.
    pub fn run(&self, class: &str, arguments: &[&str]) -> anyhow::Result<Said> {
        self.run_with_input(class, arguments, "")
    }

    /// Runs it and fails unless it succeeds. What it printed.
    pub fn ok(&self, class: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.ok_with_input(class, arguments, "")
    }

    /// Runs it with `input` on its standard input.
    pub fn ok_with_input(&self, class: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let said = self.run_with_input(class, arguments, input)?;
        ensure!(said.code == 0, "{class} {}: exit code {}\n{}", arguments.join(" "), said.code, said.output);
        Ok(said.output)
    }

    /// Runs it and fails unless it fails, naming `words`.
    pub fn fails(&self, class: &str, arguments: &[&str], words: &str) -> anyhow::Result<()> {
        let said = self.run(class, arguments)?;
        let text = format!("{class} {}: exit code {}\n{}", arguments.join(" "), said.code, said.output);
        ensure!(said.code != 0 && said.output.contains(words), "it was to fail with `{words}`: {text}");
        Ok(())
    }
}
