//! What the library answers, for comparison with what arrives in Kotlin and Swift: `answer BUNDLE PROMPT SEED MAX_TOKENS` prints the continuation
//! of a prompt on the CPU, sampled as apps sample by default.

#![allow(clippy::print_stdout, reason = "the answer is what it is for")]

use hotset::{CancelToken, Device, Engine, EngineOptions, SessionOptions};
use hotset_ffi::GenerateOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [bundle, prompt, seed, max_tokens] = &arguments[..] else { return Err("answer BUNDLE PROMPT SEED MAX_TOKENS".into()) };
    let engine = Engine::open(bundle, &EngineOptions { device: Device::Cpu, ..EngineOptions::default() })?;
    let mut session = engine.session(&SessionOptions::default())?;
    session.append_text(prompt)?;
    let options = GenerateOptions { seed: Some(seed.parse()?), max_tokens: max_tokens.parse()?, ..GenerateOptions::default() };
    print!("{}", session.generate(&options.to_generate(CancelToken::new()), |_| {})?.text);
    Ok(())
}
