//! Size-constrained k-means: clusters of about equal size, so that experts get about equal work.

use crate::random::Random;

/// Rounds of assignment and averaging, at most.
const ROUNDS: usize = 100;
/// Runs from different first centres.
const RESTARTS: usize = 4;

/// Points to cluster, and into what.
pub(crate) struct Clustering<'a> {
    /// `[n, width]`.
    pub(crate) points: &'a [f32],
    pub(crate) width: usize,
    /// How many clusters.
    pub(crate) clusters: usize,
    /// Sizes lie within `n / clusters · (1 ± jitter)`.
    pub(crate) jitter: f64,
}

/// One run's result.
struct Clusters {
    /// `[clusters, width]`.
    centres: Vec<f32>,
    /// The cluster of each point `[n]`.
    members: Vec<usize>,
}

impl Clustering<'_> {
    /// The centres `[clusters, width]` of the tightest of several clusterings.
    pub(crate) fn run(&self, random: &mut Random) -> Vec<f32> {
        self.best(random).centres
    }

    fn best(&self, random: &mut Random) -> Clusters {
        let mut best = self.once(random);
        for _ in 1..RESTARTS {
            let other = self.once(random);
            if self.spread(&other) < self.spread(&best) {
                best = other;
            }
        }
        best
    }

    fn point(&self, i: usize) -> &[f32] {
        &self.points[i * self.width..][..self.width]
    }

    fn len(&self) -> usize {
        self.points.len() / self.width
    }

    fn once(&self, random: &mut Random) -> Clusters {
        let mut centres = self.seed(random);
        let mut members = Vec::new();
        for _ in 0..ROUNDS {
            let distances = self.distances(&centres);
            let next = self.assign(&distances);
            let settled = next == members;
            members = next;
            if settled {
                break;
            }
            centres = self.means(&members);
        }
        Clusters { centres, members }
    }

    /// Sum of squared distances to the own centre.
    fn spread(&self, clusters: &Clusters) -> f64 {
        let centre = |c: usize| &clusters.centres[c * self.width..][..self.width];
        clusters.members.iter().enumerate().map(|(i, &c)| f64::from(square(self.point(i), centre(c)))).sum()
    }

    /// k-means++: each next centre is a point, the likelier the farther from those before.
    fn seed(&self, random: &mut Random) -> Vec<f32> {
        let mut centres = self.point(random.below(self.len())).to_vec();
        let mut nearest: Vec<f32> = (0..self.len()).map(|i| square(self.point(i), &centres)).collect();
        for _ in 1..self.clusters {
            let mut left = random.unit() * nearest.iter().map(|&d| f64::from(d)).sum::<f64>();
            let chosen = nearest.iter().position(|&d| {
                left -= f64::from(d);
                left < 0.0
            });
            let centre = self.point(chosen.unwrap_or(self.len() - 1));
            nearest.iter_mut().enumerate().for_each(|(i, d)| *d = d.min(square(self.point(i), centre)));
            centres.extend(centre);
        }
        centres
    }

    /// Squared distances of all points to all centres `[n, clusters]`.
    fn distances(&self, centres: &[f32]) -> Vec<f32> {
        let row = |i| centres.chunks_exact(self.width).map(move |c| square(self.point(i), c));
        (0..self.len()).flat_map(row).collect()
    }

    /// The nearest cluster for each point, then as few and as short moves as bring sizes within their limits.
    fn assign(&self, distances: &[f32]) -> Vec<usize> {
        let k = self.clusters;
        let (low, high) = limits(self.len(), k, self.jitter);
        let nearest = |row: &[f32]| (1..k).fold(0, |best, c| if row[c] < row[best] { c } else { best });
        let mut members: Vec<usize> = distances.chunks_exact(k).map(nearest).collect();
        let mut sizes = vec![0; k];
        members.iter().for_each(|&c| sizes[c] += 1);
        // Moves out of clusters that are too large, then into those that are too small; the shortest detour first.
        while let Some(full) = (0..k).find(|&c| sizes[c] > high) {
            move_some(distances, &mut members, &mut sizes, |from, to, sizes| from == full && sizes[from] > high && sizes[to] < high);
        }
        while let Some(empty) = (0..k).find(|&c| sizes[c] < low) {
            move_some(distances, &mut members, &mut sizes, |from, to, sizes| to == empty && sizes[from] > low && sizes[to] < low);
        }
        members
    }

    fn means(&self, members: &[usize]) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.clusters * self.width];
        let mut sizes = vec![0.0f64; self.clusters];
        for (i, &c) in members.iter().enumerate() {
            sizes[c] += 1.0;
            sums[c * self.width..][..self.width].iter_mut().zip(self.point(i)).for_each(|(s, &p)| *s += f64::from(p));
        }
        sums.iter().enumerate().map(|(n, s)| (s / sizes[n / self.width].max(1.0)) as f32).collect()
    }
}

