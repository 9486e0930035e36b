//! Questions: ours to others, and those of others to this node.
//!
//! # How
//!
//! 1. A question that comes in costs its peer a token. Without one it is answered with "busy", and who goes on for long has an
//!    offence counted against it.
//! 2. Questions for the fleet are answered here. All others go to the event queue, if it has room and not too many are waiting
//!    for an answer already; else the answer is "busy".
//! 3. A question that is dropped without an answer is answered with a fault.

use super::{EventLoop, tell};
use crate::client::unanswered;
use crate::control::Query;
use crate::error::NetError;
use crate::event::{Event, Question};
use crate::fleet::Offence;
use crate::identity::{node_of, peer_of};
use crate::rate::Bucket;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId, ResponseChannel};
use ostrakon_protocol::PublicKey;
use ostrakon_protocol::wire::{Ask, Refusal, Reply};
use std::collections::HashMap;
use std::io::ErrorKind;
use tokio::sync::oneshot;

/// Questions that wait for their answers, in all.
const WAITING: usize = 1024;
/// Questions of one peer that wait for their answers.
const WAITING_PER_PEER: usize = 128;
/// Pages of the fleet a second for one peer: each is a lot of work.
const PAGES: u32 = 4;
/// Pages of the fleet at once: a whole one.
const PAGES_BURST: u32 = 64;
/// Questions beyond the limit that make one offence.
const EXCESS: u32 = 50;

/// Whom an answer is for.
pub(super) enum Asker {
    /// A client.
    Client(oneshot::Sender<Result<Reply, NetError>>),
    /// This loop, which gets to know the fleet: the statuses after this node, and how many pages more at most.
    Fleet(Option<PublicKey>, usize),
}

/// An answer that became ready.
pub(super) type Answered = (PeerId, ResponseChannel<Reply>, Reply);

/// What a peer may still ask.
struct Allowance {
    questions: Bucket,
    pages: Bucket,
    excess: u32,
}

/// Questions on their way.
#[derive(Default)]
pub(super) struct Questions {
    asked: HashMap<OutboundRequestId, (PublicKey, Asker)>,
    pub(super) answering: FuturesUnordered<BoxFuture<'static, Answered>>,
    waiting: HashMap<PeerId, usize>,
    allowances: HashMap<PeerId, Allowance>,
}

impl Questions {
    pub(super) fn left(&mut self, peer: &PeerId) {
        self.allowances.remove(peer);
    }
}

impl EventLoop {
    pub(super) fn ask(&mut self, node: PublicKey, query: Query, answer: oneshot::Sender<Result<Reply, NetError>>) {
        self.send_question(node, query, Asker::Client(answer));
    }

    pub(super) fn send_question(&mut self, node: PublicKey, query: Query, asker: Asker) {
        if let Some(peer) = peer_of(&node) {
            let id = self.swarm.behaviour_mut().control.send_request(&peer, query);
            self.questions.asked.insert(id, (node, asker));
        }
    }

