//! Kernels one by one, against the plain definition of what they compute.

#![allow(clippy::unwrap_used, reason = "tests")]

use hotset_shaders::{Form, Lanes, Panels, append, best_merge, best_slice, dense_mat, dense_vec, group, route};

use std::sync::Arc;

use super::arithmetic::settle;
use super::device::{Device, Upload};
use super::measure::measure;
use super::memory::{Maker, Memory};
use super::program::{Frame, Program, Recording};
use super::weights::codec;
use super::{AdapterChoice, Arithmetic, GpuModel, GpuOptions, adapters};
use crate::codec::{Codec, Layout, Matrix, encode};
use crate::error::Result;
use crate::model::{Best, Model, Output, RunOptions, Want};
use crate::support;

/// Both ways of reducing, each on a device of its own; none where there is no adapter, which continuous integration does not allow.
fn devices() -> Vec<Device> {
    if !support::adapter() {
        return Vec::new();
    }
    [true, false].map(|subgroups| Device::open(&GpuOptions { subgroups, ..GpuOptions::on(AdapterChoice::Any) }).unwrap()).into()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn filled<T: bytemuck::NoUninit>(device: &Device, values: &[T]) -> wgpu::Buffer {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.storage("test", bytes.len() as u64).unwrap();
    let mut upload = Upload::new(device);
    upload.write(&buffer, 0, bytes).unwrap();
    upload.finish().unwrap();
    buffer
}

fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(device: &Device, program: &Program, buffer: &wgpu::Buffer, n: usize) -> Vec<T> {
    let bytes = (n * size_of::<T>()) as u64;
    let results = device.readback(bytes).unwrap();
    let mut recording = Recording::new(device);
    recording.run([program], &Frame::default());
    recording.copy((buffer, 0), (&results, 0), bytes);
    let submission = recording.submit();
    bytemuck::pod_collect_to_vec(&device.read(submission, &results, 0..bytes).unwrap())
}

fn all(b: &wgpu::Buffer) -> wgpu::BufferBinding<'_> {
    b.as_entire_buffer_binding()
}

/// Rounds groups of 32 to `q · top / 127`.
fn rounded(x: &[f32]) -> Vec<f32> {
    let groups = x.chunks(32).flat_map(|g| {
        let top = g.iter().fold(0f32, |top, v| top.max(v.abs()));
        let inverse = if top > 1e-30 { 127.0 / top } else { 0.0 };
        g.iter().map(move |v| (v * inverse).round_ties_even() * (top / 127.0))
    });
    groups.collect()
}

