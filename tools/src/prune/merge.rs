//! What becomes of dropped experts beside nothing: they join others.
//!
//! * Merged (MC-SMoE, "Merge, Then Compress", Li et al., 2024): a dropped expert joins the kept one whose router row points the same way; its
//!   neurons are brought into the order of the other's, and the weights are averaged by use. Routers go on choosing it, and find the
//!   merged one.
//! * Recombined (DERN, "Dropping Experts, Recombining Neurons", 2025): every neuron of a dropped expert joins the most similar neuron of any
//!   kept expert, if there is one that is similar at all. Routers do not choose the dropped ones any more.
//!
//! Attention experts have no neurons to sort: their heads share keys with those of other experts. They are averaged as they are, or left
//! out.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use hotset::bundle::{Bundle, RecordLayout, RecordView};
use hotset::codec::encode;
use hotset::plan::{Expert, Role, Score};
use hotset::profile::Kept;
use rayon::prelude::*;

use crate::failure::{Failure, Result};

/// A neuron that is less similar than this to all others (cosine) is nobody's and is discarded.
const SIMILAR: f32 = 0.2;

/// Where dropped experts go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Nowhere.
    #[default]
    LeftOut,
    /// Whole, to the most similar expert.
    Merged,
    /// Neuron by neuron.
    Recombined,
}

/// For each pool, the kept expert that each dropped one is most similar to.
///
/// Similarity is the cosine of the rows that give experts their logits, the mean over the routers of the pool. (The authors take the logits
/// over data, which says the same where features are even.)
pub(crate) fn heirs(bundle: &Bundle, kept: &Kept) -> Result<Vec<BTreeMap<u32, u32>>> {
    let plan = bundle.plan();
    let mut heirs = Vec::new();
    for (pool, kept) in kept.pools.iter().enumerate() {
        let routers = plan.steps.iter().filter_map(|s| s.routed.as_ref()).filter(|r| r.pool as usize == pool);
        let matrices = routers.map(|r| match &r.router.score {
            Score::Linear(l) => bundle.matrix(&l.weight),
            Score::Mlp { output, .. } | Score::Recurrent { output, .. } => bundle.matrix(&output.weight),
            Score::Cosine { centroids, .. } => bundle.matrix(centroids),
        });
        let matrices = matrices.collect::<hotset::Result<Vec<_>>>()?;
        let row = |expert: u32| -> Vec<Vec<f32>> {
            let of = |m: &hotset::codec::Matrix<'_>| {
                let mut row = vec![0.0; m.layout().cols];
                m.row(expert as usize, &mut row);
                row
            };
            matrices.iter().map(of).collect()
        };
        let similar = |a: &[Vec<f32>], b: &[Vec<f32>]| a.iter().zip(b).map(|(a, b)| cosine(a, b)).sum::<f32>();
        let pool = &plan.pools[pool];
        let candidates: Vec<(u32, Vec<Vec<f32>>)> = kept.iter().filter(|&&e| pool.record_of(e).is_some()).map(|&e| (e, row(e))).collect();
        let dropped = (0..pool.experts()).filter(|e| !kept.contains(e));
        let heir = |e: u32| {
            let own = row(e);
            let best = candidates.iter().max_by(|a, b| similar(&own, &a.1).total_cmp(&similar(&own, &b.1)).then(b.0.cmp(&a.0)));
            best.map(|b| (e, b.0)).ok_or_else(|| Failure::new(format!("no expert of pool {:?} is left to join", pool.name)))
        };
        heirs.push(dropped.map(heir).collect::<Result<_>>()?);
    }
    Ok(heirs)
}

/// For each neuron of an expert: how similar the most similar neuron of those that stay is, the place of its expert, and its number there.
type Matches = Vec<(f32, usize, usize)>;

/// What joins the records of one pool: their numbers in the whole bundle, and how much each is used.
pub(crate) struct Joining<'a> {
    bundle: &'a Bundle,
    pool: usize,
    layout: &'a RecordLayout,
    /// Records of the whole bundle that stay, in the order in which they are stored.
    stay: Vec<u32>,
    /// Those that go, each with the place of its heir among `stay`.
    go: Vec<(u32, usize)>,
    /// Tokens that chose each record of the whole bundle.
    used: Vec<f64>,
    /// Of each of `go`; found when first asked for.
    nearest: OnceCell<Vec<Matches>>,
}

