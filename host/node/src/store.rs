//! Which package a word on the command line means.

use crate::error::NodeError;
use crate::recipe::Recipe;
use ostrakon_package::{Digest, Home, PackageError, Store, StoreError};
use std::path::{Path, PathBuf};

/// The directory of the package that `word` means: a directory with a package, else a name in the
/// store.
///
/// # Errors
/// When it is neither; a recipe's name that was not packed yet is told apart.
pub fn locate(home: &Home, word: &Path) -> Result<PathBuf, NodeError> {
    match Store::open(home).locate(word.as_os_str()) {
        Err(StoreError::Unknown { .. } | StoreError::Package(PackageError::NotAPackage { .. })) => {
            let name = word.display().to_string();
            let recipe = Recipe::known().any(|known| known == name);
            let found = match (recipe, word.is_dir()) {
                (true, _) => "it is a recipe that has not been packed yet",
                (false, true) => "the directory holds no package.toml",
                (false, false) if word.exists() => "it is a file, a package is a directory",
                (false, false) => "no such directory and no such name in the store",
            };
            Err(NodeError::NoPackage { name, found: found.into(), known: names(home), recipe })
        }
        other => Ok(other?),
    }
}

/// The directory of the package that `word` means; without a word, of the stored one with the digest that a receipt
/// names.
///
/// # Errors
/// As [`locate`]; the store cannot be read or has no such package.
pub fn locate_or_find(home: &Home, word: Option<&Path>, named: &Digest) -> Result<PathBuf, NodeError> {
    if let Some(word) = word {
        return locate(home, word);
    }
    let stored = Store::open(home).list()?;
    stored.into_iter().find(|stored| stored.digest == *named).map(|stored| stored.directory).ok_or_else(|| {
        NodeError::Setting(format!(
            "no package in the store has the digest {named} that the receipt names: get it and give its directory with --package"
        ))
    })
}

/// The names of the packages in the store, in order.
pub fn names(home: &Home) -> Vec<String> {
    // A store that cannot be read has nothing to offer; whoever opens a package in it hears why.
    Store::open(home).list().unwrap_or_default().into_iter().map(|p| p.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(word: &str) -> NodeError {
        let directory = tempfile::tempdir().unwrap();
        locate(&Home::under(directory.path()), Path::new(word)).unwrap_err()
    }

    #[test]
    fn a_recipe_that_was_not_packed_says_how() {
        let hint = refused("minilm").hint().unwrap();
        assert!(hint.contains("ostrakon pack minilm"), "{hint}");
    }

    #[test]
    fn an_unknown_name_lists_what_there_is() {
        let error = refused("nothing-like-it");
        assert!(matches!(&error, NodeError::NoPackage { recipe: false, .. }));
        assert!(error.hint().unwrap().contains("minilm"));
        assert!(refused("/").to_string().contains("package.toml"));
    }
}
