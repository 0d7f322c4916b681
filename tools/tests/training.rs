//! `hotset train`, `concentrate` and `extend` from the outside: what they print, what they refuse, and that what they write runs.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::{convert, golden, hotset};
use tempfile::TempDir;

/// A folder with a small configuration, a tokenizer and a text.
struct Case {
    dir: TempDir,
}

impl Case {
    fn new() -> Case {
        let case = Case { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(case.path("config")).unwrap();
        let mut config: Value = serde_json::from_slice(&std::fs::read(golden("moduleformer").join("config.json")).unwrap()).unwrap();
        config["vocab_size"] = json!(512);
        std::fs::write(case.path("config/config.json"), config.to_string()).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(golden("stories260K").join(file), case.path("config").join(file)).unwrap();
        }
        std::fs::write(case.path("park.txt"), "Lily saw a big red ball in the park. She said yes.\n".repeat(40)).unwrap();
        std::fs::write(case.path("home.txt"), "Tim and his little dog went home to his mom.\n".repeat(40)).unwrap();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `command source -o target --text text` with small sizes, `more` besides; its exit code, stdout and stderr.
    fn run(&self, [command, source, target, text]: [&str; 4], more: &[&str]) -> (Option<i32>, String, String) {
        let [source, target, text] = [source, target, text].map(|n| self.path(n).to_str().unwrap().to_owned());
        let sizes = ["--window", "16", "--batch", "4", "--held-out", "100", "--lr", "0.005"];
        let done = hotset(&[&[command, &source, "-o", &target, "--text", &text][..], &sizes, more].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (done.status.code(), text(done.stdout), text(done.stderr))
    }

    /// A model trained for a moment.
    fn trained() -> Case {
        let case = Case::new();
        let (code, stdout, stderr) = case.run(["train", "config", "model", "park.txt"], &["--steps", "20"]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert!(stdout.contains("before") && stdout.contains("step 20") && stdout.contains("written"), "{stdout}");
        case
    }

    fn names(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = files.collect();
        names.sort();
        names
    }

    /// The sentence of a run that must fail and leave nothing behind.
    fn refusal(&self, paths: [&str; 4], more: &[&str]) -> String {
        let before = self.names();
        let (code, stdout, message) = self.run(paths, more);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        assert_eq!(self.names(), before, "something was left behind");
        message
    }
}

#[test]
fn from_nothing_to_a_concentrated_and_an_extended_model_that_run() {
    let case = Case::trained();
    let (code, stdout, stderr) =
        case.run(["concentrate", "model", "few", "park.txt"], &["--steps", "30", "--weight", "3", "--train", "routers", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let history = report["history"].as_array().unwrap();
    let used = |check: &Value| check["ffn_experts"].as_f64().unwrap() + check["attention_experts"].as_f64().unwrap();
    assert!(used(history.last().unwrap()) < used(&history[0]), "{stdout}");

    let (code, stdout, stderr) =
        case.run(["extend", "model", "more", "home.txt"], &["--experts", "2", "--attention-experts", "1", "--steps", "20"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("attention") && stdout.contains("feed-forward"), "{stdout}");
    let config: Value = serde_json::from_slice(&std::fs::read(case.path("more/config.json")).unwrap()).unwrap();
    assert_eq!((&config["n_att_experts"], &config["n_mlp_experts"]), (&json!(5), &json!(8)));

    for folder in ["few", "more"] {
        let out = tempfile::tempdir().unwrap();
        let bundle = convert(&case.path(folder), out.path(), "f32");
        let done = hotset(&["run", bundle.to_str().unwrap(), "-p", "Lily saw", "-n", "8", "--device", "cpu"]);
        assert!(done.status.success() && !done.stdout.is_empty(), "{folder}");
    }
}

/// Ctrl-C keeps the state; `--resume` takes it up and removes it at the end.
#[cfg(unix)]
#[test]
fn an_interruption_keeps_the_state() {
    let case = Case::trained();
    let [source, target, text] = ["model", "out", "park.txt"].map(|n| case.path(n).to_str().unwrap().to_owned());
    let args = ["concentrate", &source, "-o", &target, "--text", &text, "--window", "16", "--batch", "2", "--held-out", "100"];
    let more = ["--steps", "1000000", "--save-every", "5"];
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_hotset")).args(args).args(more).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let state = case.path("out.training/state.safetensors");
    while !state.is_file() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = child.wait_with_output().unwrap();
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.code() == Some(1) && message.contains("go on with --resume"), "{message}");
    assert!(!case.path("out").exists() && state.is_file());

    let run = |more: &[&str]| {
        let done = hotset(&[&args[..], more].concat());
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, message) = run(&["--steps", "1000000"]);
    assert!(code == Some(1) && message.contains("--resume"), "{message}");
    let (code, message) = run(&["--steps", "10", "--resume"]);
    assert!(code == Some(1) && message.contains("--steps 1000000, not 10"), "{message}");
}

#[test]
fn what_cannot_be_done_is_said_in_a_sentence() {
    let case = Case::trained();
    let concentrate = ["concentrate", "model", "out", "park.txt"];
    assert!(case.refusal(concentrate, &["--resume"]).contains("no state"));
    assert!(case.refusal(["concentrate", "model", "model", "park.txt"], &[]).contains("exists already"));
    assert!(case.refusal(["concentrate", "model", "out", "absent.txt"], &[]).contains("absent.txt"));
    std::fs::write(case.path("short.txt"), "Lily").unwrap();
    assert!(case.refusal(["concentrate", "model", "out", "short.txt"], &[]).contains("too short"));
    assert!(case.refusal(["train", "model", "model", "park.txt"], &[]).contains("exists already"));
    std::fs::remove_file(case.path("model/tokenizer.json")).unwrap();
    assert!(case.refusal(concentrate, &[]).contains("no tokenizer.json"));
    assert_eq!(case.run(concentrate, &["--weight", "-1"]).0, Some(2));
    assert_eq!(case.run(["extend", "model", "out", "park.txt"], &[]).0, Some(2), "how many?");
    let latent = golden("deepseek_v3");
    let done = hotset(&["concentrate", latent.to_str().unwrap(), "-o", "x", "--text", case.path("park.txt").to_str().unwrap()]);
    assert!(String::from_utf8(done.stderr).unwrap().contains("latent attention"));
}
