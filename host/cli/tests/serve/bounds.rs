//! What is bounded: requests at once, those that wait, slow ones, and the end.

use crate::server::{SOON, Server, choices};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const TEXTS: &str = "/v1/completions";

fn long() -> Value {
    json!({"model": "tiny-writer", "prompt": "Hello", "max_tokens": 240, "logit_bias": {"97": 100}, "stream": true})
}

/// Ask, and read nothing.
fn begin(server: &Server, body: &Value) -> TcpStream {
    let (mut stream, body) = (server.connect(), body.to_string());
    write!(
        stream,
        "POST {TEXTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

#[test]
fn whoever_leaves_is_not_computed_for() {
    let server = Server::writer(&["--sequences", "1"]);
    for streams in [true, false] {
        let mut body = long();
        body["stream"] = json!(streams);
        body["n"] = json!(16);
        let generated = server.counted("ostrakon_generated_tokens_total");
        let mut stream = begin(&server, &body);
        server.until("it begins", |server| server.counted("ostrakon_generated_tokens_total") > generated);
        if streams {
            let mut some = [0; 100];
            stream.read_exact(&mut some).unwrap();
        }
        drop(stream);
        server
            .until("it ends", |server| server.counted("ostrakon_running") + server.counted("ostrakon_waiting") == 0.0);
        let done = server.counted("ostrakon_generated_tokens_total") - generated;
        assert!(done < 16.0 * 240.0, "{done}");
    }
}

#[test]
fn who_comes_when_all_is_full_is_told_when_to_come_back() {
    let server = Server::writer(&["--sequences", "1", "--waiting", "16"]);
    let mut body = long();
    body["n"] = json!(16);
    let _taken = begin(&server, &body);
    server.until("it waits", |server| server.counted("ostrakon_waiting") > 0.0);
    let refused = server.post(TEXTS, &body);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert_eq!(refused.error(), (429, None, Some("rate_limit_exceeded".into())));
    // What was taken of it before it was refused is given up; what had been taken before is not.
    server
        .until("it is empty", |server| server.counted("ostrakon_running") + server.counted("ostrakon_waiting") == 0.0);
    assert_eq!(server.post(TEXTS, &long()).status, 200);
    // For so much there is never room.
    body["prompt"] = json!(["a", "b"]);
    assert_eq!(server.post(TEXTS, &body).error().0, 400);
}

#[test]
fn requests_at_once_are_bounded_while_bodies_are_still_sent() {
    let server = Server::writer(&["--requests", "2"]);
    let slow = |server: &Server| {
        let mut stream = server.connect();
        let head = format!(
            "POST {TEXTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut held = vec![slow(&server), slow(&server)];
    server.until("both have a place", |server| {
        let full = server.post(TEXTS, &json!({})).status == 429;
        // The question takes a place too: one of those that hold may have found none.
        if !full {
            held.push(slow(server));
        }
        full
    });
    let refused = server.post(TEXTS, &long());
    assert_eq!((refused.header("retry-after"), refused.status), (Some("1"), 429));
    // What takes no place is answered.
    assert_eq!(server.get("/v1/models").status, 200);
    assert!(server.counted("ostrakon_http_refusals_total{reason=\"busy\"}") >= 2.0);
    drop(held);
    server.until("places are free again", |server| server.post(TEXTS, &long()).status == 200);
}

#[test]
fn what_runs_is_finished_before_the_end() {
    let mut server = Server::writer(&[]);
    let mut stream = begin(&server, &long());
    let mut some = [0; 100];
    stream.read_exact(&mut some).unwrap();
    // An idle connection keeps nobody.
    let _idle = server.connect();
    server.signal("-TERM");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < SOON, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn many_at_once_get_what_each_would_get_alone() {
    let server = Server::writer(&["--sequences", "8"]);
    let body =
        |at: usize| json!({"model": "tiny-writer", "prompt": format!("number {at}"), "max_tokens": 20, "seed": at});
    let alone: Vec<Value> = (0..24).map(|at| choices(&server.ask(TEXTS, &body(at)))).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..24)
            .map(|at| {
                scope.spawn({
                    let server = &server;
                    move || choices(&server.ask(TEXTS, &body(at)))
                })
            })
            .collect();
        asked.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
    let document = server.get("/openapi.json").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"], json!(["tiny-writer"]));
    assert_eq!(server.get("/healthz").json(), json!({"state": "ready"}));
    assert!(
        server.counted("ostrakon_http_answers_total{method=\"POST\",path=\"/v1/completions\",status=\"200\"}") >= 48.0
    );
}
