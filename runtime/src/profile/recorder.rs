//! Folds what forward passes note into a [`Usage`].

use super::usage::{CHUNKS, Usage};
use crate::plan::Plan;

/// What a batch of tokens used at one step.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepNotes {
    /// Expert and weight of every route, token after token.
    pub(crate) routes: Vec<(u32, f32)>,
    /// Where each token's routes end.
    pub(crate) ends: Vec<usize>,
    /// The length of each route's output before it is weighed; `None` where that is not known.
    pub(crate) lengths: Option<Vec<f32>>,
}

impl StepNotes {
    fn of_token(&self, t: usize) -> std::ops::Range<usize> {
        let start = if t == 0 { 0 } else { self.ends[t - 1] };
        start..self.ends[t]
    }
}

/// A usage in the making.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    usage: Usage,
    /// For each step and each length of chunks: which experts the chunk under way has used, and its tokens.
    under_way: Vec<[(Vec<bool>, u32); CHUNKS.len()]>,
}

impl Recorder {
    /// Nothing recorded yet.
    pub(crate) fn new(plan: &Plan) -> Recorder {
        let usage = Usage::new(plan);
        let under_way = usage.steps.iter().map(|s| CHUNKS.map(|_| (vec![false; s.selections.len()], 0))).collect();
        Recorder { usage, under_way }
    }

    /// Adds a batch: notes of each routed step in the plan's order.
    pub(crate) fn add(&mut self, notes: &[StepNotes]) {
        let Some(tokens) = notes.first().map(|n| n.ends.len()) else { return };
        self.usage.tokens += tokens as u64;
        for (i, note) in notes.iter().enumerate() {
            let step = &mut self.usage.steps[i];
            for &(expert, weight) in &note.routes {
                step.selections[expert as usize] += 1;
                step.gate[expert as usize] += f64::from(weight);
            }
            match (&mut step.saliency, &note.lengths) {
                (Some(sums), Some(lengths)) => {
                    for (&(expert, weight), &length) in note.routes.iter().zip(lengths) {
                        sums[expert as usize] += f64::from(weight) * f64::from(length);
                    }
                }
                (saliency, _) => *saliency = None,
            }
            if let Some(next) = notes.get(i + 1) {
                let width = step.next.len() / step.selections.len();
                for t in 0..tokens {
                    for (here, _) in &note.routes[note.of_token(t)] {
                        for (there, _) in &next.routes[next.of_token(t)] {
                            step.next[*here as usize * width + *there as usize] += 1;
                        }
                    }
                }
            }
            for (chunk, (seen, read)) in step.chunks.iter_mut().zip(&mut self.under_way[i]) {
                for t in 0..tokens {
                    note.routes[note.of_token(t)].iter().for_each(|(expert, _)| seen[*expert as usize] = true);
                    *read += 1;
                    if *read == chunk.tokens {
                        chunk.chunks += 1;
                        chunk.experts += seen.iter().filter(|s| **s).count() as u64;
                        seen.fill(false);
                        *read = 0;
                    }
                }
            }
        }
    }

    /// The tokens to come do not follow those before.
    pub(crate) fn interrupt(&mut self) {
        for (seen, read) in self.under_way.iter_mut().flatten() {
            seen.fill(false);
            *read = 0;
        }
    }

    /// What was used since the last call.
    pub(crate) fn take(&mut self, plan: &Plan) -> Usage {
        std::mem::replace(&mut self.usage, Usage::new(plan))
    }
}
