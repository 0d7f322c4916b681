//! Rotary position encodings: every published scheme that is nothing but other frequencies.
//!
//! Arithmetic is in f32 where the published implementations use f32, so that frequencies agree to the last bit or nearly so.

use std::f64::consts::PI;

use hotset::plan::{Beyond, Rotation};

use super::config::Config;
use crate::failure::{Failure, Result};

/// The rotation of whole heads of `head_dim`.
pub(super) fn rotation(config: &Config<'_>, head_dim: u32, default_theta: f64) -> Result<Rotation> {
    let rope = Rope::read(config)?;
    if rope.number("partial_rotary_factor")?.is_some_and(|p| p != 1.0) {
        return Err(config.unsupported("partial_rotary_factor", "rotating only a part of each head"));
    }
    rope.rotation(head_dim, default_theta)
}

/// The rotation of whole heads of `head_dim`, in families whose code knows no scaling of it.
pub(super) fn plain(theta: f64, head_dim: u32) -> Result<Rotation> {
    Ok(Rotation::new(powers(theta, head_dim)?.iter().map(|p| 1.0 / p).collect(), 1.0))
}

/// The rotation of the first elements of heads of `head_dim`: a part of them that is `default_part` unless the configuration names one.
pub(super) fn partial_rotation(config: &Config<'_>, head_dim: u32, default_theta: f64, default_part: f64) -> Result<Rotation> {
    let rope = Rope::read(config)?;
    let part = rope.number("partial_rotary_factor")?.unwrap_or(default_part);
    if !(part > 0.0 && part <= 1.0) {
        return Err(Failure::new(format!("config.json: partial_rotary_factor is {part}; expected a number above 0, at most 1")));
    }
    rope.rotation((f64::from(head_dim) * part) as u32, default_theta)
}

/// Positions that the model serves at most: those it was trained for, which dynamic scaling stretches.
pub(super) fn context(config: &Config<'_>) -> Result<Option<u32>> {
    let (rope, trained) = (Rope::read(config)?, config.context()?);
    let factor = if rope.kind == "dynamic" && rope.weight("alpha")?.is_none() { rope.positive("factor")? } else { 1.0 };
    Ok(trained.map(|n| (f64::from(n) * factor) as u32))
}

/// What YaRN multiplies the softmax scale with in families whose scale depends on `mscale_all_dim`.
pub(super) fn softmax_scale(config: &Config<'_>) -> Result<f32> {
    let rope = Rope::read(config)?;
    match rope.weight("mscale_all_dim")? {
        Some(weight) if rope.kind != "default" => Ok(growth(rope.positive("factor")?, weight).powi(2) as f32),
        _ => Ok(1.0),
    }
}

/// The keys about rotation, in both spellings: `rope_parameters`, or `rope_scaling` beside `rope_theta`.
struct Rope<'a> {
    config: Config<'a>,
    keys: Option<Config<'a>>,
    kind: &'a str,
}

impl<'a> Rope<'a> {
    fn read(config: &Config<'a>) -> Result<Rope<'a>> {
        let keys = match config.inner("rope_scaling")? {
            Some(scaling) => {
                config.ignore(&["rope_parameters"]);
                Some(scaling)
            }
            None => config.inner("rope_parameters")?,
        };
        config.ignore(&["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"]);
        let Some(rope) = keys else { return Ok(Rope { config: *config, keys, kind: "default" }) };
        // Written by some programs with kinds that do not need them.
        rope.ignore(&["original_max_position_embeddings", "finetuned", "rope_theta", "partial_rotary_factor"]);
        let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
        Ok(Rope { config: *config, keys, kind })
    }

    /// The number under `key`, wherever it is.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let inner = self.keys.as_ref().map_or(Ok(None), |r| r.number(key))?;
        Ok(inner.or(self.config.number(key)?))
    }

