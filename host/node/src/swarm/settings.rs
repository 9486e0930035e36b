//! `node.toml`: what a node does, for whom, and how much of it.
//!
//! # Why
//!
//! A node runs for months and is reached by strangers. A setting that is misspelt, or absurd, must be an error with
//! its name when the node starts, not a surprise later.
//!
//! # How
//!
//! 1. The file is read up to a bound and parsed; keys that do not exist are refused.
//! 2. Every value is compared with what makes sense. The first that does not is named with its value and with what
//!    would do.
//! 3. What is left out has the value that `examples/node.toml` shows.
//! 4. A running node takes a new file ([`Settings::needs_restart`] says what of it only a restart can change).

mod limits;
#[cfg(test)]
mod tests;

pub use limits::Limits;

use crate::error::NodeError;
use crate::options::{Arithmetic, Native, RunOptions};
use crate::swarm::serve::{Blocks, PackageSetting};
use ostrakon_net::NetConfig;
use ostrakon_package::files::read_regular;
use ostrakon_package::names::check_name;
use ostrakon_package::{Home, TrustPolicy};
use ostrakon_protocol::plan::MAX_BLOCKS;
use ostrakon_protocol::status::{MAX_ADDRESS, MAX_ADDRESSES, MAX_NAME, MAX_SERVED, Roles};
use ostrakon_protocol::{PublicKey, SigningKey};
use serde::Deserialize;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Largest settings file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most keys in a list, most addresses to begin with.
const MAX_KEYS: usize = 4096;
/// Most shards that are named for one package.
const MAX_SHARDS: usize = 256;

/// What a node does, for whom, and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who runs it, by their own word.
    pub operator: String,
    /// What it does for others.
    pub roles: Roles,
    /// Multiaddresses to listen on.
    pub listen: Vec<String>,
    /// Multiaddresses under which others reach it, if they differ.
    pub external: Vec<String>,
    /// Multiaddresses of nodes to begin with.
    pub bootstrap: Vec<String>,
    /// Find nodes on the same LAN.
    pub mdns: bool,
    /// Relay for nodes behind NAT.
    pub relay: bool,
    /// What it runs blocks of.
    pub packages: Vec<PackageSetting>,
    /// The directory with components that are in no package; without it, where every command looks.
    pub plugins: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
    /// Whose packages run here beside those of the trust file.
    pub trust: TrustSettings,
    /// If not empty, nobody else is let in.
    pub allow: Vec<PublicKey>,
    /// Never let in.
    pub deny: Vec<PublicKey>,
    /// Where `/metrics` and `/healthz` are. `None`: nowhere.
    pub http: Option<SocketAddr>,
    /// What does the integer products.
    pub backend: Native,
    /// Threads of the arithmetic; one for each core without it.
    pub threads: Option<usize>,
}

/// Whose packages run beside those of the trust file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table, as in examples/node.toml")]
pub struct TrustSettings {
    /// Packages that nobody signed.
    pub allow_unsigned: bool,
    /// Packages signed by keys that are not in the trust file.
    pub allow_unknown: bool,
}

/// The file as it stands.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    operator: String,
    roles: Vec<String>,
    #[serde(default = "loopback")]
    listen: Vec<String>,
    #[serde(default)]
    external: Vec<String>,
    #[serde(default)]
    bootstrap: Vec<String>,
    #[serde(default)]
    mdns: bool,
    #[serde(default)]
    relay: bool,
    #[serde(default)]
    packages: Vec<PackageEntry>,
    plugins: Option<PathBuf>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    trust: TrustSettings,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    http: Option<String>,
    backend: Option<String>,
    threads: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as { package = \"minilm\" }")]
struct PackageEntry {
    package: String,
    shards: Option<Vec<String>>,
    blocks: Option<String>,
}

fn loopback() -> Vec<String> {
    vec!["/ip4/127.0.0.1/tcp/0".into()]
}

