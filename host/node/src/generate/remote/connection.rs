//! The stream to one node, and what it keeps for us.
//!
//! Whatever comes is compared with what it must be before it is read.

use crate::swarm::execute::Trouble;
use ostrakon_net::{Client, FrameStream, NetError, Payload};
use ostrakon_protocol::PublicKey;
use ostrakon_protocol::decoding::{FromDecoder, Part, ToDecoder};
use ostrakon_protocol::wire::{Refusal, TensorHeader};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Least time for a node to answer: others may have their turn before.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time to reach a node and to have it take the stream.
const REACH: Duration = Duration::from_secs(5);
/// A stream that was silent for this long the node may have ended: that is not held against it.
const IDLE: Duration = Duration::from_secs(20);
/// Multiply-adds a second that a node must do at least, and bytes that it must send.
const LEAST_WORK: u64 = 500_000_000;
const LEAST_BYTES: u64 = 1 << 20;

/// A stream on which a node decodes.
pub(super) struct Connection {
    stream: FrameStream<FromDecoder, ToDecoder>,
    call: u32,
    /// The call that is answered next.
    due: u32,
    /// Rows that the node keeps of each sequence.
    kept: BTreeMap<u32, u32>,
    /// What it is told with the next call.
    forget: Vec<u32>,
    used: Instant,
}

/// What goes to a node in a call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) parts: Vec<Part>,
    pub(super) input: TensorHeader,
    /// What must come back; `None`: nothing is wanted.
    pub(super) output: Option<TensorHeader>,
    /// Multiply-adds.
    pub(super) work: u64,
}

impl Call {
    /// How long it may take at most.
    fn within(&self) -> Duration {
        let bytes = self.input.bytes.saturating_add(self.output.as_ref().map_or(0, |output| output.bytes));
        PATIENCE + Duration::from_secs((self.work / LEAST_WORK).saturating_add(bytes / LEAST_BYTES))
    }
}

impl Connection {
    /// Open a stream; `addresses` are where the node said that it is.
    pub(super) async fn open(
        net: &Client,
        node: PublicKey,
        addresses: &[String],
        purpose: ToDecoder,
    ) -> Result<Self, Trouble> {
        timeout(REACH, Self::opened(net, node, addresses, purpose)).await.map_err(|_| Trouble::Late(REACH))?
    }

    async fn opened(net: &Client, node: PublicKey, addresses: &[String], purpose: ToDecoder) -> Result<Self, Trouble> {
        // Dialled before, it stays connected; and one address that works is enough.
        for address in addresses {
            if net.dial(address).await.is_ok_and(|there| there == node) {
                break;
            }
        }
        let mut stream = net.decoding(node).await?;
        stream.send(&purpose, &[]).await?;
        match received(&mut stream, REACH).await? {
            FromDecoder::Opened => {
                Ok(Self { stream, call: 0, due: 0, kept: BTreeMap::new(), forget: Vec::new(), used: Instant::now() })
            }
            other => Err(unexpected(other, false)),
        }
    }

    /// Whether it was silent for so long that the node may have ended it.
    pub(super) fn is_idle(&self) -> bool {
        self.used.elapsed() > IDLE
    }

    /// Whether the node keeps so many rows of a sequence.
    pub(super) fn keeps(&self, sequence: u32, rows: u32) -> bool {
        self.kept.get(&sequence).is_some_and(|&kept| kept >= rows)
    }

    /// The sequence is not wanted any more; the node is told with the next call.
    pub(super) fn forget(&mut self, sequence: u32) {
        if self.kept.remove(&sequence).is_some() {
            self.forget.push(sequence);
        }
    }

    /// Send rows; [`Connection::answer`] takes what comes of them.
    pub(super) async fn ask(&mut self, call: &Call, rows: &[u8]) -> Result<(), Trouble> {
        let (number, within) = (self.call, call.within());
        self.call = number.saturating_add(1);
        let forget = std::mem::take(&mut self.forget);
        let (parts, tensor) = (call.parts.clone(), call.input.clone());
        let frame = ToDecoder::Run { call: number, forget, parts, answered: call.output.is_some(), tensor };
        timeout(within, self.stream.send(&frame, rows)).await.map_err(|_| Trouble::Late(within))??;
        Ok(())
    }

    /// What comes of a call, in the order in which they were sent.
    pub(super) async fn answer(&mut self, call: &Call) -> Result<Payload, Trouble> {
        let (due, within) = (self.due, call.within());
        self.due = due.saturating_add(1);
        let bytes = match received(&mut self.stream, within).await? {
            FromDecoder::Output { call: number, tensor, .. } if number == due && tensor == call.output => {
                tensor.map_or(0, |tensor| tensor.bytes)
            }
            other => return Err(unexpected(other, true)),
        };
        let payload = timeout(within, self.stream.payload(bytes, bytes)).await.map_err(|_| Trouble::Late(within))??;
        for part in &call.parts {
            self.kept.insert(part.sequence, part.before.saturating_add(part.rows));
        }
        self.used = Instant::now();
        Ok(payload)
    }
}

async fn received(stream: &mut FrameStream<FromDecoder, ToDecoder>, within: Duration) -> Result<FromDecoder, Trouble> {
    match timeout(within, stream.receive(within)).await.map_err(|_| Trouble::Late(within))? {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Trouble::Gone("it closed the stream".into())),
        Err(NetError::Timeout { .. }) => Err(Trouble::Late(within)),
        Err(error) => Err(error.into()),
    }
}

fn unexpected(frame: FromDecoder, promised: bool) -> Trouble {
    match frame {
        FromDecoder::Failed { why, reason, .. } => {
            let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
            match why {
                Refusal::Busy => Trouble::Busy(reason),
                _ if promised => Trouble::Failed(reason),
                _ => Trouble::Refused(reason),
            }
        }
        FromDecoder::Opened | FromDecoder::Output { .. } => {
            Trouble::Malformed("an answer that was not asked for, or of another size".into())
        }
    }
}
