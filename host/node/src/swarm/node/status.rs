//! What the node says of itself: signed, published when it changes and from time to time.

use super::Core;
use crate::swarm::clock::now;
use ostrakon_protocol::status::{MAX_ADDRESSES, MAX_SERVED};
use ostrakon_protocol::{SignedStatus, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// A status is published at least this often.
const EVERY: Duration = Duration::from_secs(3);
/// And at most this often.
const AT_MOST_EVERY: Duration = Duration::from_millis(250);

/// Publish until the node stops.
pub(super) async fn run(core: Arc<Core>) {
    let mut sequence = 0;
    let mut said: Option<(Status, Instant)> = None;
    let mut look = interval(AT_MOST_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            _ = look.tick() => {}
            () = core.changed.notified() => {
                // Once more, but not more often than others should have to hear it.
                if let Some((_, at)) = &said {
                    sleep_until(*at + AT_MOST_EVERY / 4).await;
                }
            }
        }
        let now = now();
        let status = core.status(0, 0);
        if said.as_ref().is_some_and(|(last, at)| *last == status && at.elapsed() < EVERY) {
            continue;
        }
        // From the clock, so that a restart does not go back; and never the same twice.
        sequence = now.max(sequence + 1);
        let signed = SignedStatus::sign(&core.key, Status { sequence, issued: now, ..status.clone() });
        if let Err(error) = signed.check() {
            tracing::error!(%error, "the node's own status is not one that others would take");
        }
        core.client.publish(signed).await;
        said = Some((status, Instant::now()));
    }
}

impl Core {
    /// What the node is now.
    pub(super) fn status(&self, sequence: u64, issued: u64) -> Status {
        let settings = self.settings();
        let mut addresses = self.client.addresses();
        addresses.extend(settings.external.iter().cloned());
        addresses.truncate(MAX_ADDRESSES);
        let mut served = self.serving.served();
        served.truncate(MAX_SERVED);
        Status {
            node: self.key.public(),
            sequence,
            issued,
            operator: settings.operator.clone(),
            roles: settings.roles,
            addresses,
            hardware: self.serving.hardware(),
            load: self.serving.load(),
            served,
            plugins: self.plugins().clone(),
            draining: self.serving.is_draining(),
        }
    }
}
