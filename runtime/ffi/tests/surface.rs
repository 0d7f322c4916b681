//! The surface as Kotlin and Swift see it, called from Rust: what both languages rely on.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; some measure")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hotset_ffi::{
    Engine, EngineOptions, GenerateOptions, HotsetError, ListenerError, LoadListener, ProfileOptions, Session, SessionOptions, StopReason,
    TokenStream,
};
use pollster::block_on;

fn demo() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/demo/molm-demo.hotset").to_str().unwrap().to_owned()
}

fn on_cpu(budget: Option<u64>) -> EngineOptions {
    EngineOptions { device: "cpu".into(), budget, threads: Some(2), ..EngineOptions::default() }
}

fn open(budget: Option<u64>) -> Arc<Engine> {
    block_on(Engine::open(demo(), on_cpu(budget), None)).unwrap()
}

fn session(engine: &Engine) -> Arc<Session> {
    engine.session(SessionOptions::default()).unwrap()
}

fn seeded(max_tokens: u32) -> GenerateOptions {
    GenerateOptions { seed: Some(7), max_tokens, ..GenerateOptions::default() }
}

fn start(session: &Arc<Session>, prompt: &str, max_tokens: u32) -> Arc<TokenStream> {
    session.clone().complete(prompt.into(), seeded(max_tokens)).unwrap()
}

/// Everything that comes, as text.
fn rest(stream: &TokenStream) -> String {
    let mut text = String::new();
    while let Some(token) = block_on(stream.next()).unwrap() {
        text += &token.text;
    }
    text
}

fn take(stream: &TokenStream, n: usize) -> String {
    (0..n).map(|_| block_on(stream.next()).unwrap().unwrap().text).collect()
}

/// The library's own answer.
fn expected(prompt: &str, max_tokens: u32) -> String {
    let engine = hotset::Engine::open(demo(), &hotset::EngineOptions { device: hotset::Device::Cpu, ..Default::default() }).unwrap();
    let mut session = engine.session(&hotset::SessionOptions::default()).unwrap();
    session.append_text(prompt).unwrap();
    session.generate(&seeded(max_tokens).to_generate(hotset::CancelToken::new()), |_| {}).unwrap().text
}

/// Kibibytes of memory that this process really holds.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn answers_are_the_librarys() {
    let engine = open(None);
    let info = engine.info().unwrap();
    assert!(!info.gpu && info.file_bytes > 1 << 20 && !info.name.is_empty());
    let session = session(&engine);
    let stream = start(&session, "Once upon a time", 60);
    assert_eq!(rest(&stream), expected("Once upon a time", 60));
    assert_eq!(stream.stop_reason(), Some(StopReason::MaxTokens));
    let statistics = stream.statistics();
    assert_eq!(statistics.generated_tokens, 60);
    assert!(statistics.tokens_per_second.unwrap() > 0.0 && statistics.first_token_seconds.unwrap() > 0.0);
    assert_eq!(session.token_count().unwrap(), statistics.prompt_tokens + 60);
}

#[test]
fn a_cancelled_answer_stops_within_a_token() {
    let engine = open(None);
    let session = session(&engine);
    let stream = start(&session, "Once upon a time", 2000);
    take(&stream, 5);
    stream.cancel();
    rest(&stream);
    while session.token_count().is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let stopped = stream.statistics().generated_tokens;
    // Five were taken, four wait in the channel, one may be on its way into it and one under way.
    assert!((5..=11).contains(&stopped), "{stopped}");
    assert_eq!(stream.stop_reason(), Some(StopReason::Cancelled));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(stream.statistics().generated_tokens, stopped);
    // The conversation goes on from there.
    assert!(!rest(&start(&session, " and", 5)).is_empty());
}

