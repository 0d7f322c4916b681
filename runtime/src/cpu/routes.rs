//! Which rows of work a step has, and which of them share weights.

use std::collections::BTreeSet;
use std::ops::Range;

use super::batch::{Batch, Forms, View};
use super::context::Context;
use super::kernels::Group;
use super::norm::gather;
use super::share;
use crate::profile::StepNotes;

/// Where a run's matrices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A record of the step's pool.
    Record(u32),
    /// The step's dense tensors.
    Dense,
}

/// Consecutive rows with the same matrices.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) source: Source,
    pub(super) rows: Range<usize>,
}

/// Rows of work: one for each route of each token, sorted by source; within a source by token.
#[derive(Debug, Default)]
pub(super) struct Worklist {
    pub(super) runs: Vec<Run>,
    /// Token of each row.
    pub(super) tokens: Vec<u32>,
    /// For each token in turn, its rows and weights in the order of its routes.
    routes: Vec<(u32, f32)>,
    /// Where each token's routes begin, and the end.
    starts: Vec<usize>,
}

/// One expert that a token uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) expert: u32,
    /// Where its matrices are; experts may share one.
    pub(super) record: u32,
    pub(super) weight: f32,
}

/// The routes of a batch of tokens, in the order of selection, without experts that compute nothing.
#[derive(Debug, Default)]
pub(super) struct Routes {
    pub(super) list: Vec<Route>,
    /// Where each token's routes end.
    pub(super) ends: Vec<usize>,
}

impl Routes {
    /// No routes for any of `tokens`.
    pub(super) fn none(tokens: usize) -> Routes {
        Routes { list: Vec::new(), ends: vec![0; tokens] }
    }

    /// The routes of token `t`.
    pub(super) fn of_token(&self, t: usize) -> &[Route] {
        let start = if t == 0 { 0 } else { self.ends[t - 1] };
        &self.list[start..self.ends[t]]
    }

    /// Multiplies the weights of each token.
    pub(super) fn scale(&mut self, by: &[f32]) {
        let mut start = 0;
        for (&end, by) in self.ends.iter().zip(by) {
            self.list[start..end].iter_mut().for_each(|r| r.weight *= by);
            start = end;
        }
    }

    /// These routes, whose outputs are so long, for a profile. Steps that have their routes' outputs in other forms know no lengths.
    pub(super) fn notes(self, lengths: Vec<f32>) -> StepNotes {
        let lengths = (lengths.len() == self.list.len()).then_some(lengths);
        StepNotes { routes: self.list.iter().map(|r| (r.expert, r.weight)).collect(), ends: self.ends, lengths }
    }

    /// The records that are used, each once, ascending.
    pub(super) fn records(&self) -> Vec<u32> {
        self.list.iter().map(|r| r.record).collect::<BTreeSet<u32>>().into_iter().collect()
    }
}

impl Worklist {
    /// Every token once, through the step's dense tensors.
    pub(super) fn dense(tokens: usize) -> Worklist {
        Worklist::new(&Routes::none(tokens), Some(&vec![1.0; tokens]))
    }

    /// The rows of `routes`, followed, with `dense` weights, by a row of every token for the step's dense tensors.
    pub(super) fn new(routes: &Routes, dense: Option<&[f32]>) -> Worklist {
        let mut w = Worklist { starts: vec![0], ..Worklist::default() };
        // Sorting is stable: rows of one record stay in the order of tokens.
        let token_of = (0..routes.ends.len()).flat_map(|t| routes.of_token(t).iter().map(move |_| t as u32));
        let mut order: Vec<(u32, u32, u32)> =
            routes.list.iter().zip(token_of).enumerate().map(|(i, (r, t))| (r.record, i as u32, t)).collect();
        order.sort_unstable();
        let mut row_of = vec![0; order.len()];
        for (row, &(record, i, token)) in order.iter().enumerate() {
            row_of[i as usize] = row as u32;
            w.tokens.push(token);
            match w.runs.last_mut() {
                Some(run) if run.source == Source::Record(record) => run.rows.end = row + 1,
                _ => w.runs.push(Run { source: Source::Record(record), rows: row..row + 1 }),
            }
        }
        let mut routed = row_of.iter().zip(&routes.list).map(|(&row, r)| (row, r.weight));
        let mut seen = 0;
        for (t, &end) in routes.ends.iter().enumerate() {
            w.routes.extend(routed.by_ref().take(end - seen));
            seen = end;
            if let Some(weights) = dense {
                w.routes.push(((order.len() + t) as u32, weights[t]));
            }
            w.starts.push(w.routes.len());
        }
        if dense.is_some() {
            w.tokens.extend(0..routes.ends.len() as u32);
            w.runs.push(Run { source: Source::Dense, rows: order.len()..w.tokens.len() });
        }
        w
    }

