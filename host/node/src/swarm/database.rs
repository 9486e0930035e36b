//! What a node remembers over a restart: one file, a table for each who keeps something.
//!
//! # How
//!
//! 1. Texts and answers of clients are in it, so it is this user's alone: its mode is 0600 before anything is written to
//!    it, and one that others may read is tightened.
//! 2. It is read whole and compared with its checksums when it is opened: a file that something else has damaged is an
//!    error then, not a panic of the database later.

use crate::error::NodeError;
use ostrakon_package::Home;
use redb::{Database, DatabaseError, StorageError};
use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// The file's name, in the home's data.
pub const FILE: &str = "node.redb";

/// Open the file, or make it. This reads all of it.
///
/// # Errors
/// It cannot be made or read, is damaged, or another process has it open.
pub fn open(home: &Home) -> Result<Arc<Database>, NodeError> {
    let path = home.data.join(FILE);
    let failed = |why: &dyn Display| NodeError::Database(format!("{}: {why}", path.display()));
    home.make_data().map_err(|error| failed(&error))?;
    make_private(&path).map_err(|error| failed(&error))?;
    let opened = catch_unwind(AssertUnwindSafe(|| Database::builder().set_check_integrity_on_open(true).create(&path)));
    match opened {
        Ok(Ok(database)) => Ok(Arc::new(database)),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(failed(
            &"another node uses this home; each needs an OSTRAKON_HOME of its own, since its key and what it remembers are there",
        )),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            Err(failed(&error))
        }
        Ok(Err(error)) => Err(failed(&damaged(&error))),
        Err(_) => Err(failed(&damaged(&"the database could not cope with it"))),
    }
}

/// What is wrong, and what to do about it.
fn damaged(why: &dyn Display) -> String {
    format!(
        "it is damaged or none of this program's files ({why}): move it away and start again. The node then knows nothing \
         of jobs that it took and answers that were not fetched, of sessions that it promised, and of how other nodes did"
    )
}

/// The file, empty if it was not there, for this user only.
#[cfg(unix)]
fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?.metadata()?
        }
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_private(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path).map(drop)
}

/// For `map_err`: any error of the database.
pub(crate) fn failed(error: impl Display) -> NodeError {
    NodeError::Database(error.to_string())
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use redb::TableDefinition;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    const TABLE: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("some");

    /// A home with a database of a few hundred kilobytes.
    fn filled() -> (tempfile::TempDir, Home, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(&directory.path().join("home"));
        let database = open(&home).unwrap();
        let write = database.begin_write().unwrap();
        for key in 0..200 {
            write.open_table(TABLE).unwrap().insert(key, [7; 1000].as_slice()).unwrap();
        }
        write.commit().unwrap();
        let file = home.data.join(FILE);
        (directory, home, file)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_file_is_this_users_alone() {
        let (_directory, home, file) = filled();
        assert_eq!((mode(&file), mode(&home.data)), (0o600, 0o700));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let first = open(&home).unwrap();
        assert_eq!(mode(&file), 0o600);
        let error = open(&home).unwrap_err().to_string();
        assert!(error.contains("another node uses this home"), "{error}");
        drop(first);
    }

    /// Wherever a byte is changed, opening ends well or with an error that says what to do.
    #[test]
    fn a_damaged_file_is_an_error() {
        let (_directory, home, file) = filled();
        let whole = fs::read(&file).unwrap();
        let mut errors = 0;
        for at in (0..whole.len()).step_by(whole.len() / 97) {
            let mut bytes = whole.clone();
            for byte in bytes.iter_mut().skip(at).take(64) {
                *byte ^= 0x55;
            }
            fs::write(&file, bytes).unwrap();
            if let Err(error) = open(&home) {
                assert!(error.to_string().contains("move it away"), "{error}");
                errors += 1;
            }
        }
        assert!(errors > 0, "no damage was found");
        for bytes in [&b"no database at all"[..], &whole[..whole.len() / 2], &whole[..100]] {
            fs::write(&file, bytes).unwrap();
            let error = open(&home).unwrap_err().to_string();
            assert!(error.contains("move it away") && error.contains(FILE), "{error}");
        }
        fs::write(&file, &whole).unwrap();
        let read = open(&home).unwrap().begin_write().unwrap();
        assert_eq!(redb::ReadableTableMetadata::len(&read.open_table(TABLE).unwrap()).unwrap(), 200);
    }
}
