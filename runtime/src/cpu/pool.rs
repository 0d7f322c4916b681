//! A team of threads for regions of a few microseconds.
//!
//! Between regions of one forward pass the helpers spin, so that starting a region is one store and one load; after
//! [`PATIENCE`] without work they sleep and cost nothing. The caller is a member of the team: a team of one has no helpers.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a helper spins for work before it sleeps.
const PATIENCE: Duration = Duration::from_micros(80);
/// Turns of a spinning loop between looks at the clock, or offers of the processor to others.
const TURNS: u32 = 64;

/// What all members do, each with its own number.
type Job = dyn Fn(usize) + Sync;

/// Threads that work together on one region at a time.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// One for each helper.
    sleepers: Vec<Arc<Sleeper>>,
    helpers: Vec<(Thread, Option<JoinHandle<()>>)>,
    /// Held by whoever runs regions.
    turn: Mutex<()>,
}

struct Shared {
    /// Number of the newest region.
    region: AtomicUsize,
    /// The newest region's job, erased to outlive the region in the type system only.
    job: Mutex<Option<&'static Job>>,
    /// Helpers that have not finished the newest region.
    unfinished: AtomicUsize,
    closing: AtomicBool,
    /// The first panic of a helper in the newest region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Whether a helper sleeps or is about to.
struct Sleeper(AtomicBool);

impl Pool {
    /// A team of `threads`, the caller included.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn new(threads: usize) -> std::io::Result<Pool> {
        let shared = Arc::new(Shared {
            region: AtomicUsize::new(0),
            job: Mutex::new(None),
            unfinished: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, sleepers: Vec::new(), helpers: Vec::new(), turn: Mutex::new(()) };
        for member in 1..threads {
            let (shared, sleeper) = (pool.shared.clone(), Arc::new(Sleeper(AtomicBool::new(false))));
            pool.sleepers.push(sleeper.clone());
            let handle = thread::Builder::new().name(format!("hotset-{member}")).spawn(move || help(&shared, &sleeper, member))?;
            pool.helpers.push((handle.thread().clone(), Some(handle)));
        }
        Ok(pool)
    }

    /// Members of the team.
    pub(super) fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Waits for other users of the pool and keeps it.
    pub(super) fn team(&self) -> Team<'_> {
        Team { pool: self, _turn: lock(&self.turn) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for (thread, handle) in &mut self.helpers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                // A helper catches every panic, so there is nothing to report.
                let _ = handle.join();
            }
        }
    }
}

/// The right to run regions.
pub(super) struct Team<'a> {
    pool: &'a Pool,
    _turn: MutexGuard<'a, ()>,
}

