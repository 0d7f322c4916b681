//! `hotset convert` and `hotset inspect` when something is wrong: one sentence, exit code 1, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::{convert, golden, hotset};
use tempfile::TempDir;

/// A golden checkpoint that a test may change.
fn copy(case: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden(case)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn edit(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(path, config.to_string()).unwrap();
}

/// Converts and gives the error sentence.
fn refusal(source: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("x.hotset");
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", target.to_str().unwrap()]);
    let message = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0, "something was left behind");
    message
}

#[test]
fn not_a_checkpoint() {
    let empty = tempfile::tempdir().unwrap();
    assert!(refusal(empty.path()).contains("config.json"));
    assert!(refusal(&empty.path().join("nowhere")).contains("not a checkpoint folder"));
    std::fs::write(empty.path().join("config.json"), "{").unwrap();
    assert!(refusal(empty.path()).contains("not valid JSON"));
    std::fs::write(empty.path().join("config.json"), "[]").unwrap();
    assert!(refusal(empty.path()).contains("not a JSON object"));
    std::fs::write(empty.path().join("config.json"), "{}").unwrap();
    assert!(refusal(empty.path()).contains("holds no weights"));
}

#[test]
fn unknown_and_unsupported_models() {
    let folder = copy("mixtral");
    edit(folder.path(), |c| c["model_type"] = json!("transmogrifier"));
    let message = refusal(folder.path());
    assert!(message.contains("transmogrifier") && message.contains("olmoe"), "{message}");
    edit(folder.path(), |c| {
        c["model_type"] = json!("mixtral");
        c["num_experts_per_tok"] = json!(5);
    });
    let message = refusal(folder.path());
    assert!(message.contains("top-5 of 4"), "{message}");
}

#[test]
fn damaged_weights() {
    let folder = copy("mixtral");
    let path = folder.path().join("model.safetensors");
    let sound = std::fs::read(&path).unwrap();
    let mut broken = sound.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, &broken).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("NaN") && message.contains("tensor \"model."), "{message}");
    std::fs::write(&path, &sound[..end - 100]).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("model.safetensors") && message.contains("download"), "{message}");
    std::fs::write(&path, b"\xff\xff\xff\xff\xff\xff\xff\x7f").unwrap();
    assert!(refusal(folder.path()).contains("model.safetensors"));
}

#[test]
fn missing_and_misleading_parts() {
    let folder = copy("mixtral_bf16");
    let index = folder.path().join("model.safetensors.index.json");
    let shard = folder.path().join("model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::remove_file(&shard).unwrap();
    assert!(refusal(folder.path()).contains("model-00002-of-00002.safetensors"));
    std::fs::write(&shard, bytes).unwrap();
    std::fs::write(&index, json!({ "weight_map": { "a": "../../etc/passwd" } }).to_string()).unwrap();
    assert!(refusal(folder.path()).contains("not in its folder"));
    std::fs::write(&index, json!({ "weight_map": { "a": "model-00001-of-00002.safetensors" } }).to_string()).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("lacks the tensor"), "{message}");
    std::fs::write(&index, "{}").unwrap();
    assert!(refusal(folder.path()).contains("weight_map"));
}

#[test]
fn values_that_do_not_fit() {
    let folder = copy("mixtral");
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The last tensor is the final norm, a vector; the one before it is a matrix of the last layer.
    let end = bytes.len() - 32 * 4;
    bytes[end - 4..end].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("x.hotset");
    let done = hotset(&["convert", folder.path().to_str().unwrap(), "-o", target.to_str().unwrap(), "--codec", "f16"]);
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && message.contains("too large for f16"), "{message}");
    convert(folder.path(), out.path(), "bf16");
}

#[test]
fn a_bad_target_is_named() {
    let source = golden("mixtral");
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", "/nonexistent-folder/x.hotset"]);
    let message = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(message.contains("/nonexistent-folder"), "{message}");
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", "x.hotset", "--codec", "q5"]);
    assert_eq!(done.status.code(), Some(2), "an unknown codec is a wrong use");
}

/// The configuration file names its folder; an existing bundle is replaced; the summary is JSON when asked for.
#[test]
fn config_json_names_its_folder() {
    let out = tempfile::tempdir().unwrap();
    let target = convert(&golden("mixtral"), out.path(), "q8");
    let first = std::fs::read(&target).unwrap();
    let source = golden("mixtral").join("config.json");
    let done = hotset(&["convert", source.to_str().unwrap(), "-o", target.to_str().unwrap(), "--codec", "q8", "--json"]);
    assert!(done.status.success());
    let summary: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&summary["family"], &summary["codec"], &summary["experts"]), (&json!("mixtral"), &json!("q8"), &json!(8)));
    assert_eq!(std::fs::read(&target).unwrap(), first, "the same checkpoint gives the same bytes");
    assert_eq!(summary["bytes"], json!(first.len()));
}

/// A tokenizer travels with the model.
#[test]
fn the_tokenizer_is_carried_along() {
    let folder = copy("mixtral");
    let tokenizer = json!({ "added_tokens": [{ "id": 2, "content": "</s>" }], "model": { "vocab": {} } }).to_string();
    std::fs::write(folder.path().join("tokenizer.json"), &tokenizer).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let out = tempfile::tempdir().unwrap();
    let bundle = hotset::bundle::Bundle::open(convert(folder.path(), out.path(), "q4")).unwrap();
    assert_eq!(bundle.tokenizer(), Some(tokenizer.as_bytes()));
    let text = bundle.manifest().text.as_ref().unwrap();
    assert_eq!((text.chat_template.as_deref(), &text.eos[..]), (Some("{{ messages }}"), &[2][..]));
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(refusal(folder.path()).contains("tokenizer.json"));
}

#[test]
fn inspect_shows_and_verifies() {
    let out = tempfile::tempdir().unwrap();
    let bundle = convert(&golden("qwen2_moe_mixed"), out.path(), "q4");
    let path = bundle.to_str().unwrap();
    let shown = hotset(&["inspect", path]);
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in ["qwen2_moe", "converted to q4", "5 experts", "window 5", "dense feed-forward", "always-on", "128 tokens"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let json: Value = serde_json::from_slice(&hotset(&["inspect", path, "--json", "--verify"]).stdout).unwrap();
    assert_eq!((&json["verified"], &json["steps"][3]["routes"]), (&json!(true), &Value::Null));
    assert_eq!(json["pools"].as_array().unwrap().len(), 1);
    let mut bytes = std::fs::read(&bundle).unwrap();
    let last = bytes.len() - 20_000;
    bytes[last] ^= 1;
    std::fs::write(&bundle, bytes).unwrap();
    assert!(hotset(&["inspect", path]).status.success());
    let failed = hotset(&["inspect", path, "--verify"]);
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && message.contains("damaged"), "{message}");
    assert_eq!(hotset(&["inspect", "/nonexistent"]).status.code(), Some(1));
}
