//! Generation: read what is new, then token after token until something ends it.

use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::sampler::Sampler;
use super::stop::StopFilter;
use super::{CancelToken, PREFILL_CHUNK, Sampling, Session, empty, no_answer};
use crate::error::{Error, Result};
use crate::model::{Output, Want};
use crate::text::Utf8Stream;

/// How to continue a conversation.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// Text that ends the answer, without being shown.
    pub stop: Vec<String>,
    /// Whether to go on after tokens that end an answer.
    pub ignore_eos: bool,
    /// Stops the generation from elsewhere.
    pub cancel: CancelToken,
}

impl Default for GenerateOptions {
    /// Up to 256 tokens, greedily.
    fn default() -> GenerateOptions {
        GenerateOptions { max_tokens: 256, sampling: Sampling::default(), stop: Vec::new(), ignore_eos: false, cancel: CancelToken::new() }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is decided with it: whole characters, never a part of a stop string. Empty while more tokens are needed to decide,
    /// for special tokens, and when the bundle has no tokenizer.
    pub text: String,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its answer.
    Eos,
    /// A stop string came.
    StopString,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    Context,
    /// Somebody cancelled, or dropped the stream before its end.
    Cancelled,
    /// The device failed.
    Failed,
}

/// How much was done, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Tokens the model read before it generated: what was new in the conversation.
    pub prompt_tokens: usize,
    /// Tokens it generated.
    pub generated_tokens: usize,
    /// Time for reading the prompt.
    #[serde(rename = "prefill_seconds", serialize_with = "seconds")]
    pub prefill: Duration,
    /// Time for all tokens after the first.
    #[serde(rename = "decode_seconds", serialize_with = "seconds")]
    pub decode: Duration,
    /// Time until the first token was there.
    #[serde(rename = "first_token_seconds", serialize_with = "optional_seconds")]
    pub first_token: Option<Duration>,
}

fn seconds<S: Serializer>(time: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(time.as_secs_f64())
}

fn optional_seconds<S: Serializer>(time: &Option<Duration>, s: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(|t| t.as_secs_f64()).serialize(s)
}

