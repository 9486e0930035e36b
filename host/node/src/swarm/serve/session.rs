//! A session: one stream, one reservation, forward calls one after the other.
//!
//! # How
//!
//! 1. The first frame names a committed reservation of the same peer. Then calls come, each with a larger number than the one before.
//! 2. A [`ToNode::Forward`] is compared with the reservation and with the border of the package before its tensor is read;
//!    the tensor must have the digest that was announced. Then the leg is computed and signed.
//! 3. The output goes back at once. A *sealed* call is answered with a commitment only; the vote is shown once, when it is
//!    asked for, and the output only after that. So nobody learns an output here before everybody has committed.
//! 4. Anything that is out of order ends the session with the reason. So do silence and an abort. What was computed for
//!    nobody is thrown away; slot and memory are free again.

use super::leg::{self, LegRun};
use super::metrics::count;
use super::refusal::Refused;
use super::reservations::Opened;
use super::{KEPT_CALLS, Serving};
use crate::receipt::tensor_digest;
use futures::future::BoxFuture;
use ostrakon_net::{FrameStream, NetError, Offence};
use ostrakon_nn::Tensor;
use ostrakon_protocol::quorum::Vote;
use ostrakon_protocol::wire::{FromNode, MAX_TENSOR_BYTES, Refusal, TensorHeader, ToNode, vote_subject};
use ostrakon_protocol::{Digest, Document, Leg, Place, PublicKey};
use std::collections::VecDeque;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Most time until a stream says which session it is for.
pub(super) const OPEN_WITHIN: Duration = Duration::from_secs(10);

/// For how long a peer that was refused something is let finish what it sends, so that it comes to hear why.
const LINGER: Duration = Duration::from_secs(2);

/// The stream of a session, as this node sees it.
pub(super) type Stream = FrameStream<ToNode, FromNode>;

/// Why a stream is over.
pub(super) enum End {
    /// The peer said so or went away.
    Closed,
    /// The peer is told why.
    Refused(Refused, Option<Offence>),
    /// Nothing can be told.
    Broken(NetError),
}

impl End {
    /// The peer did something that no peer of ours does.
    pub(super) fn wrong(reason: impl Into<String>) -> Self {
        Self::Refused(Refused::bad(reason), Some(Offence::Malformed))
    }
}

impl From<NetError> for End {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout { .. } => {
                Refused::new(Refusal::Busy, "nothing came for too long: the session is over").into()
            }
            other => Self::Broken(other),
        }
    }
}

impl From<Refused> for End {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused, None)
    }
}

/// The slot is free when this is dropped.
pub(super) struct Seat<'a> {
    pub(super) serving: &'a Serving,
    pub(super) session: Digest,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.serving.book().end(&self.session);
    }
}

/// A sealed call that has been computed.
struct Sealed {
    call: u32,
    leg: Leg,
    output: Tensor,
    took: Duration,
    vote: Vote,
    is_revealed: bool,
}

