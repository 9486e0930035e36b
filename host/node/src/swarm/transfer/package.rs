//! Takes packages from the swarm.

use super::give::blocking;
use super::shelf::Shelf;
use super::take::take;
use super::{TransferError, disk};
use crate::error::NodeError;
use futures::future::BoxFuture;
use ostrakon_net::{Client, Offence};
use ostrakon_package::{Home, Manifest, Store, StoredPackage, TrustPolicy, manifest, names, package, signature};
use ostrakon_protocol::wire::{Ask, Reply};
use ostrakon_protocol::{Context, Digest, PublicKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Most nodes that are asked for a name, and most that a package is taken from.
const MAX_ASKED: usize = 32;
/// Most packages of one name that are looked at.
const MAX_NAMED: usize = 16;
/// How long a node may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Takes packages from the swarm into this machine's store.
#[derive(Debug, Clone)]
pub struct Fetcher {
    client: Client,
    home: Home,
    shelf: Arc<Shelf>,
    /// Bytes of the largest package.
    limit: u64,
}

/// A package that came.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Where it is now.
    pub stored: StoredPackage,
    /// All its bytes.
    pub bytes: u64,
    /// Those that came from peers; the others were here.
    pub fetched: u64,
}

impl Fetcher {
    /// Over this network, into the store under this home. Files that are on the shelf are not fetched.
    pub const fn new(client: Client, home: Home, shelf: Arc<Shelf>, limit: u64) -> Self {
        Self { client, home, shelf, limit }
    }

