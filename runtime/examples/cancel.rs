//! Stops a generation from another thread, then goes on: `cargo run --example cancel -- BUNDLE`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::thread;
use std::time::Duration;

use hotset::{CancelToken, Engine, EngineOptions, GenerateOptions, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bundle, prompt) = args::bundle_and("Once upon a time");
    let engine = Engine::open(bundle, &EngineOptions::default())?;
    let mut session = engine.session(&SessionOptions::default())?;
    session.append_text(&prompt)?;

    let cancel = CancelToken::new();
    let timer = {
        let cancel = cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            cancel.cancel();
        })
    };
    let options = GenerateOptions { max_tokens: 300, ignore_eos: true, cancel: cancel.clone(), ..GenerateOptions::default() };
    let first = session.generate(&options, |_| {})?;
    println!("{:?} after {} tokens:{}", first.stop, first.statistics.generated_tokens, first.text);

    // The session is as good as before: what was generated belongs to it.
    timer.join().map_err(|_| "the timer thread panicked")?;
    cancel.reset();
    let rest = session.generate(&GenerateOptions { max_tokens: 10, ..options }, |_| {})?;
    println!("and on:{}", rest.text);
    Ok(())
}
