//! The stream to one server.
//!
//! Whatever comes is bounded before it is read. Whether it is made of elements is seen when it is unpacked.

use crate::swarm::execute::Trouble;
use ostrakon_net::{Client, FrameStream, NetError, Payload};
use ostrakon_nn::SharedLayer;
use ostrakon_protocol::share::{FromServer, ToServer, element_bytes};
use ostrakon_protocol::wire::Refusal;
use ostrakon_protocol::{Digest, PublicKey};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Least time for a server to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time to reach a server and to have it take the stream.
const REACH: Duration = Duration::from_secs(5);
/// After this time without a call a stream is opened anew: a server does not keep one that is silent for ever, and to find out
/// would cost a mask and look like its fault.
const IDLE: Duration = Duration::from_secs(10);
/// Multiply-adds a second that a server must do at least, and bytes that it must send.
const LEAST_WORK: u64 = 100_000_000;
const LEAST_BYTES: u64 = 1 << 20;

/// A stream on which shares of these blocks are multiplied.
pub(super) struct Connection {
    stream: FrameStream<FromServer, ToServer>,
    call: u32,
    /// The call that is answered next.
    due: u32,
    used: Instant,
}

/// What a stream is opened for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub(super) package: Digest,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) rows: u32,
}

/// The product that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) layer: Arc<SharedLayer>,
    pub(super) rows: u32,
}

impl Wanted {
    /// How long it may take at most.
    fn within(&self) -> Duration {
        let rows = u64::from(self.rows);
        let (inputs, columns) = (self.layer.inputs() as u64, self.layer.columns() as u64);
        let work = rows.saturating_mul(inputs).saturating_mul(columns);
        let bytes = rows.saturating_mul(4).saturating_mul(inputs.saturating_add(columns));
        PATIENCE + Duration::from_secs(work / LEAST_WORK + bytes / LEAST_BYTES)
    }

    fn bytes(&self) -> Result<u64, Trouble> {
        element_bytes(self.rows, self.layer.columns(), self.layer.field().bytes())
            .ok_or_else(|| Trouble::Failed(format!("{} rows are more than a frame carries", self.rows)))
    }
}

impl Connection {
    /// Open a stream; `addresses` are where the node said that it is.
    pub(super) async fn open(
        net: &Client,
        node: PublicKey,
        addresses: &[String],
        purpose: Purpose,
    ) -> Result<Self, Trouble> {
        timeout(REACH, Self::opened(net, node, addresses, purpose)).await.map_err(|_| Trouble::Late(REACH))?
    }

    async fn opened(net: &Client, node: PublicKey, addresses: &[String], purpose: Purpose) -> Result<Self, Trouble> {
        // Dialled before, it stays connected; and one address that works is enough.
        for address in addresses {
            if net.dial(address).await.is_ok_and(|there| there == node) {
                break;
            }
        }
        let mut stream = net.share(node).await?;
        let Purpose { package, from, to, rows } = purpose;
        stream.send(&ToServer::Open { package, from, to, rows }, &[]).await?;
        match received(&mut stream, REACH).await? {
            FromServer::Opened => Ok(Self { stream, call: 0, due: 0, used: Instant::now() }),
            other => Err(unexpected(other, false)),
        }
    }

    fn next_call(&mut self) -> u32 {
        let call = self.call;
        self.call = call.saturating_add(1);
        call
    }

    /// Have a share multiplied, packed as it is sent: the product, as it came.
    pub(super) async fn multiply(&mut self, wanted: &Wanted, elements: &[u8]) -> Result<Payload, Trouble> {
        let call = self.next_call();
        let bytes = elements.len() as u64;
        let header = ToServer::Multiply { call, layer: wanted.layer.name().to_owned(), rows: wanted.rows, bytes };
        let within = wanted.within();
        timeout(within, self.stream.send(&header, elements)).await.map_err(|_| Trouble::Late(within))??;
        self.product(wanted).await
    }

    /// Ask for the product of a mask; [`Connection::product`] takes it.
    pub(super) async fn ask_masked(&mut self, wanted: &Wanted, seed: [u8; 32], stream: u32) -> Result<(), Trouble> {
        let call = self.next_call();
        let header =
            ToServer::Masked { call, layer: wanted.layer.name().to_owned(), stream, seed, first: 0, rows: wanted.rows };
        timeout(PATIENCE, self.stream.send(&header, &[])).await.map_err(|_| Trouble::Late(PATIENCE))??;
        Ok(())
    }

    /// The next product, in the order in which they were asked for: as many bytes as it has, of which nothing more is known.
    pub(super) async fn product(&mut self, wanted: &Wanted) -> Result<Payload, Trouble> {
        let (due, within) = (self.due, wanted.within());
        self.due = due.saturating_add(1);
        self.used = Instant::now();
        let expected = wanted.bytes()?;
        let bytes = match received(&mut self.stream, within).await? {
            FromServer::Product { call, bytes, .. } if call == due && bytes == expected => bytes,
            other => return Err(unexpected(other, true)),
        };
        let payload = timeout(within, self.stream.payload(bytes, expected));
        Ok(payload.await.map_err(|_| Trouble::Late(within))??)
    }

    /// Whether it was silent for so long that the server may have ended it.
    pub(super) fn is_idle(&self) -> bool {
        self.used.elapsed() > IDLE
    }

    /// Nothing more is wanted. The stream ends whether the server hears it or not.
    pub(super) async fn close(mut self) {
        let within = Duration::from_millis(500);
        if let Ok(Ok(())) = timeout(within, self.stream.send(&ToServer::Close, &[])).await {
            let _ = timeout(within, self.stream.finish()).await;
        }
    }
}

async fn received(stream: &mut FrameStream<FromServer, ToServer>, within: Duration) -> Result<FromServer, Trouble> {
    match timeout(within, stream.receive(within)).await.map_err(|_| Trouble::Late(within))? {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Trouble::Gone("it closed the stream".into())),
        Err(NetError::Timeout { .. }) => Err(Trouble::Late(within)),
        Err(error) => Err(error.into()),
    }
}

fn unexpected(frame: FromServer, promised: bool) -> Trouble {
    match frame {
        FromServer::Failed { why, reason, .. } => {
            let reason: String = reason.chars().filter(|c| !c.is_control()).take(200).collect();
            match why {
                Refusal::Busy => Trouble::Busy(reason),
                _ if promised => Trouble::Failed(reason),
                _ => Trouble::Refused(reason),
            }
        }
        FromServer::Opened | FromServer::Product { .. } => {
            Trouble::Malformed("an answer that was not asked for, or of another size".into())
        }
    }
}
