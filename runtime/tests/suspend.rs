//! Conversations that leave the device, to memory or to a file, and come back as if nothing had happened.

#![cfg(all(feature = "cpu", feature = "gpu"))]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::plan::{Plan, Rule};
use hotset::profile::Kept;
use hotset::{
    CancelToken, Category, Device, Engine, EngineOptions, Error, GenerateOptions, Overflow, PagingOptions, SelfContrast, Session,
    SessionOptions, StopReason,
};
use support::Random;

fn engine(path: &Path, device: &Device, budget: Option<u64>) -> Engine {
    let paging = PagingOptions { budget, ..PagingOptions::default() };
    let options = EngineOptions { device: device.clone(), threads: Some(2), paging, ..EngineOptions::default() };
    Engine::open(path, &options).unwrap()
}

/// The smallest budget of a model, with some room for conversations.
fn small(path: &Path, device: &Device) -> u64 {
    engine(path, device, Some(1 << 40)).report().paging.unwrap().least + (3 << 20)
}

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ignore_eos: true, ..GenerateOptions::default() }
}

/// A prompt, some tokens, `between`, and more tokens: the conversation, and the logits after it.
fn converse(mut session: Session, prompt: &[u32], between: impl FnOnce(Session) -> Session) -> (Vec<u32>, Vec<f32>) {
    session.append(prompt).unwrap();
    session.generate(&options(5), |_| {}).unwrap();
    let mut session = between(session);
    session.generate(&options(6), |_| {}).unwrap();
    let logits = session.logits(&prompt[..3]).unwrap();
    (session.tokens().to_vec(), logits)
}

/// Every way there and back gives the same bits, on `device`, for all kinds of steps, codecs and contexts, with all experts there and with few.
fn everything_comes_back(device: &Device, bundles: u64) {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..bundles {
        let codec = Codec::ALL[seed as usize % Codec::ALL.len()];
        let bundle = support::bundle(dir.path(), seed, codec);
        let path = bundle.path();
        let mut random = Random::new(seed ^ 0x5eed);
        let prompt = random.tokens(9, bundle.plan().vocab);
        let slides = !bundle.plan().has_positions() && random.coin();
        let overflow = if slides { Overflow::Slide } else { Overflow::Error };
        let session = SessionOptions { context: Some(if slides { 7 } else { 40 }), overflow, ..SessionOptions::default() };
        let budget = random.coin().then(|| small(path, device));
        let what = format!("seed {seed}, {codec:?}, {overflow:?}, budget {budget:?}");

        let straight = converse(engine(path, device, budget).session(&session).unwrap(), &prompt, |s| s);
        let suspended = converse(engine(path, device, budget).session(&session).unwrap(), &prompt, |s| {
            let before = s.engine().report();
            s.engine().suspend().unwrap();
            assert_eq!(s.engine().report().device_bytes, 0);
            s.engine().resume().unwrap();
            assert_eq!(s.engine().report().kind, before.kind);
            // Everything was read before it left.
            assert!(s.read() + 1 >= s.tokens().len(), "{what}");
            s
        });
        assert_eq!(suspended, straight, "{what}");
        let file = dir.path().join("conversation");
        let saved = converse(engine(path, device, budget).session(&session).unwrap(), &prompt, |mut s| {
            s.save(&file).unwrap();
            drop(s);
            let s = engine(path, device, budget).restore(&file).unwrap();
            assert!(s.read() + 1 >= s.tokens().len(), "{what}");
            s
        });
        assert_eq!(saved, straight, "{what}");
        let both = converse(engine(path, device, budget).session(&session).unwrap(), &prompt, |mut s| {
            s.engine().suspend().unwrap();
            s.save(&file).unwrap();
            engine(path, device, budget).restore(&file).unwrap()
        });
        assert_eq!(both, straight, "{what}");
    }
}

#[test]
fn everything_comes_back_to_the_cpu() {
    everything_comes_back(&Device::Cpu, 40);
}

#[test]
fn everything_comes_back_to_a_gpu() {
    if support::adapter() {
        everything_comes_back(&Device::Gpu, 16);
    }
}

