//! What all answers to a request are made with, whatever their shape.

use super::Server;
use super::admission::Admission;
use super::answer::Head;
use super::asking::{Asked, Choice};
use super::receipts::More;
use ostrakon_node::generate::Generator;
use std::sync::Arc;

/// A request that is being answered.
pub(super) struct Answering {
    pub(super) server: Arc<Server>,
    pub(super) generator: Arc<Generator>,
    pub(super) head: Head,
    /// Strings that end an answer.
    pub(super) stop: Vec<String>,
    /// Whether likelihoods are wanted.
    pub(super) scored: bool,
    /// Whose receipts the answers' are.
    owner: Option<u64>,
}

impl Answering {
    pub(super) fn new(
        server: Arc<Server>,
        generator: Arc<Generator>,
        admission: &Admission,
        head: Head,
        stop: Vec<String>,
        scored: bool,
    ) -> Self {
        let owner = server.owner(admission);
        Self { server, generator, head, stop, scored, owner }
    }

    /// One of the answers. `marks`: whether the token that ends it is among those that are told of.
    pub(super) fn choice(&self, asked: Asked, marks: bool) -> Choice<'_> {
        Choice::new(&self.generator, &self.server.counters, asked, self.stop.clone(), marks)
    }

    /// What is said of an answer that has ended: where its receipt is.
    pub(super) fn more(&self, choice: &Choice<'_>) -> Option<More> {
        let receipts = self.server.receipts.as_ref()?;
        receipts.keep(self.owner, self.head.model(), choice.generated()?)
    }
}
