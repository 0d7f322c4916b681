//! Rotary position encodings: every published scheme that is nothing but other frequencies.
//!
//! Arithmetic is in f32 where the published implementations use f32, so that frequencies agree to the last bit or nearly so.

use std::f64::consts::PI;

use hotset::plan::Rotation;

use super::config::Config;
use crate::failure::{Failure, Result};

/// The rotation of heads of `head_dim`. Both spellings are read: `rope_parameters`, and `rope_scaling` beside `rope_theta`.
pub(super) fn rotation(config: &Config<'_>, head_dim: u32, default_theta: f64) -> Result<Rotation> {
    let scaling = config.inner("rope_scaling")?;
    let parameters = config.inner("rope_parameters")?;
    let rope = scaling.or(parameters);
    let inner = |key: &str| rope.as_ref().map_or(Ok(None), |r| r.number(key));
    let theta = inner("rope_theta")?.or(config.number("rope_theta")?).unwrap_or(default_theta);
    if theta <= 1.0 {
        return Err(Failure::new(format!("config.json: rope_theta is {theta}; expected a number above 1")));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(Failure::new(format!("config.json: heads of width {head_dim} cannot be rotated in halves")));
    }
    let partial = inner("partial_rotary_factor")?.or(config.number("partial_rotary_factor")?);
    if partial.is_some_and(|p| p != 1.0) {
        return Err(config.unsupported("partial_rotary_factor", "rotating only a part of each head"));
    }
    let powers: Vec<f32> = (0..head_dim / 2).map(|i| theta.powf(f64::from(2.0 * i as f32 / head_dim as f32)) as f32).collect();
    let plain = powers.iter().map(|p| 1.0 / p);
    let Some(rope) = rope else { return Ok(Rotation::new(plain.collect(), 1.0)) };
    let original = || match (config.number("original_max_position_embeddings")?, rope.number("original_max_position_embeddings")?) {
        (Some(n), _) | (None, Some(n)) => Ok(n),
        (None, None) => config.number_of("max_position_embeddings"),
    };
    match rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default") {
        "default" => match ["full_attention", "sliding_attention"].iter().find(|k| rope.get(k).is_some()) {
            None => Ok(Rotation::new(plain.collect(), 1.0)),
            Some(key) => Err(rope.unsupported(key, "its own rotation for each kind of layer")),
        },
        "linear" => {
            let factor = positive(&rope, "factor")?;
            Ok(Rotation::new(plain.map(|f| f / factor as f32).collect(), 1.0))
        }
        "llama3" => llama3(&rope, original()?, plain.collect()),
        "yarn" => yarn(&rope, original()?, theta, &powers),
        other => Err(rope.unsupported("rope_type", &format!("{other:?}"))),
    }
}

fn positive(rope: &Config<'_>, key: &str) -> Result<f64> {
    let n = rope.number_of(key)?;
    if n > 0.0 { Ok(n) } else { Err(Failure::new(format!("config.json: the rotary encoding's {key} is {n}; expected a positive number"))) }
}

/// Long wavelengths stretched by a factor, short ones kept, those between blended.
fn llama3(rope: &Config<'_>, original: f64, plain: Vec<f32>) -> Result<Rotation> {
    let (factor, low, high) = (positive(rope, "factor")?, positive(rope, "low_freq_factor")?, positive(rope, "high_freq_factor")?);
    let stretch = |f: f32| {
        let wavelength = 2.0 * PI as f32 / f;
        if wavelength < (original / high) as f32 {
            f
        } else if wavelength > (original / low) as f32 {
            f / factor as f32
        } else {
            let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
            (1.0 - smooth) * f / factor as f32 + smooth * f
        }
    };
    Ok(Rotation::new(plain.into_iter().map(stretch).collect(), 1.0))
}

/// YaRN: a ramp over the pairs from unchanged to stretched, and a larger amplitude.
fn yarn(rope: &Config<'_>, original: f64, theta: f64, powers: &[f32]) -> Result<Rotation> {
    let factor = positive(rope, "factor")?;
    let dim = 2.0 * powers.len() as f64;
    let or = |key: &str, default: f64| Ok::<_, Failure>(rope.number(key)?.filter(|n| *n != 0.0).unwrap_or(default));
    let (fast, slow) = (or("beta_fast", 32.0)?, or("beta_slow", 1.0)?);
    // The pair that turns `rotations` times within the original context.
    let pair = |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut first, mut last) = (pair(fast), pair(slow));
    if rope.flag("truncate", true)? {
        (first, last) = (first.floor(), last.ceil());
    }
    (first, last) = (first.max(0.0), last.min(dim - 1.0));
    if first == last {
        last += 0.001;
    }
    let blend = |(i, p): (usize, &f32)| {
        let ramp = ((i as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
        1.0 / (factor as f32 * p) * ramp + 1.0 / p * (1.0 - ramp)
    };
    let growth = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let scales = (rope.number("mscale")?.filter(|n| *n != 0.0), rope.number("mscale_all_dim")?.filter(|n| *n != 0.0));
    let amplitude = match (rope.number("attention_factor")?, scales) {
        (Some(a), _) => a,
        (None, (Some(m), Some(all))) => growth(m) / growth(all),
        (None, _) => growth(1.0),
    };
    Ok(Rotation::new(powers.iter().enumerate().map(blend).collect(), amplitude as f32))
}