/// Products of 50 rows × 70 columns with 37 vectors, by both kernels, in every codec and arithmetic, equal row-by-row dot products.
#[test]
fn products_equal_decoded_rows() {
    const ROWS: usize = 50;
    const COLS: usize = 70;
    const TOKENS: usize = 37;
    for device in devices() {
        for (c, arithmetic) in Codec::ALL.into_iter().flat_map(|c| Arithmetic::ALL.map(|a| (c, a))) {
            // The other ways are for these two.
            if arithmetic != Arithmetic::Float && ![Codec::Q8, Codec::Q4].contains(&c) || !arithmetic.exists(&device) {
                continue;
            }
            let layout = Layout::new(c, ROWS, COLS).unwrap();
            let mut bytes = vec![0; layout.bytes()];
            encode(layout, &noise(ROWS * COLS, 3), &mut bytes);
            let matrix = Matrix::new(layout, &bytes).unwrap();
            let mut inputs = noise(TOKENS * COLS, 4);
            // Numbers that are not finite must not be rounded away.
            (inputs[3], inputs[COLS + 40]) = (f32::NAN, f32::INFINITY);
            inputs[2 * COLS..2 * COLS + 32].fill(0.0);
            inputs[2 * COLS + 32..2 * COLS + 64].fill(1e-39);
            // What stands in the padding must not matter.
            let mut padded = vec![1e3f32; TOKENS * layout.padded_cols()];
            for (row, x) in padded.chunks_mut(layout.padded_cols()).zip(inputs.chunks(COLS)) {
                row[..COLS].copy_from_slice(x);
            }
            let bias = noise(64, 5);
            let (weights, x, vectors) = (filled(&device, &bytes), filled(&device, &padded), filled(&device, &bias));
            let stride = layout.panels() * 16;
            let u = |n: usize| u32::try_from(n).unwrap();
            let panels = u(layout.panels());
            let segment =
                dense_vec::Segment { panels, words: 0, scales: u(layout.scales_at() / 16), bias: 0, out: 0, stride: u(stride / 4) };
            let params = dense_vec::Params {
                chunks: u(layout.padded_cols() / 8),
                columns: u(COLS),
                base: 0,
                x_stride: u(layout.padded_cols() / 4),
                tokens: u(TOKENS),
                scale: 2.0,
                segments: [segment; 3],
                ..Default::default()
            };
            let mut row = vec![0.0; COLS];
            let want: Vec<f32> = inputs
                .chunks(COLS)
                .flat_map(|x| {
                    let x = if arithmetic == Arithmetic::Int8 { rounded(x) } else { x.to_vec() };
                    let dots = (0..ROWS).map(|r| {
                        matrix.row(r, &mut row);
                        2.0 * (row.iter().zip(&x).map(|(a, b)| a * b).sum::<f32>() + bias[r])
                    });
                    dots.collect::<Vec<_>>()
                })
                .collect();
            let kind = arithmetic.product(codec(c));
            for (tiled, group) in [(false, Panels::One), (false, Panels::Four), (true, Panels::One)] {
                let y = device.storage("y", (TOKENS * stride * 4) as u64).unwrap();
                let mut program = Program::default();
                if tiled {
                    let buffers = dense_mat::Buffers { weights: all(&weights), vectors: all(&vectors), x: all(&x), y: all(&y) };
                    let params: dense_mat::Params = bytemuck::must_cast(params);
                    let kernel = dense_mat::kernel(kind, Form::Plain);
                    program.push(&device, kernel, buffers, move |_| Some((params, [1, 2, 1]))).unwrap();
                } else {
                    let buffers = dense_vec::Buffers { weights: all(&weights), vectors: all(&vectors), x: all(&x), y: all(&y) };
                    let kernel = dense_vec::kernel(kind, device.lanes, Form::Plain, group);
                    program.push(&device, kernel, buffers, move |_| Some((params, [panels, u(TOKENS), 1]))).unwrap();
                }
                let got: Vec<f32> = read(&device, &program, &y, TOKENS * stride);
                let (lost, got) = got.split_at(2 * stride);
                for (i, g) in lost.iter().enumerate().filter(|(i, _)| i % stride < ROWS) {
                    assert!(!g.is_finite(), "{c}, {arithmetic}, tiled {tiled}, {:?}, result {i}: {g}", device.lanes);
                }
                for (got, want) in got.chunks(stride).zip(want.chunks(ROWS).skip(2)) {
                    for (r, (g, w)) in got.iter().zip(want).enumerate() {
                        // Results are about 6, the error of halves 5e-4 of that on average.
                        let bound = if arithmetic == Arithmetic::Half { 2e-2 } else { 1e-4 };
                        assert!((g - w).abs() < bound, "{c}, {arithmetic}, tiled {tiled}, {:?}, row {r}: {g} for {w}", device.lanes);
                    }
                }
            }
        }
    }
}

