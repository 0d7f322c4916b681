//! The experts of one step when not all of them are in memory: they come in waves.

use super::routes::{Run, Worklist};
use crate::error::Result;
use crate::experts::RecordId;
use crate::reading::{Feed, Host};

/// Runs with the bytes of their records.
type Wave<'w, 'b> = Vec<(&'w Run, &'b [u8])>;

/// The runs of a worklist that use records, as their records come.
pub(super) struct Coming<'h, 'w> {
    feed: Feed<'h>,
    runs: Vec<(RecordId, &'w Run)>,
}

impl<'h, 'w> Coming<'h, 'w> {
    /// Orders the records of `pool` that step `step` uses.
    ///
    /// # Errors
    /// When there is no memory for one of them.
    pub(super) fn new(host: &'h mut Host, pool: usize, step: usize, work: &'w Worklist) -> Result<Coming<'h, 'w>> {
        let runs: Vec<_> = work.experts().map(|(r, run)| (host.tier().catalogue().id(pool, r), run)).collect();
        let feed = host.feed(step, &runs.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
        Ok(Coming { feed, runs })
    }

    /// The next runs whose records are in memory, with their bytes; `None` at the end.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub(super) fn wave(&mut self) -> Result<Option<Wave<'w, '_>>> {
        if !self.feed.advance()? {
            return Ok(None);
        }
        Ok(Some(self.runs.iter().filter_map(|&(id, run)| Some((run, self.feed.bytes(id)?))).collect()))
    }

    /// Once more from the beginning.
    pub(super) fn rewind(&mut self) {
        self.feed.rewind();
    }
}