    /// The records that are used, each once, ascending, with their runs.
    pub(super) fn experts(&self) -> impl Iterator<Item = (u32, &Run)> {
        self.runs.iter().filter_map(|run| match run.source {
            Source::Record(r) => Some((r, run)),
            Source::Dense => None,
        })
    }

    /// The run that uses the step's dense tensors.
    pub(super) fn dense_run(&self) -> Option<&Run> {
        self.runs.iter().find(|r| r.source == Source::Dense)
    }

    /// Rows of all tokens together.
    pub(super) fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Rows and weights of token `t`.
    pub(super) fn of_token(&self, t: usize) -> impl Iterator<Item = (usize, f32)> {
        self.routes[self.starts[t]..self.starts[t + 1]].iter().map(|&(row, weight)| (row as usize, weight))
    }

    /// Row and token of every route, in the order of tokens.
    pub(super) fn of_routes(&self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.starts.len() - 1).flat_map(|t| self.of_token(t).map(move |(row, _)| (row, t)))
    }

    /// The length of each route's row of `pending`, `[units][rows]`, token after token.
    pub(super) fn lengths(&self, pending: &[Group]) -> Vec<f32> {
        let mut squares = vec![0f32; self.rows()];
        for unit in pending.chunks_exact(self.rows().max(1)) {
            squares.iter_mut().zip(unit).for_each(|(sum, y)| *sum += y.iter().map(|v| v * v).sum::<f32>());
        }
        let dense = self.dense_run().map_or(self.rows(), |run| run.rows.start);
        self.of_routes().filter(|(row, _)| *row < dense).map(|(row, _)| squares[row].sqrt()).collect()
    }

    /// Whether a run consists of every token once, in order.
    fn is_everyone(&self, run: &Run, tokens: usize) -> bool {
        run.rows.len() == tokens && self.tokens[run.rows.clone()].iter().enumerate().all(|(i, &t)| i == t as usize)
    }

    /// The rows of `x`, `groups` wide, that each of `runs` needs: `x` itself where a run has every token, else copied into `space`.
    pub(super) fn inputs<'a>(
        &self,
        c: &Context<'_>,
        runs: &[&Run],
        x: View<'a>,
        groups: usize,
        space: &'a mut Batch,
        forms: Forms,
    ) -> Vec<View<'a>> {
        let copied: Vec<&Run> = runs.iter().copied().filter(|r| !self.is_everyone(r, x.rows)).collect();
        space.reset(copied.iter().map(|r| r.rows.len() * groups).sum(), forms);
        let mut rest = space.as_mut();
        let mut jobs: Vec<_> = copied.iter().map(|run| (*run, rest.split_off(run.rows.len() * groups))).collect();
        let parts = share::parts(c.team.threads(), jobs.len()).min(jobs.len().max(1));
        let mut lists: Vec<Vec<_>> = (0..parts).map(|_| Vec::new()).collect();
        for (i, job) in jobs.drain(..).enumerate() {
            lists[i % parts].push(job);
        }
        c.team.each(lists, |list| {
            for (run, mut out) in list {
                gather(&x, groups, &self.tokens[run.rows.clone()], &mut out);
            }
        });
        let mut at = 0;
        let space = &*space;
        let view = |run: &Run| {
            if self.is_everyone(run, x.rows) {
                return x;
            }
            let view = space.view(at, groups, run.rows.len());
            at += groups * run.rows.len();
            view
        };
        runs.iter().copied().map(view).collect()
    }
}
