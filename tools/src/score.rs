//! Scores of predictions: likelihood of a token, divergence of two distributions. All in nats and f64.

/// `log Σ exp(row)`.
fn log_total(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|&l| (f64::from(l) - max).exp()).sum::<f64>().ln()
}

/// Negative log-likelihood of `target` under the logits `row` `[V]`.
pub(crate) fn nll(row: &[f32], target: u32) -> f64 {
    log_total(row) - f64::from(row[target as usize])
}

/// The likeliest token; the lowest id among equals.
fn top(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Sums over positions of how one model differs from another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Divergence {
    /// Negative log-likelihood of the other model.
    pub(crate) nll: f64,
    /// KL(other ‖ this).
    pub(crate) kl: f64,
    /// Positions where both find the same token likeliest.
    pub(crate) agreements: usize,
}

impl Divergence {
    /// Counts one position: logits of the `other` model and of `this`, both `[V]`, and the token that came.
    pub(crate) fn add(&mut self, other: &[f32], this: &[f32], target: u32) {
        let (a, b) = (log_total(other), log_total(this));
        let term = |(&p, &q): (&f32, &f32)| {
            let log_p = f64::from(p) - a;
            log_p.exp() * (log_p - (f64::from(q) - b))
        };
        self.kl += other.iter().zip(this).map(term).sum::<f64>();
        self.nll += a - f64::from(other[target as usize]);
        self.agreements += usize::from(top(other) == top(this));
    }

    /// Adds the positions that `other` counted.
    pub(crate) fn merge(&mut self, other: &Divergence) {
        self.nll += other.nll;
        self.kl += other.kl;
        self.agreements += other.agreements;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let even = [5.0f32; 4];
        assert!((nll(&even, 2) - 4f64.ln()).abs() < 1e-12);
        // p = (1/2, 1/2), q = (1/4, 3/4): KL = ln 2 - ln 3 / 2.
        let (p, q) = ([0.0f32, 0.0], [0.0, 3f32.ln()]);
        let mut d = Divergence::default();
        d.add(&p, &q, 1);
        assert!((d.kl - (2f64.ln() - 3f64.ln() / 2.0)).abs() < 1e-6);
        assert!((d.nll - 2f64.ln()).abs() < 1e-12);
        assert_eq!(d.agreements, 0);
        d.add(&q, &q, 0);
        assert_eq!(d.agreements, 1);
        assert!((d.kl - (2f64.ln() - 3f64.ln() / 2.0)).abs() < 1e-6);
    }
}
