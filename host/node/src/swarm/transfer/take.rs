//! Takes a file from peers: in ranges, from several at once, on from where it was left.

use super::give::blocking;
use super::{GROUP_BYTES, TransferError, chunks, disk, root, tree};
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{decode_ranges, valid_ranges};
use bao_tree::io::{DecodeError, full_chunk_groups};
use bao_tree::{ChunkNum, ChunkRanges};
use ostrakon_net::{Client, FrameStream, NetError, Offence};
use ostrakon_protocol::wire::{FileAsk, FileReply, Refusal};
use ostrakon_protocol::{Digest, PublicKey};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Bytes that are asked for at once.
const PIECE_BYTES: u64 = 4 << 20;
/// Most nodes that a file is taken from at once.
const MAX_AT_ONCE: usize = 4;
/// How often a node may fail to answer before it is left.
const PATIENCE: u32 = 3;
/// How long the first byte of an answer may take: the node may have to hash the file first.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a node that is busy is left alone.
const BUSY_FOR: Duration = Duration::from_millis(500);

type TakingStream = FrameStream<FileReply, FileAsk>;

/// A file that is being taken: what there is of it on the disk.
#[derive(Debug)]
struct Partial {
    digest: Digest,
    bytes: u64,
    data: PathBuf,
    tree: PathBuf,
}

/// What is left to do, shared by those who do it.
struct Work {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    pieces: VecDeque<Range<u64>>,
    in_flight: usize,
    providers: VecDeque<PublicKey>,
    last: String,
    fatal: Option<TransferError>,
    fetched: u64,
}

/// How a piece failed.
enum Failure {
    /// What came does not lead to the digest.
    Wrong,
    /// No answer, or half of one.
    Broken(String),
    /// It says that it has not got the file, or will not give it.
    Refused(Refusal, String),
    /// This machine's fault.
    Here(TransferError),
}

/// What was done to have a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Where it lies now.
    pub path: PathBuf,
    /// Bytes that came from peers; the others were here.
    pub fetched: u64,
}

impl Taken {
    /// Move it to where it belongs.
    ///
    /// # Errors
    /// The disk refused.
    pub fn place(&self, to: &Path) -> Result<(), TransferError> {
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(disk("make the directory", parent))?;
        }
        fs::rename(&self.path, to).map_err(disk("move", to))?;
        // The file is whole: its tree is not needed for anything else.
        let _ = fs::remove_file(self.path.with_extension("tree"));
        Ok(())
    }
}

/// Have a file of `bytes` bytes in the directory `incoming`, from these nodes.
///
/// # Errors
/// No node gave it, or the disk refused.
pub async fn take(
    client: &Client,
    incoming: &Path,
    digest: Digest,
    bytes: u64,
    providers: &[PublicKey],
) -> Result<Taken, TransferError> {
    let partial = Arc::new(Partial {
        digest,
        bytes,
        data: incoming.join(format!("{digest}.part")),
        tree: incoming.join(format!("{digest}.tree")),
    });
    if bytes == 0 {
        // There is nothing to ask for, and nothing that a node could prove.
        return partial.empty();
    }
    let missing = {
        let partial = Arc::clone(&partial);
        blocking(move || partial.missing()).await?
    };
    let work = Arc::new(Work {
        state: Mutex::new(State {
            pieces: pieces(&missing, bytes),
            in_flight: 0,
            providers: providers.iter().copied().collect(),
            last: "none has it".into(),
            fatal: None,
            fetched: 0,
        }),
        changed: Notify::new(),
    });
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..MAX_AT_ONCE.min(providers.len()) {
        workers.spawn(through(client.clone(), Arc::clone(&partial), Arc::clone(&work)));
    }
    while workers.join_next().await.is_some() {}
    let mut state = work.state();
    if let Some(fatal) = state.fatal.take() {
        return Err(fatal);
    }
    if !state.pieces.is_empty() {
        let last = std::mem::take(&mut state.last);
        return Err(TransferError::Exhausted { digest, asked: providers.len(), last });
    }
    let fetched = state.fetched;
    Ok(Taken { path: partial.data.clone(), fetched })
}

/// Take one node after the other until nothing is left to do.
async fn through(client: Client, partial: Arc<Partial>, work: Arc<Work>) {
    loop {
        let Some(node) = work.state().providers.pop_front() else { return };
        let mut patience = PATIENCE;
        while let Some(piece) = work.next().await {
            let result = fetch(&client, Arc::clone(&partial), node, piece.clone()).await;
            let failed = work.done(piece, result.as_ref().err().map(Failure::words));
            match result {
                Ok(()) => patience = PATIENCE,
                Err(Failure::Wrong) => {
                    tracing::warn!(%node, file = %partial.digest, "a node sent bytes that are not the file's");
                    client.report(node, Offence::Wrong);
                    break;
                }
                Err(Failure::Here(error)) => return work.give_up(error),
                Err(Failure::Refused(Refusal::Busy, _)) if patience > 1 => {
                    patience -= 1;
                    tokio::time::sleep(BUSY_FOR).await;
                }
                Err(Failure::Refused(..)) => break,
                Err(Failure::Broken(_)) => {
                    patience = patience.saturating_sub(1);
                    if patience == 0 {
                        client.report(node, Offence::Broken);
                        break;
                    }
                }
            }
            tracing::debug!(%node, file = %partial.digest, failed, "asked for a piece");
        }
        if work.is_over() {
            return;
        }
    }
}

