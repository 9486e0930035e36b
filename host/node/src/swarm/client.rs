//! A client of the swarm: asks a scheduling node, and another one when that fails.
//!
//! # How
//!
//! 1. It dials the addresses that it is given and asks who else is there ([`SwarmClient::fleet`]).
//! 2. The job is signed once. A scheduling node gets it and is asked how it stands until it is done; then the answer is
//!    fetched and looked at ([`check`](super::check)).
//! 3. A node that refuses, does not answer or answers something that must not be believed is left, and the next one gets
//!    the same job. The first answer that holds is the answer; no other is taken. When there is no use in asking on
//!    ([`tries`]), that is said at once.

pub(crate) mod choosing;
mod tries;

use super::answer::{MAX_ROW_BYTES, Sent, floats, output, receive};
use super::check::{Check, Checked, check};
use super::known::KnownPackage;
use crate::error::NodeError;
use crate::execute::Output;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use ostrakon_net::{Client, NetConfig, NetError, Offence};
use ostrakon_protocol::wire::{Ask, FileAsk, JobState, MAX_CONTROL_BYTES, MAX_FLEET, ReceiptLine, Refusal, Reply};
use ostrakon_protocol::{
    Attestation, Digest, Document, Job, JobAnswer, PublicKey, Request, SignedJob, SignedPlan, SignedReceipt,
    SignedStatus, SigningKey, Snapshot, Verify, decode, encode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout, timeout_at};
use tries::{Failure, Tries};

/// How long one of the first nodes may take to be reached; one that is frozen takes as long as it is given.
const DIAL: Duration = Duration::from_secs(5);
/// Likewise, once another one was reached.
const OTHERS: Duration = Duration::from_secs(1);
/// How long a control message may take.
const CONTROL: Duration = Duration::from_secs(3);
/// How long all nodes together may take to say whom they know.
const FLEET: Duration = Duration::from_secs(10);
/// How long the first byte of a file may take.
const FILE: Duration = Duration::from_secs(10);
/// Questions in a row that may go without an answer before another node is asked.
const PATIENCE: u32 = 2;
/// Most nodes of a fleet that are listed.
const MAX_LISTED: usize = 16_384;
/// Shortest and longest time between two questions how a job stands.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));

/// What is asked of the swarm.
#[derive(Debug, Clone)]
pub struct SwarmRequest {
    /// The package and the texts.
    pub request: Request,
    /// How the answer is verified.
    pub verify: Verify,
    /// Most texts in a batch; 0: as the node thinks best.
    pub batch: u32,
    /// The package, if it is at hand: more can be looked at then.
    pub package: Option<Arc<KnownPackage>>,
    /// For how long it is tried in all.
    pub within: Duration,
}

/// What the swarm answered, looked at.
#[derive(Debug, Clone)]
pub struct SwarmAnswer {
    /// One for each text, in order.
    pub outputs: Vec<Output>,
    /// Of all outputs in order.
    pub digest: Digest,
    /// The receipt, with the request.
    pub signed: SignedReceipt,
    /// The plans, in the order in which they were made.
    pub plans: Vec<SignedPlan>,
    /// What auditors found.
    pub attestations: Vec<Attestation>,
    /// The job.
    pub job: Digest,
    /// The node that led it.
    pub coordinator: PublicKey,
    /// What was not looked at, and what other nodes did wrong on the way.
    pub notes: Vec<String>,
}

/// A node of the swarm, as another one sees it.
#[derive(Debug, Clone)]
pub struct FleetNode {
    /// What it says of itself.
    pub status: SignedStatus,
    /// Its reputation, in thousandths.
    pub reputation: u32,
}

/// A client of the swarm.
#[derive(Debug)]
pub struct SwarmClient {
    net: Client,
    key: SigningKey,
    bootstrap: Vec<PublicKey>,
}

