//! The session: one conversation.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hotset::{CancelToken, Chat, Completion};

use crate::stream::Source;
use crate::work::apart;
use crate::{GenerateOptions, HotsetError, Message, TokenStream};

/// One conversation. It answers one message at a time, on a thread of its own.
#[derive(uniffi::Object)]
pub struct Session {
    state: Mutex<State>,
}

/// Where the conversation is.
enum State {
    /// Here.
    Idle(Box<Chat>),
    /// With a thread that works on it until it is done or cancelled.
    Busy(CancelToken),
    /// Nowhere any more.
    Closed,
}

#[uniffi::export]
impl Session {
    /// Says `text` and streams the model's answer. A message that gets no answer at all, for an error or a cancellation, is taken back; an
    /// answer that is cancelled half-way stays as it is.
    ///
    /// # Errors
    /// When the session is answering already, or closed, or the engine is suspended. What goes wrong later comes from the stream.
    pub fn send(self: Arc<Self>, text: String, options: GenerateOptions) -> Result<Arc<TokenStream>, HotsetError> {
        self.stream(options, move |chat, options, source| chat.ask(&text, options, |token| source.give(token)))
    }

    /// Streams what the model thinks comes after `prompt`, which is appended to the conversation as it is, without a chat template: special tokens
    /// spelled in it count. An empty prompt goes on with what is there.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn complete(self: Arc<Self>, prompt: String, options: GenerateOptions) -> Result<Arc<TokenStream>, HotsetError> {
        self.stream(options, move |chat, options, source| {
            let session = chat.session_mut();
            session.append_text(&prompt)?;
            session.generate(options, |token| source.give(token))
        })
    }

    /// All messages so far.
    ///
    /// # Errors
    /// When the session is answering, or closed.
    pub fn messages(&self) -> Result<Vec<Message>, HotsetError> {
        self.with(|chat| chat.messages().iter().map(Message::from).collect())
    }

    /// Tokens of the conversation so far.
    ///
    /// # Errors
    /// When the session is answering, or closed.
    pub fn token_count(&self) -> Result<u64, HotsetError> {
        self.with(|chat| chat.session().tokens().len() as u64)
    }

    /// Tells the model how to behave, from the next answer on; empty text tells it nothing.
    ///
    /// # Errors
    /// When the session is answering, or closed.
    pub fn set_system(&self, text: &str) -> Result<(), HotsetError> {
        self.with(|chat| chat.set_system(text))
    }

    /// Forgets all messages but the system's.
    ///
    /// # Errors
    /// When the session is answering, or closed.
    pub fn reset(&self) -> Result<(), HotsetError> {
        self.with(Chat::reset)
    }

    /// Writes the conversation to a file, with everything it takes to go on at once: see [`Engine::restore`](crate::Engine::restore). The file
    /// holds what was said, in the clear.
    ///
    /// # Errors
    /// When the session is answering, or closed, or the file cannot be written; what was at `path` is untouched then.
    pub async fn save(self: Arc<Self>, path: String) -> Result<(), HotsetError> {
        let mut chat = self.take(CancelToken::new())?;
        apart("saving", move || {
            let saved = chat.get().save(Path::new(&path));
            drop(chat);
            Ok(saved?)
        })
        .await
    }

    /// Ends the conversation now: an answer under way is cancelled, and all memory is given back within a token's time. Afterwards every call
    /// fails with [`HotsetError::Closed`].
    pub fn shutdown(&self) {
        let before = std::mem::replace(&mut *self.state(), State::Closed);
        if let State::Busy(cancel) = before {
            cancel.cancel();
        }
    }
}

impl Session {
    pub(crate) fn new(chat: Chat) -> Session {
        Session { state: Mutex::new(State::Idle(Box::new(chat))) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes an idle conversation.
    fn with<T>(&self, f: impl FnOnce(&mut Chat) -> T) -> Result<T, HotsetError> {
        match &mut *self.state() {
            State::Idle(chat) => Ok(f(chat)),
            State::Busy(_) => Err(HotsetError::Busy),
            State::Closed => Err(HotsetError::Closed("session")),
        }
    }

    /// Takes the conversation away for work that `cancel` stops.
    fn take(self: &Arc<Self>, cancel: CancelToken) -> Result<Taken, HotsetError> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Busy(cancel)) {
            State::Idle(chat) => Ok(Taken { session: self.clone(), chat: Some(chat) }),
            other => {
                *state = other;
                Err(if matches!(*state, State::Closed) { HotsetError::Closed("session") } else { HotsetError::Busy })
            }
        }
    }

    /// Lets `work` generate on a thread of its own.
    fn stream(
        self: Arc<Self>,
        options: GenerateOptions,
        work: impl FnOnce(&mut Chat, &hotset::GenerateOptions, &mut Source) -> hotset::Result<Completion> + Send + 'static,
    ) -> Result<Arc<TokenStream>, HotsetError> {
        let cancel = CancelToken::new();
        let options = options.to_generate(cancel.clone());
        // Seen here and not on the other thread, where an engine that is suspended a moment later is waited for, as by any answer under way.
        if self.with(|chat| chat.session().engine().is_suspended())? {
            return Err(HotsetError::Suspended);
        }
        let mut chat = self.take(cancel.clone())?;
        TokenStream::start(cancel, move |source| {
            let done = work(chat.get(), &options, source);
            // Whoever sees the end of the stream may ask again at once.
            drop(chat);
            done
        })
    }
}

/// A conversation that was taken away; dropping it brings it back. One whose thread panics is lost.
struct Taken {
    session: Arc<Session>,
    chat: Option<Box<Chat>>,
}

impl Taken {
    fn get(&mut self) -> &mut Chat {
        self.chat.as_mut().expect("the conversation leaves only when this is dropped")
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut state = self.session.state();
        if let State::Busy(_) = *state {
            *state = match self.chat.take() {
                Some(chat) if !std::thread::panicking() => State::Idle(chat),
                _ => State::Closed,
            };
        }
    }
}
