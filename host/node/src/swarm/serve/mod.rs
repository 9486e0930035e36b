//! The execution role and the verification role of a node: runs blocks for others, audits receipts for others.
//!
//! # How
//!
//! 1. [`packages`] are loaded beside what is served already, and then take its place.
//! 2. *Two-phase commit*: [`Serving::prepare`] reserves a slot and memory ([`reservations`]) for blocks of a package, and
//!    writes that down ([`kept`]); [`Serving::commit`] keeps it, [`Serving::abort`] and the clock end it.
//! 3. *Session*: on a stream of the same peer, forward calls come one after the other ([`session`]). Each is a [`leg`]:
//!    the blocks run in order, this node signs what went in and out of each.
//! 4. *Shares*: on a stream of its own, products of linear layers for a client that shows nobody its text ([`share`]).
//! 5. *Decoding*: on a stream of its own, later rows of sequences whose keys and values stay here ([`decoding`]).
//! 6. *Audit*: [`Serving::audit`] replays a receipt and signs what it found ([`auditing`]).
//! 7. [`Serving::served`], [`Serving::load`], [`Serving::hardware`] are what the node says of itself; [`metrics`] counts.
//!
//! Everything that peers send is compared with bounds before it is read or computed. What goes wrong for one session ends
//! that session.

mod auditing;
mod decoding;
mod kept;
pub mod leg;
mod memory;
pub mod metrics;
pub mod packages;
mod pasts;
mod refusal;
mod reservations;
mod session;
mod share;
mod share_layers;

pub use leg::{Border, LegRun, Rows};
pub use metrics::Metrics;
pub use packages::{Blocks, Hosted, NoLeg, PackageSetting};

use crate::error::NodeError;
use crate::options::{RunOptions, simd_name};
use crate::swarm::clock::now;
use auditing::Audits;
use kept::{Kept, Notebook};
use metrics::count;
use ostrakon_engine::Limits;
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::wire::{Prepare, Refusal, Reply};
use ostrakon_protocol::{Digest, Hardware, Load, PublicKey, Roles, Served, SigningKey};
use packages::{Table, load_all};
use redb::Database;
use refusal::Refused;
use reservations::{Book, Bounds, Reservation};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Mutex as Queue;

/// Most blocks of one leg: the signed leg has to fit into a frame's header.
pub const MAX_LEG_BLOCKS: u32 = 1024;
/// Outputs of sealed calls that a session keeps. The oldest is dropped for a new one.
pub const KEPT_CALLS: usize = 4;
/// No reservation is shorter.
const MIN_HOLD: Duration = Duration::from_millis(100);
/// How often a node that drains looks whether somebody is left.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// What a node gives to others.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// What it does: `execution` and `verification` matter here.
    pub roles: Roles,
    /// How blocks are run.
    pub run: RunOptions,
    /// Whose packages are run.
    pub policy: TrustPolicy,
    /// Reservations and sessions at once.
    pub slots: u32,
    /// Of these, those of one peer.
    pub slots_per_peer: u32,
    /// Bytes of tensors of all sessions.
    pub memory: u64,
    /// A reservation is never kept for longer without being used.
    pub max_hold: Duration,
    /// Audits that wait or run at once.
    pub audits: usize,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            roles: Roles { execution: true, verification: true, ..Roles::default() },
            // Others wait here who cannot stop a run by hand.
            run: RunOptions { limits: Limits::default(), ..RunOptions::default() },
            policy: TrustPolicy::default(),
            slots: 64,
            slots_per_peer: 48,
            memory: memory::total() / 4,
            max_hold: Duration::from_secs(300),
            audits: 8,
        }
    }
}

/// The two roles at work.
pub struct Serving {
    settings: ServeSettings,
    policy: RwLock<TrustPolicy>,
    home: Home,
    key: SigningKey,
    table: Table,
    /// Packages are loaded by one at a time.
    loading: Queue<()>,
    book: Mutex<Book>,
    notebook: Notebook,
    audits: Arc<Audits>,
    draining: AtomicBool,
    metrics: Metrics,
}

