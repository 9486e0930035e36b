//! Shares: products of linear layers for a client that shows nobody its text.
//!
//! # Why
//!
//! The client sends elements that look random, or a seed that makes such elements; two servers that do not talk to each other
//! know nothing. A server can lie, and the client checks each product.
//!
//! # How
//!
//! 1. The first frame names blocks of a package that are served here, and the most rows of a call. The stream then holds a slot
//!    and memory of the book until it ends. Nothing is prepared before: a client that is refused has lost nothing.
//! 2. Each call has a larger number than the one before and names a linear layer of one of these blocks. Sizes are compared
//!    before a byte of the share is read or made.
//! 3. A call takes its turn with the legs of the package, since it uses all threads, and is answered before the next one is
//!    read.
//! 4. Nothing of a call is kept or logged after it. Anything that is out of order ends the stream with the reason; so does
//!    silence.

use super::metrics::count;
use super::packages::Hosted;
use super::refusal::Refused;
use super::reservations::Reservation;
use super::session::{End, OPEN_WITHIN, Seat};
use super::share_layers::ShareLayers;
use super::{Serving, random};
use futures::future::BoxFuture;
use ostrakon_exact::field::{Field, expand, pack, unpack};
use ostrakon_exact::ragged::ShapeError;
use ostrakon_exact::simd::ProductError;
use ostrakon_net::{FrameStream, NetError, Offence, Payload};
use ostrakon_nn::NnError;
use ostrakon_protocol::share::{FromServer, MAX_LAYER_NAME, ToServer, element_bytes};
use ostrakon_protocol::wire::{MAX_TENSOR_BYTES, Refusal};
use ostrakon_protocol::{Digest, Document, PublicKey};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// For how long a node that is to leave waits for the next call of a stream.
const LEAVING: Duration = Duration::from_secs(5);

/// Bytes of an element in memory, and at most on its way.
const MOST_BYTES: u64 = 4;

/// A stream of shares, as this node sees it.
type Stream = FrameStream<ToServer, FromServer>;