impl Team<'_> {
    /// Members of the team.
    pub(super) fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Gives each member one of `parts` and waits until all are done. There are at most as many parts as members; what is
    /// small enough for one part runs on the caller alone.
    ///
    /// # Panics
    /// When a part does, after all others have finished.
    pub(super) fn each<P: Send>(&self, parts: Vec<P>, work: impl Fn(P) + Sync) {
        assert!(parts.len() <= self.threads(), "a part has no thread");
        if parts.len() == 1 {
            return parts.into_iter().for_each(work);
        }
        let parts: Vec<Mutex<Option<P>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
        self.run(&|member| {
            let part = parts.get(member).and_then(|p| lock(p).take());
            if let Some(part) = part {
                work(part);
            }
        });
    }

    /// Every member calls `job` with its number.
    fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.pool.shared;
        // SAFETY: only the lifetime changes. Helpers call the job between the next store to `region` and their decrement of
        // `unfinished`; `Finish` waits for all decrements and forgets the job before `job`'s lifetime ends, also when unwinding.
        let job: &'static Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        *lock(&shared.job) = Some(job);
        shared.unfinished.store(self.pool.helpers.len(), Ordering::Relaxed);
        let finish = Finish(shared);
        shared.region.fetch_add(1, Ordering::SeqCst);
        for (sleeper, (thread, _)) in self.pool.sleepers.iter().zip(&self.pool.helpers) {
            if sleeper.0.load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        job(0);
        drop(finish);
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

/// Waits for the helpers when dropped.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut turns = 0u32;
        while self.0.unfinished.load(Ordering::Acquire) != 0 {
            turns += 1;
            if turns.is_multiple_of(TURNS * 16) {
                // More threads than processors: the one we wait for may need this one.
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        *lock(&self.0.job) = None;
    }
}

/// The life of a helper.
fn help(shared: &Shared, sleeper: &Sleeper, member: usize) {
    let mut seen = 0;
    loop {
        seen = match wait(shared, sleeper, seen) {
            Some(region) => region,
            None => return,
        };
        let job = *lock(&shared.job);
        let result = job.map_or(Ok(()), |job| catch_unwind(AssertUnwindSafe(|| job(member))));
        if let Err(panic) = result {
            lock(&shared.panic).get_or_insert(panic);
        }
        shared.unfinished.fetch_sub(1, Ordering::Release);
    }
}

/// The number of the next region after `seen`; `None` when the pool closes.
fn wait(shared: &Shared, sleeper: &Sleeper, seen: usize) -> Option<usize> {
    let start = Instant::now();
    loop {
        for _ in 0..TURNS {
            let region = shared.region.load(Ordering::Acquire);
            if region != seen {
                return Some(region);
            }
            std::hint::spin_loop();
        }
        if start.elapsed() < PATIENCE {
            continue;
        }
        // Announce sleep, then look once more: whoever starts a region afterwards sees the announcement and wakes us.
        sleeper.0.store(true, Ordering::SeqCst);
        while shared.region.load(Ordering::SeqCst) == seen {
            if shared.closing.load(Ordering::SeqCst) {
                return None;
            }
            thread::park();
        }
        sleeper.0.store(false, Ordering::SeqCst);
    }
}

/// Data under these locks is valid at every moment, so a panic elsewhere does not spoil it.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads to use when nobody says: the processors this process may use, counting the hyperthreads of a core once.
pub(super) fn default_threads() -> usize {
    let logical = thread::available_parallelism().map_or(1, usize::from);
    (logical / siblings()).max(1)
}

/// Hyperthreads of a core, where the system tells.
fn siblings() -> usize {
    let list = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").unwrap_or_default();
    let count = |part: &str| match part.split_once('-') {
        Some((a, b)) => Some(b.trim().parse::<usize>().ok()?.checked_sub(a.trim().parse().ok()?)? + 1),
        None => part.trim().parse::<usize>().ok().map(|_| 1),
    };
    list.split(',').map(count).sum::<Option<usize>>().unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 13] {
            let pool = Pool::new(threads).expect("threads");
            let team = pool.team();
            let mut counts = vec![0u32; threads];
            for _ in 0..500 {
                team.each(counts.iter_mut().collect(), |c| *c += 1);
                team.each(counts.iter_mut().take(1).collect(), |c| *c += 0);
            }
            assert_eq!(counts, vec![500; threads]);
        }
    }

    #[test]
    fn sleeping_helpers_wake_up() {
        let pool = Pool::new(3).expect("threads");
        let mut counts = [0u32; 3];
        for _ in 0..5 {
            thread::sleep(PATIENCE * 20);
            pool.team().each(counts.iter_mut().collect(), |c| *c += 1);
        }
        assert_eq!(counts, [5; 3]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_still_works() {
        let pool = Pool::new(3).expect("threads");
        for bad in 0..3 {
            let team = pool.team();
            let result = catch_unwind(AssertUnwindSafe(|| team.each(vec![0, 1, 2], |i| assert!(i != bad, "part {i}"))));
            assert!(result.is_err());
            drop(team);
            let mut counts = [0u32; 3];
            pool.team().each(counts.iter_mut().collect(), |c| *c += 1);
            assert_eq!(counts, [1; 3]);
        }
    }

    #[test]
    fn sessions_on_several_threads_take_turns() {
        let pool = Pool::new(2).expect("threads");
        let total = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..200 {
                        pool.team().each(vec![1, 2], |n| {
                            total.fetch_add(n, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 3);
    }
}
