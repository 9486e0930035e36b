//! Packages that a node runs blocks of.
//!
//! # How
//!
//! 1. A [`PackageSetting`] says which package and which of its blocks. [`Hosted::load`] opens it as every run does:
//!    each byte verified, signature and trust checked, components admitted.
//! 2. The [`Table`] is replaced as a whole. Whoever runs something holds its own [`Arc`] of the [`Hosted`], so a package
//!    that is gone from the table lives on until its last session is over.
//! 3. A package has one [`Model`], which is lent to one leg after the other in the order in which they came: a leg uses
//!    all threads anyway. Computing is done on threads for that, never where messages are handled.

use super::in_thread;
use super::leg::{Border, LegRun};
use super::share_layers::ShareLayers;
use crate::error::NodeError;
use crate::load::Model;
use crate::options::RunOptions;
use crate::receipt::tensor_digest;
use crate::store::{locate, locate_or_find};
use ostrakon_nn::{SequencePast, Tensor};
use ostrakon_package::package::claimed_digest;
use ostrakon_package::{Digest, Home, TrustPolicy};
use ostrakon_protocol::status;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex as Queue, oneshot};
use tokio_util::sync::CancellationToken;

/// A package that is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageSetting {
    /// A directory, a name in the store, or the digest of a package in the store.
    pub package: PathBuf,
    /// Which blocks.
    pub blocks: Blocks,
}

/// Some blocks of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocks {
    /// All.
    All,
    /// Counted from 0 over the whole package.
    Range(Range<u32>),
    /// Those of these shards, which follow one another.
    Shards(Vec<String>),
}

impl PackageSetting {
    fn directory(&self, home: &Home) -> Result<PathBuf, NodeError> {
        let digest = self.package.to_str().and_then(|word| word.parse::<Digest>().ok());
        match digest {
            Some(digest) if !self.package.is_dir() => locate_or_find(home, None, &digest),
            _ => locate(home, &self.package),
        }
    }

    fn range(&self, model: &Model) -> Result<Range<u32>, NodeError> {
        let count = model.block_count();
        let wrong = |why: String| Err(NodeError::Setting(format!("{}: {why}", self.package.display())));
        match &self.blocks {
            Blocks::All => Ok(0..count),
            Blocks::Range(range) if range.start < range.end && range.end <= count => Ok(range.clone()),
            Blocks::Range(range) => wrong(format!(
                "there are no blocks {}-{}: the package has the blocks 0-{}",
                range.start,
                range.end.saturating_sub(1),
                count.saturating_sub(1)
            )),
            Blocks::Shards(names) => {
                let known: Vec<&str> = model.manifest().shards.iter().map(|shard| shard.name.as_str()).collect();
                if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
                    return wrong(format!("there is no shard `{name}`; the package has {}", known.join(", ")));
                }
                let blocks = model.blocks_of(names);
                match (blocks.first(), blocks.last()) {
                    (Some(&first), Some(&last)) if (last - first) as usize + 1 == blocks.len() => Ok(first..last + 1),
                    (Some(_), _) => wrong("the shards do not follow one another: list them apart".into()),
                    (None, _) => wrong("no shard is named".into()),
                }
            }
        }
    }
}

/// A package with blocks that are ready to run.
pub struct Hosted {
    /// What asked for it.
    setting: PackageSetting,
    /// Where it lies.
    pub directory: PathBuf,
    /// The package.
    pub digest: Digest,
    /// Its name.
    pub name: String,
    /// The blocks that are served.
    pub blocks: Range<u32>,
    /// What crosses the border before each block of the package and after the last one.
    pub borders: Vec<Border>,
    /// The determinism profile.
    pub profile: Digest,
    /// What does the integer products.
    pub backend: &'static str,
    /// Most tokens of a text.
    pub max_tokens: u32,
    /// The files with weights of the blocks that are served, and how long each must be.
    weights: Vec<(PathBuf, u64)>,
    model: Arc<Queue<Model>>,
    /// The linear layers of the blocks that are served.
    pub(super) share_layers: Arc<ShareLayers>,
    speed: Mutex<Speed>,
    /// What one row of a sequence leaves in each block, if the package generates text.
    pasts: Option<Vec<SequencePast>>,
}

