//! The start-up measurement that picks the arithmetic of products for a device.

use std::time::{Duration, Instant};

use hotset_shaders::{self as shaders, Form, Panels, dense_mat, dense_vec, expert_mat, expert_vec};

use super::Arithmetic;
use super::device::Device;
use super::program::{Frame, Program, Recording};
use super::weights::{codec, units};
use crate::codec::{Codec, Layout};
use crate::error::Result;

/// How many times as fast as a more exact arithmetic another must be: precision is not given away for little, and what is nearly equal
/// is decided the same way at every start.
const GAIN: f64 = 1.25;

/// The first, unless one that follows is faster by [`GAIN`] than all before it that were taken. Most exact first.
fn choose(times: &[(Arithmetic, Duration)]) -> Arithmetic {
    let mut taken = (Arithmetic::Float, Duration::MAX);
    for &(a, t) in times {
        if taken.1 == Duration::MAX || taken.1.as_secs_f64() >= GAIN * t.as_secs_f64() {
            taken = (a, t);
        }
    }
    taken.0
}

/// Times matrix-vector products in `codec` and picks. Takes about a tenth of a second.
pub(super) fn measure(device: &Device, quantised: Codec) -> Result<Arithmetic> {
    /// Of the measuring proper, after compiling and one round to warm up.
    const TIME: Duration = Duration::from_millis(100);
    const ROUNDS: usize = 5;
    /// Below this, submitting is what would be measured.
    const SHORTEST: Duration = Duration::from_millis(2);
    const MOST_TURNS: usize = 64;

    let bench = Bench::new(device, quantised)?;
    // A kernel that a driver refuses is one that is not there.
    let programs: Vec<(Arithmetic, Program)> =
        Arithmetic::ALL.into_iter().filter(|a| a.exists(device)).filter_map(|a| Some((a, bench.program(device, a).ok()?))).collect();
    let mut turns = 1;
    for (_, program) in &programs {
        time(device, program, 1)?;
    }
    while let Some((_, first)) = programs.first()
        && turns < MOST_TURNS
        && time(device, first, turns)? < SHORTEST
    {
        turns *= 2;
    }
    let mut best: Vec<(Arithmetic, Duration)> = programs.iter().map(|(a, _)| (*a, Duration::MAX)).collect();
    let start = Instant::now();
    // In turns, so that a change of clock rates meets all of them.
    for _ in 0..ROUNDS {
        for ((_, program), (_, best)) in programs.iter().zip(&mut best) {
            *best = time(device, program, turns)?.min(*best);
        }
        if start.elapsed() > TIME {
            break;
        }
    }
    let chosen = choose(&best);
    tracing::debug!(?best, turns, %chosen, "measured the arithmetic of products");
    Ok(if compiles(device, chosen) { chosen } else { Arithmetic::Float })
}

/// Runs `program` so many times.
fn time(device: &Device, program: &Program, turns: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut recording = Recording::new(device);
    recording.run(std::iter::repeat_n(program, turns), &Frame::default());
    recording.submit();
    device.wait()?;
    Ok(start.elapsed())
}

/// Whether the driver takes all kernels of an arithmetic. A plan needs most of them anyway.
fn compiles(device: &Device, arithmetic: Arithmetic) -> bool {
    let forms = [Form::Plain, Form::Gated];
    [shaders::Codec::Q8, shaders::Codec::Q4].map(|c| arithmetic.product(c)).into_iter().all(|p| {
        forms.into_iter().all(|f| {
            device.pipeline(&dense_mat::kernel(p, f)).is_ok()
                && device.pipeline(&expert_mat::kernel(p, f)).is_ok()
                && [Panels::One, Panels::Four].into_iter().all(|n| {
                    device.pipeline(&dense_vec::kernel(p, device.lanes, f, n)).is_ok()
                        && device.pipeline(&expert_vec::kernel(p, device.lanes, f, n)).is_ok()
                })
        })
    })
}

/// A matrix and vectors to measure with, all zeros.
struct Bench {
    layout: Layout,
    /// Copies of the matrix, one after the other: more than most caches hold.
    copies: u32,
    weights: wgpu::Buffer,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
}

impl Bench {
    /// Of the size of an expert's.
    const ROWS: usize = 4096;
    const COLS: usize = 2048;

    fn new(device: &Device, codec: Codec) -> Result<Bench> {
        /// Bytes of weights.
        const WEIGHTS: u64 = 40 << 20;
        let layout = Layout { codec, rows: Self::ROWS, cols: Self::COLS };
        let bytes = layout.bytes() as u64;
        let size = if device.report.hardware { WEIGHTS.min(device.binding) } else { 0 };
        let copies = (size / bytes).max(1);
        Ok(Bench {
            layout,
            copies: u32::try_from(copies).unwrap_or(1),
            weights: device.storage("weights to measure with", copies * bytes)?,
            x: device.storage("vectors to measure with", Self::COLS as u64 * 4)?,
            y: device.storage("results to measure with", Self::ROWS as u64 * 4)?,
        })
    }

    /// A product with each copy.
    fn program(&self, device: &Device, arithmetic: Arithmetic) -> Result<Program> {
        let mut program = Program::default();
        let kind = arithmetic.product(codec(self.layout.codec));
        let panels = units(self.layout.panels() as u64 * 16)?;
        for copy in 0..self.copies {
            let words = units(u64::from(copy) * self.layout.bytes() as u64)?;
            let scales = words + units(self.layout.scales_at() as u64)?;
            let segment = dense_vec::Segment { panels, words, scales, bias: u32::MAX, out: 0, stride: 0 };
            let params = dense_vec::Params {
                chunks: units(self.layout.padded_cols() as u64 * 2)?,
                columns: units(self.layout.cols as u64 * 16)?,
                tokens: 1,
                scale: 1.0,
                segments: [segment; 3],
                ..Default::default()
            };
            let buffers = dense_vec::Buffers {
                weights: self.weights.as_entire_buffer_binding(),
                vectors: self.x.as_entire_buffer_binding(),
                x: self.x.as_entire_buffer_binding(),
                y: self.y.as_entire_buffer_binding(),
            };
            // One panel for each workgroup prepares x most often: what wins here wins with four.
            let kernel = dense_vec::kernel(kind, device.lanes, Form::Plain, Panels::One);
            program.push(device, kernel, buffers, move |_| Some((params, [panels, 1, 1])))?;
        }
        Ok(program)
    }
}
