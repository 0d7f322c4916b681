//! `hotset chat`: talk to a model.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hotset::profile::Kept;
use hotset::{CancelToken, Chat, Completion, Engine, GenerateOptions, Sampling, StopReason};

use super::run::summary;
use crate::failure::{Failure, Result};
use crate::options::{DeviceArgs, KeepArgs, OverlayArgs, SamplingArgs, SessionArgs, bundle_or_demo};
use crate::profiling::{Recording, load};
use crate::terminal::{Input, Line};

const HELP: &str = "\
/system TEXT  tell the model how to behave; without TEXT, nothing
/reset        forget the conversation
/profile P R  use only the experts that profile P ranks highest, a share R of their bytes; without P and R, all
/stats        how fast the last answer was, and how full the context is
/save FILE    write the conversation as JSON messages
/keep FILE    write it with everything it takes to go on at once: `hotset chat --restore FILE`
/help         this
/quit         leave (or Ctrl-D)
A line that ends in \\ goes on in the next. Ctrl-C stops an answer.";

/// Talk to a model
///
/// Each line is a message; a line that ends in `\` goes on in the next; `/help` lists commands. A bundle without a chat template holds a
/// model that continues text: it continues what you write. In a pipe, each line is a message and the answers go to stdout.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bundle to run [default: the demo bundle]
    bundle: Option<PathBuf>,
    /// Tell the model how to behave
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of one answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,
    /// Go on with a conversation that `/keep` wrote, with the context and experts that it had
    #[arg(long, value_name = "FILE", conflicts_with_all = ["system", "record", "SessionArgs"])]
    restore: Option<PathBuf>,
    /// Count which experts are used, and add that to this profile (slower on a GPU, which knows no lengths of outputs)
    #[arg(long, value_name = "P.json")]
    record: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    context: SessionArgs,
    /// Defaults here: --temp 0.8 --top-k 40 --top-p 0.95, and another seed every time
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs the command.
pub(crate) fn run(args: Args) -> Result<()> {
    let engine = args.device.open_with(&bundle_or_demo(args.bundle)?, &args.overlay)?;
    let (chat, recording) = match &args.restore {
        Some(path) => (Chat::restore(&engine, path)?, None),
        None => {
            let mut session = args.context.session(&engine)?;
            let recording = args.record.map(|path| Recording::begin(path, "chat", &mut session)).transpose()?;
            let mut chat = Chat::new(session)?;
            chat.set_system(args.system.as_deref().unwrap_or_default());
            (chat, recording)
        }
    };
    let default = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, seed: clock(), ..Sampling::default() };
    let options = args.sampling.options(args.max_tokens, default);
    let mut input = Input::open()?;
    if input.is_terminal() {
        greet(&engine, &chat);
        stop_answers_on_ctrl_c(options.cancel.clone())?;
    }
    let mut talk = Talk { engine: engine.clone(), context: args.context, chat, recording, options, last: None };
    let talked = talk.converse(&mut input);
    talk.recording.take().map_or(Ok(()), |r| r.finish(talk.chat.session_mut()))?;
    talked?;
    args.device.keep_heat(&engine)
}

struct Talk {
    engine: Engine,
    context: SessionArgs,
    chat: Chat,
    recording: Option<Recording>,
    options: GenerateOptions,
    last: Option<Completion>,
}

