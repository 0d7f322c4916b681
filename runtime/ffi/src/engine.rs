//! The engine: a bundle made ready on a device.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hotset::bundle::Bundle;
use hotset::profile::{KeepOptions, Kept, Profile};
use hotset::{Chat, Loading};

use crate::work::apart;
use crate::{EngineOptions, HotsetError, ListenerError, MemoryReport, ModelInfo, ProfileOptions, Session, SessionOptions};

/// Told how far the opening of a bundle is, on a thread of Hotset's.
#[uniffi::export(with_foreign)]
pub trait LoadListener: Send + Sync {
    /// `fraction` of the work is done, 0 to 1.
    ///
    /// # Errors
    /// Whatever it throws stops the opening, which then fails with [`HotsetError::Stopped`].
    fn on_progress(&self, fraction: f64) -> Result<(), ListenerError>;
}

/// A bundle made ready on a device: open it once, start any number of sessions. Everything can be called from any thread.
#[derive(uniffi::Object)]
pub struct Engine {
    /// `None` after it was shut down.
    engine: Mutex<Option<hotset::Engine>>,
    /// What sessions do with that start from now on.
    kept: Mutex<Option<Kept>>,
    sessions: Mutex<Vec<Weak<Session>>>,
}

/// Locks what no panic can leave half-done: every change of it is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[uniffi::export]
impl Engine {
    /// Opens the bundle at `path`.
    ///
    /// # Errors
    /// When the file is not a usable bundle, there is no such device, the device or the budget has no room for the model, or `listener` stopped it.
    #[uniffi::constructor]
    pub async fn open(path: String, options: EngineOptions, listener: Option<Arc<dyn LoadListener>>) -> Result<Arc<Engine>, HotsetError> {
        apart("opening", move || Engine::of(Bundle::open(path)?, &options, listener)).await
    }

    /// Opens the bundle behind a file descriptor, such as Android's document picker gives. The descriptor stays the caller's, who may close it
    /// after this.
    ///
    /// # Errors
    /// As [`open`](Self::open), and where the system has no file descriptors.
    #[uniffi::constructor]
    pub async fn open_descriptor(
        descriptor: i32,
        options: EngineOptions,
        listener: Option<Arc<dyn LoadListener>>,
    ) -> Result<Arc<Engine>, HotsetError> {
        // The caller waits, so the descriptor is open until it is duplicated.
        let file = duplicate(descriptor)?;
        let name = PathBuf::from(format!("descriptor {descriptor}"));
        apart("opening", move || Engine::of(Bundle::of_file(file, name)?, &options, listener)).await
    }

    /// What it is made of.
    ///
    /// # Errors
    /// After [`shutdown`](Self::shutdown).
    pub fn info(&self) -> Result<ModelInfo, HotsetError> {
        let engine = self.engine()?;
        let (manifest, report) = (engine.manifest(), engine.report());
        Ok(ModelInfo {
            name: manifest.provenance.name.clone(),
            fingerprint: manifest.fingerprint.clone(),
            file_bytes: engine.bundle().len(),
            trained_context: engine.plan().context,
            chats: manifest.text.as_ref().is_some_and(|t| t.chat_template.is_some()),
            device: report.device,
            gpu: report.kind == "gpu",
        })
    }

    /// Starts a conversation. On a GPU under a budget this waits for the step that another conversation is at.
    ///
    /// # Errors
    /// When an option is out of range, the device has no room for the caches, or the engine is suspended.
    pub fn session(&self, options: SessionOptions) -> Result<Arc<Session>, HotsetError> {
        let kept = lock(&self.kept).clone();
        let session = self.engine()?.session(&hotset::SessionOptions { kept, ..options.to_session() })?;
        let mut chat = Chat::new(session)?;
        if let Some(text) = &options.system {
            chat.set_system(text);
        }
        self.adopt(chat)
    }

    /// Goes on with a conversation that [`Session::save`] wrote, with the options it had.
    ///
    /// # Errors
    /// When the file is damaged or of another bundle, or the device has no room.
    pub async fn restore(&self, path: String) -> Result<Arc<Session>, HotsetError> {
        let engine = self.engine()?;
        let chat = apart("restoring", move || Ok(Chat::restore(&engine, Path::new(&path))?)).await?;
        self.adopt(chat)
    }

    /// Changes the bytes that the model may take, also in the middle of an answer: what no longer fits is given back before the next step.
    /// Answers do not change. Call it when the system asks for memory.
    ///
    /// # Errors
    /// When the engine was opened without a budget, or this one is too small; the message names the smallest.
    pub fn set_budget(&self, bytes: u64) -> Result<(), HotsetError> {
        Ok(self.engine()?.set_budget(bytes)?)
    }

    /// Gives back everything it holds on the device, conversations included, and lets answers wait; [`resume`](Self::resume) goes on with them as
    /// if nothing had happened. What the conversations hold is kept in the system's memory. Call it when an app goes to the background: iOS takes
    /// the GPU away there.
    ///
    /// # Errors
    /// After [`shutdown`](Self::shutdown).
    pub async fn suspend(&self) -> Result<(), HotsetError> {
        let engine = self.engine()?;
        apart("suspending", move || Ok(engine.suspend()?)).await
    }

