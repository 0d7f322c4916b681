//! What a model takes and what a token costs, from the file alone, or from the manifest of one that is not there yet.

use super::{Bundle, Manifest, RecordLayout, TensorInfo};
use crate::experts::Catalogue;

/// What a model takes and reads, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// Everything that is not an expert: dense tensors and tokenizer.
    pub dense: u64,
    /// Every expert, and which steps use it.
    pub catalogue: Catalogue,
    /// What one decoded token reads of dense tensors: every one once, of an embedding table that is no output head one row.
    pub dense_per_token: u64,
    /// What it reads of experts: as many as it may have routes, without the padding of records.
    pub routed_per_token: u64,
}

impl Manifest {
    /// The cost of a bundle with this manifest and a tokenizer of so many bytes; `None` for shapes that cannot be stored.
    pub fn cost(&self, tokenizer: u64) -> Option<Cost> {
        let layouts: Vec<RecordLayout> = self.plan.pools.iter().map(|p| RecordLayout::of(p, self.plan.width)).collect::<Option<_>>()?;
        let tensors: Option<Vec<u64>> = self.tensors.values().map(|t| Some(t.bytes()? as u64)).collect();
        Some(cost(self, |pool| &layouts[pool], tensors?.iter().sum::<u64>() + tokenizer))
    }
}

impl Bundle {
    /// What the model takes and reads.
    pub fn cost(&self) -> Cost {
        cost(self.manifest(), |pool| self.record_layout(pool), self.dense_bytes())
    }

    /// Every expert of the bundle, and which steps use it.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::new(self.plan(), |p| self.record_layout(p).bytes as u64)
    }

    /// Bytes of everything that is not an expert: dense tensors and tokenizer.
    pub fn dense_bytes(&self) -> u64 {
        self.len() - self.file_record_bytes()
    }

    /// Weight bytes that one decoded token reads.
    pub fn weight_bytes_per_token(&self) -> u64 {
        let cost = self.cost();
        cost.dense_per_token + cost.routed_per_token
    }
}

fn cost<'a>(manifest: &Manifest, layout: impl Fn(usize) -> &'a RecordLayout, dense: u64) -> Cost {
    let plan = &manifest.plan;
    let embeddings: Vec<_> = plan.streams.iter().filter_map(|s| s.embedding.as_ref()).chain([&plan.embedding]).collect();
    let is_table = |name: &str| embeddings.iter().any(|e| e.table == name || e.positions.as_deref() == Some(name));
    let dense_read = manifest.tensors.iter().map(|(name, info)| {
        let bytes = TensorInfo::bytes(info).unwrap_or(0) as u64;
        match info {
            TensorInfo::Matrix { rows, .. } if is_table(name) && *name != plan.head.output.weight => bytes / u64::from(*rows),
            _ => bytes,
        }
    });
    let routed = plan.steps.iter().filter_map(|s| s.routed.as_ref()).map(|r| {
        let routes = r.router.max_routes(plan.pools[r.pool as usize].experts());
        let layout = layout(r.pool as usize);
        let matrices: usize = layout.matrices.iter().map(|(_, layout, _)| layout.bytes()).sum();
        let biases = if layout.biases.is_empty() { 0 } else { layout.matrices.iter().map(|(_, l, _)| l.rows * size_of::<f32>()).sum() };
        u64::from(routes) * (matrices + biases) as u64
    });
    Cost {
        dense,
        catalogue: Catalogue::new(plan, |p| layout(p).bytes as u64),
        dense_per_token: dense_read.sum(),
        routed_per_token: routed.sum(),
    }
}
