//! Making a model fit a device: which codec, which share of the experts, and what comes of it.
//!
//! Bits go before experts: 8 bits cost next to nothing, 4 little. Experts are dropped only when fewer bits are not enough for all of them to
//! stay in memory, and only as far as a profile's measured losses allow. What still does not fit is read when it is wanted.

mod predict;

use hotset::bundle::Cost;
use hotset::codec::Codec;
use hotset::cpu::Needs;
use hotset::plan::Plan;
use hotset::profile::Losses;
use serde::Serialize;

pub(crate) use predict::{Prediction, hits, predict, smallest};

/// Codecs to try, finest first.
pub(crate) const CODECS: [Codec; 2] = [Codec::Q8, Codec::Q4];

/// One way to store the model.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    /// `None`: as it is.
    pub(crate) codec: Option<Codec>,
    pub(crate) plan: Plan,
    pub(crate) cost: Cost,
}

/// What is to be done, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Choice {
    /// Index into the candidates.
    #[serde(skip)]
    pub(crate) candidate: usize,
    /// Share of the experts' bytes to keep.
    pub(crate) keep: f64,
    pub(crate) why: String,
}

/// Chooses among `candidates` (at least one, finest first) for `memory` bytes and conversations of `context` tokens. Experts may be dropped
/// where `losses` say that this costs at most `max_loss`, a share of the loss.
pub(crate) fn choose(candidates: &[Candidate], memory: u64, context: usize, losses: Option<&Losses>, max_loss: f64) -> Choice {
    // The share of experts that there is room for.
    let room = |c: &Candidate| {
        let left = memory.saturating_sub(Needs::new(&c.plan, &c.cost, memory, context).fixed());
        left as f64 / c.cost.catalogue.bytes().max(1) as f64
    };
    if let Some(candidate) = candidates.iter().position(|c| room(c) >= 1.0) {
        return Choice { candidate, keep: 1.0, why: "the finest with which everything stays in memory".into() };
    }
    let candidate = candidates.len() - 1;
    let room = room(&candidates[candidate]);
    let paged = format!("memory holds {:.0} % of the experts, the others are read when they are wanted", 100.0 * room);
    let Some(losses) = losses else {
        return Choice {
            candidate,
            keep: 1.0,
            why: format!("{paged}; none is dropped without measured losses (`hotset profile --losses`)"),
        };
    };
    let allowed = affordable(losses, max_loss);
    let percent = 100.0 * max_loss;
    match allowed {
        keep if keep >= 1.0 => {
            Choice { candidate, keep: 1.0, why: format!("{paged}; dropping any would cost more than {percent} % of the loss") }
        }
        keep if keep <= room => Choice { candidate, keep: room, why: "as many experts as stay in memory".into() },
        keep => Choice { candidate, keep, why: format!("as few experts as cost at most {percent} % of the loss; {paged}") },
    }
}

/// The loss when a share of the experts is kept, between what was measured; `None` below the smallest measured share.
pub(crate) fn loss(losses: &Losses, keep: f64) -> Option<f64> {
    let points = points(losses);
    let after = points.iter().position(|p| p.0 >= keep - 1e-9)?;
    let (x1, y1) = points[after];
    if x1 <= keep + 1e-9 {
        return Some(y1);
    }
    let (x0, y0) = points[after.checked_sub(1)?];
    Some(y0 + (y1 - y0) * (keep - x0) / (x1 - x0))
}

/// The smallest share of experts that costs at most `max_loss`, by going down from all of them as long as that is so.
fn affordable(losses: &Losses, max_loss: f64) -> f64 {
    let limit = losses.base * (1.0 + max_loss);
    let mut keep = 1.0;
    for ((x0, y0), (x1, y1)) in points(losses).iter().rev().skip(1).zip(points(losses).iter().rev()) {
        if *y0 > limit {
            // Between the two, where the limit is crossed.
            return if y0 > y1 { x1 - (x1 - x0) * ((limit - y1) / (y0 - y1)).clamp(0.0, 1.0) } else { keep };
        }
        keep = *x0;
    }
    keep
}

/// Shares and losses, ascending, with all experts at the end.
fn points(losses: &Losses) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> =
        losses.ratios.iter().filter(|r| r.keep < 1.0).map(|r| (r.keep, r.loss)).chain([(1.0, losses.base)]).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

#[cfg(test)]
mod tests;
