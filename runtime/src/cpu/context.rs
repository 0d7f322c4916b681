//! What every part of a forward pass has at hand.

use super::heads::Turns;
use super::kernels::Kernels;
use super::pool::Team;
use crate::bundle::Bundle;
use crate::codec::Matrix;
use crate::error::Result;
use crate::model::RunOptions;
use crate::plan::Linear;

/// Weights, kernels, threads, and where the batch is in its conversation.
pub(super) struct Context<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) kernels: &'a dyn Kernels,
    pub(super) team: Team<'a>,
    pub(super) options: RunOptions,
    /// Position of the batch's first token.
    pub(super) position: usize,
    /// The plan's rotations for the batch's positions.
    pub(super) turns: Vec<Turns>,
}

/// A matrix with its bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
}

impl<'a> Weights<'a> {
    /// Without a bias.
    pub(super) fn plain(matrix: Matrix<'a>) -> Weights<'a> {
        Weights { matrix, bias: None }
    }

    /// Units of 32 rows.
    pub(super) fn units(&self) -> usize {
        self.matrix.layout().panels().div_ceil(2)
    }
}

impl<'a> Context<'a> {
    /// The tensors of a linear map.
    pub(super) fn linear(&self, l: &Linear) -> Result<Weights<'a>> {
        let bias = l.bias.as_ref().map(|b| self.bundle.vector(b)).transpose()?;
        Ok(Weights { matrix: self.bundle.matrix(&l.weight)?, bias })
    }
}