impl Serving {
    /// Serve a session to its end. What the peer did wrong, if it did.
    pub fn session(&self, from: PublicKey, stream: Stream) -> BoxFuture<'_, Option<Offence>> {
        Box::pin(self.serve_session(from, stream))
    }

    async fn serve_session(&self, from: PublicKey, mut stream: Stream) -> Option<Offence> {
        let mut calls = 0;
        let end = match self.run_session(&from, &mut stream, &mut calls).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.over(from, &mut stream, end, |why, reason| FromNode::Failed { call: calls, why, reason }).await
    }

    /// A stream is over; the peer is told why, if it can be, by the frame that `failed` makes. What it did wrong, if it did.
    pub(super) async fn over<In: Document, Out: Document>(
        &self,
        from: PublicKey,
        stream: &mut FrameStream<In, Out>,
        end: End,
        failed: impl FnOnce(Refusal, String) -> Out,
    ) -> Option<Offence> {
        match end {
            End::Closed => None,
            End::Refused(Refused { why, reason }, offence) => {
                count(&self.metrics.refused, 1);
                tracing::debug!(%from, kind = In::KIND, ?why, reason, "a stream ends");
                // Whoever does not hear it sees that the stream ends.
                let _ = stream.send(&failed(why, reason), &[]).await;
                let _ = stream.finish().await;
                linger(stream).await;
                offence
            }
            // What was wrong with the bytes themselves, the stream has reported.
            End::Broken(error) => {
                tracing::debug!(%from, kind = In::KIND, %error, "a stream breaks");
                None
            }
        }
    }

    async fn run_session(
        &self,
        from: &PublicKey,
        stream: &mut Stream,
        calls: &mut u32,
    ) -> Result<std::convert::Infallible, End> {
        let session = match stream.receive(OPEN_WITHIN).await? {
            Some(ToNode::Open { session }) => session,
            Some(_) => return Err(End::wrong("the first frame must say which session the stream is for")),
            None => return Err(End::Closed),
        };
        let opened = self.expired_book().open(from, &session).map_err(|refused| {
            // A reservation that ran out is nobody's fault.
            let offence = (refused.why == Refusal::Forbidden).then_some(Offence::Malformed);
            End::Refused(refused, offence)
        })?;
        let _seat = Seat { serving: self, session: opened.session };
        self.strike(vec![session]);
        count(&self.metrics.sessions, 1);
        stream.send(&FromNode::Opened, &[]).await?;
        let abort = opened.abort.clone();
        let span = tracing::info_span!("session", job = %opened.ask.job, from = opened.ask.from, to = opened.ask.to);
        let session = Session { serving: self, opened, calls, kept: VecDeque::with_capacity(KEPT_CALLS) };
        session.serve(stream, &abort).instrument(span).await
    }
}

struct Session<'a> {
    serving: &'a Serving,
    opened: Opened,
    /// The least number of the next call.
    calls: &'a mut u32,
    kept: VecDeque<Sealed>,
}