    /// Makes a suspended engine ready again.
    ///
    /// # Errors
    /// When the device has gone or has no room; the engine stays suspended, to be resumed later.
    pub async fn resume(&self) -> Result<(), HotsetError> {
        let engine = self.engine()?;
        apart("resuming", move || Ok(engine.resume()?)).await
    }

    /// What it takes of the device's memory.
    ///
    /// # Errors
    /// After [`shutdown`](Self::shutdown).
    pub fn memory_report(&self) -> Result<MemoryReport, HotsetError> {
        let engine = self.engine()?;
        let report = engine.report();
        let mut memory = MemoryReport { used: report.device_bytes, suspended: engine.is_suspended(), ..MemoryReport::default() };
        if let Some(p) = report.paging {
            memory.budget = Some(p.budget);
            memory.least = Some(p.least);
            memory.experts = p.slots;
            memory.all_experts = Some(p.experts);
            (memory.hits, memory.misses, memory.hit_rate) = (p.counts.hits, p.counts.misses, p.counts.hit_rate());
            memory.bytes_read = p.bytes_read;
        }
        Ok(memory)
    }

    /// Lets sessions that start from now on do with the experts that a profile (the text of the file that `hotset profile` writes) names for a
    /// kind of text: faster and smaller, worse at everything else.
    ///
    /// # Errors
    /// When it is no profile of this bundle, has no such text, or too few experts would be left.
    pub fn use_profile(&self, json: &str, options: ProfileOptions) -> Result<(), HotsetError> {
        let engine = self.engine()?;
        let options = KeepOptions { keep: options.keep, texts: options.texts, ..KeepOptions::default() };
        let kept = Profile::read(json)?.keep(engine.bundle(), &options)?;
        *lock(&self.kept) = Some(kept);
        Ok(())
    }

    /// Lets sessions that start from now on use all experts again.
    pub fn clear_profile(&self) {
        *lock(&self.kept) = None;
    }

    /// Writes what was learned about which experts are used, for [`EngineOptions::heat`] of the next start. Without a budget there is nothing
    /// to learn and nothing is written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_heat(&self, path: &str) -> Result<(), HotsetError> {
        let write = |json: String| {
            // Whoever is interrupted here must not lose what an earlier run learned.
            let part = format!("{path}.part");
            std::fs::write(&part, json).and_then(|()| std::fs::rename(&part, path))
        };
        let written = self.engine()?.heat().map_or(Ok(()), write);
        written.map_err(|e| HotsetError::File(format!("cannot write {path}: {e}")))
    }

    /// Ends everything now: answers under way are cancelled, all sessions are closed and all memory is given back within a token's time.
    /// Afterwards every call fails with [`HotsetError::Closed`].
    pub fn shutdown(&self) {
        // In this order: a session that starts meanwhile sees that the engine has gone, or is seen here.
        let engine = lock(&self.engine).take();
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        sessions.iter().filter_map(Weak::upgrade).for_each(|s| s.shutdown());
        drop(engine);
    }
}

impl Engine {
    fn of(bundle: Bundle, options: &EngineOptions, listener: Option<Arc<dyn LoadListener>>) -> Result<Arc<Engine>, HotsetError> {
        let heat = options.heat.as_deref().map(read_heat).transpose()?.flatten();
        let loading = Loading::new(move |fraction| match listener.as_ref().map(|l| l.on_progress(fraction)) {
            None | Some(Ok(())) => ControlFlow::Continue(()),
            Some(Err(ListenerError::Stopped)) => ControlFlow::Break(()),
        });
        let engine = hotset::Engine::of_bundle_with(bundle, &options.to_engine(heat), &loading)?;
        Ok(Arc::new(Engine { engine: Mutex::new(Some(engine)), kept: Mutex::default(), sessions: Mutex::default() }))
    }

    fn engine(&self) -> Result<hotset::Engine, HotsetError> {
        lock(&self.engine).clone().ok_or(HotsetError::Closed("engine"))
    }

    fn adopt(&self, chat: Chat) -> Result<Arc<Session>, HotsetError> {
        let session = Arc::new(Session::new(chat));
        {
            let mut sessions = lock(&self.sessions);
            sessions.retain(|s| s.strong_count() > 0);
            sessions.push(Arc::downgrade(&session));
        }
        // It may have been shut down since it was asked.
        self.engine().inspect_err(|_| session.shutdown())?;
        Ok(session)
    }
}

/// What is in a heat file, if there is one.
fn read_heat(path: &str) -> Result<Option<String>, HotsetError> {
    match std::fs::read_to_string(path) {
        Ok(json) => Ok(Some(json)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(HotsetError::File(format!("cannot read {path}: {e}"))),
    }
}

#[cfg(unix)]
fn duplicate(descriptor: i32) -> Result<File, HotsetError> {
    use std::os::fd::BorrowedFd;
    if descriptor < 0 {
        return Err(HotsetError::Invalid(format!("{descriptor} is no file descriptor")));
    }
    // SAFETY: it is not -1, and only lent to the system for the duration of this call, which refuses one that is not open.
    let lent = unsafe { BorrowedFd::borrow_raw(descriptor) };
    lent.try_clone_to_owned().map(File::from).map_err(|e| HotsetError::File(format!("cannot use descriptor {descriptor}: {e}")))
}

#[cfg(not(unix))]
fn duplicate(_: i32) -> Result<File, HotsetError> {
    Err(HotsetError::Invalid("this system has no file descriptors; open the bundle by its path".into()))
}
