//! News that wait for room in the event queue.
//!
//! Whoever reads no events must not stop the network, and must not fill the memory. So of each kind of news about a node only the
//! newest waits, and beyond [`MOST`] the oldest are forgotten.

use crate::event::Event;
use ostrakon_protocol::PublicKey;
use std::collections::{BTreeMap, HashMap};

/// Most news that wait.
const MOST: usize = 1 << 16;

/// Kinds of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum News {
    Status,
    TwoTongues,
    Connected,
    Disconnected,
}

impl News {
    pub(super) const fn of(self, node: PublicKey) -> Event {
        match self {
            Self::Status => Event::Status(node),
            Self::TwoTongues => Event::TwoTongues(node),
            Self::Connected => Event::Connected(node),
            Self::Disconnected => Event::Disconnected(node),
        }
    }
}

/// News in order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    order: BTreeMap<u64, (News, PublicKey)>,
    numbers: HashMap<(News, PublicKey), u64>,
    next: u64,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.order.clear();
        self.numbers.clear();
    }

    pub(super) fn push(&mut self, news: News, node: PublicKey) {
        if let Some(before) = self.numbers.insert((news, node), self.next) {
            self.order.remove(&before);
        }
        self.order.insert(self.next, (news, node));
        self.next += 1;
        if self.order.len() > MOST {
            self.pop();
        }
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let (_, (news, node)) = self.order.pop_first()?;
        self.numbers.remove(&(news, node));
        Some(news.of(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_kind_waits() {
        let (mut backlog, a, b) = (Backlog::default(), PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        for _ in 0..100_000 {
            for news in [News::Connected, News::Disconnected] {
                backlog.push(news, a);
            }
        }
        backlog.push(News::Connected, b);
        backlog.push(News::Connected, a);
        let said = std::iter::from_fn(|| backlog.pop()).map(|e| format!("{e:?}")).collect::<Vec<_>>();
        assert_eq!(said, [format!("Disconnected({a})"), format!("Connected({b})"), format!("Connected({a})")]);
        assert!(backlog.is_empty() && backlog.numbers.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut backlog = Backlog::default();
        for n in 0..100_000_u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_le_bytes());
            backlog.push(News::Status, PublicKey::from_bytes(bytes));
        }
        assert_eq!((backlog.order.len(), backlog.numbers.len()), (MOST, MOST));
    }
}
