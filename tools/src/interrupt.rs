//! Ctrl-C in the middle of long work: a flag that the work looks at where it can stop without losing anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Failure, Result};

/// A flag that Ctrl-C sets, instead of ending the program.
///
/// # Errors
/// When the system refuses, or the program has such a flag already.
pub(crate) fn flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))
        .map_err(|e| Failure::new(format!("cannot prepare for an interruption: {e}")))?;
    Ok(stop)
}

/// Fails once `stop` is set, where a file is being written that is dropped then.
pub(crate) fn check(stop: &AtomicBool) -> hotset::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(hotset::Error::Input("interrupted; nothing was written".into())) } else { Ok(()) }
}