/// Equal logits: the lowest ids win, and weights are shared evenly.
#[test]
fn ties_go_to_the_lowest_expert() {
    for device in devices() {
        let mut logits = vec![0f32; 208];
        for e in [199, 70, 71, 3, 130] {
            logits[e] = 1.5;
        }
        let (ids, weights) = (filled(&device, &[0u32; 4]), filled(&device, &[0f32; 4]));
        let (logits, hidden) = (filled(&device, &logits), filled(&device, &[0f32; 4]));
        let mut table = vec![0u32; 200];
        table[70] = u32::MAX;
        let (slot_of, choices) = (filled(&device, &table), filled(&device, &[0u32; 6]));
        let params = route::Params {
            experts: 200,
            stride: 208,
            routes: 4,
            by: 3,
            bias: u32::MAX,
            mask: u32::MAX,
            scale: 2.0,
            latch: 7,
            choice: 2,
            ..Default::default()
        };
        let buffers = route::Buffers {
            logits: all(&logits),
            hidden: all(&hidden),
            vectors: all(&hidden),
            slot_of: all(&slot_of),
            ids: all(&ids),
            weights: all(&weights),
            choices: all(&choices),
        };
        let mut program = Program::default();
        program.push(&device, route::kernel(device.lanes), buffers, move |_| Some((params, [1, 1, 1]))).unwrap();
        assert_eq!(read::<u32>(&device, &program, &ids, 4), [3, 70, 71, 130]);
        assert_eq!(read::<f32>(&device, &program, &weights, 4), [0.5; 4]);
        // One of them is missing, so the latch is set and the choice known.
        assert_eq!(read::<u32>(&device, &program, &device.latch.buffer, 1), [7]);
        assert_eq!(read::<u32>(&device, &program, &choices, 6), [0, 0, 3, 70, 71, 130]);
    }
}

/// What a router chooses from 200 logits, by `params`: ids and weights, as many as `params` allows.
fn routed(device: &Device, logits: &[f32], table: &[u32], params: route::Params) -> (Vec<u32>, Vec<f32>) {
    let n = params.routes as usize;
    let (ids, weights) = (filled(device, &vec![7u32; n]), filled(device, &vec![0.5f32; n]));
    let (logits, hidden, slot_of) = (filled(device, logits), filled(device, &[0f32; 4]), filled(device, table));
    let choices = filled(device, &[0u32; 4]);
    let buffers = route::Buffers {
        logits: all(&logits),
        hidden: all(&hidden),
        vectors: all(&hidden),
        slot_of: all(&slot_of),
        ids: all(&ids),
        weights: all(&weights),
        choices: all(&choices),
    };
    let mut program = Program::default();
    program.push(device, route::kernel(device.lanes), buffers, move |_| Some((params, [1, 1, 1]))).unwrap();
    // Logits are transformed in place, so it runs once.
    (read(device, &program, &ids, n), read(device, &Program::default(), &weights, n))
}

/// As many routes as there are logits above zero, in their order; behind them, and for experts that compute nothing, nobody.
#[test]
fn routes_may_be_few_many_or_none() {
    const NOBODY: u32 = u32::MAX;
    let params = route::Params { experts: 200, stride: 208, routes: 200, change: 1, rule: 2, mask: u32::MAX, ..Default::default() };
    let params = route::Params { bias: NOBODY, norm_bias: NOBODY, choice: NOBODY, scale: 2.0, ..params };
    for device in devices() {
        let mut logits = noise(208, 11);
        let mut table = vec![0u32; 200];
        let mut order: Vec<u32> = (0..200).filter(|&e| logits[e as usize] > 0.0).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        assert!(order.len() > 64);
        // The third has no record.
        table[order[2] as usize] = u32::MAX - 1;
        let (ids, weights) = routed(&device, &logits, &table, params);
        for (j, (&id, &weight)) in ids.iter().zip(&weights).enumerate() {
            let want = order.get(j).filter(|_| j != 2);
            assert_eq!(id, *want.unwrap_or(&NOBODY), "route {j}");
            assert_eq!(weight, want.map_or(0.0, |&e| 2.0 * logits[e as usize]), "route {j}");
        }
        // Nothing above zero: nobody at all. A logit that is no number: a weight that is none either.
        logits.iter_mut().for_each(|l| *l = -l.abs());
        let (ids, weights) = routed(&device, &logits, &table, params);
        assert!(ids.iter().all(|&id| id == NOBODY) && weights.iter().all(|&w| w == 0.0));
        logits[130] = f32::NAN;
        assert!(!routed(&device, &logits, &table, params).1[0].is_finite());
    }
}

