//! The tiny model, served to peers, with the tensors that go through it.

use crate::tiny::{MAX_TOKENS, Tiny, expect, key, policy, quick};
use ostrakon_nn::Tensor;
use ostrakon_node::swarm::database;
use ostrakon_node::swarm::serve::{Blocks, PackageSetting, ServeSettings, Serving};
use ostrakon_protocol::{Digest, Request, wire::Prepare};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What a test serves with.
pub fn settings() -> ServeSettings {
    ServeSettings {
        run: quick(),
        policy: policy(),
        slots: 8,
        slots_per_peer: 6,
        memory: 64 << 20,
        max_hold: Duration::from_secs(60),
        ..ServeSettings::default()
    }
}

/// All blocks of a package.
pub fn whole(package: &Path) -> PackageSetting {
    PackageSetting { package: package.to_owned(), blocks: Blocks::All }
}

/// A node with this key that serves these packages, with a memory of its own.
pub async fn start(tiny: &Tiny, seed: u8, settings: ServeSettings, packages: Vec<PackageSetting>) -> Arc<Serving> {
    let mut home = tiny.home();
    home.data = tiny.path().join(format!("node-{seed}"));
    let database = expect(database::open(&home));
    expect(Serving::start(settings, packages, home, &key(seed), database).await)
}

/// A digest of nothing in particular.
pub const fn digest(at: u8) -> Digest {
    Digest::from_bytes([at; 32])
}

/// What a job asks a node for.
pub fn ask(request: &Request, from: u32, to: u32) -> Prepare {
    Prepare {
        job: digest(1),
        plan: digest(2),
        request: request.digest(),
        package: request.package,
        from,
        to,
        rows: 64,
        hold: 20_000,
    }
}

/// The token ids and the lengths of texts, all in one batch: word `w7` is the token 8.
pub fn inputs(texts: &[String]) -> (Tensor, Vec<u32>) {
    let id = |word: &str| word.strip_prefix('w').and_then(|n| n.parse::<i32>().ok()).map_or(0, |n| n + 1);
    let ids: Vec<Vec<i32>> =
        texts.iter().map(|text| text.split_whitespace().take(MAX_TOKENS).map(id).collect()).collect();
    let known = |id: i32| if usize::try_from(id).is_ok_and(|id| id <= crate::tiny::WORDS) { id } else { 0 };
    let lengths = ids.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX)).collect();
    let ids: Vec<i32> = ids.concat().into_iter().map(known).collect();
    (column(ids), lengths)
}

/// Numbers as a tensor of rank 1.
pub fn column(values: Vec<i32>) -> Tensor {
    expect(Tensor::from_i32(vec![u32::try_from(values.len()).unwrap_or(u32::MAX)], values))
}

/// What stands for a tensor on a receipt.
pub fn tensor_digest(tensor: &Tensor) -> Digest {
    let header = ostrakon_node::swarm::serve::leg::header(tensor);
    Digest::of_tensor(header.element, tensor.dims(), &tensor.bytes())
}
