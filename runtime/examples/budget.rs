//! A model that may take only so much memory, and less of it when the system asks for some in the middle of an answer.
//!
//! `cargo run --release -p hotset --example budget -- tools/demo/molm-demo.hotset 24000000`

use std::error::Error;
use std::io::Write;

use hotset::{Device, Engine, EngineOptions, GenerateOptions, PagingOptions, SessionOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(bundle), Some(bytes)) = (args.next(), args.next()) else {
        return Err("usage: budget BUNDLE BYTES".into());
    };
    let paging = PagingOptions { ram: Some(bytes.parse()?), ..PagingOptions::default() };
    let engine = Engine::open(bundle, &EngineOptions { device: Device::Cpu, paging, ..EngineOptions::default() })?;
    let mut session = engine.session(&SessionOptions { context: Some(512), ..SessionOptions::default() })?;
    session.append_text("Once upon a time")?;

    let mut out = std::io::stdout().lock();
    let mut stream = session.stream(&GenerateOptions { max_tokens: 60, ..GenerateOptions::default() })?;
    for (i, token) in stream.by_ref().enumerate() {
        write!(out, "{}", token?.text)?;
        if i == 30 {
            // An app does this from wherever the system tells it of memory pressure.
            let least = engine.report().paging.map_or(0, |p| p.least);
            engine.set_budget(least + (1 << 20))?;
        }
    }
    drop(stream);
    let paging = engine.report().paging.unwrap_or_default();
    writeln!(out, "\n{} of {} bytes of experts in memory, {:?}", paging.slots, paging.experts, paging.counts)?;
    // Where the next start should take up.
    if let Some(heat) = engine.heat() {
        writeln!(out, "{} bytes of heat to keep", heat.len())?;
    }
    Ok(())
}
