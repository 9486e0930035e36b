//! Vectors of the packed MiniLM, and of two packages at once.

use crate::server::Server;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ostrakon_tests::{packed, tiny_writer};
use serde_json::{Value, json};

const PATH: &str = "/v1/embeddings";

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_are_those_of_the_model() {
    let server = Server::start(&[], |files| vec![packed::minilm(1), tiny_writer::package(files)]);
    let list = server.get("/v1/models").json();
    let models = list["data"].as_array().unwrap();
    assert_eq!((models.len(), &models[0]["task"], &models[1]["task"]), (2, &json!("embedding"), &json!("generation")));
    let minilm = models[0]["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/models/{minilm}")).json(), models[0]);

    let texts = ["A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby."];
    let answer = server.ask(PATH, &json!({"model": minilm, "input": texts, "dimensions": 384}));
    let vectors: Vec<Vec<f64>> =
        answer["data"].as_array().unwrap().iter().map(|one| vector(&one["embedding"])).collect();
    assert_eq!((vectors.len(), vectors[0].len(), &answer["data"][2]["index"]), (3, 384, &json!(2)));
    // What the model gives in floats, near enough.
    assert!((cosine(&vectors[0], &vectors[1]) - 0.7553).abs() < 0.02, "{}", cosine(&vectors[0], &vectors[1]));
    assert!((cosine(&vectors[0], &vectors[2]) + 0.1050).abs() < 0.02, "{}", cosine(&vectors[0], &vectors[2]));
    // 8 + 11 + 9 tokens or so: those of the first text are known.
    let one = server.ask(PATH, &json!({"model": minilm, "input": texts[0]}));
    assert_eq!(one["usage"], json!({"prompt_tokens": 8, "total_tokens": 8}));
    assert_eq!(vector(&one["data"][0]["embedding"]), vectors[0]);
    // The same bytes in the other form.
    let bytes = server.ask(PATH, &json!({"model": minilm, "input": texts[0], "encoding_format": "base64"}));
    let bytes = STANDARD.decode(bytes["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
    assert_eq!(floats, vectors[0].iter().map(|&number| number as f32).collect::<Vec<_>>());

    // Many at once, more than are computed together: each has its own.
    let many: Vec<String> = (0..150).map(|at| format!("text number {at}")).collect();
    let all = server.ask(PATH, &json!({"model": minilm, "input": many}));
    let alone = server.ask(PATH, &json!({"model": minilm, "input": many[149]}));
    assert_eq!(all["data"][149]["embedding"], alone["data"][0]["embedding"]);
    assert!(server.counted("ostrakon_embedded_texts_total") >= 154.0);

    for (more, param) in [
        (json!({"dimensions": 100}), "dimensions"),
        (json!({"input": ""}), "input"),
        (json!({"input": [1, 2, 3]}), "input"),
        (json!({"input": "word ".repeat(300)}), "input"),
        (json!({"encoding_format": "int8"}), "encoding_format"),
        (json!({"model": "tiny-writer"}), "model"),
    ] {
        let mut body = json!({"model": minilm, "input": "a"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, named, _) = server.post(PATH, &body).error();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{more}");
    }
    let chat = json!({"model": minilm, "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(server.post("/v1/chat/completions", &chat).error().1.as_deref(), Some("model"));
}
