//! A file for each noun of the command line.

mod adopt;
mod broker;
mod completions;
mod config;
mod consume;
mod decommission;
mod elect;
mod group;
mod log;
mod log_dirs;
mod pace;
mod perf;
mod produce;
mod quorum;
mod reassign;
mod records;
mod storage;
mod topic;
mod txn;

use std::path::PathBuf;

use odradek_common::config::HostPort;
use odradek_node::World;

use crate::admin::Admin;
use crate::args::{Args, Command, Global};
use crate::endpoints::{self, ADMIN, BOOTSTRAP, Side};
use crate::error::CliError;

/// What every command is given.
pub struct Context {
    pub world: World,
    pub global: Global,
}

impl Context {
    pub fn admin(&self) -> Result<Admin, CliError> {
        let controllers = self.find(ADMIN, self.global.admin.as_deref())?;
        Ok(Admin::new(&self.world, controllers, self.global.timeout))
    }

    pub fn bootstrap(&self) -> Result<Vec<HostPort>, CliError> {
        self.find(BOOTSTRAP, self.global.bootstrap.as_deref())
    }

    fn find(&self, side: Side, given: Option<&str>) -> Result<Vec<HostPort>, CliError> {
        let environment = std::env::var(side.variable).ok();
        let from = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        endpoints::find(side, given, environment.as_deref(), &*self.world.fs, &from)
    }
}

pub async fn execute(args: Args) -> Result<(), CliError> {
    let context = Context { world: World::real(), global: args.global };
    match args.command {
        Command::Topic(command) => topic::execute(&context, command).await,
        Command::Config(command) => config::execute(&context, command).await,
        Command::Broker(command) => broker::execute(&context, command).await,
        Command::Group(command) => group::execute(&context, command).await,
        Command::Txn(command) => txn::execute(&context, command).await,
        Command::Elect(command) => elect::execute(&context, command).await,
        Command::Reassign(command) => reassign::execute(&context, command).await,
        Command::Records(command) => records::execute(&context, command).await,
        Command::Quorum(command) => quorum::execute(&context, command).await,
        Command::Storage(command) => storage::execute(&context, command),
        Command::Adopt(command) => adopt::execute(&context, &command),
        Command::Log(command) => log::execute(&context, command),
        Command::Produce(command) => produce::execute(&context, command).await,
        Command::Consume(command) => consume::execute(&context, command).await,
        Command::Perf(command) => perf::execute(&context, command).await,
        Command::Completions { shell } => completions::execute(shell),
    }
}
