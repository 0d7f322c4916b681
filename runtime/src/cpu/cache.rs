//! Keys and values of one head, stored as matrices in panel layout, so that attention is made of ordinary products.
//!
//! A head's cache is a list of blocks of 32 tokens. The keys of a block are a matrix `[32 tokens, head_dim]`: its product with
//! queries gives scores. The values are a matrix `[head_dim, 32 tokens]`: its product with weights gives mixes. Memory grows block by block;
//! a sliding cache uses its blocks in turn. The rows of a tied state are stored in both layouts, which costs memory and saves sums across
//! lanes.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::kernels::Rows;
use crate::codec::{Codec, GROUP, LINE, PANEL};
use crate::error::Result;
use crate::snapshot::{Reader, Writer};

/// Tokens of a block: 32, a group of columns of the values and two panels of the keys.
pub(super) const BLOCK: usize = GROUP;

/// A line of f32: one column of each row of a panel.
type Singles = [f32; PANEL];
/// A line of f16: two columns of each row of a panel.
type Pairs = [[f16; 2]; PANEL];

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// One key/value head.
#[derive(Debug)]
pub(super) struct Head {
    /// f32 or f16.
    codec: Codec,
    dim: usize,
    /// Blocks before the first one is used again; `None` without a limit.
    ring: Option<usize>,
    /// Lines of keys, then of values, of each block.
    blocks: Vec<Box<[Line]>>,
}

impl Head {
    /// An empty cache that keeps at least the newest `keep` tokens.
    pub(super) fn new(codec: Codec, dim: usize, keep: Option<usize>) -> Head {
        Head { codec, dim, ring: keep.map(|k| k.div_ceil(BLOCK) + 1), blocks: Vec::new() }
    }

    /// Bytes of a token.
    pub(super) fn bytes_per_token(codec: Codec, dim: usize) -> usize {
        2 * dim.next_multiple_of(GROUP) * 4 / codec.columns_per_word()
    }

    /// Bytes that the first `tokens` tokens take.
    pub(super) fn bytes(&self, tokens: usize) -> usize {
        self.blocks_of(tokens) * 2 * self.lines() * LINE
    }

    /// Blocks that the first `tokens` tokens take.
    fn blocks_of(&self, tokens: usize) -> usize {
        tokens.div_ceil(BLOCK).min(self.ring.unwrap_or(usize::MAX))
    }

    /// Bytes of the blocks it has.
    pub(super) fn allocated(&self) -> usize {
        self.blocks.len() * 2 * self.lines() * LINE
    }

    /// Makes the blocks of the first `tokens` tokens.
    pub(super) fn reserve(&mut self, tokens: usize) {
        let (blocks, lines) = (self.blocks_of(tokens), self.lines());
        while self.blocks.len() < blocks {
            self.blocks.push(vec![Line([0; LINE]); 2 * lines].into_boxed_slice());
        }
    }

    /// Groups of a key.
    fn groups(&self) -> usize {
        self.dim.div_ceil(GROUP)
    }

    /// Lines of the keys of a block; there are as many of the values.
    fn lines(&self) -> usize {
        2 * self.groups() * GROUP / self.codec.columns_per_word()
    }

    fn slot(&self, block: usize) -> usize {
        self.ring.map_or(block, |ring| block % ring)
    }

    /// Writes the key and value of `position`. Positions are appended in order, or written again.
    pub(super) fn put(&mut self, position: usize, key: &[f32], value: &[f32]) {
        let (slot, lines) = (self.slot(position / BLOCK), self.lines());
        self.reserve((slot + 1) * BLOCK);
        let t = position % BLOCK;
        let (keys, values) = self.blocks[slot].split_at_mut(lines);
        let panel = keys.len() / 2;
        // Keys: row t, column d. Values: row d, column t; a panel of values has one column for each token of the block.
        match self.codec {
            Codec::F32 => {
                let keys: &mut [Singles] = bytemuck::cast_slice_mut(keys);
                let values: &mut [Singles] = bytemuck::cast_slice_mut(values);
                for (d, (k, v)) in key.iter().zip(value).enumerate() {
                    keys[t / PANEL * panel + d][t % PANEL] = *k;
                    values[d / PANEL * BLOCK + t][d % PANEL] = *v;
                }
            }
            _ => {
                let keys: &mut [Pairs] = bytemuck::cast_slice_mut(keys);
                let values: &mut [Pairs] = bytemuck::cast_slice_mut(values);
                for (d, (k, v)) in key.iter().zip(value).enumerate() {
                    keys[t / PANEL * panel + d / 2][t % PANEL][d % 2] = narrow(*k);
                    values[d / PANEL * (BLOCK / 2) + t / 2][d % PANEL][t % 2] = narrow(*v);
                }
            }
        }
    }

