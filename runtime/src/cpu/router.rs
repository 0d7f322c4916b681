//! Routing a batch: score in a few products, then transform, select and weigh token by token.

use super::batch::{Batch, BatchMut, Forms, Slab, View, groups_of};
use super::choice::{certain, evaluate, keep_best, select};
use super::context::{Context, Weights};
use super::norm::Gain;
use super::product::{Job, expand};
use super::routes::{Route, Routes};
use crate::codec::GROUP;
use crate::error::Result;
use crate::model::Routing;
use crate::plan::{Cell, Linear, Pool, Pruned, Router, Score, Semantics, Transform};

/// Space of a router, kept between steps.
#[derive(Debug, Default)]
pub(super) struct RouterSpace {
    hidden: Batch,
    /// What a recurrent cell is told by its input and by its memory.
    told: [Slab; 2],
    logits: Slab,
    row: Vec<f32>,
    values: Vec<f32>,
    order: Vec<u32>,
}

/// The forms of the feature that a router reads.
pub(super) fn forms(c: &Context<'_>, router: &Router) -> Result<Forms> {
    let first = match &router.score {
        Score::Linear(l) | Score::Mlp { hidden: l, .. } | Score::Cosine { projection: l, .. } | Score::Recurrent { input: l, .. } => l,
    };
    Ok(Forms::for_codec(c.linear(first)?.codec()))
}

/// The routes of every token with feature `x`, weighed, as experts and records of `pool`. `memories` are what recurrent routers carry.
pub(super) fn route(
    c: &Context<'_>,
    router: &Router,
    pool: &Pool,
    x: View<'_>,
    memories: &mut [Slab],
    space: &mut RouterSpace,
) -> Result<Routes> {
    choose(c, (router, c.options.routing), (pool.experts(), |e| pool.record_of(e)), x, memories, space)
}

/// The same for `experts` that are where `record_of` says, with the best few taken as `routing` says.
pub(super) fn choose(
    c: &Context<'_>,
    (router, routing): (&Router, Routing),
    (experts, record_of): (u32, impl Fn(u32) -> Option<u32>),
    x: View<'_>,
    memories: &mut [Slab],
    space: &mut RouterSpace,
) -> Result<Routes> {
    score(c, &router.score, x, experts as usize, memories, space)?;
    let rule = routing.rule(router, experts);
    let RouterSpace { logits, row, values, order, .. } = space;
    let bias = router.select.bias.as_ref().map(|b| c.bundle.vector(b)).transpose()?;
    let norm = match &router.transform {
        Some(Transform::Relu { norm: Some(n) }) => Some(Gain::of(c, n)?),
        _ => None,
    };
    let mut routes = Routes::default();
    row.resize(logits.width, 0.0);
    for t in 0..x.rows {
        logits.row(t, row);
        if let Some(Transform::Relu { .. }) = router.transform {
            // Written so that a NaN stays one.
            row.iter_mut().for_each(|l| *l = if *l < 0.0 { 0.0 } else { *l });
            if let Some(gain) = &norm {
                gain.apply(gain.moments(row.chunks(GROUP)), 0, row);
            }
        }
        if let Some(Pruned { experts, semantics: Semantics::Deleted }) = &router.pruned {
            experts.iter().for_each(|&e| row[e as usize] = f32::NEG_INFINITY);
        }
        evaluate(router.select.by, row, &[], values);
        if let Some(bias) = bias {
            values.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
        }
        let certain = certain(values, rule);
        router.pruned.iter().flat_map(|p| &p.experts).for_each(|&e| values[e as usize] = f32::NEG_INFINITY);
        if let Some(groups) = router.select.groups {
            keep_best(values, groups);
        }
        select(values, rule, certain, order);
        evaluate(router.weigh.by, row, order, values);
        let sum: f32 = order.iter().map(|&e| values[e as usize]).sum();
        let divisor = if router.weigh.normalise { (sum + router.weigh.epsilon).max(router.weigh.floor) } else { 1.0 };
        let weight = |e: u32| router.weigh.scale * values[e as usize] / divisor;
        let route = |&expert: &u32| Some(Route { expert, record: record_of(expert)?, weight: weight(expert) });
        routes.list.extend(order.iter().filter_map(route));
        routes.ends.push(routes.list.len());
    }
    Ok(routes)
}