impl Serving {
    /// Load packages, and keep what was promised before a restart.
    ///
    /// # Errors
    /// A package cannot be loaded, or the database cannot be used.
    pub async fn start(
        settings: ServeSettings,
        packages: Vec<PackageSetting>,
        home: Home,
        key: &SigningKey,
        database: Arc<Database>,
    ) -> Result<Arc<Self>, NodeError> {
        let ServeSettings { slots, slots_per_peer, memory, audits, .. } = settings;
        let serving = Arc::new(Self {
            policy: RwLock::new(settings.policy.clone()),
            home,
            key: SigningKey::from_seed(key.seed()),
            table: Table::default(),
            loading: Queue::default(),
            book: Mutex::new(Book::new(Bounds { slots, slots_per_peer, memory })),
            notebook: Notebook::new(database),
            audits: Arc::new(Audits::new(audits)),
            draining: AtomicBool::new(false),
            metrics: Metrics::default(),
            settings,
        });
        serving.set_packages(packages).await?;
        serving.restore().await?;
        Ok(serving)
    }

    /// Serve these packages from now on. What is served already and stays is not loaded again; what goes is used to its
    /// end by those who have reserved it.
    ///
    /// # Errors
    /// A package cannot be loaded: then everything stays as it was.
    pub async fn set_packages(&self, packages: Vec<PackageSetting>) -> Result<(), NodeError> {
        let _turn = self.loading.lock().await;
        let (home, run, policy) = (self.home.clone(), self.settings.run.clone(), self.policy());
        let present = self.table.all();
        let loaded = in_thread(move || load_all(&packages, &present, &policy, &home, &run)).await??;
        self.table.replace(loaded);
        Ok(())
    }

    /// Trust these from now on. Packages that are served already stay.
    pub fn set_policy(&self, policy: TrustPolicy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// The packages that are served.
    pub fn packages(&self) -> Vec<Arc<Hosted>> {
        self.table.all()
    }

    /// Reserve blocks for a peer.
    pub async fn prepare(&self, from: PublicKey, ask: Prepare) -> Reply {
        match self.try_prepare(from, ask).await {
            Ok(session) => Reply::Prepared { session },
            Err(refused) => self.refuse(refused),
        }
    }

    async fn try_prepare(&self, from: PublicKey, ask: Prepare) -> Result<Digest, Refused> {
        if self.is_draining() {
            return Err(Refused::new(Refusal::Busy, "this node takes nothing new: it will leave"));
        }
        let reservation = self.reservation(from, ask.clone())?;
        let session = random().map_err(|reason| Refused::new(Refusal::Fault, reason))?;
        let kept =
            Kept { session, owner: from, ask, committed: false, until: now().saturating_add(millis(reservation.hold)) };
        self.expired_book().reserve(session, reservation)?;
        if let Err(refused) = self.write_down(kept).await {
            self.book().end(&session);
            return Err(refused);
        }
        Ok(session)
    }

    fn reservation(&self, from: PublicKey, ask: Prepare) -> Result<Reservation, Refused> {
        if !self.settings.roles.execution {
            return Err(Refused::new(Refusal::NotHere, "this node runs no blocks for others"));
        }
        if ask.to.saturating_sub(ask.from) > MAX_LEG_BLOCKS {
            return Err(Refused::bad(format!("a leg has at most {MAX_LEG_BLOCKS} blocks")));
        }
        let hosted = self.table.find(&ask.package, ask.from, ask.to);
        let hosted = hosted.map_err(|reason| Refused::new(Refusal::NotHere, reason))?;
        let most = hosted.max_rows();
        if !(1..=most).contains(&ask.rows) {
            return Err(Refused::bad(format!("{} rows in a batch: 1 to {most} are taken", ask.rows)));
        }
        let row = |at: u32| hosted.border(at).map_or(u64::MAX, |border| border.row_bytes);
        // The input as it comes and as it is computed with, and the outputs that are kept.
        let bytes = row(ask.from).saturating_mul(2).saturating_add(row(ask.to).saturating_mul(KEPT_CALLS as u64));
        let bytes = bytes.saturating_mul(u64::from(ask.rows));
        let hold = Duration::from_millis(ask.hold.into()).min(self.settings.max_hold).max(MIN_HOLD);
        Ok(Reservation::new(from, ask, hosted, hold, bytes))
    }

    /// Go ahead with a reservation. Asked again, it is the same.
    pub async fn commit(&self, from: PublicKey, session: Digest) -> Reply {
        let committed = {
            let mut book = self.expired_book();
            book.commit(&from, &session).map(|changed| changed.then(|| book.kept(&session)).flatten())
        };
        match committed {
            Err(refused) => self.refuse(refused),
            Ok(None) => Reply::Ok,
            Ok(Some((ask, hold))) => {
                let until = now().saturating_add(millis(hold));
                let kept = Kept { session, owner: from, ask, committed: true, until };
                match self.write_down(kept).await {
                    Ok(()) => Reply::Ok,
                    Err(refused) => {
                        self.book().end(&session);
                        self.refuse(refused)
                    }
                }
            }
        }
    }

    /// Forget a reservation, or end a session.
    #[allow(clippy::unused_async)]
    pub async fn abort(&self, from: PublicKey, session: Digest) -> Reply {
        let aborted = self.expired_book().abort(&from, &session);
        match aborted {
            Ok(()) => {
                self.strike(vec![session]);
                Reply::Ok
            }
            Err(refused) => self.refuse(refused),
        }
    }

    /// Take nothing new from now on, and wait until all reservations and sessions are over.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        while self.expired_book().used() > 0 {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
    }

