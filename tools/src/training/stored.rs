//! Tensors on their way to a file.

use std::borrow::Cow;
use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use half::{bf16, f16};
use safetensors::{Dtype, View};

use super::Weights;
use crate::checkpoint::{self, Checkpoint};
use crate::failure::{self, Failure};

/// A tensor to be written.
pub(crate) enum Stored<'a> {
    /// Values, rounded to a type as they are written.
    Values { values: Vec<f32>, shape: Vec<usize>, dtype: Dtype },
    /// A checkpoint's tensor as it is.
    Copied { checkpoint: &'a Checkpoint, tensor: &'a checkpoint::Tensor },
    /// Two of one type, the second behind the first along the first axis.
    Joined { shape: Vec<usize>, parts: Box<[Stored<'a>; 2]> },
}

impl<'a> Stored<'a> {
    /// This one and behind it, along the first axis, another of its type.
    pub(crate) fn followed_by(self, other: Stored<'a>) -> Stored<'a> {
        let mut shape = self.shape().to_vec();
        shape[0] += other.shape()[0];
        Stored::Joined { shape, parts: Box::new([self, other]) }
    }

    /// The values of `tensor` as `dtype`.
    pub(crate) fn new(tensor: &Tensor, dtype: Dtype) -> Result<Stored<'static>> {
        Ok(Stored::Values { values: tensor.flatten_all()?.to_vec1()?, shape: tensor.dims().to_vec(), dtype })
    }

    /// Fails when a value is no number or too large for its type.
    pub(super) fn check(&self, name: &str) -> failure::Result<()> {
        let (values, dtype) = match self {
            Stored::Values { values, dtype, .. } => (values, dtype),
            Stored::Copied { .. } => return Ok(()),
            Stored::Joined { parts, .. } => return parts.iter().try_for_each(|p| p.check(name)),
        };
        let most = if *dtype == Dtype::F16 { f16::MAX.to_f32() } else { f32::MAX };
        match values.iter().find(|v| v.is_nan() || v.abs() > most) {
            None => Ok(()),
            Some(v) => {
                Err(Failure::new(format!("{v} in tensor {name:?} cannot be written as {dtype}; give --dtype f32, or a smaller --lr")))
            }
        }
    }
}

/// The checkpoint with `weights` in place of its own: each in the type it came in, or in f32. What `weights` lack is copied.
pub(crate) fn updated<'a>(checkpoint: &'a Checkpoint, weights: &Weights, full: bool) -> Result<BTreeMap<String, Stored<'a>>> {
    let mut stored = BTreeMap::new();
    for (name, tensor) in checkpoint.tensors() {
        if let Some(values) = weights.0.get(name) {
            stored.insert(name.clone(), Stored::new(values, if full { Dtype::F32 } else { tensor.dtype })?);
        } else if !weights.0.keys().any(|trained| checkpoint.tensors()[trained].is(tensor)) {
            // A second name of a tensor would keep its old values.
            stored.insert(name.clone(), Stored::Copied { checkpoint, tensor });
        }
    }
    Ok(stored)
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Stored::Values { dtype, .. } => *dtype,
            Stored::Copied { tensor, .. } => tensor.dtype,
            Stored::Joined { parts, .. } => parts[0].dtype(),
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Stored::Values { shape, .. } => shape,
            Stored::Copied { tensor, .. } => &tensor.shape,
            Stored::Joined { shape, .. } => shape,
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Stored::Copied { checkpoint, tensor } => checkpoint.bytes(tensor).into(),
            Stored::Joined { parts, .. } => [parts[0].data(), parts[1].data()].concat().into(),
            Stored::Values { values, dtype, .. } => match dtype {
                Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
                Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
                // Weights are read from these four types only.
                _ => bytemuck::cast_slice(values).into(),
            },
        }
    }

    fn data_len(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}
