//! `odradek completions`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::generate;
use clap_complete::shells::{Bash, Fish, Zsh};

use crate::args::{Args, Shell};
use crate::error::CliError;

pub fn execute(shell: Shell) -> Result<(), CliError> {
    let (mut command, name) = (Args::command(), "odradek");
    // Into memory first: the generators panic when they cannot write, as with `| head`.
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(Fish, &mut command, name, &mut script),
    }
    Ok(io::stdout().lock().write_all(&script)?)
}
