//! The coordinator: takes jobs and leads each through its phases, whatever nodes do meanwhile.
//!
//! # How
//!
//! 1. A job that is taken is kept before that is said ([`jobs`](super::jobs)). The same job again is the same job.
//! 2. So many run at once; the others wait, at most so many of one client and in all.
//! 3. A job is planned, executed and verified. When a plan cannot be carried out, or an auditor rejects what came of it, the
//!    nodes in question are excluded and there is another plan; what others have done is kept. When nobody is left, those
//!    who did nothing worse than failing get another chance, a little later.
//! 4. What is unfinished when the node stops is run again when it starts.

mod lead;
mod metrics;

use super::answer::{Sent, send};
use super::choose::{Choosing, Loaded};
use super::clock::now;
use super::jobs::{Jobs, JobsError, Kept};
use super::known::KnownPackage;
use super::submit::{self, NotTaken};
use crate::error::NodeError;
use crate::options::RunOptions;
use metrics::{Metrics, count};
use ostrakon_net::{Client, FrameStream, NetError};
use ostrakon_package::Home;
use ostrakon_protocol::job::MAX_JOB_BYTES;
use ostrakon_protocol::wire::{FileAsk, FileReply, JobState, Refusal, Reply};
use ostrakon_protocol::{Digest, PublicKey, SignedJob, SigningKey, decode, encode};
use redb::Database;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Most plans of one job.
const MAX_PLANS: usize = 32;
/// The names of the phases, for people.
const PHASES: [&str; 5] = ["submit", "schedule", "execute", "verify", "return"];
const SUBMIT: u8 = 0;
const SCHEDULE: u8 = 1;
const EXECUTE: u8 = 2;
const VERIFY: u8 = 3;
const RETURN: u8 = 4;
/// Most characters that clients are told of what a job waits for.
const MAX_WAIT: usize = 500;

/// Bounds of what a coordinator takes on.
#[derive(Debug, Clone, Copy)]
pub struct CoordinatorLimits {
    /// Jobs that run at once.
    pub running: usize,
    /// Jobs that run or wait.
    pub queued: usize,
    /// Likewise, of one client.
    pub queued_per_client: usize,
    /// The least that a node is waited for.
    pub patience: Duration,
    /// The least that an auditor is waited for: it may have to open the package first.
    pub audit: Duration,
    /// For how long it is tried to find nodes for a job.
    pub search: Duration,
    /// Likewise, while the whole fleet would not be enough for it, were it idle. Never longer than the other.
    pub search_in_vain: Duration,
    /// What is kept.
    pub kept: Kept,
}

impl Default for CoordinatorLimits {
    fn default() -> Self {
        Self {
            running: 16,
            queued: 1024,
            queued_per_client: 256,
            patience: Duration::from_secs(2),
            audit: Duration::from_secs(15),
            search: Duration::from_secs(60),
            search_in_vain: Duration::from_secs(10),
            kept: Kept::default(),
        }
    }
}

/// What a coordinator is made of.
pub struct CoordinatorSettings {
    /// The network.
    pub net: Client,
    /// What must survive a restart.
    pub database: Arc<Database>,
    /// This user's files.
    pub home: Home,
    /// This node's key.
    pub key: SigningKey,
    /// The scheduler component.
    pub scheduler: Vec<u8>,
    /// How components are run.
    pub options: RunOptions,
    /// Packages that jobs may name.
    pub packages: Vec<Arc<KnownPackage>>,
    /// Bounds.
    pub limits: CoordinatorLimits,
}

/// Takes jobs. Cheap to clone.
#[derive(Clone)]
pub struct Coordinator(Arc<Inner>);

struct Inner {
    net: Client,
    home: Home,
    key: Arc<SigningKey>,
    options: RunOptions,
    limits: CoordinatorLimits,
    jobs: Jobs,
    choosing: Choosing,
    packages: RwLock<BTreeMap<Digest, Arc<KnownPackage>>>,
    live: Mutex<BTreeMap<Digest, Arc<Live>>>,
    slots: Semaphore,
    draining: AtomicBool,
    stopped: CancellationToken,
    tasks: TaskTracker,
    metrics: Metrics,
}

