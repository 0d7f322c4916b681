//! Which tensors of a checkpoint grow when every pool gets more experts, and which are new: read off what the importer says weights are made
//! of, so that it holds for any family.

use std::collections::BTreeMap;

use hotset::plan::{Score, Transform, Work};
use serde_json::{Map, Value};

use crate::checkpoint::{Checkpoint, Tensor, Tensors};
use crate::failure::{Failure, Result};
use crate::import::{self, Import, Slice, Source};

/// Most keys of a configuration that are tried in every combination.
const KEYS: usize = 8;

/// How a model changes.
pub(super) struct Growth {
    /// The configuration with the new numbers of experts.
    pub(super) config: Map<String, Value>,
    /// The model that the grown checkpoint is.
    pub(super) import: Import,
    /// By name; everything else stays as it is.
    pub(super) parts: BTreeMap<String, Part>,
}

/// A tensor that grows or is new.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    /// What is appended along the first axis, or the whole of what is new.
    pub(super) shape: Vec<usize>,
    /// The tensor that it is like.
    pub(super) like: String,
    /// Whether it is appended to that tensor.
    pub(super) appended: bool,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// Of an expert.
    Expert,
    /// Rows of a router: what it thinks of new experts.
    Row,
    /// A number for each expert, 0 for a new one.
    Bias,
}

/// New experts for each pool of the two kinds.
#[derive(Clone, Copy)]
pub(super) struct Added {
    pub(super) attention: usize,
    pub(super) ffn: usize,
}

/// What has to be added. Fails, naming the part, where a model has one that does not say how it would grow.
pub(super) fn growth(checkpoint: &Checkpoint, old: &Import, added: Added) -> Result<Growth> {
    let refuse = |at: &str, what: &str| Failure::new(format!("models with {what} cannot be extended ({at})"));
    let mut parts = BTreeMap::new();
    let mut pools = vec![0; old.plan.pools.len()];
    for step in &old.plan.steps {
        let Some(routed) = &step.routed else { continue };
        let pool = &old.plan.pools[routed.pool as usize];
        let more = if matches!(step.work, Work::Attention(_)) { added.attention } else { added.ffn };
        if std::mem::replace(&mut pools[routed.pool as usize], more) != 0 {
            return Err(refuse(&step.name, "pools that several steps share"));
        }
        if pool.alias.is_some() {
            return Err(refuse(&step.name, "experts that compute nothing"));
        }
        let router = &routed.router;
        if router.select.groups.is_some() {
            return Err(refuse(&step.name, "experts in groups"));
        }
        if matches!(router.transform, Some(Transform::Relu { norm: Some(_) })) {
            return Err(refuse(&step.name, "a norm over a router's logits"));
        }
        let (rows, bias) = match &router.score {
            Score::Linear(l) | Score::Mlp { output: l, .. } | Score::Recurrent { output: l, .. } => (&l.weight, l.bias.as_ref()),
            Score::Cosine { centroids, .. } => (centroids, None),
        };
        let mut grow = |name: &str, role| {
            let whole = whole(&old.dense[name].source).ok_or_else(|| refuse(&step.name, "routers that are made of several tensors"))?;
            let mut shape = checkpoint.tensors()[whole].shape.clone();
            shape[0] = more;
            parts.insert(whole.to_owned(), Part { shape, like: whole.to_owned(), appended: true, role });
            Ok::<_, Failure>(())
        };
        grow(rows, Role::Row)?;
        bias.into_iter().chain(&router.select.bias).try_for_each(|name| grow(name, Role::Bias))?;
    }
    if parts.is_empty() {
        return Err(Failure::new(format!("{} has no experts that there could be more of", checkpoint.folder().display())));
    }
    for (i, (records, &more)) in old.experts.iter().zip(&pools).enumerate() {
        for place in 0..records.first().map_or(0, Vec::len) {
            let one_by_one = || refuse(&old.plan.pools[i].name, "experts that are not each, or all, in tensors of their own");
            of_experts(checkpoint, records.iter().map(|r| &r[place]), more, &mut parts).ok_or_else(one_by_one)?;
        }
    }
    let tensors = grown(checkpoint.tensors(), &parts);
    let want: Vec<u32> = old.plan.pools.iter().zip(&pools).map(|(p, more)| p.records + *more as u32).collect();
    let (config, import) = reconfigured(checkpoint.config(), &tensors, old, &want)?;
    Ok(Growth { config, import, parts })
}

