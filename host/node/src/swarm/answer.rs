//! The return phase: the receipt of a job that went through, and its rows.
//!
//! # How
//!
//! 1. The legs of all batches, their witnesses and the plans make the receipt; the rows of the last outputs make the
//!    answer. The coordinator signs the whole.
//! 2. Answers, snapshots and jobs too large for a control message go over streams: a question, a reply that says how many
//!    bytes follow, and then these ([`send`], [`receive`]).

use super::execute::{DoneLeg, Partial};
use super::submit::Work;
use ostrakon_net::{FrameStream, NetError};
use ostrakon_protocol::wire::{FileAsk, FileReply, ReceiptLine, Refusal};
use ostrakon_protocol::{
    Batch, Digest, JobAnswer, Receipt, SignedPlan, SignedReceipt, SigningKey, Swarm, Verify, Witness,
};
use std::time::Duration;

/// Most bytes of the rows of an answer.
pub const MAX_ROW_BYTES: u64 = 1 << 30;

/// What a job came to.
#[derive(Debug, Clone)]
pub(super) struct Assembled {
    /// With the request, as auditors get it.
    pub(super) signed: SignedReceipt,
    /// f32, little-endian, one row for each text.
    pub(super) rows: Vec<u8>,
    /// Values in a row.
    pub(super) width: u32,
}

/// Put the receipt together. This hashes.
///
/// # Errors
/// The batches gave rows of different widths, or the rows are too large.
pub(super) fn assemble(
    work: &Work,
    progress: &[Partial],
    plans: &[SignedPlan],
    key: &SigningKey,
) -> Result<Assembled, String> {
    let (mut batches, mut witnesses, mut outputs, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut width = None;
    for ((at, texts), partial) in (0..).zip(&work.batches).zip(progress) {
        let (done, carried) = partial.legs();
        let of_batch = match *carried.header.dimensions.as_slice() {
            [count, of_batch] if count as usize == texts.texts.len() => of_batch,
            _ => return Err("the package's last block does not give a row for each text".into()),
        };
        if *width.get_or_insert(of_batch) != of_batch {
            return Err("the package's last block gives rows of different widths".into());
        }
        let row = (of_batch as usize).saturating_mul(4).max(1);
        outputs.extend(carried.bytes.chunks_exact(row).map(|row| output(of_batch, row)));
        rows.extend_from_slice(&carried.bytes);
        if rows.len() as u64 > MAX_ROW_BYTES {
            return Err(format!("the rows have more than {MAX_ROW_BYTES} bytes: split the job"));
        }
        for (leg, DoneLeg { witnesses: others, .. }) in (0..).zip(&done) {
            let named = others.iter().map(|(node, backend, signature)| Witness {
                batch: at,
                leg,
                node: *node,
                backend: backend.clone(),
                signature: *signature,
            });
            witnesses.extend(named);
        }
        let legs = done.into_iter().map(|done| done.leg).collect();
        let count = u32::try_from(texts.texts.len()).unwrap_or(u32::MAX);
        batches.push(Batch { texts: count, lengths: texts.lengths, legs });
    }
    let plans = plans.iter().map(|plan| plan.record.digest()).collect();
    let receipt = Receipt {
        request: work.request,
        package: work.package.digest(),
        profile: work.package.profile(),
        batches,
        answer: Digest::of_outputs(&outputs),
        outputs,
        swarm: Some(Swarm { job: work.id, plans, witnesses }),
    };
    let signed = SignedReceipt::sign(key, receipt, Some(work.signed.job.request.clone()));
    Ok(Assembled { signed, rows, width: width.unwrap_or(0) })
}

/// What stands for a row.
pub(super) fn output(width: u32, row: &[u8]) -> Digest {
    Digest::of_output(&[width], &floats(row))
}

/// Little-endian f32.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

impl Assembled {
    /// What the client gets; it has the request.
    pub(super) fn answer(&self, work: &Work, plans: &[SignedPlan]) -> JobAnswer {
        let mut receipt = self.signed.clone();
        receipt.request = None;
        JobAnswer {
            job: work.id,
            receipt,
            plans: plans.to_vec(),
            attestations: Vec::new(),
            texts: work.batches.iter().flat_map(|batch| batch.texts.iter().copied()).collect(),
            width: self.width,
        }
    }

    /// The receipt in a list.
    pub(super) fn line(&self, work: &Work, accepted: u64, at: u64) -> ReceiptLine {
        let verified = match work.signed.job.verify {
            Verify::None => "none".to_owned(),
            Verify::Quorum { needed, nodes } => format!("quorum {needed}/{nodes}"),
            Verify::Audit { per_mille, before: true } => format!("audit of {per_mille}/1000, before return"),
            Verify::Audit { per_mille, before: false } => format!("audit of {per_mille}/1000, after return"),
            Verify::Full => "full".to_owned(),
        };
        ReceiptLine {
            job: work.id,
            receipt: self.signed.receipt.digest(),
            package: work.package.manifest().name.clone(),
            texts: u32::try_from(self.signed.receipt.outputs.len()).unwrap_or(u32::MAX),
            took: at.saturating_sub(accepted).saturating_mul(1000),
            at,
            verified,
        }
    }
}

/// What is sent on a stream that files are asked on.
#[derive(Debug)]
pub(super) enum Sent {
    /// A document, and bytes after it.
    Found(Vec<u8>, Vec<u8>),
    /// Nothing, and why.
    Refused(Refusal, String),
}

/// Answer on a stream.
pub(super) async fn send(stream: &mut FrameStream<FileAsk, FileReply>, sent: Sent) -> Result<(), NetError> {
    match sent {
        Sent::Found(document, more) => {
            let reply = FileReply::Found { bytes: document.len() as u64, more: more.len() as u64 };
            stream.send(&reply, &[]).await?;
            stream.write(&document).await?;
            stream.write(&more).await?;
        }
        Sent::Refused(why, reason) => stream.send(&FileReply::Refused { why, reason }, &[]).await?,
    }
    stream.finish().await
}

/// Ask on a stream and take what comes: a document of at most so many bytes, and so many after it.
pub(super) async fn receive(
    mut stream: FrameStream<FileReply, FileAsk>,
    ask: &FileAsk,
    payload: &[u8],
    most: (u64, u64),
    within: Duration,
) -> Result<Sent, NetError> {
    stream.send(ask, payload).await?;
    match stream.receive(within).await? {
        Some(FileReply::Found { bytes, more }) => {
            let document = stream.payload(bytes, most.0).await?;
            let rest = stream.payload(more, most.1).await?;
            Ok(Sent::Found(document.to_vec(), rest.to_vec()))
        }
        Some(FileReply::Refused { why, reason }) => Ok(Sent::Refused(why, reason)),
        None => Err(NetError::Closed("before the answer".into())),
    }
}
