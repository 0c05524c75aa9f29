//! `odradek-controller --config FILE`: one controller of a quorum, until SIGTERM or SIGINT.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use odradek_common::config::ControllerConfig;
use odradek_controller::{ControllerOptions, run};
use odradek_node::{Shutdown, World, memory, shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runtime workers beside the thread of Raft and gRPC: the decider, and the Raft log's writer.
const WORKERS: usize = 2;
/// The log's writer, snapshots, and reads for a follower that lags.
const DISK_THREADS_MAX: usize = 4;
/// The deepest stacks here are a decision's; this is several times as much.
const STACK_BYTES: usize = 512 * 1024;

/// One controller of an Odradek cluster. Its directory is made by `odradek storage format`.
#[derive(Parser)]
#[command(name = "odradek-controller", version)]
struct Arguments {
    /// The configuration, in Kafka's .properties format and with Kafka's names.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Overrides one name of the file. May be given more than once.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
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
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let file = arguments.config.display().to_string();
    let text = odradek_common::fs::read_file(&odradek_common::fs::RealFs, &arguments.config, 1024 * 1024)
        .with_context(|| format!("{file} cannot be read"))?;
    let text = String::from_utf8(text).with_context(|| format!("{file} is not text"))?;
    let (config, warnings) = ControllerConfig::load(&text, &file, &arguments.sets)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(DISK_THREADS_MAX)
        .thread_stack_size(STACK_BYTES)
        .thread_name("worker")
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let stop = Shutdown::new();
        let signalled = stop.clone();
        let world = World::real();
        world.spawn("signals", async move {
            match shutdown::signal().await {
                Ok(()) => signalled.trigger(),
                Err(error) => tracing::error!(%error, "signals cannot be received"),
            }
        });
        run(world, config, ControllerOptions::default(), stop).await
    });
    // A disk that hangs must not keep the process from ending.
    runtime.shutdown_background();
    result
}
