//! Sessions: one conversation on a device, token by token.

mod cancel;
mod chat;
mod contrast;
mod sampler;
mod sampling;
mod saved;
mod seat;
mod stop;
mod stream;

use std::sync::Arc;

use crate::bundle::Adapter;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::experts::Pass;
use crate::model::{Output, Routing, RunOptions, Want};
use crate::plan::{Plan, Rule};
use crate::profile::{Activations, Kept, Usage};

pub use cancel::CancelToken;
pub use chat::Chat;
pub use contrast::SelfContrast;
pub use sampling::Sampling;
pub use stream::{Completion, GenerateOptions, Statistics, StopReason, Stream, Token};

pub(crate) use seat::{Gate, Recipe, Seat};

/// Context of a session that asks for none, where the model allows it: enough for a conversation, small enough for a phone.
pub const DEFAULT_CONTEXT: usize = 4096;
/// Longest context a session may ask for.
pub const MAX_CONTEXT: usize = 1 << 24;
/// Most tokens handed to the device at once: how far apart the looks at a [`CancelToken`] are while a prompt is read.
pub const PREFILL_CHUNK: usize = 512;

/// What to do when a conversation grows beyond its context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Refuse tokens that do not fit; a generation that fills the context ends with [`StopReason::Context`].
    #[default]
    Error,
    /// Forget the oldest tokens: attention sees the last `context` tokens only. Nothing is recomputed, positions go on counting.
    Slide,
}

/// How a session keeps its conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionOptions {
    /// Tokens the caches hold. By default what the model was trained for, at most [`DEFAULT_CONTEXT`]. More than the model was trained
    /// for is allowed; answers get worse there.
    pub context: Option<usize>,
    /// What to do when they are full.
    pub overflow: Overflow,
    /// Stick-breaking attention stops looking back once less than this much of the stick is left; 0 is exact. In [0, 1).
    pub stick_epsilon: f32,
    /// Experts per token where routers take the best few, instead of as many as the model was trained for. Changes the answers: fewer are
    /// faster and worse, unless the model was made to run with any number.
    pub experts_per_token: Option<u32>,
    /// Decode with the difference between two routings.
    pub self_contrast: Option<SelfContrast>,
    /// Low-rank experts for this session alone; the bundle and other sessions are not touched.
    pub adapter: Option<Adapter>,
    /// Experts that this session does with; the others are not chosen. Other sessions of the engine may choose them.
    pub kept: Option<Kept>,
}

/// One conversation: the tokens so far, and the caches of the model that reads them.
///
/// Everything appended or generated belongs to [`tokens`](Self::tokens) at once. The model reads tokens later, when a generation needs
/// them; [`read`](Self::read) says how far it is. After an error, or after a generation was cancelled, what was appended and generated so
/// far is still there and the next generation goes on from it; [`truncate`](Self::truncate) takes it back.
pub struct Session {
    engine: Engine,
    seat: Arc<Seat>,
    /// The whole conversation; the model has read the first `seat.position()`.
    tokens: Vec<u32>,
    context: usize,
    /// As it was started.
    options: SessionOptions,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("tokens", &self.tokens.len())
            .field("read", &self.read())
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn start(engine: Engine, options: &SessionOptions) -> Result<Session> {
        let trained = engine.plan().context.map_or(DEFAULT_CONTEXT, |c| c as usize);
        let context = options.context.unwrap_or(trained.min(DEFAULT_CONTEXT));
        if context == 0 || context > MAX_CONTEXT {
            return Err(Error::Input(format!("a context of {context} tokens is impossible; choose 1 to {MAX_CONTEXT}")));
        }
        let stick_epsilon = options.stick_epsilon;
        if !(0.0..1.0).contains(&stick_epsilon) {
            return Err(Error::Input(format!("a stick epsilon of {stick_epsilon} is impossible; choose 0 (exact) or a little more")));
        }
        let slide = options.overflow == Overflow::Slide;
        if let Some(rows) = engine.plan().context.filter(|&c| engine.plan().has_positions() && (slide || context > c as usize)) {
            let way_out = "choose a context up to that, without sliding";
            return Err(Error::Input(format!(
                "this model has learned positions for {rows} tokens and cannot go on beyond them; {way_out}"
            )));
        }
        let routing = match options.experts_per_token {
            None => Routing::Planned,
            Some(k) => {
                choosable(engine.plan(), k, "experts per token")?;
                Routing::TopK(k)
            }
        };
        let run_options = RunOptions { slide, stick_epsilon, routing, ..RunOptions::new(context) };
        let masked = options.kept.as_ref().map(|kept| engine.bundle().masked(kept)).transpose()?;
        let bundle = match (&options.adapter, masked) {
            (Some(adapter), masked) => Some(masked.as_ref().unwrap_or(engine.bundle()).adapted(adapter)?),
            (None, masked) => masked,
        };
        let contrast = match options.self_contrast {
            None => None,
            Some(contrast) => {
                contrast.validate()?;
                choosable(engine.plan(), contrast.rank, "the self-contrast's rank")?;
                Some((contrast, engine.plan().vocab))
            }
        };
        let seat = engine.seat(Recipe { view: bundle.map(Arc::new), options: run_options, contrast })?;
        Ok(Session { engine, seat, tokens: Vec::new(), context, options: options.clone() })
    }

