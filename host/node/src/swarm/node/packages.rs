//! The packages of a node: fetched if they are not here, served, given away, announced.

use super::Core;
use crate::error::NodeError;
use crate::options::RunOptions;
use crate::store::{locate, locate_or_find};
use crate::swarm::known::KnownPackage;
use crate::swarm::serve::{PackageSetting, in_thread};
use crate::swarm::settings::Settings;
use crate::swarm::transfer::TransferError;
use ostrakon_engine::Limits;
use ostrakon_package::{Home, Store};
use ostrakon_protocol::Digest;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long after a fetch that failed the next one begins.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Most contents that are announced.
const MAX_PROVIDED: usize = 256;

/// How often a package is looked for in the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Until somebody has it.
    Endless,
    /// Now or not.
    Once,
}

/// Where a package lies, if it is here.
fn directory(package: &PackageSetting, home: &Home) -> Result<PathBuf, NodeError> {
    match digest(package) {
        Some(digest) if !package.package.is_dir() => locate_or_find(home, None, &digest),
        _ => locate(home, &package.package),
    }
}

fn digest(package: &PackageSetting) -> Option<Digest> {
    package.package.to_str().and_then(|word| word.parse().ok())
}

/// Packages that are here, and those that are not and can be fetched. A directory cannot.
pub(super) fn split(packages: &[PackageSetting], home: &Home) -> (Vec<PackageSetting>, Vec<PackageSetting>) {
    let fetched = |package: &PackageSetting| package.package.components().count() == 1;
    packages.iter().cloned().partition(|package| !fetched(package) || directory(package, home).is_ok())
}

impl Core {
    /// Fetch the packages that the settings name and that are not here.
    pub(super) async fn fetch_missing(&self, settings: &Settings, patience: Patience) -> Result<(), NodeError> {
        let (_, missing) = split(&settings.packages, &self.home);
        for package in missing {
            let word = package.package.display().to_string();
            let policy = settings.policy(&self.home)?;
            loop {
                match self.fetcher(settings).package(&word, &policy, &[]).await {
                    Ok(_) => break,
                    Err(NodeError::Transfer(
                        error
                        @ (TransferError::Nobody { .. } | TransferError::Exhausted { .. } | TransferError::Net(_)),
                    )) if patience == Patience::Endless => {
                        tracing::warn!(package = word, %error, "looking again in a moment");
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Serve what the settings name, from what is here.
    pub(super) async fn serve(&self, settings: &Settings) -> Result<(), NodeError> {
        if settings.roles.execution {
            self.serving.set_packages(settings.packages.clone()).await?;
        }
        self.know_packages(settings).await?;
        self.fill_shelf().await;
        self.announce().await;
        self.changed.notify_one();
        Ok(())
    }

    /// Have the scheduling role know the packages that are here: those of the settings, and every other one in the store
    /// that it may run.
    pub(super) async fn know_packages(&self, settings: &Settings) -> Result<(), NodeError> {
        let Some(coordinator) = &self.coordinator else { return Ok(()) };
        let policy = settings.policy(&self.home)?;
        let (home, packages) = (self.home.clone(), settings.packages.clone());
        let options = RunOptions { limits: Limits::default(), ..settings.run_options() };
        let known = in_thread(move || {
            let named = packages.iter().filter_map(|package| directory(package, &home).ok());
            let named: BTreeSet<PathBuf> = named.collect();
            let mut known = Vec::new();
            for directory in &named {
                known.push(Arc::new(KnownPackage::open(directory, &policy, &home, &options)?));
            }
            for stored in Store::open(&home).list()?.into_iter().filter(|stored| !named.contains(&stored.directory)) {
                match KnownPackage::open(&stored.directory, &policy, &home, &options) {
                    Ok(package) => known.push(Arc::new(package)),
                    Err(error) => tracing::debug!(package = stored.name, %error, "no jobs are taken for a package"),
                }
            }
            Ok::<_, NodeError>(known)
        });
        coordinator.set_packages(known.await??);
        Ok(())
    }

    /// Put on the shelf what this node serves, and if it stores packages for others, everything in its store.
    pub(super) async fn fill_shelf(&self) {
        let settings = self.settings();
        let (home, shelf) = (self.home.clone(), Arc::clone(&self.shelf));
        let filled = tokio::task::spawn_blocking(move || {
            let mut directories: BTreeSet<PathBuf> =
                settings.packages.iter().filter_map(|package| directory(package, &home).ok()).collect();
            if settings.roles.participation || settings.roles.scheduling {
                let stored = Store::open(&home).list().unwrap_or_default();
                directories.extend(stored.into_iter().map(|stored| stored.directory));
            }
            let components = crate::plugins::Plugins::find(settings.plugins.as_deref())
                .map(|plugins| plugins.all())
                .unwrap_or_default();
            shelf.fill(&directories.into_iter().collect::<Vec<_>>(), &components);
        });
        if filled.await.is_err() {
            tracing::error!("the list of what this node gives away could not be made");
        }
    }

    /// Say in the DHT what this node has now, and no longer what it had.
    pub(super) async fn announce(&self) {
        let plugins = self.plugins().iter().map(|plugin| plugin.component).collect::<Vec<_>>();
        let packages = self.shelf.packages().into_iter().map(|(digest, _)| digest);
        let now: BTreeSet<Digest> = packages.chain(plugins).take(MAX_PROVIDED).collect();
        let mut before = self.provided.lock().await;
        for gone in before.difference(&now) {
            self.client.withdraw(*gone).await;
        }
        for new in now.difference(&before) {
            self.client.provide(*new).await;
        }
        *before = now;
    }
}
