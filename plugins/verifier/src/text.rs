//! The words of verdicts, bounded whatever the claim contains.

use crate::bindings::exports::ostrakon::plugin::verification::{Digest, Step};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Reasons that are listed one by one; the rest are counted.
const MAX_REASONS: usize = 64;

/// Characters of a text of the claim or of the host, as far as it is shown inside of a reason.
const MAX_SHOWN: usize = 256;

/// Why nothing can be concluded.
#[derive(Default)]
pub(crate) struct Reasons {
    listed: Vec<String>,
    more: usize,
}

impl Reasons {
    pub(crate) fn add(&mut self, reason: impl FnOnce() -> String) {
        if self.listed.len() < MAX_REASONS {
            self.listed.push(reason());
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub(crate) fn into_list(mut self) -> Vec<String> {
        if self.more > 0 {
            self.listed.push(format!("and {} more", self.more));
        }
        self.listed
    }
}

/// The text, cut to a length that can be shown.
pub(crate) fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN).and_then(|(end, _)| text.get(..end)) {
        Some(cut) => Cow::Owned([cut, " ..."].concat()),
        None => Cow::Borrowed(text),
    }
}

/// Where in the run a step is.
pub(crate) fn place(step: &Step) -> String {
    format!("block `{}` on batch {}", short(&step.block), step.batch)
}

/// The digest's bytes in hexadecimal, as receipts show them.
pub(crate) fn digest(digest: Digest) -> String {
    let Digest { a, b, c, d } = digest;
    let mut hex = String::with_capacity(64);
    for byte in [a, b, c, d].into_iter().flat_map(u64::to_le_bytes) {
        // Writing into a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
