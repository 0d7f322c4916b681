//! Equal experts are stored once: models whose experts were merged are published with the same weights under several names.

use std::collections::HashMap;
use std::ops::Range;

use hotset::plan::{Plan, Pool};

use super::Source;
use crate::checkpoint::Checkpoint;
use crate::failure::Result;

/// Values that are compared at once.
const CHUNK: usize = 1 << 20;

/// Leaves one record of every set of equal ones. `experts`: for each pool, for each record, its matrices and biases.
pub(super) fn share(checkpoint: &Checkpoint, plan: &mut Plan, experts: &mut [Vec<Vec<Source>>]) -> Result<()> {
    let width = plan.width;
    for (pool, records) in plan.pools.iter_mut().zip(experts) {
        let shapes = shapes(pool, width);
        let first = firsts(checkpoint, &shapes, records)?;
        let kept: Vec<usize> = (0..records.len()).filter(|&i| first[i] == i).collect();
        if kept.len() == records.len() {
            continue;
        }
        let place = |old: u32| kept.binary_search(&first[old as usize]).ok().and_then(|n| u32::try_from(n).ok());
        let ids = pool.alias.take().unwrap_or_else(|| (0..pool.records).map(Some).collect());
        pool.alias = Some(ids.into_iter().map(|record| record.and_then(place)).collect());
        pool.records = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        *records = kept.iter().map(|&i| std::mem::take(&mut records[i])).collect();
    }
    Ok(())
}

/// Rows and columns of everything in a record of `pool`; a bias is one row.
fn shapes(pool: &Pool, width: u32) -> Vec<(usize, usize)> {
    let matrices = pool.expert.matrices(width);
    let biases = matrices.iter().filter(|_| pool.expert.has_biases()).map(|&(_, rows, _)| (1, rows as usize));
    matrices.iter().map(|&(_, rows, cols)| (rows as usize, cols as usize)).chain(biases).collect()
}

/// For each record the first one that equals it. Only those are compared that agree in a few values, which hardly any do.
fn firsts(checkpoint: &Checkpoint, shapes: &[(usize, usize)], records: &[Vec<Source>]) -> Result<Vec<usize>> {
    let mut alike: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    let mut first = Vec::with_capacity(records.len());
    for (i, record) in records.iter().enumerate() {
        let mut sample = Vec::new();
        for (source, &(_, cols)) in record.iter().zip(shapes) {
            sample.extend(source.sample(checkpoint, cols)?.into_iter().map(f32::to_bits));
        }
        let candidates = alike.entry(sample).or_default();
        let mut same = None;
        for &j in candidates.iter() {
            if equal(checkpoint, shapes, &records[j], record)? {
                same = Some(j);
                break;
            }
        }
        if same.is_none() {
            candidates.push(i);
        }
        first.push(same.unwrap_or(i));
    }
    checkpoint.release();
    Ok(first)
}

/// Whether two records hold the same values.
fn equal(checkpoint: &Checkpoint, shapes: &[(usize, usize)], a: &[Source], b: &[Source]) -> Result<bool> {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for ((a, b), &(rows, cols)) in a.iter().zip(b).zip(shapes).filter(|((a, b), _)| a != b) {
        let at_once = (CHUNK / cols).max(1);
        for start in (0..rows).step_by(at_once) {
            let range: Range<usize> = start..(start + at_once).min(rows);
            for (source, values) in [(a, &mut x), (b, &mut y)] {
                values.resize(range.len() * cols, 0.0);
                source.read(checkpoint, range.clone(), cols, values)?;
            }
            if x != y {
                return Ok(false);
            }
        }
        checkpoint.release();
    }
    Ok(true)
}