/// One bundle for tests that are about sessions.
fn some_bundle(dir: &Path) -> Bundle {
    let best_two = |p: &Plan| p.steps.iter().filter_map(|s| s.routed.as_ref()).any(|r| r.router.select.rule == Rule::TopK { k: 2 });
    support::suitable(Codec::Q8, |p| best_two(p) && !p.has_positions()).1.write(dir, 0)
}

/// Options that change answers are those that the session had.
#[test]
fn a_session_comes_back_with_its_options() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let file = dir.path().join("conversation");
    let prompt = Random::new(1).tokens(9, bundle.plan().vocab);
    let kept = Kept::all(bundle.plan());
    let contrast = SelfContrast { beta: 0.5, alpha: 0.1, rank: 2 };
    for options in [
        SessionOptions { kept: Some(kept), ..SessionOptions::default() },
        SessionOptions { experts_per_token: Some(1), ..SessionOptions::default() },
        SessionOptions { self_contrast: Some(contrast), ..SessionOptions::default() },
    ] {
        let engine = engine(bundle.path(), &Device::Cpu, None);
        let straight = converse(engine.session(&options).unwrap(), &prompt, |s| s);
        let saved = converse(engine.session(&options).unwrap(), &prompt, |mut s| {
            s.save(&file).unwrap();
            engine.restore(&file).unwrap()
        });
        assert_eq!(saved, straight, "{options:?}");
        let suspended = converse(engine.session(&options).unwrap(), &prompt, |s| {
            engine.suspend().unwrap();
            engine.resume().unwrap();
            s
        });
        assert_eq!(suspended, straight, "{options:?}");
    }
}

/// What another kind of device saved is read again: the same conversation, though not the same bits.
#[test]
fn another_device_reads_again() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let file = dir.path().join("conversation");
    let mut session = engine(bundle.path(), &Device::Reference, None).session(&SessionOptions::default()).unwrap();
    session.append(&[1, 2, 3]).unwrap();
    session.generate(&options(4), |_| {}).unwrap();
    session.save(&file).unwrap();
    let mut restored = engine(bundle.path(), &Device::Cpu, None).restore(&file).unwrap();
    assert_eq!((restored.tokens(), restored.read()), (session.tokens(), 0));
    restored.generate(&options(4), |_| {}).unwrap();
}

/// A generation on another thread stops where it is, waits, and goes on; nothing else is done meanwhile.
#[test]
fn a_generation_waits() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let engine = engine(bundle.path(), &Device::Cpu, Some(1 << 30));
    let generate = |sink: &mut dyn FnMut(usize)| {
        let mut session = engine.session(&SessionOptions::default()).unwrap();
        session.append(&[1, 2, 3]).unwrap();
        let mut n = 0;
        session
            .generate(&options(60), |_| {
                n += 1;
                sink(n);
            })
            .unwrap();
        session.tokens().to_vec()
    };
    let straight = generate(&mut |_| {});
    let (told, tokens) = mpsc::channel();
    let interrupted = std::thread::scope(|scope| {
        let generating = scope.spawn(|| {
            generate(&mut |n| {
                told.send(n).unwrap();
                // Leaves time to suspend in the middle.
                std::thread::sleep(Duration::from_millis(2));
            })
        });
        assert_eq!((1..4).map(|_| tokens.recv().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
        engine.suspend().unwrap();
        assert!(engine.is_suspended());
        let paging = engine.report().paging.unwrap();
        assert_eq!((paging.fixed, paging.slots), (0, 0));
        // The one it was at may still come.
        std::thread::sleep(Duration::from_millis(50));
        let before = tokens.try_iter().count();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(tokens.try_iter().count(), 0, "{before}");
        assert!(!generating.is_finished());

        assert!(matches!(engine.session(&SessionOptions::default()), Err(Error::Suspended)));
        let least = paging.least;
        assert_eq!(engine.set_budget(least - 1).unwrap_err().category(), Category::Caller);
        engine.set_budget(1 << 29).unwrap();
        engine.suspend().unwrap();
        engine.resume().unwrap();
        engine.resume().unwrap();
        assert_eq!(engine.report().paging.unwrap().budget, 1 << 29);
        generating.join().unwrap()
    });
    assert_eq!(interrupted, straight);
}

/// Waiting can be cancelled, and what begins while the engine is suspended waits, too.
#[test]
fn a_waiting_generation_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let engine = engine(bundle.path(), &Device::Cpu, None);
    let mut session = engine.session(&SessionOptions::default()).unwrap();
    session.append(&[1, 2, 3]).unwrap();
    let cancel = CancelToken::new();
    let mut stream = session.stream(&GenerateOptions { cancel: cancel.clone(), ..options(50) }).unwrap();
    stream.next().unwrap().unwrap();
    engine.suspend().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            cancel.cancel();
        });
        assert!(stream.next().is_none());
    });
    assert_eq!(stream.finish().stop, StopReason::Cancelled);
    assert_eq!(session.tokens().len(), 4);
    // What begins now waits, too, and goes on where it was.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| session.generate(&options(1), |_| {}).unwrap().stop);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        engine.resume().unwrap();
        assert_eq!(waiting.join().unwrap(), StopReason::MaxTokens);
    });
    assert_eq!(session.tokens().len(), 5);
    // What is reset while it is away stays reset.
    engine.suspend().unwrap();
    session.reset();
    engine.resume().unwrap();
    assert_eq!((session.read(), session.tokens().len()), (0, 0));
}

