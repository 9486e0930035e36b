//! Hands what peers want to those who do it.
//!
//! Each kind of work has a bound of its own, so that files that are served cannot keep jobs waiting. Beyond a bound the
//! peer hears at once that the node is busy.

use super::Core;
use crate::swarm::transfer::give::{GivingStream, give, refuse};
use ostrakon_net::{Event, Events, Question};
use ostrakon_protocol::wire::{Ask, FileAsk, Refusal, Reply};
use ostrakon_protocol::{Digest, PublicKey};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long a peer may take to say which file it wants.
const FIRST_FRAME: Duration = Duration::from_secs(10);
/// Most digests in an answer to a name.
const MAX_NAMED: usize = 64;
/// Streams beyond the sessions that may be open: those that are being refused.
const SPARE_STREAMS: usize = 16;

/// Serve until the node stops.
pub(super) async fn run(core: Arc<Core>, mut events: Events) {
    let limits = core.settings().limits;
    let questions = Arc::new(Semaphore::new(limits.questions()));
    let sessions = Arc::new(Semaphore::new(limits.sessions() as usize + SPARE_STREAMS));
    let files = Arc::new(Semaphore::new(limits.uploads()));
    let mut tasks = JoinSet::new();
    loop {
        let event = tokio::select! {
            () = core.stop.cancelled() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            event = events.recv() => event,
        };
        let Some(event) = event else { break };
        let core = Arc::clone(&core);
        match event {
            Event::Question(question) => {
                core.counters.question();
                match Arc::clone(&questions).try_acquire_owned() {
                    Ok(permit) => {
                        tasks.spawn(async move {
                            core.answer(question).await;
                            drop(permit);
                        });
                    }
                    Err(_) => {
                        core.counters.busy();
                        // If the peer is gone, it does not want to know.
                        let _ = question.answer.send(busy());
                    }
                }
            }
            Event::Session { from, stream } => match Arc::clone(&sessions).try_acquire_owned() {
                Ok(permit) => {
                    tasks.spawn(async move {
                        if let Some(offence) = core.serving.session(from, stream).await {
                            core.client.report(from, offence);
                        }
                        core.changed.notify_one();
                        drop(permit);
                    });
                }
                Err(_) => core.counters.busy(),
            },
            Event::Share { from, stream } => match Arc::clone(&sessions).try_acquire_owned() {
                Ok(permit) => {
                    tasks.spawn(async move {
                        if let Some(offence) = core.serving.share(from, stream).await {
                            core.client.report(from, offence);
                        }
                        core.changed.notify_one();
                        drop(permit);
                    });
                }
                Err(_) => core.counters.busy(),
            },
            Event::Decoding { from, stream } => match Arc::clone(&sessions).try_acquire_owned() {
                Ok(permit) => {
                    tasks.spawn(async move {
                        if let Some(offence) = core.serving.decoding(from, stream).await {
                            core.client.report(from, offence);
                        }
                        core.changed.notify_one();
                        drop(permit);
                    });
                }
                Err(_) => core.counters.busy(),
            },
            Event::Files { from, stream } => match Arc::clone(&files).try_acquire_owned() {
                Ok(permit) => {
                    tasks.spawn(async move {
                        core.files(from, stream).await;
                        drop(permit);
                    });
                }
                Err(_) => {
                    core.counters.busy();
                    if tasks.len() < limits.questions() + limits.uploads() {
                        tasks.spawn(async move {
                            let _ = refuse(stream, Refusal::Busy, "this node serves as many files as it may").await;
                        });
                    }
                }
            },
            Event::TwoTongues(node) => {
                tracing::warn!(%node, "a node signed two statuses with one number");
            }
            Event::Status(node) => tracing::trace!(%node, "a status came"),
            Event::Connected(node) => tracing::debug!(%node, "connected"),
            Event::Disconnected(node) => tracing::debug!(%node, "disconnected"),
        }
    }
}

fn busy() -> Reply {
    Reply::Refused { why: Refusal::Busy, reason: "this node answers as many questions as it may".into() }
}

impl Core {
    async fn answer(&self, Question { from, ask, answer }: Question) {
        let changes = matches!(ask, Ask::Prepare(_) | Ask::Commit { .. } | Ask::Abort { .. });
        let reply = self.reply(from, ask).await;
        // If the peer is gone, what it reserved runs out by itself.
        let _ = answer.send(reply);
        if changes {
            self.changed.notify_one();
        }
    }

    async fn reply(&self, from: PublicKey, ask: Ask) -> Reply {
        match ask {
            // The network has answered it before it comes here.
            Ask::Fleet { .. } => busy(),
            Ask::Prepare(ask) => self.serving.prepare(from, ask).await,
            Ask::Commit { session } => self.serving.commit(from, session).await,
            Ask::Abort { session } => self.serving.abort(from, session).await,
            Ask::Audit { receipt, per_mille } => self.serving.audit(from, &receipt, per_mille).await,
            Ask::Manifest { package } => self.manifest(package).await,
            Ask::Named { name } => self.named(&name),
            Ask::Submit { job } => match &self.coordinator {
                Some(coordinator) => coordinator.submit(from, *job).await,
                None => no_scheduling(),
            },
            Ask::Job { job } => match &self.coordinator {
                Some(coordinator) => coordinator.job(from, job).await,
                None => no_scheduling(),
            },
            Ask::Receipts => match &self.coordinator {
                Some(coordinator) => coordinator.receipts().await,
                None => Reply::Receipts { receipts: Vec::new() },
            },
        }
    }

    async fn manifest(&self, package: Digest) -> Reply {
        let shelf = Arc::clone(&self.shelf);
        match tokio::task::spawn_blocking(move || shelf.manifest(&package)).await {
            Ok(Ok((manifest, signature))) => {
                Reply::Manifest { manifest: manifest.into(), signature: signature.map(Into::into) }
            }
            _ => Reply::Refused { why: Refusal::NotHere, reason: "this node does not have the package".into() },
        }
    }

    fn named(&self, name: &str) -> Reply {
        let all = self.shelf.packages().into_iter().filter(|(_, package)| package.name == name);
        Reply::Named { packages: all.map(|(digest, _)| digest).take(MAX_NAMED).collect() }
    }

    /// Whatever a stream of files is for.
    async fn files(&self, from: PublicKey, mut stream: GivingStream) {
        let ask = match stream.receive(FIRST_FRAME).await {
            Ok(Some(ask)) => ask,
            Ok(None) => return,
            Err(error) => {
                // What was wrong with the bytes, the stream has reported.
                tracing::debug!(%from, %error, "a stream of files ended before it began");
                return;
            }
        };
        match (ask, &self.coordinator) {
            (FileAsk::File { digest, from: start, to }, _) => {
                match give(Arc::clone(&self.shelf), stream, digest, start, to).await {
                    Ok(bytes) => self.counters.given(bytes),
                    Err(error) => tracing::debug!(%from, %error, "a file was not given to its end"),
                }
            }
            (ask, Some(coordinator)) => {
                if let Err(error) = coordinator.files(from, ask, &mut stream).await {
                    tracing::debug!(%from, %error, "an answer was not given to its end");
                }
            }
            (_, None) => {
                let _ = refuse(stream, Refusal::NotHere, "this node takes no jobs").await;
            }
        }
    }
}

fn no_scheduling() -> Reply {
    Reply::Refused { why: Refusal::NotHere, reason: "this node takes no jobs: its roles are without scheduling".into() }
}
