//! Routing of one token: score, transform, select, weigh.

use super::ops::{activate, add_scaled, dot, linear, matvec, norm, sigmoid, softmax};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::model::Routing;
use crate::plan::{Cell, GroupBy, Groups, Pruned, Router, Rule, Score, Semantics, Transform, Value};

/// One expert a token uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) expert: u32,
    pub(super) weight: f32,
}

/// The routes of one token with feature `x` `[W]`, in order of selection. `memories` are what the plan's recurrent routers carry.
pub(super) fn route(bundle: &Bundle, router: &Router, routing: Routing, x: &[f32], memories: &mut [Vec<f32>]) -> Result<Vec<Route>> {
    let mut logits = transform(bundle, &router.transform, score(bundle, &router.score, x, memories)?)?;
    if let Some(Pruned { experts, semantics: Semantics::Deleted }) = &router.pruned {
        experts.iter().for_each(|&e| logits[e as usize] = f32::NEG_INFINITY);
    }
    let mut values = value(router.select.by, &logits, &[]);
    if let Some(bias) = &router.select.bias {
        add_scaled(&mut values, bundle.vector(bias)?, 1.0);
    }
    let rule = routing.rule(router, values.len() as u32);
    // Doubts are about all experts, those included that cannot be chosen.
    let certain = certain(&values, rule);
    router.pruned.iter().flat_map(|p| &p.experts).for_each(|&e| values[e as usize] = f32::NEG_INFINITY);
    if let Some(groups) = router.select.groups {
        keep_best(&mut values, groups);
    }
    let selected = select(&values, rule, certain);
    let values = value(router.weigh.by, &logits, &selected);
    let sum: f32 = selected.iter().map(|&e| values[e as usize]).sum();
    let divisor = if router.weigh.normalise { (sum + router.weigh.epsilon).max(router.weigh.floor) } else { 1.0 };
    let weigh = |&e: &u32| Route { expert: e, weight: router.weigh.scale * values[e as usize] / divisor };
    Ok(selected.iter().map(weigh).collect())
}

/// One logit per expert.
fn score(bundle: &Bundle, score: &Score, x: &[f32], memories: &mut [Vec<f32>]) -> Result<Vec<f32>> {
    match score {
        Score::Linear(l) => linear(bundle, l, x),
        Score::Mlp { hidden, activation, output } => {
            let h: Vec<f32> = linear(bundle, hidden, x)?.into_iter().map(|v| activate(*activation, v)).collect();
            linear(bundle, output, &h)
        }
        Score::Cosine { projection, centroids } => {
            let mut z = linear(bundle, projection, x)?;
            let length = dot(&z, &z).sqrt().max(1e-12);
            z.iter_mut().for_each(|v| *v /= length);
            Ok(matvec(bundle.matrix(centroids)?, &z))
        }
        Score::Recurrent { cell, memory, input, hidden, output } => {
            let h = &mut memories[*memory as usize];
            let (i, j) = (linear(bundle, input, x)?, linear(bundle, hidden, h)?);
            recur(*cell, &i, &j, h);
            linear(bundle, output, h)
        }
    }
}

/// The cell's next `h` from what input and memory say.
fn recur(cell: Cell, i: &[f32], j: &[f32], h: &mut [f32]) {
    let g = h.len();
    match cell {
        Cell::Tanh => h.iter_mut().zip(i.iter().zip(j)).for_each(|(h, (i, j))| *h = (i + j).tanh()),
        Cell::Gru => {
            for n in 0..g {
                let (reset, update) = (sigmoid(i[n] + j[n]), sigmoid(i[g + n] + j[g + n]));
                let new = (i[2 * g + n] + reset * j[2 * g + n]).tanh();
                h[n] = new + update * (h[n] - new);
            }
        }
    }
}

fn transform(bundle: &Bundle, transform: &Option<Transform>, mut logits: Vec<f32>) -> Result<Vec<f32>> {
    let Some(Transform::Relu { norm: n }) = transform else { return Ok(logits) };
    logits.iter_mut().for_each(|l| *l = l.max(0.0));
    n.as_ref().map_or(Ok(logits.clone()), |n| norm(bundle, n, &logits))
}

/// The value of each expert; `selected` matters to values over the selected only.
fn value(value: Value, logits: &[f32], selected: &[u32]) -> Vec<f32> {
    let mut v = logits.to_vec();
    match value {
        Value::Logit => {}
        Value::Softmax => softmax(&mut v),
        Value::Sigmoid => v.iter_mut().for_each(|v| *v = sigmoid(*v)),
        Value::SoftmaxSelected => {
            let mut chosen: Vec<f32> = selected.iter().map(|&e| v[e as usize]).collect();
            softmax(&mut chosen);
            selected.iter().zip(chosen).for_each(|(&e, w)| v[e as usize] = w);
        }
        Value::SoftmaxClose { margin } => {
            for (n, &e) in selected.iter().enumerate() {
                let (s, earlier) = (logits[e as usize], &selected[..n]);
                let close = |&(i, t): &(usize, &f32)| (s - t) / t.abs().max(s) <= margin && !earlier.contains(&(i as u32));
                let sum: f32 = logits.iter().enumerate().filter(close).map(|(_, t)| (t - s).exp()).sum();
                v[e as usize] = 1.0 / sum;
            }
        }
    }
    v
}

/// Experts outside the best groups get the lowest value.
fn keep_best(values: &mut [f32], groups: Groups) {
    let size = values.len() / groups.count as usize;
    let worth = |group: &[f32]| {
        let mut sorted = group.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        match groups.by {
            GroupBy::Best => sorted[0],
            GroupBy::BestTwo => sorted[0] + sorted[1],
        }
    };
    let worths: Vec<f32> = values.chunks(size).map(worth).collect();
    for &g in &sorted(&worths)[groups.keep as usize..] {
        values[g as usize * size..][..size].fill(f32::NEG_INFINITY);
    }
}

