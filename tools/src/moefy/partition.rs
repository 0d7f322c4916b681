//! Which neurons of a feed-forward layer go to which expert.

/// A partition of the neurons of one layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Partition {
    /// Neurons of each expert, ascending.
    pub(crate) experts: Vec<Vec<usize>>,
    /// Neurons that every token uses, ascending.
    pub(crate) residual: Vec<usize>,
}

/// How much each neuron matters to each expert `[E, N]`, rows by expert.
pub(crate) struct Importance(pub(crate) Vec<Vec<f32>>);

impl Partition {
    /// The neurons in their order: the first to the first expert, the last to the residual.
    pub(crate) fn sequential(neurons: usize, experts: usize, residual: usize) -> Partition {
        let size = neurons / (experts + residual);
        let part = |from: usize, to: usize| (from * size..to * size).collect();
        Partition { experts: (0..experts).map(|e| part(e, e + 1)).collect(), residual: part(experts, experts + residual) }
    }

    /// Neurons that matter to many experts go to the `residual` experts' worth of them that all tokens use, the others where they matter most.
    pub(crate) fn by_importance(importance: &Importance, residual: usize) -> Partition {
        let size = importance.neurons() / (importance.0.len() + residual);
        let mut free = vec![true; importance.neurons()];
        let residual = importance.common(size, residual * size, &mut free);
        Partition { experts: importance.auction(size, &mut free), residual }
    }
}

impl Importance {
    fn neurons(&self) -> usize {
        self.0.first().map_or(0, Vec::len)
    }

    /// `total` neurons that stand among the first `size` of as many experts as possible; they are no longer `free`. Once those are taken
    /// the experts' lists move on, and neurons are counted again.
    fn common(&self, size: usize, total: usize, free: &mut [bool]) -> Vec<usize> {
        let mut taken = Vec::new();
        while taken.len() < total {
            let mut listed = vec![0; free.len()];
            for scores in &self.0 {
                let mut order: Vec<usize> = (0..free.len()).filter(|&n| free[n]).collect();
                order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
                order.iter().take(size).for_each(|&n| listed[n] += 1);
            }
            let most = listed.iter().copied().max().unwrap_or(0);
            let chosen = (0..free.len()).filter(|&n| free[n] && listed[n] == most).take(total - taken.len());
            let chosen: Vec<usize> = chosen.collect();
            chosen.iter().for_each(|&n| free[n] = false);
            taken.extend(chosen);
        }
        taken.sort_unstable();
        taken
    }

    /// Each of the `free` neurons to one expert, the highest bid of all first, until every expert has `size`. Of equal bids the one of the
    /// later expert counts.
    fn auction(&self, size: usize, free: &mut [bool]) -> Vec<Vec<usize>> {
        let mut bids: Vec<(f32, usize, usize)> = Vec::new();
        for (e, scores) in self.0.iter().enumerate() {
            bids.extend(scores.iter().enumerate().filter(|(n, _)| free[*n]).map(|(n, &s)| (s, e, n)));
        }
        bids.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
        let mut experts = vec![Vec::new(); self.0.len()];
        for (_, e, n) in bids {
            if free[n] && experts[e].len() < size {
                free[n] = false;
                experts[e].push(n);
            }
        }
        experts.iter_mut().for_each(|e| e.sort_unstable());
        experts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;

    /// Every neuron is placed once, every part is full.
    fn check(partition: &Partition, neurons: usize, experts: usize, residual: usize) {
        let size = neurons / (experts + residual);
        assert_eq!(partition.experts.len(), experts);
        assert!(partition.experts.iter().all(|e| e.len() == size), "{partition:?}");
        assert_eq!(partition.residual.len(), residual * size);
        let mut all: Vec<usize> = partition.experts.iter().flatten().chain(&partition.residual).copied().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..neurons));
    }

    proptest! {
        #[test]
        fn every_neuron_has_one_place(experts in 1usize..9, residual in 0usize..3, size in 1usize..12, seed: u64, coarse: bool) {
            let (neurons, mut random) = ((experts + residual) * size, Random(seed));
            // Coarse values are equal often.
            let mut score = || if coarse { random.below(3) as f32 } else { random.unit() as f32 };
            let importance = Importance((0..experts).map(|_| (0..neurons).map(|_| score()).collect()).collect());
            check(&Partition::by_importance(&importance, residual), neurons, experts, residual);
            check(&Partition::sequential(neurons, experts, residual), neurons, experts, residual);
        }
    }

    #[test]
    fn neurons_go_where_they_matter_most() {
        let importance = Importance(vec![vec![9.0, 8.0, 7.0, 0.0], vec![5.0, 8.5, 1.0, 2.0]]);
        // 9 is the highest bid; 8.5 beats 8; 7 fills the first expert; the last neuron goes to the second.
        assert_eq!(Partition::by_importance(&importance, 0).experts, [vec![0, 2], vec![1, 3]]);
    }

    #[test]
    fn equal_bids_go_to_the_later_expert() {
        let importance = Importance(vec![vec![1.0, 1.0], vec![1.0, 1.0]]);
        assert_eq!(Partition::by_importance(&importance, 0).experts, [vec![1], vec![0]]);
    }

    #[test]
    fn what_all_need_is_shared() {
        // Neurons 1 and 4 lead both lists.
        let importance = Importance(vec![vec![5.0, 9.0, 1.0, 0.0, 8.0, 2.0], vec![0.0, 9.0, 1.0, 5.0, 8.0, 2.0]]);
        let partition = Partition::by_importance(&importance, 1);
        assert_eq!(partition.residual, [1, 4]);
        assert_eq!(partition.experts, [vec![0, 2], vec![3, 5]]);
    }
}
