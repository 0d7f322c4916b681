//! What a device does with a bundle: the seam between sessions above and executors below.
//!
//! An executor (`cpu` or `gpu`) turns an open bundle into a [`Model`]; each session holds one [`Run`] of it, which
//! owns the caches. Callers have already checked token ids against the vocabulary and positions against the context.

use std::sync::Arc;
use std::time::Duration;

use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::experts::{Counts, Pass};
use crate::plan::{Router, Rule};
use crate::profile::{Activations, Usage};
use crate::snapshot::{Reader, Writer};

/// A bundle made ready on one device.
pub trait Model: Send + Sync {
    /// Starts with empty caches.
    ///
    /// # Errors
    /// When the device has no room for them.
    fn start(&self, options: RunOptions) -> Result<Box<dyn Run>>;

    /// What runs where, for people and benchmarks.
    fn report(&self) -> Report;

    /// Changes the bytes this model may take, from any thread, also while a run is under way: its next step has less or more. Results
    /// do not change. [`Report::paging`] tells the budget in force.
    ///
    /// # Errors
    /// When the model is resident as a whole and has nothing to give back, or the budget is too small; the message names the smallest one.
    fn set_budget(&self, bytes: u64) -> Result<()> {
        let _ = bytes;
        Err(not_paged())
    }

    /// This model as a session wants it: `bundle` is its own one, [adapted](Bundle::adapted) or [masked](Bundle::masked). Everything else is
    /// shared, budgets included.
    ///
    /// # Errors
    /// When this device cannot run adapters.
    fn view(&self, bundle: Arc<Bundle>) -> Result<Box<dyn Model>>;

    /// What was learned about which experts are used, as JSON for [`set_heat`](Self::set_heat); `None` when all are resident.
    fn heat(&self) -> Option<String> {
        None
    }

    /// Starts from what an earlier run learned. Without a budget there is nothing to learn and nothing happens.
    ///
    /// # Errors
    /// When it is damaged or belongs to another bundle.
    fn set_heat(&self, json: &str) -> Result<()> {
        let _ = json;
        Ok(())
    }
}

/// A model without a budget was asked to change it.
pub(crate) fn not_paged() -> Error {
    Error::Input("this model is resident as a whole; open it with a budget to be able to change it".into())
}

/// The caches of one conversation and the means to extend them.
pub trait Run: Send {
    /// Tokens seen so far.
    fn position(&self) -> usize;

    /// Forgets everything.
    fn reset(&mut self);

    /// Feeds `tokens` (not empty) at the current position and advances it.
    ///
    /// One call with many tokens is a batched prefill; the result equals feeding them one by one.
    ///
    /// # Errors
    /// When the device fails or the model's numbers are not finite. The position is unchanged then.
    fn forward(&mut self, tokens: &[u32], want: Want<'_>) -> Result<Output>;

    /// Writes the caches, so that another run of the same model with the same options can go on from here.
    ///
    /// # Errors
    /// When the device fails, or whoever takes the bytes does.
    fn save(&mut self, to: &mut Writer<'_>) -> Result<()> {
        // Without caches the tokens are read again.
        to.form("")
    }

    /// Goes on where the one left off that wrote these caches. Says whether it could: caches of another kind of device mean nothing here, and
    /// everything is forgotten then, as after an error.
    ///
    /// # Errors
    /// When what was written is damaged, or there is no room for it.
    fn restore(&mut self, from: &mut Reader<'_>) -> Result<bool> {
        let _ = from;
        self.reset();
        Ok(false)
    }

    /// From now on notes which records each pass uses, for [`take_passes`](Self::take_passes).
    ///
    /// # Errors
    /// When this device cannot tell.
    fn record_passes(&mut self) -> Result<()> {
        Err(Error::Input("this device does not record routing; use the CPU".into()))
    }

    /// The passes that succeeded since recording began or since the last call, in order: one for each batch of tokens that the device
    /// computed together. Empty while nothing is recorded.
    fn take_passes(&mut self) -> Vec<Pass> {
        Vec::new()
    }

    /// From now on counts which experts tokens use, for [`take_use`](Self::take_use).
    ///
    /// # Errors
    /// When this device cannot tell.
    fn record_use(&mut self) -> Result<()> {
        Err(Error::Input("this device does not record what is used; use the CPU".into()))
    }

    /// What the tokens of calls that succeeded used since recording began or since the last call. `None` while nothing is recorded.
    fn take_use(&mut self) -> Option<Usage> {
        None
    }

    /// From now on measures how large the values are that experts are given, for [`take_activations`](Self::take_activations).
    ///
    /// # Errors
    /// When this device cannot tell.
    fn record_activations(&mut self) -> Result<()> {
        Err(Error::Input("this device does not measure what experts are given; use the CPU".into()))
    }

    /// What experts were given since recording began or since the last call, by calls that failed too. `None` while nothing is recorded.
    fn take_activations(&mut self) -> Option<Activations> {
        None
    }
}

/// How a [`Run`] keeps its caches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunOptions {
    /// Rows of each cache: the longest conversation, or the width of the sliding window.
    pub context: usize,
    /// Whether the oldest rows are forgotten when the cache is full. When not, callers never go beyond `context`.
    pub slide: bool,
    /// Stick-breaking attention stops looking back once less than this much of the stick is left; 0 looks at everything.
    pub stick_epsilon: f32,
    /// Which experts routers take that take the best few.
    pub routing: Routing,
}