    /// Whether it takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// What the node's status says that it serves.
    pub fn served(&self) -> Vec<Served> {
        if !self.settings.roles.execution {
            return Vec::new();
        }
        self.table.all().iter().map(|hosted| hosted.status()).collect()
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let book = self.expired_book();
        Load { slots: self.settings.slots, used: book.used(), free_memory: book.free_memory() }
    }

    /// What it is made of.
    pub fn hardware(&self) -> Hardware {
        let run = &self.settings.run;
        let backend = self.table.all().first().map_or("cpu", |hosted| hosted.backend);
        Hardware {
            threads: u32::try_from(run.thread_count()).unwrap_or(u32::MAX),
            memory: memory::total(),
            simd: simd_name(run).to_owned(),
            backend: backend.to_owned(),
        }
    }

    /// What it has done.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn policy(&self) -> TrustPolicy {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book without what has run out.
    fn expired_book(&self) -> MutexGuard<'_, Book> {
        let mut book = self.book();
        let gone = book.expire();
        if !gone.is_empty() {
            count(&self.metrics.expired, gone.len() as u64);
            self.strike(gone);
        }
        book
    }

    fn refuse(&self, refused: Refused) -> Reply {
        count(&self.metrics.refused, 1);
        refused.into()
    }

    async fn write_down(&self, kept: Kept) -> Result<(), Refused> {
        let notebook = self.notebook.clone();
        in_thread(move || notebook.write(&kept)).await.flatten().map_err(|error| Refused::fault(&error))
    }

    fn strike(&self, sessions: Vec<Digest>) {
        let notebook = self.notebook.clone();
        let strike = move || {
            if let Err(error) = notebook.strike(&sessions) {
                tracing::warn!(%error, "reservations could not be struck out");
            }
        };
        // Outside of a runtime the next start forgets them.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(strike);
        }
    }

    /// What was promised and not begun before a restart is kept until its time is up.
    async fn restore(&self) -> Result<(), NodeError> {
        let notebook = self.notebook.clone();
        let all = in_thread(move || notebook.take()).await??;
        for kept in all {
            let left = Duration::from_millis(kept.until.saturating_sub(now()));
            if left.is_zero() {
                continue;
            }
            // A package that is not served any more: whoever commits or opens hears that nothing is there.
            let Ok(reservation) = self.reservation(kept.owner, kept.ask.clone()) else { continue };
            let reservation = reservation.restored(kept.committed, left);
            if self.book().reserve(kept.session, reservation).is_ok() {
                let notebook = self.notebook.clone();
                in_thread(move || notebook.write(&kept)).await??;
            }
        }
        Ok(())
    }
}

/// Do something that takes long on a thread for that.
pub(crate) async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NodeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| NodeError::Setting(format!("a thread of this node ended in the middle: {error}")))
}

fn random() -> Result<Digest, String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| format!("there is no randomness: {error}"))?;
    Ok(Digest::from_bytes(bytes))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
