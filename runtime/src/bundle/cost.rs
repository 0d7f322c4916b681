//! What a token costs, from the file alone.

use super::{Bundle, TensorInfo};
use crate::experts::Catalogue;

impl Bundle {
    /// Every expert of the bundle, and which steps use it.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::new(self.plan(), |p| self.record_layout(p).bytes as u64)
    }

    /// Bytes of everything that is not an expert: dense tensors and tokenizer.
    pub fn dense_bytes(&self) -> u64 {
        self.len() - self.file_record_bytes()
    }

    /// Weight bytes that one decoded token reads: every dense tensor once, of an embedding table that is no output head one row, and as many
    /// experts as the token may have routes. Padding of records is not read.
    pub fn weight_bytes_per_token(&self) -> u64 {
        let plan = self.plan();
        let embeddings: Vec<_> = plan.streams.iter().filter_map(|s| s.embedding.as_ref()).chain([&plan.embedding]).collect();
        let is_table = |name: &str| embeddings.iter().any(|e| e.table == name || e.positions.as_deref() == Some(name));
        let dense = self.manifest().tensors.iter().map(|(name, info)| {
            let bytes = TensorInfo::bytes(info).unwrap_or(0) as u64;
            match info {
                TensorInfo::Matrix { rows, .. } if is_table(name) && *name != plan.head.output.weight => bytes / u64::from(*rows),
                _ => bytes,
            }
        });
        let routed = plan.steps.iter().filter_map(|s| s.routed.as_ref()).map(|r| {
            let routes = r.router.max_routes(plan.pools[r.pool as usize].experts());
            let layout = self.record_layout(r.pool as usize);
            let matrices: usize = layout.matrices.iter().map(|(_, layout, _)| layout.bytes()).sum();
            let biases = if layout.biases.is_empty() { 0 } else { layout.matrices.iter().map(|(_, l, _)| l.rows * size_of::<f32>()).sum() };
            u64::from(routes) * (matrices + biases) as u64
        });
        dense.sum::<u64>() + routed.sum::<u64>()
    }
}
