//! Requests that wait: bounded, and clients take turns.

use super::request::{GenerateRequest, Piece};
use std::collections::VecDeque;
use std::time::Instant;
use tokio::sync::mpsc;

/// A request, and where its pieces go.
pub(super) struct Waiting {
    pub(super) request: GenerateRequest,
    pub(super) pieces: mpsc::Sender<Piece>,
    pub(super) since: Instant,
}

/// Requests in the order in which they begin: the first of each client, then the second of each, and so on.
#[derive(Default)]
pub(super) struct Queue {
    clients: VecDeque<(u64, VecDeque<Waiting>)>,
    count: usize,
}

impl Queue {
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    pub(super) fn put(&mut self, waiting: Waiting) {
        self.count += 1;
        let client = waiting.request.client;
        match self.clients.iter_mut().find(|(other, _)| *other == client) {
            Some((_, requests)) => requests.push_back(waiting),
            None => self.clients.push_back((client, VecDeque::from([waiting]))),
        }
    }

    /// The request that begins next, for looking at.
    pub(super) fn next(&self) -> Option<&Waiting> {
        self.clients.front().and_then(|(_, requests)| requests.front())
    }

    pub(super) fn take(&mut self) -> Option<Waiting> {
        let (client, mut requests) = self.clients.pop_front()?;
        let first = requests.pop_front();
        if !requests.is_empty() {
            self.clients.push_back((client, requests));
        }
        self.count -= usize::from(first.is_some());
        first
    }

    /// Forget requests whose clients have left.
    pub(super) fn forget_left(&mut self) {
        for (_, requests) in &mut self.clients {
            requests.retain(|waiting| !waiting.pieces.is_closed());
        }
        self.clients.retain(|(_, requests)| !requests.is_empty());
        self.count = self.clients.iter().map(|(_, requests)| requests.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::sample::Sampling;

    fn waiting(client: u64, token: u32) -> (Waiting, mpsc::Receiver<Piece>) {
        let (pieces, receiver) = mpsc::channel(1);
        let request = GenerateRequest {
            client,
            prompt: vec![token],
            max_tokens: 1,
            sampling: Sampling::default(),
            stop: Vec::new(),
            likelihoods: None,
            prompt_likelihoods: false,
            reuse: true,
        };
        (Waiting { request, pieces, since: Instant::now() }, receiver)
    }

    #[test]
    fn clients_take_turns() {
        let mut queue = Queue::default();
        let all: Vec<_> = [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30)].map(|(c, t)| waiting(c, t)).into();
        let mut receivers = Vec::new();
        for (one, receiver) in all {
            queue.put(one);
            receivers.push(receiver);
        }
        assert_eq!(queue.len(), 5);
        let order: Vec<u32> = std::iter::from_fn(|| queue.take()).map(|w| w.request.prompt[0]).collect();
        assert_eq!(order, [10, 20, 30, 11, 12]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let mut queue = Queue::default();
        let (gone, receiver) = waiting(1, 1);
        let (here, _receiver) = waiting(1, 2);
        queue.put(gone);
        queue.put(here);
        drop(receiver);
        queue.forget_left();
        assert_eq!((queue.len(), queue.next().map(|w| w.request.prompt[0])), (1, Some(2)));
    }
}
