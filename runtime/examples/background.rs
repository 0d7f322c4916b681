//! An app that goes to the background in the middle of an answer, keeps the conversation in a file, and comes back.
//!
//! `cargo run --release -p hotset --example background`

use std::error::Error;
use std::sync::mpsc;
use std::time::Duration;

use hotset::{Engine, EngineOptions, GenerateOptions, PagingOptions, Session, SessionOptions};

#[path = "common/args.rs"]
mod args;

fn main() -> Result<(), Box<dyn Error>> {
    let (bundle, prompt) = args::bundle_and("Once upon a time");
    let paging = PagingOptions { budget: Some(64 << 20), ..PagingOptions::default() };
    let engine = Engine::open(bundle, &EngineOptions { paging, ..EngineOptions::default() })?;
    let mut session = engine.session(&SessionOptions::default())?;
    session.append_text(&prompt)?;

    // Answers are generated on a thread of their own, so that the app's main thread never waits.
    let (tokens, shown) = mpsc::channel();
    let worker = std::thread::spawn(move || -> hotset::Result<Session> {
        // Somebody who has stopped listening does not want to hear of it.
        session.generate(&GenerateOptions { max_tokens: 60, ..GenerateOptions::default() }, |token| drop(tokens.send(token.text)))?;
        Ok(session)
    });
    let first: String = shown.iter().take(10).collect();
    eprintln!("{prompt}{first} …");

    let working = engine.report().device_bytes;
    engine.suspend()?;
    eprintln!("suspended: {} of {working} bytes on the device", engine.report().device_bytes);
    std::thread::sleep(Duration::from_millis(200));
    engine.resume()?;
    eprintln!("… {}", shown.iter().collect::<String>());
    let Ok(answered) = worker.join() else { return Err("the worker has failed".into()) };
    let mut session = answered?;

    // What the system may end at any moment is kept where the next start finds it.
    let file = std::env::temp_dir().join(format!("hotset-{}.conversation", std::process::id()));
    session.save(&file)?;
    drop(session);
    let mut session = engine.restore(&file)?;
    std::fs::remove_file(&file)?;
    eprintln!("restored: {} of {} tokens need not be read again", session.read(), session.tokens().len());
    session.generate(&GenerateOptions { max_tokens: 20, ..GenerateOptions::default() }, |token| eprint!("{}", token.text))?;
    eprintln!();
    Ok(())
}