impl RunOptions {
    /// A conversation of at most `context` tokens, exactly as the plan says.
    pub const fn new(context: usize) -> RunOptions {
        RunOptions { context, slide: false, stick_epsilon: 0.0, routing: Routing::Planned }
    }
}

/// A run-time override of [`Rule::TopK`]; other rules stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// As the plan says.
    #[default]
    Planned,
    /// This many, or all there are to choose from.
    TopK(u32),
    /// Only the one that this many others come before, or the last one.
    Rank(u32),
}

impl Routing {
    /// The rule in force for a router of a pool of `experts`.
    pub fn rule(self, router: &Router, experts: u32) -> Rule {
        let available = router.available(experts);
        match (self, router.select.rule) {
            (Routing::TopK(k), Rule::TopK { .. }) => Rule::TopK { k: k.clamp(1, available) },
            (Routing::Rank(rank), Rule::TopK { .. }) => Rule::Rank { rank: rank.min(available - 1) },
            (_, rule) => rule,
        }
    }
}

/// Which result a caller needs.
#[derive(Clone, Copy, Debug)]
pub enum Want<'a> {
    /// None: the caches only.
    Nothing,
    /// Logits after the last token, `[V]`.
    Last,
    /// Logits after each token, `[tokens, V]`.
    All,
    /// The best candidates after the last token.
    Best(&'a Best),
}

/// A request for the likeliest tokens: everything sampling needs without the whole vocabulary leaving the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// How many; executors may return fewer only if the vocabulary is smaller.
    pub count: usize,
    /// Tokens whose logit is divided by `penalty` when positive and multiplied by it when negative, before all else; sorted, unique.
    pub penalised: Vec<u32>,
    /// The repetition penalty; 1 changes nothing.
    pub penalty: f32,
    /// 1 / temperature, used in [`Candidates::log_total`] only.
    pub inverse_temperature: f32,
}

/// Most candidates a [`Best`] may ask for.
pub const MAX_CANDIDATES: usize = 128;

/// What [`Run::forward`] returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// For [`Want::Nothing`].
    Nothing,
    /// For [`Want::Last`] and [`Want::All`], row after row.
    Logits(Vec<f32>),
    /// For [`Want::Best`].
    Best(Candidates),
}

/// The likeliest tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// Token and penalised logit, best first; equal logits in order of token id.
    pub tokens: Vec<(u32, f32)>,
    /// `log Σ exp(logit · inverse_temperature)` over the whole vocabulary, penalties applied.
    pub log_total: f32,
}

/// What a model runs on and what it holds. Sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Report {
    /// The device, as its driver or the system names it, with the path it takes, such as `AMD EPYC, AVX-512 VNNI, 2 threads`.
    pub device: String,
    /// `cpu` or `gpu`.
    pub kind: &'static str,
    /// Bytes of weights and tables held on the device beyond the mapped file.
    pub device_bytes: u64,
    /// Cache bytes of one token in one run.
    pub cache_bytes_per_token: u64,
    /// Weight bytes that one decoded token reads.
    pub weight_bytes_per_token: u64,
    /// GPU dispatches of one decoded token; 0 on the CPU.
    pub dispatches_per_token: u32,
    /// GPU dispatches of each step, in the plan's order; empty on the CPU.
    pub dispatches_per_step: Vec<u32>,
    /// How experts come and go; `None` when all are resident.
    pub paging: Option<Paging>,
}

/// How a model under a budget fares. Totals since it was opened; sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Paging {
    /// What everything together may take.
    pub budget: u64,
    /// The smallest budget that works now. On the CPU conversations take more as they grow.
    pub least: u64,
    /// What cannot be paged: dense weights, caches of all runs, working memory.
    pub fixed: u64,
    /// Slots of experts.
    pub slots: u64,
    /// All experts of the bundle.
    pub experts: u64,
    /// Experts that were wanted and there, and those that had to be brought.
    pub counts: Counts,
    /// Of what a GPU had to be brought: what the system's memory had, and what came from the file.
    pub host: Counts,
    /// Experts that the CPU computed for a GPU instead of bringing them; only where that was asked for.
    pub computed: u64,
    /// Read from the file.
    pub bytes_read: u64,
    /// Time in which nothing was computed because an expert was missing.
    pub stall: Duration,
    /// Times the CPU waited for the GPU, command buffers handed to it, and bytes that came back; 0 on the CPU.
    pub synchronisations: u64,
    /// See `synchronisations`.
    pub submissions: u64,
    /// See `synchronisations`.
    pub bytes_returned: u64,
}