    fn keys(&self) -> Result<&Config<'a>> {
        self.keys.as_ref().ok_or_else(|| self.config.unsupported("rope_scaling", "a scaling without its numbers"))
    }

    fn positive(&self, key: &str) -> Result<f64> {
        let n = self.keys()?.number_of(key)?;
        if n > 0.0 {
            Ok(n)
        } else {
            Err(Failure::new(format!("config.json: the rotary encoding's {key} is {n}; expected a positive number")))
        }
    }

    /// A number that counts as absent when it is zero.
    fn weight(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.keys.as_ref().map_or(Ok(None), |r| r.number(key))?.filter(|n| *n != 0.0))
    }

    /// Positions before any scaling. Where there are two numbers the one beside the rotation's own keys counts.
    fn original(&self) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let n = match (self.config.number(KEY)?, self.number(KEY)?) {
            (Some(n), _) | (None, Some(n)) => n,
            (None, None) => self.config.number_of("max_position_embeddings")?,
        };
        if n >= 1.0 { Ok(n) } else { Err(Failure::new(format!("config.json: {KEY} is {n}; expected a positive number"))) }
    }

    /// How much longer conversations may be than originally.
    fn factor(&self) -> Result<f64> {
        match self.keys()?.number("factor")? {
            Some(_) => self.positive("factor"),
            None => Ok(self.config.number_of("max_position_embeddings")? / self.original()?),
        }
    }

    /// The rotation of `dim` elements.
    fn rotation(&self, dim: u32, default_theta: f64) -> Result<Rotation> {
        let theta = self.number("rope_theta")?.unwrap_or(default_theta);
        let powers = powers(theta, dim)?;
        let plain = powers.iter().map(|p| 1.0 / p);
        match self.kind {
            "default" => Ok(Rotation::new(plain.collect(), 1.0)),
            "linear" => {
                let factor = self.positive("factor")? as f32;
                Ok(Rotation::new(plain.map(|f| f / factor).collect(), 1.0))
            }
            "dynamic" => match self.weight("alpha")? {
                Some(_) => self.alpha(theta, dim),
                None => self.dynamic(plain.collect(), theta),
            },
            "llama3" => self.llama3(plain.collect()),
            "yarn" => self.yarn(theta, &powers),
            "longrope" => self.longrope(&powers),
            other => Err(self.keys()?.unsupported("rope_type", &format!("{other:?}"))),
        }
    }

    /// A base that grows with the conversation once it is longer than those of training.
    fn dynamic(&self, plain: Vec<f32>, theta: f64) -> Result<Rotation> {
        let factor = self.positive("factor")? as f32;
        let after = self.config.context()?.ok_or_else(|| Failure::new("config.json: max_position_embeddings is missing"))?;
        let beyond = Beyond::Growing { after, base: theta as f32, factor };
        Ok(Rotation { beyond: Some(beyond), ..Rotation::new(plain, 1.0) })
    }

    /// A larger base, the same for every conversation: what `dynamic` means beside an `alpha`.
    fn alpha(&self, theta: f64, dim: u32) -> Result<Rotation> {
        let (alpha, d) = (self.positive("alpha")?, f64::from(dim));
        self.keys()?.ignore(&["factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"]);
        plain(theta * alpha.powf(d / (d - 2.0)), dim)
    }

    /// Long wavelengths stretched by a factor, short ones kept, those between blended.
    fn llama3(&self, plain: Vec<f32>) -> Result<Rotation> {
        let (factor, low, high) = (self.positive("factor")?, self.positive("low_freq_factor")?, self.positive("high_freq_factor")?);
        let original = self.original()?;
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
    fn yarn(&self, theta: f64, powers: &[f32]) -> Result<Rotation> {
        let (factor, original) = (self.factor()?, self.original()?);
        let dim = 2.0 * powers.len() as f64;
        let (fast, slow) = (self.weight("beta_fast")?.unwrap_or(32.0), self.weight("beta_slow")?.unwrap_or(1.0));
        // The pair that turns `rotations` times within the original context.
        let pair = |rotations: f64| dim * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut first, mut last) = (pair(fast), pair(slow));
        if self.keys()?.flag("truncate", true)? {
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
        let amplitude = match (self.keys()?.number("attention_factor")?, self.weight("mscale")?, self.weight("mscale_all_dim")?) {
            (Some(a), _, _) => a,
            (None, Some(m), Some(all)) => growth(factor, m) / growth(factor, all),
            (None, _, _) => growth(factor, 1.0),
        };
        Ok(Rotation::new(powers.iter().enumerate().map(blend).collect(), amplitude as f32))
    }

    /// LongRoPE: each wavelength stretched by a number of its own, other numbers for conversations longer than those of training. Phi-MoE
    /// names the amplitudes outright.
    fn longrope(&self, powers: &[f32]) -> Result<Rotation> {
        let (factor, original, keys) = (self.factor()?, self.original()?, self.keys()?);
        let amplitude = match keys.number("attention_factor")? {
            Some(a) => a,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        let stretched = |key: &str, scale: &str| {
            let factors = keys.numbers(key)?.filter(|f| f.len() == powers.len() && f.iter().all(|n| *n > 0.0));
            let Some(factors) = factors else {
                return Err(Failure::new(format!(
                    "config.json: {key} is not a list of {} positive numbers, one for each pair",
                    powers.len()
                )));
            };
            let frequencies: Vec<f32> = factors.iter().zip(powers).map(|(f, p)| 1.0 / (*f as f32 * p)).collect();
            Ok((frequencies, keys.number(scale)?.unwrap_or(amplitude) as f32))
        };
        let (short, amplitude) = stretched("short_factor", "short_mscale")?;
        let (frequencies, long) = stretched("long_factor", "long_mscale")?;
        let beyond = Beyond::Other { after: original as u32, frequencies, amplitude: long };
        Ok(Rotation { beyond: Some(beyond), ..Rotation::new(short, amplitude) })
    }
}

/// Positions per radian, for each pair of `dim` elements.
fn powers(theta: f64, dim: u32) -> Result<Vec<f32>> {
    if theta <= 1.0 {
        return Err(Failure::new(format!("config.json: rope_theta is {theta}; expected a number above 1")));
    }
    if dim == 0 || !dim.is_multiple_of(2) {
        return Err(Failure::new(format!("config.json: {dim} elements of a head cannot be rotated in halves")));
    }
    Ok((0..dim / 2).map(|i| theta.powf(f64::from(2.0 * i as f32 / dim as f32)) as f32).collect())
}

/// YaRN's growth of attention with the logarithm of the scaling.
fn growth(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}
