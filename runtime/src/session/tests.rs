//! Sessions over a scripted model: what it says is a function of what it has read.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod chat;
mod generate;
mod script;

use super::*;
use script::Script;

/// A session over a model that goes on with `answer` (bytes, then end of answer) whatever it is asked.
fn session(answer: &str) -> Session {
    Script::saying(answer).engine(None).session(&SessionOptions::default()).unwrap()
}

fn options(context: usize, overflow: Overflow) -> SessionOptions {
    SessionOptions { context: Some(context), overflow, ..SessionOptions::default() }
}

/// All tokens and the completion.
fn collect(session: &mut Session, options: &GenerateOptions) -> (Vec<Token>, Completion) {
    let mut tokens = Vec::new();
    let completion = session.generate(options, |t| tokens.push(t)).unwrap();
    (tokens, completion)
}

fn texts(tokens: &[Token]) -> Vec<&str> {
    tokens.iter().map(|t| t.text.as_str()).collect()
}
