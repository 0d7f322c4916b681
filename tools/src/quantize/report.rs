//! What codecs cost: the losses of a bundle and of what it may become.

use std::path::Path;

use hotset::bundle::Bundle;
use hotset::codec::Codec;
use hotset::{Engine, SessionOptions};
use serde::Serialize;

use super::{Options, quantize, smaller};
use crate::evaluation::{Sample, Scores, score};
use crate::failure::{Failure, Result};
use crate::options::DeviceArgs;
use crate::packing::Watch;

/// One bundle's figures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was done to the weights.
    pub(crate) name: String,
    /// Of the file.
    pub(crate) bytes: u64,
    /// Nats per token.
    pub(crate) nll: f64,
    /// Mean KL(source ‖ this), nats per token.
    pub(crate) kl: f64,
    /// Share of positions where both find the same token likeliest.
    pub(crate) top1_agreement: f64,
}

/// Bundles made of one source.
pub(crate) struct Comparison<'a> {
    pub(crate) source: &'a Bundle,
    pub(crate) device: &'a DeviceArgs,
    /// Of the bundles that are made only to be measured.
    pub(crate) watch: Watch<'a>,
}

impl Comparison<'_> {
    /// The source, what `options` made of it in `made`, and what plain rounding to each codec makes of it.
    ///
    /// # Errors
    /// When a bundle cannot be written beside `made`, or a device fails.
    pub(crate) fn rows(&self, source: &Engine, options: &Options<'_>, made: &Path, samples: &[Sample]) -> Result<Vec<Row>> {
        let mut rows = vec![row("source", source, source, samples)?];
        rows.push(row("this bundle", &self.device.open(made)?, source, samples)?);
        let folder = made.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new().prefix(".hotset-").tempdir_in(folder);
        let temporary = temporary.map_err(|e| Failure::new(format!("cannot write to {}: {e}", folder.display())))?;
        let finest = self.source.plan().pools.iter().map(|p| p.codec).next().unwrap_or(Codec::F32);
        for codec in [Codec::Q8, Codec::Q4, Codec::Mxfp4].into_iter().filter(|c| smaller(finest, *c) != finest) {
            let plain = Options { codec, activations: None, hot: None, ..options.clone() };
            let path = temporary.path().join(codec.name());
            quantize(self.source, &plain, &path, self.watch)?;
            rows.push(row(&format!("{codec}, plain rounding"), &self.device.open(&path)?, source, samples)?);
        }
        Ok(rows)
    }
}

fn row(name: &str, engine: &Engine, source: &Engine, samples: &[Sample]) -> Result<Row> {
    let [mut session, mut other] = [engine.session(&SessionOptions::default())?, source.session(&SessionOptions::default())?];
    let mut all = Scores::default();
    for sample in samples {
        all.merge(&score(&mut session, Some(&mut other), &sample.tokens, |_| ())?);
    }
    let (n, d) = (all.tokens as f64, &all.divergence);
    let (bytes, name) = (engine.bundle().len(), name.to_owned());
    Ok(Row { name, bytes, nll: all.loss(), kl: d.kl / n, top1_agreement: d.agreements as f64 / n })
}
