//! Which nodes, for whoever chooses them by itself: the scheduler component chooses, on this machine, by lots that nobody else knows.
//!
//! A private run has its legs planned like those that a quorum votes on: as many nodes as there are servers, each of another
//! operator, and more of still other operators to take their places. Whoever has a text written takes one node for each leg.

use super::SwarmClient;
use crate::error::NodeError;
use crate::options::RunOptions;
use crate::swarm::clock::now;
use crate::swarm::schedule::{History, Scheduler};
use ostrakon_net::Client;
use ostrakon_package::Home;
use ostrakon_protocol::{BlockNeeds, Digest, PlanRequest, PlannedLeg, PublicKey, SignedStatus, SigningKey, Verify};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Plans, and addresses of those who are in them.
pub(crate) struct Choosing {
    client: SwarmClient,
    scheduler: Scheduler,
    verify: Verify,
    /// Rows of the batch for which speed is predicted.
    rows: u64,
    key: SigningKey,
    /// What the swarm had last: whoever told it may be gone before the servers are.
    known: Mutex<Vec<SignedStatus>>,
}

/// Who does what.
pub(crate) struct Chosen {
    pub(crate) legs: Vec<PlannedLeg>,
    /// Where nodes said that they can be reached.
    pub(crate) addresses: BTreeMap<PublicKey, Vec<String>>,
}

fn randomness() -> Result<[u8; 32], NodeError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| NodeError::Setting(format!("there is no randomness: {error}")))?;
    Ok(bytes)
}

impl Choosing {
    pub(crate) fn new(
        client: SwarmClient,
        scheduler: &[u8],
        home: &Home,
        options: &RunOptions,
        verify: Verify,
        rows: u64,
    ) -> Result<Self, NodeError> {
        // Plans are made for nobody else to see: the key is used for their lots only.
        let key = SigningKey::from_seed(&randomness()?);
        let scheduler = Scheduler::load(scheduler, home, options)?;
        Ok(Self { client, scheduler, verify, rows, key, known: Mutex::default() })
    }

    pub(crate) const fn net(&self) -> &Client {
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
    pub(crate) async fn choose(
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
            rows: self.rows,
            batches: 1,
            verify: self.verify,
            excluded,
        };
        let plan = self.scheduler.plan(&self.key, request, &snapshot)?.record.plan;
        Ok(Chosen { legs: plan.legs, addresses })
    }
}
