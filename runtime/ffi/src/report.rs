//! What an app can learn.

use std::time::Duration;

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum Role {
    /// What tells the model how to behave.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Part of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub text: String,
}

impl From<&hotset::text::Message> for Message {
    fn from(m: &hotset::text::Message) -> Message {
        let role = match m.role {
            hotset::text::Role::System => Role::System,
            hotset::text::Role::User => Role::User,
            hotset::text::Role::Assistant => Role::Assistant,
        };
        Message { role, text: m.content.clone() }
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is decided with it: whole characters; empty while more tokens are needed to decide.
    pub text: String,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, uniffi::Enum)]
pub enum StopReason {
    /// The model ended it.
    End,
    /// A stop text came.
    StopText,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
    /// Something failed; the stream has thrown what.
    Failed,
}

impl From<hotset::StopReason> for StopReason {
    fn from(s: hotset::StopReason) -> StopReason {
        match s {
            hotset::StopReason::Eos => StopReason::End,
            hotset::StopReason::StopString => StopReason::StopText,
            hotset::StopReason::MaxTokens => StopReason::MaxTokens,
            hotset::StopReason::Context => StopReason::ContextFull,
            hotset::StopReason::Cancelled => StopReason::Cancelled,
            hotset::StopReason::Failed => StopReason::Failed,
        }
    }
}

/// How much was done for an answer, and how fast. Up to date while it is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, uniffi::Record)]
pub struct Statistics {
    /// Tokens that the model read first: what was new in the conversation.
    pub prompt_tokens: u64,
    /// Tokens that it generated, delivered or not.
    pub generated_tokens: u64,
    /// Seconds until the first token was there; `None` before.
    pub first_token_seconds: Option<f64>,
    /// Tokens per second after the first; `None` before the second.
    pub tokens_per_second: Option<f64>,
}

impl From<hotset::Statistics> for Statistics {
    fn from(s: hotset::Statistics) -> Statistics {
        Statistics {
            prompt_tokens: s.prompt_tokens as u64,
            generated_tokens: s.generated_tokens as u64,
            first_token_seconds: s.first_token.as_ref().map(Duration::as_secs_f64),
            tokens_per_second: s.decode_rate(),
        }
    }
}

/// What an engine is made of.
#[derive(Clone, Debug, PartialEq, Eq, uniffi::Record)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Identifies the bundle's weights and plan.
    pub fingerprint: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Tokens that the model was trained to look back at, if that is known.
    pub trained_context: Option<u32>,
    /// Whether it was made for conversations: it has a chat template.
    pub chats: bool,
    /// The device, as its driver or the system names it, and the path it takes.
    pub device: String,
    /// Whether that is a GPU.
    pub gpu: bool,
}

/// What a model takes of the device's memory, and how it fares with that. Bytes; totals since the engine was opened or resumed.
#[derive(Clone, Debug, Default, PartialEq, uniffi::Record)]
pub struct MemoryReport {
    /// The budget in force; `None` when the model is resident as a whole.
    pub budget: Option<u64>,
    /// The smallest budget that works.
    pub least: Option<u64>,
    /// What the model takes now. A model on the CPU without a budget reads its file where it is, and the system takes back what it needs.
    pub used: u64,
    /// What of it holds experts.
    pub experts: u64,
    /// All experts of the bundle.
    pub all_experts: Option<u64>,
    /// Experts that were wanted and there, and those that had to be read.
    pub hits: u64,
    /// See `hits`.
    pub misses: u64,
    /// Share of hits; `None` before any expert was wanted, and when all are resident.
    pub hit_rate: Option<f64>,
    /// Bytes of experts read from the file.
    pub bytes_read: u64,
    /// Whether the engine is suspended.
    pub suspended: bool,
}
