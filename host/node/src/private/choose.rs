//! Which servers: the scheduler component chooses, on this machine, by lots that nobody else knows.
//!
//! A leg is planned like one that a quorum votes on: as many nodes as there are servers, each of another operator, and
//! more of still other operators to take their places.

use crate::error::NodeError;
use crate::options::RunOptions;
use crate::swarm::client::SwarmClient;
use crate::swarm::clock::now;
use crate::swarm::schedule::{History, Scheduler};
use ostrakon_net::Client;
use ostrakon_package::Home;
use ostrakon_protocol::{BlockNeeds, Digest, PlanRequest, PlannedLeg, PublicKey, SignedStatus, SigningKey, Verify};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Rows of the batch for which speed is predicted.
const ROWS: u64 = 128;

/// Plans, and addresses of those who are in them.
pub(super) struct Choosing {
    client: SwarmClient,
    scheduler: Scheduler,
    count: u32,
    key: SigningKey,
    /// What the swarm had last: whoever told it may be gone before the servers are.
    known: Mutex<Vec<SignedStatus>>,
}

/// Who does what.
pub(super) struct Chosen {
    pub(super) legs: Vec<PlannedLeg>,
    /// Where nodes said that they can be reached.
    pub(super) addresses: BTreeMap<PublicKey, Vec<String>>,
}

fn randomness() -> Result<[u8; 32], NodeError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::Setting(format!("there is no randomness: {error}")))?;
    Ok(bytes)
}

impl Choosing {
    pub(super) fn new(
        client: SwarmClient,
        scheduler: &[u8],
        home: &Home,
        options: &RunOptions,
        count: u32,
    ) -> Result<Self, NodeError> {
        // Plans are made for nobody else to see: the key is used for their lots only.
        let key = SigningKey::from_seed(&randomness()?);
        Ok(Self { client, scheduler: Scheduler::load(scheduler, home, options)?, count, key, known: Mutex::default() })
    }

    /// How many servers.
    pub(super) const fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn net(&self) -> &Client {
        self.client.net()
    }

    async fn statuses(&self) -> Result<Vec<SignedStatus>, NodeError> {
        let asked = self.client.statuses().await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match asked {
            Ok(statuses) => *known = statuses,
            Err(error) if known.is_empty() => return Err(error),
            Err(error) => tracing::warn!(%error, "nobody says who is there: those are taken who were there before"),
        }
        Ok(known.clone())
    }

    /// Choose among the nodes that the swarm has now, or had when somebody said so.
    pub(super) async fn choose(
        &self,
        package: Digest,
        needs: &[BlockNeeds],
        excluded: Vec<PublicKey>,
    ) -> Result<Chosen, NodeError> {
        let statuses = self.statuses().await?;
        let addresses = statuses.iter().map(|signed| (signed.status.node, signed.status.addresses.clone())).collect();
        let snapshot = History::default().snapshot(self.key.public(), now(), statuses);
        let request = PlanRequest {
            job: Digest::from_bytes(randomness()?),
            attempt: 0,
            package,
            blocks: needs.to_vec(),
            rows: ROWS,
            batches: 1,
            verify: Verify::Quorum { needed: self.count, nodes: self.count },
            excluded,
        };
        let plan = self.scheduler.plan(&self.key, request, &snapshot)?.record.plan;
        Ok(Chosen { legs: plan.legs, addresses })
    }
}