/// Rows of routes follow their experts' lists, also when a batch is repeated with other choices and when a conversation starts again.
#[test]
fn repeated_batches_find_the_rows_before_them() {
    const NOBODY: u32 = u32::MAX;
    for device in devices() {
        // Three experts, two routes of a token, lists of eight behind the lengths and the routes of three tokens.
        let index = device.storage("test", (3 + 18 + 24) * 4).unwrap();
        let batch = |position: u32, chosen: &[u32]| {
            let ids = filled(&device, chosen);
            let params = append::Params {
                routes: u32::try_from(chosen.len()).unwrap(),
                first: position * 2,
                experts: 3,
                capacity: 8,
                rings: 0,
                entries: 3,
                lists: 21,
            };
            let mut program = Program::default();
            let buffers = append::Buffers { ids: all(&ids), index: all(&index) };
            program.push(&device, append::kernel(), buffers, move |_| Some((params, [1, 1, 1]))).unwrap();
            read::<u32>(&device, &program, &index, 3 + 18 + 24)
        };
        let lists = |all: &[u32]| [0, 1, 2].map(|e| all[21 + e * 8..][..all[e] as usize].to_vec());
        let seen = batch(0, &[0, 1, 1, NOBODY]);
        assert_eq!(lists(&seen), [vec![0], vec![1, 2], vec![]]);
        // List, place in it, row.
        assert_eq!(seen[3..12], [0, 0, 0, 8, 0, 1, 8, 1, 2]);
        assert_eq!(seen[3 + 3 * 3 + 2], NOBODY);
        assert_eq!(lists(&batch(2, &[2, 1])), [vec![0], vec![1, 2, 5], vec![4]]);
        assert_eq!(lists(&batch(1, &[0, 2, 1, 0])), [vec![0, 2, 5], vec![1, 4], vec![3]]);
        assert_eq!(lists(&batch(1, &[NOBODY, 1])), [vec![0], vec![1, 3], vec![]]);
        assert_eq!(lists(&batch(0, &[2, NOBODY])), [vec![], vec![], vec![0]]);
    }
}

/// Routes end up sorted by expert, in their own order within each, in tiles of at most 32.
#[test]
fn routes_are_grouped_in_order() {
    for device in devices() {
        let chosen: Vec<u32> = (0..200u32).map(|r| if r % 3 == 0 { 2 } else { r * 7 % 5 }).collect();
        let ids = filled(&device, &chosen);
        let (starts, sorted, tiles) = (filled(&device, &[0u32; 6]), filled(&device, &[0u32; 200]), filled(&device, &[[0u32; 4]; 13]));
        let buffers = group::Buffers { ids: all(&ids), starts: all(&starts), sorted: all(&sorted), tiles: all(&tiles) };
        let mut program = Program::default();
        program.push(&device, group::kernel(), buffers, |_| Some((group::Params { routes: 200, experts: 6 }, [1, 1, 1]))).unwrap();
        let mut want: Vec<u32> = (0..200).collect();
        want.sort_by_key(|&r| chosen[r as usize]);
        assert_eq!(read::<u32>(&device, &program, &sorted, 200), want);
        let tiles = read::<[u32; 4]>(&device, &program, &tiles, 13);
        let tiles = &tiles[1..=tiles[0][0] as usize];
        assert_eq!(tiles.iter().map(|t| t[2]).sum::<u32>(), 200);
        let mut next = 0;
        for &[expert, first, n, _] in tiles {
            assert_eq!(first, next);
            assert!((1..=32).contains(&n));
            next += n;
            assert!(want[first as usize..next as usize].iter().all(|&r| chosen[r as usize] == expert));
        }
    }
}

