//! What a scheduling node must not forget: jobs, their plans, their answers, receipts, snapshots, what was learnt.
//!
//! # How
//!
//! 1. A job is written before it is acknowledged, a plan before it is used, an answer before anybody can fetch it: after a
//!    crash what is unfinished is run again, and what is done is not.
//! 2. Everything is bounded by count and by bytes. The oldest finished jobs and the oldest snapshots go first.
//!
//! Every call here reads or writes a file: not for the threads that serve the network.

use super::clock::now;
use crate::error::NodeError;
use ostrakon_protocol::wire::{JobState, ReceiptLine, Reply};
use ostrakon_protocol::{Digest, Document, JobAnswer, SignedJob, SignedPlan, Snapshot, decode, encode};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use std::sync::Arc;

type Id = &'static [u8; 32];
/// Jobs as their clients signed them.
const JOBS: TableDefinition<Id, &[u8]> = TableDefinition::new("swarm jobs");
/// When accepted, when finished (both in milliseconds), how it stands, and what goes with that.
const STATES: TableDefinition<Id, (u64, u64, u8, &[u8])> = TableDefinition::new("swarm job states");
const ANSWERS: TableDefinition<Id, &[u8]> = TableDefinition::new("swarm answers");
const ROWS: TableDefinition<Id, &[u8]> = TableDefinition::new("swarm rows");
/// By job and attempt.
const PLANS: TableDefinition<(Id, u32), &[u8]> = TableDefinition::new("swarm plans");
/// Finished jobs in order of time, with the bytes that each takes.
const FINISHED: TableDefinition<(u64, Id), u64> = TableDefinition::new("swarm finished jobs");
const SNAPSHOTS: TableDefinition<Id, &[u8]> = TableDefinition::new("swarm snapshots");
/// Snapshots in the order in which they came, with the bytes that each takes.
const SNAPSHOT_ORDER: TableDefinition<u64, (Id, u64)> = TableDefinition::new("swarm snapshot order");
const KEPT: TableDefinition<&str, &[u8]> = TableDefinition::new("swarm kept");
const RECEIPTS: &str = "receipts";
const HISTORY: &str = "history";

const UNFINISHED: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

/// Most receipts in the list.
pub const MAX_RECEIPTS: usize = 64;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// The database refuses.
    #[error("{0}")]
    Database(Box<redb::Error>),
    /// What lies there cannot be understood.
    #[error("something else than {what} is there: {source}")]
    Damaged {
        /// What should be there.
        what: &'static str,
        /// Why it is not.
        source: ostrakon_protocol::DecodeError,
    },
}

impl From<JobsError> for NodeError {
    fn from(error: JobsError) -> Self {
        Self::Database(error.to_string())
    }
}

impl<E: Into<redb::Error>> From<E> for JobsError {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Finished jobs.
    pub jobs: u64,
    /// Bytes of their answers.
    pub job_bytes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of them.
    pub snapshot_bytes: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { jobs: 10_000, job_bytes: 1 << 30, snapshots: 4096, snapshot_bytes: 512 << 20 }
    }
}

/// How a job stands, for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Milliseconds since 1970.
    pub accepted: u64,
    /// What its client signed.
    pub job: SignedJob,
    /// `None`: it is not finished.
    pub finished: Option<JobState>,
}

/// An encoded `JobAnswer` and the rows, as they are sent.
pub type EncodedAnswer = (Vec<u8>, Vec<u8>);

/// The jobs of a scheduling node.
#[derive(Debug, Clone)]
pub struct Jobs {
    database: Arc<Database>,
    kept: Kept,
}

fn document<T: Document>(what: &'static str, bytes: &[u8]) -> Result<T, JobsError> {
    decode(bytes).map_err(|source| JobsError::Damaged { what, source })
}

