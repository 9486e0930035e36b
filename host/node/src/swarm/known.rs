//! What must be known of a package to have others run it: how texts become tokens, and what each block needs.
//!
//! # How
//!
//! 1. The package is opened, which verifies every byte of it, and let go again: only the tokenizer and the manifest are
//!    kept, not the weights.
//! 2. What a block costs is read off the shapes of its weights: a linear layer multiplies every weight once for each row.
//! 3. Who leads jobs also runs it once on a few rows ([`Model::borders`]): what crosses each border is then known, and a
//!    node that sends anything else is found out before the next one gets it.

use super::serve::Border;
use crate::error::NodeError;
use crate::execute::inputs;
use crate::float::expect_tier;
use crate::load::{Model, runtime};
use crate::options::{Arithmetic, RunOptions};
use crate::plugins::{EXACT_REFERENCE, Plugins};
use crate::receipt::{element_code, tensor_digest};
use crate::tokens::{Tokenised, Tokens};
use bytes::Bytes;
use ostrakon_nn::Tensor;
use ostrakon_package::{Home, Manifest, Package, Tier, TrustPolicy};
use ostrakon_protocol::wire::TensorHeader;
use ostrakon_protocol::{BlockNeeds, Context, Digest};
use std::path::Path;

/// A package that this machine can ask others to run.
pub struct KnownPackage {
    digest: Digest,
    manifest: Manifest,
    tokens: Tokens,
    profile: Digest,
    needs: Vec<BlockNeeds>,
    blocks: Vec<(String, Digest)>,
    borders: Vec<Border>,
}

impl std::fmt::Debug for KnownPackage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.manifest.name, self.digest)
    }
}

impl KnownPackage {
    /// Open the package in `directory` to lead jobs of it, as it would be run with these options.
    ///
    /// # Errors
    /// The package is refused or is not of the exact tier; a block does not run.
    pub fn open(directory: &Path, policy: &TrustPolicy, home: &Home, options: &RunOptions) -> Result<Self, NodeError> {
        let mut known = Self::open_to_check(directory, policy, home, options)?;
        known.borders = Model::load(directory, policy, home, options)?.borders()?;
        for (needs, border) in known.needs.iter_mut().zip(known.borders.iter().skip(1)) {
            needs.row_bytes = border.row_bytes;
        }
        Ok(known)
    }

    /// Open the package in `directory` to look at answers.
    ///
    /// # Errors
    /// The package is refused or is not of the exact tier; the engine does not start.
    pub fn open_to_check(
        directory: &Path,
        policy: &TrustPolicy,
        home: &Home,
        options: &RunOptions,
    ) -> Result<Self, NodeError> {
        let package = Package::open(directory, policy)?;
        expect_tier(package.manifest(), Tier::Exact)?;
        let manifest = package.manifest().clone();
        let limit = usize::try_from(manifest.max_tokens.unwrap_or_default()).unwrap_or(usize::MAX);
        let tokens = Tokens::load(package.tokenizer().unwrap_or_default(), limit)?;
        let component = |name: &str| manifest.component(name).map(|c| c.blake3);
        // The manifest was validated: every block's component is there.
        let blocks = manifest
            .blocks
            .iter()
            .filter_map(|block| Some((block.name.clone(), component(&block.component)?)))
            .collect();
        Ok(Self {
            digest: package.digest(),
            tokens,
            profile: profile(home, options)?,
            needs: needs(&package),
            blocks,
            borders: Vec::new(),
            manifest,
        })
    }

    /// The package.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Its manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The determinism profile under which it is run.
    pub const fn profile(&self) -> Digest {
        self.profile
    }

    /// What each block needs, in order.
    pub fn needs(&self) -> &[BlockNeeds] {
        &self.needs
    }

    /// Name and component of each block, in order.
    pub fn blocks(&self) -> &[(String, Digest)] {
        &self.blocks
    }

    /// What crosses the border before a block; with the number of blocks: after the last one. `None`: it was not run.
    pub fn border(&self, block: u32) -> Option<&Border> {
        self.borders.get(block as usize)
    }

    /// The batches that texts are run in, at most `most` texts in each; 0: as many as fit.
    ///
    /// # Errors
    /// A text that cannot be tokenised.
    pub fn batches(&self, texts: &[String], most: u32) -> Result<Vec<BatchInput>, NodeError> {
        let tokenised = self.tokens.encode(texts)?;
        let counts: Vec<usize> = tokenised.iter().map(|text| text.ids.len()).collect();
        let most = usize::try_from(most).ok().filter(|&most| most > 0);
        let ranges = crate::batch::split(&counts, most);
        ranges.into_iter().map(|range| BatchInput::of(tokenised.get(range).unwrap_or_default())).collect()
    }
}

