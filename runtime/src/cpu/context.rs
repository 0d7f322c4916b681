//! What every part of a forward pass has at hand.

use std::sync::{Mutex, MutexGuard};

use super::heads::Turns;
use super::kernels::Kernels;
use super::pool::Team;
use crate::bundle::Bundle;
use crate::codec::Matrix;
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Linear, Role};
use crate::reading::Host;

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
    /// Where experts are when not all of them are mapped.
    pub(super) host: Option<&'a Mutex<Host>>,
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
    /// The matrix with this role in a record of `pool`.
    pub(super) fn record<'r>(&self, pool: usize, record: &'r [u8], role: Role) -> Result<Weights<'r>> {
        let place = self.bundle.record_layout(pool).find(role);
        let matrix = place.and_then(|(layout, at)| Matrix::new(layout, record.get(at..at + layout.bytes())?));
        matrix.map(Weights::plain).ok_or_else(|| Error::Input(format!("experts of pool {pool} have no {role:?} matrix")))
    }

    /// The experts' whereabouts, kept from others for the time of a step.
    pub(super) fn host(&self) -> Option<MutexGuard<'a, Host>> {
        self.host.map(Host::lock)
    }

    /// The tensors of a linear map.
    pub(super) fn linear(&self, l: &Linear) -> Result<Weights<'a>> {
        let bias = l.bias.as_ref().map(|b| self.bundle.vector(b)).transpose()?;
        Ok(Weights { matrix: self.bundle.matrix(&l.weight)?, bias })
    }
}