impl Talk {
    fn converse(&mut self, input: &mut Input) -> Result<()> {
        loop {
            match input.next()? {
                Line::End => return Ok(()),
                Line::Interrupted => note("Ctrl-D or /quit leaves"),
                Line::Text(line) if line.trim().is_empty() => {}
                Line::Text(line) => match self.take(&line) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    // A person can do something about it; a script cannot.
                    Err(Failure::Closed) => return Err(Failure::Closed),
                    Err(failure) if input.is_terminal() => note(&format!("{failure} (/reset starts afresh)")),
                    Err(failure) => return Err(failure),
                },
            }
        }
    }

    /// Obeys a command or asks the model; `false` to leave.
    fn take(&mut self, line: &str) -> Result<bool> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "/quit" | "/exit" => return Ok(false),
            "/help" => note(HELP),
            "/reset" => self.chat.reset(),
            "/system" => self.chat.set_system(rest),
            "/profile" => self.profile(rest)?,
            "/stats" => self.stats(),
            "/save" => self.save(rest)?,
            "/keep" => self.keep_at(rest)?,
            c if c.starts_with('/') => note(&format!("{c} is no command; /help lists them")),
            _ => self.ask(line)?,
        }
        Ok(true)
    }

    fn ask(&mut self, text: &str) -> Result<()> {
        let mut out = stdout().lock();
        let mut written = Ok(());
        let cancel = self.options.cancel.clone();
        cancel.reset();
        let completion = self.chat.ask(text, &self.options, |token| {
            if written.is_ok() && !token.text.is_empty() {
                written = out.write_all(token.text.as_bytes()).and_then(|()| out.flush());
                if written.is_err() {
                    cancel.cancel();
                }
            }
        })?;
        written?;
        writeln!(out)?;
        match completion.stop {
            StopReason::Cancelled => note("[stopped]"),
            StopReason::MaxTokens => note("[-n reached]"),
            StopReason::Context => note("[the context is full; /reset starts afresh, --slide would forget the beginning]"),
            StopReason::Eos | StopReason::StopString | StopReason::Failed => {}
        }
        // The same seed again would give the same words to the same question.
        self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
        self.last = Some(completion);
        Ok(())
    }

    /// The experts that a profile ranks highest.
    fn keep(&self, path: &Path, keep: f64) -> Result<Kept> {
        let profile = load(path)?;
        Ok(profile.keep(self.engine.bundle(), &KeepArgs::default().options_for(&profile, keep))?)
    }

    /// Goes on with other experts; what was said stays.
    fn profile(&mut self, words: &str) -> Result<()> {
        let kept = match words.rsplit_once(char::is_whitespace).map(|(path, keep)| (path.trim(), keep.parse())) {
            None if words.is_empty() => None,
            Some((path, Ok(keep))) => Some(self.keep(Path::new(path), keep)?),
            _ => return Err(Failure::new("/profile needs a profile and a share, such as `/profile cooking.json 0.5`")),
        };
        let said = kept.as_ref().map_or("all experts".to_owned(), |kept| {
            let [part, all] = [kept, &Kept::all(self.engine.plan())].map(|k| k.bytes(self.engine.bundle()) as f64);
            format!("{:.0} % of the experts' bytes", part / all * 100.0)
        });
        let mut session = self.context.session_with(&self.engine, kept)?;
        if self.recording.is_some() {
            session.record_use()?;
        }
        let mut left = self.chat.move_to(session)?;
        self.recording.iter_mut().try_for_each(|r| r.collect(&mut left))?;
        note(&format!("from here on with {said}"));
        Ok(())
    }

    fn stats(&self) {
        let session = self.chat.session();
        let full = format!("context {} of {}", session.tokens().len(), session.context());
        match &self.last {
            Some(completion) => note(&format!("{}\n{full}", summary(&completion.statistics))),
            None => note(&full),
        }
        if let Some(p) = self.engine.report().paging {
            let mib = |bytes: u64| bytes >> 20;
            let hits = p.counts.hit_rate().map_or("-".into(), |h| format!("{:.1} %", h * 100.0));
            let (slots, experts, budget, read) = (mib(p.slots), mib(p.experts), mib(p.budget), mib(p.bytes_read));
            note(&format!("budget {budget} MiB, {slots} of {experts} MiB of experts in memory, {hits} hits, {read} MiB read"));
        }
    }

    fn keep_at(&mut self, path: &str) -> Result<()> {
        if path.is_empty() {
            return Err(Failure::new("/keep needs a file name"));
        }
        self.chat.save(path)?;
        note(&format!("kept in {path}"));
        Ok(())
    }

    fn save(&self, path: &str) -> Result<()> {
        if path.is_empty() {
            return Err(Failure::new("/save needs a file name"));
        }
        let text = serde_json::to_string_pretty(self.chat.messages())?;
        std::fs::write(path, text + "\n").map_err(|source| hotset::Error::Io { action: "write to", path: path.into(), source })?;
        note(&format!("saved to {path}"));
        Ok(())
    }
}

fn greet(engine: &Engine, chat: &Chat) {
    note(&format!("{} on {}, context {}; /help", engine.manifest().provenance.name, engine.report().device, chat.session().context()));
    if engine.manifest().text.as_ref().is_some_and(|t| t.chat_template.is_none()) {
        note("This bundle has no chat template: the model continues what you write.");
    }
}

/// At the prompt the line editor sees Ctrl-C first; this is for the time of an answer.
fn stop_answers_on_ctrl_c(cancel: CancelToken) -> Result<()> {
    ctrlc::set_handler(move || cancel.cancel()).map_err(|e| Failure::new(format!("Ctrl-C cannot be handled: {e}")))
}

/// A word from the program, apart from the model's: on stderr, dim where that can be shown.
fn note(text: &str) {
    if stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        eprintln!("\x1b[2m{text}\x1b[0m");
    } else {
        eprintln!("{text}");
    }
}

fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
