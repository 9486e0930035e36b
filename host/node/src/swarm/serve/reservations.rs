//! Who has reserved what: slots and memory, for a time.
//!
//! # How
//!
//! 1. A reservation is *prepared*, then *committed*, then *open* while its stream is. Each but the last ends by the
//!    clock. The clock is looked at whenever the book is, so nothing has to ring.
//! 2. Only who prepared a reservation may do anything with it.
//! 3. Slots, slots of one peer, and bytes are counted before anything is promised.

use super::packages::Hosted;
use super::refusal::Refused;
use ostrakon_protocol::wire::{Prepare, Refusal};
use ostrakon_protocol::{Digest, PublicKey};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bounds of the book.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) slots: u32,
    pub(super) slots_per_peer: u32,
    pub(super) memory: u64,
}

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prepared,
    Committed,
    Open,
}

/// Something that is reserved.
pub(super) struct Reservation {
    pub(super) owner: PublicKey,
    /// What was asked for, and what does it. None where a stream of shares or of decoding holds its place: nobody prepared that.
    leg: Option<(Prepare, Arc<Hosted>)>,
    /// For how long it is kept without being used.
    pub(super) hold: Duration,
    /// Bytes that it may take.
    pub(super) bytes: u64,
    /// Cancelled when it is over, whatever is being done for it.
    pub(super) abort: CancellationToken,
    stage: Stage,
    until: Instant,
}

impl Reservation {
    pub(super) fn new(owner: PublicKey, ask: Prepare, hosted: Arc<Hosted>, hold: Duration, bytes: u64) -> Self {
        let abort = CancellationToken::new();
        let leg = Some((ask, hosted));
        Self { owner, leg, hold, bytes, abort, stage: Stage::Prepared, until: Instant::now() + hold }
    }

    /// The place of a stream that is open at once.
    pub(super) fn of_stream(owner: PublicKey, bytes: u64) -> Self {
        let abort = CancellationToken::new();
        Self { owner, leg: None, hold: Duration::ZERO, bytes, abort, stage: Stage::Open, until: Instant::now() }
    }

    /// As it was before a restart, until then.
    pub(super) fn restored(self, committed: bool, left: Duration) -> Self {
        let stage = if committed { Stage::Committed } else { Stage::Prepared };
        Self { stage, until: Instant::now() + left.min(self.hold), ..self }
    }
}

/// What a stream is opened for.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) session: Digest,
    pub(super) ask: Prepare,
    pub(super) hosted: Arc<Hosted>,
    pub(super) hold: Duration,
    pub(super) abort: CancellationToken,
}

/// All reservations.
pub(super) struct Book {
    bounds: Bounds,
    reservations: HashMap<Digest, Reservation>,
    bytes: u64,
}

impl Book {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, reservations: HashMap::new(), bytes: 0 }
    }

    /// Take a reservation in.
    pub(super) fn reserve(&mut self, session: Digest, reservation: Reservation) -> Result<(), Refused> {
        let Bounds { slots, slots_per_peer, memory } = self.bounds;
        let busy = |reason: String| Err(Refused::new(Refusal::Busy, reason));
        if self.reservations.len() >= slots as usize {
            return busy(format!("all {slots} slots are in use"));
        }
        let own = self.reservations.values().filter(|other| other.owner == reservation.owner).count();
        if own >= slots_per_peer as usize {
            return busy(format!("all {slots_per_peer} slots that one peer may have are in use"));
        }
        let left = memory.saturating_sub(self.bytes);
        if reservation.bytes > left {
            return busy(format!("{} bytes are wanted, {left} are left", reservation.bytes));
        }
        self.bytes = self.bytes.saturating_add(reservation.bytes);
        self.reservations.insert(session, reservation);
        Ok(())
    }

    /// A reservation of this peer.
    fn own(&mut self, from: &PublicKey, session: &Digest) -> Result<&mut Reservation, Refused> {
        let there = self.reservations.get_mut(session);
        let there = there.ok_or_else(|| {
            Refused::new(Refusal::NotHere, format!("there is no reservation {session}; it may have run out"))
        })?;
        if there.owner == *from {
            Ok(there)
        } else {
            Err(Refused::new(Refusal::Forbidden, "the reservation is somebody else's"))
        }
    }

    /// Go ahead; again is as once. Whether that changed something.
    pub(super) fn commit(&mut self, from: &PublicKey, session: &Digest) -> Result<bool, Refused> {
        let there = self.own(from, session)?;
        if there.stage != Stage::Prepared {
            return Ok(false);
        }
        there.stage = Stage::Committed;
        there.until = Instant::now() + there.hold;
        Ok(true)
    }

    /// What is written down of it.
    pub(super) fn kept(&self, session: &Digest) -> Option<(Prepare, Duration)> {
        let there = self.reservations.get(session)?;
        there.leg.as_ref().map(|(ask, _)| (ask.clone(), there.hold))
    }

    /// Forget it and stop what is done for it. What is not there is forgotten already.
    pub(super) fn abort(&mut self, from: &PublicKey, session: &Digest) -> Result<(), Refused> {
        match self.own(from, session) {
            Ok(_) => self.end(session),
            Err(Refused { why: Refusal::NotHere, .. }) => {}
            Err(refused) => return Err(refused),
        }
        Ok(())
    }

    /// A stream came for it.
    pub(super) fn open(&mut self, from: &PublicKey, session: &Digest) -> Result<Opened, Refused> {
        let there = self.own(from, session)?;
        let bad = |reason| Err(Refused::new(Refusal::Bad, reason));
        match (there.stage, &there.leg) {
            (Stage::Prepared, _) => bad("the reservation is not committed"),
            (Stage::Open, _) | (_, None) => bad("the session has a stream already"),
            (Stage::Committed, Some((ask, hosted))) => {
                there.stage = Stage::Open;
                let Reservation { hold, abort, .. } = &*there;
                Ok(Opened {
                    session: *session,
                    ask: ask.clone(),
                    hosted: Arc::clone(hosted),
                    hold: *hold,
                    abort: abort.clone(),
                })
            }
        }
    }

    /// It is over.
    pub(super) fn end(&mut self, session: &Digest) {
        if let Some(reservation) = self.reservations.remove(session) {
            self.bytes = self.bytes.saturating_sub(reservation.bytes);
            reservation.abort.cancel();
        }
    }

    /// End what has run out.
    pub(super) fn expire(&mut self) -> Vec<Digest> {
        let now = Instant::now();
        let over = |reservation: &Reservation| reservation.stage != Stage::Open && reservation.until <= now;
        let gone: Vec<Digest> =
            self.reservations.iter().filter(|(_, there)| over(there)).map(|(session, _)| *session).collect();
        gone.iter().for_each(|session| self.end(session));
        gone
    }

    /// Reservations and sessions.
    pub(super) fn used(&self) -> u32 {
        u32::try_from(self.reservations.len()).unwrap_or(u32::MAX)
    }

    /// Bytes that are not promised.
    pub(super) fn free_memory(&self) -> u64 {
        self.bounds.memory.saturating_sub(self.bytes)
    }
}
