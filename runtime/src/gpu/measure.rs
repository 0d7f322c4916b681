//! The start-up measurement that picks the arithmetic of products for a device.

use std::time::{Duration, Instant};

use hotset_shaders::{Form, Panels, dense_vec};

use super::Arithmetic;
use super::device::Device;
use super::program::{Frame, Program, Recording};
use super::weights::{codec, units};
use crate::codec::{Codec, Layout};
use crate::error::Result;

/// How many times as fast as a more exact arithmetic another must be: precision is not given away for little, and what is nearly equal
/// is decided the same way at every start.
const GAIN: f64 = 1.25;
/// Rounds, unless they take longer than `TIME` together.
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(100);
/// Less than this is mostly the cost of a submission.
const SHORTEST: Duration = Duration::from_millis(2);
/// Most repetitions that make a short measurement longer.
const MOST_TURNS: usize = 64;

/// The arithmetic to take, by the time of matrix-vector products with weights in `quantised`. Takes about a tenth of a second.
///
/// # Errors
/// When there is no room for a matrix to measure with, or the device fails.
pub(super) fn measure(device: &Device, quantised: Codec) -> Result<Arithmetic> {
    let bench = Bench::new(device, quantised)?;
    // A kernel that a driver refuses is one that is not there.
    let program = |a: Arithmetic| Some((a, bench.program(device, a).ok()?));
    let programs: Vec<(Arithmetic, Program)> = Arithmetic::ALL.into_iter().filter(|a| a.exists(device)).filter_map(program).collect();
    let mut turns = 1;
    for (_, program) in &programs {
        // The first time takes longer; after it, not even the fastest may be too short.
        time(device, program, 1)?;
        while turns < MOST_TURNS && time(device, program, turns)? < SHORTEST {
            turns *= 2;
        }
    }
    let mut best: Vec<(Arithmetic, Duration)> = programs.iter().map(|(a, _)| (*a, Duration::MAX)).collect();
    let start = Instant::now();
    // One after the other in each round, so that a change of clock rates meets all of them.
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
    Ok(chosen)
}

/// The first, unless a later one gains enough on the one taken so far. Most exact first.
fn choose(times: &[(Arithmetic, Duration)]) -> Arithmetic {
    let gains = |taken: Duration, next: Duration| taken.as_secs_f64() >= GAIN * next.as_secs_f64();
    let taken = times.iter().copied().reduce(|taken, next| if gains(taken.1, next.1) { next } else { taken });
    taken.map_or(Arithmetic::Float, |(a, _)| a)
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

/// A matrix and vectors to measure with, all zeros.
struct Bench {
    layout: Layout,
    /// Of the matrix, one after the other: more than most caches hold.
    copies: u32,
    weights: wgpu::Buffer,
    x: wgpu::Buffer,
    y: wgpu::Buffer,
}

/// Shape of the matrix: that of a few experts side by side.
const ROWS: u32 = 4096;
const COLS: u32 = 2048;
/// Bytes of all copies.
const WEIGHTS: u64 = 40 << 20;

impl Bench {
    fn new(device: &Device, codec: Codec) -> Result<Bench> {
        let layout = Layout { codec, rows: ROWS as usize, cols: COLS as usize };
        let bytes = layout.bytes() as u64;
        // What pretends to be a GPU is too slow for more than one.
        let copies = if device.report.hardware { (WEIGHTS.min(device.binding) / bytes).max(1) } else { 1 };
        Ok(Bench {
            layout,
            copies: u32::try_from(copies).unwrap_or(1),
            weights: device.storage("weights to measure with", copies * bytes)?,
            x: device.storage("a vector to measure with", u64::from(COLS) * 4)?,
            y: device.storage("products to measure", u64::from(ROWS) * 4)?,
        })
    }

    /// A product with each copy.
    fn program(&self, device: &Device, arithmetic: Arithmetic) -> Result<Program> {
        let kind = arithmetic.product(codec(self.layout.codec));
        let mut program = Program::default();
        for copy in 0..self.copies {
            let words = units(u64::from(copy) * self.layout.bytes() as u64)?;
            let scales = words + units(self.layout.scales_at() as u64)?;
            let panels = ROWS / 16;
            let segment = dense_vec::Segment { panels, words, scales, bias: u32::MAX, out: 0, stride: 0 };
            let params =
                dense_vec::Params { chunks: COLS / 8, columns: COLS, tokens: 1, scale: 1.0, segments: [segment; 3], ..Default::default() };
            let buffers = dense_vec::Buffers {
                weights: self.weights.as_entire_buffer_binding(),
                vectors: self.x.as_entire_buffer_binding(),
                x: self.x.as_entire_buffer_binding(),
                y: self.y.as_entire_buffer_binding(),
            };
            // With one panel each, workgroups prepare x most often: what is fast here is faster with four.
            let kernel = dense_vec::kernel(kind, device.lanes, Form::Plain, Panels::One);
            program.push(device, kernel, buffers, move |_| Some((params, [panels, 1, 1])))?;
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_given_away_for_a_quarter_and_no_less() {
        let choice = |float, half, int8| {
            let ms = [float, half, int8].map(Duration::from_millis);
            choose(&Arithmetic::ALL.into_iter().zip(ms).collect::<Vec<_>>())
        };
        assert_eq!(choice(100, 81, 81), Arithmetic::Float);
        assert_eq!(choice(100, 80, 65), Arithmetic::Half);
        assert_eq!(choice(100, 80, 64), Arithmetic::Int8);
        assert_eq!(choice(100, 200, 80), Arithmetic::Int8);
        assert_eq!(choose(&[]), Arithmetic::Float);
    }
}