impl<'a> Joining<'a> {
    /// `used`: of each expert id.
    pub(crate) fn new(bundle: &'a Bundle, pool: usize, kept: &Kept, heirs: &BTreeMap<u32, u32>, used: &[f64]) -> Joining<'a> {
        let of = &bundle.plan().pools[pool];
        let mut stay: Vec<u32> = Vec::new();
        for record in kept.pools[pool].iter().filter_map(|&e| of.record_of(e)) {
            if !stay.contains(&record) {
                stay.push(record);
            }
        }
        let mut go: Vec<(u32, usize)> = Vec::new();
        for (&dropped, &heir) in heirs {
            let place = of.record_of(heir).and_then(|heir| stay.iter().position(|&r| r == heir));
            if let Some((record, place)) = of.record_of(dropped).zip(place)
                && !stay.contains(&record)
                && !go.iter().any(|g| g.0 == record)
            {
                go.push((record, place));
            }
        }
        let mut by_record = vec![0.0; of.records as usize];
        (0..).zip(used).filter_map(|(e, n)| Some((of.record_of(e)?, n))).for_each(|(r, n)| by_record[r as usize] += n);
        // One that was never seen is not nothing.
        by_record.iter_mut().for_each(|n| *n = f64::max(*n, 1.0));
        Joining { bundle, pool, layout: bundle.record_layout(pool), stay, go, used: by_record, nearest: OnceCell::new() }
    }

    /// Changes the record in place `place` of those that stay.
    pub(crate) fn join(&self, dropped: Dropped, place: usize, record: &mut [u8]) -> Result<()> {
        let has_neurons = matches!(self.bundle.plan().pools[self.pool].expert, Expert::Ffn { .. });
        match dropped {
            Dropped::LeftOut => Ok(()),
            Dropped::Merged => self.merge(place, has_neurons, record),
            Dropped::Recombined if has_neurons => self.recombine(place, record),
            Dropped::Recombined => Ok(()),
        }
    }

    fn merge(&self, place: usize, has_neurons: bool, record: &mut [u8]) -> Result<()> {
        let mut heir = self.read(self.stay[place])?;
        let own = self.used[self.stay[place] as usize];
        let mut total = own;
        heir.scale(own as f32);
        let model = self.read(self.stay[place])?;
        let mut changed = false;
        for &(other, _) in self.go.iter().filter(|g| g.1 == place) {
            let mut matrices = self.read(other)?;
            if has_neurons {
                matrices.reorder(&align(&model, &matrices));
            }
            let used = self.used[other as usize];
            heir.add(&matrices, used as f32);
            total += used;
            changed = true;
        }
        if changed {
            heir.scale(1.0 / total as f32);
            heir.write(self.layout, record);
        }
        Ok(())
    }

    fn recombine(&self, place: usize, record: &mut [u8]) -> Result<()> {
        let mut heir = self.read(self.stay[place])?;
        let neurons = heir.neurons();
        let own = self.used[self.stay[place] as usize] as f32;
        let (mut totals, mut changed) = (vec![own; neurons], false);
        heir.scale(own);
        for (&(other, _), best) in self.go.iter().zip(self.matches()?) {
            if !best.iter().any(|&(similarity, at, _)| at == place && similarity >= SIMILAR) {
                continue;
            }
            let matrices = self.read(other)?;
            let used = self.used[other as usize] as f32;
            for (n, &(similarity, at, m)) in best.iter().enumerate() {
                if at == place && similarity >= SIMILAR {
                    heir.add_neuron(m, &matrices, n, used);
                    totals[m] += used;
                    changed = true;
                }
            }
        }
        if changed {
            heir.divide_neurons(&totals, own);
            heir.write(self.layout, record);
        }
        Ok(())
    }

    /// See `nearest`.
    fn matches(&self) -> Result<&[Matches]> {
        if let Some(known) = self.nearest.get() {
            return Ok(known);
        }
        let others = self.stay.iter().map(|&r| Ok(self.read(r)?.signatures())).collect::<Result<Vec<_>>>()?;
        let of = |&(record, _): &(u32, usize)| Ok(self.read(record)?.signatures().par_iter().map(|s| nearest(s, &others)).collect());
        let found = self.go.iter().map(of).collect::<Result<_>>()?;
        Ok(self.nearest.get_or_init(|| found))
    }

    fn read(&self, record: u32) -> Result<Matrices> {
        let damaged = || Failure::new(format!("record {record} of pool {} is too short", self.pool));
        Matrices::read(RecordView::new(self.layout, self.bundle.record(self.pool, record)).ok_or_else(damaged)?, self.layout)
            .ok_or_else(damaged)
    }
}

/// The most similar of all signatures: similarity, and where it is.
fn nearest(signature: &[f32], all: &[Vec<Vec<f32>>]) -> (f32, usize, usize) {
    let each = all.iter().enumerate().flat_map(|(i, of)| of.iter().enumerate().map(move |(m, s)| (dot(signature, s), i, m)));
    each.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2))).unwrap_or((f32::NEG_INFINITY, 0, 0))
}

