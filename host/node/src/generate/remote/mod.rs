//! A decoder whose blocks run on nodes of a swarm.
//!
//! # Why
//!
//! A model that no machine has room for, or that this one has no time for, can write all the same: its blocks are spread over nodes,
//! and what they make of the rows before stays with them. Token ids, the choice of tokens and the logits are here. A node may go
//! away in the middle of a sentence, and the sentence goes on, to the byte: everything is exact.
//!
//! # How
//!
//! 1. [`legs`]: the scheduler component says who runs which blocks; whoever fails is replaced.
//! 2. [`connection`]: the stream to one node. The rows of all sequences go to it in one frame and come back in one.
//! 3. [`logged`]: what went into each leg, as long as somebody holds the sequence. A node that keeps nothing of a sequence, because
//!    it took another one's place, is given all of that before the new rows.
//! 4. A call that fails is made again from the first leg on: nodes go on from the rows that they are told, and forget later ones.
//!    It is given up when nobody has been found for some seconds.
//!
//! Nodes see the rows of a text, from which it can be read. That what they give is right is seen by a receipt, which runs the
//! answer once more on this machine, and by nothing else.

mod connection;
mod legs;
mod logged;

pub(super) use logged::Number;

use super::Limits;
use super::decoder::{BLOCK_ROWS, Decoded, Decoder, Kept, Later, Past};
use crate::batch::MAX_TOKENS;
use crate::error::NodeError;
use crate::load::Model;
use crate::options::RunOptions;
use crate::plugins::{Plugins, SCHEDULER};
use crate::receipt::element_code;
use crate::swarm::client::SwarmClient;
use crate::swarm::client::choosing::Choosing;
use crate::swarm::execute::Trouble;
use crate::swarm::known::needs;
use connection::Call;
use legs::{Legs, Most};
use logged::Logged;
use ostrakon_nn::TensorType;
use ostrakon_package::{Home, Package, TrustPolicy};
use ostrakon_protocol::decoding::{MAX_SEQUENCES, Part};
use ostrakon_protocol::wire::TensorHeader;
use ostrakon_protocol::{BlockNeeds, Verify};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// For how long nodes are looked for when one has failed and there is no other.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Time between two looks.
const AGAIN: Duration = Duration::from_millis(250);
/// Most tries of a call.
const MOST_TRIES: u32 = 64;
/// Rows of prompts in a call, at most.
const PROMPT_ROWS: usize = 512;
/// Rows in a call of which logits are wanted, at most, unless there are more sequences.
const WANTED: usize = 64;
/// Sequences besides those that run and those that are kept for others that begin alike.
const MORE: usize = 8;
/// Rows for which speed is predicted when nodes are chosen.
const PREDICTED_ROWS: u64 = 1;
/// Most bytes of rows that nodes are asked to keep for a client, of sequences that run and of others.
const MOST_KEPT: (usize, usize) = (512 << 20, 128 << 20);

/// What is known of a package without running it.
struct Shape {
    needs: Vec<BlockNeeds>,
    vocabulary: u32,
}

impl Shape {
    fn blocks(&self) -> u32 {
        u32::try_from(self.needs.len()).unwrap_or(u32::MAX)
    }

    /// Bytes of a row before a block.
    fn width(&self, block: u32) -> usize {
        let before = (block as usize).checked_sub(1).and_then(|before| self.needs.get(before));
        before.map_or(4, |needs| usize::try_from(needs.row_bytes).unwrap_or(usize::MAX))
    }

    /// What crosses the border before a block; with the number of blocks, the logits.
    fn header(&self, block: u32, rows: usize) -> TensorHeader {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let (ty, row) = match block {
            0 => (TensorType::I32, None),
            block if block == self.blocks() => (TensorType::Fp32, Some(self.vocabulary)),
            block => (TensorType::Fp32, Some(u32::try_from(self.width(block) / 4).unwrap_or(u32::MAX))),
        };
        let dimensions: Vec<u32> = std::iter::once(rows).chain(row).collect();
        let bytes = dimensions.iter().fold(4u64, |bytes, &dimension| bytes.saturating_mul(dimension.into()));
        TensorHeader { element: element_code(ty), dimensions, bytes }
    }

    /// Multiply-adds of so many rows in these blocks.
    fn work(&self, blocks: Range<u32>, rows: usize) -> u64 {
        let blocks = self.needs.get(blocks.start as usize..blocks.end as usize).unwrap_or_default();
        blocks.iter().fold(0u64, |sum, needs| sum.saturating_add(needs.work)).saturating_mul(rows as u64)
    }