/// Fills `space.logits` with one logit per expert.
fn score(c: &Context<'_>, score: &Score, x: View<'_>, experts: usize, memories: &mut [Slab], space: &mut RouterSpace) -> Result<()> {
    let RouterSpace { hidden, told, logits, row, .. } = space;
    logits.reset(x.rows, experts);
    let last = match score {
        Score::Linear(l) => {
            expand(c, &[Job::linear(c.linear(l)?, x)], BatchMut::floats(&mut logits.data));
            return Ok(());
        }
        Score::Mlp { hidden: first, activation, output } => {
            let (first, last) = (Job { activation: Some(*activation), ..Job::linear(c.linear(first)?, x) }, c.linear(output)?);
            hidden.reset(first.len(), Forms::for_codec(last.codec()));
            expand(c, &[first], hidden.as_mut());
            last
        }
        Score::Cosine { projection, centroids } => {
            let (first, last) = (Job::linear(c.linear(projection)?, x), Weights::plain(c.bundle.matrix(centroids)?));
            hidden.reset(first.len(), Forms { floats: true, rounded: false });
            expand(c, &[first], hidden.as_mut());
            hidden.scale_to_unit(c.kernels, x.rows, Forms::for_codec(last.codec()));
            last
        }
        Score::Recurrent { cell, memory, input, hidden: again, output } => {
            let memory = &mut memories[*memory as usize];
            tell(c, input, x, &mut told[0])?;
            remember(c, memory, Forms::for_codec(c.linear(again)?.codec()), hidden);
            tell(c, again, hidden.view(0, groups_of(memory.width), x.rows), &mut told[1])?;
            advance(*cell, told, memory, row);
            let last = c.linear(output)?;
            remember(c, memory, Forms::for_codec(last.codec()), hidden);
            last
        }
    };
    let x = hidden.view(0, last.matrix.layout().groups(), x.rows);
    expand(c, &[Job::linear(last, x)], BatchMut::floats(&mut logits.data));
    Ok(())
}

/// `out = l · x`.
fn tell(c: &Context<'_>, l: &Linear, x: View<'_>, out: &mut Slab) -> Result<()> {
    let weights = c.linear(l)?;
    out.reset(x.rows, weights.matrix.layout().rows);
    expand(c, &[Job::linear(weights, x)], BatchMut::floats(&mut out.data));
    Ok(())
}

/// Brings a memory into the forms that a product wants.
fn remember(c: &Context<'_>, memory: &Slab, forms: Forms, out: &mut Batch) {
    out.reset(memory.data.len(), forms);
    out.as_mut().put(c.kernels, 0, &memory.data);
}

/// The cell's next memory of every token.
fn advance(cell: Cell, told: &[Slab; 2], memory: &mut Slab, row: &mut Vec<f32>) {
    let (rows, width, g) = (memory.rows, told[0].width, memory.width);
    row.clear();
    row.resize(2 * width + g, 0.0);
    let (told_rows, h) = row.split_at_mut(2 * width);
    let (i, j) = told_rows.split_at_mut(width);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    for t in 0..rows {
        told[0].row(t, i);
        told[1].row(t, j);
        memory.row(t, h);
        for (n, h) in h.iter_mut().enumerate() {
            *h = match cell {
                Cell::Tanh => (i[n] + j[n]).tanh(),
                Cell::Gru => {
                    let (reset, update) = (sigmoid(i[n] + j[n]), sigmoid(i[g + n] + j[g + n]));
                    let new = (i[2 * g + n] + reset * j[2 * g + n]).tanh();
                    new + update * (*h - new)
                }
            };
        }
        memory.set_row(t, h);
    }
}

impl Batch {
    /// Divides every row by its length, then adds the missing form.
    fn scale_to_unit(&mut self, kernels: &dyn super::kernels::Kernels, rows: usize, forms: Forms) {
        for t in 0..rows {
            let squares: f32 = self.floats.iter().skip(t).step_by(rows).flatten().map(|v| v * v).sum();
            let length = squares.sqrt().max(1e-12);
            self.floats.iter_mut().skip(t).step_by(rows).flatten().for_each(|v| *v /= length);
        }
        if forms.rounded {
            self.blocks.resize(self.floats.len(), Default::default());
            kernels.round(&self.floats, &mut self.blocks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_whole_rows() {
        let mut s = Slab::default();
        s.reset(2, GROUP + 1);
        s.set_row(1, &[3.0; GROUP + 1]);
        let mut row = [0.0; GROUP + 1];
        s.row(1, &mut row);
        assert_eq!(row, [3.0; GROUP + 1]);
        s.row(0, &mut row);
        assert_eq!(row, [0.0; GROUP + 1]);
    }
}
