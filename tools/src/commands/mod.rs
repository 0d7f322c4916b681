//! One file for each command.

mod adapt;
mod bench;
mod chat;
mod concentrate;
mod convert;
mod devices;
mod eval;
mod extend;
mod inspect;
mod logits;
mod moefy;
mod profile;
mod prune;
mod quantize;
mod replay;
mod run;
mod synth;
mod trace;
mod train;
mod training;

use crate::failure::Result;

/// What `hotset` can do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Convert(convert::Args),
    Adapt(adapt::Args),
    Run(run::Args),
    Chat(chat::Args),
    Logits(logits::Args),
    Devices(devices::Args),
    Eval(eval::Args),
    Bench(bench::Args),
    Profile(profile::Args),
    Prune(prune::Args),
    Quantize(quantize::Args),
    Inspect(inspect::Args),
    Trace(trace::Args),
    Replay(replay::Args),
    Synth(synth::Args),
    Moefy(moefy::Args),
    Concentrate(concentrate::Args),
    Extend(extend::Args),
    Train(train::Args),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Command::Convert(args) => convert::run(args),
            Command::Adapt(args) => adapt::run(args),
            Command::Run(args) => run::run(args),
            Command::Chat(args) => chat::run(args),
            Command::Logits(args) => logits::run(args),
            Command::Devices(args) => devices::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Profile(args) => profile::run(args),
            Command::Prune(args) => prune::run(args),
            Command::Quantize(args) => quantize::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Trace(args) => trace::run(args),
            Command::Replay(args) => replay::run(args),
            Command::Synth(args) => synth::run(args),
            Command::Moefy(args) => moefy::run(args),
            Command::Concentrate(args) => concentrate::run(args),
            Command::Extend(args) => extend::run(args),
            Command::Train(args) => train::run(args),
        }
    }
}
