//! The `hotset` command line.

mod checkpoint;
mod commands;
mod failure;
mod import;
mod synth;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "hotset", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Convert(commands::convert::Args),
    Inspect(commands::inspect::Args),
    Synth(commands::synth::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
        Command::Convert(args) => commands::convert::run(args),
        Command::Inspect(args) => commands::inspect::run(args),
        Command::Synth(args) => commands::synth::run(args),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hotset: {failure}");
            std::process::ExitCode::FAILURE
        }
    }
}