    /// Bytes that a row takes at most, here or on nodes: what went into each block.
    fn row_bytes(&self) -> usize {
        (0..self.blocks()).fold(0usize, |sum, block| sum.saturating_add(self.width(block)))
    }

    /// Whether these blocks keep nothing: the last one by itself goes on from nothing.
    fn keeps_nothing(&self, (from, to): (u32, u32)) -> bool {
        to == self.blocks() && to - from == 1
    }
}

/// The whole package, should somebody want a receipt.
struct Here {
    directory: PathBuf,
    policy: TrustPolicy,
    home: Home,
    options: RunOptions,
    model: Option<Model>,
}

/// Blocks on nodes of a swarm.
pub(super) struct RemoteDecoder {
    handle: Handle,
    shape: Shape,
    legs: Legs,
    logged: Logged,
    most: Most,
    here: Here,
}

/// Who decodes for us, and how the package is opened there and here.
pub(super) struct Setting<'a> {
    pub(super) package: &'a Package,
    pub(super) policy: &'a TrustPolicy,
    pub(super) home: &'a Home,
    pub(super) options: &'a RunOptions,
    pub(super) client: SwarmClient,
    pub(super) handle: Handle,
}

/// Later rows of a sequence, on their way.
struct Run {
    number: Arc<Number>,
    /// The sequence that it goes on from, if that is another one.
    like: Option<Arc<Number>>,
    before: usize,
    rows: usize,
    wanted: usize,
}

/// Why a call did not go through.
enum Failed {
    /// The node of this leg.
    There(usize, Trouble),
    /// No nodes.
    Nobody(NodeError),
    /// This program.
    Here(NodeError),
}

impl RemoteDecoder {
    /// Have the package decoded by nodes that `client` knows. The limits become less if nodes should not be asked for so much.
    ///
    /// # Errors
    /// The scheduler component is not there.
    pub(super) fn new(setting: Setting<'_>, vocabulary: u32, limits: &mut Limits) -> Result<Self, NodeError> {
        let Setting { package, policy, home, options, client, handle } = setting;
        let shape = Shape { needs: needs(package), vocabulary };
        if shape.needs.iter().any(|needs| needs.row_bytes <= 4) {
            let name = &package.manifest().name;
            return Err(NodeError::Setting(format!("the package `{name}` does not say how wide its rows are")));
        }
        limits.past_bytes = limits.past_bytes.min(MOST_KEPT.0);
        limits.prefix_bytes = limits.prefix_bytes.min(MOST_KEPT.1);
        let most = most(*limits, shape.row_bytes());
        let scheduler = Plugins::find(options.plugins.as_deref())?.read(SCHEDULER)?;
        let choosing = Choosing::new(client, &scheduler, home, options, Verify::None, PREDICTED_ROWS)?;
        let legs = Legs::new(choosing, package.digest(), shape.needs.clone(), most);
        let here = Here {
            directory: package.directory().to_owned(),
            policy: policy.clone(),
            home: home.clone(),
            options: options.clone(),
            model: None,
        };
        Ok(Self { handle, shape, legs, logged: Logged::default(), most, here })
    }

    /// A sequence of the batch, under a number of its own.
    fn run_of(&mut self, later: Later<'_>) -> Result<Run, NodeError> {
        let Later { tokens, wanted, past } = later;
        let (before, rows) = (past.rows, tokens.len());
        let (number, like) = match past.kept {
            // Nobody else goes on from it.
            Kept::There { number, .. } if Arc::strong_count(&number) == 1 => (number, None),
            Kept::There { number, .. } => {
                let shape = &self.shape;
                let begun = self.logged.begin(Some((number.get(), before)), |block| shape.width(block));
                (Arc::new(begun), Some(number))
            }
            Kept::Here(_) if before > 0 => return Err(NodeError::Decoder("its rows before are not on nodes".into())),
            Kept::Here(_) => (Arc::new(self.logged.begin(None, |_| 0)), None),
        };
        let mut ids = Vec::with_capacity(tokens.len().saturating_mul(4));
        for &token in tokens {
            let id = i32::try_from(token).map_err(|_| NodeError::Decoder("a token id is beyond 31 bits".into()))?;
            ids.extend(id.to_le_bytes());
        }
        let shape = &self.shape;
        self.logged.cut(number.get(), before, |block| shape.width(block));
        self.logged.put(number.get(), 0, before.saturating_mul(4), &ids);
        Ok(Run { number, like, before, rows, wanted })
    }

