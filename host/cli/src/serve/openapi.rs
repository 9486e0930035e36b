//! The description of the API, made of the types that it is made of.

use super::error::ErrorBody;
use super::models::{Models, Work};
use super::{Server, chat, completions, embeddings, json, metrics, page, receipts, router};
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;
use std::sync::Arc;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

/// OpenAI's API, as far as it goes here.
#[derive(OpenApi)]
#[openapi(
    info(title = "Ostrakon", description = "Models in packages, behind the API that clients of OpenAI speak.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        router::models, router::model, chat::chat, completions::complete, embeddings::embed, receipts::receipt,
        receipts::summary, receipts::audit, page::page, router::health, metrics::metrics, document
    ),
    components(schemas(ErrorBody)),
    modifiers(&Keys),
)]
struct Description;

struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("key", bearer);
    }
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"))
)]
pub(super) async fn document(State(server): State<Arc<Server>>) -> Response {
    json(&server.description)
}

/// Requests and parts of them: fields that are not in their descriptions are refused.
const CLOSED: [&str; 6] =
    ["ChatRequest", "ChatMessage", "StreamOptions", "CompletionRequest", "EmbeddingRequest", "AuditRequest"];

/// The document, whatever the models.
fn description() -> Value {
    let mut document = serde_json::to_value(Description::openapi()).unwrap_or_default();
    for name in CLOSED {
        if let Some(Value::Object(schema)) = document.pointer_mut(&format!("/components/schemas/{name}")) {
            schema.insert("additionalProperties".into(), false.into());
        }
    }
    document
}

/// The document for these models: which names they have is part of it.
pub(super) fn describe(models: &Models) -> Value {
    let mut document = description();
    let names = |wanted: fn(&Work) -> bool| -> Value {
        models.all().iter().filter(|served| wanted(&served.work)).map(|served| served.name.as_str()).collect()
    };
    let generators = names(|work| matches!(work, Work::Generate(_)));
    let embedders = names(|work| matches!(work, Work::Embed(_)));
    for (request, names) in
        [("ChatRequest", &generators), ("CompletionRequest", &generators), ("EmbeddingRequest", &embedders)]
    {
        let pointer = format!("/components/schemas/{request}/properties/model");
        if let Some(Value::Object(model)) = document.pointer_mut(&pointer)
            && names.as_array().is_some_and(|names| !names.is_empty())
        {
            model.insert("enum".into(), names.clone());
        }
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = description();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let mut open = vec![&document];
        let mut references = 0;
        while let Some(value) = open.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(Value::String(to)) = fields.get("$ref") {
                        let found = document.pointer(to.strip_prefix('#').unwrap());
                        assert!(found.is_some(), "{to}");
                        references += 1;
                    }
                    open.extend(fields.values());
                }
                Value::Array(list) => open.extend(list),
                _ => {}
            }
        }
        assert!(references > 10);
        for name in CLOSED {
            assert_eq!(document["components"]["schemas"][name]["additionalProperties"], false, "{name}");
        }
        let request = &document["components"]["schemas"]["ChatRequest"];
        assert_eq!(request["required"], serde_json::json!(["model", "messages"]));
        assert!(request["properties"].get("tools").is_none());
        for path in router::PATHS {
            assert!(document["paths"].get(path).is_some(), "{path}");
        }
    }
}
