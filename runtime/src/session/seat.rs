//! Where a session's run is: on the device, or in the system's memory while the engine is suspended.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CancelToken;
use super::contrast::{ContrastRun, SelfContrast};
use crate::bundle::Bundle;
use crate::error::{Error, Result};
use crate::experts::Pass;
use crate::model::{Model, Routing, Run, RunOptions};
use crate::profile::{Activations, Usage};
use crate::snapshot::{Reader, Writer};

/// How often somebody who waits for the engine looks whether a generation was cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// Closed while the engine is suspended.
#[derive(Default)]
pub(crate) struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed()
    }

    pub(crate) fn close(&self) {
        *self.closed() = true;
    }

    pub(crate) fn open(&self) {
        *self.closed() = false;
        self.opened.notify_all();
    }

    /// Waits until it is open; says whether it is, or `cancel` came first.
    fn wait(&self, cancel: Option<&CancelToken>) -> bool {
        let mut closed = self.closed();
        while *closed {
            if cancel.is_some_and(CancelToken::is_cancelled) {
                return false;
            }
            closed = self.opened.wait_timeout(closed, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// How a run is started.
pub(crate) struct Recipe {
    /// The bundle as the session wants it, if not as it is.
    pub(super) view: Option<Arc<Bundle>>,
    pub(super) options: RunOptions,
    /// With the size of the vocabulary.
    pub(super) contrast: Option<(SelfContrast, u32)>,
}

impl Recipe {
    fn start(&self, model: &dyn Model) -> Result<Box<dyn Run>> {
        let view = self.view.as_ref().map(|bundle| model.view(bundle.clone())).transpose()?;
        let model = view.as_deref().unwrap_or(model);
        let run = model.start(self.options)?;
        let Some((contrast, vocab)) = self.contrast else { return Ok(run) };
        let weak = model.start(RunOptions { routing: Routing::Rank(contrast.rank - 1), ..self.options })?;
        Ok(Box::new(ContrastRun::new(contrast, vocab, run, weak)))
    }
}

/// The place of a session's run.
pub(crate) struct Seat {
    recipe: Recipe,
    gate: Arc<Gate>,
    held: Mutex<Held>,
}

struct Held {
    run: Place,
    notes: Notes,
}

enum Place {
    Device(Box<dyn Run>),
    /// What the run [saved](Run::save), and its position; nothing and 0 when it could not.
    Parked(Vec<u8>, usize),
}

/// What is recorded, and what was before the last suspension.
#[derive(Default)]
struct Notes {
    passes: Option<Vec<Pass>>,
    usage: Option<Option<Usage>>,
    activations: Option<Option<Activations>>,
}

/// A run on its device, for as long as this is held.
pub(super) struct Ready<'a>(MutexGuard<'a, Held>);

impl Deref for Ready<'_> {
    type Target = Box<dyn Run>;

    fn deref(&self) -> &Box<dyn Run> {
        match &self.0.run {
            Place::Device(run) => run,
            Place::Parked(..) => unreachable!("only made of a run on its device, which leaves it under this lock"),
        }
    }
}

impl DerefMut for Ready<'_> {
    fn deref_mut(&mut self) -> &mut Box<dyn Run> {
        match &mut self.0.run {
            Place::Device(run) => run,
            Place::Parked(..) => unreachable!("only made of a run on its device, which leaves it under this lock"),
        }
    }
}

