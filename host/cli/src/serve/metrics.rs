//! What the server counts, in the words of Prometheus.

use super::Server;
use super::models::{Models, Work};
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds between which durations are counted.
const SECONDS: [f64; 12] = [0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    path: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    /// It has no key, or a wrong one.
    Key,
    /// It was sent to another name.
    Host,
    /// There was no place.
    Busy,
}

/// What is counted as it happens.
pub(super) struct Counters {
    registry: Registry,
    answers: Family<Answered, Counter>,
    refusals: Family<Why, Counter>,
    connections: Counter,
    receipts: Counter,
    begun: Histogram,
    first: Histogram,
}

impl Counters {
    pub(super) fn new(models: &Arc<Models>) -> Self {
        let mut registry = Registry::with_prefix("ostrakon");
        let (answers, refusals) = (Family::default(), Family::default());
        let (connections, receipts) = (Counter::default(), Counter::default());
        let (begun, first) = (Histogram::new(SECONDS), Histogram::new(SECONDS));
        registry.register("http_answers", "Answers, by path and status", answers.clone());
        registry.register("http_refusals", "Requests that were not let in", refusals.clone());
        registry.register("http_connections", "Connections that were taken", connections.clone());
        registry.register("receipts_made", "Receipts that were made", receipts.clone());
        let help = "From a request's head to the head of its answer";
        registry.register_with_unit("http_answer", help, Unit::Seconds, begun.clone());
        let help = "From a request to the first token of its answer";
        registry.register_with_unit("first_token", help, Unit::Seconds, first.clone());
        registry.register_collector(Box::new(OfModels(Arc::clone(models))));
        Self { registry, answers, refusals, connections, receipts, begun, first }
    }

    /// An answer begins.
    pub(super) fn answered(&self, method: &Method, path: &'static str, status: StatusCode, after: Duration) {
        // Whatever a client makes up is one method.
        let known = ["GET", "POST", "HEAD", "OPTIONS"].into_iter().find(|known| method == *known);
        let labels = Answered { method: known.unwrap_or("other"), path, status: status.as_u16() };
        self.answers.get_or_create(&labels).inc();
        self.begun.observe(after.as_secs_f64());
    }

    /// A request is not let in.
    pub(super) fn refused(&self, why: Refused) {
        let reason = match why {
            Refused::Key => "key",
            Refused::Host => "host",
            Refused::Busy => "busy",
        };
        self.refusals.get_or_create(&Why { reason }).inc();
    }

    /// A connection is taken.
    pub(super) fn connection(&self) {
        self.connections.inc();
    }

    /// A receipt was made.
    pub(super) fn receipt(&self) {
        self.receipts.inc();
    }

    /// An answer's first token came.
    pub(super) fn first_token(&self, after: Duration) {
        self.first.observe(after.as_secs_f64());
    }
}

/// What is counted, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", security((), ("key" = [])),
    responses((status = 200, description = "In OpenMetrics' text format", content_type = "application/openmetrics-text"))
)]
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &server.counters.registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, METRICS)], Body::from(text)).into_response(),
        Err(error) => super::error::ApiError::internal(&error.to_string()).into_response(),
    }
}

/// What models count themselves.
struct OfModels(Arc<Models>);

impl fmt::Debug for OfModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfModels")
    }
}

type Named = (&'static str, &'static str);

impl Collector for OfModels {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        // All models of a metric together: that is how the format wants it.
        let mut counters: Vec<(Named, Vec<(&str, f64)>)> = Vec::new();
        let mut gauges: Vec<(Named, Vec<(&str, f64)>)> = Vec::new();
        for served in self.0.all() {
            let (counted, standing) = measured(&served.work);
            for (list, all) in [(&mut counters, counted), (&mut gauges, standing)] {
                for (named, value) in all {
                    match list.iter_mut().find(|(known, _)| *known == named) {
                        Some((_, values)) => values.push((&served.name, value)),
                        None => list.push((named, vec![(&served.name, value)])),
                    }
                }
            }
        }
        for ((name, help), values) in counters {
            let mut metric = to.encode_descriptor(name, help, None, ConstCounter::new(0.0).metric_type())?;
            for (model, value) in values {
                ConstCounter::new(value).encode(metric.encode_family(&[("model", model)])?)?;
            }
        }
        for ((name, help), values) in gauges {
            let mut metric = to.encode_descriptor(name, help, None, ConstGauge::new(0.0).metric_type())?;
            for (model, value) in values {
                ConstGauge::new(value).encode(metric.encode_family(&[("model", model)])?)?;
            }
        }
        Ok(())
    }
}

/// Values, and what they are.
type Values = Vec<(Named, f64)>;

/// What a model has done, and how it stands.
fn measured(work: &Work) -> (Values, Values) {
    match work {
        Work::Generate(generator) => {
            let s = generator.statistics();
            let counted = vec![
                (("requests", "Requests that began"), s.requests as f64),
                (("prompt_tokens", "Tokens of prompts"), s.prompt_tokens as f64),
                (("reused_tokens", "Of these, not computed again"), s.reused_tokens as f64),
                (("generated_tokens", "Tokens that were generated"), s.generated_tokens as f64),
                (("calls", "Calls of the model"), s.calls as f64),
                (("busy_seconds", "In these calls"), s.busy.as_secs_f64()),
            ];
            let standing = vec![
                (("running", "Requests that run now"), s.running as f64),
                (("waiting", "Requests that wait now"), s.waiting as f64),
                (("kept_bytes", "Bytes kept of sequences that have ended"), s.kept_bytes as f64),
            ];
            (counted, standing)
        }
        Work::Embed(embedder) => {
            let counted = embedder.counted();
            let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
            let counted = vec![
                (("embedded_texts", "Texts that vectors were made of"), of(&counted.texts)),
                (("embedded_tokens", "Their tokens"), of(&counted.tokens)),
                (("embedding_seconds", "In making them"), of(&counted.microseconds) / 1e6),
            ];
            (counted, Vec::new())
        }
    }
}
