//! The level below text: token ids in, logits out: `cargo run --example tokens -- BUNDLE "Once upon a time"`.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use hotset::{Engine, EngineOptions, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bundle, text) = args::bundle_and("Once upon a time");
    let engine = Engine::open(bundle, &EngineOptions::default())?;
    let tokenizer = engine.tokenizer()?;
    let tokens = tokenizer.encode(&text)?;

    // Logits `[tokens, V]`: row i says what may follow token i.
    let logits = engine.session(&SessionOptions::default())?.logits(&tokens)?;
    for (token, row) in tokens.iter().zip(logits.chunks(engine.plan().vocab as usize)) {
        let mut ids: Vec<u32> = (0..engine.plan().vocab).collect();
        ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        let likely: Vec<String> = ids.iter().take(3).map(|&id| format!("{:?}", tokenizer.decode(&[id]))).collect();
        println!("{:<12} then {}", format!("{:?}", tokenizer.decode(&[*token])), likely.join(", "));
    }
    Ok(())
}