impl Seat {
    pub(crate) fn new(recipe: Recipe, model: &dyn Model, gate: Arc<Gate>) -> Result<Seat> {
        let run = Place::Device(recipe.start(model)?);
        Ok(Seat { recipe, gate, held: Mutex::new(Held { run, notes: Notes::default() }) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run; while the engine is suspended this waits, until `cancel` comes.
    pub(super) fn ready(&self, cancel: Option<&CancelToken>) -> Option<Ready<'_>> {
        while self.gate.wait(cancel) {
            let held = self.held();
            if let Place::Device(_) = held.run {
                return Some(Ready(held));
            }
        }
        None
    }

    /// Tokens that were read.
    pub(super) fn position(&self) -> usize {
        match &self.held().run {
            Place::Device(run) => run.position(),
            Place::Parked(_, position) => *position,
        }
    }

    /// Forgets everything.
    pub(super) fn reset(&self) {
        match &mut self.held().run {
            Place::Device(run) => run.reset(),
            parked => *parked = Place::Parked(Vec::new(), 0),
        }
    }

    /// Writes the caches, wherever they are.
    pub(super) fn save(&self, to: &mut Writer<'_>) -> Result<()> {
        match &mut self.held().run {
            Place::Device(run) => run.save(to),
            Place::Parked(caches, _) if caches.is_empty() => to.form(""),
            Place::Parked(caches, _) => to.bytes(caches),
        }
    }

    /// Brings the run to the system's memory and gives back that of the device.
    pub(crate) fn park(&self) {
        let Held { run: place, notes } = &mut *self.held();
        let Place::Device(run) = place else { return };
        notes.take(run.as_mut());
        let mut caches = Vec::new();
        let saved = run.save(&mut Writer::new(&mut |bytes| {
            caches.extend_from_slice(bytes);
            Ok(())
        }));
        *place = match saved {
            Ok(()) => {
                let position = run.position();
                Place::Parked(caches, position)
            }
            Err(e) => {
                tracing::warn!("a conversation will be read again: {e}");
                Place::Parked(Vec::new(), 0)
            }
        };
    }

    /// A run on `model` that goes on where the parked one was; `None` when it is not parked.
    pub(crate) fn rebuilt(&self, model: &dyn Model) -> Result<Option<Box<dyn Run>>> {
        let held = self.held();
        let Place::Parked(caches, _) = &held.run else { return Ok(None) };
        let mut run = self.recipe.start(model)?;
        held.notes.resume(run.as_mut());
        if !caches.is_empty() {
            let mut rest = &caches[..];
            let same = run.restore(&mut Reader::new(&mut |to| {
                let (now, later) = rest.split_at_checked(to.len()).ok_or_else(|| Error::Input("it ends too early".into()))?;
                to.copy_from_slice(now);
                rest = later;
                Ok(())
            }))?;
            if !same {
                tracing::info!("a conversation will be read again: it was on another kind of device");
            }
        }
        Ok(Some(run))
    }

    /// Puts a [rebuilt](Self::rebuilt) run in the place of the parked one.
    pub(crate) fn settle(&self, run: Box<dyn Run>) {
        self.held().run = Place::Device(run);
    }

    pub(super) fn record_passes(&self) -> Result<()> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().ok_or(Error::Suspended)?.record_passes()?;
        notes.passes.get_or_insert_default();
        Ok(())
    }

    pub(super) fn take_passes(&self) -> Vec<Pass> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().into_iter().for_each(|run| notes.take(run));
        notes.passes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn record_use(&self) -> Result<()> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().ok_or(Error::Suspended)?.record_use()?;
        notes.usage.get_or_insert_default();
        Ok(())
    }

    pub(super) fn take_use(&self) -> Option<Usage> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().into_iter().for_each(|run| notes.take(run));
        notes.usage.as_mut()?.take()
    }

    pub(super) fn record_activations(&self) -> Result<()> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().ok_or(Error::Suspended)?.record_activations()?;
        notes.activations.get_or_insert_default();
        Ok(())
    }

    pub(super) fn take_activations(&self) -> Option<Activations> {
        let Held { run, notes } = &mut *self.held();
        run.on_device().into_iter().for_each(|run| notes.take(run));
        notes.activations.as_mut()?.take()
    }
}

impl Place {
    fn on_device(&mut self) -> Option<&mut dyn Run> {
        match self {
            Place::Device(run) => Some(run.as_mut()),
            Place::Parked(..) => None,
        }
    }
}

impl Notes {
    /// Adds what `run` has noted.
    fn take(&mut self, run: &mut dyn Run) {
        if let Some(passes) = &mut self.passes {
            passes.extend(run.take_passes());
        }
        if let Some(sum) = &mut self.usage
            && let Some(new) = run.take_use()
        {
            match sum {
                None => *sum = Some(new),
                Some(sum) => drop(sum.add(&new)),
            }
        }
        if let Some(sum) = &mut self.activations
            && let Some(new) = run.take_activations()
        {
            match sum {
                None => *sum = Some(new),
                Some(sum) => drop(sum.merge(&new)),
            }
        }
    }

    /// Has `run` note what is recorded, as far as its device can.
    fn resume(&self, run: &mut dyn Run) {
        let passes = self.passes.as_ref().map(|_| run.record_passes());
        let usage = self.usage.as_ref().map(|_| run.record_use());
        let activations = self.activations.as_ref().map(|_| run.record_activations());
        for e in [passes, usage, activations].into_iter().flatten().filter_map(Result::err) {
            tracing::warn!("recording ends here: {e}");
        }
    }
}
