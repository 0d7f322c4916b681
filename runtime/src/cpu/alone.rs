//! Single feed-forward experts on the CPU, for a GPU that would otherwise wait until they are brought.

use super::batch::{Batch, Forms, Slab, groups_of};
use super::context::Context;
use super::ffn::{Matrices, Widening};
use super::kernels::{Group, Kernels, available};
use super::norm::normalise;
use super::pool::{Pool, default_threads};
use super::product::Join;
use super::routes::{Route, Routes, Worklist};
use crate::bundle::Bundle;
use crate::codec::GROUP;
use crate::error::{Error, Result};
use crate::model::RunOptions;

/// Threads and kernels that compute experts.
pub(crate) struct Experts {
    kernels: &'static dyn Kernels,
    pool: Pool,
}

impl Experts {
    /// # Errors
    /// When the system refuses to start threads.
    pub(crate) fn new() -> Result<Experts> {
        let threads = default_threads();
        let pool = Pool::new(threads).map_err(|e| Error::Device(format!("cannot start {threads} threads: {e}")))?;
        Ok(Experts { kernels: available()[0], pool })
    }

    /// Each record's expert of `x`, which is `[D]`: `[records][D]`. Rounds activations where the CPU executor does.
    ///
    /// # Errors
    /// When the pool has no feed-forward experts.
    pub(crate) fn compute(&self, bundle: &Bundle, pool: usize, records: &[u32], x: &[f32]) -> Result<Vec<Vec<f32>>> {
        let c = Context {
            bundle,
            kernels: self.kernels,
            team: self.pool.team(),
            options: RunOptions::new(1),
            position: 0,
            turns: Vec::new(),
            host: None,
            grow: &|_| Ok(()),
            lengths: None,
            activations: None,
        };
        let (mut stream, mut input) = (Slab::default(), Batch::default());
        stream.reset(1, x.len());
        stream.set_row(0, x);
        let forms = Forms::for_codec(bundle.plan().pools[pool].codec);
        normalise(&c, None, &stream, &mut input, forms);

        // One token that all records work for, each with a row of its own.
        let routes = Routes {
            list: records.iter().map(|&record| Route { expert: record, record, weight: 1.0 }).collect(),
            ends: vec![records.len()],
        };
        let work = Worklist::new(&routes, None);
        let groups = groups_of(x.len());
        let widening = Widening { work: &work, pool: None, input: input.view(0, groups, 1), groups, forms };
        let matrices = work.experts().map(|(r, run)| Ok((run, Matrices::record(&c, pool, bundle.record(pool, r))?)));
        let matrices = matrices.collect::<Result<Vec<_>>>()?;
        let (mut gathered, mut hidden) = (Batch::default(), Batch::default());
        let parts = widening.widen(&c, &matrices, &mut gathered, &mut hidden);
        let mut pending: Vec<Group> = vec![[0.0; GROUP]; groups * work.rows()];
        Join { work: &work, scale: 1.0, bias: None }.some(&c, &parts, &mut pending);

        let results = Slab { rows: work.rows(), width: x.len(), data: pending };
        let row = |(row, _): (usize, f32)| {
            let mut out = vec![0.0; x.len()];
            results.row(row, &mut out);
            out
        };
        Ok(work.of_token(0).map(row).collect())
    }
}
