//! Chat templates: a list of messages → one prompt, as checkpoints define it in Jinja.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};

use super::Tokenizer;
use super::clock::strftime_now;
use crate::error::{Error, Result};

/// For bundles without a template. Such a model continues text: each message begins on a line of its own, and an answer follows
/// directly on what it answers.
const PLAIN: &str = "{% if add_bos %}{{ bos_token }}{% endif %}{% for message in messages %}\
    {% if not loop.first and message.role != 'assistant' %}{{ '\\n' }}{% endif %}{{ message.content }}{% endfor %}";

/// Stands inside every special token that a message merely spells, so that it stays text: a code point that Unicode sets apart for
/// internal use, removed from messages beforehand.
const SPLIT: char = '\u{fdd0}';

/// Instructions one rendering may take: thousands of messages, but not for ever.
const FUEL: u64 = 50_000_000;

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
    fn name(self) -> &'static str {
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
    /// When the template is faulty or refuses the messages; its own words are passed on.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String> {
        let template = self.settings.chat_template.as_deref().unwrap_or(PLAIN);
        let messages: Vec<Value> = messages.iter().map(|m| context! { role => m.role.name(), content => self.guard(&m.content) }).collect();
        let spelled = |token: Option<u32>| token.and_then(|t| self.spelling(t)).unwrap_or_default();
        let variables = context! {
            messages,
            add_generation_prompt => true,
            add_bos => self.settings.add_bos,
            bos_token => spelled(self.settings.bos),
            eos_token => spelled(self.settings.eos.first().copied()),
            tools => (),
            documents => (),
        };
        let template = without_generation_tags(template);
        environment().render_str(&template, variables).map_err(|e| Error::Text(format!("the bundle's chat template failed: {e}")))
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

/// Training marks what the model says with `{% generation %}…{% endgeneration %}`, which Jinja does not know. Here they become a block
/// that is always taken, so that white space around them counts as it should.
fn without_generation_tags(template: &str) -> String {
    let mut parts = template.split("{%");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (tag, rest) = part.split_at(part.find("%}").unwrap_or(0));
        let tag = match tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        out.extend(["{%", &tag, rest]);
    }
    out
}

fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the standard delimiters are consistent"));
    env.set_fuel(Some(FUEL));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", tojson);
    env.add_function("strftime_now", |format: String| strftime_now(&format));
    env.add_function("raise_exception", |message: String| -> std::result::Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env
}

/// JSON as Python writes it: the built-in filter also escapes characters that matter in HTML only.
fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let escaped = minijinja::filters::tojson(value, indent, args)?.to_string();
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped.as_str();
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        rest = &rest[i..];
        let plain = [("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&"), ("\\u0027", "'")].into_iter().find(|(e, _)| rest.starts_with(e));
        // Any other escape is two characters at least, both ASCII.
        let (taken, text) = plain.map_or((2, &rest[..2]), |(e, c)| (e.len(), c));
        out.push_str(text);
        rest = &rest[taken..];
    }
    out.push_str(rest);
    Ok(Value::from_safe_string(out))
}
