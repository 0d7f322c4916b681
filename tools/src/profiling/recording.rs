//! Counting by the way: what conversations use is added to a profile.

use std::path::PathBuf;

use hotset::Session;
use hotset::profile::Profile;

use super::file;
use crate::failure::Result;

/// A profile that a session's use is added to.
pub(crate) struct Recording {
    path: PathBuf,
    profile: Profile,
    name: &'static str,
}

impl Recording {
    /// Records what `session` uses from now on, for the profile at `path` (which need not exist), as the text `name`.
    ///
    /// # Errors
    /// When there is a profile of another bundle, or the device cannot tell.
    pub(crate) fn begin(path: PathBuf, name: &'static str, session: &mut Session) -> Result<Recording> {
        let bundle = session.engine().bundle();
        let profile = if path.exists() { file::load(&path)? } else { Profile::new(bundle) };
        profile.check(bundle.manifest())?;
        session.record_use()?;
        Ok(Recording { path, profile, name })
    }

    /// Adds what a session used until now.
    pub(crate) fn collect(&mut self, session: &mut Session) -> Result<()> {
        if let Some(usage) = session.take_use().filter(|u| u.tokens > 0) {
            // Lengths of outputs that are known stay apart from use without them, which would take their place.
            let lengths = usage.steps.iter().all(|s| s.saliency.is_some());
            let name = if lengths { self.name.to_owned() } else { format!("{} without lengths", self.name) };
            self.profile.add(&name, &usage)?;
            // They were measured on other text.
            self.profile.losses = None;
        }
        Ok(())
    }

    /// Adds what was used last and writes the profile.
    pub(crate) fn finish(mut self, session: &mut Session) -> Result<()> {
        self.collect(session)?;
        file::save(&self.profile, &self.path)
    }
}
