//! Decoding: later rows of sequences through blocks whose keys and values stay here.
//!
//! # Why
//!
//! Whoever generates a text sends a row and wants a row. What the blocks made of the rows before is here already.
//!
//! # How
//!
//! 1. The first frame names blocks of a package that are served here, and how much will be wanted at most. The stream then holds a
//!    slot and memory of the book until it ends: for a call, and for all keys and values that it may keep.
//! 2. Each call has a larger number than the one before. It is compared with what is kept ([`pasts`](super::pasts)) and with the
//!    border of the package before a byte of its rows is read.
//! 3. A call takes its turn with the legs of the package, since it uses all threads, and is answered before the next one is read.
//! 4. Anything that is out of order ends the stream with the reason, and so does silence. Nothing is kept then: the client has
//!    what it needs to have it made again, here or elsewhere.

use super::leg;
use super::metrics::count;
use super::packages::Hosted;
use super::pasts::{Bounds, Extent, Pasts};
use super::refusal::Refused;
use super::reservations::Reservation;
use super::session::{End, OPEN_WITHIN, Seat};
use super::{Serving, random};
use futures::future::BoxFuture;
use ostrakon_net::{FrameStream, Offence};
use ostrakon_nn::Tensor;
use ostrakon_protocol::decoding::{FromDecoder, MAX_SEQUENCES, Part, ToDecoder};
use ostrakon_protocol::wire::{MAX_TENSOR_BYTES, Refusal, TensorHeader};
use ostrakon_protocol::{Digest, PublicKey};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// A stream on which is decoded, as this node sees it.
type Stream = FrameStream<ToDecoder, FromDecoder>;

impl Serving {
    /// Serve a stream on which is decoded to its end. What the peer did wrong, if it did.
    pub fn decoding(&self, from: PublicKey, stream: Stream) -> BoxFuture<'_, Option<Offence>> {
        Box::pin(self.serve_decoding(from, stream))
    }

    async fn serve_decoding(&self, from: PublicKey, mut stream: Stream) -> Option<Offence> {
        let mut call = 0;
        let end = match self.run_decoding(from, &mut stream, &mut call).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.over(from, &mut stream, end, |why, reason| FromDecoder::Failed { call, why, reason }).await
    }

    async fn run_decoding(&self, from: PublicKey, stream: &mut Stream, call: &mut u32) -> Result<Infallible, End> {
        let opened = match stream.receive(OPEN_WITHIN).await? {
            Some(ToDecoder::Open { package, from, to, rows, wanted, sequences, kept }) => {
                self.open_decoding(&package, from..to, [rows, wanted, sequences, kept])?
            }
            Some(_) => return Err(End::wrong("the first frame must say which blocks the stream is for")),
            None => return Err(End::Closed),
        };
        let place = random().map_err(|reason| Refused::new(Refusal::Fault, reason))?;
        self.expired_book().reserve(place, Reservation::of_stream(from, opened.bytes()))?;
        let _seat = Seat { serving: self, session: place };
        count(&self.metrics.sessions, 1);
        stream.send(&FromDecoder::Opened, &[]).await?;
        let mut pasts = Pasts::new(opened.bounds, opened.keeps());
        let mut next = 0;
        loop {
            match self.next_frame(stream).await? {
                None | Some(ToDecoder::Close) => return Err(End::Closed),
                Some(ToDecoder::Open { .. }) => return Err(End::wrong("the stream is open already")),
                Some(ToDecoder::Run { call: number, forget, parts, answered, tensor }) => {
                    *call = number;
                    next = super::share::in_order(number, next)?;
                    pasts.forget(&forget);
                    let extent = pasts.look(&parts)?;
                    opened.expect(&tensor, extent, parts.len())?;
                    let bytes = stream.payload(tensor.bytes, MAX_TENSOR_BYTES).await?;
                    count(&self.metrics.bytes_in, tensor.bytes);
                    let rows = leg::tensor(&tensor, &bytes).map_err(End::wrong)?;
                    drop(bytes);
                    let asked = Asked { number, parts, answered, extent, rows };
                    self.answer_decoding(&opened, &mut pasts, stream, asked).await?;
                }
            }
        }
    }

    fn open_decoding(&self, package: &Digest, blocks: Range<u32>, most: [u32; 4]) -> Result<Opened, Refused> {
        if self.is_draining() {
            return Err(Refused::new(Refusal::Busy, "this node takes nothing new: it will leave"));
        }
        if !self.settings.roles.execution {
            return Err(Refused::new(Refusal::NotHere, "this node runs no blocks for others"));
        }
        let hosted = self.table.find(package, blocks.start, blocks.end);
        let hosted = hosted.map_err(|reason| Refused::new(Refusal::NotHere, reason))?;
        if !hosted.generates() {
            return Err(Refused::bad("the package generates no text: its blocks go on from nothing"));
        }
        let [rows, wanted, sequences, kept] = most;
        let most_rows = hosted.max_rows();
        if !(1..=most_rows).contains(&rows) || wanted > rows {
            return Err(Refused::bad(format!(
                "{rows} rows in a call, {wanted} of them wanted: 1 to {most_rows} are taken"
            )));
        }
        if !(1..=MAX_SEQUENCES).contains(&sequences) {
            return Err(Refused::bad(format!("{sequences} sequences: 1 to {MAX_SEQUENCES} are kept")));
        }
        let bounds = Bounds { rows, wanted, sequences, kept, max_tokens: hosted.max_tokens };
        Ok(Opened { hosted, blocks, bounds })
    }

    async fn answer_decoding(
        &self,
        opened: &Opened,
        pasts: &mut Pasts,
        stream: &mut Stream,
        asked: Asked,
    ) -> Result<(), End> {
        let Asked { number, parts, answered, extent, rows } = asked;
        let lengths = lengths(&parts).map_err(End::wrong)?;
        let mut blocks = opened.blocks.clone();
        if extent.wanted == 0 && opened.is_last() {
            // It gives rows that nobody wants, and keeps nothing.
            blocks.end -= 1;
        }
        let taken = pasts.take(&parts);
        let (output, left, took) = opened.hosted.go_on(blocks, rows, lengths, taken).await.map_err(Refused::from)?;
        pasts.put(&parts, left);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        count(&self.metrics.forwards, 1);
        count(&self.metrics.rows, extent.rows.into());
        count(&self.metrics.compute, took);
        if !answered {
            return Ok(stream.send(&FromDecoder::Output { call: number, tensor: None, took }, &[]).await?);
        }
        let tensor = leg::header(&output);
        count(&self.metrics.bytes_out, tensor.bytes);
        let frame = FromDecoder::Output { call: number, tensor: Some(tensor), took };
        Ok(stream.send(&frame, &output.bytes()).await?)
    }
}

