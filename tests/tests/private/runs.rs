//! Private runs in a test's own process, with a ledger of all masks.

use ostrakon_net::Client;
use ostrakon_node::private::{Ledger, MaskRows, PrivateModel};
use ostrakon_node::swarm::client::SwarmClient;
use ostrakon_node::{Home, NodeError, RunOptions};
use ostrakon_protocol::{Digest, PublicKey, SigningKey};
use ostrakon_tests::tiny::{expect, policy};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// A row of a mask: digests of its seeds, the stream, the row.
type Row = (Vec<Digest>, u32, u64);

#[derive(Default)]
struct Book {
    /// Who got a seed.
    holders: BTreeMap<Digest, BTreeSet<PublicKey>>,
    taken: BTreeSet<Row>,
    sent: BTreeSet<Row>,
    wrong: Vec<String>,
}

/// Everything that became of masks.
#[derive(Default)]
pub(crate) struct Masks(Mutex<Book>);

impl Masks {
    /// How many rows were taken and how many were sent; no row twice, and none to whoever has one of its seeds.
    pub(crate) fn used_once(&self) -> (usize, usize) {
        let book = self.0.lock().unwrap();
        assert!(book.wrong.is_empty(), "{} offences, the first: {}", book.wrong.len(), book.wrong[0]);
        assert!(book.sent.is_subset(&book.taken), "a share is hidden by rows that were never taken");
        (book.taken.len(), book.sent.len())
    }
}

fn rows(rows: &MaskRows) -> impl Iterator<Item = Row> + '_ {
    let seeds: Vec<Digest> = rows.seeds.iter().map(|(seed, _)| *seed).collect();
    (rows.first..rows.first + rows.rows).map(move |row| (seeds.clone(), rows.stream, row))
}

impl Ledger for Masks {
    fn given(&self, seed: Digest, server: PublicKey) {
        let mut book = self.0.lock().unwrap();
        let holders = book.holders.entry(seed).or_default();
        if !holders.insert(server) || holders.len() > 1 {
            book.wrong.push(format!("the seed {seed} is given a second time, to {server}"));
        }
    }

    fn taken(&self, taken: &MaskRows) {
        let mut book = self.0.lock().unwrap();
        for row in rows(taken) {
            if !book.taken.insert(row.clone()) {
                book.wrong.push(format!("{row:?} is taken twice"));
            }
        }
    }

    fn sent(&self, sent: &MaskRows, server: PublicKey) {
        let mut book = self.0.lock().unwrap();
        for row in rows(sent) {
            if row.0.is_empty()
                || row.0.iter().any(|seed| book.holders.get(seed).is_none_or(|all| all.contains(&server)))
            {
                book.wrong.push(format!("{server} gets a share that {row:?} hides, and knows it"));
            }
            if !book.sent.insert(row.clone()) {
                book.wrong.push(format!("{row:?} hides two shares"));
            }
        }
    }
}

pub(crate) fn runtime() -> Runtime {
    expect(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build())
}

/// Whoever runs models privately.
pub(crate) struct User {
    pub(crate) runtime: Runtime,
    pub(crate) addresses: Vec<String>,
    pub(crate) home: Home,
    pub(crate) options: RunOptions,
    pub(crate) masks: Arc<Masks>,
}

impl User {
    pub(crate) fn new(addresses: Vec<String>, home: Home, options: RunOptions) -> Self {
        Self { runtime: runtime(), addresses, home, options, masks: Arc::default() }
    }

    fn client(&self) -> Result<SwarmClient, NodeError> {
        self.runtime.block_on(SwarmClient::connect(&self.addresses, expect(SigningKey::generate())))
    }

    /// Until so many nodes serve something, as the first one that answers sees it.
    pub(crate) fn until_served(&self, nodes: usize) {
        let (client, began) = (expect(self.client()), Instant::now());
        loop {
            let fleet = self.runtime.block_on(client.fleet()).unwrap_or_default();
            let serve = fleet.iter().filter(|node| !node.status.status.served.is_empty()).count();
            if serve >= nodes {
                return self.runtime.block_on(client.close());
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{serve} of {nodes} nodes serve something");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A model with this many servers, and the network that it uses.
    pub(crate) fn open(&self, package: &Path, servers: u32) -> Result<(PrivateModel, Client), NodeError> {
        let (client, handle) = (self.client()?, self.runtime.handle().clone());
        let net = client.net().clone();
        let model = PrivateModel::open(package, &policy(), &self.home, &self.options, client, handle, servers)?;
        model.tell(Arc::clone(&self.masks) as _);
        Ok((model, net))
    }
}

/// Numbers in order, shown as a distribution.
pub(crate) fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
    let ms = |share: usize| at(share).map_or(0, Duration::as_millis);
    format!("{} runs, ms: half within {}, 90 % {}, 99 % {}, worst {}", times.len(), ms(50), ms(90), ms(99), ms(100))
}