impl Settings {
    /// The settings of a file. Relative paths in it start where it lies.
    ///
    /// # Errors
    /// It cannot be read, is not settings, or something in it makes no sense.
    pub fn read(path: &Path) -> Result<Self, NodeError> {
        let wrong = |why: String| NodeError::Setting(format!("{}: {why}", path.display()));
        let bytes = read_regular(path, MAX_FILE_BYTES).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let text = String::from_utf8(bytes).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let near = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, near).map_err(wrong)
    }

    /// The settings in a text. Relative paths start at `near`.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, near: &Path) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| fault(&error, text))?;
        let roles = roles(&file.roles)?;
        let settings = Self {
            operator: operator(file.operator)?,
            roles,
            listen: addresses("listen", file.listen, MAX_ADDRESSES)?,
            external: addresses("external", file.external, MAX_ADDRESSES)?,
            bootstrap: addresses("bootstrap", file.bootstrap, MAX_KEYS)?,
            mdns: file.mdns,
            relay: file.relay,
            packages: packages(file.packages, near)?,
            plugins: file.plugins.map(|directory| near.join(directory)),
            limits: file.limits.checked()?,
            trust: file.trust,
            allow: keys("allow", file.allow)?,
            deny: keys("deny", file.deny)?,
            http: file.http.map(|text| http(&text)).transpose()?,
            backend: backend(file.backend.as_deref())?,
            threads: file.threads.map(threads).transpose()?,
        };
        if settings.listen.is_empty() {
            return Err("`listen` is empty: a node that nobody can reach serves nobody; \
                        \"/ip4/127.0.0.1/tcp/0\" is a free port on this machine"
                .into());
        }
        if let Some(both) = settings.allow.iter().find(|key| settings.deny.contains(key)) {
            return Err(format!("`allow` and `deny` both have {both}: keep it in one of them"));
        }
        if settings.roles.execution && settings.packages.is_empty() {
            return Err("`roles` has \"execution\" and `packages` is empty: name a package to run blocks of, \
                        as in packages = [{ package = \"minilm\" }]"
                .into());
        }
        Ok(settings)
    }

    /// How the node takes part in the network.
    pub fn net(&self, key: &SigningKey) -> NetConfig {
        NetConfig {
            seed: *key.seed(),
            listen: self.listen.clone(),
            external: self.external.clone(),
            bootstrap: self.bootstrap.clone(),
            mdns: self.mdns,
            relay: self.relay,
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            limits: self.limits.net(),
        }
    }

    /// How packages are run.
    pub fn run_options(&self) -> RunOptions {
        RunOptions {
            arithmetic: Arithmetic::Native(self.backend),
            threads: self.threads,
            plugins: self.plugins.clone(),
            ..RunOptions::default()
        }
    }

    /// Whose packages run.
    ///
    /// # Errors
    /// The trust file is there and cannot be used.
    pub fn policy(&self, home: &Home) -> Result<TrustPolicy, NodeError> {
        let mut policy = TrustPolicy::load(home)?;
        policy.allow_unsigned = self.trust.allow_unsigned;
        policy.allow_unknown = self.trust.allow_unknown;
        Ok(policy)
    }

    /// What differs and takes effect only when the node starts again.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let differs = [
            ("roles", self.roles != new.roles),
            ("listen", self.listen != new.listen),
            ("external", self.external != new.external),
            ("bootstrap", self.bootstrap != new.bootstrap),
            ("mdns", self.mdns != new.mdns),
            ("relay", self.relay != new.relay),
            ("http", self.http != new.http),
            ("backend", self.backend != new.backend),
            ("threads", self.threads != new.threads),
            ("limits", self.limits.fixed() != new.limits.fixed()),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// The parser's word on one line, with the line it is about.
fn fault(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(": ");
    match error.span().and_then(|span| text.get(..span.start)) {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message,
    }
}

/// A value as it may be shown: short and without what a terminal would obey.
fn shown(value: &str) -> String {
    let short: String = value.chars().take(80).collect();
    format!("{short:?}{}", if short.len() < value.len() { "…" } else { "" })
}

fn operator(name: String) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ._-+:/@".contains(c);
    if name.trim().is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!(
            "`operator` is {}: 1 to {MAX_NAME} letters, digits, spaces and ._-+:/@ that say who runs the node",
            shown(&name)
        ));
    }
    Ok(name)
}

fn roles(names: &[String]) -> Result<Roles, String> {
    let mut roles = Roles::default();
    for name in names {
        let role = match name.as_str() {
            "execution" => &mut roles.execution,
            "verification" => &mut roles.verification,
            "scheduling" => &mut roles.scheduling,
            "participation" => &mut roles.participation,
            _ => {
                return Err(format!(
                    "`roles` has {}: a role is execution, verification, scheduling or participation",
                    shown(name)
                ));
            }
        };
        if std::mem::replace(role, true) {
            return Err(format!("`roles` has {} twice", shown(name)));
        }
    }
    if roles == Roles::default() {
        return Err("`roles` is empty: execution, verification, scheduling, participation, or any mix of them".into());
    }
    Ok(roles)
}

