//! Statuses: told by gossip, and asked for from those who know.
//!
//! # How
//!
//! 1. A status that comes by gossip is decoded, and checked if it would be news. Whoever passed on something that is no status,
//!    or is not signed by its node, did wrong: an honest node checks before it passes on.
//! 2. Gossip says only what is new. So the fleet is asked for, page by page, from everybody who connects, and from somebody now
//!    and then. Signatures of pages are checked on threads that may take their time.
//! 3. A second status with the same number is passed on once, as proof for everybody.

use super::EventLoop;
use super::backlog::News;
use super::questions::Asker;
use crate::behaviour::TOPIC;
use crate::control::Query;
use crate::fleet::{Offence, Taken};
use crate::identity::node_of;
use crate::reputation::FULL;
use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance};
use ostrakon_protocol::wire::{Ask, MAX_FLEET, Reply};
use ostrakon_protocol::{PublicKey, SignedStatus, decode, encode};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};

/// Time for a page.
const PAGE: Duration = Duration::from_secs(20);
/// Seconds between two times that somebody is asked for the fleet.
const AGAIN: u64 = 10;
/// Pages whose signatures are checked at the same time.
const CHECKING: usize = 16;

/// A page whose signatures were checked: who sent it, and what of it holds. `Err`: what does not.
type Checked = (PublicKey, Result<Vec<SignedStatus>, String>);

/// What is going on with statuses.
#[derive(Default)]
pub(super) struct Statuses {
    pub(super) checking: JoinSet<Checked>,
    turn: usize,
}

impl EventLoop {
    pub(super) fn publish(&mut self, status: SignedStatus) {
        if let Err(bad) = status.check() {
            // Everybody would hold it against this node.
            tracing::error!(%bad, "this node's own status is not published");
            return;
        }
        if !self.fleet.publish(status.clone()) {
            tracing::error!(node = %status.status.node, "the status of another node is not published");
            return;
        }
        let sent = self.swarm.behaviour_mut().gossip.publish(IdentTopic::new(TOPIC), encode(&status));
        if let Err(error) = sent {
            tracing::debug!(%error, "the status was told to nobody yet");
        }
    }

    pub(super) fn gossip(&mut self, event: gossipsub::Event) {
        match event {
            gossipsub::Event::Message { propagation_source: from, message_id, message } => {
                let acceptance = self.told(&from, &message.data);
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &from, acceptance);
            }
            gossipsub::Event::Subscribed { peer_id, .. } => {
                // It hears gossip from now on; what was said in between is asked for.
                self.ask_fleet(peer_id);
            }
            _ => {}
        }
    }

    fn told(&mut self, from: &PeerId, data: &[u8]) -> MessageAcceptance {
        let Some(source) = node_of(from) else { return MessageAcceptance::Ignore };
        let status = match decode::<SignedStatus>(data) {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(%source, %error, "not a status");
                self.offended(source, Offence::Malformed);
                return MessageAcceptance::Reject;
            }
        };
        if !self.fleet.is_news(&status) {
            return MessageAcceptance::Ignore;
        }
        if let Err(bad) = status.check() {
            tracing::debug!(%source, %bad, "a bad status");
            self.offended(source, Offence::Status);
            return MessageAcceptance::Reject;
        }
        match self.take(status, false) {
            Taken::New | Taken::Contradicts => MessageAcceptance::Accept,
            Taken::Known | Taken::LeftOut => MessageAcceptance::Ignore,
        }
    }

    fn take(&mut self, status: SignedStatus, second_hand: bool) -> Taken {
        let node = status.status.node;
        let taken = self.fleet.take(status, second_hand);
        match taken {
            Taken::New => self.emit(News::Status, node),
            Taken::Contradicts => {
                self.offended(node, Offence::Status);
                self.emit(News::TwoTongues, node);
            }
            Taken::Known | Taken::LeftOut => {}
        }
        taken
    }

    /// Ask a peer for the fleet.
    pub(super) fn ask_fleet(&mut self, peer: PeerId) {
        if let Some(node) = node_of(&peer) {
            self.ask_page(node, None, self.limits.fleet / MAX_FLEET + 2);
        }
    }

    fn ask_page(&mut self, node: PublicKey, after: Option<PublicKey>, left: usize) {
        let query = Query { ask: Ok(Ask::Fleet { after }), within: PAGE };
        self.send_question(node, query, Asker::Fleet(after, left));
    }

    /// A page of a peer's fleet came.
    pub(super) fn fleet_page(&mut self, node: PublicKey, after: Option<PublicKey>, left: usize, reply: Reply) {
        let Reply::Fleet { statuses, more, .. } = reply else { return };
        let last = statuses.last().map(|s| s.status.node);
        let ordered = statuses.is_sorted_by(|a, b| a.status.node < b.status.node)
            && statuses.first().is_none_or(|s| after.is_none_or(|after| s.status.node > after));
        if statuses.len() > MAX_FLEET || !ordered {
            return self.offended(node, Offence::Malformed);
        }
        if more && left > 0 && last.is_some() {
            self.ask_page(node, last, left - 1);
        }
        let mut news = statuses;
        news.retain(|status| self.fleet.is_news(status));
        if news.is_empty() || self.statuses.checking.len() >= CHECKING {
            return;
        }
        self.statuses.checking.spawn_blocking(move || {
            let bad = news.iter().find_map(|status| status.check().err());
            (node, bad.map_or(Ok(news), |bad| Err(bad.to_string())))
        });
    }

    pub(super) fn checked(&mut self, checked: Result<Checked, JoinError>) {
        match checked {
            Ok((_, Ok(statuses))) => {
                for status in statuses {
                    self.take(status, true);
                }
            }
            Ok((node, Err(bad))) => {
                tracing::debug!(%node, bad, "a bad status in a page");
                self.offended(node, Offence::Status);
            }
            Err(error) => tracing::error!(%error, "a page was not checked"),
        }
    }

    pub(super) fn tick_statuses(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        // Those who did wrong are heard less, before they are not heard at all.
        for peer in &peers {
            let points = node_of(peer).map_or(FULL, |node| self.fleet.reputation(&node));
            let gossip = &mut self.swarm.behaviour_mut().gossip;
            gossip.set_application_score(peer, f64::from(points) - f64::from(FULL));
        }
        if self.ticks.is_multiple_of(AGAIN) && !peers.is_empty() {
            self.statuses.turn = (self.statuses.turn + 1) % peers.len();
            if let Some(peer) = peers.get(self.statuses.turn) {
                self.ask_fleet(*peer);
            }
        }
    }
}
