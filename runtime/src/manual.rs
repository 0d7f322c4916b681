//! The manual, by task. Every example runs, on the small model that comes with the source.
//!
//! [Open](#open-a-model) · [stream](#stream-an-answer) · [talk](#hold-a-conversation) · [cancel](#cancel) · [limit memory](#limit-memory) ·
//! [react to pressure](#react-to-memory-pressure) · [go to the background](#go-to-the-background) · [save](#save-a-conversation) ·
//! [fit to a task](#fit-a-model-to-a-task) · [handle errors](#handle-errors) · [threads](#threads) · [build small](#build-small)
//!
//! # Open a model
//!
//! A model is one file, a *bundle*, made from a checkpoint by `hotset convert`. An [`Engine`](crate::Engine) is that file made ready on a device; opening
//! maps it, validates it once and completely, and, for a GPU, uploads what has to be there. [`Device::Auto`](crate::Device::Auto), the default, takes a
//! hardware GPU if there is one that can hold the model, else the CPU. Opening a large model on a GPU takes seconds: a [`Loading`](crate::Loading)
//! tells how far it is, and can stop it.
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! use std::ops::ControlFlow;
//! use hotset::{Engine, EngineOptions, Loading, bundle::Bundle};
//!
//! let loading = Loading::new(|share| {
//!     eprintln!("{:.0} %", share * 100.0);
//!     ControlFlow::Continue(())
//! });
//! let engine = Engine::of_bundle_with(Bundle::open(path)?, &EngineOptions::default(), &loading)?;
//! println!("{} on {}", engine.manifest().provenance.name, engine.report().device);
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! [`Bundle::of_file`](crate::bundle::Bundle::of_file) opens a file that somebody else has opened, [`Bundle::from_bytes`](crate::bundle::Bundle::from_bytes) one
//! in memory. Cloning an engine is free; open a bundle once.
//!
//! # Stream an answer
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions};
//! # let engine = Engine::open(path, &EngineOptions::default())?;
//! use hotset::{GenerateOptions, Sampling, SessionOptions};
//!
//! let mut session = engine.session(&SessionOptions::default())?;
//! session.append_text("Once upon a time")?;
//! let options = GenerateOptions {
//!     max_tokens: 30,
//!     sampling: Sampling { temperature: 0.8, top_k: 40, seed: 7, ..Sampling::default() },
//!     ..GenerateOptions::default()
//! };
//! for token in session.stream(&options)? {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! Texts are whole characters, whatever the tokens are. The same seed gives the same answer on the same kind of device.
//! [`Session::generate`](crate::Session::generate) does the same with a closure and returns the [`Completion`](crate::Completion): the whole text, why it
//! ended, how fast it was.
//!
//! # Hold a conversation
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};
//! # let engine = Engine::open(path, &EngineOptions::default())?;
//! use hotset::Chat;
//!
//! let mut chat = Chat::new(engine.session(&SessionOptions::default())?)?;
//! chat.set_system("Answer in one sentence.");
//! let answer = chat.ask("Who are you?", &GenerateOptions { max_tokens: 20, ..GenerateOptions::default() }, |token| print!("{}", token.text))?;
//! assert_eq!(chat.messages().len(), 3);
//! # let _ = answer;
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! Messages go through the model's own template; only what is new is read. What people write cannot become special tokens. When a conversation
//! is longer than its context, the next message is an [`Error::Context`](crate::Error::Context); with [`Overflow::Slide`](crate::Overflow::Slide) the
//! oldest tokens are forgotten instead.
//!
//! # Cancel
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};
//! # let engine = Engine::open(path, &EngineOptions::default())?;
//! # let mut session = engine.session(&SessionOptions::default())?;
//! # session.append_text("Once upon a time")?;
//! use hotset::{CancelToken, StopReason};
//!
//! let cancel = CancelToken::new();
//! let button = cancel.clone();
//! let options = GenerateOptions { cancel, max_tokens: 10_000, ..GenerateOptions::default() };
//! std::thread::spawn(move || button.cancel());
//! let completion = session.generate(&options, |_| {})?;
//! assert_eq!(completion.stop, StopReason::Cancelled);
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! It ends within one token's time, also while a prompt is read. What was generated stays in the conversation, which goes on from there.
//!
//! # Limit memory
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions};
//! use hotset::PagingOptions;
//!
//! let paging = PagingOptions { budget: Some(64 << 20), ..PagingOptions::default() };
//! let engine = Engine::open(path, &EngineOptions { paging, ..EngineOptions::default() })?;
//! let paging = engine.report().paging.unwrap_or_default();
//! println!("{} of {} bytes, at least {} are needed", paging.fixed + paging.slots, paging.budget, paging.least);
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! The budget is for everything on whichever device the model runs: weights that every token needs, caches of all conversations, working memory. What is
//! left holds experts; those that do not fit are read from the file when a token chooses them. Answers are the same bits under every budget, only slower
//! under a small one. A budget that cannot work is an error that names the smallest one that does. An engine that was opened without a budget holds
//! everything and cannot give anything back, so apps open with one, even if it is generous.
//!
//! # React to memory pressure
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions, PagingOptions};
//! # let paging = PagingOptions { budget: Some(64 << 20), ..PagingOptions::default() };
//! # let engine = Engine::open(path, &EngineOptions { paging, ..EngineOptions::default() })?;
//! // From any thread, also while another one generates:
//! let least = engine.report().paging.map_or(0, |p| p.least);
//! engine.set_budget(least + (4 << 20))?;
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! The next step of the answer under way runs with less, and what no longer fits goes back to the system. The budget may grow again at any time.
//! Which experts are needed most is learned while running: [`Engine::heat`](crate::Engine::heat) gives it as text to be kept for
//! [`PagingOptions::heat`](crate::PagingOptions::heat) of the next start, which then begins with the right ones.
//!
//! # Go to the background
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions, SessionOptions};
//! # let engine = Engine::open(path, &EngineOptions::default())?;
//! # let session = engine.session(&SessionOptions::default())?;
//! engine.suspend()?; // everything on the device is free now
//! assert_eq!(engine.report().device_bytes, 0);
//! engine.resume()?;
//! # drop(session);
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! Sessions stay what they are: an answer that another thread was in the middle of waits, and goes on with the same bits. iOS takes the GPU away from apps in
//! the background, and every system ends first whoever holds most.
//!
//! # Save a conversation
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Engine, EngineOptions, SessionOptions};
//! # let engine = Engine::open(path, &EngineOptions::default())?;
//! # let dir = tempfile::tempdir().expect("a temporary folder");
//! # let file = dir.path().join("conversation");
//! let mut session = engine.session(&SessionOptions::default())?;
//! session.append_text("Once upon a time")?;
//! session.prefill()?;
//! session.save(&file)?;
//! let again = engine.restore(&file)?; // here, or after the next start
//! assert_eq!(again.read(), session.tokens().len()); // nothing has to be read again
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! [`Chat::save`](crate::Chat::save) and [`Chat::restore`](crate::Chat::restore) keep the messages, too. The file belongs to one bundle, is written in one
//! piece or not at all, holds what was said in the clear, and can be read by its owner only.
//!
//! # Fit a model to a task
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/demo/molm-demo.hotset");
//! # use hotset::{Device, Engine, EngineOptions, SessionOptions};
//! use hotset::profile::{KeepOptions, Profile};
//!
//! # let engine = Engine::open(path, &EngineOptions { device: Device::Cpu, ..EngineOptions::default() })?;
//! let mut session = engine.session(&SessionOptions::default())?;
//! session.record_use()?;
//! session.append_text("Once upon a time there was a girl who loved to read.")?;
//! session.prefill()?;
//! let mut profile = Profile::new(engine.bundle());
//! if let Some(usage) = session.take_use() {
//!     profile.add("tales", &usage)?;
//! }
//! // A session that does with half of the experts, those that tales need most:
//! let kept = profile.keep(engine.bundle(), &KeepOptions { keep: 0.5, ..KeepOptions::default() })?;
//! let tales = engine.session(&SessionOptions { kept: Some(kept), ..SessionOptions::default() })?;
//! # drop(tales);
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! `hotset profile` makes such profiles from any amount of text, and `hotset prune` and `hotset bundle` smaller files by them.
//!
//! # Handle errors
//!
//! Everything that can fail returns [`Error`](crate::Error). Its text is one sentence for people that says what to do; [`Error::category`](crate::Error::category)
//! says who is at fault: the system, the file, the caller or the device. No file and no argument makes the library panic. After an error a session is what it
//! was, plus the tokens generated before. When a GPU fails or goes away, suspending and resuming makes the engine ready again; conversations are read again then.
//!
//! # Threads
//!
//! An engine may be used from all threads at once. A session belongs to one thread at a time and can be moved; it generates on whichever calls it, so call it
//! from a thread that may wait. Sessions of one engine share the weights; on a model under a budget they take turns.
//!
//! # Build small
//!
//! `default-features = false` and the [features](crate#features) an app needs leave out the rest. For Kotlin and Swift there is the crate `hotset-ffi`, with a
//! Gradle library in `android/` and a Swift package in `ios/`.