#[test]
fn a_dropped_stream_frees_the_session() {
    let engine = open(None);
    let session = session(&engine);
    let stream = start(&session, "Once upon a time", 2000);
    take(&stream, 1);
    assert!(matches!(session.clone().complete("x".into(), seeded(1)), Err(HotsetError::Busy)));
    assert!(matches!(session.reset(), Err(HotsetError::Busy)));
    drop(stream);
    while matches!(session.reset(), Err(HotsetError::Busy)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(session.token_count().unwrap(), 0);
}

#[test]
fn budgets_move_while_it_answers() {
    let engine = open(Some(64 << 20));
    let session = session(&engine);
    let stream = start(&session, "Once upon a time", 60);
    let first = take(&stream, 3);
    let report = engine.memory_report().unwrap();
    assert_eq!(report.budget, Some(64 << 20));
    let least = report.least.unwrap();
    let Err(HotsetError::Invalid(message)) = engine.set_budget(least - 1) else { panic!("a budget below the least was taken") };
    assert!(message.contains(&least.to_string()), "{message}");
    engine.set_budget(least + (1 << 20)).unwrap();
    assert_eq!(first + &rest(&stream), expected("Once upon a time", 60));
    let report = engine.memory_report().unwrap();
    assert_eq!(report.budget, Some(least + (1 << 20)));
    assert!(report.used <= least + (1 << 20) && report.misses > 0 && report.hit_rate.unwrap() < 1.0, "{report:?}");

    let whole = open(None);
    assert!(matches!(whole.set_budget(1 << 30), Err(HotsetError::Invalid(_))));
}

#[test]
fn a_suspended_answer_goes_on_and_its_memory_is_free_meanwhile() {
    let engine = open(Some(64 << 20));
    let session = session(&engine);
    let stream = start(&session, "Once upon a time", 80);
    let first = take(&stream, 5);
    block_on(engine.suspend()).unwrap();
    let report = engine.memory_report().unwrap();
    assert!(report.suspended && report.used == 0);
    assert!(matches!(engine.session(SessionOptions::default()), Err(HotsetError::Suspended)));
    block_on(engine.resume()).unwrap();
    assert_eq!(first + &rest(&stream), expected("Once upon a time", 80));
    assert!(!engine.memory_report().unwrap().suspended);
}

/// An answer that was asked for a moment before waits like any other, and one that waits can be cancelled.
#[test]
fn suspending_at_once_loses_no_answer() {
    let engine = open(Some(64 << 20));
    let want = expected("Once upon a time", 20);
    for _ in 0..20 {
        let session = session(&engine);
        let stream = start(&session, "Once upon a time", 20);
        block_on(engine.suspend()).unwrap();
        block_on(engine.resume()).unwrap();
        assert_eq!(rest(&stream), want);

        let stream = start(&session, " and", 2000);
        block_on(engine.suspend()).unwrap();
        stream.cancel();
        block_on(stream.ended());
        assert_eq!(stream.stop_reason(), Some(StopReason::Cancelled));
        assert!(matches!(session.clone().complete("x".into(), seeded(1)), Err(HotsetError::Suspended)));
        block_on(engine.resume()).unwrap();
    }
}

/// In a process of its own: other tests would be measured too.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "reads /proc")]
fn suspending_and_a_thousand_sessions_in_a_process_of_their_own() {
    let run = |test: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--ignored", "--exact", test, "--nocapture"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("suspending_gives_memory_back");
    run("a_thousand_sessions");
}

#[test]
#[ignore = "measures the process; run by another test"]
fn suspending_gives_memory_back() {
    let before = resident();
    let engine = open(Some(64 << 20));
    let session = session(&engine);
    rest(&start(&session, "Once upon a time", 200));
    let working = resident();
    block_on(engine.suspend()).unwrap();
    let suspended = resident();
    let used = working - before;
    // What stays: the tokenizer, the manifest, and the caches of a short conversation.
    println!("{used} KiB while it answers, {} KiB suspended", suspended - before);
    assert!(used > 12 << 10 && suspended - before < used / 3, "{before} {working} {suspended}");
    block_on(engine.resume()).unwrap();
    rest(&start(&session, " and then", 200));
}

#[test]
#[ignore = "measures the process; run by another test"]
fn a_thousand_sessions() {
    let engine = open(None);
    let one = || {
        let session = session(&engine);
        take(&start(&session, "Once upon a time", 8), 2);
    };
    (0..100).for_each(|_| one());
    let before = resident();
    (0..1000).for_each(|_| one());
    let after = resident();
    println!("{before} KiB after 100 sessions, {after} KiB after 1100");
    assert!(after < before + (4 << 10), "{before} {after}");
}

#[test]
fn saved_conversations_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("conversation").to_str().unwrap().to_owned();
    let engine = open(None);
    let straight = session(&engine);
    rest(&start(&straight, "Once upon a time", 10));
    block_on(straight.clone().save(path.clone())).unwrap();
    let more = rest(&start(&straight, " and", 30));
    let restored = block_on(open(None).restore(path.clone())).unwrap();
    assert_eq!(rest(&start(&restored, " and", 30)), more);

    // Messages come back too.
    let chat = session(&engine);
    rest(&chat.clone().send("Hello".into(), seeded(10)).unwrap());
    block_on(chat.clone().save(path.clone())).unwrap();
    let restored = block_on(engine.restore(path)).unwrap();
    assert_eq!(restored.messages().unwrap(), chat.messages().unwrap());
    assert_eq!(restored.messages().unwrap().len(), 2);
    let missing = dir.path().join("nothing").to_str().unwrap().to_owned();
    assert!(matches!(block_on(engine.restore(missing)), Err(HotsetError::File(_))));
    assert!(matches!(block_on(engine.restore(demo())), Err(HotsetError::Broken(_))));
}

#[test]
fn broken_bundles_have_typed_errors() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path: PathBuf = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = std::fs::read(demo()).unwrap();
    for path in [file("empty", &[]), file("short", &good[..good.len() / 2]), file("text", b"not a bundle at all")] {
        let error = block_on(Engine::open(path.clone(), on_cpu(None), None)).err();
        assert!(matches!(error, Some(HotsetError::Broken(_) | HotsetError::File(_))), "{path}: {error:?}");
    }
    for path in ["/nowhere/at/all".to_owned(), dir.path().to_str().unwrap().to_owned()] {
        assert!(matches!(block_on(Engine::open(path, on_cpu(None), None)), Err(HotsetError::File(_))));
    }
    assert!(matches!(block_on(Engine::open(demo(), on_cpu(Some(1000)), None)), Err(HotsetError::Invalid(_))));
    let device = EngineOptions { device: "no such GPU".into(), ..EngineOptions::default() };
    assert!(matches!(block_on(Engine::open(demo(), device, None)), Err(HotsetError::Device(_))));
}

