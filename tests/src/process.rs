//! Child processes that cannot outlive the test: each is in a process group of its own and gets SIGKILL from the kernel
//! when the test process dies, however it dies.
//!
//! The kernel counts the death of the *thread* that forked. So every child is started by one thread that lives as long
//! as the process, never by the thread of a test that may end earlier.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

fn spawner() -> &'static Mutex<mpsc::Sender<Order>> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    })
}

/// Ties the child's life to ours before it executes anything.
fn bind_to_parent(command: &mut Command) {
    command.process_group(0);
    // SAFETY: the closure runs between fork and exec and makes one prctl system call: it allocates nothing and takes
    // no lock.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

/// Starts `command`; see the module for what is guaranteed.
pub fn spawn(mut command: Command) -> anyhow::Result<Child> {
    bind_to_parent(&mut command);
    let program = command.get_program().to_owned();
    let (answer, reply) = mpsc::channel();
    spawner().lock().expect("no panic under this lock").send((command, answer)).context("the spawner is alive")?;
    reply.recv().context("the spawner answers")?.with_context(|| format!("start {}", program.display()))
}

/// A process with its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = append(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        Ok(Self { child: spawn(command)?, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The exit status, if it has exited.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // Not reaped yet, so the number cannot belong to another process.
        if self.exited().is_none() {
            rustix::process::kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// Waits for the exit; kills it when `limit` is over, and says so.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return Ok(status);
            }
            std::thread::sleep(crate::POLL);
        }
        self.kill();
        anyhow::bail!("the process had not exited after {limit:?} and was killed (log: {})", self.log.display())
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new().create(true).append(true).open(path).with_context(|| format!("open {}", path.display()))
}

/// What a finished command said.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// Standard output, then standard error.
    pub output: String,
}

/// Runs `command` to its end, at most `limit` long.
pub fn run(mut command: Command, limit: Duration) -> anyhow::Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(output.reopen()?).stderr(append(output.path())?);
    let mut process = Process { child: spawn(command)?, log: output.path().to_owned() };
    let status = process.wait(limit);
    let output = String::from_utf8_lossy(&std::fs::read(output.path())?).into_owned();
    let status = status.with_context(|| format!("{program} said:\n{output}"))?;
    Ok(Finished { status, output })
}

/// Runs `command` and fails unless it exits with 0. Returns what it printed.
pub fn run_ok(command: Command, limit: Duration) -> anyhow::Result<String> {
    let text = format!("{command:?}");
    let Finished { status, output } = run(command, limit)?;
    anyhow::ensure!(status.success(), "{text}: {status}\n{output}");
    Ok(output)
}
