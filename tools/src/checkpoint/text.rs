//! What turns text into tokens: `tokenizer.json`, the chat template, and the tokens that begin and end a text.

use std::path::Path;

use hotset::bundle::Text;
use serde_json::{Map, Value};

use super::{bytes, json};
use crate::failure::{Failure, Result};

/// A checkpoint's tokenizer.
pub(crate) struct Tokenizer {
    /// `tokenizer.json`, as it is.
    pub(crate) json: Vec<u8>,
    pub(crate) text: Text,
}

impl Tokenizer {
    /// Reads what the folder has; `None` without a `tokenizer.json`. Tokens the model of `vocab` ids does not know are left out.
    pub(super) fn read(folder: &Path, config: &Map<String, Value>, vocab: u32) -> Result<Option<Tokenizer>> {
        let path = folder.join("tokenizer.json");
        let Some(contents) = bytes(&path)? else { return Ok(None) };
        let parsed: Value =
            serde_json::from_slice(&contents).map_err(|e| Failure::new(format!("{} is not valid JSON: {e}", path.display())))?;
        let file = |name| Ok::<_, Failure>(json(&folder.join(name))?.unwrap_or_default());
        let (settings, map, generation) =
            (file("tokenizer_config.json")?, file("special_tokens_map.json")?, file("generation_config.json")?);
        let known = |id: &u32| *id < vocab;
        let token = |key: &str| {
            let text = settings.get(key).or_else(|| map.get(key)).and_then(content)?;
            token_id(&parsed, text).filter(known)
        };
        let configured = |key: &str| generation.get(key).or_else(|| config.get(key)).map(ids).unwrap_or_default();

        let first = first_token(&parsed).filter(known);
        let bos = first.or_else(|| token("bos_token")).or_else(|| configured("bos_token_id").first().copied().filter(known));
        let add_bos = settings.get("add_bos_token").and_then(Value::as_bool).unwrap_or(first.is_some());
        let mut eos: Vec<u32> = configured("eos_token_id").into_iter().chain(token("eos_token")).filter(known).collect();
        eos.sort_unstable();
        eos.dedup();
        let chat_template = chat_template(folder, &settings)?;
        Ok(Some(Tokenizer { json: contents, text: Text { chat_template, bos, add_bos: add_bos && bos.is_some(), eos } }))
    }
}

/// A token's text, plain or as an object.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// One id or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    value.as_array().map_or_else(|| id(value).into_iter().collect(), |list| list.iter().filter_map(id).collect())
}

/// The id of a token in `tokenizer.json`: an added token, or one of the model's vocabulary (a map, or a list of pairs).
fn token_id(tokenizer: &Value, text: &str) -> Option<u32> {
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let id = added.into_iter().find(|t| t.get("content").and_then(Value::as_str) == Some(text)).and_then(|t| t.get("id"));
    let vocab = tokenizer.pointer("/model/vocab");
    let listed = || vocab?.as_array()?.iter().position(|pair| pair.get(0).and_then(Value::as_str) == Some(text));
    let id = id.or_else(|| vocab?.get(text)).and_then(Value::as_u64).or_else(|| listed().map(|i| i as u64))?;
    u32::try_from(id).ok()
}

/// The token that the tokenizer's own post-processing puts in front of a single text.
fn first_token(tokenizer: &Value) -> Option<u32> {
    let post = tokenizer.get("post_processor")?;
    let steps = post.get("processors").and_then(Value::as_array).map_or(std::slice::from_ref(post), Vec::as_slice);
    let template = steps.iter().find(|p| p.get("type").and_then(Value::as_str) == Some("TemplateProcessing"))?;
    let name = template.pointer("/single/0/SpecialToken/id")?.as_str()?;
    let id = template.get("special_tokens").and_then(|t| t.get(name)?.get("ids")?.get(0)?.as_u64());
    id.and_then(|id| u32::try_from(id).ok()).or_else(|| token_id(tokenizer, name))
}

/// The chat template: in a file of its own, or in `tokenizer_config.json` as text or as a list of named ones.
fn chat_template(folder: &Path, settings: &Map<String, Value>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if let Some(contents) = bytes(&path)? {
        let text = String::from_utf8(contents).map_err(|_| Failure::new(format!("{} is not UTF-8 text", path.display())))?;
        return Ok(Some(text));
    }
    let in_json = json(&folder.join("chat_template.json"))?;
    let Some(template) = in_json.as_ref().and_then(|m| m.get("chat_template")).or_else(|| settings.get("chat_template")) else {
        return Ok(None);
    };
    let named = |name: &str| {
        let entry = template.as_array()?.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name))?;
        entry.get("template")?.as_str()
    };
    Ok(template.as_str().or_else(|| named("default")).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use serde_json::json;

    fn read(files: &[(&str, Value)], config: Value) -> Text {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in files {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Tokenizer::read(folder.path(), config.as_object().unwrap(), 100).unwrap().unwrap().text
    }

    fn tokenizer() -> Value {
        json!({
            "added_tokens": [{ "id": 1, "content": "<s>" }, { "id": 7, "content": "<|end|>" }],
            "model": { "vocab": { "hello": 3, "</s>": 2 } },
        })
    }

    #[test]
    fn the_tokens_that_end_an_answer_are_collected() {
        let files = [
            ("tokenizer.json", tokenizer()),
            ("generation_config.json", json!({ "eos_token_id": [2, 9, 200] })),
            ("tokenizer_config.json", json!({ "eos_token": { "content": "<|end|>" } })),
        ];
        assert_eq!(read(&files, json!({ "eos_token_id": 5 })).eos, [2, 7, 9]);
        assert_eq!(read(&files[..1], json!({ "eos_token_id": 5 })).eos, [5]);
    }

    #[test]
    fn the_beginning_is_added_where_the_tokenizer_would() {
        let mut with_template = tokenizer();
        with_template["post_processor"] = json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel" }, {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "special_tokens": { "<s>": { "ids": [1] } },
        }] });
        let text = read(&[("tokenizer.json", with_template)], json!({}));
        assert_eq!((text.bos, text.add_bos), (Some(1), true));
        let text = read(&[("tokenizer.json", tokenizer())], json!({ "bos_token_id": 4 }));
        assert_eq!((text.bos, text.add_bos), (Some(4), false));
        let settings = json!({ "add_bos_token": true, "bos_token": "</s>" });
        let text = read(&[("tokenizer.json", tokenizer()), ("tokenizer_config.json", settings)], json!({}));
        assert_eq!((text.bos, text.add_bos), (Some(2), true));
    }

    #[test]
    fn templates_in_every_place() {
        let base = ("tokenizer.json", tokenizer());
        let one = ("tokenizer_config.json", json!({ "chat_template": "one" }));
        let list = json!({ "chat_template": [{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "two" }] });
        let template = |files: &[(&str, Value)]| read(files, json!({})).chat_template;
        assert_eq!(template(std::slice::from_ref(&base)), None);
        assert_eq!(template(&[base.clone(), one.clone()]).as_deref(), Some("one"));
        assert_eq!(template(&[base.clone(), ("tokenizer_config.json", list)]).as_deref(), Some("two"));
        assert_eq!(template(&[base, one, ("chat_template.jinja", json!("three"))]).as_deref(), Some("three"));
    }
}