/// The profile of these options.
fn profile(home: &Home, options: &RunOptions) -> Result<Digest, NodeError> {
    let profile = Digest::from_bytes(*runtime(home, options)?.profile().digest().as_bytes());
    Ok(match options.arithmetic {
        Arithmetic::Native(_) => profile,
        Arithmetic::Reference => {
            let reference = Plugins::find(options.plugins.as_deref())?.read(EXACT_REFERENCE)?;
            reference_profile(&profile, &reference)
        }
    })
}

/// Guest instructions in place of charged host calls: the same bytes for other fuel.
pub(crate) fn reference_profile(profile: &Digest, reference: &[u8]) -> Digest {
    let parts = [profile.as_bytes().as_slice(), Digest::of_content(reference).as_bytes()].concat();
    Digest::of(Context::REFERENCE_PROFILE, &parts)
}

/// What each block of a package needs, in order.
pub(crate) fn needs(package: &Package) -> Vec<BlockNeeds> {
    // A block that changes no width passes on rows of the width before it.
    let mut row_bytes = 4;
    let mut needs = Vec::new();
    for block in &package.manifest().blocks {
        let layers: Vec<String> = block.layers.iter().map(|layer| format!("{}.{}", block.name, layer.name)).collect();
        let mut work = 0u64;
        for tensor in package.tensors().filter(|tensor| layers.contains(&tensor.layer)) {
            let columns = tensor.dims.last().map_or(0, |&columns| columns as u64);
            let elements = tensor.dims.iter().fold(1u64, |product, &dim| product.saturating_mul(dim as u64));
            match (tensor.kind.as_str(), tensor.part.as_str()) {
                ("linear", "weight") => work = work.saturating_add(elements),
                // What is normed and looked up is as wide as what the block gives, but where it ends with a product of its own.
                ("layer-norm" | "rms-norm", "gain") => row_bytes = elements.saturating_mul(4),
                ("embedding", "weight") => row_bytes = columns.saturating_mul(4),
                _ => {}
            }
        }
        if let Some(generation) = &package.manifest().generation
            && needs.len() + 1 == package.manifest().blocks.len()
        {
            row_bytes = u64::from(generation.vocabulary).saturating_mul(4);
        }
        let weight_bytes = block.weights.as_ref().map_or(0, |weights| weights.bytes);
        // Embeddings and pooling multiply little, but they read and write each row.
        needs.push(BlockNeeds { weight_bytes, work: work.max(row_bytes), row_bytes });
    }
    needs
}

/// A tensor on its way between nodes.
#[derive(Debug, Clone)]
pub struct Carried {
    /// Its shape.
    pub header: TensorHeader,
    /// What stands for it on receipts.
    pub digest: Digest,
    /// Its elements.
    pub bytes: Bytes,
}

impl Carried {
    /// What came with this header.
    pub fn new(header: TensorHeader, bytes: Bytes) -> Self {
        let digest = Digest::of_tensor(header.element, &header.dimensions, &bytes);
        Self { header, digest, bytes }
    }

    fn of(tensor: &Tensor) -> Self {
        let bytes = Bytes::from(tensor.to_bytes());
        let header = TensorHeader {
            element: element_code(tensor.ty()),
            dimensions: tensor.dims().to_vec(),
            bytes: bytes.len() as u64,
        };
        Self::new(header, bytes)
    }
}

/// Texts that go through the blocks together, as tokens.
#[derive(Debug, Clone)]
pub struct BatchInput {
    /// Tokens of each text, and whether it was cut.
    pub texts: Vec<(u32, bool)>,
    /// What stands for the lengths on a receipt.
    pub lengths: Digest,
    /// Rows in all.
    pub rows: u64,
    /// The token ids.
    pub ids: Carried,
}

impl BatchInput {
    fn of(texts: &[Tokenised]) -> Result<Self, NodeError> {
        let (ids, lengths) = inputs(texts)?;
        let count = |text: &Tokenised| u32::try_from(text.ids.len()).unwrap_or(u32::MAX);
        let texts: Vec<(u32, bool)> = texts.iter().map(|text| (count(text), text.truncated)).collect();
        Ok(Self {
            rows: texts.iter().map(|&(rows, _)| u64::from(rows)).sum(),
            texts,
            lengths: tensor_digest(&lengths),
            ids: Carried::of(&ids),
        })
    }

    /// Rows of each text.
    pub fn row_counts(&self) -> Vec<u32> {
        self.texts.iter().map(|&(rows, _)| rows).collect()
    }
}
