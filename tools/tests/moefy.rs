//! `hotset moefy` from the outside: what it prints, what it refuses, and that nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{convert, golden, hotset};
use tempfile::TempDir;

/// A dense model that a test may change, beside a text.
struct Case {
    dir: TempDir,
}

impl Case {
    fn new() -> Case {
        let case = Case { dir: tempfile::tempdir().unwrap() };
        let model = case.path("dense");
        std::fs::create_dir(&model).unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::write(model.join(file), std::fs::read(golden("stories260K").join(file)).unwrap()).unwrap();
        }
        let story = "One day, Lily saw a big red ball in the park. \"Can I play with it?\" she asked. Her mom smiled and said yes.\n";
        std::fs::write(case.path("story.txt"), story.repeat(60)).unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit(&self, key: &str, value: Value) {
        let path = self.path("dense").join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
    }

    /// Runs the tool with a text, an output folder and small sizes, `more` besides; its exit code, stdout and stderr.
    fn run(&self, more: &[&str]) -> (Option<i32>, String, String) {
        let (model, out, text) = (self.path("dense"), self.path("moe"), self.path("story.txt"));
        let paths = [&model, &out, &text].map(|p| p.to_str().unwrap());
        let args = ["moefy", paths[0], "-o", paths[1], "--text", paths[2], "--window", "32", "--calibration", "256", "--held-out", "256"];
        let done = hotset(&[&args[..], more].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    }

    /// The sentence of a run that must fail and leave nothing behind.
    fn refusal(&self, more: &[&str]) -> String {
        let before = self.names();
        let (code, stdout, message) = self.run(more);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        assert_eq!(self.names(), before, "something was left behind");
        message
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn losses_are_printed_and_the_folder_is_a_checkpoint() {
    let case = Case::new();
    let (code, stdout, stderr) = case.run(&["--experts", "4", "--heal", "5", "--batch", "2"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("after the cut") && stdout.contains("step 5") && stdout.contains("nats per token"), "{stdout}");
    let written = config(&case.path("moe"));
    let expected = json!({
        "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 43, "scale_factor": 2.0,
        "use_attn_moe": false, "add_rescale_bias": false, "intermediate_size_residual": null, "tie_word_embeddings": true, "rope_theta": 10000.0,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&written[key], value, "{key}");
    }
    // Every key that the published configurations have.
    for key in config(&golden("llama_moe_v2")).as_object().unwrap().keys().filter(|k| !written.as_object().unwrap().contains_key(*k)) {
        assert!(
            ["attn_implementation", "attention_dropout", "initializer_range", "pad_token_id", "transformers_version", "use_cache"]
                .contains(&key.as_str()),
            "{key}"
        );
    }
    let bundle = convert(&case.path("moe"), case.dir.path(), "q8");
    let done = hotset(&["run", bundle.to_str().unwrap(), "-p", "One day", "-n", "8", "--device", "cpu"]);
    assert!(done.status.success() && !done.stdout.is_empty());
}

#[test]
fn json_is_all_there_is_on_stdout() {
    let case = Case::new();
    let (code, stdout, stderr) = case.run(&["--experts", "2", "--residual", "2", "--top-k", "1", "--attention", "--align", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert!(report["dense"].as_f64().unwrap() < report["cut"].as_f64().unwrap());
    assert_eq!((&report["healed"], &report["history"][0]["step"]), (&Value::Null, &json!(0)));
    let written = config(&case.path("moe"));
    assert_eq!(
        (&written["attn_experts"], &written["top_k_attn"], &written["intermediate_size_residual"]),
        (&json!(4), &json!(3), &json!(86))
    );
    convert(&case.path("moe"), case.dir.path(), "f32");
}

#[test]
fn splits_that_do_not_come_out_even() {
    let case = Case::new();
    let message = case.refusal(&["--experts", "8"]);
    assert!(message.contains("172 neurons") && message.contains("2, 4, 43"), "{message}");
    assert!(case.refusal(&["--experts", "3", "--residual", "2"]).contains("5 equal parts"));
    assert!(case.refusal(&["--experts", "4", "--top-k", "5"]).contains("--top-k 5"));
    assert!(case.refusal(&["--experts", "4", "--top-k", "0"]).contains("--top-k 0"));
    assert!(case.refusal(&["--experts", "0"]).contains("--experts 0"));
    assert!(case.refusal(&["--experts", "4", "--attention=6"]).contains("4 or 8 experts"));
    assert!(case.refusal(&["--experts", "4", "--attention=3"]).contains("4 or 8 experts"));
    assert!(case.refusal(&["--experts", "4", "--attention=8", "--attention-top-k", "9"]).contains("9 of 8"));
    assert_eq!(case.run(&["--experts", "4", "--lr", "-1"]).0, Some(2));
    assert_eq!(case.run(&["--attention-top-k", "2"]).0, Some(2), "without --attention");
}

#[test]
fn texts() {
    let case = Case::new();
    std::fs::write(case.path("story.txt"), "One day").unwrap();
    assert!(case.refusal(&["--experts", "4"]).contains("too short"));
    std::fs::remove_file(case.path("story.txt")).unwrap();
    assert!(case.refusal(&["--experts", "4"]).contains("story.txt"));
    let done = hotset(&["moefy", case.path("dense").to_str().unwrap(), "-o", "x"]);
    assert_eq!(done.status.code(), Some(2), "no text at all");
}

#[test]
fn models() {
    for (key, value, named) in [
        ("model_type", json!("mixtral"), "dense models"),
        ("attention_bias", json!(true), "bias"),
        ("hidden_act", json!("gelu"), "hidden_act"),
        ("attention_is_all_you_need", json!(true), "attention_is_all_you_need"),
        ("intermediate_size", json!(171), "171"),
        ("max_position_embeddings", json!(16), "the 16 tokens"),
    ] {
        let case = Case::new();
        case.edit(key, value);
        let message = case.refusal(&["--experts", "4"]);
        assert!(message.contains(named), "{key}: {message}");
    }
    let case = Case::new();
    std::fs::remove_file(case.path("dense").join("tokenizer.json")).unwrap();
    assert!(case.refusal(&["--experts", "4"]).contains("no tokenizer.json"));
}

#[test]
fn what_exists_is_not_overwritten() {
    let case = Case::new();
    std::fs::create_dir(case.path("moe")).unwrap();
    assert!(case.refusal(&["--experts", "4"]).contains("exists already"));
}