/// Only the outside of addresses: the network understands them, or says which it does not.
fn addresses(key: &str, list: Vec<String>, most: usize) -> Result<Vec<String>, String> {
    if list.len() > most {
        return Err(format!("`{key}` has {} addresses: at most {most} are taken", list.len()));
    }
    for (at, address) in list.iter().enumerate() {
        let plain = address.bytes().all(|b| b.is_ascii_graphic());
        if !address.starts_with('/') || address.len() < 2 || address.len() > MAX_ADDRESS || !plain {
            return Err(format!(
                "`{key}` has {}: an address is for example \"/ip4/127.0.0.1/tcp/4001\" or \"/ip4/0.0.0.0/udp/4001/quic-v1\"",
                shown(address)
            ));
        }
        if list.iter().take(at).any(|other| other == address) {
            return Err(format!("`{key}` has {} twice", shown(address)));
        }
    }
    Ok(list)
}

fn packages(entries: Vec<PackageEntry>, near: &Path) -> Result<Vec<PackageSetting>, String> {
    if entries.len() > MAX_SERVED {
        return Err(format!("`packages` has {} entries: a node serves at most {MAX_SERVED}", entries.len()));
    }
    entries.into_iter().map(|entry| package(entry, near)).collect()
}

fn package(entry: PackageEntry, near: &Path) -> Result<PackageSetting, String> {
    let word = entry.package;
    let is_path = word.contains('/') || word.starts_with('.');
    if word.is_empty() || word.len() > 4096 || (!is_path && check_name("package", &word).is_err()) {
        return Err(format!(
            "`packages` has the package {}: the name of one, a directory (\"./minilm\"), or a digest of 64 hexadecimal digits",
            shown(&word)
        ));
    }
    let blocks = match (entry.shards, entry.blocks) {
        (None, None) => Blocks::All,
        (Some(_), Some(_)) => {
            return Err(format!("`packages` gives shards and blocks for {}: give one of them", shown(&word)));
        }
        (Some(shards), None) => {
            if shards.is_empty() || shards.len() > MAX_SHARDS {
                return Err(format!(
                    "`packages` gives {} shards for {}: 1 to {MAX_SHARDS} names that `ostrakon inspect` shows",
                    shards.len(),
                    shown(&word)
                ));
            }
            if let Some(bad) = shards.iter().find(|name| check_name("shard", name).is_err()) {
                return Err(format!(
                    "`packages` gives the shard {} for {}: that is no shard's name",
                    shown(bad),
                    shown(&word)
                ));
            }
            Blocks::Shards(shards)
        }
        (None, Some(blocks)) => Blocks::Range(range(&blocks).ok_or_else(|| {
            format!(
                "`packages` gives the blocks {} for {}: \"0-3\" are the first four; a package has at most {MAX_BLOCKS}",
                shown(&blocks),
                shown(&word)
            )
        })?),
    };
    let package = if is_path { near.join(word) } else { PathBuf::from(word) };
    Ok(PackageSetting { package, blocks })
}

/// `0-3` or `5`, the last included.
fn range(text: &str) -> Option<Range<u32>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    (first <= last && last < MAX_BLOCKS).then(|| first..last + 1)
}

fn keys(key: &str, list: Vec<String>) -> Result<Vec<PublicKey>, String> {
    if list.len() > MAX_KEYS {
        return Err(format!("`{key}` has {} keys: at most {MAX_KEYS} are taken", list.len()));
    }
    let parse = |text: String| {
        text.parse().map_err(|_| {
            format!(
                "`{key}` has {}: a key is \"ed25519:\" and 64 hexadecimal digits, as `ostrakon status` shows it",
                shown(&text)
            )
        })
    };
    list.into_iter().map(parse).collect()
}

fn http(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`http` is {}: an IP address and a port, as \"127.0.0.1:9464\"; port 0 is a free one", shown(text))
    })
}

fn backend(name: Option<&str>) -> Result<Native, String> {
    let name = name.unwrap_or("auto");
    Native::from_name(name).ok_or_else(|| format!("`backend` is {}: {}", shown(name), Native::NAMES))
}

fn threads(count: i64) -> Result<usize, String> {
    usize::try_from(count)
        .ok()
        .filter(|count| (1..=1024).contains(count))
        .ok_or_else(|| format!("`threads` is {count}: 1 to 1024; without it, one for each core"))
}