    /// What this session runs on.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The conversation: prompts and answers, special tokens included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of [`tokens`](Self::tokens) the model has read.
    pub fn read(&self) -> usize {
        self.seat.position()
    }

    /// Tokens the caches hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Adds token ids to the conversation.
    ///
    /// # Errors
    /// When an id is not in the vocabulary or the conversation does not fit the context; nothing is added then.
    pub fn append(&mut self, tokens: &[u32]) -> Result<()> {
        let vocab = self.engine.plan().vocab;
        if let Some(id) = tokens.iter().find(|t| **t >= vocab) {
            return Err(Error::Input(format!("token {id} is not in the vocabulary; this model's tokens are 0 to {}", vocab - 1)));
        }
        self.check_room(self.tokens.len() + tokens.len())?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Adds text to the conversation. At its very beginning a beginning-of-sequence token comes first, if the model wants one.
    /// Special tokens spelled in the text become those tokens; text of strangers belongs in a [`Chat`].
    ///
    /// # Errors
    /// When the bundle has no tokenizer, the text cannot be encoded, or it does not fit the context; nothing is added then.
    pub fn append_text(&mut self, text: &str) -> Result<()> {
        let tokenizer = self.engine.tokenizer()?;
        let bos = tokenizer.bos().filter(|_| self.tokens.is_empty() && !text.is_empty());
        let tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode(text)?).collect();
        self.append(&tokens)
    }

