//! The scheduler component at work.

use crate::error::NodeError;
use crate::options::RunOptions;
use ostrakon_package::Home;
use ostrakon_protocol::{BlockNeeds, Digest, PlanRequest, PublicKey, SignedPlan, SignedStatus, SigningKey, Snapshot};
use std::time::Duration;

pub struct Scheduler;
#[derive(Default)]
pub struct History;
pub struct Sample {
    pub status: SignedStatus,
    pub blocks: Vec<BlockNeeds>,
    pub rows: u64,
    pub took: u64,
}
impl Scheduler {
    pub fn load(_component: &[u8], _home: &Home, _options: &RunOptions) -> Result<Self, NodeError> {
        Err(NodeError::Setting(String::new()))
    }
    pub fn digest(&self) -> Digest {
        Digest::of_content(b"")
    }
    pub fn plan(&mut self, _: &SigningKey, _: PlanRequest, _: &Snapshot) -> Result<SignedPlan, NodeError> {
        Err(NodeError::Setting(String::new()))
    }
    pub fn learn(&mut self, _: &mut History, _: Sample) {}
}
impl History {
    pub fn decode(_: &[u8]) -> Result<Self, NodeError> {
        Ok(Self)
    }
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
    pub fn heard(&mut self, _: PublicKey, _: Option<Duration>, _: u32) {}
    pub fn wrong(&mut self, _: PublicKey) {}
    pub fn failed(&mut self, _: PublicKey) {}
    pub fn snapshot(&self, taken_by: PublicKey, taken: u64, statuses: Vec<SignedStatus>) -> Snapshot {
        Snapshot { taken_by, taken, statuses, observations: Vec::new(), learned: Vec::new().into() }
    }
}
