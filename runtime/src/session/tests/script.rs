//! A model without weights for tests: it recites.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::bundle::{Bundle, BundleWriter, FORMAT, Manifest, Provenance, TOKENIZER, TensorInfo};
use crate::codec::Codec;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::model::{Candidates, Model, Output, Report, Run, RunOptions, Want};
use crate::plan::{Embedding, Head, Linear, Norm, Plan, VERSION};
use crate::text::tests::{byte_level, settings};

/// Tokens of the byte-level test tokenizer.
pub(super) const VOCAB: u32 = 260;
pub(super) const BOS: u32 = 257;
pub(super) const EOS: u32 = 258;

/// After a prompt of any length it says `answer`, one token per forward call, again and again.
#[derive(Clone, Default)]
pub(super) struct Script {
    pub(super) answer: Vec<u32>,
    /// Fails when this many calls of `forward` have succeeded.
    pub(super) fail_after: Option<usize>,
    /// Time every call of `forward` takes.
    pub(super) delay: Duration,
    /// Lengths of all forward calls.
    pub(super) calls: Arc<Mutex<Vec<usize>>>,
    /// Times the caches were emptied.
    pub(super) resets: Arc<AtomicUsize>,
}

impl Script {
    /// Says the bytes of `text`, one token each, then ends its answer.
    pub(super) fn saying(text: &str) -> Script {
        let tokenizer = crate::text::Tokenizer::new(&byte_level(), settings(None), VOCAB).unwrap();
        let byte = |b: u8| {
            (0..256)
                .find(|&id| {
                    let mut out = Vec::new();
                    tokenizer.bytes(id, &mut out);
                    out == [b]
                })
                .unwrap()
        };
        Script { answer: text.bytes().map(byte).chain([EOS]).collect(), ..Script::default() }
    }

    /// An engine for it, on a real bundle of no steps, with the given chat template.
    pub(super) fn engine(&self, template: Option<&str>) -> Engine {
        Engine::with_model(Arc::new(bundle(Some(template))), Box::new(self.clone())).unwrap()
    }

    /// The same without a tokenizer.
    pub(super) fn engine_without_text(&self) -> Engine {
        Engine::with_model(Arc::new(bundle(None)), Box::new(self.clone())).unwrap()
    }
}

fn bundle(text: Option<Option<&str>>) -> Bundle {
    let head =
        Head { norm: Norm::Rms { weight: "norm".into(), eps: 1e-5 }, output: Linear { weight: "table".into(), bias: None }, scale: 1.0 };
    let plan = Plan {
        version: VERSION,
        width: 32,
        vocab: VOCAB,
        context: Some(2000),
        embedding: Embedding::new("table".into(), 1.0),
        adapter: None,
        streams: vec![],
        memories: vec![],
        rotations: vec![],
        pools: vec![],
        states: vec![],
        steps: vec![],
        head,
    };
    let tensors = BTreeMap::from([
        ("norm".to_owned(), TensorInfo::Vector { len: 32 }),
        ("table".to_owned(), TensorInfo::Matrix { rows: VOCAB, cols: 32, codec: Codec::F32 }),
    ]);
    let tokenizer = byte_level();
    let manifest = Manifest {
        format: FORMAT,
        plan,
        tensors,
        text: text.map(settings),
        provenance: Provenance::default(),
        hashes: BTreeMap::new(),
        fingerprint: String::new(),
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.hotset");
    let mut writer = BundleWriter::create(&path, manifest, text.map(|_| tokenizer.len())).unwrap();
    for entry in writer.entries().to_vec() {
        match entry.name.as_str() {
            TOKENIZER => writer.write(TOKENIZER, &tokenizer).unwrap(),
            "norm" | "table" => writer.write(&entry.name, &vec![0; entry.bytes]).unwrap(),
            _ => {}
        }
    }
    writer.finish().unwrap();
    Bundle::open(&path).unwrap()
}

impl Model for Script {
    fn start(&self, _: RunOptions) -> Result<Box<dyn Run>> {
        Ok(Box::new(Reciting { script: self.clone(), position: 0, said: 0 }))
    }

    fn view(&self, _: Arc<Bundle>) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }

    fn report(&self) -> Report {
        Report { device: "script".into(), kind: "cpu", ..Report::default() }
    }
}

struct Reciting {
    script: Script,
    position: usize,
    said: usize,
}

impl Run for Reciting {
    fn position(&self) -> usize {
        self.position
    }

    fn reset(&mut self) {
        self.position = 0;
        self.script.resets.fetch_add(1, Ordering::Relaxed);
    }

    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output> {
        let mut calls = self.script.calls.lock().unwrap();
        if self.script.fail_after.is_some_and(|n| calls.len() >= n) {
            return Err(Error::Device("the device went away".into()));
        }
        calls.push(tokens.len());
        std::thread::sleep(self.script.delay);
        self.position += tokens.len();
        let mut row = vec![0.0; VOCAB as usize];
        Ok(match want {
            Want::Nothing => Output::Nothing,
            // Logits that tell rows apart: the token read.
            Want::All => Output::Logits(
                tokens
                    .iter()
                    .flat_map(|&t| {
                        let mut r = row.clone();
                        r[0] = t as f32;
                        r
                    })
                    .collect(),
            ),
            Want::Last | Want::Best(_) => {
                row[self.script.answer[self.said % self.script.answer.len()] as usize] = 10.0;
                self.said += 1;
                match want {
                    Want::Best(best) => Output::Best(Candidates::select(&mut row, best)),
                    _ => Output::Logits(row),
                }
            }
        })
    }
}
