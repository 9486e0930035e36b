//! A node: everything that a settings file asks for, in one process.
//!
//! # How
//!
//! 1. The key, the database, the network start; what the node has is put on the [`Shelf`].
//! 2. [`events`] hands what peers want to those who do it, so many at once as the settings say and not more: whoever
//!    comes beyond that hears that the node is busy.
//! 3. Packages that are not here are fetched from the swarm ([`packages`]), then served.
//! 4. [`status`] tells everybody what the node is, now and again and whenever it changes.
//! 5. [`http`] shows the same to those who run it.
//! 6. A new settings file is taken as a whole or not at all ([`Node::reload`]). A node that is to stop takes nothing new,
//!    says so, waits for what runs, up to a bound, and leaves ([`Node::drain`]).

mod events;
mod http;
mod metrics;
mod packages;
mod status;

use super::coordinator::{Coordinator, CoordinatorLimits, CoordinatorSettings};
use super::database;
use super::serve::{ServeSettings, Serving};
use super::settings::Settings;
use super::transfer::{Fetcher, Shelf};
use crate::error::NodeError;
use crate::plugins::{Plugins, SCHEDULER, VERIFIER};
use futures::future::BoxFuture;
use metrics::Counters;
use ostrakon_engine::Limits;
use ostrakon_net::{Client, NetError};
use ostrakon_package::{Home, load_or_create_key};
use ostrakon_protocol::{Digest, PublicKey, SigningKey, UsedPlugin};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long peers have to hear that the node leaves.
const FAREWELL: Duration = Duration::from_millis(300);

/// A running node.
#[derive(Debug)]
pub struct Node {
    core: Arc<Core>,
    http: Option<SocketAddr>,
    tasks: JoinSet<()>,
    /// Reloads come one after the other.
    reloading: tokio::sync::Mutex<()>,
}

/// What all parts of a node share.
struct Core {
    key: SigningKey,
    home: Home,
    client: Client,
    serving: Arc<Serving>,
    coordinator: Option<Coordinator>,
    shelf: Arc<Shelf>,
    settings: Mutex<Arc<Settings>>,
    plugins: Mutex<Vec<UsedPlugin>>,
    /// What the DHT says that this node has.
    provided: tokio::sync::Mutex<BTreeSet<Digest>>,
    counters: Counters,
    /// The status changed.
    changed: Notify,
    stop: CancellationToken,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}", self.key.public())
    }
}