impl Jobs {
    /// The jobs in this database.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn new(database: Arc<Database>, kept: Kept) -> Result<Self, JobsError> {
        let write = database.begin_write()?;
        // So that reading never meets a table that is not there.
        write.open_table(JOBS)?;
        write.open_table(STATES)?;
        write.open_table(ANSWERS)?;
        write.open_table(ROWS)?;
        write.open_table(PLANS)?;
        write.open_table(FINISHED)?;
        write.open_table(SNAPSHOTS)?;
        write.open_table(SNAPSHOT_ORDER)?;
        write.open_table(KEPT)?;
        write.commit()?;
        Ok(Self { database, kept })
    }

    /// Keep a job that was accepted.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn accept(&self, id: &Digest, job: &SignedJob) -> Result<(), JobsError> {
        let write = self.database.begin_write()?;
        write.open_table(JOBS)?.insert(id.as_bytes(), encode(job).as_slice())?;
        write.open_table(STATES)?.insert(id.as_bytes(), (now(), 0, UNFINISHED, [].as_slice()))?;
        Ok(write.commit()?)
    }

    /// A job, if it is known.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn find(&self, id: &Digest) -> Result<Option<Stored>, JobsError> {
        let read = self.database.begin_read()?;
        let Some(job) = read.open_table(JOBS)?.get(id.as_bytes())? else { return Ok(None) };
        let Some(state) = read.open_table(STATES)?.get(id.as_bytes())? else { return Ok(None) };
        let (accepted, _, kind, detail) = state.value();
        let finished = match kind {
            DONE => detail.try_into().ok().map(|bytes| JobState::Done { receipt: Digest::from_bytes(bytes) }),
            FAILED => Some(JobState::Failed { reason: String::from_utf8_lossy(detail).into_owned() }),
            _ => None,
        };
        Ok(Some(Stored { accepted, job: document("a job", job.value())?, finished }))
    }

    /// The jobs that are not finished, oldest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Digest>, JobsError> {
        let read = self.database.begin_read()?;
        let mut found = Vec::new();
        for entry in read.open_table(STATES)?.iter()? {
            let (id, state) = entry?;
            let (accepted, _, kind, _) = state.value();
            if kind == UNFINISHED {
                found.push((accepted, Digest::from_bytes(*id.value())));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// Keep a plan and the snapshot that it was made from.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn planned(&self, plan: &SignedPlan, snapshot: &Snapshot) -> Result<(), JobsError> {
        let write = self.database.begin_write()?;
        let request = &plan.record.request;
        write.open_table(PLANS)?.insert((request.job.as_bytes(), request.attempt), encode(plan).as_slice())?;
        self.keep_snapshot(&write, &plan.record.snapshot, snapshot)?;
        Ok(write.commit()?)
    }

    fn keep_snapshot(&self, write: &WriteTransaction, digest: &Digest, snapshot: &Snapshot) -> Result<(), JobsError> {
        let (mut snapshots, mut order) = (write.open_table(SNAPSHOTS)?, write.open_table(SNAPSHOT_ORDER)?);
        if snapshots.get(digest.as_bytes())?.is_some() {
            return Ok(());
        }
        let bytes = encode(snapshot);
        snapshots.insert(digest.as_bytes(), bytes.as_slice())?;
        let next = order.last()?.map_or(0, |(at, _)| at.value().saturating_add(1));
        order.insert(next, (digest.as_bytes(), bytes.len() as u64))?;
        let (mut count, mut total) = (0u64, 0u64);
        let mut gone = Vec::new();
        for entry in order.iter()?.rev() {
            let (at, value) = entry?;
            let (digest, bytes) = value.value();
            (count, total) = (count.saturating_add(1), total.saturating_add(bytes));
            if count > self.kept.snapshots || total > self.kept.snapshot_bytes {
                gone.push((at.value(), *digest));
            }
        }
        for (at, digest) in gone {
            order.remove(at)?;
            snapshots.remove(&digest)?;
        }
        Ok(())
    }

    /// The plans of a job, in the order in which they were made.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn plans(&self, id: &Digest) -> Result<Vec<SignedPlan>, JobsError> {
        let read = self.database.begin_read()?;
        let table = read.open_table(PLANS)?;
        let entries = table.range((id.as_bytes(), 0)..=(id.as_bytes(), u32::MAX))?;
        entries.map(|entry| document("a plan", entry?.1.value())).collect()
    }

    /// A snapshot, as an encoded document.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn snapshot(&self, digest: &Digest) -> Result<Option<Vec<u8>>, JobsError> {
        let read = self.database.begin_read()?;
        Ok(read.open_table(SNAPSHOTS)?.get(digest.as_bytes())?.map(|bytes| bytes.value().to_vec()))
    }

    /// A job is done.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn done(&self, id: &Digest, answer: &JobAnswer, rows: &[u8], line: ReceiptLine) -> Result<(), JobsError> {
        let bytes = encode(answer);
        let size = (bytes.len() as u64).saturating_add(rows.len() as u64);
        let write = self.database.begin_write()?;
        write.open_table(ANSWERS)?.insert(id.as_bytes(), bytes.as_slice())?;
        write.open_table(ROWS)?.insert(id.as_bytes(), rows)?;
        {
            let mut kept = write.open_table(KEPT)?;
            let mut lines = lines(kept.get(RECEIPTS)?.map(|bytes| bytes.value().to_vec()))?;
            lines.insert(0, line);
            lines.truncate(MAX_RECEIPTS);
            kept.insert(RECEIPTS, encode(&Reply::Receipts { receipts: lines }).as_slice())?;
        }
        self.finish(&write, id, DONE, answer.receipt.receipt.digest().as_bytes(), size)?;
        Ok(write.commit()?)
    }

    /// A job could not be done.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn failed(&self, id: &Digest, reason: &str) -> Result<(), JobsError> {
        let write = self.database.begin_write()?;
        self.finish(&write, id, FAILED, reason.as_bytes(), reason.len() as u64)?;
        Ok(write.commit()?)
    }

    fn finish(
        &self,
        write: &WriteTransaction,
        id: &Digest,
        kind: u8,
        detail: &[u8],
        bytes: u64,
    ) -> Result<(), JobsError> {
        let (mut jobs, mut states) = (write.open_table(JOBS)?, write.open_table(STATES)?);
        let (mut answers, mut rows) = (write.open_table(ANSWERS)?, write.open_table(ROWS)?);
        let (mut plans, mut finished) = (write.open_table(PLANS)?, write.open_table(FINISHED)?);
        let accepted = states.get(id.as_bytes())?.map_or(0, |state| state.value().0);
        let at = now();
        states.insert(id.as_bytes(), (accepted, at, kind, detail))?;
        let asked = jobs.get(id.as_bytes())?.map_or(0, |job| job.value().len() as u64);
        finished.insert((at, id.as_bytes()), bytes.saturating_add(asked))?;
        // The answer has its plans with it.
        plans.retain_in((id.as_bytes(), 0)..=(id.as_bytes(), u32::MAX), |_, _| false)?;
        let (mut count, mut total) = (0u64, 0u64);
        let mut gone = Vec::new();
        for entry in finished.iter()?.rev() {
            let (key, bytes) = entry?;
            (count, total) = (count.saturating_add(1), total.saturating_add(bytes.value()));
            // The newest is kept, whatever its size: somebody waits for it.
            if count > 1 && (count > self.kept.jobs || total > self.kept.job_bytes) {
                let (at, id) = key.value();
                gone.push((at, *id));
            }
        }
        for (at, id) in gone {
            finished.remove((at, &id))?;
            jobs.remove(&id)?;
            states.remove(&id)?;
            answers.remove(&id)?;
            rows.remove(&id)?;
        }
        Ok(())
    }

    /// Put another answer in the place of one: an auditor has spoken after it was returned.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn amend(&self, id: &Digest, answer: &JobAnswer) -> Result<(), JobsError> {
        let write = self.database.begin_write()?;
        {
            let mut answers = write.open_table(ANSWERS)?;
            if answers.get(id.as_bytes())?.is_some() {
                answers.insert(id.as_bytes(), encode(answer).as_slice())?;
            }
        }
        Ok(write.commit()?)
    }

    /// The encoded answer of a job, and its rows.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn answer(&self, id: &Digest) -> Result<Option<EncodedAnswer>, JobsError> {
        let read = self.database.begin_read()?;
        let answer = read.open_table(ANSWERS)?.get(id.as_bytes())?.map(|bytes| bytes.value().to_vec());
        let rows = read.open_table(ROWS)?.get(id.as_bytes())?.map(|bytes| bytes.value().to_vec());
        Ok(answer.zip(rows))
    }

    /// The latest receipts, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn receipts(&self) -> Result<Vec<ReceiptLine>, JobsError> {
        let read = self.database.begin_read()?;
        lines(read.open_table(KEPT)?.get(RECEIPTS)?.map(|bytes| bytes.value().to_vec()))
    }

    /// What was learnt of nodes, as it was kept last.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn history(&self) -> Result<Option<Vec<u8>>, JobsError> {
        let read = self.database.begin_read()?;
        Ok(read.open_table(KEPT)?.get(HISTORY)?.map(|bytes| bytes.value().to_vec()))
    }

    /// Keep what was learnt of nodes.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn keep_history(&self, bytes: &[u8]) -> Result<(), JobsError> {
        let write = self.database.begin_write()?;
        write.open_table(KEPT)?.insert(HISTORY, bytes)?;
        Ok(write.commit()?)
    }
}

fn lines(bytes: Option<Vec<u8>>) -> Result<Vec<ReceiptLine>, JobsError> {
    match bytes.map(|bytes| document::<Reply>("a list of receipts", &bytes)).transpose()? {
        Some(Reply::Receipts { receipts }) => Ok(receipts),
        _ => Ok(Vec::new()),
    }
}
