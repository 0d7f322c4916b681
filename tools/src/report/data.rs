//! What the page shows, as its scripts read it.

use hotset::profile::{Losses, PoolSize, Profile, StepUse, Usage};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Everything on the page.
#[derive(Serialize)]
pub(super) struct Data<'a> {
    profiles: Vec<Source<'a>>,
    /// The routed steps, in the plan's order.
    steps: Vec<Step<'a>>,
    /// All texts of all profiles.
    texts: Vec<Text<'a>>,
}

/// A profile.
#[derive(Serialize)]
struct Source<'a> {
    name: String,
    /// Bytes of everything but experts.
    dense: Option<u64>,
    /// Sizes of the experts, by pool.
    pools: Option<&'a [PoolSize]>,
    losses: Option<&'a Losses>,
}

#[derive(Serialize)]
struct Step<'a> {
    name: &'a str,
    kind: &'static str,
    pool: u32,
    experts: usize,
}

#[derive(Serialize)]
struct Text<'a> {
    /// Index into `profiles`.
    profile: usize,
    name: &'a str,
    tokens: u64,
    steps: Vec<Use<'a>>,
    chunks: Vec<Chunk>,
}

/// One list each for the experts of a step, `[E]`.
#[derive(Serialize)]
struct Use<'a> {
    selections: &'a [u64],
    gate: &'a [f64],
    saliency: Option<&'a [f64]>,
}

/// The share of a step's experts that so many tokens in a row use, in the mean over steps.
#[derive(Serialize)]
struct Chunk {
    tokens: u32,
    share: f64,
}

impl<'a> Data<'a> {
    pub(super) fn new(profile: &'a Profile, other: Option<&'a Profile>) -> Result<Data<'a>> {
        let profiles: Vec<&Profile> = [profile].into_iter().chain(other).collect();
        let usages = || profiles.iter().flat_map(|p| p.texts.values());
        let first = usages().find(|u| !u.steps.is_empty());
        let first = first.ok_or_else(|| Failure::new("the profile has no text, or its model no router; there is nothing to show"))?;
        if usages().any(|u| !shape(u).eq(shape(first))) {
            return Err(Failure::new(format!(
                "the profiles are of models with different experts ({:?}, {:?}); they cannot be compared",
                profile.model,
                other.unwrap_or(profile).model
            )));
        }
        let step = |s: &'a StepUse| {
            let kind = if s.attention { "attention" } else { "feed-forward" };
            Step { name: &s.name, kind, pool: s.pool, experts: s.selections.len() }
        };
        let text = |(profile, p): (usize, &&'a Profile)| p.texts.iter().map(move |(name, usage)| Text::new(profile, name, usage));
        Ok(Data {
            profiles: profiles.iter().enumerate().map(|(i, p)| Source::new(i, p, &profiles)).collect(),
            steps: first.steps.iter().map(step).collect(),
            texts: profiles.iter().enumerate().flat_map(text).collect(),
        })
    }
}

/// What texts that are shown together must have in common.
fn shape(usage: &Usage) -> impl Iterator<Item = (u32, bool, usize)> {
    usage.steps.iter().map(|s| (s.pool, s.attention, s.selections.len()))
}

impl<'a> Source<'a> {
    fn new(i: usize, profile: &'a Profile, all: &[&Profile]) -> Source<'a> {
        // Two profiles of one model are told apart by their place.
        let twins = all.iter().filter(|p| p.model == profile.model).count() > 1;
        let name = if twins { format!("{} {}", profile.model, ["A", "B"][i]) } else { profile.model.clone() };
        let sizes = profile.sizes.as_ref();
        Source { name, dense: sizes.map(|s| s.dense), pools: sizes.map(|s| &s.pools[..]), losses: profile.losses.as_ref() }
    }
}

impl<'a> Text<'a> {
    fn new(profile: usize, name: &'a str, usage: &'a Usage) -> Text<'a> {
        let steps = usage.steps.iter().map(|s| Use { selections: &s.selections, gate: &s.gate, saliency: s.saliency.as_deref() }).collect();
        Text { profile, name, tokens: usage.tokens, steps, chunks: chunks(usage) }
    }
}

/// Those lengths of chunks of which every step has counted one.
fn chunks(usage: &Usage) -> Vec<Chunk> {
    let lengths = usage.steps.first().map_or(&[][..], |s| &s.chunks).iter().map(|c| c.tokens);
    let share = |s: &StepUse, tokens: u32| {
        let chunk = s.chunks.iter().find(|c| c.tokens == tokens && c.chunks > 0)?;
        Some(chunk.experts as f64 / chunk.chunks as f64 / s.selections.len() as f64)
    };
    let of = |tokens: u32| {
        let shares: Option<Vec<f64>> = usage.steps.iter().map(|s| share(s, tokens)).collect();
        shares.map(|s| Chunk { tokens, share: s.iter().sum::<f64>() / s.len() as f64 })
    };
    lengths.filter_map(of).collect()
}
