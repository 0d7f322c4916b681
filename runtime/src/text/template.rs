//! Chat: a list of messages → one prompt, by the bundle's template or as plain text.

use super::Tokenizer;
use super::jinja::render;
use crate::error::Result;

/// Stands inside every special token that a message merely spells, so that it stays text: a code point that Unicode sets apart for
/// internal use, removed from messages beforehand.
const SPLIT: char = '\u{fdd0}';

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The application: how to behave.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// As templates call it.
    pub const fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said. It is text only: special tokens spelled in it are not obeyed.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

impl Tokenizer {
    /// The prompt that asks for an answer to `messages`, by the bundle's template or, without one, as plain text to be continued.
    ///
    /// The environment is that of the `transformers` library: the same whitespace rules, `tojson`, `raise_exception`, `strftime_now`
    /// (UTC), Python's string and dictionary methods, and the variables `messages`, `add_generation_prompt`, `bos_token`, `eos_token`,
    /// `tools` and `documents` (both none); `{% generation %}` blocks. The prompt is meant for [`encode_chat`](Self::encode_chat).
    ///
    /// # Errors
    /// When the template is faulty or refuses the messages; its own words are passed on. When there is one and this build has no
    /// templates (cargo feature `templates`).
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
        let messages: Vec<Message> = messages.iter().map(|m| Message::new(m.role, self.guard(&m.content))).collect();
        let spelled = |token: Option<u32>| token.and_then(|t| self.spelling(t)).unwrap_or_default();
        match &self.settings.chat_template {
            Some(template) => render(template, &messages, &spelled(self.settings.bos), &spelled(self.settings.eos.first().copied())),
            None => Ok(continued(spelled(self.bos()), &messages)),
        }
    }

    /// Token ids of a prompt made by [`render_chat`](Self::render_chat): special tokens that the template wrote become those tokens,
    /// those that messages merely spell stay text. The template has placed the beginning-of-sequence token, if any.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_chat(&self, prompt: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for piece in prompt.split(SPLIT).filter(|p| !p.is_empty()) {
            ids.extend(self.encode(piece)?);
        }
        Ok(ids)
    }

    /// `text` with every special token in it broken apart.
    pub(crate) fn guard(&self, text: &str) -> String {
        let mut text = text.replace(SPLIT, "");
        let mut at: Vec<usize> = self.specials.iter().flat_map(|s| text.match_indices(s.as_str()).map(|(i, _)| i)).collect();
        at.sort_unstable();
        at.dedup();
        for start in at.into_iter().rev() {
            let first = text[start..].chars().next().map_or(0, char::len_utf8);
            text.insert(start + first, SPLIT);
        }
        text
    }
}

/// The prompt of a bundle without a template. Such a model continues text: each message begins on a line of its own, and an answer follows
/// directly on what it answers.
fn continued(bos: String, messages: &[Message]) -> String {
    let mut prompt = bos;
    for (i, message) in messages.iter().enumerate() {
        if i > 0 && message.role != Role::Assistant {
            prompt.push('\n');
        }
        prompt += &message.content;
    }
    prompt
}
