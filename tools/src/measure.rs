//! What the machine can do and what this process took of it.

use std::hint::black_box;
use std::time::Instant;

/// Bytes read to measure bandwidth: well beyond any cache.
const BUFFER: usize = 512 << 20;

/// Most memory this process has had resident, mapped files included; `None` where the system does not say.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes per second that `threads` threads read from memory together: the best of five passes over a buffer.
pub(crate) fn memory_bandwidth(threads: usize) -> f64 {
    let words = vec![1u64; BUFFER / 8];
    let share = words.len().div_ceil(threads.max(1));
    let pass = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(share) {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        BUFFER as f64 / started.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// Independent sums, so that additions do not wait for each other.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    for chunk in words.chunks_exact(sums.len()) {
        sums.iter_mut().zip(chunk).for_each(|(s, w)| *s = s.wrapping_add(*w));
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}
