//! One file for each command.

pub(crate) mod synth;

use crate::failure::Result;

/// What `hotset` can do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Synth(synth::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Synth(args) => synth::run(args),
        }
    }
}
