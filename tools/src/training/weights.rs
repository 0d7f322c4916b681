//! Weights by their published names, in f32.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};

use crate::checkpoint::{self, Checkpoint, View};
use crate::failure::{self, Failure};

/// Tensors by name.
#[derive(Clone, Default)]
pub(crate) struct Weights(pub(crate) BTreeMap<String, Tensor>);

impl Weights {
    /// Reads the tensors `names` of a checkpoint.
    pub(crate) fn read<'a>(checkpoint: &Checkpoint, names: impl Iterator<Item = &'a String>) -> failure::Result<Weights> {
        let mut weights = Weights::default();
        for name in names {
            let tensor = checkpoint.tensors().get(name);
            let tensor = tensor.ok_or_else(|| Failure::new(format!("the checkpoint has no tensor {name:?}")))?;
            let mut values = vec![0.0; tensor.shape.iter().product()];
            let views = views(tensor).ok_or_else(|| Failure::new(format!("tensor {name:?} has too many axes to be trained")))?;
            let mut rest = &mut values[..];
            for view in views {
                let (now, later) = rest.split_at_mut(view.rows * view.cols);
                checkpoint.read(name, view, now)?;
                rest = later;
            }
            weights.insert(name, Tensor::from_vec(values, tensor.shape.clone(), &Device::Cpu)?);
        }
        checkpoint.release();
        Ok(weights)
    }

    /// The tensor `name`.
    pub(crate) fn get(&self, name: &str) -> Result<Tensor> {
        self.0.get(name).cloned().ok_or_else(|| candle_core::Error::Msg(format!("there is no tensor {name:?}")))
    }

    /// The tensors `name(0)` to `name(n - 1)`, one after the other along an axis.
    pub(crate) fn joined(&self, n: usize, axis: usize, name: impl Fn(usize) -> String) -> Result<Tensor> {
        let parts = (0..n).map(|i| self.get(&name(i))).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, axis)
    }

    /// The same weights on a device.
    pub(crate) fn on(self, device: &Device) -> Result<Weights> {
        self.0.into_iter().map(|(name, tensor)| Ok((name, tensor.to_device(device)?))).collect::<Result<_>>().map(Weights)
    }

    /// Where the tensors are.
    pub(crate) fn device(&self) -> Device {
        self.0.values().next().map_or(Device::Cpu, |t| t.device().clone())
    }

    pub(crate) fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// The same weights, those that `trained` names as variables: training changes them in place, here and in every model made of them.
    pub(crate) fn trainable(&self, trained: impl Fn(&str) -> bool) -> Result<(Weights, BTreeMap<String, Var>)> {
        let (mut weights, mut variables) = (self.clone(), BTreeMap::new());
        for (name, tensor) in weights.0.iter_mut().filter(|(name, _)| trained(name)) {
            let variable = Var::from_tensor(tensor)?;
            *tensor = variable.as_tensor().clone();
            variables.insert(name.clone(), variable);
        }
        Ok((weights, variables))
    }
}

/// A tensor as matrices, one behind the other: itself, or its parts along the first axis. `None` when it has more than four axes.
fn views(tensor: &checkpoint::Tensor) -> Option<Vec<View>> {
    match tensor.shape.len() {
        0..=2 => Some(vec![View::new(tensor, None)?]),
        _ => (0..tensor.shape[0]).map(|i| View::new(tensor, Some(i))).collect(),
    }
}