    /// What goes together: as many rows as a call may have.
    fn groups(&self, runs: &[Run]) -> Result<Vec<Range<usize>>, NodeError> {
        let Most { rows: most_rows, wanted: most_wanted, .. } = self.most;
        let mut groups: Vec<Range<usize>> = Vec::new();
        let (mut rows, mut wanted) = (0, 0);
        for (at, run) in runs.iter().enumerate() {
            if run.rows > most_rows as usize || run.wanted > most_wanted as usize || run.rows == 0 {
                return Err(NodeError::Decoder(format!("{} rows of a sequence are no call", run.rows)));
            }
            (rows, wanted) = (rows + run.rows, wanted + run.wanted);
            match groups.last_mut() {
                Some(group) if rows <= most_rows as usize && wanted <= most_wanted as usize => group.end = at + 1,
                _ => {
                    groups.push(at..at + 1);
                    (rows, wanted) = (run.rows, run.wanted);
                }
            }
        }
        Ok(groups)
    }

    /// Send a group through all legs, again until it is through: its logits.
    fn through(&mut self, group: &[Run]) -> Result<Vec<u8>, NodeError> {
        let handle = self.handle.clone();
        let mut in_vain: Option<Instant> = None;
        for _ in 0..MOST_TRIES {
            let why = match handle.block_on(self.try_through(group)) {
                Ok(logits) => return Ok(logits),
                Err(Failed::Here(error)) => return Err(error),
                Err(Failed::Nobody(error)) => Some(error.in_full()),
                Err(Failed::There(at, trouble)) => match handle.block_on(self.legs.replace(at, &trouble)) {
                    Ok(()) => None,
                    Err(error) => Some(format!("{}, and {trouble}", error.in_full())),
                },
            };
            let Some(why) = why else { continue };
            let since = in_vain.get_or_insert_with(Instant::now);
            if since.elapsed() >= GIVE_UP {
                let seconds = GIVE_UP.as_secs();
                return Err(NodeError::Swarm(format!(
                    "no nodes of the swarm have run this model for {seconds} s: {why}"
                )));
            }
            std::thread::sleep(AGAIN);
        }
        Err(NodeError::Swarm(format!("{MOST_TRIES} times, nodes of the swarm did not run this model")))
    }

    async fn try_through(&mut self, group: &[Run]) -> Result<Vec<u8>, Failed> {
        self.legs.begin().await.map_err(Failed::Nobody)?;
        let mut x = Vec::new();
        for run in group {
            let all = self.logged.first(run.number.get(), 0, (run.before + run.rows).saturating_mul(4));
            let rows = all.and_then(|all| all.get(run.before.saturating_mul(4)..));
            x.extend_from_slice(rows.ok_or_else(|| lost(0))?);
        }
        let wanted: usize = group.iter().map(|run| run.wanted).sum();
        for at in 0..self.legs.len() {
            let blocks = self.legs.blocks(at);
            if wanted == 0 && self.shape.keeps_nothing(blocks) {
                return Ok(Vec::new());
            }
            self.catch_up(at, group).await?;
            x = self.leg(at, group, &x, wanted).await.map_err(|trouble| Failed::There(at, trouble))?;
            let (_, to) = blocks;
            if to < self.shape.blocks() {
                self.note(group, to, &x);
            }
        }
        Ok(x)
    }

    /// Send the rows of a group through a leg.
    async fn leg(&mut self, at: usize, group: &[Run], x: &[u8], wanted: usize) -> Result<Vec<u8>, Trouble> {
        let (from, to) = self.legs.blocks(at);
        let rows: usize = group.iter().map(|run| run.rows).sum();
        let out = if to == self.shape.blocks() { wanted } else { rows };
        let connection = self.legs.connection(at).await?;
        let parts = group.iter().map(|run| {
            let (sequence, before) = (run.number.get(), count(run.before));
            let of = run.like.as_ref().map_or(sequence, |like| like.get());
            let of = if connection.keeps(sequence, before) { sequence } else { of };
            Part { sequence, of, before, rows: count(run.rows), wanted: count(run.wanted) }
        });
        let call = Call {
            parts: parts.collect(),
            input: self.shape.header(from, rows),
            output: (out > 0).then(|| self.shape.header(to, out)),
            work: self.shape.work(from..to, rows),
        };
        connection.ask(&call, x).await?;
        Ok(connection.answer(&call).await?.to_vec())
    }

