//! Profiles of texts: any amount of text streams through a model, and what was counted survives an interruption.

mod file;
mod losses;
mod recording;
mod stream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hotset::Session;
use hotset::profile::Profile;
use serde::{Deserialize, Serialize};

use crate::documents;
use crate::failure::{Failure, Result};

pub(crate) use file::{load, save};
pub(crate) use losses::{RATIOS, loss, measure};
pub(crate) use recording::Recording;
use stream::TokenStream;

/// How often what was counted is put away.
const SAVE: Duration = Duration::from_secs(30);

/// A text to read.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    /// Stem of the file's name.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The texts of these files.
///
/// # Errors
/// When one cannot be read, or two have one name.
pub(crate) fn texts(paths: &[PathBuf]) -> Result<Vec<Text>> {
    let mut texts: Vec<Text> = Vec::new();
    for path in paths {
        let name = documents::name(path);
        if texts.iter().any(|t| t.name == name) {
            return Err(Failure::new(format!("two texts are called {name:?}; a profile tells texts apart by the names of their files")));
        }
        let bytes = std::fs::metadata(path).map_err(|e| Failure::new(format!("cannot read {}: {e}", path.display())))?.len();
        texts.push(Text { name, path: path.clone(), bytes });
    }
    Ok(texts)
}

/// What decides which windows of tokens a profile counts: only the same may go on where another stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    fingerprint: String,
    context: usize,
    limit: Option<u64>,
    /// Names and lengths of the texts.
    texts: Vec<(String, u64)>,
}

/// Counting that was interrupted.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    settings: Settings,
    profile: Profile,
    /// Tokens of each text that have been counted.
    read: BTreeMap<String, u64>,
}

/// Where an interruption leaves what was counted for the profile `output`.
fn part(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".part");
    path.into()
}

/// Removes what could be resumed, once the profile itself is there.
pub(crate) fn forget(output: &Path) {
    // If it stays, it is resumed for nothing.
    let _ = std::fs::remove_file(part(output));
}

/// Counts what texts use.
pub(crate) struct Collector<'a> {
    part: Part,
    texts: &'a [Text],
    /// Where an interruption leaves what has been counted.
    path: PathBuf,
}

impl<'a> Collector<'a> {
    /// Counts at most `limit` tokens of each text in windows of `session`'s context. With `resume` it goes on where an interruption left a
    /// file beside `output`.
    ///
    /// # Errors
    /// When there is nothing to resume, or it was counted in another way.
    pub(crate) fn new(session: &Session, texts: &'a [Text], limit: Option<u64>, output: &Path, resume: bool) -> Result<Collector<'a>> {
        let manifest = session.engine().manifest();
        let named = texts.iter().map(|t| (t.name.clone(), t.bytes)).collect();
        let settings = Settings { fingerprint: manifest.fingerprint.clone(), context: session.context(), limit, texts: named };
        let path = part(output);
        let part = match resume {
            false => Part { settings, profile: Profile::new(session.engine().bundle()), read: BTreeMap::new() },
            true => {
                let there = path.display();
                let json = std::fs::read_to_string(&path).map_err(|e| Failure::new(format!("there is nothing to resume: {there}: {e}")))?;
                let part: Part = serde_json::from_str(&json)
                    .map_err(|e| Failure::new(format!("{there} is damaged ({e}); start again without --resume")))?;
                part.profile
                    .check(manifest)
                    .map_err(|e| Failure::new(format!("{there} is damaged ({e}); start again without --resume")))?;
                if part.settings != settings {
                    return Err(Failure::new(format!(
                        "{there} counted another bundle, other texts or in another way; start again without --resume"
                    )));
                }
                part
            }
        };
        Ok(Collector { part, texts, path })
    }

    /// Reads all texts; `done` is told the bytes of text that have been read so far.
    ///
    /// # Errors
    /// When it is interrupted, which loses nothing; when texts have no tokens; when reading or the device fails.
    pub(crate) fn run(mut self, session: &mut Session, stop: &AtomicBool, mut done: impl FnMut(u64)) -> Result<Profile> {
        session.record_use()?;
        let (mut before, mut saved) = (0, Instant::now());
        for text in self.texts {
            let tokenizer = session.engine().clone();
            let tokenizer = tokenizer.tokenizer()?;
            let bos = tokenizer.bos();
            let window = session.context() - usize::from(bos.is_some());
            if window == 0 {
                return Err(Failure::new("a context of 1 token has no room for text; choose a longer --context"));
            }
            let mut stream = TokenStream::open(&text.path, tokenizer)?;
            let (limit, mut read) = (self.part.settings.limit.unwrap_or(u64::MAX), 0);
            let known = self.part.read.get(&text.name).copied().unwrap_or(0);
            while read < limit {
                let room = usize::try_from(limit - read).unwrap_or(usize::MAX).min(window);
                let tokens = stream.take(room)?;
                if tokens.is_empty() {
                    break;
                }
                read += tokens.len() as u64;
                done(before + stream.bytes_read());
                // Counted before an interruption.
                if read <= known {
                    continue;
                }
                session.reset();
                session.append(&bos.into_iter().chain(tokens).collect::<Vec<u32>>())?;
                session.prefill()?;
                let usage = session.take_use().unwrap_or_default();
                self.part.profile.add(&text.name, &usage)?;
                self.part.read.insert(text.name.clone(), read);
                if stop.load(Ordering::Relaxed) {
                    self.put_away()?;
                    return Err(Failure::new(format!("interrupted after {read} tokens of {:?}; --resume goes on from there", text.name)));
                }
                if saved.elapsed() > SAVE {
                    self.put_away()?;
                    saved = Instant::now();
                }
            }
            if read == 0 {
                return Err(Failure::new(format!("{} has no token; there is nothing to count", text.path.display())));
            }
            before += text.bytes;
        }
        self.put_away()?;
        Ok(self.part.profile)
    }

    fn put_away(&self) -> Result<()> {
        file::write(&self.path, &serde_json::to_vec(&self.part)?)
    }
}