/// The tensor that a source is, whole, row by row or as directions.
fn whole(source: &Source) -> Option<&str> {
    let (Source::Slice(slice) | Source::Directions { of: slice, .. }) = source else { return None };
    (*slice == Slice::of(&slice.tensor)).then_some(&slice.tensor)
}

/// What grows for one matrix or bias of all experts: the tensor that holds all of them, or one for each new expert.
fn of_experts<'a>(
    checkpoint: &Checkpoint,
    sources: impl Iterator<Item = &'a Source>,
    more: usize,
    parts: &mut BTreeMap<String, Part>,
) -> Option<()> {
    let slices: Vec<&Slice> = sources.map(|s| if let Source::Slice(slice) = s { Some(slice) } else { None }).collect::<Option<_>>()?;
    let first = slices.first()?;
    let shape = &checkpoint.tensors()[&first.tensor].shape;
    if slices.iter().enumerate().all(|(e, s)| s.index == Some(e) && s.tensor == first.tensor) {
        let shape = std::iter::once(more).chain(shape[1..].iter().copied()).collect();
        parts.insert(first.tensor.clone(), Part { shape, like: first.tensor.clone(), appended: true, role: Role::Expert });
        return Some(());
    }
    // `prefix.0.suffix`, `prefix.1.suffix`, …
    let named = |place: usize, e: usize| {
        let mut words: Vec<&str> = first.tensor.split('.').collect();
        let number = e.to_string();
        (*words.get(place)? == "0").then(|| words[place] = &number)?;
        Some(words.join("."))
    };
    let fits = |place: &usize| slices.iter().enumerate().all(|(e, s)| s.index.is_none() && named(*place, e).as_ref() == Some(&s.tensor));
    let place = (0..first.tensor.split('.').count()).find(fits)?;
    for e in slices.len()..slices.len() + more {
        parts.insert(named(place, e)?, Part { shape: shape.clone(), like: first.tensor.clone(), appended: false, role: Role::Expert });
    }
    Some(())
}

/// Tensors as the grown checkpoint will have them, as far as an importer looks.
fn grown(tensors: &Tensors, parts: &BTreeMap<String, Part>) -> Tensors {
    let mut grown = tensors.clone();
    for (name, part) in parts {
        let like = &tensors[&part.like];
        let mut shape = part.shape.clone();
        if part.appended {
            shape[0] += like.shape[0];
        }
        grown.insert(name.clone(), Tensor { shape, ..like.clone() });
    }
    grown
}

/// The configuration with which the importer takes `tensors` for the old model with `want` experts in its pools. Which keys count experts is
/// the family's to know: they are those that have to be raised.
fn reconfigured(config: &Map<String, Value>, tensors: &Tensors, old: &Import, want: &[u32]) -> Result<(Map<String, Value>, Import)> {
    let mut candidates: Vec<(&String, Vec<u32>)> = Vec::new();
    for (key, value) in config {
        let pools = old.plan.pools.iter().zip(want).filter(|(pool, _)| value.as_u64() == Some(pool.records.into()));
        let mut values: Vec<u32> = pools.map(|(_, want)| *want).collect();
        values.sort_unstable();
        values.dedup();
        if !values.is_empty() && candidates.len() < KEYS {
            candidates.push((key, values));
        }
    }
    // Every key keeps its value or gets one of those it could have; the fewest changes first.
    let mut choices: Vec<Vec<Option<u32>>> = vec![Vec::new()];
    for (_, values) in &candidates {
        let longer = |choice: &Vec<_>, value| choice.iter().copied().chain([value]).collect();
        let options = || std::iter::once(None).chain(values.iter().copied().map(Some));
        choices = choices.iter().flat_map(|c| options().map(move |value| longer(c, value))).collect();
    }
    choices.sort_by_key(|c| c.iter().flatten().count());
    for choice in choices {
        let mut config = config.clone();
        for ((key, _), value) in candidates.iter().zip(choice) {
            value.into_iter().for_each(|n| drop(config.insert((*key).clone(), n.into())));
        }
        if let Ok((_, import)) = import::import(&config, tensors)
            && import.plan.pools.iter().map(|p| p.records).eq(want.iter().copied())
        {
            return Ok((config, import));
        }
    }
    let message =
        "config.json has no keys that would say so many experts; some families need the same number in all layers, see --attention-experts";
    Err(Failure::new(message))
}
