//! Reservations over a restart.
//!
//! A reservation is written before it is promised, so that a node that was restarted keeps what it promised. Once its
//! stream is open it is struck out: a session lives in memory and is over when the node is.

use crate::error::NodeError;
use crate::swarm::database::failed;
use minicbor::{Decode, Encode};
use ostrakon_protocol::wire::Prepare;
use ostrakon_protocol::{Digest, Document, PublicKey, decode, encode};
use redb::{Database, Durability, ReadableTable as _, TableDefinition};
use std::sync::Arc;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("reservations");

/// A reservation as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Kept {
    #[n(0)]
    pub(super) session: Digest,
    #[n(1)]
    pub(super) owner: PublicKey,
    #[n(2)]
    pub(super) ask: Prepare,
    #[n(3)]
    pub(super) committed: bool,
    /// Milliseconds since 1970.
    #[n(4)]
    pub(super) until: u64,
}

impl Document for Kept {
    const KIND: &'static str = "ostrakon reservation";
    const VERSION: u32 = 1;
    const LIMIT: usize = 4096;
}

/// The table of reservations. Its methods wait for the disk: not for threads that handle messages.
#[derive(Clone)]
pub(super) struct Notebook(Arc<Database>);

impl Notebook {
    pub(super) const fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// Write a reservation down, in place of what was there of it.
    pub(super) fn write(&self, kept: &Kept) -> Result<(), NodeError> {
        let transaction = self.0.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(failed)?;
            let (key, value) = (kept.session.as_bytes().as_slice(), encode(kept));
            table.insert(key, value.as_slice()).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Strike reservations out. Not awaited by anybody: one that comes back after a restart runs out by itself.
    pub(super) fn strike(&self, sessions: &[Digest]) -> Result<(), NodeError> {
        let mut transaction = self.0.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::None).map_err(failed)?;
        {
            let mut table = transaction.open_table(TABLE).map_err(failed)?;
            for session in sessions {
                table.remove(session.as_bytes().as_slice()).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Take everything that was written down, and forget it.
    pub(super) fn take(&self) -> Result<Vec<Kept>, NodeError> {
        let transaction = self.0.begin_write().map_err(failed)?;
        let mut all = Vec::new();
        {
            let mut table = transaction.open_table(TABLE).map_err(failed)?;
            for entry in table.iter().map_err(failed)? {
                let (_, value) = entry.map_err(failed)?;
                // Of another version of this program: nobody waits for it any more.
                all.extend(decode::<Kept>(value.value()).ok());
            }
            table.retain(|_, _| false).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_package::Home;
    use ostrakon_protocol::SigningKey;

    pub(crate) fn kept(at: u8) -> Kept {
        let digest = Digest::from_bytes([at; 32]);
        let ask =
            Prepare { job: digest, plan: digest, request: digest, package: digest, from: 1, to: 2, rows: 3, hold: 4 };
        Kept { session: digest, owner: SigningKey::from_seed(&[at; 32]).public(), ask, committed: false, until: 5 }
    }

    #[test]
    fn what_is_written_is_there_after_a_restart_once() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(directory.path());
        let open = || Notebook::new(crate::swarm::database::open(&home).unwrap());
        let notebook = open();
        for at in 1..4 {
            notebook.write(&kept(at)).unwrap();
        }
        notebook.strike(&[kept(2).session]).unwrap();
        notebook.write(&Kept { committed: true, ..kept(3) }).unwrap();
        drop(notebook);
        assert_eq!(open().take().unwrap(), [kept(1), Kept { committed: true, ..kept(3) }]);
        assert_eq!(open().take().unwrap(), []);
    }
}
