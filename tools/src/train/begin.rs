//! Weights before anything is trained, by what they are for.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use hotset::plan::{Norm, Part, Plan, Role, Work};

use crate::checkpoint::Tensors;
use crate::failure::{Failure, Result};
use crate::import::{Import, Shape, Source};
use crate::packing::Usage;
use crate::random::Random;
use crate::training::Weights;

/// Standard deviation of embeddings and of the output matrix.
const VOCABULARY: f64 = 0.02;
/// Standard deviation of experts in a model of width [`WIDE`]; narrower models have larger ones, as products add up fewer terms.
const EXPERTS: f64 = 0.02;
const WIDE: f64 = 1024.0;

/// How values begin.
#[derive(Clone, Copy)]
enum Kind {
    /// The same everywhere.
    Constant(f64),
    /// Normally distributed around zero.
    Normal(f64),
    /// Uniformly distributed on both sides of zero, up to this.
    Uniform(f64),
}

/// Weights for the tensors of a model.
pub(super) fn weights(import: &Import, tensors: &Tensors, random: &mut Random) -> Result<Weights> {
    let kinds = kinds(import);
    let mut weights = Weights::default();
    for (name, tensor) in tensors {
        let kind = *kinds.get(name).ok_or_else(|| Failure::new(format!("nothing says how the tensor {name:?} begins")))?;
        let mut value = || match kind {
            Kind::Constant(value) => value,
            Kind::Normal(spread) => spread * random.normal(),
            Kind::Uniform(bound) => bound * (2.0 * random.unit() - 1.0),
        };
        let values: Vec<f32> = (0..tensor.shape.iter().product()).map(|_| value() as f32).collect();
        weights.insert(name, Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?);
    }
    Ok(weights)
}

/// How the tensors of a model begin, by their names in the checkpoint.
fn kinds(import: &Import) -> BTreeMap<String, Kind> {
    let (mut kinds, plan) = (BTreeMap::new(), &import.plan);
    let mut set = |source: &Source, kind: Kind| {
        let mut slices = Vec::new();
        source.slices(&mut slices);
        kinds.extend(slices.into_iter().map(|s| (s.tensor.clone(), kind)));
    };
    let width = f64::from(plan.width);
    let (weights, biases) = norms(plan);
    for (name, dense) in &import.dense {
        let kind = match (dense.usage, dense.shape) {
            _ if weights.contains(name.as_str()) => Kind::Constant(1.0),
            _ if biases.contains(name.as_str()) => Kind::Constant(0.0),
            // What only selects is not trained by gradients, and must prefer nobody.
            _ if selects(plan, name) => Kind::Constant(0.0),
            (Usage::Vocabulary, _) => Kind::Normal(VOCABULARY),
            (_, Shape::Matrix { cols, .. }) => Kind::Uniform(1.0 / f64::from(cols).sqrt()),
            (_, Shape::Vector { .. }) => Kind::Uniform(1.0 / width.sqrt()),
        };
        set(&dense.source, kind);
    }
    let spread = EXPERTS * (WIDE / width).sqrt();
    for (pool, records) in plan.pools.iter().zip(&import.experts) {
        let matrices = pool.expert.matrices(plan.width);
        for record in records {
            for (i, source) in record.iter().enumerate() {
                set(
                    source,
                    match matrices.get(i) {
                        // What writes to the stream begins smaller the more writers there are.
                        Some((Role::Down | Role::Output, ..)) => Kind::Normal(spread / (plan.steps.len() as f64).sqrt()),
                        Some(_) => Kind::Normal(spread),
                        None => Kind::Constant(0.0),
                    },
                );
            }
        }
    }
    kinds
}

/// Whether that tensor is a bias by which routers select.
fn selects(plan: &Plan, name: &str) -> bool {
    plan.steps.iter().filter_map(|s| s.routed.as_ref()).any(|r| r.router.select.bias.as_deref() == Some(name))
}

/// Names of the weights and of the biases of all norms.
fn norms(plan: &Plan) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let inside = plan.steps.iter().flat_map(|step| match &step.work {
        Work::Attention(a) => {
            let low_rank = if let Part::LowRank { norm, .. } = &a.q { Some(norm) } else { None };
            vec![a.q_norm.as_ref(), a.k_norm.as_ref(), low_rank]
        }
        _ => Vec::new(),
    });
    let norms: Vec<&Norm> = plan.steps.iter().map(|s| s.norm.as_ref()).chain(inside).flatten().chain([&plan.head.norm]).collect();
    let biases = norms.iter().filter_map(|norm| match norm {
        Norm::Layer { bias, .. } => bias.as_deref(),
        Norm::Rms { .. } => None,
    });
    (norms.iter().map(|n| n.weight()).collect(), biases.collect())
}
