//! One file per command.

mod convert;
mod inspect;

use crate::failure::Result;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Turn a checkpoint folder into a bundle
    Convert(convert::Args),
    /// Show what is in a bundle, or check its integrity
    Inspect(inspect::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Convert(args) => convert::run(args),
            Command::Inspect(args) => inspect::run(args),
        }
    }
}
