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

/// Gradients of every kind of tensor agree with finite differences, in plans of several families.
#[test]
fn gradients_agree_with_finite_differences() {
    for case in ["moduleformer", "moduleformer_gmm", "jetmoe", "mixtral_window", "qwen2_moe", "glm4_moe", "olmoe_gqa_clip", "rmoe_gru"] {
        let (interpreter, weights) = open(case).unwrap();
        let (tokens, _) = reference(case);
        let last = tokens.dim(1).unwrap() - 1;
        let (inputs, targets) = (tokens.narrow(1, 0, last).unwrap(), tokens.narrow(1, 1, last).unwrap().flatten_all().unwrap());
        let (weights, variables) = weights.trainable(|_| true).unwrap();
        let forward = || interpreter.forward(&weights, &inputs).unwrap();
        let loss = |pass: &Pass| cross_entropy(&pass.logits, &targets).unwrap();
        let before = forward();
        let gradients = loss(&before).backward().unwrap();
        let mut compared = 0;
        for (name, variable) in &variables {
            let Some(gradient) = gradients.get(variable) else {
                // Constants that only select, and routers whose weights sum to one over one expert.
                assert!(name.contains("bias") || name.contains("gate"), "{case}: {name} has no gradient");
                continue;
            };
            let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            let values: Vec<f32> = variable.flatten_all().unwrap().to_vec1().unwrap();
            let length = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            if length < 1e-4 {
                continue;
            }
            // Along its own direction the loss changes by the gradient's length.
            let step = 2e-3;
            let at = |side: f32| {
                let moved: Vec<f32> = values.iter().zip(&gradient).map(|(v, g)| v + side * step * g / length).collect();
                variable.set(&Tensor::from_vec(moved, variable.shape(), &Device::Cpu).unwrap()).unwrap();
                let pass = forward();
                let same = pass.routings.iter().zip(&before.routings).all(|(a, b)| a.chosen == b.chosen);
                (f64::from(loss(&pass).to_scalar::<f32>().unwrap()), same)
            };
            let ((up, same_up), (down, same_down)) = (at(1.0), at(-1.0));
            variable.set(&Tensor::from_vec(values, variable.shape(), &Device::Cpu).unwrap()).unwrap();
            // Where the choice of experts changes, the loss has a step.
            if !same_up || !same_down {
                continue;
            }
            let slope = (up - down) / f64::from(2.0 * step);
            assert!((slope - f64::from(length)).abs() < 0.03 * f64::from(length) + 1e-3, "{case}: {name}: {slope} against {length}");
            compared += 1;
        }
        assert!(compared * 2 > variables.len(), "{case}: only {compared} of {} tensors could be compared", variables.len());
    }
}