impl Work {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece. While others have the last ones, they may come back.
    async fn next(&self) -> Option<Range<u64>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Enabled before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if state.fatal.is_some() {
                    return None;
                }
                if let Some(piece) = state.pieces.pop_front() {
                    state.in_flight += 1;
                    return Some(piece);
                }
                if state.in_flight == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// A piece is there, or goes back. Gives whether it failed.
    fn done(&self, piece: Range<u64>, failure: Option<String>) -> bool {
        let mut state = self.state();
        state.in_flight = state.in_flight.saturating_sub(1);
        let failed = failure.is_some();
        match failure {
            None => state.fetched = state.fetched.saturating_add(piece.end.saturating_sub(piece.start)),
            Some(words) => {
                state.last = words;
                state.pieces.push_front(piece);
            }
        }
        drop(state);
        self.changed.notify_waiters();
        failed
    }

    fn give_up(&self, error: TransferError) {
        self.state().fatal.get_or_insert(error);
        self.changed.notify_waiters();
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        state.fatal.is_some() || (state.pieces.is_empty() && state.in_flight == 0)
    }
}

impl Failure {
    fn words(&self) -> String {
        match self {
            Self::Wrong => "it sent bytes that are not the file's".into(),
            Self::Broken(why) | Self::Refused(_, why) => why.clone(),
            Self::Here(error) => error.to_string(),
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Have one piece from one node.
async fn fetch(client: &Client, partial: Arc<Partial>, node: PublicKey, piece: Range<u64>) -> Result<(), Failure> {
    let mut stream = client.files(node).await?;
    let ask = FileAsk::File { digest: partial.digest, from: piece.start, to: piece.end };
    stream.send(&ask, &[]).await?;
    match stream.receive(ANSWER_WITHIN).await? {
        // Another length gives other hashes: it cannot be the file.
        Some(FileReply::Found { bytes, .. }) if bytes != partial.bytes => return Err(Failure::Wrong),
        Some(FileReply::Found { .. }) => {}
        Some(FileReply::Refused { why, reason }) => {
            return Err(Failure::Refused(why, reason.chars().take(200).collect()));
        }
        None => return Err(Failure::Broken("it closed the stream".into())),
    }
    let handle = Handle::current();
    let keep = move || partial.keep(&mut FromPeer { stream, handle, failed: None }, &piece);
    tokio::task::spawn_blocking(keep).await.map_err(|_| Failure::Here(TransferError::Stopped))?
}

impl Partial {
    /// A file of no bytes.
    fn empty(&self) -> Result<Taken, TransferError> {
        if self.digest != Digest::of_content(&[]) {
            let last = "a file of no bytes has another digest".into();
            return Err(TransferError::Exhausted { digest: self.digest, asked: 0, last });
        }
        let directory = self.data.parent().unwrap_or(&self.data);
        fs::create_dir_all(directory).map_err(disk("make the directory", directory))?;
        fs::write(&self.data, []).map_err(disk("write", &self.data))?;
        Ok(Taken { path: self.data.clone(), fetched: 0 })
    }

    /// The bytes that are not there or not right. What is there is hashed.
    fn missing(&self) -> Result<ChunkRanges, TransferError> {
        let whole = chunks(&(0..self.bytes));
        if let Some(directory) = self.data.parent() {
            fs::create_dir_all(directory).map_err(disk("make the directory", directory))?;
        }
        let data = self.open(&self.data)?;
        if data.metadata().map_err(disk("read", &self.data))?.len() != self.bytes {
            data.set_len(self.bytes).map_err(disk("write", &self.data))?;
        }
        let outboard = self.outboard()?;
        let mut valid = ChunkRanges::empty();
        for range in valid_ranges(&outboard, &data, &whole) {
            valid |= ChunkRanges::from(range.map_err(disk("read", &self.data))?);
        }
        Ok(&whole - &full_groups(&valid, self.bytes))
    }

    fn open(&self, path: &Path) -> Result<File, TransferError> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        open.map_err(disk("write", path))
    }

    fn outboard(&self) -> Result<PreOrderOutboard<File>, TransferError> {
        let data = self.open(&self.tree)?;
        Ok(PreOrderOutboard { root: root(&self.digest), tree: tree(self.bytes), data })
    }

    /// Check what a peer sends and write what is right.
    fn keep(&self, from: &mut FromPeer, piece: &Range<u64>) -> Result<(), Failure> {
        let here = Failure::Here;
        let (data, outboard) = (self.open(&self.data).map_err(here)?, self.outboard().map_err(Failure::Here)?);
        let result = decode_ranges(BufReader::with_capacity(64 << 10, &mut *from), &chunks(piece), data, outboard);
        match (result, from.failed.take()) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(error)) => Err(error.into()),
            (Err(DecodeError::ParentHashMismatch(_) | DecodeError::LeafHashMismatch(_)), None) => Err(Failure::Wrong),
            (Err(DecodeError::ParentNotFound(_) | DecodeError::LeafNotFound(_)), None) => {
                Err(Failure::Broken("it ended the stream in the middle".into()))
            }
            (Err(DecodeError::Io(error)), None) => Err(Failure::Here(disk("write", &self.data)(error))),
        }
    }
}

