//! What a build leaves out says so, and the rest works: to be run with every set of cargo features.

#![allow(clippy::unwrap_used, reason = "tests")]

use hotset::bundle::Text;
use hotset::text::Tokenizer;
use hotset::{Chat, Device, Engine, EngineOptions, Error, GenerateOptions, Session, SessionOptions};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");

fn open(device: Device) -> hotset::Result<Engine> {
    Engine::open(DEMO, &EngineOptions { device, ..EngineOptions::default() })
}

/// A conversation on whatever there is; `None` on a machine that has nothing this build could use, which the gate's is not.
fn session() -> Option<Session> {
    let device = if cfg!(feature = "cpu") { Device::Cpu } else { Device::Gpu };
    match open(device) {
        Ok(engine) => Some(engine.session(&SessionOptions::default()).unwrap()),
        Err(e) => {
            assert!(!cfg!(feature = "cpu") && std::env::var_os("CI").is_none(), "{e}");
            eprintln!("SKIPPED: {e}");
            None
        }
    }
}

/// A few tokens, without the text they stand for.
fn ids(session: &mut Session) -> Vec<u32> {
    let (mut ids, options) = (Vec::new(), GenerateOptions { max_tokens: 4, ..GenerateOptions::default() });
    session.generate(&options, |token| ids.push(token.id)).unwrap();
    ids
}

#[test]
fn devices() {
    let (cpu, gpu) = (cfg!(feature = "cpu"), cfg!(feature = "gpu"));
    let named = Device::Named("llvmpipe".into());
    let all = [(Device::Cpu, cpu, "cpu"), (Device::Reference, cpu, "cpu"), (Device::Gpu, gpu, "gpu"), (named, gpu, "gpu")];
    for (device, _, feature) in all.into_iter().filter(|(_, there, _)| !there) {
        match open(device) {
            Err(Error::Device(message)) => assert!(message.contains(&format!("(cargo feature `{feature}`)")), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whatever_device_there_is() {
    let opened = open(Device::Auto).map(|engine| engine.report().kind);
    match opened {
        Ok(kind) if cfg!(feature = "gpu") => assert!(cfg!(feature = "cpu") || kind == "gpu"),
        Ok(kind) => assert_eq!(kind, "cpu"),
        // A program that pretends to be a GPU is nobody's silent choice.
        Err(e) => {
            let none = ["there is no hardware GPU", "there is no GPU that"].iter().any(|s| e.to_string().contains(s));
            assert!(none && !cfg!(feature = "cpu"), "{e}");
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn hybrid_placement() {
    let mut options = EngineOptions { device: Device::Gpu, ..EngineOptions::default() };
    options.paging.vram = Some(64 << 20);
    if let Err(e) = Engine::open(DEMO, &options) {
        assert!(std::env::var_os("CI").is_none(), "{e}");
        eprintln!("SKIPPED: {e}");
        return;
    }
    options.paging.placement = hotset::Placement::Hybrid;
    let refusal = Engine::open(DEMO, &options).err().map(|e| e.to_string());
    let expected = "this build of hotset has no CPU support (cargo feature `cpu`): hybrid placement needs it, choose another one";
    assert_eq!(refusal.as_deref(), (!cfg!(feature = "cpu")).then_some(expected));
}

#[test]
fn token_ids_need_nothing() {
    let Some(mut session) = session() else { return };
    session.append(&[1, 2, 3]).unwrap();
    assert_eq!(ids(&mut session).len(), 4);
}

#[test]
fn text() {
    let Some(mut session) = session() else { return };
    if cfg!(feature = "tokenizer") {
        session.append_text("Once upon a time").unwrap();
        assert_eq!(ids(&mut session).len(), 4);
        return;
    }
    let refused = |e: Error| assert!(e.to_string().contains("(cargo feature `tokenizer`): it runs on token ids only"), "{e}");
    refused(session.append_text("Once").unwrap_err());
    refused(Chat::new(session).unwrap_err());
    refused(Tokenizer::new(b"{}", Text::default(), 10).unwrap_err());
}

#[cfg(feature = "tokenizer")]
#[test]
fn chat() {
    use hotset::bundle::Bundle;
    use hotset::text::{Message, Role};

    let bundle = Bundle::open(DEMO).unwrap();
    let render = |template: Option<&str>| {
        let settings = Text { chat_template: template.map(str::to_owned), ..Text::default() };
        let tokenizer = Tokenizer::new(bundle.tokenizer().unwrap(), settings, bundle.plan().vocab).unwrap();
        tokenizer.render_chat(&[Message::new(Role::User, "Once")])
    };
    assert_eq!(render(None).unwrap(), "Once");
    match render(Some("<{{ messages[0].content }}>")) {
        Ok(prompt) => assert!(cfg!(feature = "templates") && prompt == "<Once>", "{prompt}"),
        Err(e) => assert!(!cfg!(feature = "templates") && e.to_string().contains("(cargo feature `templates`)"), "{e}"),
    }

    let Some(session) = session() else { return };
    let options = GenerateOptions { max_tokens: 4, ..GenerateOptions::default() };
    let answer = Chat::new(session).unwrap().ask("Once upon a time", &options, |_| {}).unwrap();
    assert_eq!(answer.statistics.generated_tokens, 4);
}