/// A call, with its rows.
struct Asked {
    number: u32,
    parts: Vec<Part>,
    answered: bool,
    extent: Extent,
    rows: Tensor,
}

/// What a stream was opened for.
struct Opened {
    hosted: Arc<Hosted>,
    blocks: Range<u32>,
    bounds: Bounds,
}

impl Opened {
    /// Whether the package's last block is one of them.
    fn is_last(&self) -> bool {
        self.blocks.end as usize + 1 == self.hosted.borders.len()
    }

    /// Whether anything is kept of a sequence: the last block by itself goes on from nothing.
    fn keeps(&self) -> bool {
        !(self.is_last() && self.blocks.len() == 1)
    }

    /// Memory of the largest call, and of all that may be kept.
    fn bytes(&self) -> u64 {
        let row = |at: u32| self.hosted.border(at).map_or(u64::MAX, |border| border.row_bytes);
        let out = if self.is_last() { self.bounds.wanted } else { self.bounds.rows };
        // The input as it comes and as it is computed with.
        let input = row(self.blocks.start).saturating_mul(2).saturating_mul(self.bounds.rows.into());
        let output = row(self.blocks.end).saturating_mul(out.into());
        let kept = self.hosted.past_bytes(&self.blocks, self.bounds.kept, self.bounds.sequences);
        input.saturating_add(output).saturating_add(kept)
    }

    /// Whether these are rows that go into the first block.
    fn expect(&self, tensor: &TensorHeader, extent: Extent, parts: usize) -> Result<(), End> {
        let border = self.hosted.border(self.blocks.start);
        let border = border.ok_or_else(|| Refused::new(Refusal::Fault, "there is no such border"))?;
        let parts = u32::try_from(parts).unwrap_or(u32::MAX);
        border.expect(tensor, extent.rows, parts).map_err(End::wrong)
    }
}

/// Lengths I32 [B, 3]: rows now, rows before, and the last of them that are wanted. All are below the model's context.
fn lengths(parts: &[Part]) -> Result<Tensor, String> {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let values = parts.iter().flat_map(|part| [part.rows, part.before, part.wanted]).map(number).collect();
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    Tensor::from_i32(vec![count, 3], values).map_err(|error| error.to_string())
}
