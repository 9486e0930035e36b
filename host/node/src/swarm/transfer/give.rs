//! Gives ranges of files to peers.

use super::shelf::{Lying, Shelf, range};
use super::{TransferError, chunks, disk};
use bao_tree::io::sync::encode_ranges_validated;
use ostrakon_net::FrameStream;
use ostrakon_protocol::Digest;
use ostrakon_protocol::wire::{FileAsk, FileReply, Refusal};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use tokio::runtime::Handle;

/// A stream that a peer wants files over.
pub type GivingStream = FrameStream<FileAsk, FileReply>;

/// Answer for a range of a file: whether it is here, then the verified stream. Gives the bytes of the range.
///
/// # Errors
/// The peer went away, or the disk refused.
pub async fn give(
    shelf: Arc<Shelf>,
    mut stream: GivingStream,
    digest: Digest,
    from: u64,
    to: u64,
) -> Result<u64, TransferError> {
    let Some(lying) = shelf.file(&digest) else {
        return refuse(stream, Refusal::NotHere, "this node does not have the file").await;
    };
    let Some(range) = range(from, to, lying.bytes) else {
        let reason = format!("a range of a file of {} bytes begins and ends at multiples of 16 KiB", lying.bytes);
        return refuse(stream, Refusal::Bad, &reason).await;
    };
    let prepared = {
        let (shelf, lying) = (Arc::clone(&shelf), lying.clone());
        blocking(move || Ok((shelf.tree(&digest, &lying)?, open(&lying)?))).await
    };
    let (outboard, data) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            tracing::warn!(%digest, %error, "a file cannot be given");
            return refuse(stream, Refusal::Fault, "the file cannot be read here").await;
        }
    };
    stream.send(&FileReply::Found { bytes: lying.bytes, more: 0 }, &[]).await?;
    let length = range.end.saturating_sub(range.start);
    let path = lying.path;
    let (result, mut stream) = blocking(move || {
        let mut to_peer = BufWriter::with_capacity(64 << 10, ToPeer { stream, handle: Handle::current() });
        let result = encode_ranges_validated(&data, &outboard, &chunks(&range), &mut to_peer)
            .map_err(io::Error::from)
            .and_then(|()| to_peer.flush());
        Ok((result, to_peer.into_parts().0.stream))
    })
    .await?;
    result.map_err(disk("give", &path))?;
    stream.finish().await?;
    Ok(length)
}

/// Say no.
///
/// # Errors
/// The peer went away.
pub async fn refuse(mut stream: GivingStream, why: Refusal, reason: &str) -> Result<u64, TransferError> {
    stream.send(&FileReply::Refused { why, reason: reason.to_owned() }, &[]).await?;
    stream.finish().await?;
    Ok(0)
}

fn open(lying: &Lying) -> Result<File, TransferError> {
    File::open(&lying.path).map_err(disk("read", &lying.path))
}

/// On a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| TransferError::Stopped)?
}

/// The stream, for an encoder that only knows how to wait.
struct ToPeer {
    stream: GivingStream,
    handle: Handle,
}

impl Write for ToPeer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { stream, handle } = self;
        handle.block_on(stream.write(bytes)).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
