//! `hotset`: convert checkpoints to bundles, run them, talk to them, measure them.

mod adapt;
mod checkpoint;
mod commands;
mod concentrate;
mod documents;
mod evaluation;
mod extend;
mod failure;
mod import;
mod interrupt;
mod measure;
mod moefy;
mod options;
mod packing;
mod profiling;
mod progress;
mod prune;
mod quantize;
mod random;
mod report;
mod saving;
mod score;
mod synth;
mod terminal;
mod train;
mod training;

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
    let cli = Cli::parse();
    quiet_vulkan();
    patient_training();
    start_logging();
    match cli.command.run() {
        Ok(()) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Err(failure) => {
            // A sentence that comes from elsewhere may have line breaks; an error is one line.
            let line = failure.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("error: {line}");
            ExitCode::FAILURE
        }
    }
}

/// `HOTSET_LOG=debug` (or any filter of `tracing`) writes what the engine does to stderr; silent otherwise.
fn start_logging() {
    if let Ok(filter) = std::env::var("HOTSET_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

/// The workers with which `candle` splits element-wise operations wait in busy loops, which costs most of the time where other programs want
/// the processor too, and gains little where none does. Without them it multiplies matrices on all cores still.
fn patient_training() {
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: as below.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
}

/// Without a desktop session, the Vulkan layer of Mesa that prefers the desktop's GPU complains on stderr every time, where only our own
/// sentences belong. There is nothing for it to prefer then, so it is left out, the way it provides for.
fn quiet_vulkan() {
    if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: no other thread runs yet that could read the environment at the same time.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}