impl Session<'_> {
    /// One frame after the other.
    async fn serve(mut self, stream: &mut Stream, abort: &CancellationToken) -> Result<std::convert::Infallible, End> {
        loop {
            tokio::select! {
                biased;
                () = abort.cancelled() => {
                    return Err(Refused::new(Refusal::Busy, "the session was aborted").into());
                }
                stepped = self.step(stream) => stepped?,
            }
        }
    }

    /// The next frame.
    async fn step(&mut self, stream: &mut Stream) -> Result<(), End> {
        match stream.receive(self.opened.hold).await? {
            None | Some(ToNode::Close) => Err(End::Closed),
            Some(ToNode::Open { .. }) => Err(End::wrong("the stream has a session already")),
            Some(ToNode::Forward { call, batch, lengths, input, tensor, sealed }) => {
                let announced = Announced { call, batch, lengths: &lengths, input, tensor: &tensor };
                self.forward(stream, &announced, sealed).await
            }
            Some(ToNode::Reveal { call }) => self.reveal(stream, call).await,
            Some(ToNode::Fetch { call }) => self.fetch(stream, call).await,
        }
    }

    async fn forward(&mut self, stream: &mut Stream, announced: &Announced<'_>, sealed: bool) -> Result<(), End> {
        let Opened { ask, hosted, abort, .. } = &self.opened;
        // A node that takes the place of another one has not seen the calls before; the votes of all are on the same one.
        if announced.call < *self.calls {
            return Err(End::wrong(format!(
                "call {} has been: the next one is {} or later",
                announced.call, self.calls
            )));
        }
        let (lengths, tokens) = leg::lengths(announced.lengths, hosted.max_tokens, ask.rows).map_err(End::wrong)?;
        let texts = u32::try_from(announced.lengths.len()).unwrap_or(u32::MAX);
        let border = hosted.border(ask.from).ok_or_else(|| Refused::new(Refusal::Fault, "there is no such border"))?;
        border.expect(announced.tensor, tokens, texts).map_err(End::wrong)?;
        let bytes = stream.payload(announced.tensor.bytes, MAX_TENSOR_BYTES).await?;
        let metrics = &self.serving.metrics;
        count(&metrics.bytes_in, bytes.len() as u64);
        let input = leg::tensor(announced.tensor, &bytes).map_err(End::wrong)?;
        drop(bytes);
        let place = Place {
            request: ask.request,
            package: hosted.digest,
            profile: hosted.profile,
            batch: announced.batch,
            lengths: tensor_digest(&lengths),
        };
        let computed = hosted.compute(ask.from..ask.to, (input, announced.input), lengths, abort).await;
        let LegRun { output, steps, took } = computed.map_err(|no| match no {
            super::NoLeg::Input { .. } => End::wrong(no.to_string()),
            other => Refused::from(other).into(),
        })?;
        count(&metrics.forwards, 1);
        count(&metrics.rows, tokens.into());
        count(&metrics.compute, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let leg = Leg::sign(&self.serving.key, &place, hosted.backend, steps);
        let call = announced.call;
        if sealed {
            let subject = vote_subject(&ask.job, &ask.plan, announced.batch, call, ask.from, ask.to);
            let vote = Vote::new(subject, tensor_digest(&output))
                .map_err(|error| Refused::new(Refusal::Fault, format!("there is no randomness: {error}")))?;
            let commit = vote.commit(&self.serving.key);
            if self.kept.len() >= KEPT_CALLS {
                self.kept.pop_front();
            }
            self.kept.push_back(Sealed { call, leg, output, took, vote, is_revealed: false });
            stream.send(&FromNode::Committed { call, commit }, &[]).await?;
        } else {
            send(self.serving, stream, call, leg, &output, took).await?;
        }
        *self.calls = call.saturating_add(1);
        Ok(())
    }

    async fn reveal(&mut self, stream: &mut Stream, call: u32) -> Result<(), End> {
        let key = &self.serving.key;
        let sealed = kept(&mut self.kept, call)?;
        if sealed.is_revealed {
            return Err(End::wrong(format!("call {call} has been revealed already")));
        }
        sealed.is_revealed = true;
        let revealed = FromNode::Revealed { call, reveal: sealed.vote.reveal(key), leg: sealed.leg.clone() };
        Ok(stream.send(&revealed, &[]).await?)
    }

    async fn fetch(&mut self, stream: &mut Stream, call: u32) -> Result<(), End> {
        let sealed = kept(&mut self.kept, call)?;
        if !sealed.is_revealed {
            return Err(End::wrong(format!("call {call} has not been revealed: its output is shown after that")));
        }
        send(self.serving, stream, call, sealed.leg.clone(), &sealed.output, sealed.took).await
    }
}

/// What the header of a forward call says.
struct Announced<'a> {
    call: u32,
    batch: u32,
    lengths: &'a [u32],
    input: Digest,
    tensor: &'a TensorHeader,
}

fn kept(kept: &mut VecDeque<Sealed>, call: u32) -> Result<&mut Sealed, End> {
    kept.iter_mut().find(|sealed| sealed.call == call).ok_or_else(|| {
        End::wrong(format!("there is no sealed call {call}: the last {KEPT_CALLS} of a session are kept"))
    })
}

/// Throw away what still comes.
async fn linger<In, Out>(stream: &mut FrameStream<In, Out>) {
    let mut unwanted = vec![0; 64 << 10];
    let rest = async { while let Ok(1..) = stream.read(&mut unwanted).await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

async fn send(
    serving: &Serving,
    stream: &mut Stream,
    call: u32,
    leg: Leg,
    output: &Tensor,
    took: Duration,
) -> Result<(), End> {
    let tensor = leg::header(output);
    count(&serving.metrics.bytes_out, tensor.bytes);
    let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    Ok(stream.send(&FromNode::Output { call, leg, tensor, took }, &output.bytes()).await?)
}
