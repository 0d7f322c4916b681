//! Threads that read whole records, several at a time.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Buffer, Source};
use crate::error::{Error, Result};

/// Reads in flight at a time: devices of today reach their full speed with a few large reads, more only wait longer.
const THREADS: usize = 4;

/// Where a record goes.
pub(crate) trait Destination: Send + 'static {
    /// At least as many bytes as the record has.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl Destination for Buffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        Buffer::bytes_mut(self)
    }
}

/// A record to read: pool, number, and where to put it.
struct Order<B> {
    pool: usize,
    record: u32,
    buffer: B,
}

/// A finished read. When it failed, the buffer's contents mean nothing.
pub(crate) struct Done<B = Buffer> {
    pub(crate) pool: usize,
    pub(crate) record: u32,
    pub(crate) buffer: B,
    pub(crate) result: Result<()>,
}

struct Queue<B> {
    /// Somebody waits for these.
    urgent: VecDeque<Order<B>>,
    /// These are read ahead.
    ahead: VecDeque<Order<B>>,
    closed: bool,
}

struct Shared<B> {
    queue: Mutex<Queue<B>>,
    work: Condvar,
}

impl<B> Shared<B> {
    fn lock(&self) -> MutexGuard<'_, Queue<B>> {
        // Every change of the queue is a single step, so a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads records of one bundle in the background. Orders end in the order in which the device serves them.
pub(crate) struct Reader<B = Buffer> {
    shared: Arc<Shared<B>>,
    done: Receiver<Done<B>>,
    threads: Vec<JoinHandle<()>>,
    /// Ordered and not yet handed back.
    pending: usize,
}

impl<B: Destination> Reader<B> {
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn new(source: &Arc<Source>) -> Result<Reader<B>> {
        let queue: Queue<B> = Queue { urgent: VecDeque::new(), ahead: VecDeque::new(), closed: false };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), work: Condvar::new() });
        let (sender, done) = mpsc::channel();
        let mut reader = Reader { shared: shared.clone(), done, threads: Vec::new(), pending: 0 };
        for i in 0..THREADS {
            let (shared, sender, source) = (shared.clone(), sender.clone(), source.clone());
            let serve = move || {
                while let Some(Order { pool, record, mut buffer }) = next(&shared) {
                    let result = source.read(pool, record, buffer.bytes_mut());
                    if sender.send(Done { pool, record, buffer, result }).is_err() {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name(format!("hotset-read-{i}")).spawn(serve);
            reader.threads.push(thread.map_err(|e| Error::Device(format!("cannot start a reading thread: {e}")))?);
        }
        Ok(reader)
    }

    /// Orders a record, before all others when it is `urgent`. `buffer` is at least as long as the record.
    pub(crate) fn start(&mut self, pool: usize, record: u32, buffer: B, urgent: bool) {
        let order = Order { pool, record, buffer };
        let mut queue = self.shared.lock();
        if urgent {
            queue.urgent.push_back(order);
        } else {
            queue.ahead.push_back(order);
        }
        drop(queue);
        self.pending += 1;
        self.shared.work.notify_one();
    }

    /// A finished read, if there is one.
    pub(crate) fn finished(&mut self) -> Option<Done<B>> {
        let done = self.done.try_recv().ok()?;
        self.pending -= 1;
        Some(done)
    }

    /// The next finished read; `None` when nothing is ordered.
    pub(crate) fn wait(&mut self) -> Option<Done<B>> {
        if self.pending == 0 {
            return None;
        }
        let done = self.done.recv().ok()?;
        self.pending -= 1;
        Some(done)
    }
}

impl<B> Drop for Reader<B> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        queue.urgent.clear();
        queue.ahead.clear();
        drop(queue);
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to do either.
            let _ = thread.join();
        }
    }
}

/// The next order; `None` when the reader is gone.
fn next<B>(shared: &Shared<B>) -> Option<Order<B>> {
    let mut queue = shared.lock();
    loop {
        if queue.closed {
            return None;
        }
        let order = queue.urgent.pop_front().or_else(|| queue.ahead.pop_front());
        if order.is_some() {
            return order;
        }
        queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
