//! `hotset profile` and `hotset prune` on the demo model: counts are right, survive interruptions and add up; what is pruned at load
//! and what is pruned in a file give the same answers; nonsense is refused in a sentence.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
mod tiny;

use std::path::{Path, PathBuf};

use hotset::bundle::Bundle;
use hotset::profile::{Profile, StepUse, Usage};
use serde_json::Value;
use tiny::{Tiny, hotset, str};

/// The demo bundle.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/molm-demo.hotset");

const TALE: &str = "Once upon a time there was a king who had twelve daughters. They slept in twelve beds in one room. <|endoftext|>
The old woman went to the well, and there she saw a frog sitting on the stone.
<|endoftext|>
There was a little girl who loved her red hat more than anything else in the world.
";
const CODE: &str = "def main(argv: list[str]) -> int:
    for path in argv[1:]:
        with open(path) as file:
            print(len(file.read()))
    return 0


class Stack:
    def __init__(self) -> None:
        self.items = []
";

fn read(path: &Path) -> Profile {
    let profile = Profile::read(&std::fs::read_to_string(path).unwrap()).unwrap();
    profile.check(Bundle::open(DEMO).unwrap().manifest()).unwrap();
    profile
}

/// A profile of both texts.
fn profile(tiny: &Tiny) -> PathBuf {
    let (tale, code, out) = (tiny.file("tale.txt", TALE), tiny.file("code.txt", CODE.repeat(3)), tiny.path("p.json"));
    hotset(&["profile", DEMO, "--text", str(&tale), "--text", str(&code), "-o", str(&out), "--losses", "64"]).ok();
    out
}

#[test]
fn counts_are_right() {
    let tiny = Tiny::new();
    let out = profile(&tiny);
    let profile = read(&out);
    assert_eq!(profile.texts.keys().collect::<Vec<_>>(), ["code", "tale"]);
    for usage in profile.texts.values() {
        assert_eq!(usage.steps.len(), 12);
        for (i, step) in usage.steps.iter().enumerate() {
            assert_eq!(step.selections.iter().sum::<u64>(), 2 * usage.tokens, "two experts for each token");
            assert!(step.gate.iter().sum::<f64>() <= usage.tokens as f64, "weights are not normalised");
            assert!(step.saliency.as_ref().unwrap().iter().all(|s| *s >= 0.0));
            assert_eq!(step.next.iter().sum::<u64>(), if i < 11 { 4 * usage.tokens } else { 0 });
            assert!(step.chunks.iter().all(|c| c.experts >= 2 * c.chunks && c.experts <= 16 * c.chunks));
            assert!(step.effective_experts() >= 2.0 - 1e-9 && step.effective_experts() <= step.selections.len() as f64 + 1e-9);
        }
    }
    let losses = profile.losses.unwrap();
    assert!(losses.base > 1.0 && losses.base < 9.0 && losses.ratios.len() >= 6, "{losses:?}");
    assert!(losses.ratios.windows(2).all(|w| w[0].bytes > w[1].bytes));
    assert!(losses.ratios.last().unwrap().loss > losses.base);
}

/// Whatever the batches, and one token after the other, the same is counted.
#[test]
fn a_conversation_counts_as_a_text_does() {
    let tiny = Tiny::new();
    let text = "Once upon a time there was a king who had twelve daughters";
    let (file, whole, said) = (tiny.file("run.txt", text), tiny.path("whole.json"), tiny.path("said.json"));
    hotset(&["profile", DEMO, "--text", str(&file), "-o", str(&whole)]).ok();
    hotset(&["run", DEMO, "-p", text, "-n", "1", "--device", "cpu", "--record", str(&said)]).ok();
    let (whole, once) = (read(&whole).texts["run"].clone(), read(&said).texts["run"].clone());
    assert_eq!(whole, once);
    hotset(&["run", DEMO, "-p", text, "-n", "1", "--device", "cpu", "--record", str(&said)]).ok();
    assert_eq!(read(&said).texts["run"].tokens, 2 * once.tokens, "added up");
}

