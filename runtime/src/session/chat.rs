//! Chat: a session that speaks the bundle's chat template.

use std::path::Path;

use super::saved::SavedChat;
use super::{Completion, GenerateOptions, Session, StopReason, Token};
use crate::engine::Engine;
use crate::error::Result;
use crate::text::{Message, Role};

/// A conversation of messages.
///
/// The template is rendered for the whole conversation every time; as long as the result begins with what the session holds already,
/// only the new part is read. Otherwise (a template that drops earlier reasoning, another system message) the session is taken back to
/// where the two differ.
#[derive(Debug)]
pub struct Chat {
    session: Session,
    messages: Vec<Message>,
    /// The text whose tokens the session holds; `None` when its tokens cannot be written as text.
    transcript: Option<String>,
}

impl Chat {
    /// Starts a conversation in an empty or used session; what the session holds is kept only as far as it fits the messages.
    ///
    /// # Errors
    /// When the bundle has no tokenizer.
    pub fn new(session: Session) -> Result<Chat> {
        session.engine().tokenizer()?;
        Ok(Chat { session, messages: Vec::new(), transcript: None })
    }

    /// Writes the conversation to a file, as [`Session::save`] does, with its messages.
    ///
    /// # Errors
    /// As [`Session::save`].
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let chat = SavedChat { messages: self.messages.clone(), transcript: self.transcript.clone() };
        self.session.save_with(path.as_ref(), Some(chat))
    }

    /// Goes on with a conversation that [`save`](Self::save) wrote; of one that [`Session::save`] wrote there are no messages.
    ///
    /// # Errors
    /// As [`Engine::restore`], and when the bundle has no tokenizer.
    pub fn restore(engine: &Engine, path: impl AsRef<Path>) -> Result<Chat> {
        let (session, saved) = Session::restore(engine, path.as_ref())?;
        let chat = Chat::new(session)?;
        Ok(match saved {
            None => chat,
            Some(SavedChat { messages, transcript }) => Chat { messages, transcript, ..chat },
        })
    }

    /// All messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The session underneath.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session underneath, to take what it [recorded](Session::record_use), say. What is appended to it or truncated by hand is not in
    /// the messages.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Goes on in another session, one with other options: the messages stay, and are read again there. Gives back the session that was left.
    ///
    /// # Errors
    /// When its bundle has no tokenizer.
    pub fn move_to(&mut self, session: Session) -> Result<Session> {
        session.engine().tokenizer()?;
        self.transcript = None;
        Ok(std::mem::replace(&mut self.session, session))
    }

    /// Tells the model how to behave, from the next answer on; empty text tells it nothing.
    pub fn set_system(&mut self, text: &str) {
        self.messages.retain(|m| m.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Forgets all messages but the system's.
    pub fn reset(&mut self) {
        self.messages.retain(|m| m.role == Role::System);
        self.transcript = None;
        self.session.reset();
    }

    /// Says `text` and streams the model's answer to `sink`.
    ///
    /// An answer that is cancelled half-way stays in the conversation as it is. A message that gets no answer at all, be it for an error
    /// or a cancellation, is taken back.
    ///
    /// # Errors
    /// When the template refuses the messages, the conversation does not fit the context, or the device fails.
    pub fn ask(&mut self, text: &str, options: &GenerateOptions, sink: impl FnMut(Token)) -> Result<Completion> {
        self.messages.push(Message::new(Role::User, text));
        let result = self.answer(options, sink);
        match &result {
            Ok(completion) if completion.statistics.generated_tokens > 0 => {
                self.messages.push(Message::new(Role::Assistant, completion.text.clone()));
            }
            _ => {
                self.messages.pop();
                self.transcript = None;
            }
        }
        result
    }

    fn answer(&mut self, options: &GenerateOptions, sink: impl FnMut(Token)) -> Result<Completion> {
        let mut transcript = self.prepare()?;
        let start = self.session.tokens().len();
        let completion = self.session.generate(options, sink)?;

        let tokenizer = self.session.engine().tokenizer()?;
        transcript += &tokenizer.guard(&completion.text);
        let mut answer = &self.session.tokens()[start..];
        if completion.stop == StopReason::Eos
            && let Some((eos, before)) = answer.split_last()
        {
            transcript += &tokenizer.spelling(*eos).unwrap_or_default();
            answer = before;
        }
        let plain = completion.stop != StopReason::StopString && !answer.iter().any(|&t| tokenizer.is_special(t));
        self.transcript = plain.then_some(transcript);
        Ok(completion)
    }

    /// Makes the session hold the prompt for the messages, and returns that prompt.
    fn prepare(&mut self) -> Result<String> {
        let tokenizer = self.session.engine().tokenizer()?;
        let prompt = tokenizer.render_chat(&self.messages)?;
        let held = self.transcript.take();
        match held.and_then(|t| prompt.strip_prefix(&t)).filter(|new| !new.is_empty()) {
            Some(new) => {
                let tokens = tokenizer.encode_chat(new)?;
                self.session.append(&tokens)?;
            }
            None => {
                let tokens = tokenizer.encode_chat(&prompt)?;
                self.session.check_room(tokens.len())?;
                let same = self.session.tokens().iter().zip(&tokens).take_while(|(a, b)| a == b).count();
                // At least one token must be left to read.
                let keep = same.min(tokens.len().saturating_sub(1));
                self.session.truncate(keep);
                self.session.append(&tokens[keep..])?;
            }
        }
        Ok(prompt)
    }
}
