//! A conversation in a file.
//!
//! Like a bundle the file is a valid safetensors file: `__metadata__["hotset_conversation"]` says what it is, `tokens` are the conversation, `caches` are
//! what the model made of them ([`snapshot`](crate::snapshot)). It is written to a temporary file and renamed, and only its owner may read it.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MAX_CONTEXT, Overflow, SelfContrast, Session, SessionOptions};
use crate::bundle::{Entry, Header, MAX_HEADER, begin, keep, parse_json, safetensors};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::profile::Kept;
use crate::snapshot::{Reader, Writer};
use crate::text::Message;

/// Version of the form. A reader refuses larger ones.
const FORMAT: u32 = 1;
/// Where the header holds an [`About`].
const KEY: &str = "hotset_conversation";
/// Stands in for a hash that is not known yet; has the length of a real one.
const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Everything but tokens and caches.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    format: u32,
    /// The bundle's fingerprint.
    fingerprint: String,
    /// The model's name, for people.
    model: String,
    context: usize,
    overflow: Overflow,
    stick_epsilon: f32,
    experts_per_token: Option<u32>,
    self_contrast: Option<SelfContrast>,
    kept: Option<Kept>,
    /// What a chat knows beside its tokens.
    chat: Option<SavedChat>,
    /// blake3 of tokens and caches.
    hash: String,
}

/// What a chat knows beside its tokens.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SavedChat {
    pub(super) messages: Vec<Message>,
    pub(super) transcript: Option<String>,
}

impl Session {
    /// Writes the conversation to a file, with everything it takes to go on at once; [`Engine::restore`] does. Possible while the engine is
    /// suspended, too. The file holds what was said, in the clear.
    ///
    /// # Errors
    /// When the session has an adapter, whose weights are not the bundle's, or the file cannot be written; what was at `path` is untouched then.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.save_with(path.as_ref(), None)
    }

    pub(super) fn save_with(&mut self, path: &Path, chat: Option<SavedChat>) -> Result<()> {
        let options = self.options.clone();
        if options.adapter.is_some() {
            return Err(Error::Input("a session with an adapter cannot be saved; start one without".into()));
        }
        let manifest = self.engine.manifest();
        let mut about = About {
            format: FORMAT,
            fingerprint: manifest.fingerprint.clone(),
            model: manifest.provenance.name.clone(),
            context: self.context,
            overflow: options.overflow,
            stick_epsilon: options.stick_epsilon,
            experts_per_token: options.experts_per_token,
            self_contrast: options.self_contrast,
            kept: options.kept,
            chat,
            hash: NO_HASH.into(),
        };
        let io = || Error::io("write to", path);
        // How long the caches are shows when they are written; the header has room for any length.
        let planned = header(&about, self.tokens.len(), usize::MAX / 2, None)?.len();
        let mut file = BufWriter::with_capacity(1 << 20, begin(path)?);
        file.write_all(&vec![b' '; planned]).map_err(io())?;
        let (mut hasher, mut caches) = (blake3::Hasher::new(), 0);
        let tokens: &[u8] = bytemuck::cast_slice(&self.tokens);
        hasher.update(tokens);
        file.write_all(tokens).map_err(io())?;
        self.seat.save(&mut Writer::new(&mut |bytes| {
            hasher.update(bytes);
            caches += bytes.len();
            file.write_all(bytes).map_err(io())
        }))?;
        about.hash = hasher.finalize().to_hex().to_string();
        file.seek(SeekFrom::Start(0)).map_err(io())?;
        file.write_all(&header(&about, self.tokens.len(), caches, Some(planned))?).map_err(io())?;
        keep(file.into_inner().map_err(|e| io()(e.into_error()))?, path)
    }

    /// The session that `path` holds, and what a chat knows beside it.
    pub(super) fn restore(engine: &Engine, path: &Path) -> Result<(Session, Option<SavedChat>)> {
        let wrong = |reason: String| Error::Conversation { path: path.to_owned(), reason };
        let mut file = Saved::open(path)?;
        let about = &file.about;
        let manifest = engine.manifest();
        if about.fingerprint != manifest.fingerprint {
            return Err(wrong(format!(
                "it was saved with another bundle, {:?}, than this one, {:?}",
                about.model, manifest.provenance.name
            )));
        }
        let options = SessionOptions {
            context: Some(about.context),
            overflow: about.overflow,
            stick_epsilon: about.stick_epsilon,
            experts_per_token: about.experts_per_token,
            self_contrast: about.self_contrast,
            adapter: None,
            kept: about.kept.clone(),
        };
        let mut session = engine.session(&options)?;
        let tokens = file.tokens()?;
        session.append(&tokens).map_err(|e| wrong(e.to_string()))?;
        let restored = {
            let Some(mut run) = session.seat.ready(None) else { return Err(Error::Suspended) };
            let restored = run.restore(&mut Reader::new(&mut |to| file.fill(to)));
            let read = run.position();
            match restored {
                Ok(true) if read > tokens.len() => Err(Error::Input(format!("its caches are of {read} tokens, it has {}", tokens.len()))),
                Ok(same) => Ok(same),
                Err(e) => Err(e),
            }
        };
        match restored {
            Ok(same) => {
                if !same {
                    tracing::info!("the conversation will be read again: it was saved on another kind of device");
                }
            }
            Err(Error::Input(reason)) => return Err(wrong(reason)),
            Err(e) => return Err(e),
        }
        file.verify()?;
        Ok((session, file.about.chat))
    }
}

