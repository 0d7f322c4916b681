//! Reading, generating, ending.

use super::script::{BOS, EOS, VOCAB};
use std::time::{Duration, Instant};

use super::*;
use crate::error::Category;

#[test]
fn an_answer_streams_until_the_model_ends_it() {
    let mut s = session("hé!");
    s.append_text("q").unwrap();
    let (tokens, completion) = collect(&mut s, &GenerateOptions::default());
    assert_eq!(texts(&tokens), ["h", "", "é", "!", ""], "a character comes whole");
    assert_eq!((completion.text.as_str(), completion.stop), ("hé!", StopReason::Eos));
    assert_eq!(completion.statistics.prompt_tokens, 2);
    assert_eq!(completion.statistics.generated_tokens, 5);
    assert!(completion.statistics.first_token.is_some());
    assert_eq!(s.tokens()[0], BOS);
    assert_eq!(s.tokens().last(), Some(&EOS));
    assert_eq!((s.tokens().len(), s.read()), (7, 6), "the last token is not read yet");

    // Another turn reads only what is new.
    s.append_text("r").unwrap();
    let (_, completion) = collect(&mut s, &GenerateOptions { max_tokens: 1, ..GenerateOptions::default() });
    assert_eq!(completion.statistics.prompt_tokens, 2);
    assert_eq!(completion.stop, StopReason::MaxTokens);
}

#[test]
fn sampled_answers_come_from_logits_too() {
    let mut s = session("hi");
    s.append_text("q").unwrap();
    let sampling = Sampling { temperature: 0.1, ..Sampling::default() };
    let (_, completion) = collect(&mut s, &GenerateOptions { sampling, ..GenerateOptions::default() });
    assert_eq!(completion.text, "hi");
}

#[test]
fn incomplete_characters_are_shown_as_such_at_the_end() {
    let mut s = session("é");
    s.append_text("q").unwrap();
    let (tokens, completion) = collect(&mut s, &GenerateOptions { max_tokens: 1, ..GenerateOptions::default() });
    assert_eq!(texts(&tokens), ["\u{fffd}"]);
    assert_eq!(completion.text, "\u{fffd}");
}

#[test]
fn stop_strings_never_show() {
    let stop = |stop: &str, answer: &str| {
        let mut s = session(answer);
        s.append_text("q").unwrap();
        let (tokens, completion) = collect(&mut s, &GenerateOptions { stop: vec![stop.into()], ..GenerateOptions::default() });
        assert_eq!(texts(&tokens).concat(), completion.text);
        (completion.text, completion.stop)
    };
    assert_eq!(stop("END", "go ENx EN"), ("go ENx EN".into(), StopReason::Eos));
    assert_eq!(stop("END", "go ENDing"), ("go ".into(), StopReason::StopString));
    assert_eq!(stop("</s>", "go"), ("go".into(), StopReason::Eos), "a special token may be named, too");
}

#[test]
fn end_of_answer_can_be_ignored() {
    let mut s = session("a");
    s.append_text("q").unwrap();
    let (_, completion) = collect(&mut s, &GenerateOptions { max_tokens: 4, ignore_eos: true, ..GenerateOptions::default() });
    assert_eq!((completion.text.as_str(), completion.stop), ("aa", StopReason::MaxTokens));
}

#[test]
fn cancelling_stops_at_once_and_keeps_the_session() {
    let mut s = session("abcdef");
    s.append_text("q").unwrap();
    let cancel = CancelToken::new();
    let options = GenerateOptions { cancel: cancel.clone(), ..GenerateOptions::default() };
    let mut seen = 0;
    let completion = s
        .generate(&options, |_| {
            seen += 1;
            if seen == 3 {
                cancel.cancel();
            }
        })
        .unwrap();
    assert_eq!((completion.text.as_str(), completion.stop, seen), ("abc", StopReason::Cancelled, 3));
    assert_eq!(collect(&mut s, &options).1.statistics.generated_tokens, 0, "still cancelled");
    cancel.reset();
    assert_eq!(collect(&mut s, &options).1.text, "def");
}

#[test]
fn held_back_text_of_a_cancelled_answer_is_in_the_completion() {
    let mut s = session("aEN");
    s.append_text("q").unwrap();
    let options = GenerateOptions { stop: vec!["END".into()], ..GenerateOptions::default() };
    let mut stream = s.stream(&options).unwrap();
    let shown: String = stream.by_ref().take(3).map(|t| t.unwrap().text).collect();
    assert_eq!(shown, "a");
    let completion = stream.finish();
    assert_eq!((completion.text.as_str(), completion.stop), ("aEN", StopReason::Cancelled));
}

#[test]
fn prompts_are_read_in_chunks_and_cancelled_between_them() {
    let script = Script::saying("a");
    let mut s = script.engine(None).session(&SessionOptions::default()).unwrap();
    s.append(&vec![1; 1200]).unwrap();
    let cancelled = GenerateOptions::default();
    cancelled.cancel.cancel();
    let (tokens, completion) = collect(&mut s, &cancelled);
    assert_eq!((tokens.len(), completion.stop, s.read()), (0, StopReason::Cancelled, 0));
    collect(&mut s, &GenerateOptions { max_tokens: 2, ..GenerateOptions::default() });
    assert_eq!(*script.calls.lock().unwrap(), [512, 512, 176, 1]);
}

#[test]
fn times_are_counted_once() {
    let delay = Duration::from_millis(60);
    let mut s = Script { delay, ..Script::saying("abc") }.engine(None).session(&SessionOptions::default()).unwrap();
    s.append(&[1; 600]).unwrap();
    let started = Instant::now();
    let statistics = collect(&mut s, &GenerateOptions { max_tokens: 2, ..GenerateOptions::default() }).1.statistics;
    let first = statistics.first_token.unwrap();
    assert!(statistics.prefill >= 2 * delay && first >= statistics.prefill && statistics.decode >= delay, "{statistics:?}");
    assert!(first + statistics.decode <= started.elapsed(), "{statistics:?}");
}

