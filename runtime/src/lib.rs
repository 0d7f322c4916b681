//! Hotset runs Mixture-of-Experts language models that are larger than the memory of the device they run on.
//!
//! ```no_run
//! use hotset::{Engine, EngineOptions, GenerateOptions, SessionOptions};
//!
//! let engine = Engine::open("model.hotset", &EngineOptions::default())?;
//! let mut session = engine.session(&SessionOptions::default())?;
//! session.append_text("Once upon a time")?;
//! let completion = session.generate(&GenerateOptions::default(), |token| print!("{}", token.text))?;
//! println!("{:?}, {:.1} tokens/s", completion.stop, completion.statistics.decode_rate().unwrap_or_default());
//! # Ok::<(), hotset::Error>(())
//! ```
//!
//! The [`manual`] goes through it by task: open, stream, cancel, limit memory, react to pressure, suspend, save, fit to a task. This page says how
//! things hang together.
//!
//! # Engine, session, stream
//!
//! An [`Engine`] is a [`bundle`] made ready on a [`Device`]: open it once, clone it freely, share it between threads. A [`Session`]
//! is one conversation: its tokens and its caches. It can move to another thread, and generates on whichever calls it. Text goes in with
//! [`Session::append_text`], token ids with [`Session::append`]; [`Session::generate`] calls a closure for every [`Token`],
//! [`Session::stream`] is an iterator over them. A [`Chat`] wraps a session and speaks in messages, by the model's own chat template.
//!
//! # Choosing, ending, stopping
//!
//! [`Sampling`] says how tokens are chosen (greedily, unless asked otherwise) and documents the order of its steps. A generation ends
//! for a [`StopReason`]. A [`CancelToken`] stops it from any thread within one token's time; the session goes on from there.
//!
//! # Context
//!
//! [`SessionOptions::context`] tokens are kept. A prompt that does not fit is an [`Error::Context`], an answer that fills it ends with
//! [`StopReason::Context`]; with [`Overflow::Slide`] the oldest tokens are forgotten instead. Nothing is ever cut silently.
//!
//! # Models larger than memory
//!
//! [`PagingOptions`] set budgets: `ram` for a model on the CPU, `vram` for one on a GPU. Everything counts: dense weights, caches of all
//! conversations, working memory; what is left holds experts, and the others are read from the file when they are chosen. The answers
//! are the same bits under every budget. [`Engine::set_budget`] changes it at any moment, from any thread: call it when the system asks
//! for memory. [`Engine::report`] tells how it goes.
//!
//! # Coming and going
//!
//! [`Engine::suspend`] gives back all that is on the device, sessions included, and [`Engine::resume`] goes on with the same bits. [`Session::save`] and
//! [`Engine::restore`] do that with a file, for one session, across starts of the program. Both keep the caches of an executor as [snapshots](snapshot);
//! those that another kind of device wrote are of no use and the conversation is read again.
//!
//! # Which experts are used
//!
//! [`Session::record_routes`] notes the experts of every forward pass; an [`experts::Trace`] keeps them, and [`experts::replay`](experts::replay())
//! says what a cache of any size and [policy](experts::Policy) would have made of them.
//!
//! # Fewer experts
//!
//! [`Session::record_use`] counts what each expert does for a conversation; a [`profile::Profile`] adds such counts up, by kind of text, and
//! [says](profile::Profile::keep) which experts to keep when a share of their bytes has to do. With these, [`Engine::of_bundle`] opens a bundle without the
//! others ([`bundle::Bundle::pruned`]), [`bundle::Bundle::write`] makes a smaller file of it, and [`SessionOptions::kept`] does without the others in
//! one conversation. The answers are the same bits in all three cases.
//!
//! # Other experts for one conversation
//!
//! Weights are never touched by what a session asks for: [`SessionOptions::experts_per_token`] overrides how many experts a token uses,
//! [`SessionOptions::self_contrast`] decodes with the difference between two routings, [`SessionOptions::adapter`] adds the low-rank experts
//! of an [`Adapter`] (made by `hotset adapt`; on the CPU). All three change the answers of that session and of no other.
//!
//! # Errors
//!
//! One type, [`Error`], whose texts are sentences for people and whose [`Category`] is for programs. No file and no argument makes the
//! library panic. After an error the session is what it was, plus the tokens generated before.
//!
//! # Cargo features
//!
//! All are on by default; an app that does without some is smaller. None changes a signature: what a build leaves out is an [`Error`] that
//! says so.
//!
//! * `gpu`: models on a GPU, through Vulkan, Metal or DirectX 12, and the module [`gpu`]. Without it [`Device::Auto`] is the CPU.
//! * `cpu`: models on the CPU, and the module [`cpu`] with the reference. Without it [`Device::Auto`] needs a hardware GPU, and there is no
//!   [`Placement::Hybrid`]. One of these two must be on.
//! * `tokenizer`: text. Without it every bundle runs on token ids only, as one without a tokenizer does.
//! * `templates`: the chat templates of bundles, in Jinja; turns `tokenizer` on. Without it a [`Chat`] answers only on bundles that have none.
//!
//! # Below
//!
//! [`plan`] is what a model computes, as data; [`codec`] how matrices are stored; [`model`] the seam between sessions and the executors
//! [`cpu`] and [`gpu`]; [`text`] tokenizers and chat templates. The library logs through `tracing` and writes nothing anywhere itself.

// Parts that only one of the two uses are looked after in builds with both.
#![cfg_attr(not(all(feature = "cpu", feature = "gpu")), allow(dead_code, unused_imports))]

mod absent;
mod arithmetic;
pub mod bundle;
mod candidates;
pub mod codec;
#[cfg(feature = "cpu")]
pub mod cpu;
mod engine;
mod error;
pub mod experts;
#[cfg(feature = "gpu")]
pub mod gpu;
mod loading;
pub mod manual;
pub mod model;
mod paging;
pub mod plan;
pub mod profile;
mod reading;
mod session;
pub mod snapshot;
pub mod text;

// What is left out has a stand-in of the same name.
#[cfg(not(feature = "cpu"))]
use absent::cpu;
#[cfg(not(feature = "gpu"))]
use absent::gpu;

pub use arithmetic::Arithmetic;
pub use bundle::Adapter;
pub use engine::{Device, Engine, EngineOptions};
pub use error::{Category, Error, Result};
pub use loading::Loading;
pub use paging::{PagingOptions, Placement};
pub use session::{
    CancelToken, Chat, Completion, DEFAULT_CONTEXT, GenerateOptions, MAX_CONTEXT, Overflow, PREFILL_CHUNK, Sampling, SelfContrast, Session,
    SessionOptions, Statistics, StopReason, Stream, Token,
};

// Test support is written against the public names.
#[cfg(test)]
extern crate self as hotset;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(not(any(feature = "cpu", feature = "gpu")))]
compile_error!("hotset needs something to compute on: turn on its feature `cpu`, `gpu` or both");

#[cfg(target_endian = "big")]
compile_error!("bundles are little-endian and are read in place");