/// A job that is not finished.
struct Live {
    client: PublicKey,
    phase: AtomicU8,
    done: AtomicU32,
    of: AtomicU32,
    /// What it waits for, if that is known.
    wait: Mutex<String>,
}

impl Live {
    fn state(&self) -> JobState {
        let phase = PHASES.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or_default();
        let (done, of) = (self.done.load(Ordering::Relaxed), self.of.load(Ordering::Relaxed));
        let wait = lock(&self.wait);
        let phase = if wait.is_empty() { phase.to_owned() } else { format!("{phase}: {wait}") };
        JobState::Running { phase, done, of }
    }

    fn enter(&self, phase: u8) {
        lock(&self.wait).clear();
        self.phase.store(phase, Ordering::Relaxed);
    }

    /// It goes on only when this changes.
    fn waits(&self, why: &str) {
        *lock(&self.wait) = why.chars().take(MAX_WAIT).collect();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work for a thread that may wait for files and compute.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "a fault of this node: see its log".to_owned())
}

fn fault(error: impl std::fmt::Display) -> Reply {
    tracing::error!(%error, "a question could not be answered");
    Reply::Refused { why: Refusal::Fault, reason: "a fault of this node: see its log".into() }
}

impl Coordinator {
    /// Take jobs from now on, after those that are not finished. This opens the scheduler component and reads the
    /// database: it takes a moment.
    ///
    /// # Errors
    /// The component is not let in, or the database cannot be used.
    pub async fn start(settings: CoordinatorSettings) -> Result<Self, NodeError> {
        let tasks = TaskTracker::new();
        let made = tokio::task::spawn_blocking(move || -> Result<(Inner, Vec<Digest>), NodeError> {
            let CoordinatorSettings { net, database, home, key, scheduler, options, packages, limits } = settings;
            let key = Arc::new(key);
            let jobs = Jobs::new(database, limits.kept)?;
            let loaded = Loaded::new(&scheduler, &home, &options)?;
            let choosing = Choosing::new(loaded, jobs.clone(), net.clone(), Arc::clone(&key))?;
            let unfinished = jobs.unfinished()?;
            let packages = packages.into_iter().map(|package| (package.digest(), package)).collect();
            let inner = Inner {
                net,
                home,
                key,
                options,
                jobs,
                choosing,
                packages: RwLock::new(packages),
                live: Mutex::default(),
                slots: Semaphore::new(limits.running.max(1)),
                limits,
                draining: AtomicBool::new(false),
                stopped: CancellationToken::new(),
                tasks,
                metrics: Metrics::default(),
            };
            Ok((inner, unfinished))
        });
        let (inner, unfinished) = made.await.map_err(|error| NodeError::Engine(error.to_string()))??;
        let coordinator = Self(Arc::new(inner));
        for id in unfinished {
            coordinator.resume(id).await;
        }
        Ok(coordinator)
    }

