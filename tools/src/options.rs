//! Flags that several commands share.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use clap::Args;
use hotset::bundle::{Bundle, Reading};
use hotset::experts::Policy;
use hotset::gpu::Arithmetic;
use hotset::plan::Semantics;
use hotset::profile::{Criterion, KeepOptions, Kept, Profile};
use hotset::{
    Adapter, Device, Engine, EngineOptions, GenerateOptions, Overflow, PagingOptions, Placement, Sampling, SelfContrast, Session,
    SessionOptions,
};

use crate::failure::{Failure, Result};
use crate::profiling::load;
use crate::saving::Saving;

/// File name of the demo bundle.
const DEMO: &str = "molm-demo.hotset";

/// Where to run.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// auto, cpu, gpu, reference, or a part of an adapter's name (see `hotset devices`)
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// CPU threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How a GPU multiplies with q8 and q4 weights: float, half or int8 [default: the fastest there, float among equals]
    #[arg(long, value_name = "ARITHMETIC")]
    gpu_arithmetic: Option<Arithmetic>,
    #[command(flatten)]
    paging: PagingArgs,
}

/// Models larger than memory.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
struct PagingArgs {
    /// Take at most this much of the system's memory for a model on the CPU, such as 1.5GiB; experts beyond it are read when needed.
    /// With --vram: keep this much of the experts that are not on the GPU
    #[arg(long, value_name = "BYTES")]
    ram: Option<ByteSize>,
    /// Take at most this much of a GPU's memory
    #[arg(long, value_name = "BYTES")]
    vram: Option<ByteSize>,
    /// paged; resident: fail unless all experts fit; hybrid: on a GPU, let the CPU compute missing experts where that is faster (rounds
    /// otherwise)
    #[arg(long, value_name = "PLACEMENT", default_value = "paged")]
    placement: Placement,
    /// Which expert leaves first: next-use, lru or lfu
    #[arg(long, value_name = "POLICY", default_value_t)]
    policy: Policy,
    /// How experts are read: direct, buffered or mapped
    #[arg(long, value_name = "WAY", default_value = "direct")]
    reading: Reading,
    /// Read experts that the next step will probably need before it asks
    #[arg(long)]
    prefetch: bool,
    /// Start from what earlier runs learned about which experts are used, and learn on
    #[arg(long, value_name = "FILE")]
    heat: Option<PathBuf>,
}

impl PagingArgs {
    fn options(&self) -> Result<PagingOptions> {
        if self.heat.is_some() && self.ram.or(self.vram).is_none() {
            return Err(Failure::new("--heat needs --ram or --vram: where all experts fit there is nothing to learn"));
        }
        let heat = self.heat.as_ref().filter(|p| p.exists());
        let heat = heat.map(|p| std::fs::read_to_string(p).map_err(|e| Failure::new(format!("cannot read {}: {e}", p.display()))));
        Ok(PagingOptions {
            budget: None,
            vram: self.vram.map(|b| b.as_u64()),
            ram: self.ram.map(|b| b.as_u64()),
            placement: self.placement,
            policy: self.policy,
            reading: self.reading,
            prefetch: self.prefetch,
            heat: heat.transpose()?,
        })
    }
}

impl DeviceArgs {
    /// Opens `bundle` on the device.
    pub(crate) fn open(&self, bundle: &Path) -> Result<Engine> {
        self.open_bundle(Bundle::open(bundle)?)
    }

    /// Opens `bundle` on the device without the experts that `overlay` leaves out.
    pub(crate) fn open_with(&self, bundle: &Path, overlay: &OverlayArgs) -> Result<Engine> {
        self.open_bundle(overlay.apply(Bundle::open(bundle)?)?)
    }

    /// Opens `bundle` on the CPU, unless another device was asked for: for work that only the CPU does.
    pub(crate) fn open_on_cpu(&self, bundle: &Path) -> Result<Engine> {
        let device = if self.device == Device::Auto { Device::Cpu } else { self.device.clone() };
        Ok(Engine::open(bundle, &EngineOptions { device, ..self.options()? })?)
    }

