//! What answers follow from, kept for those who ask for a receipt.
//!
//! # How
//!
//! 1. An answer is kept under a name that nobody can guess.
//! 2. What was used last is in front; what is behind goes when there are too many answers, or too many bytes.
//! 3. Whoever is not the one who asked for the answer learns nothing, not even that it is there.

use crate::serve::limits::RECEIPT_BYTES;
use bytes::Bytes;
use ostrakon_protocol::Generated;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;

/// An answer, as receipts have it.
pub(super) struct Answer {
    /// Who asked; none: whoever knows the name.
    owner: Option<u64>,
    /// The model's name.
    pub(super) model: String,
    pub(super) generated: Generated,
    /// Its receipt, once it has been made.
    pub(super) receipt: OnceCell<Bytes>,
}

impl Answer {
    pub(super) fn new(owner: Option<u64>, model: &str, generated: Generated) -> Self {
        Self { owner, model: model.to_owned(), generated, receipt: OnceCell::new() }
    }

    /// About how many bytes it takes without its receipt.
    fn bytes(&self) -> usize {
        let Generated { prompt, answer, choice, stop, .. } = &self.generated;
        let numbers = prompt.len() + answer.len() + stop.len() + 2 * choice.bias.len();
        size_of::<Entry>() + size_of::<Self>() + self.model.len() + numbers * size_of::<u32>()
    }
}

struct Entry {
    id: String,
    answer: Arc<Answer>,
    bytes: usize,
}

/// The last answers.
pub(super) struct Kept {
    /// The one that was used last in front.
    entries: Mutex<VecDeque<Entry>>,
    most: usize,
}

impl Kept {
    /// So many at most.
    pub(super) const fn new(most: usize) -> Self {
        Self { entries: Mutex::new(VecDeque::new()), most }
    }

    /// How many are kept at most.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Keep an answer. Its name; none if it is larger than all that is kept, or there is no randomness for a name.
    pub(super) fn put(&self, answer: Answer) -> Option<String> {
        let (id, bytes) = (name()?, answer.bytes());
        if bytes > RECEIPT_BYTES {
            return None;
        }
        let mut entries = self.entries();
        entries.push_front(Entry { id: id.clone(), answer: Arc::new(answer), bytes });
        self.cut(&mut entries);
        Some(id)
    }

    /// The answer of this name, if it is this client's.
    pub(super) fn find(&self, id: &str, owner: Option<u64>) -> Option<Arc<Answer>> {
        let mut entries = self.entries();
        let at = entries.iter().position(|entry| entry.id == id && entry.answer.owner == owner)?;
        let entry = entries.remove(at)?;
        let answer = Arc::clone(&entry.answer);
        entries.push_front(entry);
        Some(answer)
    }

    /// The receipt of an answer was made, and is kept beside it.
    pub(super) fn grew(&self, id: &str, bytes: usize) {
        let mut entries = self.entries();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.id == id) {
            entry.bytes += bytes;
        }
        self.cut(&mut entries);
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, entries: &mut VecDeque<Entry>) {
        let mut bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        while entries.len() > self.most || bytes > RECEIPT_BYTES {
            let Some(entry) = entries.pop_back() else { break };
            bytes -= entry.bytes;
        }
    }
}

/// 128 bits that nobody can guess.
fn name() -> Option<String> {
    let mut random = [0; 16];
    if let Err(error) = getrandom::fill(&mut random) {
        tracing::error!(%error, "there is no randomness for the name of a receipt");
        return None;
    }
    let mut name = "receipt-".to_owned();
    for byte in random {
        let _ = write!(name, "{byte:02x}");
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_node::generate::Sampling;

    fn answer(owner: Option<u64>, tokens: usize) -> Answer {
        let choice = (&Sampling::default()).into();
        let generated = Generated { prompt: vec![1; tokens], answer: vec![2], choice, stop: vec![], max_tokens: 1 };
        Answer::new(owner, "m", generated)
    }

    #[test]
    fn the_last_ones_are_kept() {
        let kept = Kept::new(2);
        let [a, b] = [1, 2].map(|tokens| kept.put(answer(None, tokens)).unwrap());
        // It is used, so the other one goes.
        assert_eq!(kept.find(&a, None).unwrap().generated.prompt.len(), 1);
        let c = kept.put(answer(None, 3)).unwrap();
        assert!(kept.find(&b, None).is_none());
        assert!(kept.find(&a, None).is_some() && kept.find(&c, None).is_some());
        assert!(a != c && a.len() == "receipt-".len() + 32);
    }

    #[test]
    fn bytes_are_bounded() {
        let kept = Kept::new(1000);
        assert!(kept.put(answer(None, RECEIPT_BYTES / 4)).is_none());
        let [a, b, c] = [(); 3].map(|()| kept.put(answer(None, RECEIPT_BYTES / 4 / 4)).unwrap());
        assert!(kept.find(&a, None).is_some());
        // The receipt of one takes the room of another.
        kept.grew(&c, RECEIPT_BYTES / 3);
        assert!(kept.find(&b, None).is_none() && kept.find(&a, None).is_some() && kept.find(&c, None).is_some());
        kept.grew(&c, RECEIPT_BYTES);
        assert!(kept.entries().is_empty());
    }

    #[test]
    fn others_do_not_see_it() {
        let kept = Kept::new(2);
        let id = kept.put(answer(Some(7), 1)).unwrap();
        assert!(kept.find(&id, Some(8)).is_none() && kept.find(&id, None).is_none());
        assert!(kept.find(&id, Some(7)).is_some() && kept.find("receipt-", Some(7)).is_none());
    }
}
