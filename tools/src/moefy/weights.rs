//! Weights by their published names, in f32.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};

use crate::checkpoint::{Checkpoint, View};
use crate::failure::{Failure, Result};

/// Tensors by name.
#[derive(Clone, Default)]
pub(crate) struct Weights(pub(crate) BTreeMap<String, Tensor>);

impl Weights {
    /// Reads all matrices and vectors of a checkpoint.
    pub(crate) fn read(checkpoint: &Checkpoint) -> Result<Weights> {
        let mut weights = Weights::default();
        for (name, tensor) in checkpoint.tensors() {
            let view = View::new(tensor, None).ok_or_else(|| Failure::new(format!("tensor {name:?} is neither matrix nor vector")))?;
            let mut values = vec![0.0; view.rows * view.cols];
            checkpoint.read(name, view, &mut values)?;
            weights.insert(name, Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?);
        }
        checkpoint.release();
        Ok(weights)
    }

    /// The tensor `name`.
    pub(crate) fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        self.0.get(name).cloned().ok_or_else(|| candle_core::Error::Msg(format!("there is no tensor {name:?}")))
    }

    /// The tensors `name(0)` to `name(n - 1)`, one after the other along an axis.
    pub(crate) fn joined(&self, n: usize, axis: usize, name: impl Fn(usize) -> String) -> candle_core::Result<Tensor> {
        let parts = (0..n).map(|i| self.get(&name(i))).collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::cat(&parts, axis)
    }

    pub(crate) fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// The same weights as variables: training changes them in place, here and in every model made of them.
    pub(crate) fn trainable(&self) -> candle_core::Result<(Weights, Vec<Var>)> {
        let (mut weights, mut variables) = (Weights::default(), Vec::new());
        for (name, tensor) in &self.0 {
            let variable = Var::from_tensor(tensor)?;
            weights.insert(name, variable.as_tensor().clone());
            variables.push(variable);
        }
        Ok((weights, variables))
    }
}

/// The first part of the names of layer `i`.
pub(crate) fn layer(i: usize) -> String {
    format!("model.layers.{i}")
}
