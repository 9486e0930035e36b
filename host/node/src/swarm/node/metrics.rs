//! What the node counts, in the words of Prometheus.

use super::Core;
use crate::swarm::coordinator::Coordinator;
use ostrakon_protocol::Load;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What only the node itself counts.
#[derive(Debug, Default)]
pub(super) struct Counters {
    questions: AtomicU64,
    busy: AtomicU64,
    given: AtomicU64,
}

impl Counters {
    /// A peer asked something.
    pub(super) fn question(&self) {
        self.questions.fetch_add(1, Ordering::Relaxed);
    }

    /// A peer came beyond a bound.
    pub(super) fn busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of files were given to a peer.
    pub(super) fn given(&self, bytes: u64) {
        self.given.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Everything, now.
pub(super) fn text(core: &Arc<Core>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ostrakon");
    registry.register_collector(Box::new(Everything(Arc::clone(core))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Everything(Arc<Core>);

impl Collector for Everything {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let core = &self.0;
        let Load { slots, used, free_memory } = core.serving.load();
        let blocks: u64 = core.serving.served().iter().map(|served| u64::from(served.to - served.from)).sum();
        let live = core.coordinator.as_ref().map_or(0, Coordinator::live);
        let gauges = [
            ("jobs", "Jobs that this coordinator runs or that wait there", live as u64),
            (
                "fleet_nodes",
                "Nodes that this one knows of, itself included",
                core.client.fleet().statuses().len() as u64,
            ),
            ("slots", "Sessions that may be open at once", slots.into()),
            ("slots_used", "Sessions that are reserved or open", used.into()),
            ("free_memory_bytes", "Bytes of memory that jobs may still take", free_memory),
            ("blocks_served", "Blocks that are ready to run", blocks),
            ("draining", "1 if the node takes nothing new", core.serving.is_draining().into()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(to.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let led = core.coordinator.iter().flat_map(|coordinator| coordinator.metrics().all());
        let own = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = [
            ("questions", "Questions of peers", own(&core.counters.questions)),
            ("busy", "Questions and streams beyond the limits", own(&core.counters.busy)),
            ("file_bytes_given", "Bytes of files that were given to peers", own(&core.counters.given)),
        ];
        for (name, help, value) in counters.into_iter().chain(core.serving.metrics().all()).chain(led) {
            let counter = ConstCounter::new(value);
            counter.encode(to.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