/// What is recorded goes on being recorded, and nothing is lost.
#[test]
fn records_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let record = |suspend: bool| {
        let engine = engine(bundle.path(), &Device::Cpu, None);
        let mut session = engine.session(&SessionOptions::default()).unwrap();
        session.record_use().unwrap();
        session.record_routes().unwrap();
        session.append(&[1, 2, 3]).unwrap();
        session.generate(&options(5), |_| {}).unwrap();
        if suspend {
            engine.suspend().unwrap();
            assert!(matches!(session.record_activations(), Err(Error::Suspended)));
            engine.resume().unwrap();
        }
        session.generate(&options(5), |_| {}).unwrap();
        let selections: Vec<_> = session.take_use().unwrap().steps.into_iter().map(|s| s.selections).collect();
        (selections, session.take_routes())
    };
    assert_eq!(record(true), record(false));
}

/// Damaged, shortened and foreign files are refused in a sentence; nothing panics.
#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = some_bundle(dir.path());
    let file = dir.path().join("conversation");
    let engine = engine(bundle.path(), &Device::Cpu, None);
    let mut session = engine.session(&SessionOptions::default()).unwrap();
    session.append(&[1, 2, 3]).unwrap();
    session.generate(&options(5), |_| {}).unwrap();
    session.save(&file).unwrap();
    let good = std::fs::read(&file).unwrap();
    let header = 8 + u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
    let text = good[..header].iter().rposition(|b| *b == b'}').unwrap();
    let refused = |bytes: &[u8], what: &str| {
        let bad = dir.path().join("bad");
        std::fs::write(&bad, bytes).unwrap();
        match engine.restore(&bad) {
            Err(e @ Error::Conversation { .. }) => assert!(!e.to_string().contains('\n'), "{what}: {e}"),
            other => panic!("{what}: {other:?}"),
        }
    };
    for at in (0..good.len()).step_by(7).filter(|at| *at <= text || *at >= header) {
        let mut bad = good.clone();
        bad[at] ^= 0x11;
        // A byte of a name or a number in the header may be changed to another good one, which changes the options.
        if at >= header {
            refused(&bad, &format!("byte {at}"));
        } else {
            std::fs::write(dir.path().join("bad"), &bad).unwrap();
            let _ = engine.restore(dir.path().join("bad"));
        }
    }
    for len in [0, 1, 8, 100, header - 1, header, header + 3, good.len() - 1] {
        refused(&good[..len], &format!("{len} bytes"));
    }
    refused(&[&good[..], &[0]].concat(), "one byte more");
    refused(&std::fs::read(bundle.path()).unwrap(), "a bundle");
    assert!(matches!(engine.restore(dir.path().join("nowhere")), Err(Error::Io { .. })));

    let other = support::suitable(Codec::F16, |p| p.vocab != bundle.plan().vocab).1;
    let other = Engine::of_bundle(other.write(dir.path(), 1), &EngineOptions { device: Device::Cpu, ..EngineOptions::default() }).unwrap();
    assert!(matches!(other.restore(&file), Err(Error::Conversation { reason, .. }) if reason.contains("another bundle")));
    // What could not be written leaves what was there.
    let nowhere = dir.path().join("no/such/folder");
    assert!(session.save(&nowhere).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), good);
}
