//! Chat templates in Jinja, as checkpoints bring them.

mod clock;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};

use super::Message;
use crate::error::{Error, Result};
use clock::strftime_now;

/// Instructions one rendering may take: thousands of messages, but not for ever.
const FUEL: u64 = 50_000_000;

/// What `template` makes of `messages`, with the spellings of two special tokens.
///
/// # Errors
/// When it is faulty or refuses the messages.
pub(super) fn render(template: &str, messages: &[Message], bos: &str, eos: &str) -> Result<String> {
    let messages: Vec<Value> = messages.iter().map(|m| context! { role => m.role.name(), content => m.content.as_str() }).collect();
    let variables = context! {
        messages,
        add_generation_prompt => true,
        bos_token => bos,
        eos_token => eos,
        tools => (),
        documents => (),
    };
    let template = without_generation_tags(template);
    environment().render_str(&template, variables).map_err(|e| Error::Text(format!("the bundle's chat template failed: {e}")))
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