    /// Forgets everything after the first `len` tokens. Free for tokens the model has not read; else it reads the rest of the
    /// conversation again, at the next generation.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        if self.tokens.len() < self.seat.position() {
            self.seat.reset();
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.truncate(0);
    }

    /// Adds `tokens` and returns the logits after each of them, `[tokens, V]`, row after row. The model has read everything then.
    ///
    /// # Errors
    /// As [`append`](Self::append), when there are no tokens, or when the device fails.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() {
            return Err(empty());
        }
        let before = self.tokens.len();
        self.append(tokens)?;
        let result = self.read_with_logits(before);
        if result.is_err() {
            self.tokens.truncate(before.max(self.seat.position()));
        }
        result
    }

    /// Has the model read all [`tokens`](Self::tokens) now. A generation after this needs another token to go on from.
    ///
    /// # Errors
    /// When the device fails.
    pub fn prefill(&mut self) -> Result<()> {
        self.read_up_to(self.tokens.len())
    }

    fn read_up_to(&mut self, end: usize) -> Result<()> {
        while let Some(mut run) = self.seat.ready(None).filter(|run| run.position() < end) {
            let start = run.position();
            run.forward(&self.tokens[start..end.min(start + PREFILL_CHUNK)], Want::Nothing)?;
        }
        Ok(())
    }

    fn read_with_logits(&mut self, from: usize) -> Result<Vec<f32>> {
        let vocab = self.engine.plan().vocab as usize;
        let mut rows = Vec::with_capacity((self.tokens.len() - from) * vocab);
        loop {
            let start = from + rows.len() / vocab;
            if start == self.tokens.len() {
                return Ok(rows);
            }
            self.read_up_to(start)?;
            let Some(mut run) = self.seat.ready(None).filter(|run| run.position() == start) else { continue };
            match run.forward(&self.tokens[start..self.tokens.len().min(start + PREFILL_CHUNK)], Want::All)? {
                Output::Logits(logits) => rows.extend(logits),
                _ => return Err(no_answer()),
            }
        }
    }

    /// Continues the conversation, giving each token to `sink` as soon as it is there.
    ///
    /// The tokens become part of the conversation, the one that ended the answer included.
    ///
    /// # Errors
    /// When there is nothing to continue, an option is out of range, the conversation has filled the context already, or the device
    /// fails.
    pub fn generate(&mut self, options: &GenerateOptions, mut sink: impl FnMut(Token)) -> Result<Completion> {
        let mut stream = self.stream(options)?;
        for token in &mut stream {
            sink(token?);
        }
        Ok(stream.finish())
    }

    /// Continues the conversation as an iterator over its tokens. Dropping it stops the generation.
    ///
    /// # Errors
    /// As [`generate`](Self::generate); failures of the device come from the iterator.
    pub fn stream(&mut self, options: &GenerateOptions) -> Result<Stream<'_>> {
        Stream::new(self, options)
    }

    /// From now on notes which experts the model uses, for [`take_routes`](Self::take_routes).
    ///
    /// # Errors
    /// When the device cannot tell: the CPU can.
    pub fn record_routes(&mut self) -> Result<()> {
        self.seat.record_passes()
    }

    /// What the model used since [`record_routes`](Self::record_routes) or the last call: for each forward pass, in order, the records of
    /// each step. A generated token is a pass; a prompt is one or a few, each with every record that any of its tokens uses.
    /// Put into a [`Trace`](crate::experts::Trace) it can be saved and replayed. It grows with every token: take it now and then.
    pub fn take_routes(&mut self) -> Vec<Pass> {
        self.seat.take_passes()
    }

    /// From now on counts which experts the model uses, for [`take_use`](Self::take_use).
    ///
    /// # Errors
    /// When the device cannot tell: the CPU can.
    pub fn record_use(&mut self) -> Result<()> {
        self.seat.record_use()
    }

    /// What the tokens that the model has read since [`record_use`](Self::record_use) or the last call used; `None` while nothing is
    /// recorded. [Added](crate::profile::Profile::add) to a profile it says what conversations of this kind need.
    pub fn take_use(&mut self) -> Option<Usage> {
        self.seat.take_use()
    }

    /// From now on measures how large the values are that experts are given, for [`take_activations`](Self::take_activations).
    ///
    /// # Errors
    /// When the device cannot tell: the CPU can.
    pub fn record_activations(&mut self) -> Result<()> {
        self.seat.record_activations()
    }

    /// What the model's experts were given since [`record_activations`](Self::record_activations) or the last call; `None` while nothing is
    /// recorded. By it `hotset quantize` chooses which rounding errors matter.
    pub fn take_activations(&mut self) -> Option<Activations> {
        self.seat.take_activations()
    }

    /// Whether a conversation of `needed` tokens fits.
    fn check_room(&self, needed: usize) -> Result<()> {
        match self.options.overflow {
            Overflow::Error if needed > self.context => Err(Error::Context { needed, available: self.context }),
            _ => Ok(()),
        }
    }
}

/// Checks a number of experts, or a rank among them, against what routers that take the best few have to choose from.
fn choosable(plan: &Plan, n: u32, what: &str) -> Result<()> {
    let routers = plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| matches!(r.router.select.rule, Rule::TopK { .. }));
    let most = routers.map(|r| r.router.available(plan.pools[r.pool as usize].experts())).max();
    match most {
        None => Err(Error::Input(format!("{what} cannot be set: no router of this model takes the best few experts"))),
        Some(most) if !(1..=most).contains(&n) => Err(Error::Input(format!("{what} of {n} is impossible; choose 1 to {most}"))),
        Some(_) => Ok(()),
    }
}

fn empty() -> Error {
    Error::Input("the prompt is empty; give it at least one token".into())
}

fn no_answer() -> Error {
    Error::Device("the device did not return what was asked for; this is a defect of hotset, please report it".into())
}

#[cfg(all(test, feature = "templates"))]
mod tests;
