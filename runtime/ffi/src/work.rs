//! Long work on threads of its own, for callers that wait without one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::HotsetError;

/// Runs `f` on a thread of its own.
///
/// # Errors
/// Those of `f`, or when there is no thread for it or it panics.
pub(crate) async fn apart<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> Result<T, HotsetError> + Send + 'static,
) -> Result<T, HotsetError> {
    let (sender, receiver) = async_channel::bounded(1);
    let work = move || {
        // Nobody may be waiting any more.
        let _ = sender.send_blocking(whole(f));
    };
    spawn(name, work)?;
    receiver.recv().await.unwrap_or_else(|_| Err(HotsetError::Internal("a thread ended without a result".into())))
}

/// Starts a thread.
pub(crate) fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> Result<(), HotsetError> {
    let thread = std::thread::Builder::new().name(format!("hotset {name}")).spawn(f);
    thread.map(drop).map_err(|e| HotsetError::Device(format!("the system has no thread for hotset: {e}")))
}

/// Runs `f` and turns a panic into an error.
pub(crate) fn whole<T>(f: impl FnOnce() -> Result<T, HotsetError>) -> Result<T, HotsetError> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        Err(HotsetError::Internal(text.unwrap_or_else(|| "something panicked".into())))
    })
}