/// Only whole groups: the last group of the file may be short.
fn full_groups(valid: &ChunkRanges, bytes: u64) -> ChunkRanges {
    let end = ChunkNum(bytes.div_ceil(1024).max(1));
    let padded = if valid.contains(&ChunkNum(end.0 - 1)) { valid | &ChunkRanges::from(end..) } else { valid.clone() };
    &full_chunk_groups(&padded, super::GROUP) & &ChunkRanges::from(..end)
}

/// What is missing, cut into what is asked for at once.
fn pieces(missing: &ChunkRanges, bytes: u64) -> VecDeque<Range<u64>> {
    let mut pieces = VecDeque::new();
    for bounds in missing.boundaries().chunks(2) {
        let start = bounds.first().map_or(0, |chunk| chunk.0.saturating_mul(1024)) / GROUP_BYTES * GROUP_BYTES;
        let end = bounds.get(1).map_or(bytes, |chunk| chunk.0.saturating_mul(1024));
        let end = end.next_multiple_of(GROUP_BYTES).min(bytes);
        let mut from = start;
        loop {
            let to = (from / PIECE_BYTES + 1).saturating_mul(PIECE_BYTES).min(end);
            pieces.push_back(from..to);
            from = to;
            if from >= end {
                break;
            }
        }
    }
    pieces
}

/// The stream, for a decoder that only knows how to wait.
struct FromPeer {
    stream: TakingStream,
    handle: Handle,
    failed: Option<NetError>,
}

impl Read for FromPeer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { stream, handle, failed } = self;
        handle.block_on(stream.read(buffer)).map_err(|error| {
            *failed = Some(error);
            io::Error::other("the stream failed")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_asked_for_in_pieces_that_begin_at_groups() {
        let bytes = 9 * (1 << 20) + 5;
        let all = pieces(&chunks(&(0..bytes)), bytes);
        assert_eq!(all, [0..4 << 20, 4 << 20..8 << 20, 8 << 20..bytes]);
        let hole = chunks(&(GROUP_BYTES..2 * GROUP_BYTES));
        assert_eq!(Vec::from(pieces(&hole, bytes)), vec![GROUP_BYTES..2 * GROUP_BYTES; 1]);
        assert!(pieces(&ChunkRanges::empty(), bytes).is_empty());
    }

    #[test]
    fn what_is_there_is_found_by_checking_it() {
        let directory = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..200_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let (digest, bytes) = (Digest::of_content(&content), content.len() as u64);
        let at = |name: &str| directory.path().join(name);
        let partial = Partial { digest, bytes, data: at("a.part"), tree: at("a.tree") };
        assert_eq!(Vec::from(pieces(&partial.missing().unwrap(), bytes)), vec![0..bytes; 1], "nothing is there");

        let mut outboard = partial.outboard().unwrap();
        bao_tree::io::sync::outboard(content.as_slice(), tree(bytes), &mut outboard).unwrap();
        fs::write(&partial.data, &content).unwrap();
        assert!(partial.missing().unwrap().is_empty(), "all is there");

        let mut damaged = content.clone();
        damaged[100_000] ^= 1;
        fs::write(&partial.data, &damaged).unwrap();
        let group = 100_000 / GROUP_BYTES * GROUP_BYTES;
        assert_eq!(
            Vec::from(pieces(&partial.missing().unwrap(), bytes)),
            vec![group..group + GROUP_BYTES; 1],
            "one group is wrong"
        );

        fs::write(&partial.data, &content[..500_000]).unwrap();
        let valid = 500_000 / GROUP_BYTES * GROUP_BYTES;
        assert_eq!(Vec::from(pieces(&partial.missing().unwrap(), bytes)), vec![valid..bytes; 1], "the end is missing");
    }
}
