//! The likeliest tokens of a row of logits, in about the time it takes to read them twice.

use super::kernels::Kernels;
use crate::codec::GROUP;
use crate::model::{Best, Candidates};

/// What [`Candidates::select`] defines; penalties are applied to `logits` in place.
pub(super) fn best(kernels: &dyn Kernels, logits: &mut [f32], best: &Best) -> Candidates {
    best.penalise(logits);
    let tokens = largest(logits, best.count.max(1));
    let top = tokens.first().map_or(0.0, |t| t.1) * best.inverse_temperature;
    let mut total = 0f64;
    for logits in logits.chunks(GROUP) {
        let mut scaled = [f32::MIN; GROUP];
        scaled.iter_mut().zip(logits).for_each(|(s, l)| *s = l * best.inverse_temperature);
        kernels.exp(&mut scaled, top);
        total += f64::from(scaled[..logits.len()].iter().sum::<f32>());
    }
    Candidates { tokens, log_total: top + total.ln() as f32 }
}

/// The `count` largest values with their indices, largest first, ties by index.
fn largest(values: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut out: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    let mut bar = f32::NEG_INFINITY;
    for (i, &v) in (0..).zip(values) {
        // Most values end here.
        if v <= bar {
            continue;
        }
        out.insert(out.partition_point(|o| o.1 >= v), (i, v));
        out.truncate(count);
        if out.len() == count {
            bar = out[count - 1].1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernels::available;
    use proptest::prelude::*;

    proptest! {
        /// The same candidates as the plain definition, and the same total to rounding.
        #[test]
        fn agrees_with_the_definition(
            logits in proptest::collection::vec((-40i16..40).prop_map(|v| f32::from(v) * 0.25), 1..300),
            count in 1usize..40,
            inverse_temperature in 0.0f32..3.0,
        ) {
            let request = Best { count, penalised: vec![0, 7, 20], penalty: 1.3, inverse_temperature };
            let want = Candidates::select(&mut logits.clone(), &request);
            let got = best(available()[0], &mut logits.clone(), &request);
            prop_assert_eq!(got.tokens, want.tokens);
            prop_assert!((got.log_total - want.log_total).abs() <= 1e-5 * want.log_total.abs().max(1.0));
        }
    }
}
