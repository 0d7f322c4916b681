//! Budgets in real memory: what the system says the process takes. One test in a program of its own, because it measures all of it.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use hotset::{Device, Engine, EngineOptions, GenerateOptions, PagingOptions, SessionOptions};

const MIB: u64 = 1 << 20;

/// Resident bytes of this process now, and the most there ever were.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    (of("VmRSS:") * 1024, of("VmHWM:") * 1024)
}

#[test]
fn the_budget_is_what_the_process_takes_and_a_smaller_one_gives_memory_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.hotset");
    support::hotset(&["synth", "--like", "small", "--codec", "q4", "-o", path.to_str().unwrap()]);
    let (before, _) = resident();

    let options = |ram: u64| EngineOptions {
        device: Device::Cpu,
        threads: Some(2),
        paging: PagingOptions { ram: Some(ram), ..PagingOptions::default() },
        ..EngineOptions::default()
    };
    let budget = 60 * MIB;
    let engine = Engine::open(&path, &options(budget)).unwrap();
    let mut session = engine.session(&SessionOptions { context: Some(512), ..SessionOptions::default() }).unwrap();
    let vocab = engine.plan().vocab;
    let prompt: Vec<u32> = (0..200u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
    session.append(&prompt).unwrap();
    let one = GenerateOptions { max_tokens: 20, ignore_eos: true, ..GenerateOptions::default() };
    session.generate(&one, |_| {}).unwrap();
    let (full, peak) = resident();
    let state = engine.report().paging.unwrap();
    assert!(peak <= before + budget + 64 * MIB, "{} MiB before, {} MiB at most, budget {} MiB", before / MIB, peak / MIB, budget / MIB);
    // It does take what it may.
    assert!(
        state.slots > 25 * MIB && full >= before + state.slots * 3 / 4,
        "{state:?}, {} MiB before, {} MiB now",
        before / MIB,
        full / MIB
    );

    // With room for the conversation to grow.
    engine.set_budget(state.least + 2 * MIB).unwrap();
    let (less, _) = resident();
    let now = engine.report().paging.unwrap();
    let given = state.slots - now.slots;
    assert!(
        given > 20 * MIB && less + given * 9 / 10 <= full,
        "{} MiB became {} MiB, {} MiB were to be given back",
        full / MIB,
        less / MIB,
        given / MIB
    );
    session.generate(&one, |_| {}).unwrap();
    let error = engine.set_budget(now.least - 1).unwrap_err().to_string();
    assert!(error.contains("smallest that works"), "{error}");
    assert!(Engine::open(&path, &EngineOptions { device: Device::Cpu, ..EngineOptions::default() }).unwrap().set_budget(budget).is_err());
}