impl Node {
    /// Start. When this returns, the node is on the network and serves every package that it has; when
    /// [`Node::complete`] returns, every package that the settings name.
    ///
    /// # Errors
    /// An address, the database, a plugin or a package cannot be used.
    pub fn start(settings: Settings, home: Home) -> BoxFuture<'static, Result<Self, NodeError>> {
        // Boxed, here and in other entrances: the compiler would build all that a node does again for every program.
        Box::pin(Self::begin(settings, home))
    }

    async fn begin(settings: Settings, home: Home) -> Result<Self, NodeError> {
        let key = load_or_create_key(&home)?;
        // Before the network, so that two processes with one home do not both appear.
        let database = database::open(&home)?;
        let listener = match settings.http {
            Some(address) => Some(http::listen(address).await?),
            None => None,
        };
        let http = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let policy = settings.policy(&home)?;
        let run = crate::RunOptions { limits: Limits::default(), ..settings.run_options() };
        let plugins = used_plugins(&settings)?;
        let serve = ServeSettings {
            roles: settings.roles,
            run: run.clone(),
            policy: policy.clone(),
            slots: settings.limits.sessions(),
            slots_per_peer: settings.limits.sessions(),
            memory: settings.limits.memory(),
            audits: settings.limits.audits(),
            ..ServeSettings::default()
        };
        let (here, missing) = packages::split(&settings.packages, &home);
        let serving = if settings.roles.execution { here } else { Vec::new() };
        let serving = Serving::start(serve, serving, home.clone(), &key, Arc::clone(&database)).await?;
        let (client, events) = Client::start(settings.net(&key)).await.map_err(unusable)?;
        let coordinator = match settings.roles.scheduling {
            true => {
                let limits = CoordinatorLimits { queued: settings.limits.jobs(), ..CoordinatorLimits::default() };
                let settings = CoordinatorSettings {
                    net: client.clone(),
                    database,
                    home: home.clone(),
                    key: SigningKey::from_seed(key.seed()),
                    scheduler: plugin(&settings, SCHEDULER)?,
                    options: run.clone(),
                    packages: Vec::new(),
                    limits,
                };
                Some(Coordinator::start(settings).await?)
            }
            false => None,
        };
        let core = Arc::new(Core {
            shelf: Arc::new(Shelf::new(home.cache.join("trees"))),
            settings: Mutex::new(Arc::new(settings)),
            plugins: Mutex::new(plugins),
            provided: tokio::sync::Mutex::default(),
            counters: Counters::default(),
            changed: Notify::new(),
            stop: CancellationToken::new(),
            key,
            home,
            client,
            serving,
            coordinator,
        });
        core.fill_shelf().await;
        core.know_packages(&core.settings()).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(events::run(Arc::clone(&core), events));
        tasks.spawn(status::run(Arc::clone(&core)));
        if let Some(listener) = listener {
            tasks.spawn(http::run(Arc::clone(&core), listener));
        }
        if missing.is_empty() {
            core.announce().await;
        }
        Ok(Self { core, http, tasks, reloading: tokio::sync::Mutex::default() })
    }

    /// Wait until every package that the settings name is served; those that are not here are fetched, as often as it
    /// takes.
    ///
    /// # Errors
    /// A package is not let in, or cannot be run.
    pub async fn complete(&self) -> Result<(), NodeError> {
        let settings = self.core.settings();
        self.core.fetch_missing(&settings, packages::Patience::Endless).await?;
        self.core.serve(&settings).await
    }

    /// This node.
    pub fn key(&self) -> PublicKey {
        self.core.key.public()
    }

    /// The addresses it listens on, to be dialled as they stand.
    pub fn addresses(&self) -> Vec<String> {
        self.core.client.addresses()
    }

    /// Where `/metrics` and `/healthz` are.
    pub const fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// How long running sessions get when the node is told to stop.
    pub fn drain_time(&self) -> Duration {
        self.core.settings().limits.drain()
    }

    /// Take other settings. Gives the names of those that only a restart can change; they stay as they were.
    ///
    /// # Errors
    /// A package or a plugin cannot be used: then everything stays as it was.
    pub async fn reload(&self, new: Settings) -> Result<Vec<&'static str>, NodeError> {
        let _turn = self.reloading.lock().await;
        let core = &self.core;
        let old = core.settings();
        let restart = old.needs_restart(&new);
        let new = Settings {
            packages: new.packages,
            plugins: new.plugins,
            limits: new.limits,
            trust: new.trust,
            allow: new.allow,
            deny: new.deny,
            operator: new.operator,
            ..(*old).clone()
        };
        let policy = new.policy(&core.home)?;
        let plugins = used_plugins(&new)?;
        core.fetch_missing(&new, packages::Patience::Once).await?;
        core.serving.set_policy(policy);
        if let Err(error) = core.take(&new).await {
            core.serving.set_policy(old.policy(&core.home)?);
            if let Err(again) = core.take(&old).await {
                tracing::error!(error = %again, "the settings that held before cannot be taken again");
            }
            return Err(error);
        }
        core.client.admit(new.allow.clone(), new.deny.clone()).await;
        *core.plugins.lock().unwrap_or_else(PoisonError::into_inner) = plugins;
        *core.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        core.fill_shelf().await;
        core.announce().await;
        core.changed.notify_one();
        Ok(restart)
    }

    /// Take nothing new, say so, and wait for what runs until that is done or `within` is over. Gives whether it was done.
    pub async fn drain(&self, within: Duration) -> bool {
        let core = &self.core;
        let jobs = async {
            if let Some(coordinator) = &core.coordinator {
                coordinator.drain().await;
            }
        };
        let told = async {
            // After the others have begun: nobody hears of a node that drains and still takes something.
            tokio::task::yield_now().await;
            core.changed.notify_one();
        };
        let all = async { tokio::join!(core.serving.drain(), jobs, told) };
        let done = tokio::time::timeout(within, all).await.is_ok();
        tokio::time::sleep(FAREWELL).await;
        done
    }

    /// End now.
    pub async fn stop(mut self) {
        self.core.stop.cancel();
        if let Some(coordinator) = &self.core.coordinator {
            coordinator.stop().await;
        }
        self.core.client.stop().await;
        self.tasks.shutdown().await;
    }
}

impl Core {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn plugins(&self) -> MutexGuard<'_, Vec<UsedPlugin>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serve the packages and use the plugins of these settings.
    async fn take(&self, settings: &Settings) -> Result<(), NodeError> {
        self.serve(settings).await?;
        if let Some(coordinator) = &self.coordinator {
            coordinator.set_scheduler(plugin(settings, SCHEDULER)?).await?;
        }
        Ok(())
    }

    fn fetcher(&self, settings: &Settings) -> Fetcher {
        let limit = settings.limits.package_bytes();
        Fetcher::new(self.client.clone(), self.home.clone(), Arc::clone(&self.shelf), limit)
    }
}

/// The components that the roles need, by digest.
fn used_plugins(settings: &Settings) -> Result<Vec<UsedPlugin>, NodeError> {
    let roles = settings.roles;
    let needed = [(roles.scheduling, SCHEDULER), (roles.verification, VERIFIER)];
    let names = needed.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name);
    let digest =
        |name: &str| Ok(UsedPlugin { name: name.to_owned(), component: Digest::of_content(&plugin(settings, name)?) });
    names.map(digest).collect()
}

fn plugin(settings: &Settings, name: &str) -> Result<Vec<u8>, NodeError> {
    Ok(Plugins::find(settings.plugins.as_deref())?.read(name)?)
}

/// An address that makes no sense is the settings' fault.
fn unusable(error: NetError) -> NodeError {
    match error {
        NetError::Address { .. } => NodeError::Setting(format!("`listen`, `external` or `bootstrap`: {error}")),
        other => other.into(),
    }
}
