//! `/v1/embeddings`.

use super::Server;
use super::admission::Admission;
use super::error::{ApiError, ErrorBody};
use super::limits::TEXTS;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ostrakon_node::Output;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Texts to make vectors of.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingRequest {
    /// The model's name.
    pub(super) model: String,
    /// One text or many.
    input: Input,
    /// How vectors are written.
    encoding_format: Option<Encoding>,
    /// How long vectors are: as long as the model makes them, or left out.
    #[schema(minimum = 1)]
    dimensions: Option<usize>,
    /// Taken, and without effect.
    #[serde(rename = "user")]
    _user: Option<String>,
}

/// One text or many.
#[derive(Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a text, or a list of texts (tokens are not taken: other models have others)")]
enum Input {
    /// One.
    One(String),
    /// Many.
    Many(Vec<String>),
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// A list of numbers.
    Float,
    /// Its bytes (f32, little-endian) in base64.
    Base64,
}

/// Vectors.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Embeddings {
    /// `list`.
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

/// A vector.
#[derive(Debug, Serialize, ToSchema)]
struct Embedding {
    /// `embedding`.
    object: &'static str,
    /// Which text it is of, counted from 0.
    index: usize,
    embedding: Vector,
}

/// Its numbers.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    /// As a list.
    Numbers(Vec<f32>),
    /// As base64.
    Bytes(String),
}

/// Tokens of the texts.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// Make vectors of texts.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "embedding", request_body = EmbeddingRequest, security((), ("key" = [])),
    responses(
        (status = 200, description = "The vectors, in the order of the texts", body = Embeddings),
        (status = "4XX", description = "Something is wrong with the request, or there is no room", body = ErrorBody),
        (status = "5XX", description = "Something is wrong with the server", body = ErrorBody),
    )
)]
pub(super) async fn embed(State(server): State<Arc<Server>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let _admission = Admission::of(&parts)?;
    let request: EmbeddingRequest = server.bodies.read(&parts.headers, body).await?;
    let (served, embedder) = server.models.embedder(&request.model)?;
    let texts = request.input.texts()?;
    if let Some(wanted) = request.dimensions.filter(|&wanted| wanted != embedder.width()) {
        let why = format!("{wanted}: the model's vectors have {}, and are not cut", embedder.width());
        return Err(ApiError::field("dimensions", why));
    }
    let outputs = embedder.run(texts).await?;
    let tokens = outputs.iter().map(|output| output.tokens).sum();
    let encoding = request.encoding_format.unwrap_or(Encoding::Float);
    let vectors = outputs.into_iter().enumerate();
    Ok(super::json(&Embeddings {
        object: "list",
        data: vectors
            .map(|(index, output)| Embedding { object: "embedding", index, embedding: vector(output, encoding) })
            .collect(),
        model: served.name.clone(),
        usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
    }))
}

impl Input {
    fn texts(self) -> Result<Vec<String>, ApiError> {
        let texts = match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        };
        if texts.is_empty() || texts.len() > TEXTS {
            return Err(ApiError::field("input", format!("{} texts: 1 to {TEXTS}", texts.len())));
        }
        match texts.iter().position(String::is_empty) {
            Some(at) => Err(ApiError::field("input", format!("text {} is empty", at + 1))),
            None => Ok(texts),
        }
    }
}

fn vector(output: Output, encoding: Encoding) -> Vector {
    match encoding {
        Encoding::Float => Vector::Numbers(output.values),
        Encoding::Base64 => {
            let bytes: Vec<u8> = output.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Vector::Bytes(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::body::parse;
    use serde_json::{Value, json};

    fn with(more: Value) -> Result<EmbeddingRequest, ApiError> {
        let mut all = json!({"model": "m"});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(all.to_string().as_bytes())
    }

    #[test]
    fn inputs_are_texts() {
        let texts = |input: Value| with(json!({ "input": input })).and_then(|request| request.input.texts());
        assert_eq!(texts(json!("a")), Ok(vec!["a".to_owned()]));
        assert_eq!(texts(json!(["a", "b"])).unwrap().len(), 2);
        for wrong in [json!(""), json!([]), json!(["a", ""]), json!([1, 2]), json!([[1]]), json!(vec!["a"; 2049])] {
            assert_eq!(texts(wrong).unwrap_err().param(), Some("input"));
        }
    }

    #[test]
    fn formats_are_known_ones() {
        assert_eq!(
            with(json!({"input": "a", "encoding_format": "base64"})).unwrap().encoding_format,
            Some(Encoding::Base64)
        );
        let wrong = with(json!({"input": "a", "encoding_format": "int8"})).unwrap_err();
        assert_eq!(wrong.param(), Some("encoding_format"));
        assert!(with(json!({"input": "a", "dimensions": -1})).is_err());
    }

    #[test]
    fn base64_has_the_bytes_of_floats() {
        let output = Output {
            tokens: 1,
            truncated: false,
            values: vec![1.0, -2.5],
            wrong: None,
            digest: ostrakon_node::Digest::of_output(&[2], &[1.0, -2.5]),
        };
        assert_eq!(vector(output.clone(), Encoding::Base64), Vector::Bytes("AACAPwAAIMA=".into()));
        assert_eq!(vector(output, Encoding::Float), Vector::Numbers(vec![1.0, -2.5]));
    }
}
