//! Which experts one token takes, given a logit for each.

use crate::plan::{GroupBy, Groups, Rule, Value};

/// The value of each expert; `selected` matters to values over the selected only.
pub(super) fn evaluate(value: Value, logits: &[f32], selected: &[u32], out: &mut Vec<f32>) {
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
        Value::Sigmoid => out.iter_mut().for_each(|v| *v = 1.0 / (1.0 + (-*v).exp())),
        Value::SoftmaxSelected => {
            let max = selected.iter().map(|&e| out[e as usize]).fold(f32::NEG_INFINITY, f32::max);
            selected.iter().for_each(|&e| out[e as usize] = (out[e as usize] - max).exp());
            let sum: f32 = selected.iter().map(|&e| out[e as usize]).sum();
            selected.iter().for_each(|&e| out[e as usize] /= sum);
        }
        Value::SoftmaxClose { margin } => {
            for (n, &e) in selected.iter().enumerate() {
                let (s, earlier) = (logits[e as usize], &selected[..n]);
                let close = |&(i, t): &(usize, &f32)| (s - t) / t.abs().max(s) <= margin && !earlier.contains(&(i as u32));
                let sum: f32 = logits.iter().enumerate().filter(close).map(|(_, t)| (t - s).exp()).sum();
                out[e as usize] = 1.0 / sum;
            }
        }
    }
}

/// Experts outside the best groups get the lowest value.
pub(super) fn keep_best(values: &mut [f32], groups: Groups) {
    let size = values.len() / groups.count as usize;
    let worth = |group: &[f32]| {
        let mut best = Vec::new();
        largest(group, 2, &mut best);
        match (groups.by, &best[..]) {
            (GroupBy::BestTwo, &[first, second]) => group[first as usize] + group[second as usize],
            _ => best.first().map_or(f32::NEG_INFINITY, |&first| group[first as usize]),
        }
    };
    let worths: Vec<f32> = values.chunks(size).map(worth).collect();
    let mut kept = Vec::new();
    largest(&worths, groups.keep as usize, &mut kept);
    for (g, group) in (0..).zip(values.chunks_mut(size)) {
        if !kept.contains(&g) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Expert ids by falling value, ties to the lowest id; none whose value is −∞: those are out of the question. `certain` matters
/// to [`Rule::Certain`], see [`certain`].
pub(super) fn select(values: &[f32], rule: Rule, certain: bool, out: &mut Vec<u32>) {
    match rule {
        Rule::TopK { k } => {
            largest(values, k as usize, out);
            out.retain(|&e| values[e as usize] != f32::NEG_INFINITY);
        }
        Rule::Rank { rank } => {
            largest(values, rank as usize + 1, out);
            out.retain(|&e| values[e as usize] != f32::NEG_INFINITY);
            out.drain(..out.len().min(rank as usize));
        }
        Rule::TopP { p } => {
            sort(values, out);
            let mut sum = 0.0;
            let crossing = out.iter().position(|&e| {
                sum += values[e as usize];
                sum > p
            });
            out.truncate(crossing.map_or(out.len(), |n| n + 1));
        }
        Rule::Certain { p, least, .. } => {
            sort(values, out);
            let mut sum = 0.0;
            let within = out.iter().position(|&e| {
                sum += values[e as usize];
                sum > p
            });
            if certain {
                out.truncate(within.unwrap_or(out.len()).max(least as usize));
            }
        }
        Rule::NonZero => {
            sort(values, out);
            out.retain(|&e| values[e as usize] != 0.0);
        }
    }
}

/// Whether a router knows what it wants, as far as its rule asks. `values`: of all experts, those included that are out of the question.
pub(super) fn certain(values: &[f32], rule: Rule) -> bool {
    match rule {
        Rule::Certain { index, threshold, epsilon, .. } => entropy(values, index, epsilon) <= threshold,
        Rule::TopK { .. } | Rule::TopP { .. } | Rule::NonZero | Rule::Rank { .. } => true,
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

/// All ids by falling value.
fn sort(values: &[f32], out: &mut Vec<u32>) {
    out.clear();
    out.extend((0..values.len() as u32).filter(|&e| values[e as usize] != f32::NEG_INFINITY));
    out.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
}

/// The first `k` of them.
fn largest(values: &[f32], k: usize, out: &mut Vec<u32>) {
    out.clear();
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
    use proptest::prelude::*;

    proptest! {
        /// The selection equals that of a stable sort.
        #[test]
        fn selection_is_a_stable_sort(values in proptest::collection::vec((-3i8..3).prop_map(f32::from), 1..40), k in 1u32..12) {
            let mut want = Vec::new();
            sort(&values, &mut want);
            want.truncate(k as usize);
            let mut got = Vec::new();
            select(&values, Rule::TopK { k }, true, &mut got);
            prop_assert_eq!(&got, &want);
            if let Some(&last) = want.get(k as usize - 1) {
                select(&values, Rule::Rank { rank: k - 1 }, true, &mut got);
                prop_assert_eq!(got, [last]);
            }
        }
    }

    #[test]
    fn top_p_takes_the_one_that_crosses_and_non_zero_may_take_nobody() {
        let mut got = Vec::new();
        let p = [0.1, 0.4, 0.2, 0.3];
        for (limit, want) in [(0.39, &[1][..]), (0.5, &[1, 3]), (1.5, &[1, 3, 2, 0])] {
            select(&p, Rule::TopP { p: limit }, true, &mut got);
            assert_eq!(got, want);
        }
        select(&[0.0; 3], Rule::NonZero, true, &mut got);
        assert!(got.is_empty());
        select(&[0.0, -0.5, 0.0, 2.0], Rule::NonZero, true, &mut got);
        assert_eq!(got, [3, 1]);
    }

    #[test]
    fn an_uncertain_router_takes_all() {
        let mut got = Vec::new();
        let rule = Rule::Certain { p: 0.75, least: 2, index: 1.1, threshold: 0.9, epsilon: 1e-5 };
        let values = [0.25, 0.26, 0.24, 0.25];
        select(&values, rule, certain(&values, rule), &mut got);
        assert_eq!(got, [1, 0, 3, 2]);
        let values = [0.02, 0.9, 0.05, 0.03];
        select(&values, rule, certain(&values, rule), &mut got);
        assert_eq!(got, [1, 2], "the one that crosses is left out, two are kept");
    }

    #[test]
    fn the_better_group_is_chosen_from() {
        let mut values = [5.0, 0.0, 3.0, 3.0];
        keep_best(&mut values, Groups { count: 2, keep: 1, by: GroupBy::Best });
        assert_eq!(values, [5.0, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        let mut values = [5.0, 0.0, 3.0, 3.0];
        keep_best(&mut values, Groups { count: 2, keep: 1, by: GroupBy::BestTwo });
        assert_eq!(values, [f32::NEG_INFINITY, f32::NEG_INFINITY, 3.0, 3.0]);
    }
}