    /// The package of a name or a digest, let in by `policy`. The `known` nodes are asked beside the fleet.
    ///
    /// # Errors
    /// Nobody has it, it is not let in or too large, or it could not be fetched.
    pub fn package<'a>(
        &'a self,
        wanted: &'a str,
        policy: &'a TrustPolicy,
        known: &'a [PublicKey],
    ) -> BoxFuture<'a, Result<Fetched, NodeError>> {
        Box::pin(self.find(wanted, policy, known))
    }

    async fn find(&self, wanted: &str, policy: &TrustPolicy, known: &[PublicKey]) -> Result<Fetched, NodeError> {
        let nobody = || TransferError::Nobody { wanted: wanted.to_owned() };
        if let Ok(digest) = wanted.parse::<Digest>() {
            let mut nodes = known.to_vec();
            nodes.extend(self.serving(&digest));
            let named = self.client.fleet().statuses();
            nodes.extend(named.iter().map(|signed| signed.status.node));
            return self.from(digest, None, nodes, policy).await?.ok_or_else(|| nobody().into());
        }
        names::check_name("package", wanted).map_err(NodeError::Setting)?;
        let mut refused = None;
        for (digest, nodes) in self.named(wanted, known).await {
            match self.from(digest, Some(wanted), nodes, policy).await {
                Ok(Some(fetched)) => return Ok(fetched),
                Ok(None) => {}
                // Another package of this name may be trusted.
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| nobody().into()))
    }

    /// Packages of a name with those who have them; first the one that most have.
    async fn named(&self, name: &str, known: &[PublicKey]) -> Vec<(Digest, Vec<PublicKey>)> {
        let mut asked = tokio::task::JoinSet::new();
        let statuses = self.client.fleet().statuses();
        let own = self.client.node();
        let nodes: BTreeSet<PublicKey> = known.iter().copied().chain(statuses.iter().map(|s| s.status.node)).collect();
        for node in nodes.into_iter().filter(|node| *node != own).take(MAX_ASKED) {
            let (client, ask) = (self.client.clone(), Ask::Named { name: name.to_owned() });
            asked.spawn(async move { (node, client.ask(node, ask, WITHIN).await) });
        }
        let mut found: BTreeMap<Digest, Vec<PublicKey>> = BTreeMap::new();
        while let Some(answer) = asked.join_next().await {
            let Ok((node, Ok(Reply::Named { packages }))) = answer else { continue };
            for digest in packages.into_iter().take(MAX_NAMED) {
                found.entry(digest).or_default().push(node);
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
        found.truncate(MAX_NAMED);
        found
    }

    /// Nodes that say they serve blocks of a package.
    fn serving(&self, package: &Digest) -> Vec<PublicKey> {
        let statuses = self.client.fleet().statuses();
        let serves = statuses.iter().filter(|s| s.status.served.iter().any(|served| served.package == *package));
        serves.map(|s| s.status.node).collect()
    }

    /// One package from these nodes. `None`: none of them has it.
    async fn from(
        &self,
        digest: Digest,
        name: Option<&str>,
        mut nodes: Vec<PublicKey>,
        policy: &TrustPolicy,
    ) -> Result<Option<Fetched>, NodeError> {
        nodes.extend(self.client.providers(digest).await);
        let own = self.client.node();
        let mut seen = BTreeSet::new();
        nodes.retain(|node| *node != own && seen.insert(*node));
        nodes.truncate(MAX_ASKED);
        let incoming = self.home.data.join("incoming");
        let staging = incoming.join("packages").join(digest.to_string());
        let Some(manifest) = self.manifest(digest, &mut nodes, &staging, policy).await? else { return Ok(None) };
        if let Some(wanted) = name.filter(|wanted| *wanted != manifest.name) {
            let (found, wanted) = (manifest.name.clone(), wanted.to_owned());
            return Err(TransferError::OtherName { package: digest, found, wanted }.into());
        }
        let bytes = manifest.files().fold(0u64, |sum, (_, _, bytes)| sum.saturating_add(bytes));
        if bytes > self.limit {
            return Err(TransferError::TooLarge { package: digest, bytes, limit: self.limit }.into());
        }
        let mut fetched = 0u64;
        for (file, content, length) in manifest.files() {
            let to = staging.join(file);
            if self.on_shelf(content, length, &to).await? {
                continue;
            }
            let taken = take(&self.client, &incoming.join("files"), content, length, &nodes).await?;
            fetched = fetched.saturating_add(taken.fetched);
            taken.place(&to)?;
        }
        let (store, policy, from) = (Store::open(&self.home), policy.clone(), staging.clone());
        let stored = tokio::task::spawn_blocking(move || store.add_package(&from, &policy))
            .await
            .map_err(|_| TransferError::Stopped)??;
        // It is in the store now.
        let _ = fs::remove_dir_all(&staging);
        tracing::info!(package = %stored.name, digest = %stored.digest, bytes, fetched, "a package came");
        Ok(Some(Fetched { stored, bytes, fetched }))
    }

    /// The manifest, let in by its signature, in the directory where the files go. Nodes that do not have it are left
    /// out of `nodes`, and so are those that gave another one.
    async fn manifest(
        &self,
        package: Digest,
        nodes: &mut Vec<PublicKey>,
        staging: &Path,
        policy: &TrustPolicy,
    ) -> Result<Option<Manifest>, NodeError> {
        let mut last: Option<NodeError> = None;
        while let Some(&node) = nodes.first() {
            let asked = self.client.ask(node, Ask::Manifest { package }, WITHIN).await;
            if let Ok(Reply::Manifest { manifest, signature }) = asked {
                if Digest::of(Context::PACKAGE, &manifest) == package {
                    match let_in(staging, &manifest, signature.as_deref().map(Vec::as_slice), policy) {
                        Ok(manifest) => return Ok(Some(manifest)),
                        // The signature is not part of the digest: another node may have a better one.
                        Err(error) => last = Some(error),
                    }
                } else {
                    self.client.report(node, Offence::Wrong);
                    // What is wrong with the package itself is better to know.
                    last.get_or_insert(NodeError::from(TransferError::OtherManifest { node, package }));
                }
            }
            nodes.remove(0);
        }
        last.map_or(Ok(None), Err)
    }

    /// Copy a file from the shelf, if it is there. It is verified when the package is added.
    async fn on_shelf(&self, digest: Digest, bytes: u64, to: &Path) -> Result<bool, TransferError> {
        let Some(lying) = self.shelf.file(&digest).filter(|lying| lying.bytes == bytes) else { return Ok(false) };
        let to = to.to_owned();
        blocking(move || {
            let parent = to.parent().unwrap_or(&to);
            fs::create_dir_all(parent).map_err(disk("make the directory", parent))?;
            Ok(fs::copy(&lying.path, &to).is_ok_and(|copied| copied == bytes))
        })
        .await
    }
}

/// Put manifest and signature where the files go, and see whether they are let in.
fn let_in(
    staging: &Path,
    manifest: &[u8],
    signature: Option<&[u8]>,
    policy: &TrustPolicy,
) -> Result<Manifest, NodeError> {
    let most = |what: &str, bytes: &[u8], limit: u64| match bytes.len() as u64 > limit {
        true => Err(NodeError::Setting(format!("{what} of {} bytes: at most {limit} are taken", bytes.len()))),
        false => Ok(()),
    };
    most("a manifest", manifest, manifest::MAX_MANIFEST)?;
    most("a signature", signature.unwrap_or_default(), signature::MAX_SIGNATURE)?;
    fs::create_dir_all(staging).map_err(disk("make the directory", staging))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = staging.join(name);
        fs::write(&path, bytes).map_err(disk("write", &path))
    };
    write(manifest::FILE, manifest)?;
    match signature {
        Some(bytes) => write(signature::FILE, bytes)?,
        None => {
            let _ = fs::remove_file(staging.join(signature::FILE));
        }
    }
    Ok(package::signed_manifest(staging, policy)?.0)
}
