//! Generates on a worker thread and shows text elsewhere, as a user interface does: `cargo run --example stream_to_thread -- BUNDLE`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::io::Write;
use std::sync::mpsc;
use std::thread;

use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bundle, prompt) = args::bundle_and("Once upon a time");
    let engine = Engine::open(bundle, &EngineOptions::default())?;
    let (send, receive) = mpsc::channel();

    let worker = thread::spawn(move || -> hotset::Result<()> {
        let mut session = engine.session(&SessionOptions::default())?;
        session.append_text(&prompt)?;
        for token in session.stream(&GenerateOptions::default())? {
            // Nobody listens any more: dropping the stream ends the generation.
            if send.send(token?.text).is_err() {
                break;
            }
        }
        Ok(())
    });
    for text in receive {
        print!("{text}");
        std::io::stdout().flush()?;
    }
    println!();
    worker.join().map_err(|_| "the worker panicked")??;
    Ok(())
}
