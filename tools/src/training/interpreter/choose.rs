//! Which experts a token takes: decided on plain numbers, for a choice has no gradient.

use hotset::plan::{GroupBy, Groups, Rule, Select};

/// Puts the experts that one token takes into `chosen`, by falling value and among equals by id. `values`: of each expert, biases included.
pub(super) fn choose(select: &Select, values: &mut [f32], chosen: &mut Vec<u32>) {
    if let Some(groups) = select.groups {
        exclude(values, groups);
    }
    chosen.clear();
    chosen.extend((0..values.len() as u32).filter(|&e| values[e as usize] != f32::NEG_INFINITY));
    chosen.sort_by(|&a, &b| values[b as usize].total_cmp(&values[a as usize]));
    match select.rule {
        Rule::TopK { k } => chosen.truncate(k as usize),
        Rule::TopP { p } => {
            let mut sum = 0.0;
            let mut short = |&e: &u32| {
                let before = sum;
                sum += values[e as usize];
                before <= p
            };
            let n = chosen.iter().take_while(|e| short(e)).count();
            chosen.truncate(n.max(1));
        }
        Rule::NonZero => chosen.retain(|&e| values[e as usize] != 0.0),
        Rule::Certain { .. } | Rule::Rank { .. } => chosen.clear(),
    }
}

/// Gives experts outside the best groups the lowest value.
fn exclude(values: &mut [f32], groups: Groups) {
    let size = values.len() / groups.count as usize;
    let worth = |group: &[f32]| {
        let mut group = group.to_vec();
        group.sort_by(|a, b| b.total_cmp(a));
        match groups.by {
            GroupBy::Best => group[0],
            GroupBy::BestTwo => group[..2].iter().sum(),
        }
    };
    let worths: Vec<f32> = values.chunks(size).map(worth).collect();
    let mut order: Vec<usize> = (0..worths.len()).collect();
    order.sort_by(|&a, &b| worths[b].total_cmp(&worths[a]));
    for &g in &order[groups.keep as usize..] {
        values[g * size..][..size].fill(f32::NEG_INFINITY);
    }
}
