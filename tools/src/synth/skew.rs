//! Router biases that make some experts be chosen more often than others.

use std::f64::consts::SQRT_2;

/// How often each of `experts` is one of a token's `top_k` when the frequencies fall as `1 / rank^exponent` (Zipf's law): the shares add up
/// to `top_k`, and none is above 1, what would be goes to the others.
pub(super) fn zipf(experts: u32, top_k: u32, exponent: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=experts).map(|rank| f64::from(rank).powf(-exponent)).collect();
    // Those at the front that are chosen always, one more at a time.
    for always in 0..top_k as usize {
        let scale = (f64::from(top_k) - always as f64) / weights[always..].iter().sum::<f64>();
        if weights[always] * scale <= 1.0 {
            return weights.iter().enumerate().map(|(i, w)| if i < always { 1.0 } else { w * scale }).collect();
        }
    }
    (0..experts).map(|i| f64::from(u8::from(i < top_k))).collect()
}

/// The bias of each expert, where logits without it are normal with this `deviation`, so that it is chosen with its share of `shares`.
///
/// Whoever is above the token's threshold is chosen. With many experts the threshold hardly moves from token to token, and a normal variable
/// is above it with probability `p` when its mean lies `Φ⁻¹(p)` deviations above.
pub(super) fn biases(shares: &[f64], deviation: f64) -> Vec<f32> {
    shares.iter().map(|&p| (deviation * quantile(p)) as f32).collect()
}

/// `Φ⁻¹`, by bisection; probabilities next to 0 and 1 count as those of 5 deviations.
fn quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-5.0, 5.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        let below = 0.5 * libm::erfc(-middle / SQRT_2);
        if below < p { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_zipf_and_add_up() {
        for (experts, top_k, exponent) in [(64, 8, 0.0), (64, 8, 0.5), (64, 8, 1.0), (128, 8, 1.5), (8, 2, 3.0), (4, 4, 1.0), (4, 2, 400.0)]
        {
            let shares = zipf(experts, top_k, exponent);
            assert!((shares.iter().sum::<f64>() - f64::from(top_k)).abs() < 1e-9, "{shares:?}");
            assert!(shares.iter().all(|p| (0.0..=1.0).contains(p)) && shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
            let free: Vec<(usize, f64)> = shares.iter().copied().enumerate().filter(|(_, p)| *p < 1.0 && *p > 1e-9).collect();
            for pair in free.windows(2) {
                let ratio = ((pair[1].0 + 1) as f64 / (pair[0].0 + 1) as f64).powf(-exponent);
                assert!((pair[1].1 / pair[0].1 - ratio).abs() < 1e-9, "{shares:?}");
            }
        }
    }

    #[test]
    fn quantiles_of_the_normal_distribution() {
        for (p, z) in [(0.5, 0.0), (0.841_344_746, 1.0), (0.977_249_868, 2.0), (0.001_349_898, -3.0), (1.0, 5.0)] {
            assert!((quantile(p) - z).abs() < 1e-6, "{p}");
        }
    }
}