impl Serving {
    /// Serve a stream of shares to its end. What the peer did wrong, if it did.
    pub fn share(&self, from: PublicKey, stream: Stream) -> BoxFuture<'_, Option<Offence>> {
        Box::pin(self.serve_shares(from, stream))
    }

    async fn serve_shares(&self, from: PublicKey, mut stream: Stream) -> Option<Offence> {
        let mut call = 0;
        let end = match self.run_share(from, &mut stream, &mut call).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.over(from, &mut stream, end, |why, reason| FromServer::Failed { call, why, reason }).await
    }

    async fn run_share(&self, from: PublicKey, stream: &mut Stream, call: &mut u32) -> Result<Infallible, End> {
        let opened = match stream.receive(OPEN_WITHIN).await? {
            Some(ToServer::Open { package, from, to, rows }) => self.open_share(&package, from..to, rows)?,
            Some(_) => return Err(End::wrong("the first frame must say which blocks the stream is for")),
            None => return Err(End::Closed),
        };
        let place = random().map_err(|reason| Refused::new(Refusal::Fault, reason))?;
        self.expired_book().reserve(place, Reservation::of_stream(from, opened.bytes()))?;
        let _seat = Seat { serving: self, session: place };
        stream.send(&FromServer::Opened, &[]).await?;
        let mut next = 0;
        loop {
            match self.next_frame(stream).await? {
                None | Some(ToServer::Close) => return Err(End::Closed),
                Some(ToServer::Open { .. }) => return Err(End::wrong("the stream is open already")),
                Some(ToServer::Multiply { call: number, layer, rows, bytes }) => {
                    *call = number;
                    next = in_order(number, next)?;
                    let wanted = opened.share_bytes(&layer, rows)?;
                    if !wanted.contains(&bytes) {
                        let [least, most] = wanted;
                        return Err(End::wrong(format!(
                            "{bytes} bytes follow; {rows} rows of the layer `{layer}` are {least} or {most} bytes"
                        )));
                    }
                    let share = Share::Sent(stream.payload(bytes, MAX_TENSOR_BYTES).await?);
                    count(&self.metrics.bytes_in, bytes);
                    self.answer_share(&opened, stream, number, Call { layer, rows, share }).await?;
                }
                Some(ToServer::Masked { call: number, layer, stream: of, seed, first, rows }) => {
                    *call = number;
                    next = in_order(number, next)?;
                    let seed = Zeroizing::new(seed);
                    opened.share_bytes(&layer, rows)?;
                    if first.checked_add(u64::from(rows)).is_none() {
                        return Err(End::wrong(format!("a seed's stream has no {rows} rows from row {first} on")));
                    }
                    let share = Share::Masked { seed, of, first };
                    self.answer_share(&opened, stream, number, Call { layer, rows, share }).await?;
                    count(&self.metrics.masked_rows, rows.into());
                }
            }
        }
    }

    fn open_share(&self, package: &Digest, blocks: Range<u32>, rows: u32) -> Result<Opened, Refused> {
        if self.is_draining() {
            return Err(Refused::new(Refusal::Busy, "this node takes nothing new: it will leave"));
        }
        if !self.settings.roles.execution {
            return Err(Refused::new(Refusal::NotHere, "this node runs no blocks for others"));
        }
        let hosted = self.table.find(package, blocks.start, blocks.end);
        let hosted = hosted.map_err(|reason| Refused::new(Refusal::NotHere, reason))?;
        let most = hosted.max_rows();
        if !(1..=most).contains(&rows) {
            return Err(Refused::bad(format!("{rows} rows in a call: 1 to {most} are taken")));
        }
        Ok(Opened { hosted, blocks, rows })
    }

    /// The next frame. A stream may be silent for as long as a reservation may, and not as long when this node is to leave.
    pub(super) async fn next_frame<In: Document, Out: Document>(
        &self,
        stream: &mut FrameStream<In, Out>,
    ) -> Result<Option<In>, End> {
        let (begun, hold) = (Instant::now(), self.settings.max_hold);
        loop {
            let within = hold.saturating_sub(begun.elapsed()).min(LEAVING);
            match stream.receive(within).await {
                Err(NetError::Timeout { .. }) if begun.elapsed() < hold && !self.is_draining() => {}
                received => return Ok(received?),
            }
        }
    }

    async fn answer_share(&self, opened: &Opened, stream: &mut Stream, number: u32, call: Call) -> Result<(), End> {
        let rows = call.rows;
        let layers = Arc::clone(&opened.hosted.share_layers);
        let done = opened.hosted.in_turn(move || call.multiply(&layers)).await;
        let Product { packed: payload, took } = done.map_err(|error| Refused::fault(&error))??;
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bytes = payload.len() as u64;
        count(&self.metrics.shares, 1);
        count(&self.metrics.rows, rows.into());
        count(&self.metrics.compute, took);
        count(&self.metrics.bytes_out, bytes);
        Ok(stream.send(&FromServer::Product { call: number, bytes, took }, &payload).await?)
    }
}

/// What a stream was opened for.
struct Opened {
    hosted: Arc<Hosted>,
    blocks: Range<u32>,
    rows: u32,
}

impl Opened {
    /// Memory of the largest call: share and product, as they are sent and as they are computed with.
    fn bytes(&self) -> u64 {
        let columns = |inputs: usize, outputs: usize| (inputs as u64).saturating_add(outputs as u64).saturating_mul(2);
        let layers = self.hosted.share_layers.of_blocks(&self.blocks);
        let row = layers.map(|layer| columns(layer.inputs, layer.most_columns)).max().unwrap_or(0);
        row.saturating_mul(MOST_BYTES).saturating_mul(self.rows.into())
    }

