//! Hotset for Kotlin and Swift: what an app needs of the [`hotset`] crate, through [UniFFI](https://mozilla.github.io/uniffi-rs).
//!
//! * [`Engine`]: a bundle made ready on a device. Budgets, suspension, reports.
//! * [`Session`]: one conversation, in messages or raw text.
//! * [`TokenStream`]: an answer, token by token, with an explicit way to cancel it.
//!
//! Nothing large crosses the border: bundles and saved conversations are files, tokens are short strings of whole characters. Whatever may take
//! longer than a frame is asynchronous and runs on threads of its own, so no thread of an app waits. Everything can be called from any thread.
//! Every failure is a [`HotsetError`].

mod engine;
mod error;
mod options;
mod report;
mod session;
mod stream;
mod work;

pub use engine::{Engine, LoadListener};
pub use error::{HotsetError, ListenerError};
pub use options::{EngineOptions, GenerateOptions, ProfileOptions, SessionOptions};
pub use report::{MemoryReport, Message, ModelInfo, Role, Statistics, StopReason, Token};
pub use session::Session;
pub use stream::TokenStream;

uniffi::setup_scaffolding!();
