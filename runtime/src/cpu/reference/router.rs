//! Routing of one token: score, select, weigh.

use super::ops::{activate, dot, linear, matvec, softmax};
use crate::bundle::Bundle;
use crate::error::Result;
use crate::plan::{Router, Rule, Score, Value};

/// One expert a token uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) expert: u32,
    pub(super) weight: f32,
}

/// The routes of one token with normalised input `a` `[D]`, in order of selection.
pub(super) fn route(bundle: &Bundle, router: &Router, experts: u32, a: &[f32]) -> Result<Vec<Route>> {
    let logits = score(bundle, &router.score, a)?;
    let selected = select(&value(router.select.by, &logits, &[]), router.select.rule, experts);
    let values = value(router.weigh.by, &logits, &selected);
    let sum: f32 = selected.iter().map(|&e| values[e as usize]).sum();
    let divisor = if router.weigh.normalise { sum } else { 1.0 };
    let weigh = |&e: &u32| Route { expert: e, weight: router.weigh.scale * values[e as usize] / divisor };
    Ok(selected.iter().map(weigh).collect())
}

/// One logit per expert.
fn score(bundle: &Bundle, score: &Score, a: &[f32]) -> Result<Vec<f32>> {
    match score {
        Score::Linear(l) => linear(bundle, l, a),
        Score::Mlp { hidden, activation, output } => {
            let h: Vec<f32> = linear(bundle, hidden, a)?.into_iter().map(|v| activate(*activation, v)).collect();
            linear(bundle, output, &h)
        }
        Score::Cosine { projection, centroids } => {
            let mut z = linear(bundle, projection, a)?;
            let length = dot(&z, &z).sqrt().max(1e-12);
            z.iter_mut().for_each(|v| *v /= length);
            Ok(matvec(bundle.matrix(centroids)?, &z))
        }
    }
}

/// The value of each expert; `selected` matters to [`Value::SoftmaxSelected`] only.
fn value(value: Value, logits: &[f32], selected: &[u32]) -> Vec<f32> {
    let mut v = logits.to_vec();
    match value {
        Value::Logit => {}
        Value::Softmax => softmax(&mut v),
        Value::SoftmaxSelected => {
            let mut chosen: Vec<f32> = selected.iter().map(|&e| v[e as usize]).collect();
            softmax(&mut chosen);
            selected.iter().zip(chosen).for_each(|(&e, w)| v[e as usize] = w);
        }
    }
    v
}

/// Expert ids by falling value, ties to the lowest id.
fn select(values: &[f32], rule: Rule, experts: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..experts).collect();
    ids.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
    match rule {
        Rule::TopK { k } => ids.truncate(k as usize),
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_expert() {
        assert_eq!(select(&[1.0, 3.0, 3.0, 2.0, 3.0], Rule::TopK { k: 4 }, 5), [1, 2, 4, 3]);
    }

    #[test]
    fn softmax_over_the_selected_sums_to_one() {
        let v = value(Value::SoftmaxSelected, &[0.5, -1.0, 2.0, 0.0], &[2, 0]);
        assert!((v[2] + v[0] - 1.0).abs() < 1e-6);
        assert!((v[2] / v[0] - 1.5f32.exp()).abs() < 1e-5);
    }
}