    fn open_bundle(&self, bundle: Bundle) -> Result<Engine> {
        Ok(Engine::of_bundle(bundle, &self.options()?)?)
    }

    fn options(&self) -> Result<EngineOptions> {
        let &DeviceArgs { ref device, threads, gpu_arithmetic, ref paging } = self;
        Ok(EngineOptions { device: device.clone(), threads, gpu_arithmetic, paging: paging.options()? })
    }

    /// Keeps what the engine learned, where that was asked for.
    pub(crate) fn keep_heat(&self, engine: &Engine) -> Result<()> {
        let Some(path) = &self.paging.heat else { return Ok(()) };
        let Some(heat) = engine.heat() else { return Ok(()) };
        Ok(Saving::begin(path)?.finish(heat.as_bytes())?)
    }

    /// Threads that compute on the CPU.
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// How a profile ranks experts.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which experts stay")]
pub(crate) struct KeepArgs {
    /// contribution: what they add to the stream; gate-mass: the sum of their weights; frequency: how often they are chosen; saliency: what
    /// they add when they are chosen [default: contribution; gate-mass where a profile has no lengths of outputs]
    #[arg(long, value_name = "CRITERION")]
    criterion: Option<Criterion>,
    /// masked: what the others weigh stays as it is; deleted: they share what the dropped ones weighed [default: masked]
    #[arg(long, value_name = "SEMANTICS")]
    semantics: Option<Semantics>,
    /// Only what this text of the profile uses counts (may be given several times) [default: all]
    #[arg(long = "for", value_name = "NAME")]
    texts: Vec<String>,
    /// Keep the same share of every layer
    #[arg(long)]
    uniform: bool,
}

impl KeepArgs {
    /// The way that was asked for, or the default one, at a share.
    pub(crate) fn options(&self, keep: f64) -> KeepOptions {
        let &KeepArgs { criterion, semantics, ref texts, uniform } = self;
        let (criterion, semantics) = (criterion.unwrap_or_default(), semantics.unwrap_or_default());
        KeepOptions { keep, criterion, semantics, texts: texts.clone(), uniform }
    }
}

impl KeepArgs {
    /// The same for a profile, which may lack what the default criterion needs.
    pub(crate) fn options_for(&self, profile: &Profile, keep: f64) -> KeepOptions {
        let options = self.options(keep);
        match self.criterion {
            None if !profile.has(options.criterion) => KeepOptions { criterion: Criterion::GateMass, ..options },
            _ => options,
        }
    }
}

/// A bundle with fewer experts than its file has.
#[derive(Debug, Args)]
pub(crate) struct OverlayArgs {
    /// Use only the experts that this profile of the bundle ranks highest; the file is not touched
    #[arg(long, value_name = "P.json", requires = "keep")]
    profile: Option<PathBuf>,
    /// As many as make up this share of the experts' bytes, such as 0.5
    #[arg(long, value_name = "R", requires = "profile")]
    keep: Option<f64>,
    #[command(flatten)]
    choice: KeepArgs,
}

impl OverlayArgs {
    fn apply(&self, bundle: Bundle) -> Result<Bundle> {
        match self.profile.as_ref().zip(self.keep) {
            None => Ok(bundle),
            Some((path, keep)) => {
                let profile = load(path)?;
                Ok(bundle.pruned(&profile.keep(&bundle, &self.choice.options_for(&profile, keep))?)?)
            }
        }
    }
}

/// How a conversation is kept, and which experts it uses.
#[derive(Debug, Args)]
pub(crate) struct SessionArgs {
    /// Tokens to keep [default: what the model was trained for, at most 4096]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Forget the oldest tokens when the context is full, instead of stopping
    #[arg(long)]
    slide: bool,
    /// Experts per token, instead of as many as the model was trained for (changes the answers)
    #[arg(long, value_name = "K")]
    experts_per_token: Option<u32>,
    /// Decode with the difference to a weak routing that uses the expert of this rank only: logits (1 + BETA)·strong − BETA·weak, of
    /// tokens at least ALPHA times as likely as the likeliest; 0.5,0.1,3 is usual (changes the answers, doubles the work)
    #[arg(long, value_name = "BETA,ALPHA,RANK", value_parser = self_contrast)]
    self_contrast: Option<SelfContrast>,
    /// Low-rank experts to add, made by `hotset adapt` (CPU only)
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
}

/// Reads `0.5,0.1,3`.
fn self_contrast(text: &str) -> std::result::Result<SelfContrast, String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let contrast = |[beta, alpha, rank]: [&str; 3]| {
        Some(SelfContrast { beta: beta.parse().ok()?, alpha: alpha.parse().ok()?, rank: rank.parse().ok()? })
    };
    let read = <[&str; 3]>::try_from(parts).ok().and_then(contrast);
    read.ok_or_else(|| "give two numbers and a rank, such as 0.5,0.1,3".to_owned())
}