    /// Give a node that took another one's place what went into these blocks before, sequence by sequence.
    async fn catch_up(&mut self, at: usize, group: &[Run]) -> Result<(), Failed> {
        let Self { shape, legs, logged, most, .. } = self;
        let (from, to) = legs.blocks(at);
        if shape.keeps_nothing((from, to)) {
            return Ok(());
        }
        let there = |trouble| Failed::There(at, trouble);
        for run in group {
            let (number, before) = (run.number.get(), count(run.before));
            let connection = legs.connection(at).await.map_err(there)?;
            let like = run.like.as_ref().is_some_and(|like| connection.keeps(like.get(), before));
            if before == 0 || like || connection.keeps(number, before) {
                continue;
            }
            // The border after it is known, unless these blocks have just been cut from others.
            let goes_on = to < shape.blocks();
            let next = run.before.saturating_mul(shape.width(to));
            let answered = goes_on && logged.first(number, to, next).is_none();
            let mut begin = 0;
            while begin < run.before {
                let rows = (run.before - begin).min(most.rows as usize);
                let width = shape.width(from);
                let all = logged.first(number, from, (begin + rows).saturating_mul(width));
                let x = all.and_then(|all| all.get(begin.saturating_mul(width)..)).ok_or_else(|| lost(from))?;
                let part = Part { sequence: number, of: number, before: count(begin), rows: count(rows), wanted: 0 };
                let call = Call {
                    parts: vec![part],
                    input: shape.header(from, rows),
                    output: answered.then(|| shape.header(to, rows)),
                    work: shape.work(from..to, rows),
                };
                connection.ask(&call, x).await.map_err(there)?;
                let y = connection.answer(&call).await.map_err(there)?;
                if answered {
                    logged.put(number, to, begin.saturating_mul(shape.width(to)), &y);
                }
                begin += rows;
            }
        }
        Ok(())
    }

    /// Note the rows of a group that crossed a border.
    fn note(&mut self, group: &[Run], border: u32, x: &[u8]) {
        let width = self.shape.width(border);
        let mut rest = x;
        for run in group {
            let bytes = run.rows.saturating_mul(width).min(rest.len());
            let (rows, later) = rest.split_at(bytes);
            self.logged.put(run.number.get(), border, run.before.saturating_mul(width), rows);
            rest = later;
        }
    }
}

impl Decoder for RemoteDecoder {
    fn decode(&mut self, batch: Vec<Later<'_>>) -> Result<Vec<Decoded>, NodeError> {
        let dropped = self.logged.forget_dropped();
        self.legs.forget(&dropped);
        let runs = batch.into_iter().map(|later| self.run_of(later)).collect::<Result<Vec<Run>, _>>()?;
        let row = (self.shape.vocabulary as usize).saturating_mul(4).max(4);
        let mut logits = Vec::new();
        for group in self.groups(&runs)? {
            let bytes = self.through(runs.get(group).unwrap_or_default())?;
            let values = |row: &[u8]| row.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            logits.extend(bytes.chunks_exact(row).map(values));
        }
        let (mut logits, row_bytes) = (logits.into_iter(), self.shape.row_bytes());
        let decoded = runs.into_iter().map(|Run { number, before, rows, wanted, .. }| Decoded {
            past: Past { rows: before + rows, kept: Kept::There { number, row_bytes } },
            logits: logits.by_ref().take(wanted).collect(),
        });
        Ok(decoded.collect())
    }

    fn model(&mut self) -> Result<&mut Model, NodeError> {
        let Here { directory, policy, home, options, model } = &mut self.here;
        let loaded = match model.take() {
            Some(loaded) => loaded,
            None => Model::load(directory, policy, home, options)?,
        };
        Ok(model.insert(loaded))
    }
}

/// What nodes are asked for.
fn most(limits: Limits, row_bytes: usize) -> Most {
    let rows = (PROMPT_ROWS + limits.sequences).min(MAX_TOKENS);
    let of = |bytes: usize| bytes / row_bytes.max(1);
    // One sequence runs whatever it takes.
    let at_once = limits.sequences.max(1).saturating_mul(limits.context);
    let running = of(limits.past_bytes).max(limits.context).min(at_once);
    let ended = of(limits.prefix_bytes);
    let sequences = limits.sequences.saturating_add(ended / BLOCK_ROWS).saturating_add(MORE);
    Most {
        rows: count(rows),
        wanted: count(WANTED.max(limits.sequences).min(rows)),
        sequences: count(sequences).min(MAX_SEQUENCES),
        kept: count(running.saturating_add(ended)),
    }
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

fn lost(border: u32) -> Failed {
    Failed::Here(NodeError::Decoder(format!("what went into block {border} is not known any more")))
}
