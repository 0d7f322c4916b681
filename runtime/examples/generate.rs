//! Opens a bundle and streams a continuation: `cargo run --example generate -- BUNDLE "Once upon a time"`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::io::Write;

use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bundle, prompt) = args::bundle_and("Once upon a time");
    let engine = Engine::open(bundle, &EngineOptions::default())?;
    let mut session = engine.session(&SessionOptions::default())?;

    session.append_text(&prompt)?;
    print!("{prompt}");
    let completion = session.generate(&GenerateOptions::default(), |token| {
        print!("{}", token.text);
        let _ = std::io::stdout().flush();
    })?;

    let s = completion.statistics;
    println!("\n\nended by {:?}", completion.stop);
    println!("read {} tokens in {:.2?}, first token after {:.2?}", s.prompt_tokens, s.prefill, s.first_token.unwrap_or_default());
    println!("then {:.1} tokens per second", s.decode_rate().unwrap_or_default());
    Ok(())
}
