//! The guide in `docs/guide/`, as its reader: the commands of every page are run as they are printed, in order, in one
//! shell, against a cluster of the page's own, and what they print is held against what the page shows.
//!
//! - A block of `console` has commands after `$ `, going on after `> `, each with all that it prints below it. A block of
//!   `sh` has commands alone. The first command that fails, fails the test. Other blocks are not run.
//! - In what is shown, `…` or `...` is any text, and on a line of its own any number of lines. Any blanks are as good as
//!   others.
//! - A command with the comment `# until` is repeated until it prints what is shown.
//! - The page speaks of a cluster in `/home/you/odradek` with brokers at 9092, 9093, ... and controllers at 9192, 9193, ...;
//!   the paths and ports of the test are translated into these.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use odradek_tests::cluster::{Permit, bin_dir, free_port_range, repository};
use odradek_tests::process::{run, spawn};

/// The slowest command is one that starts a cluster or moves replicas.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Within this, what a page tells to wait for has happened.
const UNTIL_LIMIT: Duration = Duration::from_secs(30);
const UNTIL_PAUSE: Duration = Duration::from_millis(100);
/// What `deploy/cluster` takes unless it is told otherwise, and so what the pages show.
const SHOWN_PORT: u16 = 9092;
const SHOWN_DIR: &str = "/home/you/odradek";
/// More brokers than any page has.
const NODES_MAX: u16 = 9;

macro_rules! pages {
    ($($name:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                follow($page)
            }
        )*
    };
}

pages! {
    quick_start: "quick-start.md",
    topics: "topics.md",
    producing: "producing.md",
    consuming: "consuming.md",
    groups: "groups.md",
    replication: "replication.md",
    brokers: "brokers.md",
    reassignment: "reassignment.md",
    storage: "storage.md",
    tuning: "tuning.md",
}

/// Its commands need the frameworks, and are run by the tests of those.
const RUN_ELSEWHERE: [&str; 1] = ["integrations.md"];

// ---------------------------------------------------------------- pages

#[derive(Debug, PartialEq)]
struct Step {
    /// Of the page, from 1.
    line: usize,
    command: String,
    /// `None`: nothing is said about it.
    shown: Option<Vec<String>>,
}

impl Step {
    fn is_repeated(&self) -> bool {
        self.command.contains("# until")
    }
}

/// The language of a fenced block with its lines, which are numbered from 1.
type Block<'a> = (String, Vec<(usize, &'a str)>);

fn blocks(text: &str) -> anyhow::Result<Vec<Block<'_>>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (number, line) in (1..).zip(text.lines()) {
        ensure!(!line.starts_with(' ') || !line.trim().starts_with("```"), "line {number}: an indented fence");
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => open = Some((language.to_owned(), Vec::new())),
            (Some(""), Some(block)) => blocks.push(block),
            (Some(_), Some(_)) => bail!("line {number}: a block begins in a block"),
            (None, Some((language, mut lines))) => {
                lines.push((number, line));
                open = Some((language, lines));
            }
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "the last block has no end");
    Ok(blocks)
}

fn steps(text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    for (language, lines) in blocks(text)? {
        match language.as_str() {
            "console" => steps.extend(console(&lines)?),
            "sh" => {
                let command: Vec<&str> = lines.iter().map(|(_, line)| *line).collect();
                let line = lines.first().map_or(0, |(number, _)| *number);
                steps.push(Step { line, command: command.join("\n"), shown: None });
            }
            "text" | "properties" => {}
            other => bail!("blocks of `{other}` mean nothing in the guide: console, sh, text or properties"),
        }
    }
    Ok(steps)
}

fn console(lines: &[(usize, &str)]) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in lines {
        let last = steps.last_mut().and_then(|step| step.shown.as_mut().map(|shown| (&mut step.command, shown)));
        match (line.strip_prefix("$ "), line.strip_prefix("> "), last) {
            (Some(command), _, _) => {
                steps.push(Step { line: *number, command: command.to_owned(), shown: Some(Vec::new()) });
            }
            (None, Some(more), Some((command, shown))) if shown.is_empty() => {
                command.push('\n');
                command.push_str(more);
            }
            (None, _, Some((_, shown))) => shown.push((*line).to_owned()),
            (None, _, None) => bail!("line {number}: a block of console begins with a command after `$ `"),
        }
    }
    Ok(steps)
}

// ---------------------------------------------------------------- what is shown, and what is printed

fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ").replace("...", "…")
}

fn normal_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.map(normal).collect();
    lines.truncate(lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1));
    lines
}

