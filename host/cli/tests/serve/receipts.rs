//! Receipts of answers of a real model: fetched over HTTP, audited by the real command.

use crate::server::{Answer, Server, command};
use ostrakon_tests::{packed, tiny_writer};
use serde_json::{Value, json};
use std::path::Path;

const CHAT: &str = "/v1/chat/completions";
const TEXTS: &str = "/v1/completions";

fn asked(more: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 12});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn tiny(more: Value) -> Value {
    asked(with(json!({"model": "tiny-writer"}), more))
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn named(choice: &Value) -> String {
    choice["ostrakon"]["receipt"].as_str().unwrap_or_else(|| panic!("no receipt: {choice}")).to_owned()
}

fn fetch(server: &Server, id: &str) -> Answer {
    server.get(&format!("/v1/receipts/{id}"))
}

fn bytes(server: &Server, id: &str) -> Vec<u8> {
    let answer = fetch(server, id);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/cbor")));
    assert_eq!(answer.header("content-disposition"), Some(format!("attachment; filename=\"{id}.receipt\"").as_str()));
    answer.body
}

/// What `ostrakon audit` and `ostrakon inspect` say of these bytes: exit status and document of the first, document of the second.
fn judged(bytes: &[u8], package: &Path) -> (i32, Value, Value) {
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("answer.receipt");
    std::fs::write(&file, bytes).unwrap();
    let audit =
        command().args(["audit", "--json", "--allow-unknown-signer"]).arg(&file).arg("--package").arg(package).output();
    let inspect = command().args(["--json", "inspect"]).arg(&file).output().unwrap();
    let (audit, inspect) = (audit.unwrap(), serde_json::from_slice(&inspect.stdout).unwrap_or_default());
    (audit.status.code().unwrap(), serde_json::from_slice(&audit.stdout).unwrap(), inspect)
}

#[test]
fn every_answer_of_a_real_model_can_be_audited() {
    let package = packed::smollm2();
    let server = Server::start(&[], |_| vec![package.clone()]);
    let model = server.ready["models"][0]["name"].clone();
    let body = |more: Value| with(asked(more), json!({ "model": model }));

    // Several answers, drawn by lot: a receipt for each, of that answer.
    let two = server.ask(CHAT, &body(json!({"n": 2, "seed": 5, "temperature": 0.9})));
    for choice in two["choices"].as_array().unwrap() {
        let bytes = bytes(&server, &named(choice));
        let (status, verdict, receipt) = judged(&bytes, &package);
        assert_eq!((status, &verdict["verdict"]), (0, &json!("accept")), "{verdict}");
        assert_eq!(receipt["generated"]["seed"], json!(5 + choice["index"].as_u64().unwrap()));
        let text = receipt["texts"][1].as_str().unwrap().trim_end_matches("<|im_end|>");
        assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    }
    // In pieces: on the last piece of each, and only there.
    let stream = body(json!({"stream": true, "n": 2, "seed": 9, "stream_options": {"include_usage": true}}));
    let events = server.post(CHAT, &stream).events();
    let ends: Vec<&Value> =
        events.iter().map(|event| &event["choices"][0]).filter(|c| c["ostrakon"].is_object()).collect();
    assert_eq!(ends.len(), 2);
    assert!(ends.iter().all(|end| end["finish_reason"].is_string()) && ends[0]["index"] != ends[1]["index"]);
    let (id, other) = (named(ends[0]), named(ends[1]));
    assert_ne!(id, other);
    assert_eq!(judged(&bytes(&server, &other), &package).1["verdict"], "accept");
    let whole = bytes(&server, &id);
    assert_eq!(whole, bytes(&server, &id), "it is made once");
    assert_eq!(judged(&whole, &package).1["verdict"], "accept");

    // Wherever a byte is changed, it is not accepted.
    for at in [whole.len() / 7, whole.len() / 2, whole.len() - 40] {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        let (status, verdict, _) = judged(&wrong, &package);
        assert!(status != 0 && verdict["verdict"] != "accept", "byte {at}: {verdict}");
    }
    // What it says, and the server's own audits: the same verdict, by both ways.
    let summary = server.get(&format!("/v1/receipts/{id}/summary")).json();
    assert_eq!((&summary["signed"], &summary["legs"][0]["signed"]), (&json!(true), &json!(true)));
    assert_eq!((&summary["tier"], &summary["legs"][0]["backend"]), (&json!("exact"), &json!("cpu")));
    assert_eq!(summary["bytes"], json!(whole.len()));
    let blocks = summary["legs"][0]["shards"][0]["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 32, "embeddings, 30 decoders, head");
    for (method, products) in [("replay", false), ("freivalds", true)] {
        let report = server.ask(&format!("/v1/receipts/{id}/audit"), &json!({ "method": method }));
        assert_eq!((&report["verdict"], &report["method"]), (&json!("accept"), &json!(method)), "{report}");
        assert_eq!((&report["steps"], &report["looked_at"], &report["id"]), (&json!(32), &json!(32), &json!(id)));
        assert_eq!(report["products"].as_u64().unwrap() > 0, products);
        assert_eq!(report["receipt"], summary["digest"]);
    }
}

#[test]
fn answers_that_ended_in_every_way_have_receipts_that_hold() {
    let files = tempfile::tempdir().unwrap();
    let package = tiny_writer::package(files.path(), 3);
    let server = Server::start(&[], |_| vec![package.clone()]);
    let only = |token: u32| json!({ token.to_string(): 100 });
    let letter = u32::from(b'a');
    for more in [
        json!({"seed": -3, "temperature": 1.5, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.2}),
        json!({"logit_bias": only(letter), "frequency_penalty": 0.5, "presence_penalty": -1}),
        json!({"logit_bias": only(letter), "stop": "aaaa"}),
        json!({"logit_bias": only(tiny_writer::END)}),
        json!({"max_tokens": 100_000}),
    ] {
        let answer = server.ask(CHAT, &tiny(more.clone()));
        let (status, verdict, receipt) = judged(&bytes(&server, &named(&answer["choices"][0])), &package);
        assert_eq!(status, 0, "{more}: {verdict}");
        assert_eq!(receipt["generated"]["answer"], answer["usage"]["completion_tokens"], "{more}");
    }
    let body = json!({"model": "tiny-writer", "prompt": ["One", "Two"], "n": 2, "max_tokens": 5, "echo": true});
    let texts = server.ask(TEXTS, &body);
    let ids: Vec<String> = texts["choices"].as_array().unwrap().iter().map(named).collect();
    assert_eq!(ids.len(), 4);
    let shards = server.get(&format!("/v1/receipts/{}/summary", ids[3])).json()["legs"][0]["shards"].clone();
    assert_eq!(shards.as_array().unwrap().len(), 3);
    assert_eq!(judged(&bytes(&server, &ids[3]), &package).0, 0);
    // Where nothing was written there is nothing to be checked.
    let nothing = server.ask(TEXTS, &with(body, json!({"max_tokens": 0})));
    assert!(nothing["choices"][0].get("ostrakon").is_none());
}

#[test]
fn so_many_are_kept_and_not_more() {
    let server = Server::writer(&["--receipts", "2"]);
    let ask = || named(&server.ask(CHAT, &tiny(json!({})))["choices"][0]);
    let ids = [ask(), ask(), ask()];
    for (id, there) in ids.iter().zip([false, true, true]) {
        assert_eq!(fetch(&server, id).status, if there { 200 } else { 404 });
    }
    let gone = fetch(&server, &ids[0]);
    assert!(gone.text().contains("--receipts N keeps more"), "{}", gone.text());
    assert_eq!(gone.error(), (404, Some("receipt".into()), Some("receipt_not_found".into())));
    let audit = format!("/v1/receipts/{}/audit", ids[0]);
    assert_eq!(server.post(&audit, &json!({})).error().0, 404);
    let audit = format!("/v1/receipts/{}/audit", ids[2]);
    for (body, param) in [(json!({"method": "luck"}), "method"), (json!({"colour": 1}), "colour")] {
        let (status, named, _) = server.post(&audit, &body).error();
        assert_eq!((status, named.as_deref()), (400, Some(param)));
    }
    assert_eq!(server.get(&audit).error().0, 405);

    let without = Server::writer(&["--receipts", "0"]);
    let answer = without.ask(CHAT, &tiny(json!({})));
    assert!(answer["choices"][0].get("ostrakon").is_none(), "{answer}");
    assert!(fetch(&without, &ids[2]).text().contains("keeps no receipts"));
}

#[test]
fn a_receipt_is_for_who_asked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, "sk-0123456789abcdef\nsk-fedcba9876543210\n").unwrap();
    let server = Server::writer(&["--api-keys", file.to_str().unwrap()]);
    let head = |method: &str, path: &str, key: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: models.example\r\nAuthorization: Bearer {key}")
    };
    let (own, other) = ("sk-0123456789abcdef", "sk-fedcba9876543210");
    let body = tiny(json!({})).to_string();
    let post =
        format!("{}\r\nContent-Type: application/json\r\nContent-Length: {}", head("POST", CHAT, own), body.len());
    let path = format!("/v1/receipts/{}", named(&server.exchange(&post, body.as_bytes()).json()["choices"][0]));
    for path in [path.clone(), format!("{path}/summary")] {
        assert_eq!(server.exchange(&head("GET", &path, other), b"").error().0, 404);
        assert_eq!(server.get(&path).error().0, 401);
        assert_eq!(server.exchange(&head("GET", &path, own), b"").status, 200);
    }
}

#[test]
fn a_receipt_that_is_being_made_is_made_once_and_for_those_who_wait() {
    let server = Server::writer(&["--requests", "4"]);
    let calls = |server: &Server| server.counted("ostrakon_receipts_made_total");
    let id = named(&server.ask(CHAT, &tiny(json!({"max_tokens": 200})))["choices"][0]);
    let all: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| fetch(&server, &id))).collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let good: Vec<&Answer> = all.iter().filter(|answer| answer.status == 200).collect();
    assert!(!good.is_empty() && good.iter().all(|answer| answer.body == good[0].body));
    assert!(all.iter().all(|answer| [200, 429].contains(&answer.status)));
    assert_eq!(calls(&server), 1.0);
    // Whoever leaves keeps nobody from getting it.
    let id = named(&server.ask(CHAT, &tiny(json!({"max_tokens": 200})))["choices"][0]);
    for _ in 0..3 {
        let mut left = server.connect();
        std::io::Write::write_all(
            &mut left,
            format!("GET /v1/receipts/{id} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes(),
        )
        .unwrap();
        drop(left);
    }
    server.until("it is made", |server| fetch(server, &id).status == 200);
}
