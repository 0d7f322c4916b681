//! The stream: an answer, token by token.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_channel::{Receiver, Sender};
use hotset::{CancelToken, Completion};

use crate::work::{spawn, whole};
use crate::{HotsetError, Statistics, StopReason, Token};

/// How many tokens generation may be ahead of whoever takes them.
const AHEAD: usize = 4;

/// An answer under way. Dropping it cancels it.
#[derive(uniffi::Object)]
pub struct TokenStream {
    tokens: Receiver<Result<Token, HotsetError>>,
    /// Closed when the model works on the answer no more; nothing is ever sent.
    ended: Receiver<Infallible>,
    cancel: CancelToken,
    progress: Arc<Mutex<Progress>>,
}

/// How far the answer is.
#[derive(Default)]
struct Progress {
    statistics: Statistics,
    stop: Option<StopReason>,
}

fn lock(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

#[uniffi::export]
impl TokenStream {
    /// The next token as soon as it is there; nothing at the end.
    ///
    /// # Errors
    /// What went wrong while answering; the stream is at its end then.
    pub async fn next(&self) -> Result<Option<Token>, HotsetError> {
        match self.tokens.recv().await {
            Ok(token) => token.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Ends the answer here. The model stops within one token's time; tokens that were there already may still be taken.
    pub fn cancel(&self) {
        self.cancel.cancel();
        self.tokens.close();
    }

    /// Waits until the model works on this answer no more, so that its session can be asked again: for after [`cancel`](Self::cancel), which does
    /// not wait. An answer that is not cancelled ends only if its tokens are taken.
    pub async fn ended(&self) {
        // There is no such message: this fails when the sender has gone.
        let _ = self.ended.recv().await;
    }

    /// How much was done so far, and how fast.
    pub fn statistics(&self) -> Statistics {
        lock(&self.progress).statistics
    }

    /// Why the answer ended; nothing before it has.
    pub fn stop_reason(&self) -> Option<StopReason> {
        lock(&self.progress).stop
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl TokenStream {
    /// Lets `work` generate on a thread of its own.
    pub(crate) fn start(
        cancel: CancelToken,
        work: impl FnOnce(&mut Source) -> hotset::Result<Completion> + Send + 'static,
    ) -> Result<Arc<TokenStream>, HotsetError> {
        let (sender, tokens) = async_channel::bounded(AHEAD);
        let (working, ended) = async_channel::bounded(1);
        let progress: Arc<Mutex<Progress>> = Arc::default();
        let mut source =
            Source { tokens: sender, working, cancel: cancel.clone(), progress: progress.clone(), started: Instant::now(), first: None };
        spawn("answering", move || {
            let done = whole(|| Ok(work(&mut source)?));
            source.finish(done);
        })?;
        Ok(Arc::new(TokenStream { tokens, ended, cancel, progress }))
    }
}

/// The other end of a stream.
pub(crate) struct Source {
    tokens: Sender<Result<Token, HotsetError>>,
    /// Dropped when the answer has ended.
    working: Sender<Infallible>,
    cancel: CancelToken,
    progress: Arc<Mutex<Progress>>,
    started: Instant,
    /// When the first token was there.
    first: Option<Instant>,
}

impl Source {
    /// Hands on a token; when nobody wants it, the answer is cancelled.
    pub(crate) fn give(&mut self, token: hotset::Token) {
        let first = *self.first.get_or_insert_with(Instant::now);
        {
            let statistics = &mut lock(&self.progress).statistics;
            statistics.generated_tokens += 1;
            statistics.first_token_seconds = Some((first - self.started).as_secs_f64());
            let rate = |time: Duration| (statistics.generated_tokens - 1) as f64 / time.as_secs_f64();
            statistics.tokens_per_second = (statistics.generated_tokens > 1).then(|| rate(first.elapsed()));
        }
        if self.tokens.send_blocking(Ok(Token { id: token.id, text: token.text })).is_err() {
            self.cancel.cancel();
        }
    }

    fn finish(self, done: Result<Completion, HotsetError>) {
        let mut progress = lock(&self.progress);
        match done {
            Ok(completion) => {
                progress.statistics = completion.statistics.into();
                progress.stop = Some(completion.stop.into());
            }
            Err(e) => {
                progress.stop = Some(StopReason::Failed);
                drop(progress);
                drop(self.working);
                // Nobody may be listening any more.
                let _ = self.tokens.send_blocking(Err(e));
            }
        }
    }
}
