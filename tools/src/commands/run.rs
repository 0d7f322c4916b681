//! `hotset run`: continue a text.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::path::PathBuf;

use hotset::{Completion, Sampling, Statistics, StopReason};
use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, OverlayArgs, SamplingArgs, SessionArgs, bundle_or_demo};
use crate::profiling::Recording;

/// Continue a text, to stdout
///
/// The prompt is used as it is: special tokens spelled in it count. By default the likeliest token is taken always; --temp, --top-k,
/// --top-p and --min-p make it vary, reproducibly for a --seed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to run [default: the demo bundle]
    bundle: Option<PathBuf>,
    /// Text to continue; `-`, or nothing in a pipe, reads stdin
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Say on stderr how fast it was
    #[arg(long)]
    stats: bool,
    /// Print one JSON object with text, token ids, stop reason and statistics
    #[arg(long)]
    json: bool,
    /// Count which experts are used, and add that to this profile (slower on a GPU, which knows no lengths of outputs)
    #[arg(long, value_name = "P.json")]
    record: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    context: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(Serialize)]
struct Json<'a> {
    text: &'a str,
    tokens: &'a [u32],
    stop: StopReason,
    statistics: Statistics,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let prompt = match args.prompt {
        Some(p) if p != "-" => p,
        None if stdin().is_terminal() => return Err(Failure::new("there is no prompt; give one with -p TEXT or through a pipe")),
        _ => read_stdin()?,
    };
    let engine = args.device.open_with(&bundle_or_demo(args.bundle)?, &args.overlay)?;
    let mut session = args.context.session(&engine)?;
    let recording = args.record.map(|path| Recording::begin(path, "run", &mut session)).transpose()?;
    session.append_text(&prompt)?;
    let prompt_tokens = session.tokens().len();
    let options = args.sampling.options(args.max_tokens, Sampling::default());

    let mut out = stdout().lock();
    let mut stream = session.stream(&options)?;
    let mut said = Ok(());
    for token in &mut stream {
        said = token.map_err(Failure::from).and_then(|token| {
            if !args.json && !token.text.is_empty() {
                out.write_all(token.text.as_bytes())?;
                out.flush()?;
            }
            Ok(())
        });
        if said.is_err() {
            break;
        }
    }
    let completion = stream.finish();
    // What was used before an error is recorded.
    recording.map_or(Ok(()), |r| r.finish(&mut session))?;
    said?;
    args.device.keep_heat(&engine)?;
    if args.json {
        let Completion { text, stop, statistics } = &completion;
        let json = Json { text, tokens: &session.tokens()[prompt_tokens..], stop: *stop, statistics: *statistics };
        serde_json::to_writer(&mut out, &json)?;
    }
    writeln!(out)?;
    if completion.stop == StopReason::Context {
        eprintln!("note: the context of {} tokens is full; --context N makes room, --slide forgets the beginning", session.context());
    }
    if args.stats {
        eprintln!("{}", summary(&completion.statistics));
    }
    Ok(())
}

/// Statistics in one line.
pub(crate) fn summary(s: &Statistics) -> String {
    let rate = |r: Option<f64>| r.map_or("-".into(), |r| format!("{r:.1}"));
    format!(
        "{} prompt tokens at {}/s, first token after {:.2} s, {} tokens at {}/s",
        s.prompt_tokens,
        rate(s.prefill_rate()),
        s.first_token.unwrap_or_default().as_secs_f64(),
        s.generated_tokens,
        rate(s.decode_rate())
    )
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    stdin().read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|e| Failure::new(format!("stdin is not UTF-8 text from byte {} on", e.utf8_error().valid_up_to())))
}
