//! `hotset logits`: the numbers behind the words, for conformance tests.

use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use serde::Serialize;

use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, OverlayArgs, SessionArgs};

/// How many of the likeliest tokens are listed for people.
const LISTED: usize = 5;

/// Print the logits after each token
///
/// Without --context there is room for just these tokens. With --json: {"logits": [[…one number for each token of the vocabulary…], …one row for each position…]}, printed so that reading
/// the numbers back gives the same f32. Without: the likeliest tokens of each position.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub(crate) struct Args {
    /// Bundle to run
    bundle: PathBuf,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, group = "input")]
    tokens: Option<String>,
    /// Text to tokenise instead
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, group = "input")]
    text: Option<String>,
    /// Print all of them as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    context: SessionArgs,
}

#[derive(Serialize)]
struct Json<'a> {
    logits: Vec<&'a [f32]>,
}

/// Reads `5,17,3`; nothing at all is an empty prompt.
fn ids(list: &str) -> Result<Vec<u32>> {
    let id = |part: &str| {
        let id = part.trim().parse();
        id.map_err(|_| Failure::new(format!("{part:?} is not a token id; give whole numbers separated by commas, such as 5,17,3")))
    };
    if list.trim().is_empty() { Ok(Vec::new()) } else { list.split(',').map(id).collect() }
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let engine = args.device.open_with(&args.bundle, &args.overlay)?;
    let tokens = match &args.text {
        Some(text) => {
            let tokenizer = engine.tokenizer()?;
            tokenizer.bos().into_iter().chain(tokenizer.encode(text)?).collect()
        }
        None => ids(args.tokens.as_deref().unwrap_or_default())?,
    };
    let logits = args.context.session_for(&engine, tokens.len())?.logits(&tokens)?;
    args.device.keep_heat(&engine)?;
    let rows = logits.chunks(engine.plan().vocab as usize);
    let mut out = BufWriter::new(stdout().lock());
    if args.json {
        serde_json::to_writer(&mut out, &Json { logits: rows.collect() })?;
        writeln!(out)?;
    } else {
        for (position, (token, row)) in tokens.iter().zip(rows).enumerate() {
            let mut ids: Vec<usize> = (0..row.len()).collect();
            ids.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let best: Vec<String> = ids.iter().take(LISTED).map(|&id| format!("{id}: {:.4}", row[id])).collect();
            writeln!(out, "{position:>5}  token {token:<8} {}", best.join("  "))?;
        }
    }
    Ok(out.flush()?)
}
