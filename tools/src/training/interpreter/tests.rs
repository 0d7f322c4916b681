//! Tests: logits against the original implementations, gradients against finite differences.

#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::import;
use crate::training::cross_entropy;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// A golden model, or why it cannot be trained.
fn open(case: &str) -> failure::Result<(Interpreter, Weights)> {
    let checkpoint = Checkpoint::open(&golden(case)).unwrap();
    let interpreter = Interpreter::new(import::import(checkpoint.config(), checkpoint.tensors()).unwrap().1)?;
    let weights = Weights::read(&checkpoint, interpreter.tensors().iter()).unwrap();
    Ok((interpreter, weights))
}

/// Tokens `[1, T]` and logits `[T, V]` of the original implementation.
fn reference(case: &str) -> (Tensor, Vec<f32>) {
    let bytes = std::fs::read(golden(case).join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (tokens, logits) = (file.tensor("tokens").unwrap(), file.tensor("logits").unwrap());
    let ids: Vec<u32> = tokens.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect();
    let logits = logits.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (Tensor::new(&ids[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap(), logits)
}

/// Largest difference, in units of the standard deviation of what should be.
fn deviation(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let mean = want.iter().sum::<f32>() / want.len() as f32;
    let std = (want.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / want.len() as f32).sqrt();
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / std
}

/// Every golden checkpoint agrees with its original, or is refused for what it is.
#[test]
fn logits_agree_with_the_original_implementations() {
    let (mut agreed, mut refused, mut bad) = (Vec::new(), Vec::new(), Vec::new());
    for folder in std::fs::read_dir(golden("")).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir()) {
        let case = folder.file_name().into_string().unwrap();
        match open(&case) {
            Err(failure) => refused.push(format!("{case}: {failure}")),
            Ok((interpreter, weights)) => {
                let (tokens, want) = reference(&case);
                let got = interpreter.forward(&weights, &tokens).unwrap().logits.flatten_all().unwrap().to_vec1().unwrap();
                let deviation = deviation(&got, &want);
                if deviation.is_nan() || deviation > 2e-4 { bad.push((case, deviation)) } else { agreed.push(case) }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:?}");
    for family in ["moduleformer", "jetmoe", "mixtral", "olmoe", "qwen3_moe", "granitemoe", "rmoe", "readme"] {
        assert!(agreed.iter().any(|c| c.starts_with(family)), "{family} is among the refused: {refused:#?}");
    }
    for what in ["convolutions", "latent", "sinks", "SparseMixer", "keys and values of their own", "added up", "mxfp4"] {
        assert!(refused.iter().any(|r| r.contains(what)), "nothing has {what}: {refused:#?}");
    }
    eprintln!("agreed: {agreed:?}\nrefused: {refused:#?}");
}