/// Indices by falling value, ties to the lowest.
fn sorted(values: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..values.len() as u32).collect();
    ids.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
    ids
}

/// Expert ids by falling value, ties to the lowest id; none of those outside the best groups or pruned.
fn select(values: &[f32], rule: Rule, certain: bool) -> Vec<u32> {
    let mut ids = sorted(values);
    ids.retain(|&e| values[e as usize] != f32::NEG_INFINITY);
    match rule {
        Rule::TopK { k } => ids.truncate(k as usize),
        Rule::TopP { p } => {
            let mut sum = 0.0;
            let crossing = ids.iter().position(|&e| {
                sum += values[e as usize];
                sum > p
            });
            ids.truncate(crossing.map_or(ids.len(), |n| n + 1));
        }
        Rule::Certain { p, least, .. } => {
            let mut sum = 0.0;
            let within = ids.iter().position(|&e| {
                sum += values[e as usize];
                sum > p
            });
            if certain {
                ids.truncate(within.unwrap_or(ids.len()).max(least as usize));
            }
        }
        Rule::NonZero => ids.retain(|&e| values[e as usize] != 0.0),
        Rule::Rank { rank } => ids = ids.get(rank as usize).copied().into_iter().collect(),
    }
    ids
}

/// Whether the values are certain enough for [`Rule::Certain`]; other rules do not ask.
fn certain(values: &[f32], rule: Rule) -> bool {
    match rule {
        Rule::Certain { index, threshold, epsilon, .. } => entropy(values, index, epsilon) <= threshold,
        _ => true,
    }
}

/// Normalised Tsallis entropy of probabilities; 1 for an even choice.
fn entropy(values: &[f32], index: f32, epsilon: f32) -> f32 {
    let (p, n) = (values.iter().map(|v| v + epsilon), values.len() as f32);
    if index == 1.0 {
        return -p.map(|p| p * p.ln()).sum::<f32>() / n.ln();
    }
    (1.0 - p.map(|p| p.powf(index)).sum::<f32>()) / (1.0 - n.powf(1.0 - index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_expert() {
        assert_eq!(select(&[1.0, 3.0, 3.0, 2.0, 3.0], Rule::TopK { k: 4 }, true), [1, 2, 4, 3]);
        assert_eq!(select(&[1.0, 3.0, 3.0, 2.0, 3.0], Rule::Rank { rank: 1 }, true), [2]);
    }

    #[test]
    fn top_p_takes_the_one_that_crosses() {
        let p = [0.1, 0.4, 0.2, 0.3];
        assert_eq!(select(&p, Rule::TopP { p: 0.39 }, true), [1]);
        assert_eq!(select(&p, Rule::TopP { p: 0.5 }, true), [1, 3]);
        assert_eq!(select(&p, Rule::TopP { p: 1.5 }, true), [1, 3, 2, 0]);
    }

    #[test]
    fn an_uncertain_router_takes_all() {
        let rule = Rule::Certain { p: 0.75, least: 2, index: 1.1, threshold: 0.9, epsilon: 1e-5 };
        assert_eq!(select(&[0.25, 0.26, 0.24, 0.25], rule, certain(&[0.25, 0.26, 0.24, 0.25], rule)).len(), 4);
        assert_eq!(
            select(&[0.02, 0.9, 0.05, 0.03], rule, certain(&[0.02, 0.9, 0.05, 0.03], rule)),
            [1, 2],
            "the one that crosses is left out, two are kept"
        );
        assert!((entropy(&[0.25; 4], 1.1, 0.0) - 1.0).abs() < 1e-5 && (entropy(&[0.25; 4], 1.0, 0.0) - 1.0).abs() < 1e-5);
        assert!(entropy(&[1.0, 0.0, 0.0, 0.0], 1.1, 1e-5).abs() < 1e-2);
    }

    #[test]
    fn non_zero_may_choose_nobody() {
        assert_eq!(select(&[0.0, -0.5, 0.0, 2.0], Rule::NonZero, true), [3, 1]);
        assert!(select(&[0.0; 3], Rule::NonZero, true).is_empty());
    }

    #[test]
    fn softmax_over_the_selected_sums_to_one() {
        let v = value(Value::SoftmaxSelected, &[0.5, -1.0, 2.0, 0.0], &[2, 0]);
        assert!((v[2] + v[0] - 1.0).abs() < 1e-6);
        assert!((v[2] / v[0] - 1.5f32.exp()).abs() < 1e-5);
    }

    #[test]
    fn close_rivals_share_and_those_chosen_earlier_do_not() {
        let v = value(Value::SoftmaxClose { margin: 0.02 }, &[1.0, 0.99, 0.5, 0.985], &[0, 1]);
        let first = 1.0 / (1.0 + (-0.01f32).exp() + (-0.015f32).exp());
        let second = 1.0 / (1.0 + (-0.005f32).exp());
        assert!((v[0] - first).abs() < 1e-6 && (v[1] - second).abs() < 1e-6, "{v:?}");
    }

    #[test]
    fn the_better_group_is_chosen_from() {
        let mut best = [5.0, 0.0, 3.0, 3.0];
        keep_best(&mut best, Groups { count: 2, keep: 1, by: GroupBy::Best });
        assert_eq!(select(&best, Rule::TopK { k: 2 }, true), [0, 1]);
        let mut two = [5.0, 0.0, 3.0, 3.0];
        keep_best(&mut two, Groups { count: 2, keep: 1, by: GroupBy::BestTwo });
        assert_eq!(select(&two, Rule::TopK { k: 2 }, true), [2, 3]);
    }
}
