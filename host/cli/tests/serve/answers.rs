//! What is answered: whole and in pieces, with and without likelihoods, again with the same seed.

use crate::server::{Server, choices};
use ostrakon_tests::tiny_writer::{CONTEXT, END};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TEXTS: &str = "/v1/completions";

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn chat(more: Value) -> Value {
    with(json!({"model": "tiny-writer", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}), more)
}

fn text(more: Value) -> Value {
    with(json!({"model": "tiny-writer", "prompt": "Hello", "max_tokens": 8}), more)
}

/// A bias under which nothing but this byte is written.
fn only(byte: u8) -> Value {
    json!({ byte.to_string(): 100 })
}

#[test]
fn conversations() {
    let server = Server::writer(&[]);
    let model = &server.ready["models"][0];
    assert_eq!((&model["name"], &model["context"]), (&json!("tiny-writer"), &json!(CONTEXT)));

    // What is written, and when it ends.
    let answer = server.ask(CHAT, &chat(json!({"logit_bias": only(b'a')})));
    assert_eq!(answer["choices"][0]["message"], json!({"role": "assistant", "content": "aaaaaaaa", "refusal": null}));
    assert_eq!(
        (&answer["object"], &answer["choices"][0]["finish_reason"]),
        (&json!("chat.completion"), &json!("length"))
    );
    // <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["usage"]["completion_tokens"]), (&json!(24), &json!(8)));
    let fingerprint = answer["system_fingerprint"].as_str().unwrap().strip_prefix("fp_").unwrap();
    assert!(model["package"].as_str().unwrap().starts_with(fingerprint) && fingerprint.len() == 16);

    let ended = server.ask(CHAT, &chat(json!({"logit_bias": {END.to_string(): 100}})));
    assert_eq!(ended["choices"][0]["message"]["content"], "");
    assert_eq!(
        (&ended["choices"][0]["finish_reason"], &ended["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(1))
    );

    let stopped = server.ask(CHAT, &chat(json!({"logit_bias": only(b'a'), "stop": "aaa"})));
    assert_eq!(
        (&stopped["choices"][0]["message"]["content"], &stopped["choices"][0]["finish_reason"]),
        (&json!(""), &json!("stop"))
    );

    // The same seed, the same answer; without one, a fresh one that gives the answer again.
    let seeded = |seed: i64| {
        let answer = server.ask(CHAT, &chat(json!({"seed": seed})));
        (choices(&answer), answer["seed"].as_i64().unwrap())
    };
    assert_eq!(seeded(-5), seeded(-5));
    assert_eq!(seeded(-5).1, -5);
    assert_ne!(seeded(1).0, seeded(2).0);
    let fresh = server.ask(CHAT, &chat(json!({})));
    assert_eq!(seeded(fresh["seed"].as_i64().unwrap()).0, choices(&fresh));

    // Many at once: each as it would be alone.
    let three = server.ask(CHAT, &chat(json!({"n": 3, "seed": 10})));
    let three = three["choices"].as_array().unwrap();
    assert_eq!(three.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    for (choice, seed) in three.iter().zip(10..) {
        assert_eq!(choice["message"], seeded(seed).0[0]["message"]);
    }

    // Likelihoods: of every token, with the likeliest beside it.
    let scored = server.ask(CHAT, &chat(json!({"temperature": 0, "logprobs": true, "top_logprobs": 2})));
    let content = scored["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 8);
    for token in content {
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&token["logprob"], &token["token"]),
            (&token["top_logprobs"][0]["logprob"], &token["top_logprobs"][0]["token"])
        );
        assert!(token["logprob"].as_f64().unwrap() < 0.0);
    }
}

#[test]
fn streams() {
    let server = Server::writer(&[]);
    for more in
        [json!({"seed": 4}), json!({"temperature": 0, "logprobs": true, "top_logprobs": 1}), json!({"stop": "\n"})]
    {
        let more = with(more, json!({"seed": 4, "max_tokens": 40}));
        let whole = server.ask(CHAT, &chat(more.clone()));
        let events = server.post(CHAT, &chat(with(more, json!({"stream": true})))).events();
        let (first, last) = (events.first().unwrap(), events.last().unwrap());
        assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(last["choices"][0]["delta"], json!({}));
        assert_eq!(last["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
        let (mut text, mut scored) = (String::new(), Vec::new());
        for event in &events {
            assert_eq!((&event["object"], &event["id"]), (&json!("chat.completion.chunk"), &first["id"]));
            assert!(event.get("usage").is_none());
            let choice = &event["choices"][0];
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            scored.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
            assert!(choice["finish_reason"].is_null() || event == last);
        }
        assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
        assert_eq!(scored, whole["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default());
    }

    // How many tokens there were: at the end, in an event without choices.
    let usage = json!({"stream": true, "stream_options": {"include_usage": true}, "n": 2, "logit_bias": only(b'x')});
    let mut events = server.post(CHAT, &chat(usage.clone())).events();
    let last = events.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(16)));
    assert!(events.iter().all(|event| event["usage"].is_null() && event.get("usage").is_some()));
    for index in 0..2 {
        let own = events.iter().map(|event| &event["choices"][0]).filter(|choice| choice["index"] == index);
        let ends = own.clone().filter(|choice| choice["finish_reason"] == "length").count();
        let text: String = own.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!((text.as_str(), ends), ("xxxxxxxx", 1));
    }

    let events = server.post(TEXTS, &text(with(usage, json!({"echo": true, "n": 1})))).events();
    let all: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(all, "Helloxxxxxxxx");
    assert!(events.iter().all(|event| event["object"] == "text_completion"));
    let scored =
        server.post(TEXTS, &text(json!({"stream": true, "echo": true, "logprobs": 0, "max_tokens": 2}))).events();
    let logprobs = scored.iter().filter_map(|event| event["choices"][0]["logprobs"]["tokens"].as_array());
    assert_eq!(logprobs.flatten().count(), 7);
}

#[test]
fn texts_are_gone_on_with() {
    let server = Server::writer(&[]);
    // Four shapes of prompts.
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let (one, two) = ("Hello", "Good day");
    let texts = |prompt: Value| {
        let answer = server.ask(TEXTS, &text(json!({"prompt": prompt, "temperature": 0})));
        let choices = answer["choices"].as_array().unwrap().iter();
        choices.map(|choice| choice["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (first, second) = (texts(json!(one)), texts(json!(two)));
    assert_eq!(texts(json!(bytes(one))), first);
    assert_eq!(texts(json!([one, two])), [first.clone(), second.clone()].concat());
    assert_eq!(texts(json!([bytes(two), bytes(one)])), [second, first].concat());

    // The prompt's likelihoods, as evaluation harnesses ask for them.
    for (most, tokens) in [(0, 5), (1, 6)] {
        let request = json!({"prompt": bytes(one), "max_tokens": most, "echo": true, "logprobs": 1, "temperature": 0});
        let answer = server.ask(TEXTS, &text(request));
        let choice = &answer["choices"][0];
        let lists = &choice["logprobs"];
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(lists[list].as_array().unwrap().len(), tokens, "{list}");
        }
        assert!(choice["text"].as_str().unwrap().starts_with(one));
        assert!(lists["token_logprobs"][0].is_null() && lists["top_logprobs"][0].is_null());
        assert_eq!(lists["text_offset"].as_array().unwrap()[..5], [json!(0), json!(1), json!(2), json!(3), json!(4)]);
        for at in 1..tokens {
            let top = lists["top_logprobs"][at].as_object().unwrap();
            let own = lists["token_logprobs"][at].as_f64().unwrap();
            assert_eq!(top[lists["tokens"][at].as_str().unwrap()], own);
            let best = top.values().map(|value| value.as_f64().unwrap()).fold(f64::NEG_INFINITY, f64::max);
            assert!(own <= best && (1..=2).contains(&top.len()));
        }
        assert_eq!(answer["usage"]["completion_tokens"], most);
    }

    // The token that ends an answer is in the lists, but not in the text.
    let ended = json!({"logit_bias": {END.to_string(): 100}, "logprobs": 0, "echo": true});
    let answer = server.ask(TEXTS, &text(ended));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(one), &json!("stop")));
    assert_eq!(choice["logprobs"]["tokens"][5], "<|im_end|>");

    // As much as fits.
    let full = "x".repeat(CONTEXT - 3);
    let answer = server.ask(TEXTS, &text(json!({"prompt": full, "max_tokens": 100, "logit_bias": only(b'a')})));
    assert_eq!(
        (&answer["choices"][0]["text"], &answer["choices"][0]["finish_reason"]),
        (&json!("aaa"), &json!("length"))
    );

    // What is asked again is not computed again, and is the same.
    let long = "What is asked twice".repeat(5);
    let ask = || server.ask(TEXTS, &text(json!({"prompt": long, "temperature": 0})));
    let (before, after) = (ask(), ask());
    assert_eq!(choices(&before), choices(&after));
    assert!(after["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() > 80);
    assert!(server.counted("ostrakon_reused_tokens_total") > 80.0);
}

#[test]
fn nothing_is_gone_on_from_where_that_is_not_wanted() {
    let server = Server::writer(&["--no-reuse", "--context", "100"]);
    assert_eq!(server.ready["models"][0]["context"], 100);
    for _ in 0..2 {
        let answer = server.ask(TEXTS, &text(json!({"prompt": "What is asked twice".repeat(4)})));
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    }
    let long = server.post(TEXTS, &text(json!({"prompt": "x".repeat(100)}))).error();
    assert_eq!(long, (400, Some("prompt".into()), Some("context_length_exceeded".into())));
}
