//! What a receipt says, for a page or a program that shows it.

use ostrakon_node::{Manifest, SignedReceipt};
use ostrakon_protocol::{Leg, Step};
use serde::Serialize;
use utoipa::ToSchema;

/// A receipt. Keys and digests are in hexadecimal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReceiptSummary)]
pub(super) struct Summary {
    /// Its name on this server.
    id: String,
    /// `receipt`.
    object: &'static str,
    /// Bytes of its file.
    bytes: usize,
    /// Its digest.
    digest: String,
    /// Who signed the whole.
    issuer: String,
    /// Whether that signature holds.
    signed: bool,
    /// The model's name.
    model: String,
    /// The package's digest.
    package: String,
    /// The determinism profile's.
    profile: String,
    /// `exact`: the same bytes everywhere.
    tier: &'static str,
    generated: Option<GeneratedSummary>,
    /// Who ran which blocks, in the order in which they ran.
    legs: Vec<LegSummary>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
struct GeneratedSummary {
    prompt_tokens: usize,
    answer_tokens: usize,
    temperature: f32,
    /// What it was drawn with.
    seed: i64,
}

/// Blocks that one node ran one after another.
#[derive(Debug, Serialize, ToSchema)]
struct LegSummary {
    /// The node's key.
    node: String,
    /// Whether its signature holds.
    signed: bool,
    /// What did the integer products.
    backend: String,
    /// What it cost, in units of the profile.
    fuel: u64,
    shards: Vec<ShardSummary>,
}

/// Blocks of one shard.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
struct ShardSummary {
    /// Its name in the package that is served; null for blocks that the package does not have.
    name: Option<String>,
    blocks: Vec<String>,
}

impl Summary {
    /// Of a receipt of the package with this manifest.
    pub(super) fn new(id: &str, bytes: usize, signed: &SignedReceipt, manifest: &Manifest) -> Self {
        let (mut is_signed, mut legs) = (false, Vec::new());
        for seal in signed.seals() {
            match seal.leg {
                None => is_signed = seal.valid,
                Some((_, leg)) => legs.push(LegSummary::new(leg, seal.valid, manifest)),
            }
        }
        let generated = signed.request.as_ref().and_then(|request| request.generation.as_ref());
        let receipt = &signed.receipt;
        Self {
            id: id.to_owned(),
            object: "receipt",
            bytes,
            digest: receipt.digest().to_string(),
            issuer: signed.issuer.to_string(),
            signed: is_signed,
            model: manifest.name.clone(),
            package: receipt.package.to_string(),
            profile: receipt.profile.to_string(),
            // Packages of the other tier are not served.
            tier: "exact",
            generated: generated.map(|generated| GeneratedSummary {
                prompt_tokens: generated.prompt.len(),
                answer_tokens: generated.answer.len(),
                temperature: f32::from_bits(generated.choice.temperature),
                seed: generated.choice.seed.cast_signed(),
            }),
            legs,
        }
    }
}

impl LegSummary {
    fn new(leg: &Leg, signed: bool, manifest: &Manifest) -> Self {
        Self {
            node: leg.node.to_string(),
            signed,
            backend: leg.backend.clone(),
            fuel: leg.steps.iter().map(|step| step.fuel).fold(0, u64::saturating_add),
            shards: shards(&leg.steps, manifest),
        }
    }
}

/// Blocks, by the shards that they are in.
fn shards(steps: &[Step], manifest: &Manifest) -> Vec<ShardSummary> {
    let mut all: Vec<ShardSummary> = Vec::new();
    for step in steps {
        let of = manifest.shards.iter().find(|shard| shard.blocks.contains(&step.block));
        let name = of.map(|shard| shard.name.clone());
        match all.last_mut().filter(|last| last.name == name) {
            Some(last) => last.blocks.push(step.block.clone()),
            None => all.push(ShardSummary { name, blocks: vec![step.block.clone()] }),
        }
    }
    all
}