/// For each neuron of `model` the one of `other` that takes its place: the most similar pairs first.
fn align(model: &Matrices, other: &Matrices) -> Vec<usize> {
    let (a, b) = (model.features(), other.features());
    let mut pairs: Vec<(f32, usize, usize)> =
        a.par_iter().enumerate().flat_map_iter(|(i, a)| b.iter().enumerate().map(move |(j, b)| (dot(a, b), i, j))).collect();
    pairs.par_sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)).then(x.2.cmp(&y.2)));
    let (mut place, mut taken) = (vec![usize::MAX; a.len()], vec![false; b.len()]);
    for (_, i, j) in pairs {
        if place[i] == usize::MAX && !taken[j] {
            (place[i], taken[j]) = (j, true);
        }
    }
    place
}

/// An expert's weights as plain numbers.
struct Matrices(Vec<Part>);

/// A matrix `[rows, cols]`, row-major, with the bias of its rows, if it has one.
struct Part {
    role: Role,
    cols: usize,
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Matrices {
    fn read(record: RecordView<'_>, layout: &RecordLayout) -> Option<Matrices> {
        let part = |&(role, l, _): &(Role, hotset::codec::Layout, usize)| {
            let matrix = record.matrix(role)?;
            let mut values = vec![0.0; l.rows * l.cols];
            values.chunks_exact_mut(l.cols).enumerate().for_each(|(r, row)| matrix.row(r, row));
            Some(Part { role, cols: l.cols, values, bias: record.bias(role).map(<[f32]>::to_vec).unwrap_or_default() })
        };
        layout.matrices.iter().map(part).collect::<Option<_>>().map(Matrices)
    }

    fn write(&self, layout: &RecordLayout, record: &mut [u8]) {
        for (i, (part, &(_, l, at))) in self.0.iter().zip(&layout.matrices).enumerate() {
            encode(l, &part.values, &mut record[at..at + l.bytes()]);
            if let Some(&at) = layout.biases.get(i) {
                record[at..at + part.bias.len() * 4].copy_from_slice(bytemuck::cast_slice(&part.bias));
            }
        }
    }

    fn scale(&mut self, by: f32) {
        self.0.iter_mut().flat_map(|p| p.values.iter_mut().chain(&mut p.bias)).for_each(|v| *v *= by);
    }

    fn add(&mut self, other: &Matrices, times: f32) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            a.values.iter_mut().zip(&b.values).for_each(|(a, b)| *a += times * b);
            a.bias.iter_mut().zip(&b.bias).for_each(|(a, b)| *a += times * b);
        }
    }

    /// Width of the hidden layer.
    fn neurons(&self) -> usize {
        self.0.iter().find(|p| p.role == Role::Down).map_or(0, |p| p.cols)
    }

    /// All weights of each neuron, of length 1.
    fn features(&self) -> Vec<Vec<f32>> {
        (0..self.neurons()).map(|n| unit(self.0.iter().flat_map(|p| p.neuron(n)).collect())).collect()
    }

    /// The weights that decide when each neuron speaks, of length 1.
    fn signatures(&self) -> Vec<Vec<f32>> {
        let first = |n| self.0.iter().filter(|p| p.role != Role::Down).flat_map(move |p| p.neuron(n)).collect();
        (0..self.neurons()).map(|n| unit(first(n))).collect()
    }

    /// Neuron `n` becomes what neuron `order[n]` was.
    fn reorder(&mut self, order: &[usize]) {
        for part in &mut self.0 {
            let old = part.values.clone();
            if part.role == Role::Down {
                for (new, old) in part.values.chunks_exact_mut(part.cols).zip(old.chunks_exact(part.cols)) {
                    new.iter_mut().zip(order).for_each(|(v, &n)| *v = old[n]);
                }
                continue;
            }
            part.values
                .chunks_exact_mut(part.cols)
                .zip(order)
                .for_each(|(row, &n)| row.copy_from_slice(&old[n * part.cols..][..part.cols]));
            let old = part.bias.clone();
            part.bias.iter_mut().zip(order).for_each(|(v, &n)| *v = old[n]);
        }
    }

    /// Adds neuron `n` of `other` to neuron `m`.
    fn add_neuron(&mut self, m: usize, other: &Matrices, n: usize, times: f32) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            let values = b.neuron(n);
            a.places(m).zip(values).for_each(|(at, v)| a.values[at] += times * v);
            if a.role != Role::Down && !a.bias.is_empty() {
                a.bias[m] += times * b.bias[n];
            }
        }
    }

    /// Divides each neuron by its total, and what belongs to none by `own`.
    fn divide_neurons(&mut self, totals: &[f32], own: f32) {
        for part in &mut self.0 {
            for (m, total) in totals.iter().enumerate() {
                part.places(m).for_each(|at| part.values[at] /= total);
            }
            let of_neurons = part.role != Role::Down;
            part.bias.iter_mut().enumerate().for_each(|(m, v)| *v /= if of_neurons { totals[m] } else { own });
        }
    }
}