/// What later rows give: what the last block gives of them, what is left of each sequence, and how long it took.
pub(super) type GoneOn = (Tensor, Vec<Vec<SequencePast>>, Duration);

/// Why a leg was not computed.
#[derive(Debug, thiserror::Error)]
pub enum NoLeg {
    /// What came is not what was announced.
    #[error("the input's digest is {found}, not {announced}")]
    Input {
        /// Of the bytes that came.
        found: Digest,
        /// What they were said to be.
        announced: Digest,
    },
    /// Nobody wants it any more.
    #[error("the session was aborted")]
    Aborted,
    /// A file was changed while it was served.
    #[error("the file {0} of a package that this node serves was cut short")]
    Cut(String),
    /// A block failed.
    #[error(transparent)]
    Block(#[from] NodeError),
    /// The thread that computed ended in the middle.
    #[error("the computation ended in a fault of this node")]
    Panicked,
}

impl Hosted {
    /// Open a package and make its blocks ready.
    ///
    /// # Errors
    /// The package is not there, is refused or does not run; it has no such blocks.
    pub fn load(
        setting: &PackageSetting,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
    ) -> Result<Self, NodeError> {
        let directory = setting.directory(home)?;
        let mut model = Model::load(&directory, policy, home, options)?;
        let blocks = setting.range(&model)?;
        let borders = model.borders()?;
        let generates = model.manifest().generation.is_some();
        let pasts = if generates { Some(model.pasts_of_a_row()?) } else { None };
        if blocks.len() < model.blocks.len() {
            // Layers of blocks that others run need not be kept.
            model.forget_layers();
        }
        model.make_blocks_ready(blocks.clone())?;
        let share_layers = Arc::new(ShareLayers::of(&model, &blocks)?);
        let served = model.manifest().blocks.iter().skip(blocks.start as usize).take(blocks.len());
        let weights = served.filter_map(|block| block.weights.as_ref());
        let weights = weights.map(|entry| (directory.join(&entry.file), entry.bytes)).collect();
        Ok(Self {
            setting: setting.clone(),
            directory,
            digest: model.digest(),
            name: model.name().to_owned(),
            blocks,
            borders,
            profile: model.profile(),
            backend: model.backend(),
            max_tokens: model.manifest().max_tokens.unwrap_or_default(),
            weights,
            model: Arc::new(Queue::new(model)),
            share_layers,
            speed: Mutex::default(),
            pasts,
        })
    }

    /// Whether no file with weights is shorter than it was. They are mapped, and reading what is no longer there would end
    /// this process. A file that was removed or replaced as a whole is no matter: the map keeps it.
    fn uncut(&self) -> Result<(), NoLeg> {
        let cut = |(path, bytes): &&(PathBuf, u64)| std::fs::metadata(path).is_ok_and(|file| file.len() < *bytes);
        match self.weights.iter().find(cut) {
            None => Ok(()),
            Some((path, bytes)) => {
                tracing::error!(file = %path.display(), bytes, "a file of a served package is shorter than it was");
                // Others need not know where it lies.
                Err(NoLeg::Cut(path.file_name().unwrap_or_default().to_string_lossy().into_owned()))
            }
        }
    }

    /// Most rows of a batch: as many as [`split`](crate::batch::split) ever makes.
    pub fn max_rows(&self) -> u32 {
        self.max_tokens.max(u32::try_from(crate::batch::MAX_TOKENS).unwrap_or(u32::MAX))
    }

    /// Whether all of these blocks are served.
    pub fn serves(&self, from: u32, to: u32) -> bool {
        from < to && self.blocks.start <= from && to <= self.blocks.end
    }

    /// The border before a block, or after the last one.
    pub fn border(&self, at: u32) -> Option<&Border> {
        self.borders.get(at as usize)
    }

