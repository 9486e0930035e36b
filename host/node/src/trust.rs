//! The trust file: shown, and added to without touching what a person wrote there.

use crate::error::{NodeError, file_error};
use ostrakon_package::files::read_regular;
use ostrakon_package::{Home, PublicKey, TrustPolicy, load_key, trust};
use serde::Serialize;
use std::io::Write;

/// Who is trusted here.
#[derive(Debug, Serialize)]
pub struct TrustReport {
    /// The file that says so.
    pub file: String,
    /// This machine's own key, once it has been made.
    pub own: Option<String>,
    /// Everyone else.
    pub trusted: Vec<Signer>,
}

/// A trusted key.
#[derive(Debug, Serialize)]
pub struct Signer {
    /// What this user calls them.
    pub name: String,
    /// Their public key.
    pub key: String,
}

/// Who is trusted here.
///
/// # Errors
/// When the trust file or the own key is there and cannot be used.
pub fn list(home: &Home) -> Result<TrustReport, NodeError> {
    let own = load_key(home)?.map(|key| key.public());
    let policy = TrustPolicy::load(home)?;
    let others = policy.trusted.iter().filter(|t| Some(t.key) != own);
    Ok(TrustReport {
        file: home.trust_file().display().to_string(),
        own: own.map(|key| key.to_string()),
        trusted: others.map(|t| Signer { name: t.name.clone(), key: t.key.to_string() }).collect(),
    })
}

/// Trust `key` under `name` from now on.
///
/// # Errors
/// When the key or the name is unusable, the key is listed already, or the file cannot be written.
pub fn add(home: &Home, key: &str, name: &str) -> Result<TrustReport, NodeError> {
    let key: PublicKey = key.parse().map_err(|e| NodeError::Setting(format!("{key:?} is no key: {e}")))?;
    // The file must be whole before anything is added to it.
    if let Some(known) = TrustPolicy::load(home)?.name_of(&key) {
        return Err(NodeError::Setting(format!("this key is trusted already, as {known:?}")));
    }
    let path = home.trust_file();
    let mut text = match read_regular(&path, trust::MAX_TRUST) {
        // It was parsed a moment ago, so it is text.
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(file_error("read", &path)(e)),
    };
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&format!("[[signer]]\nname = {}\nkey = \"{key}\"\n", toml::Value::String(name.to_owned())));
    trust::parse(text.as_bytes()).map_err(NodeError::Setting)?;
    let directory = path.parent().unwrap_or(&home.config);
    std::fs::create_dir_all(directory).map_err(file_error("make the directory", directory))?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(file_error("write", &path))?;
    file.write_all(text.as_bytes()).map_err(file_error("write", &path))?;
    file.persist(&path).map_err(|e| file_error("write", &path)(e.error))?;
    list(home)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostrakon_package::SigningKey;

    #[test]
    fn a_key_is_added_once_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(directory.path());
        std::fs::create_dir_all(&home.config).unwrap();
        std::fs::write(home.trust_file(), "# my friends\n").unwrap();
        let key = SigningKey::from_seed(&[7; 32]).public().to_string();
        let report = add(&home, &key, "Ada \"the first\"").unwrap();
        assert_eq!((report.trusted[0].name.as_str(), report.trusted[0].key.as_str()), ("Ada \"the first\"", &*key));
        assert!(std::fs::read_to_string(home.trust_file()).unwrap().starts_with("# my friends\n"));
        assert!(matches!(add(&home, &key, "again"), Err(NodeError::Setting(_))));
        assert!(matches!(add(&home, "ed25519:xyz", "x"), Err(NodeError::Setting(_))));
        let other = SigningKey::from_seed(&[8; 32]).public().to_string();
        assert!(add(&home, &other, "").is_err(), "a signer needs a name");
    }
}
