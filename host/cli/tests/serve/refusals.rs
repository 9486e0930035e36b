//! What is refused, and how.

use crate::server::{Server, command};
use serde_json::{Value, json};
use std::io::Write;

const CHAT: &str = "/v1/chat/completions";
const TEXTS: &str = "/v1/completions";

#[test]
fn every_error_has_its_shape() {
    let server = Server::writer(&["--body", "2000"]);
    let refused = |answer: crate::server::Answer| answer.error();
    let of = |status: u16, param: Option<&str>, code: Option<&str>| {
        (status, param.map(str::to_owned), code.map(str::to_owned))
    };
    let user = json!([{"role": "user", "content": "a"}]);
    // Paths and methods.
    assert_eq!(refused(server.get("/v2/chat")), of(404, None, Some("unknown_url")));
    assert_eq!(refused(server.get("/v1/models/%ff")).0, 400);
    assert_eq!(refused(server.get("/v1/models/other")), of(404, Some("model"), Some("model_not_found")));
    let wrong = server.get(CHAT);
    assert_eq!(wrong.header("allow"), Some("POST"));
    assert_eq!(refused(wrong), of(405, None, Some("method_not_supported")));
    assert_eq!(refused(server.post("/v1/models", &json!({}))).0, 405);
    // Bodies.
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2");
    assert_eq!(refused(server.exchange(&head, b"{}")).0, 415);
    assert_eq!(refused(server.exchange(&format!("{head}\r\nContent-Type: text/plain"), b"{}")).0, 415);
    assert_eq!(refused(server.post_bytes(CHAT, &[b' '; 2001])).0, 413);
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    );
    let body = format!("800\r\n{}\r\n800\r\n{}\r\n0\r\n\r\n", " ".repeat(0x800), " ".repeat(0x800));
    assert_eq!(refused(server.exchange(&chunked, body.as_bytes())).0, 413);
    for body in
        ["", "{", "[]", "null", "\"a\"", "{}", "{\"model\":\"tiny-writer\"} x", "\u{0}", "{\"model\": \"\\ud800\"}"]
    {
        assert_eq!(refused(server.post_bytes(CHAT, body.as_bytes())).0, 400, "{body:?}");
    }
    assert_eq!(refused(server.post_bytes(CHAT, b"{\"model\": \"\xff\"}")).0, 400);
    assert_eq!(refused(server.post_bytes(CHAT, "[".repeat(1900).as_bytes())).0, 400);
    // Fields.
    let chat = |more: Value| {
        let mut body = json!({"model": "tiny-writer", "messages": user.clone(), "max_tokens": 4});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(CHAT, &body).error()
    };
    assert_eq!(chat(json!({"model": "gpt-4"})), of(404, Some("model"), Some("model_not_found")));
    assert_eq!(chat(json!({"colour": 1})), of(400, Some("colour"), Some("unknown_parameter")));
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    assert_eq!(chat(tools), of(400, Some("tools"), Some("unsupported_parameter")));
    for (more, param) in [
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": 1e300}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"frequency_penalty": 1000}), "frequency_penalty"),
        (json!({"logit_bias": {"258": 1}}), "logit_bias"),
        (json!({"logit_bias": {"1": 1000}}), "logit_bias"),
        (json!({"n": 17}), "n"),
        (json!({"top_logprobs": 5}), "top_logprobs"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "wizard", "content": "a"}]}), "messages[0].role"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format"),
    ] {
        let (status, named, _) = chat(more.clone());
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{more}");
    }
    let long = json!([{"role": "user", "content": "x".repeat(300)}]);
    assert_eq!(chat(json!({ "messages": long })).1.as_deref(), Some("messages"));
    for prompt in [json!(""), json!([]), json!([258]), json!([[1], []]), json!(null)] {
        let body = json!({"model": "tiny-writer", "prompt": prompt});
        assert_eq!(server.post(TEXTS, &body).error().1.as_deref(), Some("prompt"), "{prompt}");
    }
    // And it still answers.
    assert_eq!(server.post(CHAT, &json!({"model": "tiny-writer", "messages": user, "max_tokens": 1})).status, 200);
}

#[test]
fn only_who_has_a_key_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    std::fs::write(&file, "# of the house\nsk-0123456789abcdef\nsk-fedcba9876543210\n").unwrap();
    let server = Server::writer(&["--api-keys", file.to_str().unwrap(), "--cors", "https://page.example"]);
    assert_eq!(server.ready["keys"], 2);
    let ask =
        |lines: &str, path: &str| server.exchange(&format!("GET {path} HTTP/1.1\r\nHost: models.example{lines}"), b"");
    let bearer = |key: &str| format!("\r\nAuthorization: Bearer {key}");
    for path in ["/v1/models", "/metrics", "/v1/nothing"] {
        for lines in ["".into(), bearer("sk-0123456789abcdee"), bearer(""), "\r\nAuthorization: Basic abc".into()] {
            let answer = ask(&lines, path);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert_eq!(answer.error(), (401, None, Some("invalid_api_key".into())));
        }
    }
    for key in ["sk-0123456789abcdef", "sk-fedcba9876543210"] {
        assert_eq!(ask(&bearer(key), "/v1/models").status, 200);
    }
    assert_eq!((ask("", "/healthz").status, ask("", "/openapi.json").status), (200, 200));
    // A page of that origin may ask, and hears what is wrong; others may not.
    let preflight = |origin: &str| {
        let head = format!(
            "OPTIONS {CHAT} HTTP/1.1\r\nHost: models.example\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type"
        );
        server.exchange(&head, b"")
    };
    let allowed = preflight("https://page.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://page.example"));
    assert!(allowed.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(preflight("https://other.example").header("access-control-allow-origin"), None);
    let refused = ask("\r\nOrigin: https://page.example", "/v1/models");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("https://page.example")));
}

#[test]
fn without_keys_only_this_machine_is_answered() {
    let server = Server::writer(&[]);
    assert!(server.ready["keys"].is_null());
    let ask = |host: &str| {
        server.exchange(&format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}"), b"")
    };
    assert_eq!(ask("page.example").error(), (403, None, Some("wrong_host".into())));
    let own = ask(server.address());
    assert_eq!((own.status, own.header("access-control-allow-origin")), (200, None));
}

#[test]
fn command_lines_that_make_no_sense_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let package = ostrakon_tests::tiny_writer::package(directory.path());
    let empty = directory.path().join("empty");
    std::fs::File::create(&empty).unwrap().write_all(b"\n# none\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (package, empty) = (package.to_str().unwrap(), empty.to_str().unwrap());
    let cases: [(&[&str], &[&str]); 8] = [
        (&[package, "--listen", "0.0.0.0:0"], &["no keys", "--no-keys"]),
        (&[package, "--api-keys", empty], &["there is none"]),
        (&[package, "--api-keys", "/nowhere"], &["/nowhere"]),
        (&[package, "--api-keys", empty, "--no-keys"], &["cannot be used with"]),
        (&[package, "--cors", "page.example"], &["no origin"]),
        (&[package, "--listen", &taken], &["cannot listen"]),
        (&["nothing"], &["there is no package `nothing`"]),
        (&[package, package, "--listen", "127.0.0.1:0", "--allow-unknown-signer"], &["two packages", "tiny-writer"]),
    ];
    for (arguments, words) in cases {
        let output = command().arg("serve").args(arguments).arg("--json").output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {said}");
        }
    }
    // Who signed it is not known here.
    let output = command().args(["serve", package, "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}
