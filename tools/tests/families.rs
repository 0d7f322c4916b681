//! Every family under a budget: whatever its experts are, output is the same to the last bit.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod support;

use std::path::Path;

use hotset::{Device, Engine, EngineOptions, GenerateOptions, PagingOptions, Sampling, Session, SessionOptions};
use support::{convert, golden, gpu};

/// One of each kind of expert and attention.
const CASES: [&str; 12] = [
    "moduleformer",
    "mom_gru_k2",
    "mom_chunks",
    "llama_moe_v2_attn",
    "llama_moe_v2_attn_window",
    "gpt_oss",
    "gpt_oss_mxfp4",
    "deepseek_v3",
    "lfm2_moe",
    "blockffn",
    "rmoe_gru",
    "coe_igate",
];

const PROMPT: [u32; 11] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];

/// Logits of a prompt and an answer that is sampled, as bits, and the session.
fn conversation(engine: &Engine) -> (Vec<u32>, Session) {
    let mut session = engine.session(&SessionOptions { context: Some(32), ..SessionOptions::default() }).unwrap();
    let mut bits: Vec<u32> = session.logits(&PROMPT).unwrap().iter().map(|l| l.to_bits()).collect();
    let sampling = Sampling { temperature: 0.9, seed: 7, ..Sampling::default() };
    session.append(&[8]).unwrap();
    session.generate(&GenerateOptions { max_tokens: 8, sampling, ..Default::default() }, |t| bits.push(t.id)).unwrap();
    (bits, session)
}

fn open(bundle: &Path, device: &Device, budget: Option<u64>) -> hotset::Result<Engine> {
    let (ram, vram) = if *device == Device::Cpu { (budget, None) } else { (None, budget) };
    let paging = PagingOptions { ram, vram, ..PagingOptions::default() };
    Engine::open(bundle, &EngineOptions { device: device.clone(), threads: Some(2), paging, ..EngineOptions::default() })
}

fn same_under_every_budget(device: &Device) {
    let mut all = 0;
    for case in CASES {
        let out = tempfile::tempdir().unwrap();
        let bundle = convert(&golden(case), out.path(), if case.ends_with("mxfp4") { "mxfp4" } else { "q8" });
        let (want, _) = conversation(&open(&bundle, device, None).unwrap());
        let roomy = open(&bundle, device, Some(1 << 30)).unwrap();
        let (got, session) = conversation(&roomy);
        assert_eq!(got, want, "{case} on {device:?}, everything fits");
        // While the session is there its caches count.
        let paging = roomy.report().paging.unwrap();
        drop(session);
        let (least, most) = (paging.least, paging.fixed + std::fs::metadata(&bundle).unwrap().len());
        let mut misses = 0;
        for third in 0..3 {
            let budget = least + (most - least) * third / 3;
            let engine = open(&bundle, device, Some(budget)).unwrap();
            assert_eq!(conversation(&engine).0, want, "{case} on {device:?} with {budget} of {least} to {most} bytes");
            misses += engine.report().paging.unwrap().counts.misses;
        }
        assert!(misses > 4, "{case} on {device:?}: hardly anything was paged");
        all += misses;
    }
    assert!(all > 500, "{device:?}: hardly anything was paged, {all} misses");
}

#[test]
fn budgets_change_no_bit_on_the_cpu() {
    same_under_every_budget(&Device::Cpu);
}

#[test]
fn budgets_change_no_bit_on_a_gpu() {
    if gpu("families under a budget") {
        same_under_every_budget(&Device::Gpu);
    }
}