    async fn resume(&self, id: Digest) {
        let jobs = self.0.jobs.clone();
        match aside(move || jobs.find(&id)).await {
            Ok(Ok(Some(stored))) if stored.finished.is_none() => {
                tracing::info!(job = %id, "an unfinished job is run again");
                let live = Live::new(stored.job.job.client);
                lock(&self.0.live).insert(id, Arc::clone(&live));
                self.spawn(id, stored.job, live, stored.accepted);
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(job = %id, %error, "an unfinished job cannot be read"),
            Err(error) => tracing::error!(job = %id, error, "an unfinished job cannot be read"),
        }
    }

    /// Take a job, or say how it stands.
    pub async fn submit(&self, from: PublicKey, signed: SignedJob) -> Reply {
        let id = signed.job.id();
        if let Some(live) = lock(&self.0.live).get(&id) {
            return if live.client == from { Reply::Job(live.state()) } else { not_yours() };
        }
        match self.take(from, id, signed).await {
            Ok(reply) => reply,
            Err(error) => fault(error),
        }
    }

    async fn take(&self, from: PublicKey, id: Digest, signed: SignedJob) -> Result<Reply, String> {
        let jobs = self.0.jobs.clone();
        let (looked, signed) = aside(move || (submit::admit(&from, &signed), signed)).await?;
        if let Err(not_taken) = looked {
            return Ok(not_taken.into());
        }
        if let Some(stored) = aside(move || jobs.find(&id)).await?.map_err(|error| error.to_string())?
            && let Some(finished) = stored.finished
        {
            return Ok(Reply::Job(finished));
        }
        if self.0.draining.load(Ordering::Relaxed) {
            return Ok(NotTaken::new(Refusal::Busy, "this node is about to leave: ask another one").into());
        }
        if self.0.package(&signed.job.request.package).is_none() {
            let package = signed.job.request.package;
            return Ok(NotTaken::new(Refusal::NotHere, format!("this node does not know the package {package}")).into());
        }
        let live = Live::new(from);
        if let Some(reply) = self.enqueue(id, &live) {
            return Ok(reply);
        }
        let (jobs, job) = (self.0.jobs.clone(), signed.clone());
        let kept = aside(move || jobs.accept(&id, &job)).await;
        if let Err(error) = kept.and_then(|kept| kept.map_err(|error| error.to_string())) {
            lock(&self.0.live).remove(&id);
            return Err(error);
        }
        count(&self.0.metrics.taken, 1);
        self.spawn(id, signed, Arc::clone(&live), now());
        Ok(Reply::Job(live.state()))
    }

    /// Put it among those that run or wait, unless it is there or there are too many.
    fn enqueue(&self, id: Digest, live: &Arc<Live>) -> Option<Reply> {
        let mut all = lock(&self.0.live);
        if let Some(same) = all.get(&id) {
            return Some(Reply::Job(same.state()));
        }
        let of_client = all.values().filter(|other| other.client == live.client).count();
        if all.len() >= self.0.limits.queued || of_client >= self.0.limits.queued_per_client {
            return Some(
                NotTaken::new(Refusal::Busy, "too many jobs are waiting here: ask later or another node").into(),
            );
        }
        all.insert(id, Arc::clone(live));
        None
    }

    fn spawn(&self, id: Digest, signed: SignedJob, live: Arc<Live>, accepted: u64) {
        let inner = Arc::clone(&self.0);
        let span = tracing::info_span!("lead", job = %id, texts = signed.job.request.texts.len());
        let led = async move {
            let stopped = inner.stopped.clone();
            let leading = inner.lead(id, signed, &live, accepted);
            // What is stopped in the middle is unfinished and is run again at the next start.
            let Some(result) = stopped.run_until_cancelled(leading).await else { return };
            if let Err(reason) = result {
                tracing::warn!(job = %id, reason, "a job could not be done");
                count(&inner.metrics.failed, 1);
                let jobs = inner.jobs.clone();
                if let Ok(Err(error)) = aside(move || jobs.failed(&id, &reason)).await {
                    tracing::error!(job = %id, %error, "a job's failure could not be kept");
                }
            }
            lock(&inner.live).remove(&id);
        };
        self.0.tasks.spawn(led.instrument(span));
    }

    /// Jobs that run or wait.
    pub fn live(&self) -> usize {
        lock(&self.0.live).len()
    }

    /// What has been done since the start.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// How a job stands, for its client.
    pub async fn job(&self, from: PublicKey, id: Digest) -> Reply {
        if let Some(live) = lock(&self.0.live).get(&id) {
            return if live.client == from { Reply::Job(live.state()) } else { not_yours() };
        }
        let jobs = self.0.jobs.clone();
        match aside(move || jobs.find(&id)).await {
            Ok(Ok(None)) => Reply::Job(JobState::Unknown),
            Ok(Ok(Some(stored))) if stored.job.job.client != from => not_yours(),
            // Unfinished and not alive: the node is stopping.
            Ok(Ok(Some(stored))) => Reply::Job(stored.finished.unwrap_or(JobState::Unknown)),
            Ok(Err(error)) => fault(error),
            Err(error) => fault(error),
        }
    }

    /// The latest receipts.
    pub async fn receipts(&self) -> Reply {
        let jobs = self.0.jobs.clone();
        match aside(move || jobs.receipts()).await {
            Ok(Ok(receipts)) => Reply::Receipts { receipts },
            Ok(Err(error)) => fault(error),
            Err(error) => fault(error),
        }
    }

    /// Answer the questions of a file stream that are a coordinator's: answers, snapshots, large jobs.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn files(
        &self,
        from: PublicKey,
        ask: FileAsk,
        stream: &mut FrameStream<FileAsk, FileReply>,
    ) -> Result<(), NetError> {
        let jobs = self.0.jobs.clone();
        let not_here = |what: &str| Sent::Refused(Refusal::NotHere, format!("this node does not have this {what}"));
        let found: Result<Result<Sent, JobsError>, String> = match ask {
            FileAsk::Answer { job } => {
                aside(move || match jobs.find(&job)? {
                    Some(stored) if stored.job.job.client != from => {
                        Ok(Sent::Refused(Refusal::Forbidden, "the answer is for the job's client".into()))
                    }
                    Some(_) => {
                        Ok(jobs.answer(&job)?.map_or_else(|| not_here("answer"), |(d, rows)| Sent::Found(d, rows)))
                    }
                    None => Ok(not_here("answer")),
                })
                .await
            }
            FileAsk::Snapshot { digest } => {
                aside(move || {
                    Ok(jobs.snapshot(&digest)?.map_or_else(|| not_here("snapshot"), |d| Sent::Found(d, Vec::new())))
                })
                .await
            }
            FileAsk::Submit { bytes } => {
                let job = stream.payload(bytes, MAX_JOB_BYTES as u64).await?;
                let reply = match aside(move || decode::<SignedJob>(&job)).await {
                    Ok(Ok(signed)) => self.submit(from, signed).await,
                    Ok(Err(error)) => NotTaken::bad(error.to_string()).into(),
                    Err(error) => fault(error),
                };
                return send(stream, Sent::Found(encode(&reply), Vec::new())).await;
            }
            FileAsk::File { .. } => Ok(Ok(not_here("file"))),
        };
        let sent = match found {
            Ok(Ok(sent)) => sent,
            Ok(Err(error)) => refused(fault(error)),
            Err(error) => refused(fault(error)),
        };
        send(stream, sent).await
    }

