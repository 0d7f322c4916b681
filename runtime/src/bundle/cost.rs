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
        let records = (0..self.plan().pools.len()).map(|p| u64::from(self.plan().pools[p].records) * self.record_layout(p).bytes as u64);
        self.len() - records.sum::<u64>()
    }

    /// Weight bytes that one decoded token reads: every dense tensor once, of an embedding table that is no output head one row, and as many
    /// experts as the token may have routes. Padding of records is not read.
    pub fn weight_bytes_per_token(&self) -> u64 {
        let plan = self.plan();
        let dense = self.manifest().tensors.iter().map(|(name, info)| {
            let bytes = TensorInfo::bytes(info).unwrap_or(0) as u64;
            let row_only = *name == plan.embedding.table && *name != plan.head.output.weight;
            if row_only { bytes / u64::from(plan.vocab) } else { bytes }
        });
        let routed = plan.steps.iter().filter_map(|s| s.routed.as_ref()).map(|r| {
            let routes = r.router.select.rule.max_routes(plan.pools[r.pool as usize].experts());
            let expert: usize = self.record_layout(r.pool as usize).matrices.iter().map(|(_, layout, _)| layout.bytes()).sum();
            u64::from(routes) * expert as u64
        });
        dense.sum::<u64>() + routed.sum::<u64>()
    }
}