#[test]
fn profiles_merge() {
    let tiny = Tiny::new();
    let (tale, code) = (tiny.file("tale.txt", TALE), tiny.file("code.txt", CODE));
    let [a, b, both, merged] = ["a", "b", "both", "merged"].map(|n| tiny.path(n));
    hotset(&["profile", DEMO, "--text", str(&tale), "-o", str(&a)]).ok();
    hotset(&["profile", DEMO, "--text", str(&code), "-o", str(&b)]).ok();
    hotset(&["profile", DEMO, "--text", str(&tale), "--text", str(&code), "-o", str(&both)]).ok();
    hotset(&["profile", "--merge", str(&a), str(&b), "-o", str(&merged)]).ok();
    assert!(same(&read(&merged), &read(&both)), "merged and made at once differ");
    let sum = tiny.path("sum");
    hotset(&["profile", "--merge", str(&a), str(&a), str(&b), "-o", str(&sum)]).ok();
    assert_eq!(read(&sum).texts["tale"].tokens, 2 * read(&a).texts["tale"].tokens);
}

/// Whether two profiles counted the same; sums of weights may have been rounded on their way through a file.
fn same(a: &Profile, b: &Profile) -> bool {
    let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * a.abs());
    let step = |(a, b): (&StepUse, &StepUse)| {
        (&a.selections, &a.next, &a.chunks) == (&b.selections, &b.next, &b.chunks)
            && close(&a.gate, &b.gate)
            && close(a.saliency.as_ref().unwrap(), b.saliency.as_ref().unwrap())
    };
    let text = |(name, a): (&String, &Usage)| a.tokens == b.texts[name].tokens && a.steps.iter().zip(&b.texts[name].steps).all(step);
    a.texts.len() == b.texts.len() && a.texts.iter().all(text)
}

