//! `hotset`: convert checkpoints to bundles, run them, talk to them, measure them.

mod checkpoint;
mod commands;
mod failure;
mod import;

use std::process::ExitCode;

use clap::Parser;

use failure::Failure;

#[derive(Parser)]
#[command(name = "hotset", version, about = "Runs Mixture-of-Experts language models that are larger than the memory of the device")]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    // Usage errors end here with exit code 2, `--help` and `--version` with 0.
    match Cli::parse().command.run() {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            // A sentence that comes from elsewhere may have line breaks; an error is one line.
            let line = failure.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("error: {line}");
            ExitCode::FAILURE
        }
    }
}