/// The nodes at these addresses, in their order, and why the others are not among them.
async fn dial(net: &Client, addresses: &[String]) -> (Vec<PublicKey>, Vec<String>) {
    let dials = addresses.iter().enumerate().map(|(at, address)| async move { (at, net.dial(address).await) });
    let mut dials: FuturesUnordered<_> = dials.collect();
    let mut results: BTreeMap<usize, Result<PublicKey, NetError>> = BTreeMap::new();
    let mut until = Instant::now() + DIAL;
    while let Ok(Some((at, result))) = timeout_at(until.into(), dials.next()).await {
        if result.is_ok() {
            until = until.min(Instant::now() + OTHERS);
        }
        results.insert(at, result);
    }
    let (mut reached, mut failed) = (Vec::new(), Vec::new());
    for (at, address) in addresses.iter().enumerate() {
        match results.remove(&at) {
            Some(Ok(node)) => reached.push(node),
            Some(Err(error)) => failed.push(format!("{address}: {error}")),
            None => failed.push(format!("{address}: nobody answers there within {} s", DIAL.as_secs())),
        }
    }
    (reached, failed)
}

fn swarm(reason: impl Into<String>) -> NodeError {
    NodeError::Swarm(reason.into())
}

impl From<NetError> for NodeError {
    fn from(error: NetError) -> Self {
        Self::Swarm(error.to_string())
    }
}

impl SwarmClient {
    /// Connect to the nodes at these addresses; one of them must be there.
    ///
    /// # Errors
    /// An address makes no sense, or nobody is there.
    pub async fn connect(addresses: &[String], key: SigningKey) -> Result<Self, NodeError> {
        if addresses.is_empty() {
            return Err(swarm("no address of a node is given; an address is for example /ip4/127.0.0.1/tcp/4001"));
        }
        let config = NetConfig { bootstrap: addresses.to_vec(), ..NetConfig::new(*key.seed()) };
        let (net, mut events) = Client::start(config).await?;
        // A client serves nothing: whatever it is asked is dropped, which tells the peer that it cannot.
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let (bootstrap, failed) = dial(&net, addresses).await;
        if bootstrap.is_empty() {
            net.stop().await;
            return Err(swarm(format!("no node of the swarm can be reached: {}", failed.join("; "))));
        }
        Ok(Self { net, key, bootstrap })
    }

    /// The network, for asking other things.
    pub const fn net(&self) -> &Client {
        &self.net
    }

    /// The nodes that were dialled.
    pub fn bootstrap(&self) -> &[PublicKey] {
        &self.bootstrap
    }

    /// Close all connections.
    pub async fn close(self) {
        self.net.stop().await;
    }

