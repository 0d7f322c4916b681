//! Routing a batch: score in one product, then select and weigh token by token.

use super::batch::{Batch, Forms, Slab, View, groups_of};
use super::context::{Context, Weights};
use super::product::{Job, expand};
use super::routes::Routes;
use crate::codec::Codec;
use crate::error::Result;
use crate::plan::{Pool, Router, Rule, Score, Value};

/// Space of a router, kept between steps.
#[derive(Debug, Default)]
pub(super) struct RouterSpace {
    hidden: Batch,
    logits: Slab,
    row: Vec<f32>,
    values: Vec<f32>,
    order: Vec<u32>,
}

/// The forms of the input that a router reads.
pub(super) fn forms(c: &Context<'_>, router: &Router) -> Result<Forms> {
    let first = match &router.score {
        Score::Linear(l) | Score::Mlp { hidden: l, .. } | Score::Cosine { projection: l, .. } | Score::Recurrent { input: l, .. } => l,
    };
    Ok(Forms::for_codec(codec(&c.linear(first)?)))
}

fn codec(w: &Weights<'_>) -> Codec {
    w.matrix.layout().codec
}

/// The routes of every token of `x`, weighed, as records of `pool`.
pub(super) fn route(c: &Context<'_>, router: &Router, pool: &Pool, x: View<'_>, space: &mut RouterSpace) -> Result<Routes> {
    score(c, &router.score, x, pool.experts() as usize, space)?;
    let RouterSpace { logits, row, values, order, .. } = space;
    let mut routes = Routes::default();
    row.resize(logits.width, 0.0);
    for t in 0..x.rows {
        logits.row(t, row);
        evaluate(router.select.by, row, &[], values);
        select(values, router.select.rule, order);
        evaluate(router.weigh.by, row, order, values);
        let sum: f32 = order.iter().map(|&e| values[e as usize]).sum();
        let divisor = if router.weigh.normalise { sum } else { 1.0 };
        let weight = |e: u32| router.weigh.scale * values[e as usize] / divisor;
        routes.list.extend(order.iter().filter_map(|&e| Some((pool.record_of(e)?, weight(e)))));
        routes.ends.push(routes.list.len());
    }
    Ok(routes)
}

/// Fills `space.logits` with one logit per expert.
fn score(c: &Context<'_>, score: &Score, x: View<'_>, experts: usize, space: &mut RouterSpace) -> Result<()> {
    let RouterSpace { hidden, logits, .. } = space;
    logits.reset(x.rows, experts);
    let out = super::batch::BatchMut::floats(&mut logits.data);
    let (first, second) = match score {
        Score::Linear(l) => {
            expand(c, &[Job::linear(c.linear(l)?, x)], out);
            return Ok(());
        }
        Score::Recurrent { .. } => unimplemented!("fast path"),
        Score::Mlp { hidden, activation, output } => {
            (Job { activation: Some(*activation), ..Job::linear(c.linear(hidden)?, x) }, c.linear(output)?)
        }
        Score::Cosine { projection, centroids } => (Job::linear(c.linear(projection)?, x), Weights::plain(c.bundle.matrix(centroids)?)),
    };
    let groups = groups_of(first.weights.matrix.layout().rows);
    if let Score::Cosine { .. } = score {
        hidden.reset(first.len(), Forms { floats: true, rounded: false });
        expand(c, &[first], hidden.as_mut());
        hidden.scale_to_unit(c.kernels, x.rows, Forms::for_codec(codec(&second)));
    } else {
        hidden.reset(first.len(), Forms::for_codec(codec(&second)));
        expand(c, &[first], hidden.as_mut());
    }
    expand(c, &[Job::linear(second, hidden.view(0, groups, x.rows))], out);
    Ok(())
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

/// The value of each expert; `selected` matters to [`Value::SoftmaxSelected`] only.
fn evaluate(value: Value, logits: &[f32], selected: &[u32], out: &mut Vec<f32>) {
    out.clear();
    out.extend_from_slice(logits);
    match value {
        Value::Logit => {}
        Value::Softmax => {
            let max = out.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            out.iter_mut().for_each(|v| *v = (*v - max).exp());
            let sum: f32 = out.iter().sum();
            out.iter_mut().for_each(|v| *v /= sum);
        }
        Value::Sigmoid | Value::SoftmaxClose { .. } => unimplemented!("fast path"),
        Value::SoftmaxSelected => {
            let max = selected.iter().map(|&e| out[e as usize]).fold(f32::NEG_INFINITY, f32::max);
            selected.iter().for_each(|&e| out[e as usize] = (out[e as usize] - max).exp());
            let sum: f32 = selected.iter().map(|&e| out[e as usize]).sum();
            selected.iter().for_each(|&e| out[e as usize] /= sum);
        }
    }
}

/// Expert ids by falling value, ties to the lowest id.
fn select(values: &[f32], rule: Rule, out: &mut Vec<u32>) {
    out.clear();
    let Rule::TopK { k } = rule else { unimplemented!("fast path") };
    let k = k as usize;
    for (e, v) in values.iter().enumerate() {
        // `out` is sorted: an expert goes behind all that are at least as large.
        if out.len() < k || v.total_cmp(&values[out[k - 1] as usize]).is_gt() {
            let at = out.partition_point(|&o| values[o as usize].total_cmp(v).is_ge());
            out.truncate(k - 1);
            out.insert(at.min(out.len()), e as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::GROUP;
    use proptest::prelude::*;

    proptest! {
        /// The selection equals that of a stable sort.
        #[test]
        fn selection_is_a_stable_sort(values in proptest::collection::vec((-3i8..3).prop_map(f32::from), 1..40), k in 1u32..12) {
            let mut want: Vec<u32> = (0..values.len() as u32).collect();
            want.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
            want.truncate(k as usize);
            let mut got = Vec::new();
            select(&values, Rule::TopK { k }, &mut got);
            prop_assert_eq!(got, want);
        }
    }

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