#[cfg(unix)]
#[test]
fn descriptors_are_borrowed() {
    use std::os::fd::AsRawFd;
    let file = std::fs::File::open(demo()).unwrap();
    let engine = block_on(Engine::open_descriptor(file.as_raw_fd(), on_cpu(Some(32 << 20)), None)).unwrap();
    drop(file);
    assert_eq!(rest(&start(&session(&engine), "Once upon a time", 20)), expected("Once upon a time", 20));
    for descriptor in [-1, 1_000_000] {
        let error = block_on(Engine::open_descriptor(descriptor, on_cpu(None), None)).err();
        assert!(matches!(error, Some(HotsetError::Invalid(_) | HotsetError::File(_))), "{error:?}");
    }
}

struct Listener(fn(f64) -> Result<(), ListenerError>);

impl LoadListener for Listener {
    fn on_progress(&self, fraction: f64) -> Result<(), ListenerError> {
        (self.0)(fraction)
    }
}

#[test]
fn listeners_stop_the_opening() {
    let heard = |listener| block_on(Engine::open(demo(), on_cpu(Some(64 << 20)), Some(Arc::new(Listener(listener)))));
    assert!(heard(|_| Ok(())).is_ok());
    assert!(matches!(heard(|_| Err(ListenerError::Stopped)), Err(HotsetError::Stopped)));
    assert!(matches!(heard(|share| if share < 1.0 { Ok(()) } else { Err(ListenerError::Stopped) }), Err(HotsetError::Stopped)));
    assert!(matches!(heard(|_| panic!("on purpose")), Err(HotsetError::Internal(_))));
}

#[test]
fn after_shutdown_everything_says_so() {
    let engine = open(None);
    let (idle, busy) = (session(&engine), session(&engine));
    let stream = start(&busy, "Once upon a time", 2000);
    take(&stream, 3);
    engine.shutdown();
    engine.shutdown();
    rest(&stream);
    assert_eq!(stream.stop_reason(), Some(StopReason::Cancelled));
    assert!(matches!(engine.info(), Err(HotsetError::Closed("engine"))));
    assert!(matches!(engine.session(SessionOptions::default()), Err(HotsetError::Closed(_))));
    assert!(matches!(block_on(engine.suspend()), Err(HotsetError::Closed(_))));
    for session in [idle, busy] {
        assert!(matches!(session.messages(), Err(HotsetError::Closed("session"))));
        assert!(matches!(session.clone().send("x".into(), seeded(1)), Err(HotsetError::Closed(_))));
        session.shutdown();
    }
}

#[test]
fn profiles_are_for_new_sessions() {
    let engine = open(None);
    let bundle = hotset::bundle::Bundle::open(demo()).unwrap();
    let own = hotset::Engine::open(demo(), &hotset::EngineOptions { device: hotset::Device::Cpu, ..Default::default() }).unwrap();
    let mut recorded = own.session(&hotset::SessionOptions::default()).unwrap();
    recorded.record_use().unwrap();
    recorded.append_text("Once upon a time there was a little girl.").unwrap();
    recorded.prefill().unwrap();
    let mut profile = hotset::profile::Profile::new(&bundle);
    profile.add("tales", &recorded.take_use().unwrap()).unwrap();
    let json = profile.to_json().unwrap();

    let all = rest(&start(&session(&engine), "Once upon a time", 30));
    engine.use_profile(&json, ProfileOptions { keep: 0.3, texts: vec!["tales".into()] }).unwrap();
    assert_ne!(rest(&start(&session(&engine), "Once upon a time", 30)), all);
    engine.clear_profile();
    assert_eq!(rest(&start(&session(&engine), "Once upon a time", 30)), all);
    for (json, keep, text) in [("{}", 0.3, "tales"), (&*json, 0.0, "tales"), (&*json, 0.01, "tales"), (&*json, 0.5, "novels")] {
        let error = engine.use_profile(json, ProfileOptions { keep, texts: vec![text.into()] });
        assert!(matches!(error, Err(HotsetError::Invalid(_))), "{keep} {text}: {error:?}");
    }
}

#[test]
fn heat_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("heat.json").to_str().unwrap().to_owned();
    let options = || EngineOptions { heat: Some(path.clone()), ..on_cpu(Some(64 << 20)) };
    // Not there yet.
    let engine = block_on(Engine::open(demo(), options(), None)).unwrap();
    rest(&start(&session(&engine), "Once upon a time", 20));
    engine.save_heat(&path).unwrap();
    block_on(Engine::open(demo(), options(), None)).unwrap();
    std::fs::write(&path, "broken").unwrap();
    assert!(matches!(block_on(Engine::open(demo(), options(), None)), Err(HotsetError::Invalid(_))));
}