/// Ctrl-C in the middle, then --resume: the profile of an undisturbed run, and nothing is left over.
#[cfg(unix)]
#[test]
fn an_interruption_loses_nothing() {
    let tiny = Tiny::new();
    let (text, out, whole) = (tiny.file("long.txt", TALE.repeat(300)), tiny.path("p.json"), tiny.path("whole.json"));
    let args = ["profile", DEMO, "--text", str(&text), "--context", "64", "-o"];
    hotset(&[&args[..], &[str(&whole)]].concat()).ok();
    let mut child = tiny::command(&[&args[..], &[str(&out)]].concat()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    let part = tiny.path("p.json.part");
    if status.success() {
        assert!(!part.exists(), "finished before the interruption");
    } else {
        assert!(!out.exists() && part.exists(), "nothing half-written");
        let other = [&args[..4], &["--context", "32", "--resume", "-o", str(&out)]].concat();
        assert!(hotset(&other).error().contains("start again without --resume"));
        hotset(&[&args[..], &[str(&out), "--resume"]].concat()).ok();
        assert!(!part.exists());
    }
    assert!(same(&read(&out), &read(&whole)), "what was counted differs");
    assert!(hotset(&[&args[..], &[str(&out), "--resume"]].concat()).error().contains("nothing to resume"));
}

/// Everything that a bundle says about a text, as JSON.
fn logits(args: &[&str]) -> Value {
    serde_json::from_str(&hotset(&[&["logits", "--tokens", "5,17,3,900,41,7,7,2000", "--json"], args].concat()).ok()).unwrap()
}

#[test]
fn at_load_and_in_a_file_answers_are_the_same() {
    let tiny = Tiny::new();
    let p = profile(&tiny);
    let p = str(&p);
    let gpu = support::gpu("pruned bundles");
    let devices: &[&str] = if gpu { &["cpu", "reference", "gpu"] } else { &["cpu", "reference"] };
    for (criterion, semantics, keep) in [("contribution", "masked", "0.4"), ("frequency", "deleted", "0.6"), ("saliency", "masked", "0.5")]
    {
        let out = tiny.path(&format!("{criterion}.hotset"));
        let choice = ["--profile", p, "--keep", keep, "--criterion", criterion, "--semantics", semantics];
        hotset(&[&["prune", DEMO, "-o", str(&out)], &choice[..]].concat()).ok();
        let (small, large) = (std::fs::metadata(&out).unwrap().len(), std::fs::metadata(DEMO).unwrap().len());
        assert!(small < large * 9 / 10, "{small} of {large} bytes");
        hotset(&["inspect", str(&out), "--verify"]).ok();
        for device in devices {
            let pruned = logits(&[str(&out), "--device", device]);
            let overlay = logits(&[&[DEMO, "--device", device], &choice[..]].concat());
            assert_eq!(pruned, overlay, "{criterion} on {device}");
            assert_ne!(pruned, logits(&[DEMO, "--device", device]), "{criterion} changes answers");
        }
        let whole = logits(&[str(&out), "--device", "cpu"]);
        assert_eq!(logits(&[str(&out), "--device", "cpu", "--ram", "16MiB"]), whole, "under a budget");
        // The experts that are left are known by their old ids: the profile is good for the pruned bundle.
        hotset(&["run", str(&out), "-p", "Once", "-n", "1", "--profile", p, "--keep", "0.9", "--semantics", semantics]).ok();
    }
}

/// A conversation goes on with other experts, and with all again; what it uses is recorded either way.
#[test]
fn a_chat_switches_experts() {
    let tiny = Tiny::new();
    let (p, said) = (profile(&tiny), tiny.path("said.json"));
    let input = format!("Once upon a time\n/profile {} 0.3\nOnce upon a time\n/profile\nand then\n/profile nothing\n", p.display());
    let args = ["chat", DEMO, "--temp", "0", "-n", "8", "--device", "cpu", "--record", str(&said)];
    let done = tiny::hotset_with(&args, input.as_bytes());
    assert!(done.stderr.contains("from here on with 30 % of the experts' bytes"), "{}", done.stderr);
    assert!(done.stderr.contains("from here on with all experts") && done.stderr.contains("/profile needs a profile and a share"));
    assert_eq!(done.stdout.lines().count(), 3, "{}", done.stdout);
    // What was used before a mistake is recorded.
    assert_eq!(done.code, Some(1));
    std::fs::remove_file(&said).unwrap();
    let input = input.replace("/profile nothing\n", "");
    assert_eq!(tiny::hotset_with(&args, input.as_bytes()).code, Some(0));
    assert!(read(&said).texts["chat"].tokens > 30);
}

/// Dropped experts may join others: the file is as small, answers differ, and every executor agrees on them.
#[test]
fn what_is_dropped_may_join_others() {
    let tiny = Tiny::new();
    let p = profile(&tiny);
    let prune = |criterion: &str, name: &str| {
        let out = tiny.path(name);
        hotset(&["prune", DEMO, "-o", str(&out), "--profile", str(&p), "--keep", "0.5", "--criterion", criterion]).ok();
        hotset(&["inspect", str(&out), "--verify"]).ok();
        out
    };
    let [merged, recombined] = ["merge", "recombine"].map(|c| prune(c, c));
    for (criterion, joined) in [("frequency", &merged), ("contribution", &recombined)] {
        let plain = prune(criterion, criterion);
        let (a, b) = (Bundle::open(&plain).unwrap(), Bundle::open(joined).unwrap());
        let records = |b: &Bundle| b.plan().pools.iter().map(|p| p.records).collect::<Vec<_>>();
        assert_eq!(records(&a), records(&b), "{criterion}");
        let changed = (0..12).flat_map(|pool| (0..b.plan().pools[pool].records).map(move |r| (pool, r)));
        let changed = changed.filter(|&(pool, r)| a.record(pool, r) != b.record(pool, r)).count();
        assert!(changed > 6, "{criterion}: {changed} records differ");
        let [cpu, reference] = ["cpu", "reference"].map(|d| logits(&[str(joined), "--device", d])["logits"][6][5].as_f64().unwrap());
        assert!((cpu - reference).abs() < 0.2 && cpu.is_finite(), "{criterion}: {cpu}, {reference}");
        assert_ne!(logits(&[str(joined), "--device", "cpu"]), logits(&[str(&plain), "--device", "cpu"]));
    }
    let plan = Bundle::open(&merged).unwrap().plan().clone();
    assert!(plan.steps.iter().all(|s| s.routed.as_ref().unwrap().router.pruned.is_none()), "routers go on choosing merged experts");
    assert!(plan.pools.iter().flat_map(|p| p.alias.iter().flatten()).all(Option::is_some));
}

#[test]
fn a_goal_is_searched_for_by_measuring() {
    let tiny = Tiny::new();
    let p = profile(&tiny);
    let (text, out) = (tiny.file("tale.txt", TALE), tiny.path("out.hotset"));
    let prune = |more: &[&str]| -> Value {
        let args =
            [&["prune", DEMO, "--profile", str(&p), "-o", str(&out), "--text", str(&text), "--for", "tale", "--json"], more].concat();
        serde_json::from_str(&hotset(&args).ok()).unwrap()
    };
    let report = prune(&["--max-loss", "20"]);
    let (before, after) = (report["loss_before"].as_f64().unwrap(), report["loss"].as_f64().unwrap());
    assert!(after <= before * 1.2 && report["share"].as_f64().unwrap() < 0.8, "{report}");
    let budget = std::fs::metadata(DEMO).unwrap().len() * 3 / 4;
    let report = prune(&["--budget", &budget.to_string()]);
    let bytes = std::fs::metadata(&out).unwrap().len();
    assert!(bytes <= budget && bytes * 10 > budget * 9, "{bytes} of {budget}: {report}");
    let eval = hotset(&["eval", str(&out), "--text", str(&text), "--device", "cpu", "--json"]).ok();
    let eval: Value = serde_json::from_str(&eval).unwrap();
    assert!((eval["nll"].as_f64().unwrap() - report["loss"].as_f64().unwrap()).abs() < 1e-9, "the loss is that of the file");
}

#[test]
fn nonsense_is_refused() {
    let tiny = Tiny::new();
    let p = profile(&tiny);
    let (p, out, text) = (str(&p), tiny.path("out"), tiny.file("tale.txt", TALE));
    let (o, text) = (str(&out), str(&text));
    let empty = tiny.file("empty.txt", "");
    let separators = tiny.file("separators.txt", "<|endoftext|>\n<|endoftext|>\n");
    let other = tiny.path("other.json");
    hotset(&["profile", "--merge", p, "-o", str(&other)]).ok();
    let changed = std::fs::read_to_string(&other).unwrap().replacen("\"fingerprint\":\"", "\"fingerprint\":\"0", 1);
    std::fs::write(&other, changed).unwrap();
    let cut = tiny.file("cut.json", &std::fs::read(p).unwrap()[..500]);
    for (args, says) in [
        (&["profile", DEMO, "--text", str(&empty), "-o", o][..], "no token"),
        (&["profile", DEMO, "--text", str(&separators), "-o", o], "no token"),
        (&["profile", DEMO, "--text", text, "--text", text, "-o", o], "two texts are called"),
        (&["profile", DEMO, "--text", text], "-o P.json"),
        (&["profile", DEMO], "no usable profile"),
        (&["profile", p], "--text"),
        (&["profile", "--merge", p, str(&other), "-o", o], "cannot be merged"),
        (&["profile", DEMO, "--text", text, "-o", o, "--device", "reference"], "use the CPU"),
        (&["prune", DEMO, "--profile", str(&other), "--keep", "0.5", "-o", o], "profile of another bundle"),
        (&["prune", DEMO, "--profile", str(&cut), "--keep", "0.5", "-o", o], "cut.json"),
        (&["prune", DEMO, "--profile", text, "--keep", "0.5", "-o", o], "tale.txt"),
        (&["prune", DEMO, "--profile", p, "--keep", "0.05", "-o", o], "fewer than it selects; keep at least 0.15"),
        (&["prune", DEMO, "--profile", p, "--keep", "0", "-o", o], "impossible"),
        (&["prune", DEMO, "--profile", p, "--keep", "1.5", "-o", o], "impossible"),
        (&["prune", DEMO, "--profile", p, "--keep", "0.5", "--for", "law", "-o", o], "no text \"law\"; it has code, tale"),
        (&["prune", DEMO, "--profile", p, "--budget", "1MiB", "-o", o], "without any expert"),
        (&["prune", DEMO, "--profile", p, "--keep", "0.5", "--text", str(&empty), "-o", o], "nothing to predict"),
        (&["run", DEMO, "-p", "x", "--profile", str(&other), "--keep", "0.5"], "profile of another bundle"),
        (&["run", DEMO, "-p", "x", "--profile", p, "--keep", "0.01"], "fewer than it selects"),
        (&["run", DEMO, "-p", "x", "--device", "cpu", "--record", str(&other)], "profile of another bundle"),
    ] {
        let error = hotset(args).error();
        assert!(error.contains(says), "{args:?}: {error}");
        assert!(!out.exists(), "{args:?} left a file");
    }
    for args in [
        &["prune", DEMO, "--profile", p, "-o", o][..],
        &["prune", DEMO, "--profile", p, "--keep", "0.5", "--budget", "1GiB", "-o", o],
        &["prune", DEMO, "--profile", p, "--max-loss", "1", "-o", o],
        &["prune", DEMO, "--profile", p, "--keep", "0.5", "--criterion", "taste", "-o", o],
        &["run", DEMO, "-p", "x", "--profile", p],
        &["run", DEMO, "-p", "x", "--keep", "0.5"],
    ] {
        assert_eq!(hotset(args).code, Some(2), "{args:?}");
    }
}