    /// Bytes of a share of so many rows, if there may be such a share, in each field. Which it is to be follows from weights, which
    /// are not looked at for that.
    fn share_bytes(&self, layer: &str, rows: u32) -> Result<[u64; 2], End> {
        if layer.len() > MAX_LAYER_NAME {
            return Err(End::wrong(format!("a layer's name has {} characters, at most {MAX_LAYER_NAME}", layer.len())));
        }
        let Range { start, end } = self.blocks;
        let found = self.hosted.share_layers.find(layer, &self.blocks).ok_or_else(|| {
            End::wrong(format!("the blocks {start} to {end} that the stream is for have no linear layer {layer:?}"))
        })?;
        if !(1..=self.rows).contains(&rows) {
            return Err(End::wrong(format!("{rows} rows in a call: the stream is for 1 to {}", self.rows)));
        }
        let [least, most] = Field::ALL.map(|field| element_bytes(rows, found.inputs, field.bytes()));
        least.zip(most).map(<[u64; 2]>::from).ok_or_else(|| too_large(rows, layer))
    }
}

fn too_large(rows: u32, layer: &str) -> End {
    End::wrong(format!("{rows} rows of the layer `{layer}` are more than the {MAX_TENSOR_BYTES} bytes of a frame"))
}

/// The least number of the call after this one.
pub(super) fn in_order(call: u32, next: u64) -> Result<u64, End> {
    if u64::from(call) < next {
        return Err(End::wrong(format!("call {call} has been: the next one is {next} or later")));
    }
    Ok(u64::from(call) + 1)
}

/// One call.
struct Call {
    layer: String,
    rows: u32,
    share: Share,
}

/// Where the elements come from.
enum Share {
    Sent(Payload),
    Masked { seed: Zeroizing<[u8; 32]>, of: u32, first: u64 },
}

/// What comes of a call.
struct Product {
    packed: Vec<u8>,
    took: Duration,
}

impl Call {
    /// Compute, on a thread for that.
    fn multiply(self, layers: &ShareLayers) -> Result<Product, End> {
        let Self { layer, rows, share } = self;
        let product = layers.product(&layer).map_err(|error| fault_of_layer(&error))?;
        let begun = Instant::now();
        let (field, executor) = (product.field(), layers.host().executor());
        element_bytes(rows, product.columns(), field.bytes()).ok_or_else(|| too_large(rows, &layer))?;
        let rows = rows as usize;
        let mut shares = vec![0; rows.saturating_mul(product.inputs())];
        match share {
            Share::Sent(packed) if packed.len() == shares.len().saturating_mul(field.bytes()) => {
                // The number itself is not said: reasons are logged.
                unpack(executor, field, &packed, product.inputs(), &mut shares)
                    .map_err(|_| End::wrong(format!("not all numbers of the share are below {}", field.prime())))?;
            }
            Share::Sent(packed) => {
                let (bytes, each, p) = (packed.len(), field.bytes(), field.prime());
                return Err(End::wrong(format!(
                    "{bytes} bytes for {rows} rows of the layer `{layer}`: its field is that of {p}, of {each} bytes an element"
                )));
            }
            Share::Masked { seed, of, first } => {
                expand(executor, field, &seed, of, first, rows, product.inputs(), &mut shares)
                    .map_err(|error: ShapeError| End::wrong(error.to_string()))?;
            }
        }
        let mut elements = vec![0; rows.saturating_mul(product.columns())];
        product.multiply(&shares, rows, &mut elements).map_err(|error| fault_of_product(&error))?;
        let mut packed = vec![0; elements.len().saturating_mul(field.bytes())];
        pack(executor, field, &elements, product.columns(), &mut packed)
            .map_err(|error| fault_of_product(&error.into()))?;
        executor.dismiss();
        Ok(Product { packed, took: begun.elapsed() })
    }
}

/// All sizes were compared before: what fails now is this machine.
fn fault_of_product(error: &ProductError) -> End {
    Refused::new(Refusal::Fault, error.to_string()).into()
}

fn fault_of_layer(error: &NnError) -> End {
    Refused::new(Refusal::Fault, error.to_string()).into()
}
