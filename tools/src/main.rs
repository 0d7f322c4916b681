//! The `hotset` command line.

mod commands;
mod failure;
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
    Synth(commands::synth::Args),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().command {
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
