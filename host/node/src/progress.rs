//! What long work says while it goes on, so that whoever watches can draw it.

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A new step began; whatever ran before is done.
    Step(String),
    /// So much of the step is done.
    Done {
        /// Units so far.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Worth reading later, not an error.
    Note(String),
}

/// Receives events, from any thread.
pub type Watcher<'a> = &'a (dyn Fn(Event) + Sync);

/// Nobody is watching.
pub fn unwatched(_: Event) {}