    /// Other packages from now on. Jobs that run keep theirs.
    pub fn set_packages(&self, packages: Vec<Arc<KnownPackage>>) {
        let packages = packages.into_iter().map(|package| (package.digest(), package)).collect();
        *self.0.packages.write().unwrap_or_else(PoisonError::into_inner) = packages;
    }

    /// The packages that jobs may name.
    pub fn packages(&self) -> Vec<Arc<KnownPackage>> {
        self.0.packages.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Another scheduler component for new jobs. Jobs that run keep theirs.
    ///
    /// # Errors
    /// It is not let in; nothing is changed.
    pub async fn set_scheduler(&self, component: Vec<u8>) -> Result<Digest, NodeError> {
        let (home, options) = (self.0.home.clone(), self.0.options.clone());
        let loaded = aside(move || Loaded::new(&component, &home, &options)).await.map_err(NodeError::Engine)??;
        let digest = loaded.digest();
        self.0.choosing.replace(loaded);
        Ok(digest)
    }

    /// The scheduler component that new jobs use.
    pub fn scheduler(&self) -> Digest {
        self.0.choosing.current().digest()
    }

    /// Jobs that run or wait.
    pub fn queued(&self) -> usize {
        lock(&self.0.live).len()
    }

    /// Take nothing new, and return when all that was taken is done.
    pub async fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Stop at once. What is unfinished is run at the next start.
    pub async fn stop(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.stopped.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

fn refused(reply: Reply) -> Sent {
    match reply {
        Reply::Refused { why, reason } => Sent::Refused(why, reason),
        _ => Sent::Refused(Refusal::Fault, String::new()),
    }
}

fn not_yours() -> Reply {
    NotTaken::new(Refusal::Forbidden, "the job is another client's").into()
}

impl Live {
    fn new(client: PublicKey) -> Arc<Self> {
        Arc::new(Self {
            client,
            phase: AtomicU8::new(SUBMIT),
            done: AtomicU32::new(0),
            of: AtomicU32::new(0),
            wait: Mutex::default(),
        })
    }
}
