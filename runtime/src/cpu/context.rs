//! What every part of a forward pass has at hand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::batch::{Forms, View};
use super::heads::Turns;
use super::kernels::{Group, Kernels};
use super::pool::Team;
use super::routes::{Run, Source, Worklist};
use crate::bundle::Bundle;
use crate::codec::{Codec, Matrix};
use crate::error::{Error, Result};
use crate::model::RunOptions;
use crate::plan::{Linear, Role};
use crate::profile::{Activations, Side};
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
    pub(super) host: Option<&'a dyn Hold>,
    /// Takes bytes for caches that grow by more than a row for each token. Nobody holds the host meanwhile.
    pub(super) grow: &'a (dyn Fn(u64) -> Result<()> + Sync),
    /// Where a step leaves the length of each route's output, when somebody wants to know.
    pub(super) lengths: Option<&'a Mutex<Vec<f32>>>,
    /// Where the squares of what experts are given are summed up, when somebody wants to know.
    pub(super) activations: Option<&'a Mutex<Activations>>,
}

/// Who has the experts that are not mapped.
pub(super) trait Hold: Sync {
    /// The experts, for a step; `None` when all are mapped.
    fn hold(&self) -> Option<MutexGuard<'_, Host>>;
}

/// A matrix, or some consecutive panels of it, with its bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    pub(super) matrix: Matrix<'a>,
    /// The first panel, and where they end.
    pub(super) panels: (usize, usize),
    pub(super) bias: Option<&'a [f32]>,
}

impl<'a> Weights<'a> {
    /// All of a matrix.
    pub(super) fn new(matrix: Matrix<'a>, bias: Option<&'a [f32]>) -> Weights<'a> {
        Weights { matrix, panels: (0, matrix.layout().panels()), bias }
    }

    /// Without a bias.
    pub(super) fn plain(matrix: Matrix<'a>) -> Weights<'a> {
        Weights::new(matrix, None)
    }

    /// Units of 32 rows.
    pub(super) fn units(&self) -> usize {
        (self.panels.1 - self.panels.0).div_ceil(2)
    }

    /// Element format.
    pub(super) fn codec(&self) -> Codec {
        self.matrix.layout().codec
    }
}

impl<'a> Context<'a> {
    /// The matrix with this role in a record of `pool`, with its bias.
    pub(super) fn record<'r>(&self, pool: usize, record: &'r [u8], role: Role) -> Result<Weights<'r>> {
        let layout = self.bundle.record_layout(pool);
        let missing = || Error::Input(format!("experts of pool {pool} have no {role:?} matrix"));
        let (matrix, at) = layout.find(role).ok_or_else(missing)?;
        let bytes = |at: usize, len: usize| record.get(at..at + len).ok_or_else(missing);
        let bias = layout.find_bias(role).map(|at| {
            let bytes = bytes(at, matrix.rows * size_of::<f32>())?;
            bytemuck::try_cast_slice(bytes).map_err(|_| missing())
        });
        let matrix = Matrix::new(matrix, bytes(at, matrix.bytes())?).ok_or_else(missing)?;
        Ok(Weights::new(matrix, bias.transpose()?))
    }

    /// The experts' whereabouts, kept from others for the time of a step.
    pub(super) fn host(&self) -> Option<MutexGuard<'a, Host>> {
        self.host?.hold()
    }

    /// Tells whoever wants to know what the routes of `work` have brought: `pending` is `[units][rows]`.
    pub(super) fn tell_lengths(&self, work: &Worklist, pending: &[Group]) {
        if let Some(lengths) = self.lengths {
            *lengths.lock().unwrap_or_else(PoisonError::into_inner) = work.lengths(pending);
        }
    }

    /// What was told last.
    pub(super) fn take_lengths(&self) -> Vec<f32> {
        let take = |lengths: &Mutex<Vec<f32>>| std::mem::take(&mut *lengths.lock().unwrap_or_else(PoisonError::into_inner));
        self.lengths.map(take).unwrap_or_default()
    }

    /// The forms in which experts' inputs are wanted besides those for their matrices.
    pub(super) fn measured(&self) -> Forms {
        Forms { floats: self.activations.is_some(), rounded: false }
    }

    /// Measures what the records of `runs` are given, a batch for each run.
    pub(super) fn measure<'v>(&self, pool: Option<usize>, side: Side, runs: impl IntoIterator<Item = (&'v Run, View<'v>)>) {
        let Some((pool, activations)) = pool.zip(self.activations) else { return };
        let mut activations = activations.lock().unwrap_or_else(PoisonError::into_inner);
        for (run, x) in runs {
            if let Source::Record(record) = run.source {
                activations.add((pool, record), side, x.rows, x.floats);
            }
        }
    }

    /// The tensors of a linear map.
    pub(super) fn linear(&self, l: &Linear) -> Result<Weights<'a>> {
        let bias = l.bias.as_ref().map(|b| self.bundle.vector(b)).transpose()?;
        Ok(Weights::new(self.bundle.matrix(&l.weight)?, bias))
    }
}