    /// All nodes that the first node that answers knows of.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn fleet(&self) -> Result<Vec<FleetNode>, NodeError> {
        let mut reasons = Vec::new();
        for &node in &self.bootstrap {
            match self.fleet_of(node).await {
                Ok(fleet) => return Ok(fleet),
                Err(reason) => reasons.push(format!("{node}: {reason}")),
            }
        }
        Err(swarm(format!("no node says who is there: {}", reasons.join("; "))))
    }

    /// What all nodes that were dialled and answer know of: none of them can hide a node that another one names. One node may be
    /// there several times.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn statuses(&self) -> Result<Vec<SignedStatus>, NodeError> {
        let asked = self.bootstrap.iter().map(|&node| async move { (node, self.fleet_of(node).await) });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let (mut statuses, mut reasons, mut answered) = (Vec::new(), Vec::new(), false);
        let mut until = Instant::now() + FLEET;
        while let Ok(Some((node, result))) = timeout_at(until.into(), asked.next()).await {
            match result {
                Ok(fleet) => {
                    answered = true;
                    until = until.min(Instant::now() + OTHERS);
                    statuses.extend(fleet.into_iter().map(|node| node.status));
                }
                Err(reason) => reasons.push(format!("{node}: {reason}")),
            }
        }
        if answered { Ok(statuses) } else { Err(swarm(format!("no node says who is there: {}", reasons.join("; ")))) }
    }

    async fn fleet_of(&self, node: PublicKey) -> Result<Vec<FleetNode>, String> {
        let (mut fleet, mut after) = (Vec::new(), None);
        // Pages may be short where statuses are long, but not all of them.
        for _ in 0..=2 * MAX_LISTED / MAX_FLEET {
            let reply = self.net.ask(node, Ask::Fleet { after }, CONTROL).await.map_err(|error| error.to_string())?;
            let Reply::Fleet { statuses, reputation, more } = reply else { return Err(other(reply)) };
            let in_order = statuses.iter().all(|status| after.is_none_or(|after| status.status.node > after));
            let last = statuses.last().map(|status| status.status.node);
            if !in_order || statuses.len() != reputation.len() || statuses.iter().any(|status| status.check().is_err())
            {
                return Err("it lists nodes that are none".into());
            }
            fleet.extend(
                statuses.into_iter().zip(reputation).map(|(status, reputation)| FleetNode { status, reputation }),
            );
            match last {
                Some(last) if more && fleet.len() < MAX_LISTED => after = Some(last),
                _ => return Ok(fleet),
            }
        }
        Ok(fleet)
    }

    /// The latest receipts of a node.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn receipts(&self, node: PublicKey) -> Result<Vec<ReceiptLine>, NodeError> {
        match self.net.ask(node, Ask::Receipts, CONTROL).await? {
            Reply::Receipts { receipts } => Ok(receipts),
            reply => Err(swarm(other(reply))),
        }
    }

    /// The snapshot that a plan was made from.
    ///
    /// # Errors
    /// The node does not have it, or sends something else.
    pub async fn snapshot(&self, node: PublicKey, digest: Digest) -> Result<Snapshot, NodeError> {
        let stream = self.net.files(node).await?;
        match receive(stream, &FileAsk::Snapshot { digest }, &[], (Snapshot::LIMIT as u64, 0), FILE).await? {
            Sent::Found(document, _) => {
                let snapshot: Snapshot = decode(&document).map_err(|error| swarm(error.to_string()))?;
                if snapshot.digest() == digest { Ok(snapshot) } else { Err(swarm("another snapshot came")) }
            }
            Sent::Refused(_, reason) => Err(swarm(plain(&reason))),
        }
    }

    /// The scheduling nodes: those that were dialled first, then the others that they know of.
    async fn schedulers(&self) -> Vec<PublicKey> {
        let fleet = self.fleet().await.unwrap_or_default();
        let states: BTreeMap<PublicKey, bool> = fleet
            .iter()
            .map(|node| &node.status.status)
            .map(|status| (status.node, status.roles.scheduling && !status.draining))
            .collect();
        // A node that nobody has heard of yet may still be one.
        let dialled = self.bootstrap.iter().filter(|node| states.get(node).copied().unwrap_or(true));
        let others = states.iter().filter(|&(node, &schedules)| schedules && !self.bootstrap.contains(node));
        let mut seen = BTreeSet::new();
        dialled.chain(others.map(|(node, _)| node)).copied().filter(|node| seen.insert(*node)).collect()
    }

    /// The job of a request, signed. Asking with the same job again gives the same answer.
    ///
    /// # Errors
    /// The numbers of its verification make no sense, it is too large, or there is no randomness.
    pub fn job(&self, asked: &SwarmRequest) -> Result<SignedJob, NodeError> {
        asked.verify.check().map_err(NodeError::Setting)?;
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| NodeError::Setting(format!("no randomness for a job: {error}")))?;
        let job = Job {
            request: asked.request.clone(),
            verify: asked.verify,
            batch: asked.batch,
            client: self.key.public(),
            nonce: Digest::from_bytes(nonce),
        };
        let signed = SignedJob::sign(&self.key, job);
        let bytes = encode(&signed).len();
        if bytes > SignedJob::LIMIT {
            return Err(NodeError::Setting(format!(
                "the texts make a job of {bytes} bytes, at most {} are taken: split them",
                SignedJob::LIMIT
            )));
        }
        Ok(signed)
    }

    /// Have the swarm run a request. What is returned has been looked at.
    ///
    /// # Errors
    /// No scheduling node gave an answer that can be believed within the time.
    pub async fn run(&self, asked: &SwarmRequest) -> Result<SwarmAnswer, NodeError> {
        let signed = Arc::new(self.job(asked)?);
        self.run_job(&signed, asked.package.as_ref(), asked.within).await
    }

    /// Likewise, of a job that was signed before: if it is done already, its answer comes at once.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_job<'a>(
        &'a self,
        signed: &'a Arc<SignedJob>,
        package: Option<&'a Arc<KnownPackage>>,
        within: Duration,
    ) -> BoxFuture<'a, Result<SwarmAnswer, NodeError>> {
        Box::pin(self.ask_all(signed, package, within))
    }

    async fn ask_all(
        &self,
        signed: &Arc<SignedJob>,
        package: Option<&Arc<KnownPackage>>,
        within: Duration,
    ) -> Result<SwarmAnswer, NodeError> {
        let until = Instant::now() + within;
        let mut tries = Tries::default();
        let mut rest = Duration::from_millis(100);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let schedulers = timeout(left, self.schedulers()).await.unwrap_or_default();
            for &node in &schedulers {
                if tries.is_left_out(&node) {
                    continue;
                }
                let Some(left) = until.checked_duration_since(Instant::now()) else { break };
                let mut said = String::new();
                match timeout(left, self.ask_one(node, signed, package, &mut said)).await {
                    Ok(Ok(mut answer)) => {
                        answer.notes.extend(tries.notes());
                        return Ok(answer);
                    }
                    Ok(Err(failure)) => {
                        tracing::warn!(%node, reason = failure.reason(), "another scheduling node is asked");
                        tries.note(node, failure);
                    }
                    Err(_) if said.is_empty() => tries.note(node, Failure::Next("it was not done in time".into())),
                    Err(_) => {
                        tries.note(node, Failure::Next(format!("it was not done in time; the last word was {said}")))
                    }
                }
            }
            if let Some(why) = tries.hopeless(&schedulers, &signed.job.request.package, Instant::now()) {
                return Err(swarm(why));
            }
            if Instant::now() + rest >= until {
                let (seconds, told) = (within.as_secs_f64(), tries.told());
                return Err(swarm(format!("no scheduling node gave an answer within {seconds:.0} s: {told}")));
            }
            sleep(rest).await;
            rest = (rest * 2).min(Duration::from_secs(2));
        }
    }

    async fn ask_one(
        &self,
        node: PublicKey,
        signed: &Arc<SignedJob>,
        package: Option<&Arc<KnownPackage>>,
        said: &mut String,
    ) -> Result<SwarmAnswer, Failure> {
        let id = signed.job.id();
        let mut state = self.submit(node, signed).await?;
        let (mut pause, mut unheard) = (POLL.0, 0);
        loop {
            match state {
                JobState::Done { .. } => break,
                JobState::Failed { reason } => return Err(Failure::Refused(plain(&reason))),
                JobState::Unknown => return Err(Failure::Next("it has forgotten the job".into())),
                JobState::Running { phase, .. } if phase.is_empty() => {}
                JobState::Running { phase, .. } => *said = plain(&phase),
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(POLL.1);
            state = match self.net.ask(node, Ask::Job { job: id }, CONTROL).await {
                Ok(Reply::Job(state)) => {
                    unheard = 0;
                    state
                }
                Ok(reply) => return Err(Failure::Next(other(reply))),
                Err(error) if unheard + 1 >= PATIENCE => return Err(Failure::Next(error.to_string())),
                Err(_) => {
                    unheard += 1;
                    JobState::Running { phase: String::new(), done: 0, of: 0 }
                }
            };
        }
        let (answer, rows) = self.fetch(node, id).await.map_err(Failure::Next)?;
        let (signed, package) = (Arc::clone(signed), package.cloned());
        let looked = tokio::task::spawn_blocking(move || believed(&signed.job, node, package, answer, &rows)).await;
        match looked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.net.report(error.who, Offence::Wrong);
                Err(Failure::Lied(error.to_string()))
            }
            Err(error) => Err(Failure::Next(format!("a fault of this program: {error}"))),
        }
    }

    async fn submit(&self, node: PublicKey, signed: &SignedJob) -> Result<JobState, Failure> {
        // What an encoded question adds to the job in it.
        const FRAME: usize = 64;
        let job = encode(signed);
        let reply = if job.len() + FRAME <= MAX_CONTROL_BYTES {
            let ask = Ask::Submit { job: Box::new(signed.clone()) };
            self.net.ask(node, ask, CONTROL).await.map_err(|error| error.to_string())
        } else {
            self.submit_on_stream(node, &job).await
        };
        match reply.map_err(Failure::Next)? {
            Reply::Job(state) => Ok(state),
            Reply::Refused { why: Refusal::Bad, reason } => Err(Failure::Refused(plain(&reason))),
            Reply::Refused { why: Refusal::NotHere, reason } => Err(Failure::NotHere(plain(&reason))),
            reply => Err(Failure::Next(other(reply))),
        }
    }

    async fn submit_on_stream(&self, node: PublicKey, job: &[u8]) -> Result<Reply, String> {
        let stream = self.net.files(node).await.map_err(|error| error.to_string())?;
        let ask = FileAsk::Submit { bytes: job.len() as u64 };
        match receive(stream, &ask, job, (Reply::LIMIT as u64, 0), FILE).await {
            Ok(Sent::Found(reply, _)) => decode(&reply).map_err(|error| error.to_string()),
            Ok(Sent::Refused(_, reason)) => Err(plain(&reason)),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn fetch(&self, node: PublicKey, job: Digest) -> Result<(JobAnswer, Vec<u8>), String> {
        let stream = self.net.files(node).await.map_err(|error| error.to_string())?;
        let most = (JobAnswer::LIMIT as u64, MAX_ROW_BYTES);
        match receive(stream, &FileAsk::Answer { job }, &[], most, FILE).await.map_err(|error| error.to_string())? {
            Sent::Found(document, rows) => Ok((decode(&document).map_err(|error| error.to_string())?, rows)),
            Sent::Refused(_, reason) => Err(plain(&reason)),
        }
    }
}

fn believed(
    job: &Job,
    coordinator: PublicKey,
    package: Option<Arc<KnownPackage>>,
    answer: JobAnswer,
    rows: &[u8],
) -> Result<SwarmAnswer, super::check::BadAnswer> {
    let Checked { notes } = check(Check { job, coordinator, package: package.as_deref(), answer: &answer, rows })?;
    let JobAnswer { job: id, mut receipt, plans, attestations, texts, width } = answer;
    receipt.request = Some(job.request.clone());
    let row = (width as usize).saturating_mul(4).max(1);
    let outputs = texts.iter().zip(rows.chunks_exact(row)).map(|(&(tokens, truncated), row)| Output {
        wrong: None,
        tokens: tokens as usize,
        truncated,
        values: floats(row),
        digest: output(width, row),
    });
    Ok(SwarmAnswer {
        outputs: outputs.collect(),
        digest: receipt.receipt.answer,
        signed: receipt,
        plans,
        attestations,
        job: id,
        coordinator,
        notes,
    })
}

/// Words of a peer, for people.
fn plain(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(1000).collect()
}

fn other(reply: Reply) -> String {
    match reply {
        Reply::Refused { reason, .. } => plain(&reason),
        _ => "it answered something else than it was asked".into(),
    }
}