    pub(super) fn control(&mut self, event: request_response::Event<Query, Reply>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request { request, channel, .. } => match (request.ask, node_of(&peer)) {
                    (Ok(ask), _) => self.asked(peer, ask, channel),
                    (Err(reason), Some(node)) => {
                        tracing::debug!(%node, reason, "not a question");
                        self.offended(node, Offence::Malformed);
                    }
                    (Err(_), None) => {}
                },
                Message::Response { request_id, response } => match self.questions.asked.remove(&request_id) {
                    Some((_, Asker::Client(answer))) => tell(answer, Ok(response)),
                    Some((node, Asker::Fleet(after, left))) => self.fleet_page(node, after, left, response),
                    None => {}
                },
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                let Some((node, asker)) = self.questions.asked.remove(&request_id) else { return };
                let error = self.no_answer(node, error);
                match asker {
                    Asker::Client(answer) => tell(answer, Err(error)),
                    Asker::Fleet(..) => tracing::debug!(%node, %error, "the fleet was not told"),
                }
            }
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a question came to nothing");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn no_answer(&mut self, node: PublicKey, error: OutboundFailure) -> NetError {
        let lost = |reason: &str| NetError::Unreachable { peer: node.to_string(), reason: reason.to_owned() };
        match error {
            OutboundFailure::DialFailure => lost("it cannot be dialled"),
            OutboundFailure::UnsupportedProtocols => lost("it does not speak the protocol of Ostrakon nodes"),
            OutboundFailure::Timeout => NetError::Timeout { node },
            OutboundFailure::ConnectionClosed => NetError::Closed(format!("with {node}, before it answered")),
            OutboundFailure::Io(error) => match error.kind() {
                ErrorKind::TimedOut => NetError::Timeout { node },
                ErrorKind::InvalidData => {
                    self.offended(node, Offence::Malformed);
                    NetError::Unexpected(error.to_string())
                }
                _ => NetError::Closed(format!("with {node}, before it answered: {error}")),
            },
        }
    }

    fn asked(&mut self, peer: PeerId, ask: Ask, channel: ResponseChannel<Reply>) {
        let Some(from) = node_of(&peer).filter(|node| !self.fleet.banned(node)) else { return };
        let reply = match self.allowed(peer, from, &ask) {
            Err(busy) => busy.into(),
            Ok(()) => match ask {
                Ask::Fleet { after } => self.fleet.page(after),
                ask => match self.hand_out(peer, from, ask) {
                    Ok(answer) => {
                        let reply = answer.map(|reply| reply.unwrap_or_else(|_| unanswered()));
                        self.questions.answering.push(reply.map(move |reply| (peer, channel, reply)).boxed());
                        return;
                    }
                    Err(busy) => busy.into(),
                },
            },
        };
        let _ = self.swarm.behaviour_mut().control.send_response(channel, reply);
    }

    /// Take a token.
    fn allowed(&mut self, peer: PeerId, from: PublicKey, ask: &Ask) -> Result<(), Busy> {
        let rate = self.limits.questions_per_second;
        let burst = rate.saturating_mul(2);
        let allowance = self.questions.allowances.entry(peer).or_insert_with(|| Allowance {
            questions: Bucket::full(burst),
            pages: Bucket::full(PAGES_BURST),
            excess: 0,
        });
        let pages = matches!(ask, Ask::Fleet { .. });
        if allowance.questions.take(rate, burst) && (!pages || allowance.pages.take(PAGES, PAGES_BURST)) {
            return Ok(());
        }
        allowance.excess += 1;
        if allowance.excess >= EXCESS {
            allowance.excess = 0;
            self.offended(from, Offence::TooMuch);
        }
        Err(Busy(format!("at most {rate} questions a second are answered")))
    }

    /// Into the event queue, if there is room.
    fn hand_out(&mut self, peer: PeerId, from: PublicKey, ask: Ask) -> Result<oneshot::Receiver<Reply>, Busy> {
        let count = self.questions.waiting.get(&peer).copied().unwrap_or(0);
        if count >= WAITING_PER_PEER || self.questions.answering.len() >= WAITING {
            return Err(Busy("too many questions wait for their answers".to_owned()));
        }
        let (answer, answered) = oneshot::channel();
        let question = Event::Question(Question { from, ask, answer });
        if !self.backlog.is_empty() || self.events.try_send(question).is_err() {
            return Err(Busy("the queue of questions is full".to_owned()));
        }
        self.questions.waiting.insert(peer, count + 1);
        Ok(answered)
    }

    pub(super) fn answered(&mut self, (peer, channel, reply): Answered) {
        if let Some(count) = self.questions.waiting.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.questions.waiting.remove(&peer);
            }
        }
        // Nobody may be there any more: then nobody misses it.
        let _ = self.swarm.behaviour_mut().control.send_response(channel, reply);
    }
}

/// Why a question is not taken now.
struct Busy(String);

impl From<Busy> for Reply {
    fn from(Busy(reason): Busy) -> Self {
        Self::Refused { why: Refusal::Busy, reason }
    }
}