impl SessionArgs {
    /// Starts a session.
    pub(crate) fn session(&self, engine: &Engine) -> Result<Session> {
        self.start(engine, self.context, None)
    }

    /// Starts a session that does with these experts.
    pub(crate) fn session_with(&self, engine: &Engine, kept: Option<Kept>) -> Result<Session> {
        self.start(engine, self.context, kept)
    }

    /// Starts a session for `tokens` and nothing after them: models whose positions depend on the conversation's length see the length that
    /// a single pass over these tokens has.
    pub(crate) fn session_for(&self, engine: &Engine, tokens: usize) -> Result<Session> {
        self.start(engine, self.context.or(Some(tokens.max(1))), None)
    }

    fn start(&self, engine: &Engine, context: Option<usize>, kept: Option<Kept>) -> Result<Session> {
        let overflow = if self.slide { Overflow::Slide } else { Overflow::Error };
        let &SessionArgs { experts_per_token, self_contrast, ref adapter, .. } = self;
        let adapter = adapter.as_ref().map(Adapter::open).transpose()?;
        let options = SessionOptions { context, overflow, experts_per_token, self_contrast, adapter, kept, ..SessionOptions::default() };
        Ok(engine.session(&options)?)
    }
}

/// How tokens are chosen. Defaults differ between commands, so every flag is optional here.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (in this order)")]
pub(crate) struct SamplingArgs {
    /// Divide logits of recent tokens by this; 1.1 is usual, 1 is off
    #[arg(long, value_name = "X")]
    repeat_penalty: Option<f32>,
    /// How many recent tokens that are
    #[arg(long, value_name = "N")]
    repeat_last: Option<usize>,
    /// Keep the N likeliest tokens; 0 keeps all
    #[arg(long, value_name = "N")]
    top_k: Option<usize>,
    /// 0 takes the likeliest token always; larger is more varied
    #[arg(long, value_name = "T")]
    temp: Option<f32>,
    /// Keep the likeliest tokens that have this probability together
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Same seed, same text
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// What was asked for, `default` where nothing was.
    pub(crate) fn options(&self, max_tokens: usize, default: Sampling) -> GenerateOptions {
        let sampling = Sampling {
            temperature: self.temp.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            repeat_last: self.repeat_last.unwrap_or(default.repeat_last),
            seed: self.seed.unwrap_or(default.seed),
        };
        GenerateOptions { max_tokens, sampling, stop: self.stop.clone(), ..GenerateOptions::default() }
    }
}

/// The bundle that was named, or the demo bundle: beside the program, or in the source tree it was built from.
pub(crate) fn bundle_or_demo(named: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(DEMO)));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(DEMO);
    let found = beside.into_iter().chain([source]).find(|p| p.is_file());
    found.ok_or_else(|| Failure::new(format!("no bundle was named, and the demo bundle {DEMO} is not beside the program; name a bundle")))
}