impl Part {
    /// Where neuron `n` has its weights: a row, or a column of the matrix that leads back.
    fn places(&self, n: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, step, count) = match self.role {
            Role::Down => (n, self.cols, self.values.len() / self.cols),
            _ => (n * self.cols, 1, self.cols),
        };
        (0..count).map(move |i| first + i * step)
    }

    fn neuron(&self, n: usize) -> Vec<f32> {
        self.places(n).map(|at| self.values[at]).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f32::MIN_POSITIVE)
}

fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let length = dot(&v, &v).sqrt().max(f32::MIN_POSITIVE);
    v.iter_mut().for_each(|v| *v /= length);
    v
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gated expert of 3 neurons on 2 inputs.
    fn expert(gate: [f32; 6], up: [f32; 6], down: [f32; 6]) -> Matrices {
        let part = |role, cols, values: [f32; 6]| Part { role, cols, values: values.to_vec(), bias: Vec::new() };
        Matrices(vec![part(Role::Gate, 2, gate), part(Role::Up, 2, up), part(Role::Down, 3, down)])
    }

    /// What the expert makes of an input, with the identity as activation.
    fn run(m: &Matrices, x: [f32; 2]) -> Vec<f32> {
        let product = |p: &Part, x: &[f32]| p.values.chunks(p.cols).map(|row| dot(row, x)).collect::<Vec<_>>();
        let hidden: Vec<f32> = product(&m.0[0], &x).iter().zip(product(&m.0[1], &x)).map(|(g, u)| g * u).collect();
        product(&m.0[2], &hidden)
    }

    #[test]
    fn an_expert_in_another_order_is_recognised() {
        let a = expert([1.0, 2.0, -1.0, 0.5, 0.3, -2.0], [0.1, 1.0, 2.0, -0.5, 1.0, 1.0], [1.0, -2.0, 0.5, 0.25, 1.5, -1.0]);
        let mut b = expert([1.0, 2.0, -1.0, 0.5, 0.3, -2.0], [0.1, 1.0, 2.0, -0.5, 1.0, 1.0], [1.0, -2.0, 0.5, 0.25, 1.5, -1.0]);
        b.reorder(&[2, 0, 1]);
        assert_ne!(b.0[0].values, a.0[0].values);
        let before = run(&b, [0.7, -0.3]);
        let order = align(&a, &b);
        assert_eq!(order, [1, 2, 0]);
        b.reorder(&order);
        assert_eq!(b.0[0].values, a.0[0].values);
        assert_eq!(b.0[2].values, a.0[2].values);
        // The order of neurons is nothing to the output.
        assert!(before.iter().zip(run(&b, [0.7, -0.3])).all(|(x, y)| (x - y).abs() < 1e-6));
    }

    #[test]
    fn a_neuron_that_joins_itself_changes_nothing() {
        let plain = expert([1.0, 2.0, -1.0, 0.5, 0.3, -2.0], [0.1, 1.0, 2.0, -0.5, 1.0, 1.0], [1.0, -2.0, 0.5, 0.25, 1.5, -1.0]);
        let mut joined = expert([1.0, 2.0, -1.0, 0.5, 0.3, -2.0], [0.1, 1.0, 2.0, -0.5, 1.0, 1.0], [1.0, -2.0, 0.5, 0.25, 1.5, -1.0]);
        let (similarity, at, m) = nearest(&plain.signatures()[1], &[joined.signatures()]);
        assert!((similarity - 1.0).abs() < 1e-6 && (at, m) == (0, 1));
        joined.scale(2.0);
        joined.add_neuron(1, &plain, 1, 3.0);
        joined.divide_neurons(&[2.0, 5.0, 2.0], 2.0);
        for (a, b) in joined.0.iter().zip(&plain.0) {
            assert!(a.values.iter().zip(&b.values).all(|(x, y)| (x - y).abs() < 1e-6), "{:?}", a.role);
        }
    }
}
