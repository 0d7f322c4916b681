//! What a plan names, as functions of a checkpoint's tensors.

use std::collections::BTreeSet;

use candle_core::{D, Result, Tensor};
use hotset::plan::{Name, Norm, Router, Score, Transform};

use crate::import::{Every, Import, Shape, Slice, Source};
use crate::training::Weights;
use crate::training::ops::Stack;

/// The tensors of a plan over the weights of a checkpoint.
pub(super) struct Tensors<'a> {
    pub(super) import: &'a Import,
    pub(super) weights: &'a Weights,
}

impl Tensors<'_> {
    /// The matrix `[rows, cols]` or vector `[len]` of that name.
    pub(super) fn dense(&self, name: &str) -> Result<Tensor> {
        let dense = self.import.dense.get(name).ok_or_else(|| candle_core::Error::Msg(format!("the plan has no tensor {name:?}")))?;
        match dense.shape {
            Shape::Matrix { rows, cols } => self.source(&dense.source, rows as usize, cols as usize),
            Shape::Vector { len } => self.source(&dense.source, 1, len as usize)?.reshape(len as usize),
        }
    }

    /// Part `part` of all records of a pool, in the order of their matrices and then biases: `[E, rows, cols]`, or the other way round
    /// where all of them are stored in one tensor that way. A bias is one row.
    pub(super) fn stack(&self, pool: usize, part: usize, (rows, cols): (usize, usize)) -> Result<Stack> {
        let records = &self.import.experts[pool];
        if let Some(slice) = in_one_tensor(records.iter().map(|r| &r[part])) {
            let whole = self.weights.get(&slice.tensor)?;
            let whole = match whole.rank() {
                2 => whole.unsqueeze(1)?,
                _ => whole.flatten(2, D::Minus1)?,
            };
            let weight = pick(&pick(&whole, 1, slice.rows.as_ref())?, 2, slice.columns.as_ref())?;
            return Ok(Stack { weight, inputs_first: slice.transposed });
        }
        let each = records.iter().map(|r| self.source(&r[part], rows, cols)).collect::<Result<Vec<_>>>()?;
        Ok(Stack { weight: Tensor::stack(&each, 0)?, inputs_first: false })
    }

    /// A matrix `[rows, cols]`; a vector is one row.
    fn source(&self, source: &Source, rows: usize, cols: usize) -> Result<Tensor> {
        match source {
            Source::Slice(slice) => self.slice(slice),
            Source::Constant(value) => Tensor::full(*value, (rows, cols), &self.weights.device()),
            Source::Stack(parts) => {
                let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, s)| self.source(s, *n as usize, cols));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
            }
            Source::Chain(parts) => {
                let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, s)| self.source(s, 1, *n as usize));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)
            }
            Source::Widened(slice) => {
                let narrow = self.slice(slice)?;
                narrow.pad_with_zeros(1, 0, cols - narrow.dim(1)?)
            }
            Source::Scaled(of, by) => self.source(of, rows, cols)? * f64::from(*by),
            Source::Columns { of, gain } => self.slice(of)?.broadcast_mul(&self.slice(gain)?),
            Source::Image { matrix, of, plus } => {
                let image = self.slice(of)?.matmul(&self.slice(matrix)?.t()?)?;
                plus.as_ref().map_or(Ok(image.clone()), |plus| &image + self.slice(plus)?)
            }
            Source::Product { left, right } => self.slice(left)?.matmul(&self.slice(right)?),
            Source::Directions { of, log_scale } => {
                let rows = self.slice(of)?;
                let length = rows.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
                rows.broadcast_div(&length)?.broadcast_mul(&self.slice(log_scale)?.exp()?)
            }
            Source::Mxfp4 { .. } => candle_core::bail!("weights in mxfp4, which the vocabulary excludes"),
        }
    }

    /// A part of a tensor as a matrix; a single axis is one row.
    fn slice(&self, slice: &Slice) -> Result<Tensor> {
        let whole = self.weights.get(&slice.tensor)?;
        let part = slice.index.map_or(Ok(whole.clone()), |i| whole.get(i))?;
        let matrix = match part.rank() {
            0 | 1 => part.reshape((1, part.elem_count()))?,
            _ => part.flatten(1, D::Minus1)?,
        };
        let matrix = pick(&pick(&matrix, 0, slice.rows.as_ref())?, 1, slice.columns.as_ref())?;
        if slice.transposed { matrix.t() } else { Ok(matrix) }
    }
}

/// What all of `sources` are but for the expert, if they are experts 0, 1, … of one tensor.
fn in_one_tensor<'a>(sources: impl Iterator<Item = &'a Source>) -> Option<Slice> {
    let mut common = None;
    for (e, source) in sources.enumerate() {
        let Source::Slice(slice) = source else { return None };
        let whole = Slice { index: None, ..slice.clone() };
        if slice.index != Some(e) || *common.get_or_insert_with(|| whole.clone()) != whole {
            return None;
        }
    }
    common
}

/// Some indices of an axis.
fn pick(x: &Tensor, axis: usize, every: Option<&Every>) -> Result<Tensor> {
    let Some(Every { range, step }) = every else { return Ok(x.clone()) };
    if *step == 1 {
        return x.narrow(axis, range.start, range.len());
    }
    let indices: Vec<u32> = range.clone().step_by(*step).map(|i| i as u32).collect();
    x.contiguous()?.index_select(&Tensor::new(indices, x.device())?, axis)
}

/// The checkpoint tensors that everything is made of.
pub(super) fn all(import: &Import) -> BTreeSet<String> {
    let sources = import.dense.values().map(|d| &d.source).chain(import.experts.iter().flatten().flatten());
    names(sources)
}

/// The checkpoint tensors that experts are made of.
pub(super) fn of_experts(import: &Import) -> BTreeSet<String> {
    names(import.experts.iter().flatten().flatten())
}

/// The checkpoint tensors that routers are made of.
pub(super) fn of_routers(import: &Import) -> BTreeSet<String> {
    let routers = import.plan.steps.iter().filter_map(|s| s.routed.as_ref()).map(|r| &r.router);
    names(routers.flat_map(of_router).filter_map(|n| import.dense.get(n)).map(|d| &d.source))
}

/// What a router is made of, by its names in the plan. A bias that only selects has no gradient.
fn of_router(router: &Router) -> Vec<&Name> {
    let linears = match &router.score {
        Score::Linear(l) => vec![l],
        Score::Mlp { hidden, output, .. } => vec![hidden, output],
        Score::Cosine { projection, .. } => vec![projection],
        Score::Recurrent { input, hidden, output, .. } => vec![input, hidden, output],
    };
    let mut names: Vec<&Name> = linears.into_iter().flat_map(|l| std::iter::once(&l.weight).chain(&l.bias)).collect();
    if let Score::Cosine { centroids, .. } = &router.score {
        names.push(centroids);
    }
    if let Some(Transform::Relu { norm: Some(norm) }) = &router.transform {
        match norm {
            Norm::Rms { weight, .. } => names.push(weight),
            Norm::Layer { weight, bias, .. } => names.extend(std::iter::once(weight).chain(bias)),
        }
    }
    names
}

fn names<'a>(sources: impl Iterator<Item = &'a Source>) -> BTreeSet<String> {
    let mut slices = Vec::new();
    sources.for_each(|s| s.slices(&mut slices));
    slices.into_iter().map(|s| s.tensor.clone()).collect()
}
