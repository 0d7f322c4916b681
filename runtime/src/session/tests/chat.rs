//! Chats: what is rendered, and what is read again.

use std::sync::atomic::Ordering;

use super::*;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + eos_token + '\n' }}\
    {% else %}<|user|>{{ m.role + m.content }}\n{% endif %}{% endfor %}";

fn chat(script: &Script, template: Option<&str>) -> Chat {
    Chat::new(script.engine(template).session(&SessionOptions::default()).unwrap()).unwrap()
}

fn ask(chat: &mut Chat, text: &str) -> Completion {
    chat.ask(text, &GenerateOptions::default(), |_| {}).unwrap()
}

/// What the session holds, as text with special tokens spelled out.
fn held(chat: &Chat) -> String {
    let tokenizer = chat.session().engine().tokenizer().unwrap();
    let text = |&t: &u32| if tokenizer.is_special(t) { tokenizer.spelling(t).unwrap() } else { tokenizer.decode(&[t]) };
    chat.session().tokens().iter().map(text).collect()
}

#[test]
fn a_second_question_reads_only_what_is_new() {
    let script = Script::saying("hi");
    let mut chat = chat(&script, Some(TEMPLATE));
    chat.set_system("S");
    assert_eq!(ask(&mut chat, "a").text, "hi");
    assert_eq!(held(&chat), "<s><|user|>systemS\n<|user|>usera\nhi</s>");
    ask(&mut chat, "b</s>");
    assert_eq!(held(&chat), "<s><|user|>systemS\n<|user|>usera\nhi</s>\n<|user|>userb</s>\nhi</s>");
    assert_eq!(script.resets.load(Ordering::Relaxed), 0);
    assert_eq!(chat.messages().len(), 5);
    let specials = chat.session().tokens().iter().filter(|t| **t == script::EOS).count();
    assert_eq!(specials, 2, "a user cannot end the turn");

    chat.set_system("");
    ask(&mut chat, "c");
    assert_eq!(script.resets.load(Ordering::Relaxed), 1, "an earlier message changed");
    assert!(held(&chat).starts_with("<s><|user|>usera\nhi</s>"));
    chat.reset();
    assert!(chat.messages().is_empty());
    ask(&mut chat, "d");
    assert_eq!(held(&chat), "<s><|user|>userd\nhi</s>");
}

#[test]
fn base_models_continue_the_text() {
    let mut chat = chat(&Script::saying(" upon"), None);
    let options = GenerateOptions { max_tokens: 5, ..GenerateOptions::default() };
    chat.ask("Once", &options, |_| {}).unwrap();
    chat.ask("More", &options, |_| {}).unwrap();
    assert!(held(&chat).starts_with("<s>Once upon\nMore"), "{}", held(&chat));
}

#[test]
fn unanswered_messages_are_taken_back() {
    let script = Script::saying("hi");
    let mut refusing = chat(&script, Some("{{ raise_exception('no') }}"));
    assert!(refusing.ask("a", &GenerateOptions::default(), |_| {}).unwrap_err().to_string().contains("no"));
    assert!(refusing.messages().is_empty());

    let mut chat = chat(&script, Some(TEMPLATE));
    ask(&mut chat, "a");
    assert!(matches!(chat.ask(&"x".repeat(3000), &GenerateOptions::default(), |_| {}), Err(Error::Context { .. })));
    let cancelled = GenerateOptions::default();
    cancelled.cancel.cancel();
    let completion = chat.ask("b", &cancelled, |_| {}).unwrap();
    assert_eq!((completion.stop, chat.messages().len()), (StopReason::Cancelled, 2));
    ask(&mut chat, "c");
    assert_eq!(held(&chat), "<s><|user|>usera\nhi</s>\n<|user|>userc\nhi</s>");
}

#[test]
fn chats_need_a_tokenizer() {
    let session = Script::saying("a").engine_without_text().session(&SessionOptions::default()).unwrap();
    assert!(Chat::new(session).is_err());
}