#[test]
fn a_failing_device_leaves_a_usable_session() {
    let script = Script { fail_after: Some(2), ..Script::saying("abc") };
    let mut s = script.engine(None).session(&SessionOptions::default()).unwrap();
    s.append_text("q").unwrap();
    let mut shown = String::new();
    let error = s.generate(&GenerateOptions::default(), |t| shown += &t.text).unwrap_err();
    assert_eq!((error.category(), shown.as_str(), s.tokens().len()), (Category::Device, "ab", 4));
    let mut stream = s.stream(&GenerateOptions::default()).unwrap();
    assert!(stream.next().unwrap().is_err());
    assert!(stream.next().is_none());
    assert_eq!(stream.finish().stop, StopReason::Failed);
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    let mut s = session("a");
    let input = |e: Error| {
        assert_eq!(e.category(), Category::Caller);
        e.to_string()
    };
    let generate = |s: &mut Session| s.generate(&GenerateOptions::default(), |_| {}).unwrap_err();
    assert!(input(generate(&mut s)).contains("empty"));
    s.append_text("").unwrap();
    assert!(input(generate(&mut s)).contains("empty"), "an empty text is no prompt, not even with BOS");
    assert!(input(s.append(&[1, VOCAB]).unwrap_err()).contains("token 260 is not in the vocabulary"));
    assert!(matches!(s.append(&[1; 2001]).unwrap_err(), Error::Context { needed: 2001, available: 2000 }));
    assert!(s.tokens().is_empty());
    assert!(input(s.logits(&[]).unwrap_err()).contains("empty"));
    s.append(&[1]).unwrap();
    let sampling = Sampling { top_p: 2.0, ..Sampling::default() };
    let bad = GenerateOptions { sampling, ..GenerateOptions::default() };
    assert!(input(s.generate(&bad, |_| {}).unwrap_err()).contains("top-p"));
    let engine = s.engine();
    for context in [0, MAX_CONTEXT + 1] {
        assert!(input(engine.session(&options(context, Overflow::Error)).unwrap_err()).contains("context"));
    }
    let bad = SessionOptions { stick_epsilon: f32::NAN, ..SessionOptions::default() };
    assert!(input(engine.session(&bad).unwrap_err()).contains("epsilon"));
}

#[test]
fn a_full_context_ends_the_answer() {
    let mut s = Script::saying("abcdef").engine(None).session(&options(4, Overflow::Error)).unwrap();
    s.append(&[1, 2]).unwrap();
    let (tokens, completion) = collect(&mut s, &GenerateOptions::default());
    // Two rows are left for "a" and "b"; "c" is drawn but cannot be read.
    assert_eq!((texts(&tokens).concat().as_str(), completion.stop), ("abc", StopReason::Context));
    assert!(matches!(s.append(&[1]).unwrap_err(), Error::Context { needed: 6, available: 4 }));
    assert!(matches!(s.stream(&GenerateOptions::default()).unwrap_err(), Error::Context { needed: 5, available: 4 }));
    s.truncate(1);
    assert_eq!(s.read(), 0, "what was read cannot be taken back piecemeal");
    collect(&mut s, &GenerateOptions { max_tokens: 1, ..GenerateOptions::default() });
}

#[test]
fn a_sliding_context_never_ends() {
    let mut s = Script::saying("abcdef").engine(None).session(&options(4, Overflow::Slide)).unwrap();
    s.append(&[1; 9]).unwrap();
    assert_eq!(collect(&mut s, &GenerateOptions::default()).1.text, "abcdef");
}

#[test]
fn logits_of_every_position() {
    let mut s = session("a");
    s.append(&[7; 600]).unwrap();
    let rows = s.logits(&[5, 6]).unwrap();
    assert_eq!(rows.len(), 2 * VOCAB as usize);
    assert_eq!((rows[0], rows[VOCAB as usize]), (5.0, 6.0));
    assert_eq!(s.read(), 602);
    assert!(s.stream(&GenerateOptions::default()).unwrap_err().to_string().contains("append"));
}

#[test]
fn token_ids_work_without_a_tokenizer() {
    let mut s = Script::saying("ab").engine_without_text().session(&SessionOptions::default()).unwrap();
    assert!(s.append_text("q").unwrap_err().to_string().contains("no tokenizer"));
    s.append(&[1]).unwrap();
    let with_stop = GenerateOptions { stop: vec!["x".into()], ..GenerateOptions::default() };
    assert!(s.stream(&with_stop).unwrap_err().to_string().contains("no tokenizer"));
    let (tokens, completion) = collect(&mut s, &GenerateOptions { max_tokens: 3, ..GenerateOptions::default() });
    assert_eq!((tokens.len(), completion.text.as_str(), completion.stop), (3, "", StopReason::MaxTokens));
}

#[test]
fn engines_and_sessions_cross_threads() {
    fn is_send<T: Send>() {}
    fn is_sync<T: Sync>() {}
    is_send::<Session>();
    is_send::<Chat>();
    is_send::<Engine>();
    is_sync::<Engine>();
}

#[test]
fn a_device_that_cannot_record_routes_says_so() {
    let mut session = session("x");
    assert!(session.record_routes().unwrap_err().to_string().contains("use the CPU"));
    session.append(&[1]).unwrap();
    session.prefill().unwrap();
    assert_eq!((session.read(), session.take_routes()), (1, vec![]));
}