    /// Compute a leg as soon as it is this one's turn.
    ///
    /// # Errors
    /// The input is not what was announced, a block fails, or `abort` is cancelled before it is done.
    pub async fn compute(
        self: &Arc<Self>,
        blocks: Range<u32>,
        (input, announced): (Tensor, Digest),
        lengths: Tensor,
        abort: &CancellationToken,
    ) -> Result<LegRun, NoLeg> {
        let mut model = tokio::select! {
            () = abort.cancelled() => return Err(NoLeg::Aborted),
            model = Arc::clone(&self.model).lock_owned() => model,
        };
        let (done, result) = oneshot::channel();
        let (hosted, aborted) = (Arc::clone(self), abort.clone());
        tokio::task::spawn_blocking(move || {
            let found = tensor_digest(&input);
            let right = if found == announced { Ok(()) } else { Err(NoLeg::Input { found, announced }) };
            if let Err(no_leg) = right.and_then(|()| hosted.uncut()) {
                let _ = done.send(Err(no_leg));
                return;
            }
            let rows = lengths.as_i32().map_or(0, |lengths| lengths.iter().map(|&n| u64::from(n.unsigned_abs())).sum());
            let part = blocks.len() as u64;
            let result = model.run_leg(blocks, (input, found), &lengths, &|| !aborted.is_cancelled());
            if let Ok(Some(run)) = &result {
                hosted.note_speed(rows, run.took, part);
            }
            // Whoever waits need not wait for what is made ready for the next one. Should that fail, the next one fails.
            let _ = done.send(result.map_err(NoLeg::Block).and_then(|run| run.ok_or(NoLeg::Aborted)));
            let _ = model.make_blocks_ready(hosted.blocks.clone());
        });
        result.await.unwrap_or(Err(NoLeg::Panicked))
    }

    /// Whether the package generates text.
    pub(super) const fn generates(&self) -> bool {
        self.pasts.is_some()
    }

    /// Bytes that so many rows of so many sequences leave in these blocks, at most.
    pub(super) fn past_bytes(&self, blocks: &Range<u32>, rows: u32, sequences: u32) -> u64 {
        let pasts = self.pasts.as_deref().unwrap_or_default();
        let pasts = pasts.get(blocks.start as usize..blocks.end as usize).unwrap_or_default();
        let each = |past: &SequencePast| {
            // What a sequence takes grows by steps: the last one of each may be nearly empty.
            let begun = (past.bytes() as u64).saturating_mul(sequences.into());
            begun.saturating_add(past.bytes_of(rows as usize) as u64)
        };
        pasts.iter().map(each).fold(0, u64::saturating_add)
    }

    /// Go on with later rows of sequences as soon as it is this one's turn.
    ///
    /// # Errors
    /// A block fails.
    pub(super) async fn go_on(
        self: &Arc<Self>,
        blocks: Range<u32>,
        rows: Tensor,
        lengths: Tensor,
        mut pasts: Vec<Vec<SequencePast>>,
    ) -> Result<GoneOn, NoLeg> {
        let mut model = Arc::clone(&self.model).lock_owned().await;
        let (done, result) = oneshot::channel();
        let hosted = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let blocks = blocks.start as usize..blocks.end as usize;
            let gone = hosted.uncut().and_then(|()| Ok(model.go_on(blocks, rows, &lengths, &mut pasts)?));
            let _ = done.send(gone.map(|output| (output, pasts, begun.elapsed())));
            // The first call takes what a leg would begin with.
            let _ = model.make_blocks_ready(hosted.blocks.clone());
        });
        result.await.unwrap_or(Err(NoLeg::Panicked))
    }

    /// Do something else that uses all threads, as soon as it is its turn.
    ///
    /// # Errors
    /// The thread that did it ended in the middle.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        let turn = Arc::clone(&self.model).lock_owned().await;
        in_thread(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
    }

    /// What the node says of it.
    pub fn status(&self) -> status::Served {
        status::Served {
            package: self.digest,
            name: self.name.clone(),
            from: self.blocks.start,
            to: self.blocks.end,
            rows_per_second: self.speed.lock().unwrap_or_else(PoisonError::into_inner).rows_per_second(),
        }
    }

    fn note_speed(&self, rows: u64, took: Duration, blocks: u64) {
        let mut speed = self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // As if all served blocks had been run.
        speed.note(rows, took.saturating_mul(self.blocks.len() as u64) / blocks.max(1));
    }
}