/// Candidates of several slices, with ties across their borders.
#[test]
fn candidates_of_equal_logits_come_by_id() {
    const VOCAB: u32 = 5000;
    for device in devices() {
        let mut logits = noise(VOCAB as usize, 9);
        for t in [4999, 2047, 2048, 17, 4100] {
            logits[t] = 3.0;
        }
        let input = filled(&device, &logits);
        let (candidates, stats, result) =
            (filled(&device, &[[0u32; 2]; 24]), filled(&device, &[[0f32; 4]; 3]), filled(&device, &[0u32; 20]));
        let mut program = Program::default();
        let buffers = best_slice::Buffers { logits: all(&input), candidates: all(&candidates), stats: all(&stats) };
        program
            .push(&device, best_slice::kernel(device.lanes), buffers, |_| {
                Some((best_slice::Params { vocab: VOCAB, slice: 2048, count: 8, inverse_temperature: 0.7 }, [3, 1, 1]))
            })
            .unwrap();
        let buffers = best_merge::Buffers { candidates: all(&candidates), stats: all(&stats), result: all(&result) };
        program
            .push(&device, best_merge::kernel(device.lanes), buffers, |_| Some((best_merge::Params { slices: 3, count: 8 }, [1, 1, 1])))
            .unwrap();
        let got = read::<u32>(&device, &program, &result, 20);
        let mut want: Vec<u32> = (0..VOCAB).collect();
        want.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        let ids: Vec<u32> = got[4..].iter().skip(1).step_by(2).copied().collect();
        assert_eq!(ids, want[..8]);
        assert_eq!(ids[..5], [17, 2047, 2048, 4100, 4999]);
        let total = f32::from_bits(got[0]) + f32::from_bits(got[1]).ln();
        let exact = logits.iter().map(|l| f64::from(l * 0.7).exp()).sum::<f64>().ln();
        assert!((f64::from(total) - exact).abs() < 1e-4, "{total} for {exact}");
        assert_eq!(f32::from_bits(got[2]), 1.0);
    }
}

/// Subgroups are really used where the device has them, and both ways are compared above.
#[test]
fn both_ways_of_reducing_are_tested() {
    let lanes: Vec<Lanes> = devices().iter().map(|d| d.lanes).collect();
    if adapters().iter().any(|a| a.unusable.is_none() && a.features.contains(&"subgroups") && a.subgroup.0 >= 4 && a.subgroup.1 <= 64) {
        assert_eq!(lanes, [Lanes::Subgroup, Lanes::Workgroup]);
    }
}

/// The measurement ends with an arithmetic that the device has, and what is asked for is refused where the device lacks it.
#[test]
fn the_arithmetic_is_one_that_exists() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = support::bundle(dir.path(), 0, Codec::Q4);
    for mut device in devices() {
        for half in [device.half, false] {
            device.half = half;
            assert!(measure(&device, Codec::Q8).unwrap().exists(&device));
            for wanted in Arithmetic::ALL {
                match settle(&device, Some(wanted), &bundle) {
                    Ok(a) => assert!(a == wanted && (half || wanted != Arithmetic::Half)),
                    Err(e) => assert!(!half && wanted == Arithmetic::Half, "{e}"),
                }
            }
        }
    }
}

/// How many panels share a workgroup, which differs between hardware and software adapters, changes no bit of any plan's logits.
#[test]
fn one_panel_or_four_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..15u64 {
        let bundle = Arc::new(support::bundle(dir.path(), seed, Codec::ALL[seed as usize % Codec::ALL.len()]));
        let arithmetic = Arithmetic::ALL[seed as usize % 3];
        let tokens = support::Random::new(seed).tokens(3, bundle.plan().vocab);
        let results = [false, true].map(|hardware| {
            let mut device = devices().into_iter().next()?;
            device.report.hardware = hardware;
            device.arithmetic = if arithmetic.exists(&device) { arithmetic } else { Arithmetic::Float };
            let model = GpuModel::load(device, bundle.clone(), &GpuOptions::default()).unwrap();
            let mut run = model.start(RunOptions::new(8)).unwrap();
            Some(tokens.iter().map(|t| run.forward(&[*t], Want::Last).unwrap()).collect::<Vec<Output>>())
        });
        assert_eq!(results[0], results[1], "seed {seed}");
    }
}

