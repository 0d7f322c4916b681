//! Norms of a plan.

use candle_core::{Result, Tensor};
use hotset::plan::Norm;

use super::Run;
use crate::training::ops::{layer_norm, rms_norm};

impl Run<'_> {
    /// The norm over the last axis.
    pub(super) fn norm(&self, norm: &Norm, x: &Tensor) -> Result<Tensor> {
        let weight = self.tensors.dense(norm.weight())?;
        match norm {
            Norm::Rms { eps, .. } => rms_norm(x, &weight, (*eps).into()),
            Norm::Layer { bias, eps, .. } => {
                let bias = bias.as_ref().map(|b| self.tensors.dense(b)).transpose()?;
                layer_norm(x, &weight, bias.as_ref(), (*eps).into())
            }
        }
    }
}