/// Fewest and most points of a cluster.
fn limits(points: usize, clusters: usize, jitter: f64) -> (usize, usize) {
    let even = points as f64 / clusters as f64;
    // However small the jitter, there must be room for all.
    (((even * (1.0 - jitter)).ceil() as usize).min(points / clusters), ((even * (1.0 + jitter)) as usize).max(points.div_ceil(clusters)))
}

/// Makes all moves that `allowed` (from, to, sizes) allows, in the order of how much farther they lead.
fn move_some(distances: &[f32], members: &mut [usize], sizes: &mut [usize], allowed: impl Fn(usize, usize, &[usize]) -> bool) {
    let k = sizes.len();
    let mut moves: Vec<(f32, usize, usize)> = Vec::new();
    for (i, (&from, row)) in members.iter().zip(distances.chunks_exact(k)).enumerate() {
        moves.extend((0..k).filter(|&to| to != from && allowed(from, to, sizes)).map(|to| (row[to] - row[from], i, to)));
    }
    moves.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut moved = vec![false; members.len()];
    for (_, i, to) in moves {
        if !moved[i] && allowed(members[i], to, sizes) {
            sizes[members[i]] -= 1;
            sizes[to] += 1;
            (members[i], moved[i]) = (to, true);
        }
    }
}

/// Squared distance.
fn square(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points around `sizes.len()` far corners.
    fn blobs(sizes: &[usize], random: &mut Random) -> Vec<f32> {
        let point = |corner: usize, random: &mut Random| {
            (0..3)
                .map(|axis| if axis == corner % 3 { 10.0 * (1 + corner / 3) as f32 } else { 0.0 } + random.unit() as f32)
                .collect::<Vec<_>>()
        };
        sizes.iter().enumerate().flat_map(|(corner, &n)| (0..n).flat_map(|_| point(corner, random)).collect::<Vec<_>>()).collect()
    }

    fn sizes(clusters: &Clusters, k: usize) -> Vec<usize> {
        (0..k).map(|c| clusters.members.iter().filter(|&&m| m == c).count()).collect()
    }

    #[test]
    fn what_lies_together_stays_together() {
        let mut random = Random(3);
        let points = blobs(&[50, 60, 40, 50], &mut random);
        let clusters = Clustering { points: &points, width: 3, clusters: 4, jitter: 0.4 }.best(&mut random);
        let mut found = sizes(&clusters, 4);
        found.sort_unstable();
        assert_eq!(found, [40, 50, 50, 60]);
        assert!(clusters.members[..50].iter().all(|m| *m == clusters.members[0]));
        let centre = &clusters.centres[clusters.members[0] * 3..][..3];
        assert!((centre[0] - 10.5).abs() < 0.3 && (centre[1] - 0.5).abs() < 0.3, "{centre:?}");
    }

    #[test]
    fn sizes_stay_within_their_limits() {
        let mut random = Random(11);
        for (parts, k, jitter) in
            [(&[500, 3, 2][..], 4, 0.4), (&[97, 1, 1, 1], 4, 0.0), (&[30, 30], 7, 0.1), (&[5], 5, 0.4), (&[64, 1], 2, 0.25)]
        {
            let points = blobs(parts, &mut random);
            let n = points.len() / 3;
            let clusters = Clustering { points: &points, width: 3, clusters: k, jitter }.best(&mut random);
            let (low, high) = limits(n, k, jitter);
            assert!(low <= n / k && n.div_ceil(k) <= high);
            assert!(high as f64 <= (n as f64 / k as f64 * (1.0 + jitter)).max(n.div_ceil(k) as f64));
            let sizes = sizes(&clusters, k);
            assert!(sizes.iter().all(|s| (low..=high).contains(s)), "{parts:?}: {sizes:?} not within {low}..={high}");
            assert_eq!(sizes.iter().sum::<usize>(), n);
        }
    }
}
