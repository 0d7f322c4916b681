//! `hotset run` and `hotset chat` in pipes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod tiny;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::Value;
use tiny::{EOS, Tiny, command, hotset, hotset_with, str};

#[test]
fn the_likeliest_text() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let b = str(&b);
    assert_eq!(hotset(&["run", b, "-p", "say H"]).ok(), "é w!\n");
    assert_eq!(hotset_with(&["run", b], b"say H").ok(), "é w!\n");
    assert_eq!(hotset_with(&["run", b, "-p", "-"], b"say H").ok(), "é w!\n");
    assert_eq!(hotset(&["run", b, "-p", "-H"]).ok(), "é w!\n", "a prompt may begin with a hyphen");
    assert_eq!(hotset(&["run", b, "-p", "H", "-n", "3"]).ok(), "é \n");
    assert_eq!(hotset(&["run", b, "-p", "H", "-n", "0"]).ok(), "\n");
    assert_eq!(hotset(&["run", b, "-p", "H", "--stop", "w", "--stop", "x"]).ok(), "é \n");
    assert_eq!(hotset(&["run", b, "-p", "H", "--stop", "w?"]).ok(), "é w!\n");
}

#[test]
fn json() {
    let tiny = Tiny::new();
    let out = hotset(&["run", str(&tiny.bundle()), "-p", "H", "--json"]).ok();
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["text"], "é w!");
    assert_eq!(json["stop"], "eos");
    assert_eq!(json["tokens"].as_array().unwrap().last().unwrap(), EOS);
    assert_eq!(json["statistics"]["generated_tokens"], 6);
    assert!(json["statistics"]["prefill_seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn seeds_reproduce_and_differ() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let sample = |seed: &str| hotset(&["run", str(&b), "-p", "?", "-n", "20", "--temp", "1", "--seed", seed]).ok();
    assert_eq!(sample("5"), sample("5"));
    assert_ne!(sample("5"), sample("6"));
    let top_1 = hotset(&["run", str(&b), "-p", "?", "-n", "20", "--temp", "1", "--top-k", "1"]).ok();
    assert_eq!(top_1, hotset(&["run", str(&b), "-p", "?", "-n", "20"]).ok());
}

#[test]
fn a_full_context_ends_with_a_note_and_sliding_goes_on() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let done = hotset(&["run", str(&b), "-p", "H", "--context", "3"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "é \n"));
    assert!(done.stderr.contains("context of 3 tokens is full"));
    assert_eq!(hotset(&["run", str(&b), "-p", "say H", "--context", "3", "--slide"]).ok(), "é w!\n");
}

#[test]
fn text_streams_while_it_is_made() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    // Endless: the pipe must get text long before the end, and the program must end quietly when nobody listens any more.
    let args = ["run", str(&b), "-p", "?", "-n", "100000000", "--slide", "--temp", "1"];
    let mut child = command(&args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 64];
    BufReader::new(child.stdout.take().unwrap()).read_exact(&mut first).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn chat_in_a_pipe() {
    let tiny = Tiny::new();
    let saved = tiny.path("saved.json");
    let b = tiny.chat_bundle("{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}");
    let input = format!("H\nsay\\\nH\n\n/save {}\n/reset\nH\n/quit\nH\n", str(&saved));
    let done = hotset_with(&["chat", str(&b), "--temp", "0", "--context", "100", "--system", "S"], input.as_bytes());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "é w!\né w!\né w!\n"), "{}", done.stderr);
    let messages: Value = serde_json::from_str(&std::fs::read_to_string(saved).unwrap()).unwrap();
    let said: Vec<_> = messages.as_array().unwrap().iter().map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap())).collect();
    assert_eq!(said, [("system", "S"), ("user", "H"), ("assistant", "é w!"), ("user", "say\nH"), ("assistant", "é w!")]);
}

/// A conversation that is kept goes on where it was, and is refused where it does not belong.
#[test]
fn a_chat_goes_on_another_day() {
    let tiny = Tiny::new();
    let b = tiny.chat_bundle("{% for m in messages %}{{ m.role[0] + m.content }}{% endfor %}");
    let (kept, saved) = (tiny.path("kept"), tiny.path("saved.json"));
    let chat = ["chat", str(&b), "--temp", "0"];
    let first = [&chat[..], &["--context", "100"]].concat();
    let done = hotset_with(&first, format!("H\n/keep {}\nH\n", str(&kept)).as_bytes());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "é w!\né w!\n"), "{}", done.stderr);
    let again = [&chat[..], &["--restore", str(&kept)]].concat();
    let done = hotset_with(&again, format!("H\n/save {}\n", str(&saved)).as_bytes());
    assert_eq!((done.code, done.stdout.as_str()), (Some(0), "é w!\n"), "{}", done.stderr);
    let messages: Value = serde_json::from_str(&std::fs::read_to_string(saved).unwrap()).unwrap();
    assert_eq!(messages.as_array().unwrap().len(), 4);

    assert_eq!(hotset_with(&[&again[..], &["--context", "100"]].concat(), b"H\n").code, Some(2));
    let done = hotset_with(&["chat", str(&b), "--restore", str(&b)], b"H\n");
    assert!(done.code == Some(1) && done.stderr.contains("is not a conversation that can go on here"), "{}", done.stderr);
}

#[test]
fn chat_in_a_pipe_fails_when_the_context_is_full() {
    let tiny = Tiny::new();
    let done = hotset_with(&["chat", str(&tiny.bundle()), "--temp", "0", "--context", "10"], b"H\nH\nH\n");
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "é w!\né \n"), "the second answer is cut short, the third question refused");
    assert!(done.stderr.lines().last().unwrap().contains("do not fit the context of 10"), "{}", done.stderr);
}

#[test]
fn logging_is_off_unless_asked_for() {
    let tiny = Tiny::new();
    let b = tiny.bundle();
    let output = command(&["run", str(&b), "-p", "H"]).env("HOTSET_LOG", "info").stdin(Stdio::null()).output().unwrap();
    assert!(output.stderr.lines().map_while(Result::ok).any(|l| l.contains("tiny.hotset")));
}