/// Rows and microseconds of the last runs.
#[derive(Debug, Default)]
struct Speed {
    rows: u64,
    took: u64,
}

impl Speed {
    /// Older runs count less and less.
    fn note(&mut self, rows: u64, took: u64) {
        /// Ten seconds of computing.
        const WINDOW: u64 = 10_000_000;
        self.rows = self.rows.saturating_add(rows);
        self.took = self.took.saturating_add(took);
        if self.took > WINDOW {
            self.rows /= 2;
            self.took /= 2;
        }
    }

    fn rows_per_second(&self) -> u64 {
        let rows = u128::from(self.rows).saturating_mul(1_000_000);
        let speed = rows / u128::from(self.took.max(1));
        u64::try_from(speed).unwrap_or(u64::MAX).min(status::MAX_QUANTITY)
    }
}

/// The packages that are served now.
#[derive(Default)]
pub(super) struct Table {
    hosted: Mutex<Vec<Arc<Hosted>>>,
}

impl Table {
    /// All, in the order of the settings.
    pub(super) fn all(&self) -> Vec<Arc<Hosted>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These from now on.
    pub(super) fn replace(&self, hosted: Vec<Arc<Hosted>>) {
        *self.hosted.lock().unwrap_or_else(PoisonError::into_inner) = hosted;
    }

    /// Whoever serves these blocks, or why nobody does.
    pub(super) fn find(&self, package: &Digest, from: u32, to: u32) -> Result<Arc<Hosted>, String> {
        let all = self.all();
        let mut same = all.iter().filter(|hosted| hosted.digest == *package).peekable();
        if same.peek().is_none() {
            return Err(format!("the package {package} is not served here"));
        }
        same.find(|hosted| hosted.serves(from, to))
            .cloned()
            .ok_or_else(|| format!("the blocks {from} to {to} of the package {package} are not served here"))
    }

    /// Where a package lies that is served.
    pub(super) fn directory(&self, package: &Digest) -> Option<PathBuf> {
        self.all().into_iter().find(|hosted| hosted.digest == *package).map(|hosted| hosted.directory.clone())
    }
}

/// What these settings make, with what there is already where it is the same package still.
pub(super) fn load_all(
    settings: &[PackageSetting],
    present: &[Arc<Hosted>],
    policy: &TrustPolicy,
    home: &Home,
    options: &RunOptions,
) -> Result<Vec<Arc<Hosted>>, NodeError> {
    let most = status::MAX_SERVED;
    if settings.len() > most {
        return Err(NodeError::Setting(format!("{} packages are to be served: at most {most} are", settings.len())));
    }
    let is_same = |hosted: &Hosted, setting: &PackageSetting, directory: &Path, digest: &Digest| {
        hosted.setting.blocks == setting.blocks && hosted.directory == directory && hosted.digest == *digest
    };
    let mut all = Vec::with_capacity(settings.len());
    for setting in settings {
        let directory = setting.directory(home)?;
        let digest = claimed_digest(&directory)?;
        all.push(match present.iter().find(|hosted| is_same(hosted, setting, &directory, &digest)) {
            Some(hosted) => Arc::clone(hosted),
            None => Arc::new(Hosted::load(setting, policy, home, options)?),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_what_changes() {
        let mut speed = Speed::default();
        assert_eq!(speed.rows_per_second(), 0);
        speed.note(1000, 1_000_000);
        assert_eq!(speed.rows_per_second(), 1000);
        for _ in 0..100 {
            speed.note(100, 1_000_000);
        }
        assert!((99..110).contains(&speed.rows_per_second()), "{speed:?}");
        speed.note(u64::MAX, 1);
        assert_eq!(speed.rows_per_second(), status::MAX_QUANTITY);
    }
}
