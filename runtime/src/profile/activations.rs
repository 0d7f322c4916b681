//! How large the values are that experts' matrices are multiplied with: what rounding errors weigh.

use crate::bundle::Manifest;
use crate::plan::{Pool, Role};

/// Sums of squares, for each pool of a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Activations {
    /// The bundle's fingerprint.
    pub fingerprint: String,
    /// In the plan's order.
    pub pools: Vec<PoolActivations>,
}

/// What the experts of one pool were given. `R` = records.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolActivations {
    /// The pool's name.
    pub name: String,
    /// Times that each record was used by a token, `[R]`.
    pub counts: Vec<u64>,
    /// Sums of squares of the step's input, which all matrices of a record but the last read, `[R, D]`.
    pub input: Vec<f64>,
    /// Sums of squares of what the last matrix reads: a hidden layer, or what attention mixed, `[R, F]`.
    pub inner: Vec<f64>,
}

/// One of the two places in an expert where values are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Input,
    Inner,
}

impl Activations {
    /// Nothing measured yet of that bundle.
    pub fn new(manifest: &Manifest) -> Activations {
        let pools = manifest.plan.pools.iter().map(|p| PoolActivations::new(p, manifest.plan.width)).collect();
        Activations { fingerprint: manifest.fingerprint.clone(), pools }
    }

    /// Adds rows of values, `[groups][rows][32]`, that a record was given.
    pub(crate) fn add(&mut self, (pool, record): (usize, u32), side: Side, rows: usize, values: &[[f32; 32]]) {
        let (pool, record) = (&mut self.pools[pool], record as usize);
        let records = pool.counts.len();
        let sums = match side {
            Side::Input => {
                pool.counts[record] += rows as u64;
                &mut pool.input
            }
            Side::Inner => &mut pool.inner,
        };
        let width = sums.len() / records;
        let sums = sums[record * width..][..width].chunks_mut(32);
        for (sums, rows) in sums.zip(values.chunks(rows.max(1))) {
            for row in rows {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            }
        }
    }

    /// Adds what was measured elsewhere of the same bundle.
    ///
    /// # Errors
    /// When it is another bundle.
    pub fn merge(&mut self, other: &Activations) -> crate::Result<()> {
        let shape = |a: &Activations| a.pools.iter().map(|p| (p.counts.len(), p.input.len(), p.inner.len())).collect::<Vec<_>>();
        if self.fingerprint != other.fingerprint || shape(self) != shape(other) {
            return Err(crate::Error::Input("activations of different bundles cannot be merged".into()));
        }
        for (a, b) in self.pools.iter_mut().zip(&other.pools) {
            a.counts.iter_mut().zip(&b.counts).for_each(|(a, b)| *a += b);
            a.input.iter_mut().zip(&b.input).for_each(|(a, b)| *a += b);
            a.inner.iter_mut().zip(&b.inner).for_each(|(a, b)| *a += b);
        }
        Ok(())
    }
}

impl PoolActivations {
    /// Nothing measured yet of a pool in a model of `width`.
    pub fn new(pool: &Pool, width: u32) -> PoolActivations {
        let records = pool.records as usize;
        let matrices = pool.expert.matrices(width);
        let sums = |last: bool| {
            let cols = matrices.iter().find(|(role, ..)| is_last(*role) == last).map_or(0, |m| m.2 as usize);
            vec![0.0; records * cols]
        };
        PoolActivations { name: pool.name.clone(), counts: vec![0; records], input: sums(false), inner: sums(true) }
    }

    /// The mean square of each column's inputs, for a matrix of a record, `[cols]`. `None` when it was never used, or not with numbers.
    pub fn importance(&self, record: u32, role: Role) -> Option<Vec<f32>> {
        let sums = if is_last(role) { &self.inner } else { &self.input };
        let (width, count) = (sums.len() / self.counts.len(), *self.counts.get(record as usize)?);
        let means: Vec<f32> = sums[record as usize * width..][..width].iter().map(|s| (s / count as f64) as f32).collect();
        (count > 0 && means.iter().all(|m| m.is_finite())).then_some(means)
    }
}

/// Whether the matrix leads back to the stream.
fn is_last(role: Role) -> bool {
    match role {
        Role::Down | Role::Output => true,
        Role::Gate | Role::Up | Role::Query | Role::Key | Role::Value => false,
    }
}
