//! Who does what: work cut into contiguous spans, one list for each thread.

use std::ops::Range;

use super::batch::BatchMut;

/// Below this many units of cost a region is not worth waking anybody for.
const SMALL: usize = 256;

/// One job's work: `units` pieces of `rows` groups of output each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) units: usize,
    pub(super) rows: usize,
    /// Cost of a unit, in any measure that is the same for all jobs of a region.
    pub(super) cost: usize,
}

/// A contiguous piece of one job with its output.
#[derive(Debug)]
pub(super) struct Span<'a> {
    pub(super) job: usize,
    pub(super) units: Range<usize>,
    /// `[units][rows]`.
    pub(super) out: BatchMut<'a>,
}

/// Into how many parts work of `cost` is worth being cut.
pub(super) fn parts(threads: usize, cost: usize) -> usize {
    threads.min(cost / SMALL).max(1)
}

/// Cuts jobs, whose outputs follow each other in `out`, into at most `parts` lists of equal cost.
pub(super) fn spans<'a>(sizes: &[Size], parts: usize, mut out: BatchMut<'a>) -> Vec<Vec<Span<'a>>> {
    let total: usize = sizes.iter().map(|s| s.units * s.cost).sum();
    let mut lists = Vec::with_capacity(parts);
    let (mut job, mut unit, mut before) = (0, 0, 0);
    for i in 0..parts {
        let end = total * (i + 1) / parts;
        let mut list = Vec::new();
        while job < sizes.len() {
            let s = sizes[job];
            // The last part takes whatever is left; others stop at the unit that crosses their end.
            let upto = if i + 1 == parts { s.units } else { (unit + end.saturating_sub(before).div_ceil(s.cost.max(1))).min(s.units) };
            if upto > unit {
                list.push(Span { job, units: unit..upto, out: out.split_off((upto - unit) * s.rows) });
                before += (upto - unit) * s.cost;
                unit = upto;
            }
            if unit < s.units {
                break;
            }
            (job, unit) = (job + 1, 0);
        }
        lists.push(list);
    }
    lists
}

/// Cuts `data`, made of units of `len` items, into parts of whole units.
pub(super) fn split<T>(data: &mut [T], len: usize, parts: usize) -> Vec<(Range<usize>, &mut [T])> {
    let units = data.len() / len;
    split_at(data, len, (1..=parts).map(|i| units * i / parts))
}

/// Cuts `data`, made of units of `len` items, where each part is to end; ends do not fall.
pub(super) fn split_at<T>(mut data: &mut [T], len: usize, ends: impl Iterator<Item = usize>) -> Vec<(Range<usize>, &mut [T])> {
    let mut start = 0;
    let part = |end: usize| {
        let (head, tail) = std::mem::take(&mut data).split_at_mut((end - start) * len);
        data = tail;
        (std::mem::replace(&mut start, end)..end, head)
    };
    ends.map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every unit of every job belongs to exactly one part, in order, and outputs have the right length.
        #[test]
        fn spans_cover_everything_once(
            jobs in proptest::collection::vec((0usize..20, 1usize..5, 0usize..9), 0..6),
            parts in 1usize..8,
        ) {
            let sizes: Vec<Size> = jobs.iter().map(|&(units, rows, cost)| Size { units, rows, cost }).collect();
            let mut out = vec![[0.0; 32]; sizes.iter().map(|s| s.units * s.rows).sum()];
            let lists = spans(&sizes, parts, BatchMut::floats(&mut out));
            prop_assert_eq!(lists.len(), parts);
            let got: Vec<_> = lists.iter().flatten().flat_map(|s| s.units.clone().map(|u| (s.job, u))).collect();
            let want: Vec<_> = sizes.iter().enumerate().flat_map(|(j, s)| (0..s.units).map(move |u| (j, u))).collect();
            prop_assert_eq!(got, want);
        }
    }
}
