//! Two questions in one conversation: `cargo run --example chat -- BUNDLE "First question"`.
//!
//! The second answer is quick to begin: only what is new is read.

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use hotset::{Chat, Engine, EngineOptions, GenerateOptions, Sampling, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (bundle, question) = args::bundle_and("Question: What is anaemia ?\nAnswer:");
    let engine = Engine::open(bundle, &EngineOptions::default())?;
    let mut chat = Chat::new(engine.session(&SessionOptions::default())?)?;

    let sampling = Sampling { temperature: 0.7, top_k: 40, ..Sampling::default() };
    let options = GenerateOptions { max_tokens: 64, sampling, stop: vec!["\n".into()], ..GenerateOptions::default() };
    for question in [question.as_str(), "Question: How many people are affected by it ?\nAnswer:"] {
        let answer = chat.ask(question, &options, |_| {})?;
        println!("{question}{}", answer.text);
        println!("  ({} tokens read)", answer.statistics.prompt_tokens);
    }
    Ok(())
}
