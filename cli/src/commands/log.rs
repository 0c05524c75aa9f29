//! `odradek log`: the files of log directories, with no cluster running. Nothing is written.

mod decoders;
mod dump;
mod printer;
mod rows;
mod verify;

use super::Context;
use crate::args::Log;
use crate::error::CliError;

pub fn execute(context: &Context, command: Log) -> Result<(), CliError> {
    match command {
        Log::Dump(command) => dump::execute(context, &command),
        Log::Verify(command) => verify::execute(context, &command),
    }
}
