//! Which experts conversations of a kind use, and a session that does with those alone.
//!
//! `cargo run --release -p hotset --example profile -- tools/demo/molm-demo.hotset`

#![allow(clippy::print_stdout, reason = "an example shows its result")]

use std::error::Error;
use std::io::Write;

use hotset::profile::{KeepOptions, Profile};
use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let bundle = std::env::args().nth(1).ok_or("usage: profile BUNDLE")?;
    let engine = Engine::open(bundle, &EngineOptions::default())?;

    // Count what a conversation uses. An application would do so for many, and keep the profile in a file (`to_json`, `read`).
    let mut session = engine.session(&SessionOptions::default())?;
    session.record_use()?;
    session.append_text("Once upon a time")?;
    session.generate(&GenerateOptions { max_tokens: 64, ..GenerateOptions::default() }, |_| ())?;
    let mut profile = Profile::new(engine.bundle());
    if let Some(usage) = session.take_use() {
        profile.add("stories", &usage)?;
    }

    // Half of the experts' bytes, for this session alone; the others are neither chosen nor read.
    let kept = profile.keep(engine.bundle(), &KeepOptions { keep: 0.5, ..KeepOptions::default() })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{} bytes of experts stay", kept.bytes(engine.bundle()))?;
    let mut session = engine.session(&SessionOptions { kept: Some(kept), ..SessionOptions::default() })?;
    session.append_text("Once upon a time")?;
    for token in session.stream(&GenerateOptions { max_tokens: 64, ..GenerateOptions::default() })? {
        write!(out, "{}", token?.text)?;
    }
    writeln!(out)?;
    Ok(())
}