/// Whether `items` are what `pattern` says, an item that `is_any` being any number of items.
fn matches<P, T>(
    pattern: &[P],
    items: &[T],
    is_any: impl Fn(&P) -> bool + Copy,
    fits: impl Fn(&P, &T) -> bool + Copy,
) -> bool {
    // Where to go on from after the last that stood for any, should what follows not fit.
    let (mut at, mut item, mut retry) = (0, 0, None);
    while item < items.len() {
        if pattern.get(at).is_some_and(is_any) {
            at += 1;
            retry = Some((at, item));
        } else if pattern.get(at).is_some_and(|part| fits(part, &items[item])) {
            (at, item) = (at + 1, item + 1);
        } else if let Some((back_at, back_item)) = retry {
            (at, item) = (back_at, back_item + 1);
            retry = Some((back_at, back_item + 1));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(is_any)
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let (shown, printed): (Vec<char>, Vec<char>) = (shown.chars().collect(), printed.chars().collect());
    matches(&shown, &printed, |part| *part == '…', |part, found| part == found)
}

fn is_as_shown(shown: &[String], printed: &str) -> bool {
    let (shown, printed) = (normal_lines(shown.iter().map(String::as_str)), normal_lines(printed.lines()));
    matches(&shown, &printed, |line| line == "…", |line, found| line_matches(line, found))
}

#[test]
fn what_is_elided_may_be_anything() {
    let is = |shown: &str, printed: &str| is_as_shown(&shown.lines().map(str::to_owned).collect::<Vec<_>>(), printed);
    for (shown, printed) in [
        ("", "\n"),
        ("a  b", " a b\n"),
        ("took … ms", "took 5.2 ms"),
        ("a…c…e", "abcde"),
        ("first\n...\nlast", "first\nlast"),
        ("first\n…\nlast", "first\n1\nlast\n2\nlast\n"),
        ("…", "anything\nat all"),
    ] {
        assert!(is(shown, printed), "{shown:?} is {printed:?}");
    }
    for (shown, printed) in
        [("", "a"), ("a", ""), ("a", "b"), ("a…c", "abd"), ("first\n…\nlast", "first\nlast\n1"), ("… b", "a c\nb")]
    {
        assert!(!is(shown, printed), "{shown:?} is not {printed:?}");
    }
}

#[test]
fn pages_are_read_as_their_reader_does() -> anyhow::Result<()> {
    let text =
        "Text\n```console\n$ one\nout\n$ two <<END\n> in\n> END\n$ three\n```\n```sh\nfour\n```\n```text\nno\n```\n";
    let step = |line, command: &str, shown: Option<&[&str]>| Step {
        line,
        command: command.to_owned(),
        shown: shown.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect()),
    };
    let expected = [
        step(3, "one", Some(&["out"])),
        step(5, "two <<END\nin\nEND", Some(&[])),
        step(8, "three", Some(&[])),
        step(11, "four", None),
    ];
    assert_eq!(steps(text)?, expected);
    for wrong in ["```console\nout\n```", "```shell\nls\n```", "```sh\nls", " ```sh\n", "```sh\n```sh\n```"] {
        assert!(steps(wrong).is_err(), "{wrong:?}");
    }
    Ok(())
}

// ---------------------------------------------------------------- the reader

/// A directory in which the pages' commands mean a cluster of the test's own. Takes that down at the end.
struct Place {
    dir: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let place = Self {
            dir: tempfile::Builder::new().prefix("odradek-guide-").tempdir()?,
            port: free_port_range(NODES_MAX),
        };
        let dir = place.dir.path();
        fs::create_dir(dir.join("target"))?;
        std::os::unix::fs::symlink(fs::canonicalize(bin_dir())?, dir.join("target/release"))?;
        fs::create_dir(dir.join("deploy"))?;
        // The script itself, with a directory and a port that are ours.
        let script = format!(
            "#!/usr/bin/env bash\ncommand=$1\nshift\n[[ $command != up ]] || set -- --port {} \"$@\"\n\
             exec '{}' \"$command\" --dir '{}' \"$@\"\n",
            place.port,
            repository().join("deploy/cluster").display(),
            dir.join(".odradek").display()
        );
        let path = dir.join("deploy/cluster");
        fs::write(&path, script)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(place)
    }

    /// As it looks to the reader of a page.
    fn translated(&self, printed: &str) -> String {
        let mut text = printed.replace(&self.dir.path().display().to_string(), SHOWN_DIR);
        for offset in (0..NODES_MAX).chain(100..100 + NODES_MAX) {
            text = text.replace(&format!(":{}", self.port + offset), &format!(":{}", SHOWN_PORT + offset));
        }
        text
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut command = Command::new(self.dir.path().join("deploy/cluster"));
        command.args(["down", "--wipe"]).env("ODRADEK_BIN_DIR", bin_dir());
        // It fails where the page itself has ended its cluster.
        let _ = run(command, COMMAND_LIMIT);
    }
}

/// One shell that is given command after command.
struct Shell {
    child: Child,
    input: ChildStdin,
    codes: Receiver<String>,
    /// Apart from the reader's directory, so that nothing strange lies there.
    files: tempfile::TempDir,
}