impl Statistics {
    /// Prompt tokens read per second.
    pub fn prefill_rate(&self) -> Option<f64> {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Tokens generated per second, the first not counted: it comes with the prompt.
    pub fn decode_rate(&self) -> Option<f64> {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The whole text. After a cancellation it may end with a few characters that were held back from the stream.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// How much, how fast.
    pub statistics: Statistics,
}

/// A generation under way: an iterator over its tokens.
#[derive(Debug)]
pub struct Stream<'s> {
    session: &'s mut Session,
    max_tokens: usize,
    ignore_eos: bool,
    cancel: CancelToken,
    sampler: Sampler,
    utf8: Utf8Stream,
    filter: StopFilter,
    /// Nothing but special tokens stands before the next token.
    at_start: bool,
    text: String,
    stop: Option<StopReason>,
    statistics: Statistics,
}

impl<'s> Stream<'s> {
    pub(super) fn new(session: &'s mut Session, options: &GenerateOptions) -> Result<Stream<'s>> {
        options.sampling.validate()?;
        if session.tokens.is_empty() {
            return Err(empty());
        }
        if session.read() == session.tokens.len() {
            return Err(Error::Input("the model has read the whole conversation; append the token to go on from".into()));
        }
        session.check_room(session.tokens.len())?;
        if !options.stop.is_empty() {
            session.engine.tokenizer()?;
        }
        let at_start = session.engine.tokenizer().is_ok_and(|t| session.tokens.iter().all(|&id| t.is_special(id)));
        Ok(Stream {
            max_tokens: options.max_tokens,
            ignore_eos: options.ignore_eos,
            cancel: options.cancel.clone(),
            sampler: Sampler::new(options.sampling.clone()),
            utf8: Utf8Stream::default(),
            filter: StopFilter::new(&options.stop),
            at_start,
            text: String::new(),
            stop: (options.max_tokens == 0).then_some(StopReason::MaxTokens),
            statistics: Statistics::default(),
            session,
        })
    }

    /// How much was done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Ends the generation here, wherever it is, and sums it up.
    pub fn finish(mut self) -> Completion {
        self.utf8.finish(&mut self.text);
        self.text += &self.filter.finish();
        Completion { text: self.text, stop: self.stop.unwrap_or(StopReason::Cancelled), statistics: self.statistics }
    }

    /// Reads what the model has not read and draws one token; `None` when cancelled before.
    fn step(&mut self) -> Result<Option<u32>> {
        let started = Instant::now();
        let Some(output) = self.read()? else { return Ok(None) };
        let token = self.sampler.draw(output).ok_or_else(no_answer)?;
        let s = &mut self.statistics;
        s.generated_tokens += 1;
        match s.first_token {
            None => s.first_token = Some(started.elapsed()),
            Some(_) => s.decode += started.elapsed(),
        }
        Ok(Some(token))
    }

    fn read(&mut self) -> Result<Option<Output>> {
        let session = &mut *self.session;
        let end = session.tokens.len();
        loop {
            if self.cancel.is_cancelled() {
                return Ok(None);
            }
            // While the engine is suspended this waits.
            let Some(mut run) = session.seat.ready(Some(&self.cancel)) else { return Ok(None) };
            let started = Instant::now();
            let start = run.position();
            let last = end - start <= PREFILL_CHUNK;
            let chunk = &session.tokens[start..if last { end } else { start + PREFILL_CHUNK }];
            let want = if last { self.sampler.want(&session.tokens) } else { Want::Nothing };
            let output = run.forward(chunk, want)?;
            if self.statistics.first_token.is_none() {
                self.statistics.prompt_tokens += chunk.len();
                self.statistics.prefill += started.elapsed();
            }
            if last {
                return Ok(Some(output));
            }
        }
    }

    /// The text that `token` decides; sets `stop` when it ends the answer.
    fn accept(&mut self, token: u32) -> String {
        let full = self.session.check_room(self.session.tokens.len()).is_err();
        let mut stop = match self.statistics.generated_tokens {
            n if n >= self.max_tokens => Some(StopReason::MaxTokens),
            _ if full => Some(StopReason::Context),
            _ => None,
        };
        let Ok(tokenizer) = self.session.engine.tokenizer() else {
            self.stop = stop;
            return String::new();
        };
        let (mut bytes, mut decided) = (Vec::new(), String::new());
        if tokenizer.is_special(token) {
            let is_stop = tokenizer.spelling(token).is_some_and(|s| self.filter.is_stop(&s));
            stop = if is_stop { Some(StopReason::StopString) } else { stop };
        } else {
            tokenizer.bytes(token, &mut bytes);
            let skip = if std::mem::take(&mut self.at_start) { tokenizer.leading(&bytes) } else { 0 };
            self.utf8.push(&bytes[skip..], &mut decided);
        }
        if !self.ignore_eos && tokenizer.eos().contains(&token) {
            stop = Some(StopReason::Eos);
        }
        if stop.is_some() {
            self.utf8.finish(&mut decided);
        }
        let (mut text, stopped) = self.filter.push(&decided);
        match (stopped, stop) {
            (true, _) => stop = Some(StopReason::StopString),
            (false, Some(_)) => text += &self.filter.finish(),
            (false, None) => {}
        }
        self.stop = stop;
        self.text += &text;
        text
    }
}

impl Iterator for Stream<'_> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        if self.stop.is_some() {
            return None;
        }
        match self.step() {
            Ok(Some(id)) => {
                self.session.tokens.push(id);
                Some(Ok(Token { id, text: self.accept(id) }))
            }
            Ok(None) => {
                self.stop = Some(StopReason::Cancelled);
                None
            }
            Err(e) => {
                self.stop = Some(StopReason::Failed);
                Some(Err(e))
            }
        }
    }
}
