//! Logs and traces.
//!
//! # How
//!
//! 1. Events go to standard error, as text or as JSON, filtered by `OSTRAKON_LOG` or `RUST_LOG`.
//! 2. Where OTEL_EXPORTER_OTLP_ENDPOINT is set, spans go there over HTTP.
//! 3. A span with the field `job` belongs to the trace of that job: the trace's id is made of the job's, so that the parts
//!    of one job on different nodes are one trace, and no node has to tell another about it.

use crate::args::LogFormat;
use crate::problem::Problem;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::cell::RefCell;
use std::fmt::Debug;
use std::io::{self, IsTerminal};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context as LayerContext, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What must be ended when the program ends, so that the last spans are sent.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// Begin to log. `usual` is what is shown when no variable says otherwise.
pub(crate) fn start(format: LogFormat, usual: &str) -> Result<Telemetry, Problem> {
    let variable = ["OSTRAKON_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let filter = match variable.filter(|(_, value)| !value.is_empty()) {
        None => EnvFilter::new(usual),
        Some((name, value)) => EnvFilter::try_new(&value).map_err(|error| {
            Problem::usage(format!("{name} is {value:?}, which is no filter of log lines: {error}"))
                .hint("for example: info, or warn,ostrakon_node=debug")
        })?,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let provider = exporter()?;
    let spans = provider.as_ref().map(|provider| {
        let tracer = provider.tracer("ostrakon");
        Attach.and_then(tracing_opentelemetry::layer().with_tracer(tracer)).and_then(Detach)
    });
    // Started twice only in tests.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans.with_filter(ours())).try_init();
    Ok(Telemetry(provider))
}

/// Spans of this program, not those of its libraries.
fn ours() -> tracing_subscriber::filter::Targets {
    tracing_subscriber::filter::Targets::new().with_target("ostrakon", Level::DEBUG)
}

fn exporter() -> Result<Option<SdkTracerProvider>, Problem> {
    if std::env::var_os(ENDPOINT).is_none_or(|value| value.is_empty()) {
        return Ok(None);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build().map_err(|error| {
        Problem::usage(format!("spans cannot be sent to {ENDPOINT}: {error}"))
            .hint("for example: http://127.0.0.1:4318")
    })?;
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).build()))
}

thread_local! {
    /// Between the two layers: the trace that the span is made in.
    static ATTACHED: RefCell<Option<ContextGuard>> = const { RefCell::new(None) };
}

/// Before a span is made: the trace of its job, if it has one and no parent.
struct Attach;
/// After it.
struct Detach;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Attach {
    fn on_new_span(&self, attributes: &Attributes<'_>, _id: &Id, context: LayerContext<'_, S>) {
        if attributes.is_contextual() && context.lookup_current().is_some() {
            return;
        }
        let mut job = Job(None);
        attributes.record(&mut job);
        let Some(trace) = job.0.as_deref().and_then(trace) else { return };
        let guard = Context::new().with_remote_span_context(trace).attach();
        ATTACHED.with(|attached| *attached.borrow_mut() = Some(guard));
    }
}

impl<S: Subscriber> Layer<S> for Detach {
    fn on_new_span(&self, _attributes: &Attributes<'_>, _id: &Id, _context: LayerContext<'_, S>) {
        // Not dropped while it is borrowed: dropping runs code of others.
        let guard = ATTACHED.with(|attached| attached.borrow_mut().take());
        drop(guard);
    }
}

/// The trace of a job: the first 16 bytes of its id; the next 8 stand for the span that everything begins with.
fn trace(job: &str) -> Option<SpanContext> {
    let trace = TraceId::from_hex(job.get(..32)?).ok()?;
    let span = SpanId::from_hex(job.get(32..48)?).ok()?;
    let context = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    context.is_valid().then_some(context)
}

struct Job(Option<String>);

impl Visit for Job {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "job" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "job" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_of_a_job_follows_from_its_id() {
        let job = "0123456789abcdef0123456789abcdef1111111111111111ffffffffffffffff";
        let context = trace(job).unwrap();
        assert_eq!(context.trace_id().to_string(), "0123456789abcdef0123456789abcdef");
        assert_eq!(context.span_id().to_string(), "1111111111111111");
        assert!(trace("job").is_none() && trace(&"0".repeat(64)).is_none() && trace(&"g".repeat(64)).is_none());
    }
}