    /// Keys of block `block`: `[32 tokens, dim]`.
    pub(super) fn keys(&self, block: usize) -> Rows<'_> {
        let lines: &[u8] = bytemuck::cast_slice(&self.blocks[self.slot(block)][..self.lines()]);
        let (first, second) = lines.split_at(lines.len() / 2);
        Rows { codec: self.codec, groups: self.groups(), words: [first, second], scales: [&[]; 2] }
    }

    /// Features `32 unit ..` of the values of block `block`: `[32 features, 32 tokens]`.
    pub(super) fn values(&self, block: usize, unit: usize) -> Rows<'_> {
        let panel = BLOCK / self.codec.columns_per_word();
        let lines = &self.blocks[self.slot(block)][self.lines() + 2 * unit * panel..][..2 * panel];
        let (first, second) = bytemuck::cast_slice(lines).split_at(panel * LINE);
        Rows { codec: self.codec, groups: 1, words: [first, second], scales: [&[]; 2] }
    }

    /// Writes what the first `tokens` tokens left.
    pub(super) fn save(&mut self, tokens: usize, to: &mut Writer<'_>) -> Result<()> {
        self.reserve(tokens);
        let blocks = self.blocks_of(tokens);
        self.blocks[..blocks].iter().try_for_each(|block| to.bytes(bytemuck::cast_slice(block)))
    }

    /// Reads what was written of so many tokens into an empty cache.
    pub(super) fn restore(&mut self, tokens: usize, from: &mut Reader<'_>) -> Result<()> {
        self.reserve(tokens);
        self.blocks.iter_mut().try_for_each(|block| from.fill(bytemuck::cast_slice_mut(block)))
    }

    /// Forgets `positions`, as far as they were ever written: numbers that are not finite would spoil even products with zero.
    pub(super) fn erase(&mut self, positions: std::ops::Range<usize>) {
        let zeros = vec![0.0; self.dim];
        for p in positions {
            if self.slot(p / BLOCK) < self.blocks.len() {
                self.put(p, &zeros, &zeros);
            }
        }
    }
}

/// To half precision, large values to the largest there is.
fn narrow(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::{Values, available};

    /// Scores and mixes read back what was put, in both precisions, across blocks and around a ring.
    #[test]
    fn what_is_put_is_read_back() {
        let dim = 40;
        let row = |p: usize, s: usize| -> Vec<f32> { (0..dim).map(|d| ((p * 7 + d * 3 + s) % 64) as f32 - 32.0).collect() };
        for (codec, keep) in [(Codec::F32, None), (Codec::F16, None), (Codec::F16, Some(50)), (Codec::F32, Some(1))] {
            let mut head = Head::new(codec, dim, keep);
            for p in 0..200 {
                head.put(p, &row(p, 0), &row(p, 1));
                for old in p.saturating_sub(keep.unwrap_or(200) - 1)..=p {
                    // The product of the keys with the d-th unit vector is feature d; of the values with the t-th, token t.
                    let d = (p + old) % dim;
                    let mut unit = vec![[0.0; GROUP]; 2];
                    unit[d / GROUP][d % GROUP] = 1.0;
                    let mut out = [[0.0; GROUP]];
                    available()[0].product(&head.keys(old / BLOCK), Values::Float(&unit), 1, 0, &mut out, false);
                    assert_eq!(out[0][old % BLOCK], row(old, 0)[d]);
                    let mut unit = [[0.0; GROUP]];
                    unit[0][old % BLOCK] = 1.0;
                    available()[0].product(&head.values(old / BLOCK, d / GROUP), Values::Float(&unit), 1, 0, &mut out, false);
                    assert_eq!(out[0][d % GROUP], row(old, 1)[d]);
                }
            }
            assert!(keep.is_none_or(|k| head.blocks.len() <= k / BLOCK + 2));
        }
    }
}
