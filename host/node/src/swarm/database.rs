//! What a node remembers over a restart: one file, a table for each who keeps something.

use crate::error::NodeError;
use ostrakon_package::Home;
use redb::Database;
use std::fmt::Display;
use std::sync::Arc;

/// The file's name, in the home's data.
pub const FILE: &str = "node.redb";

/// Open the file, or make it.
///
/// # Errors
/// It cannot be made or read, is damaged, or another process has it open.
pub fn open(home: &Home) -> Result<Arc<Database>, NodeError> {
    let path = home.data.join(FILE);
    let failed = |why: &dyn Display| NodeError::Database(format!("{}: {why}", path.display()));
    std::fs::create_dir_all(&home.data).map_err(|error| failed(&error))?;
    Ok(Arc::new(Database::create(&path).map_err(|error| failed(&error))?))
}

/// For `map_err`: any error of the database.
pub(crate) fn failed(error: impl Display) -> NodeError {
    NodeError::Database(error.to_string())
}
