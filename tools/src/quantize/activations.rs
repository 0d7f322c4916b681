//! Activations beside a profile: `P.safetensors` next to `P.json`.
//!
//! For each pool with `E` experts `<name>.input` `[E, D]` and `<name>.inner` `[E, F]`, the mean square of each column's inputs, and
//! `<name>.count` `[E]`, the tokens behind it; the metadata has the bundle's fingerprint.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hotset::bundle::Manifest;
use hotset::plan::Plan;
use hotset::profile::{Activations, PoolActivations};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::failure::{Failure, Result};
use crate::saving::Saving;

/// Key of the fingerprint in the metadata.
const KEY: &str = "hotset_activations";

/// Where the activations of a profile are.
pub(crate) fn beside(profile: &Path) -> PathBuf {
    profile.with_extension("safetensors")
}

/// Writes a file about a bundle with that plan.
///
/// # Errors
/// When it cannot be written; there is nothing then.
pub(crate) fn write(path: &Path, plan: &Plan, activations: &Activations) -> Result<()> {
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (pool, PoolActivations { name, counts, input, inner }) in plan.pools.iter().zip(&activations.pools) {
        let records: Vec<Option<usize>> = (0..pool.experts()).map(|id| pool.record_of(id).map(|r| r as usize)).collect();
        let experts = records.len();
        let by_expert: Vec<u64> = records.iter().map(|r| r.map_or(0, |r| counts[r])).collect();
        tensors.push((format!("{name}.count"), Dtype::U64, vec![experts], bytemuck::cast_slice(&by_expert).to_vec()));
        for (part, sums) in [("input", input), ("inner", inner)] {
            let width = sums.len() / counts.len();
            let mut means = vec![0f32; experts * width];
            for (means, r) in means.chunks_exact_mut(width).zip(&records).filter_map(|(means, r)| Some((means, (*r)?))) {
                let sums = &sums[r * width..][..width];
                means.iter_mut().zip(sums).for_each(|(mean, sum)| *mean = (sum / counts[r].max(1) as f64) as f32);
            }
            tensors.push((format!("{name}.{part}"), Dtype::F32, vec![experts, width], bytemuck::cast_slice(&means).to_vec()));
        }
    }
    let failed = |e: safetensors::SafeTensorError| Failure::new(format!("{} cannot be written: {e}", path.display()));
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)));
    let views = views.collect::<std::result::Result<Vec<_>, _>>().map_err(failed)?;
    let about = HashMap::from([(KEY.to_owned(), activations.fingerprint.clone())]);
    let bytes = safetensors::serialize(views, Some(about)).map_err(failed)?;
    Ok(Saving::begin(path)?.finish(&bytes)?)
}

/// Reads a file that must be of that bundle, or of the one that it was made from expert by expert.
///
/// # Errors
/// When it cannot be read, is damaged, or of another bundle.
pub(crate) fn read(path: &Path, manifest: &Manifest) -> Result<Activations> {
    let bytes = std::fs::read(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?;
    let bad = |reason: String| Failure::new(format!("{} holds no usable activations: {reason}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
    let (_, about) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(e.to_string()))?;
    let Some(fingerprint) = about.metadata().as_ref().and_then(|m| m.get(KEY)) else {
        return Err(bad(format!("its metadata lacks {KEY}")));
    };
    let provenance = &manifest.provenance;
    if *fingerprint != manifest.fingerprint && Some(fingerprint) != provenance.origin.as_ref() {
        return Err(bad(format!("they are of another bundle; measure those of {:?} with `hotset profile --activations`", provenance.name)));
    }
    let mut activations = Activations::new(manifest);
    for (pool, PoolActivations { name, counts, input, inner }) in manifest.plan.pools.iter().zip(&mut activations.pools) {
        let experts = pool.experts() as usize;
        let tensor = |part: &str, dtype: Dtype, shape: &[usize]| {
            let name = format!("{name}.{part}");
            let tensor = file.tensor(&name).map_err(|e| bad(e.to_string()))?;
            match tensor.dtype() == dtype && tensor.shape() == shape {
                true => Ok(tensor.data()),
                false => Err(bad(format!("{name} is {} of shape {:?}, not {dtype} of {shape:?}", tensor.dtype(), tensor.shape()))),
            }
        };
        // Experts that share a record were measured together.
        let records = || (0..pool.experts()).map(|id| pool.record_of(id).map(|r| r as usize));
        for (record, count) in records().zip(tensor("count", Dtype::U64, &[experts])?.as_chunks().0) {
            record.into_iter().for_each(|r| counts[r] = u64::from_le_bytes(*count));
        }
        for (part, sums) in [("input", input), ("inner", inner)] {
            let width = sums.len() / counts.len();
            let means = tensor(part, Dtype::F32, &[experts, width])?.as_chunks().0;
            for (record, means) in records().zip(means.chunks_exact(width)).filter_map(|(r, means)| Some((r?, means))) {
                for (sum, mean) in sums[record * width..].iter_mut().zip(means.iter().map(|b| f32::from_le_bytes(*b))) {
                    if !(0.0..f32::INFINITY).contains(&mean) {
                        return Err(bad(format!("{name}.{part} holds the mean square {mean}")));
                    }
                    *sum = f64::from(mean) * counts[record] as f64;
                }
            }
        }
    }
    Ok(activations)
}
