//! Choosing which experts stay: for a share, for a size, or for a loss that is allowed.
//!
//! A profile ranks experts in several ways. Which is best differs between models and texts, so where there is text to measure with, the
//! ways are tried; each costs a reading of the text and no rewriting, because a session can do without experts of a whole bundle.

mod merge;

use std::sync::atomic::{AtomicBool, Ordering};

use hotset::Engine;
use hotset::profile::{KeepOptions, Kept, Profile};

use crate::evaluation::Sample;
use crate::failure::{Failure, Result};
use crate::profiling::loss;

pub(crate) use merge::{Dropped, Joining, heirs};

/// Bytes by which the header may grow, for its being a whole number of blocks.
const HEADER: u64 = 16 << 10;
/// How closely a share is searched for.
const STEPS: u32 = 7;

/// How much is to stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// This share of the experts' bytes.
    Keep(f64),
    /// As much as fits a bundle of this many bytes.
    Budget(u64),
    /// As little as costs at most this much: a share of the whole model's loss, 0.01 for a hundredth.
    MaxLoss(f64),
}

/// What was chosen.
pub(crate) struct Chosen {
    pub(crate) kept: Kept,
    pub(crate) options: KeepOptions,
    /// Losses with all experts and with these, in nats per token, where there was text to measure with.
    pub(crate) losses: Option<(f64, f64)>,
}

/// A profile, the bundle it is of, and text to measure with.
pub(crate) struct Search<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) profile: &'a Profile,
    pub(crate) samples: &'a [Sample],
    pub(crate) context: Option<usize>,
    /// The ways of ranking to try, best first.
    pub(crate) ways: Vec<KeepOptions>,
    pub(crate) stop: &'a AtomicBool,
    /// Told what was tried: the way, the share, and the loss in nats per token.
    pub(crate) tried: &'a dyn Fn(&KeepOptions, f64),
}

impl Search<'_> {
    /// # Errors
    /// When the goal cannot be reached: the message says how near one can come.
    pub(crate) fn run(&self, goal: Goal) -> Result<Chosen> {
        match goal {
            Goal::Keep(keep) => self.best(keep),
            Goal::Budget(bytes) => self.best(self.share(bytes)?),
            Goal::MaxLoss(allowed) => self.cheapest(allowed),
        }
    }

    /// The share of the experts' bytes that leaves a bundle of `bytes`.
    fn share(&self, bytes: u64) -> Result<f64> {
        let bundle = self.engine.bundle();
        // The list of those that are gone takes room in the header.
        let named: u64 = bundle
            .plan()
            .steps
            .iter()
            .filter_map(|s| s.routed.as_ref())
            .map(|r| u64::from(bundle.plan().pools[r.pool as usize].experts()))
            .sum();
        let (dense, experts) = (bundle.dense_bytes() + 16 * named + HEADER, Kept::all(bundle.plan()).bytes(bundle));
        match bytes.checked_sub(dense) {
            Some(room) if room > 0 => Ok((room as f64 / experts as f64).min(1.0)),
            _ => Err(Failure::new(format!("{bytes} bytes are too few: without any expert the bundle takes {dense}"))),
        }
    }

    /// The way that costs least at a share; the first without text to measure with.
    fn best(&self, keep: f64) -> Result<Chosen> {
        let mut best: Option<(KeepOptions, Kept, f64)> = None;
        let base = if self.samples.is_empty() { 0.0 } else { self.loss(None)? };
        for way in &self.ways {
            let options = KeepOptions { keep, ..way.clone() };
            let kept = self.profile.keep(self.engine.bundle(), &options)?;
            if self.samples.is_empty() {
                return Ok(Chosen { kept, options, losses: None });
            }
            let loss = self.loss(Some(&kept))?;
            (self.tried)(&options, loss);
            if best.as_ref().is_none_or(|b| loss < b.2) {
                best = Some((options, kept, loss));
            }
        }
        let (options, kept, loss) = best.ok_or_else(|| Failure::new("there is no way to rank experts by"))?;
        Ok(Chosen { kept, options, losses: Some((base, loss)) })
    }

    /// The smallest share that costs no more than allowed, between the least that routers need and all.
    fn cheapest(&self, allowed: f64) -> Result<Chosen> {
        if self.samples.is_empty() {
            return Err(Failure::new("--max-loss needs --text to measure losses with"));
        }
        let base = self.loss(None)?;
        let limit = base * (1.0 + allowed);
        let (mut low, mut high) = (0.0, 1.0);
        let way = self.ways.first().ok_or_else(|| Failure::new("there is no way to rank experts by"))?;
        let options = KeepOptions { keep: 1.0, ..way.clone() };
        let mut chosen = Chosen { kept: self.profile.keep(self.engine.bundle(), &options)?, options, losses: Some((base, base)) };
        for _ in 0..STEPS {
            let keep = (low + high) / 2.0;
            // A router may need more than this share.
            match self.best(keep) {
                Ok(found) if found.losses.is_some_and(|(_, loss)| loss <= limit) => (high, chosen) = (keep, found),
                Ok(_) => low = keep,
                Err(Failure::Hotset(hotset::Error::Input(_))) => low = keep,
                Err(e) => return Err(e),
            }
        }
        Ok(chosen)
    }

    fn loss(&self, kept: Option<&Kept>) -> Result<f64> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::new("interrupted; nothing was written"));
        }
        loss(self.engine, self.context, kept, self.samples, &|_| ())
    }
}
