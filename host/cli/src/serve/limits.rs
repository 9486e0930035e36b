//! What a client may ask for, and how long it may take over it.

use std::time::Duration;

/// Connections at once; further ones wait outside.
pub(super) const CONNECTIONS: usize = 1024;
/// Bytes of a request's head.
pub(super) const HEAD: usize = 32 << 10;
/// For a request's head, and between two requests.
pub(super) const HEAD_TIME: Duration = Duration::from_secs(30);
/// For a request's body, from its first byte to its last.
pub(super) const BODY_TIME: Duration = Duration::from_secs(30);
/// Bytes of all bodies that are being read or understood.
pub(super) const BODIES: usize = 64 << 20;
/// Nothing could be written for so long: the reader is gone.
pub(super) const WRITE_TIME: Duration = Duration::from_secs(30);
/// What runs when the server is told to end may take so long.
pub(super) const END_TIME: Duration = Duration::from_secs(30);
/// A stream in which nothing happens says so.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// Answers for one prompt.
pub(super) const CHOICES: u32 = 16;
/// Prompts of one request.
pub(super) const PROMPTS: usize = 128;
/// Messages of a conversation.
pub(super) const MESSAGES: usize = 4096;
/// Strings that end an answer.
pub(super) const STOPS: usize = 4;
/// Bytes of each of them.
pub(super) const STOP_BYTES: usize = 256;
/// Likelihoods of a prompt's tokens in one answer.
pub(super) const LIKELIHOODS: usize = 1 << 19;
/// Texts of one request for embeddings.
pub(super) const TEXTS: usize = 2048;
/// Texts that are computed together.
pub(super) const TEXTS_AT_ONCE: usize = 64;
/// Requests for embeddings that wait.
pub(super) const WAITING: usize = 256;
/// Bytes of answers that are kept for their receipts, and of these.
pub(super) const RECEIPT_BYTES: usize = 64 << 20;
/// Audits that run or wait.
pub(super) const AUDITS: usize = 8;
/// Most tokens of an answer and its prompt whose transcript is made here: about a megabyte each, of a small model.
pub(super) const FREIVALDS_TOKENS: usize = 512;
/// Bytes of a file with keys, and how many keys it may have.
pub(super) const KEY_FILE: (u64, usize) = (1 << 20, 4096);
