//! Rotations of adjacent pairs become rotations of halves: the rows that turn are put in another order, once, when they are stored.

use hotset::plan::Linear;

use super::builder::Builder;
use super::{Shape, Source, Usage};
use crate::failure::Result;

/// The rows of queries or keys, head by head.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) count: u32,
    /// Rows of a head that do not turn.
    pub(super) first: u32,
    /// Rows behind them, of which `2i` and `2i + 1` turn together.
    pub(super) turned: u32,
}

/// The linear layer `prefix.weight` `[heads, cols]`, with `prefix.bias` if it has one, as `name.weight` and `name.bias`: of each head the
/// turned rows with even numbers come before those with odd ones.
pub(super) fn linear(b: &mut Builder<'_>, name: &str, prefix: &str, heads: Heads, cols: u32, bias: bool) -> Result<Linear> {
    let Heads { count, first, turned } = heads;
    let head = first.saturating_add(turned);
    let rows = count.saturating_mul(head);
    let weight = b.tensor(&format!("{prefix}.weight"), &[rows, cols])?;
    let bias = if bias { Some(b.tensor(&format!("{prefix}.bias"), &[rows])?) } else { None };
    let ranges = (0..count).flat_map(|h| {
        let (start, end) = (h * head, (h + 1) * head);
        let turned = start + first;
        [(start..turned, 1), (turned..end, 2), (turned + 1..end, 2)]
    });
    let ranges: Vec<_> = ranges.map(|(range, step)| (range.len().div_ceil(step) as u32, range, step)).filter(|r| r.0 > 0).collect();
    let stack = ranges.iter().map(|(n, range, step)| (*n, weight.rows_by(range.clone(), *step).into())).collect();
    let weight = b.matrix(format!("{name}.weight"), Usage::Weight, Source::Stack(stack), rows, cols);
    let bias = bias.map(|bias| {
        let chain = ranges.iter().map(|(n, range, step)| (*n, bias.columns_by(range.clone(), *step).into())).collect();
        b.store(format!("{name}.bias"), Shape::Vector { len: rows }, Usage::Weight, Source::Chain(chain))
    });
    Ok(Linear { weight, bias })
}
