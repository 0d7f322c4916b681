//! What an app may choose.

use hotset::{Device, PagingOptions, Sampling};

/// How to open a bundle.
#[derive(Clone, Debug, uniffi::Record)]
pub struct EngineOptions {
    /// `auto` (a hardware GPU if there is one that can hold the model, else the CPU), `cpu`, `gpu`, or a part of a GPU's name.
    #[uniffi(default = "auto")]
    pub device: String,
    /// Bytes of memory that the model may take, everything included, on whichever device it runs; experts that do not fit are read from the
    /// file when they are chosen. Without one the model is resident as a whole and [`set_budget`](crate::Engine::set_budget) fails.
    #[uniffi(default = None)]
    pub budget: Option<u64>,
    /// Threads on the CPU; by default one for each core.
    #[uniffi(default = None)]
    pub threads: Option<u32>,
    /// A file that [`save_heat`](crate::Engine::save_heat) wrote: which experts to load first. One that does not exist is ignored.
    #[uniffi(default = None)]
    pub heat: Option<String>,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions { device: "auto".into(), budget: None, threads: None, heat: None }
    }
}

impl EngineOptions {
    /// The same in the library's terms; `heat`: what is in that file.
    pub(crate) fn to_engine(&self, heat: Option<String>) -> hotset::EngineOptions {
        let device = self.device.parse().unwrap_or(Device::Auto);
        hotset::EngineOptions {
            device,
            threads: self.threads.map(|n| n as usize),
            paging: PagingOptions { budget: self.budget, heat, ..PagingOptions::default() },
            ..hotset::EngineOptions::default()
        }
    }
}

/// How a session keeps its conversation.
#[derive(Clone, Debug, Default, uniffi::Record)]
pub struct SessionOptions {
    /// Tokens that the caches hold; by default what the model was trained for, at most 4096.
    #[uniffi(default = None)]
    pub context: Option<u32>,
    /// Whether the oldest tokens are forgotten when they are full. Otherwise messages that do not fit are refused, and an answer ends where the
    /// context does.
    #[uniffi(default = false)]
    pub slide: bool,
    /// Tells the model how to behave.
    #[uniffi(default = None)]
    pub system: Option<String>,
    /// Experts that each token uses, instead of as many as the model was trained for: fewer are faster and worse.
    #[uniffi(default = None)]
    pub experts_per_token: Option<u32>,
}

impl SessionOptions {
    pub(crate) fn to_session(&self) -> hotset::SessionOptions {
        let overflow = if self.slide { hotset::Overflow::Slide } else { hotset::Overflow::Error };
        let (context, experts_per_token) = (self.context.map(|n| n as usize), self.experts_per_token);
        hotset::SessionOptions { context, overflow, experts_per_token, ..hotset::SessionOptions::default() }
    }
}

/// Which experts sessions do with.
#[derive(Clone, Debug, uniffi::Record)]
pub struct ProfileOptions {
    /// Share of the experts' bytes to keep, larger than 0 and at most 1.
    pub keep: f64,
    /// The kinds of text to keep them for, by their names in the profile; empty for all.
    #[uniffi(default = [])]
    pub texts: Vec<String>,
}

/// How to answer.
#[derive(Clone, Debug, uniffi::Record)]
pub struct GenerateOptions {
    /// Most tokens of the answer.
    #[uniffi(default = 512)]
    pub max_tokens: u32,
    /// 0 takes the likeliest token always; 1 samples from the model's own distribution.
    #[uniffi(default = 0.8)]
    pub temperature: f32,
    /// Choose among so many of the likeliest tokens; 0 for all. 1 to 128 are fastest.
    #[uniffi(default = 40)]
    pub top_k: u32,
    /// Choose among the likeliest tokens that together have this probability; in (0, 1].
    #[uniffi(default = 0.95)]
    pub top_p: f32,
    /// Leave out tokens less than this many times as likely as the likeliest; in [0, 1].
    #[uniffi(default = 0.0)]
    pub min_p: f32,
    /// Makes tokens of the last 64 less likely when larger than 1.
    #[uniffi(default = 1.0)]
    pub repeat_penalty: f32,
    /// The same seed gives the same answer; by default another one every time.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
    /// Texts that end the answer, without being part of it.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: 512,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.0,
            repeat_penalty: 1.0,
            seed: None,
            stop: Vec::new(),
        }
    }
}

impl GenerateOptions {
    /// The same in the library's terms.
    #[doc(hidden)]
    pub fn to_generate(&self, cancel: hotset::CancelToken) -> hotset::GenerateOptions {
        let &GenerateOptions { max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, .. } = self;
        let seed = self.seed.unwrap_or_else(clock);
        let sampling = Sampling { temperature, top_k: top_k as usize, top_p, min_p, repeat_penalty, seed, ..Sampling::default() };
        hotset::GenerateOptions { max_tokens: max_tokens as usize, sampling, stop: self.stop.clone(), ignore_eos: false, cancel }
    }
}

/// A seed that differs from call to call.
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |t| t.as_nanos() as u64)
}
