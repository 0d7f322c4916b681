//! `hotset trace`: which experts a text uses.

use std::path::PathBuf;

use hotset::experts::Trace;
use hotset::{Device, Engine, EngineOptions, Session};

use crate::documents;
use crate::failure::{Failure, Result};
use crate::options::SessionArgs;
use crate::progress;
use crate::saving::Saving;

/// Record which experts a text uses
///
/// Reads the texts one after the other on the CPU, in windows of the context's length, and writes for each forward pass the experts that
/// each step used. `hotset replay` says from that how many of them a memory of a given size would have held. One token at a time
/// is what generating does; --chunk records batches, as reading a prompt does.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to run
    bundle: PathBuf,
    /// UTF-8 text; lines `<|endoftext|>` separate documents (may be given several times)
    #[arg(long, value_name = "FILE", required_unless_present = "random")]
    text: Vec<PathBuf>,
    /// Read so many random tokens instead of text: for bundles without a tokenizer
    #[arg(long, value_name = "N", conflicts_with_all = ["text", "limit"])]
    random: Option<usize>,
    /// Trace to write
    #[arg(short, long, value_name = "T.json")]
    output: PathBuf,
    /// Tokens of a forward pass
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    chunk: u16,
    /// Stop each text after this many tokens
    #[arg(long, value_name = "TOKENS")]
    limit: Option<usize>,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    context: SessionArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let engine = Engine::open(&args.bundle, &EngineOptions { device: Device::Cpu, threads: args.threads, ..EngineOptions::default() })?;
    let mut streams: Vec<Vec<u32>> = args.random.iter().map(|&n| documents::random(engine.plan().vocab).take(n).collect()).collect();
    for path in &args.text {
        let mut tokens = documents::tokens(engine.tokenizer()?, &documents::read(path)?)?;
        tokens.truncate(args.limit.unwrap_or(usize::MAX));
        streams.push(tokens);
    }
    if streams.iter().all(Vec::is_empty) {
        return Err(Failure::new("there is no token to read, nothing to record"));
    }
    let saving = Saving::begin(&args.output)?;
    let mut session = args.context.session(&engine)?;
    session.record_routes()?;
    let mut trace = Trace::new(&engine.manifest().fingerprint);
    let bar = progress::tokens(streams.iter().map(Vec::len).sum());
    for stream in &streams {
        read(&mut session, stream, args.chunk.into(), |session, tokens| {
            trace.passes.extend(session.take_routes());
            bar.inc(tokens);
        })?;
    }
    bar.finish_and_clear();
    Ok(saving.finish(&serde_json::to_vec(&trace)?)?)
}

/// Has the model read `stream`, `chunk` tokens at a time, from the start again whenever the context is full.
fn read(session: &mut Session, stream: &[u32], chunk: usize, mut done: impl FnMut(&mut Session, u64)) -> Result<()> {
    let bos = session.engine().tokenizer().ok().and_then(|t| t.bos());
    let window = session.context() - usize::from(bos.is_some());
    if window == 0 {
        return Err(Failure::new("a context of 1 token has no room for text; choose a longer --context"));
    }
    for window in stream.chunks(window) {
        session.reset();
        let mut rest = window;
        while !rest.is_empty() {
            // A beginning-of-sequence token is read with what follows it.
            let first = bos.filter(|_| session.tokens().is_empty());
            let (now, later) = rest.split_at(rest.len().min(chunk));
            session.append(&first.into_iter().chain(now.iter().copied()).collect::<Vec<u32>>())?;
            session.prefill()?;
            done(session, now.len() as u64);
            rest = later;
        }
    }
    Ok(())
}