/// Makes buffers and adds up their sizes.
struct Weighed<'a>(&'a Device, u64);

impl Maker for Weighed<'_> {
    type Buffer = wgpu::Buffer;

    fn storage(&mut self, label: &str, bytes: u64) -> Result<wgpu::Buffer> {
        self.0.storage(label, bytes).inspect(|b| self.1 += b.size())
    }

    fn readback(&mut self, bytes: u64) -> Result<wgpu::Buffer> {
        self.0.readback(bytes).inspect(|b| self.1 += b.size())
    }
}

/// A run takes as many bytes as were counted before it was made, and a decoded token makes no buffer and no bind group.
#[test]
fn memory_is_counted_before_and_decoding_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    for (kind, (device, budget)) in
        support::KINDS.into_iter().flat_map(|k| devices().into_iter().zip([None, Some(1 << 40)]).map(move |d| (k, d)))
    {
        let (seed, model) = support::suitable(Codec::Q8, kind);
        let bundle = Arc::new(model.write(dir.path(), seed));
        let model = GpuModel::load(device, bundle.clone(), &GpuOptions { budget, ..GpuOptions::default() }).unwrap();
        let (device, options) = (&model.loaded.device, RunOptions::new(20));
        let counted = Memory::bytes(device, bundle.plan(), &model.loaded.weights, options).unwrap();
        let mut weighed = Weighed(device, 0);
        Memory::new(device, bundle.plan(), &model.loaded.weights, options, &mut weighed).unwrap();
        assert_eq!(weighed.1, counted);

        let mut run = model.start(options).unwrap();
        let best = Best { count: 3, penalised: vec![1], penalty: 1.1, inverse_temperature: 1.0 };
        run.forward(&[1, 2, 3], Want::Best(&best)).unwrap();
        let before = device.meter.made.get();
        for t in 4..10 {
            run.forward(&[t], Want::Best(&best)).unwrap();
            run.forward(&[t], Want::Last).unwrap();
        }
        assert_eq!(device.meter.made.get(), before);
    }
}

/// The software adapter shares its memory with the CPU, so the tests of paging do take that way.
#[cfg(target_os = "linux")]
#[test]
fn software_adapters_import_memory() {
    if !adapters().iter().any(|a| a.backend == "vulkan" && !a.hardware && a.unusable.is_none()) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bundle = Arc::new(support::bundle(dir.path(), 101, Codec::Q8));
    let device = Device::open(&GpuOptions::on(AdapterChoice::Named("llvmpipe".into()))).unwrap();
    assert!(super::import::Imported::new(&device, &crate::reading::Source::file(&bundle, Default::default())).unwrap().is_some());
}

/// iOS takes GPUs away: everything asked of one that is gone is an error, and whoever wants to keep caches hears of it.
#[test]
fn a_device_that_is_gone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for (device, budget) in devices().into_iter().zip([None, Some(1 << 40)]) {
        let bundle = Arc::new(support::bundle(dir.path(), 101, Codec::Q8));
        let model = GpuModel::load(device, bundle, &GpuOptions { budget, ..GpuOptions::default() }).unwrap();
        let mut run = model.start(RunOptions::new(20)).unwrap();
        run.forward(&[1, 2, 3], Want::Nothing).unwrap();
        model.loaded.device.wgpu.destroy();
        let gone = |result: Result<()>| assert!(matches!(result, Err(crate::Error::Device(_))), "{result:?}");
        gone(run.save(&mut crate::snapshot::Writer::new(&mut |_| Ok(()))));
        gone(run.forward(&[4], Want::Last).map(drop));
        gone(model.start(RunOptions::new(20)).map(drop));
        drop(run);
    }
}
