//! What the machine can do and what this process took of it.

use std::hint::black_box;
use std::time::Instant;

use hotset::bundle::{Bundle, Reading};
use memmap2::MmapMut;

use crate::failure::{Failure, Result};

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

/// Bytes that are free for this process: what the system has, or what a control group leaves.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let number = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let left = number("memory.max").zip(number("memory.current")).map(|(most, taken)| most.saturating_sub(taken));
    Some(left.unwrap_or(u64::MAX).min(kibibytes * 1024))
}

/// Readers at once, as many as when a model runs.
const READERS: usize = 4;
/// Bytes read in a pass that measures storage, and how often at most the same ones.
const READ: usize = 256 << 20;
const ROUNDS: usize = 64;
/// Passes.
const PASSES: usize = 5;

/// Bytes per second at which `bundle`'s experts are read past the page cache, at random, a few at a time: the best of five passes, each over
/// other experts where there are enough.
///
/// # Errors
/// When it has no experts, or they cannot be read.
pub(crate) fn flash(bundle: &Bundle) -> Result<f64> {
    let pools = bundle.plan().pools.iter().enumerate();
    let mut records: Vec<(usize, u32)> = pools.flat_map(|(pool, p)| (0..p.records).map(move |r| (pool, r))).collect();
    if records.is_empty() {
        return Err(Failure::new("the bundle has no experts to read; give the device's figures instead"));
    }
    // A multiplicative generator is random enough to jump about the file.
    records.sort_by_key(|&(pool, r)| (pool as u64 * 0x9e37_79b9 + u64::from(r)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut best: f64 = 0.0;
    for _ in 0..PASSES {
        let started = Instant::now();
        let done = std::thread::scope(|scope| {
            let shares = records.chunks(records.len().div_ceil(READERS));
            let readers: Vec<_> = shares.map(|share| scope.spawn(move || read(bundle, share))).collect();
            readers.into_iter().map(|r| r.join().unwrap_or(Ok(0))).sum::<hotset::Result<usize>>()
        })?;
        best = best.max(done as f64 / started.elapsed().as_secs_f64());
        let other = records.len() / (READERS * PASSES);
        records.rotate_left(other);
    }
    Ok(best)
}

/// Reads these experts, again and again if they are few; returns the bytes.
fn read(bundle: &Bundle, records: &[(usize, u32)]) -> hotset::Result<usize> {
    let bytes = |pool: usize| bundle.record_layout(pool).bytes;
    // Reads past the page cache need memory of whole pages.
    let most = records.iter().map(|&(pool, _)| bytes(pool)).max().unwrap_or(0);
    let mut buffer = MmapMut::map_anon(most).map_err(|e| hotset::Error::Device(format!("the system has no memory to read to: {e}")))?;
    let mut done = 0;
    for &(pool, record) in (0..ROUNDS).flat_map(|_| records) {
        if done >= READ / READERS {
            break;
        }
        bundle.read_record(pool, record, &mut buffer, Reading::Direct)?;
        done += bytes(pool);
    }
    Ok(done)
}
