//! Bundles of real shapes with random weights: what a benchmark needs when no checkpoint is at hand.
//!
//! Words are drawn straight in panel layout, so a bundle is written as fast as the disk takes it. Random weights leave the amount of
//! arithmetic and of bytes per token as they are in the model whose shape is used, but every token chooses its experts afresh. How often
//! each is chosen can be skewed; that the next token chooses the same ones again, as in text, has no counterpart here.

mod fill;
mod shape;
mod skew;

use std::collections::BTreeMap;
use std::path::Path;

use hotset::Result;
use hotset::bundle::{BundleWriter, RecordLayout, TensorInfo};
use hotset::codec::{Codec, Layout};
use hotset::plan::Pool;

use crate::random::Random;
use fill::{fill, float_deviation};
use shape::{ATTENTION_OUTPUT, BIAS, EMBEDDING};
pub(crate) use shape::{SHAPES, Shape};

/// What a bundle of random weights is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Format of all matrices but the routers'.
    pub(crate) codec: Codec,
    /// The same seed gives the same bytes.
    pub(crate) seed: u64,
    /// Zipf exponent of how often experts are chosen; 0 is evenly.
    pub(crate) skew: f64,
}

/// Writes a bundle of `shape` to `out`. `progress` is told bytes written and bytes in all.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(shape: &Shape, options: &Options, out: &Path, mut progress: impl FnMut(u64, u64)) -> Result<()> {
    let manifest = shape.manifest(options);
    let biases = biases(shape, options.skew);
    let mut writer = BundleWriter::create(out, manifest.clone(), None)?;
    let entries = writer.entries().to_vec();
    let total = entries.iter().map(|e| e.bytes as u64).sum();
    let pools: BTreeMap<&str, &Pool> = manifest.plan.pools.iter().map(|p| (p.name.as_str(), p)).collect();
    let (mut done, mut random, mut buffer) = (0, Random(options.seed), Vec::new());
    for e in &entries {
        let Some(region) = e.region.as_deref() else { continue };
        buffer.clear();
        buffer.resize(e.bytes, 0);
        let matrices = match manifest.tensors.get(&e.name) {
            Some(&TensorInfo::Vector { len }) => {
                let ones = vec![1.0; len as usize];
                let values = if e.name.ends_with(BIAS) { &biases } else { &ones };
                buffer[..len as usize * 4].copy_from_slice(bytemuck::cast_slice(values));
                Vec::new()
            }
            Some(matrix) => matrix.layout().map(|l| (l, 0)).into_iter().collect(),
            None => record(pools.get(region), shape.width),
        };
        for (layout, at) in matrices {
            fill(layout, deviation(shape, &e.name, layout), &mut random, &mut buffer[at..][..layout.bytes()]);
        }
        writer.write(&e.name, &buffer)?;
        done += e.bytes as u64;
        progress(done, total);
    }
    writer.finish().map(|_| ())
}

/// Layout and offset of each matrix in a record of `pool`.
fn record(pool: Option<&&Pool>, width: u32) -> Vec<(Layout, usize)> {
    let layout = pool.and_then(|p| RecordLayout::of(p, width));
    layout.into_iter().flat_map(|r| r.matrices).map(|(_, layout, at)| (layout, at)).collect()
}

/// The biases of a router: experts are chosen with Zipf's frequencies, the first most often.
fn biases(shape: &Shape, skew: f64) -> Vec<f32> {
    // A normalised input has the length √D, so a logit deviates √D times as much as a weight.
    let root = (shape.width as f32).sqrt();
    skew::biases(&skew::zipf(shape.experts, shape.top_k, skew), f64::from(root * float_deviation(1.0 / root)))
}

/// Standard deviation of a matrix's weights. `1/√in` keeps activations of one size through any number of layers, and router logits near
/// standard normal, so that routing is neither uniform nor stuck on a few experts.
fn deviation(shape: &Shape, name: &str, layout: Layout) -> f32 {
    let kept = 1.0 / (layout.cols as f32).sqrt();
    match name {
        EMBEDDING => 1.0,
        // What attention adds is much the same for neighbouring tokens. Layers would amplify that part until all tokens are routed alike.
        _ if name.ends_with(ATTENTION_OUTPUT) => kept / (shape.layers as f32).sqrt(),
        _ => kept,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::shape::tests::{TINY, WIDE};
    use super::*;
    use hotset::bundle::Bundle;
    use hotset::experts::Pass;
    use hotset::{Device, Engine, EngineOptions, SessionOptions};

    #[test]
    fn a_bundle_opens_verifies_and_repeats() {
        let dir = tempfile::tempdir().unwrap();
        let write_to = |name: &str, seed| {
            let path = dir.path().join(name);
            let mut last = (0, 0);
            write(&TINY, &Options { codec: Codec::Q4, seed, skew: 0.0 }, &path, |done, total| last = (done, total)).unwrap();
            assert!(last.0 <= last.1 && last.1 > 0);
            path
        };
        let (a, b, c) = (write_to("a.hotset", 1), write_to("b.hotset", 1), write_to("c.hotset", 2));
        let bundle = Bundle::open(&a).unwrap();
        bundle.verify(|_| ()).unwrap();
        assert_eq!(bundle.plan().steps.len(), 4);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(b).unwrap());
        assert_ne!(std::fs::read(a).unwrap(), std::fs::read(c).unwrap());
    }

    /// How often each layer uses each expert, and how often it uses one that it used for the token before, each as a share of tokens.
    fn used(skew: f64) -> Vec<(Vec<f64>, f64)> {
        const TOKENS: usize = 1500;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.hotset");
        write(&WIDE, &Options { codec: Codec::Q8, seed: 1, skew }, &path, |_, _| ()).unwrap();
        let engine = Engine::open(path, &EngineOptions { device: Device::Cpu, ..EngineOptions::default() }).unwrap();
        let mut session = engine.session(&SessionOptions::default()).unwrap();
        session.record_routes().unwrap();
        for token in crate::documents::random(WIDE.vocab).take(TOKENS) {
            session.append(&[token]).unwrap();
            session.prefill().unwrap();
        }
        let passes = session.take_routes();
        assert_eq!(passes.len(), TOKENS);
        let share = |n: usize| n as f64 / TOKENS as f64;
        let layer = |step: usize| {
            let count = |e: u32| share(passes.iter().filter(|p| p.0[step].contains(&e)).count());
            let again = |p: &[Pass]| p[1].0[step].iter().filter(|r| p[0].0[step].contains(r)).count();
            ((0..WIDE.experts).map(count).collect(), share(passes.windows(2).map(again).sum()))
        };
        (0..WIDE.layers as usize).map(|i| layer(2 * i + 1)).collect()
    }

    #[test]
    fn experts_are_chosen_by_zipfs_law_in_every_layer_and_repeat_as_chance_has_it() {
        for skew in [0.0, 0.5, 1.0, 1.5] {
            let shares = skew::zipf(WIDE.experts, WIDE.top_k, skew);
            for (layer, (used, again)) in used(skew).iter().enumerate() {
                let astray = used.iter().zip(&shares).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0 / f64::from(WIDE.top_k);
                let chance: f64 = shares.iter().map(|p| p * p).sum();
                assert!(astray < 0.1, "skew {skew}, layer {layer}: {astray} of the uses are astray: {used:?}");
                assert!((again - chance).abs() < 0.2, "skew {skew}, layer {layer}: {again} experts repeat, {chance} by chance");
            }
        }
    }
}