impl Shell {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new("bash");
        command.args(["--norc", "--noprofile"]).current_dir(dir).env("ODRADEK_BIN_DIR", fs::canonicalize(bin_dir())?);
        command.env_remove("ADMIN").env_remove("BOOTSTRAP");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = spawn(command)?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, codes) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take().context("a pipe")?;
        let mut shell = Self { child, input, codes, files: tempfile::tempdir()? };
        shell.send("set -eo pipefail")?;
        Ok(shell)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn send(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{line}").context("the shell has ended")
    }

    /// Runs a command; what it prints, and whether all of it went well. A failure ends the shell unless `may_fail`.
    fn run(&mut self, command: &str, may_fail: bool) -> anyhow::Result<(String, bool)> {
        let (source, output) = (self.file("command"), self.file("output"));
        fs::write(&source, format!("{command}\n"))?;
        let run = format!(". '{}' >'{}' 2>&1 </dev/null", source.display(), output.display());
        match may_fail {
            true => self.send(&format!("if {run}; then echo 0; else echo 1; fi"))?,
            false => self.send(&format!("{run}; echo 0"))?,
        }
        let code = self.codes.recv_timeout(COMMAND_LIMIT);
        let printed = String::from_utf8_lossy(&fs::read(&output).unwrap_or_default()).into_owned();
        match code {
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("it does not end; so far it printed:\n{printed}"),
            code => Ok((printed, code.is_ok_and(|code| code == "0"))),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(page: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(repository().join("docs/guide").join(page))?;
    let steps = steps(&text).context(page.to_owned())?;
    ensure!(
        steps.iter().any(|step| step.shown.as_ref().is_some_and(|shown| !shown.is_empty())),
        "{page} shows nothing"
    );
    let _permit = Permit::take();
    let place = Place::new()?;
    let mut shell = Shell::start(place.dir.path())?;
    for step in &steps {
        take(&place, &mut shell, step).with_context(|| format!("{page}:{}: {}", step.line, step.command))?;
    }
    Ok(())
}

fn take(place: &Place, shell: &mut Shell, step: &Step) -> anyhow::Result<()> {
    let deadline = Instant::now() + UNTIL_LIMIT;
    loop {
        let (printed, is_well) = shell.run(&step.command, step.is_repeated())?;
        let printed = place.translated(&printed);
        let is_as_shown = step.shown.as_ref().is_none_or(|shown| is_as_shown(shown, &printed));
        if is_well && is_as_shown {
            return Ok(());
        }
        if step.is_repeated() && Instant::now() < deadline {
            std::thread::sleep(UNTIL_PAUSE);
            continue;
        }
        ensure!(is_well, "it failed, and printed:\n{printed}");
        let shown = step.shown.as_deref().unwrap_or_default().join("\n");
        bail!("the page shows:\n{shown}\n--- and it printed:\n{printed}");
    }
}

// ---------------------------------------------------------------- links

fn markdown_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(markdown_in(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The text outside of blocks and of `code`.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    lines.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("") + "\n").collect()
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let rest = prose(text);
    let targets = rest.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// The names by which headings are linked to, as common viewers of Markdown make them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| -> String {
        let title = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        title.chars().filter(|letter| letter.is_alphanumeric() || "-_".contains(*letter)).collect()
    };
    headings.map(name).collect()
}

#[test]
fn links_lead_somewhere() -> anyhow::Result<()> {
    let mut files = markdown_in(&repository().join("docs"))?;
    files.extend(["README.md", "CHANGELOG.md"].map(|name| repository().join(name)));
    let (mut problems, mut count) = (Vec::new(), 0);
    for file in files {
        let text = fs::read_to_string(&file)?;
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().context("a directory")?.join(path),
            };
            let is_there = match anchor {
                "" => target.exists(),
                anchor => fs::read_to_string(&target).is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor)),
            };
            if !is_there {
                problems.push(format!("{}: {link}", file.display()));
            }
        }
    }
    ensure!(count > 0, "there are no links at all");
    ensure!(problems.is_empty(), "these lead nowhere:\n{}", problems.join("\n"));
    Ok(())
}

#[test]
fn every_page_is_listed_and_tested() -> anyhow::Result<()> {
    let guide = repository().join("docs/guide");
    let listed = links(&fs::read_to_string(guide.join("README.md"))?);
    for path in markdown_in(&guide)? {
        let name = path.strip_prefix(&guide)?.display().to_string();
        if name == "README.md" {
            continue;
        }
        ensure!(listed.contains(&name), "docs/guide/README.md does not list {name}");
        ensure!(PAGES.contains(&name.as_str()) || RUN_ELSEWHERE.contains(&name.as_str()), "no test follows {name}");
    }
    let readme = links(&fs::read_to_string(repository().join("README.md"))?);
    ensure!(readme.iter().any(|link| link == "docs/guide/README.md"), "README.md does not link the guide");
    Ok(())
}