impl Engine {
    /// Goes on with a conversation that [`Session::save`] wrote, with the options it had. On the kind of device that it was saved on nothing is
    /// computed again, and the answers are those that the saved session would have given, bit for bit; on another one it is read
    /// again at the next generation.
    ///
    /// # Errors
    /// When the file is damaged or of another bundle, or the device has no room for it.
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<Session> {
        Ok(Session::restore(self, path.as_ref())?.0)
    }
}

/// A saved conversation, front to back.
struct Saved<'p> {
    path: &'p Path,
    file: BufReader<File>,
    about: About,
    tokens: usize,
    /// Bytes that were not read yet.
    left: usize,
    hasher: blake3::Hasher,
}

impl Saved<'_> {
    fn open(path: &Path) -> Result<Saved<'_>> {
        let wrong = |reason: String| Error::Conversation { path: path.to_owned(), reason };
        let io = || Error::io("read", path);
        let file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(io())?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).map_err(io())?;
        let prefix = start.first_chunk::<8>().map_or(0, |p| u64::from_le_bytes(*p));
        file.by_ref().take(prefix.min(MAX_HEADER as u64)).read_to_end(&mut start).map_err(io())?;
        let header = Header::read(&start).map_err(wrong)?;
        let json = header.metadata.get(KEY).ok_or_else(|| wrong("it is another kind of file".into()))?;
        let about: About = parse_json(json).map_err(wrong)?;
        if about.format == 0 || about.format > FORMAT {
            return Err(wrong(format!("its format {} is not {FORMAT}, the newest this program knows", about.format)));
        }
        let range = |name: &str| header.tensors.get(name).map(|t| t.data_offsets);
        let (Some([0, end]), Some([begin, all])) = (range("tokens"), range("caches")) else {
            return Err(wrong("it has no tokens or no caches".into()));
        };
        if header.tensors.len() != 2 || begin != end || all < end || !end.is_multiple_of(4) || end / 4 > MAX_CONTEXT {
            return Err(wrong("its parts contradict each other".into()));
        }
        if length != (header.end as u64).saturating_add(all as u64) {
            return Err(wrong(format!("it should have {} bytes, it has {length}", header.end.saturating_add(all))));
        }
        Ok(Saved { path, file, about, tokens: end / 4, left: all, hasher: blake3::Hasher::new() })
    }

    fn wrong(&self, reason: &str) -> Error {
        Error::Conversation { path: self.path.to_owned(), reason: reason.into() }
    }

    fn tokens(&mut self) -> Result<Vec<u32>> {
        let mut tokens = vec![0; self.tokens];
        self.fill(bytemuck::cast_slice_mut(&mut tokens))?;
        Ok(tokens)
    }

    /// The next bytes.
    fn fill(&mut self, to: &mut [u8]) -> Result<()> {
        self.left = self.left.checked_sub(to.len()).ok_or_else(|| self.wrong("its caches end too early"))?;
        self.file.read_exact(to).map_err(Error::io("read", self.path))?;
        self.hasher.update(to);
        Ok(())
    }

    /// Reads what is left, and compares all with the hash.
    fn verify(&mut self) -> Result<()> {
        let mut rest = vec![0; self.left.min(1 << 20)];
        while self.left > 0 {
            let now = self.left.min(rest.len());
            self.fill(&mut rest[..now])?;
        }
        match self.hasher.finalize().to_hex().as_str() == self.about.hash {
            true => Ok(()),
            false => Err(self.wrong("it does not match its hash")),
        }
    }
}

/// Length prefix and JSON, in `len` bytes if that is given.
fn header(about: &About, tokens: usize, caches: usize, len: Option<usize>) -> Result<Vec<u8>> {
    let text = serde_json::to_string(about).map_err(|e| Error::Input(e.to_string()))?;
    safetensors(KEY, &text, &[Entry::plain("tokens", tokens * 4), Entry::plain("caches", caches)], len)
}
