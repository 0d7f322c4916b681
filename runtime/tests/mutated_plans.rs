//! Plans with one number, name or word changed: refused with a sentence, or run to an answer or an error. Never a panic.

#![cfg(feature = "cpu")]
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;

use hotset::codec::Codec;
use hotset::cpu::CpuModel;
use hotset::cpu::reference::ReferenceModel;
use hotset::model::{Model, RunOptions, Want};
use hotset::plan::Plan;
use serde_json::{Value, json};
use support::Random;

/// Every leaf of `value`, as a path.
fn leaves(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| leaves(v, &format!("{path}/{k}"), out)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| leaves(v, &format!("{path}/{i}"), out)),
        _ => out.push(path.to_owned()),
    }
}

/// The plan with one leaf exchanged; `None` when that is no plan any more.
fn mutate(plan: &Plan, random: &mut Random) -> Option<(Plan, String)> {
    let mut value = serde_json::to_value(plan).unwrap();
    let mut paths = Vec::new();
    leaves(&value, "", &mut paths);
    let path = paths[random.below(paths.len() as u32) as usize].clone();
    // Another leaf's value, or something absurd.
    let other = value.pointer(&paths[random.below(paths.len() as u32) as usize]).unwrap().clone();
    let absurd = [
        json!(0),
        json!(1),
        json!(2),
        json!(3),
        json!(7),
        json!(17),
        json!(255),
        json!(u32::MAX),
        json!(-1.5),
        json!(1e30),
        json!(null),
        json!(true),
    ];
    let new = if random.coin() { other } else { absurd[random.below(absurd.len() as u32) as usize].clone() };
    let what = format!("{path} := {new}");
    *value.pointer_mut(&path).unwrap() = new;
    Some((serde_json::from_value(value).ok()?, what))
}

#[test]
fn one_change_is_refused_or_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..400 {
        let mut random = Random::new(seed ^ 0xbad);
        let mut model = support::plan(seed, Codec::F32);
        for _ in 0..12 {
            let Some((plan, what)) = mutate(&model.plan, &mut random) else { continue };
            if let Err(e) = plan.validate(&model.tensors) {
                assert!(!e.field.is_empty() && !e.reason.is_empty(), "seed {seed}: {what}");
                refused += 1;
                continue;
            }
            accepted += 1;
            let original = std::mem::replace(&mut model.plan, plan);
            // What a plan asks of memory is bounded by its tensors, except for pools, whose records a real file must hold.
            let small = model.plan.pools.iter().all(|p| p.records < 64);
            if small {
                eprintln!("seed {seed}: {what}");
                let bundle = Arc::new(model.write(dir.path(), seed));
                let executors: [Box<dyn Model>; 2] =
                    [Box::new(ReferenceModel::new(bundle.clone())), Box::new(CpuModel::new(bundle, Some(1)).unwrap())];
                for executor in executors {
                    let mut run = executor.start(RunOptions::new(16)).unwrap();
                    let _answer_or_error = run.forward(&[3, 1, 4], Want::Last).and_then(|_| run.forward(&[1], Want::Last));
                }
            }
            model.plan = original;
        }
    }
    assert!(refused > 500 && accepted > 500, "{refused} refused, {accepted} accepted");
}
