//! What dropping experts costs, measured: the model predicts some text with fewer and fewer of them.

use std::sync::atomic::{AtomicBool, Ordering};

use hotset::profile::{KeepOptions, Kept, Losses, Profile, RatioLoss};
use hotset::{Engine, SessionOptions};

use crate::evaluation::{Sample, Scores, score};
use crate::failure::{Failure, Result};

/// Shares of the experts' bytes that are tried.
pub(crate) const RATIOS: [f64; 8] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2];

/// Mean loss on `samples`, in nats per token, with the experts of `kept`, or with all.
pub(crate) fn loss(engine: &Engine, context: Option<usize>, kept: Option<&Kept>, samples: &[Sample], done: &dyn Fn(u64)) -> Result<f64> {
    let mut session = engine.session(&SessionOptions { context, kept: kept.cloned(), ..SessionOptions::default() })?;
    let mut total = Scores::default();
    for sample in samples {
        total.merge(&score(&mut session, None, &sample.tokens, done)?);
    }
    Ok(total.loss())
}

/// Measures the losses of `profile`'s bundle at [`RATIOS`]. Shares that would leave a router too few experts are left out.
pub(crate) fn measure(
    engine: &Engine,
    context: Option<usize>,
    (profile, options): (&Profile, &KeepOptions),
    samples: &[Sample],
    (stop, done): (&AtomicBool, &dyn Fn(u64)),
) -> Result<Losses> {
    let base = loss(engine, context, None, samples, done)?;
    let mut ratios = Vec::new();
    for keep in RATIOS {
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted while losses were measured; what was counted before is saved"));
        }
        let Ok(kept) = profile.keep(engine.bundle(), &KeepOptions { keep, ..options.clone() }) else { continue };
        let bytes = kept.bytes(engine.bundle());
        ratios.push(RatioLoss { keep, bytes, loss: loss(engine, context, Some(&kept), samples, done)? });
    }
    let tokens = samples.iter().map(|s| s.tokens.len() as u64 - 1).sum();
    Ok(Losses { criterion: options.criterion, semantics: options.semantics, tokens, base, ratios })
}
