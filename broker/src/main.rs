//! The process `odradek-broker`: reads its file, runs until SIGTERM or SIGINT, and says why when it cannot.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use odradek_common::config::BrokerConfig;
use odradek_node::{Shutdown, World, memory, shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads that serve sockets. More than two only pass work around on the machines this was measured on.
const WORKERS: usize = 2;

/// Threads that wait for disks; they come and go with the work.
const DISK_THREADS_MAX: usize = 8;

/// Of the descriptors that the process may have, logs take one part in so many; the others are for connections.
const LOGS_SHARE: usize = 2;

/// Handlers keep their buffers on the heap; the largest frame on a stack is a 16 KiB receive buffer.
const STACK_BYTES: usize = 512 * 1024;

/// An Odradek broker: serves the Kafka protocol and keeps partition logs.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// A .properties file with Kafka's names (node.id, listeners, controller.quorum.voters, log.dirs, ...)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Outweighs the file; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    telemetry::init();
    if let Err(error) = memory::refuse_huge_pages() {
        tracing::warn!(%error, "huge pages cannot be refused; this process will take more memory");
    }
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Once in the log, for whoever reads it there, in one line with its causes.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let source = arguments.config.display().to_string();
    let text = read_config(&arguments.config).with_context(|| format!("cannot read {source}"))?;
    let (mut config, warnings) = BrokerConfig::load(&text, &source, &arguments.set)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let descriptors = raise_descriptor_limit();
    if config.log.open_files_max == 0 {
        config.log.open_files_max = descriptors / LOGS_SHARE;
    }
    let recovery_threads = config.log_dirs.len().saturating_mul(config.log.recovery_threads_per_dir);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(DISK_THREADS_MAX.max(recovery_threads))
        .thread_stack_size(STACK_BYTES)
        .thread_name("broker")
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    runtime.block_on(async {
        let stop = Shutdown::new();
        let signalled = stop.clone();
        let world = World::real();
        world.spawn("signals", async move {
            match shutdown::signal().await {
                Ok(()) => signalled.trigger(),
                Err(error) => tracing::error!(%error, "signals cannot be received"),
            }
        });
        odradek_broker::run(world, config, stop).await
    })
}

fn read_config(path: &std::path::Path) -> std::io::Result<String> {
    const BYTES_MAX: u64 = 1024 * 1024;
    let bytes = odradek_common::fs::read_file(&odradek_common::fs::RealFs, path, BYTES_MAX)?;
    String::from_utf8(bytes).map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}

/// A broker has a descriptor for every connection and for every file that is in use: take what the system allows. Answers
/// with what it is.
fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
        limit.current = before;
    }
    // Absent: there is none.
    limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
