//! Where this user's things lie: keys and trust, packages, what can be made again.
//!
//! `OSTRAKON_HOME` puts everything under one directory (tests, containers); otherwise the XDG
//! directories are used.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// The three directories. None is created before something is written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Keys and the trust file: `~/.config/ostrakon`.
    pub config: PathBuf,
    /// The content store: `~/.local/share/ostrakon`.
    pub data: PathBuf,
    /// Compiled components and downloads: `~/.cache/ostrakon`.
    pub cache: PathBuf,
}

/// The environment names no place for this user's files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HomeError {
    /// Neither variable is set.
    #[error("neither HOME nor OSTRAKON_HOME is set; set OSTRAKON_HOME to a directory for keys and packages")]
    Unset,
    /// `OSTRAKON_HOME` depends on the working directory.
    #[error("OSTRAKON_HOME is {0:?}, which is not an absolute path; give it in full")]
    Relative(PathBuf),
}

impl Home {
    /// Read the environment.
    ///
    /// # Errors
    /// Nothing says where the user's files are.
    pub fn from_env() -> Result<Self, HomeError> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// Everything under one directory.
    pub fn under(root: &Path) -> Self {
        Self { config: root.join("config"), data: root.join("data"), cache: root.join("cache") }
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, HomeError> {
        let path = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(root) = path("OSTRAKON_HOME") {
            return if root.is_absolute() { Ok(Self::under(&root)) } else { Err(HomeError::Relative(root)) };
        }
        let home = path("HOME").filter(|h| h.is_absolute());
        // The XDG rules: a relative path in these variables is to be ignored.
        let xdg = |name, otherwise: &str| {
            path(name)
                .filter(|p| p.is_absolute())
                .or_else(|| home.as_ref().map(|h| h.join(otherwise)))
                .map(|p| p.join("ostrakon"))
                .ok_or(HomeError::Unset)
        };
        Ok(Self {
            config: xdg("XDG_CONFIG_HOME", ".config")?,
            data: xdg("XDG_DATA_HOME", ".local/share")?,
            cache: xdg("XDG_CACHE_HOME", ".cache")?,
        })
    }

    /// The file with this user's signing key.
    pub fn signing_key(&self) -> PathBuf {
        self.config.join("keys").join("signing.key")
    }

    /// Make the directory for data, if it is not there, for this user only: texts of others may come to lie in it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_data(&self) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.data)
    }

    /// Where `make setup` puts releases of OpenVINO, each in a directory of its own.
    pub fn openvino(&self) -> PathBuf {
        self.data.join("openvino")
    }

    /// The file that says whose signatures count.
    pub fn trust_file(&self) -> PathBuf {
        self.config.join("trust.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(variables: &[(&str, &str)]) -> Result<Home, HomeError> {
        Home::from_variables(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(home(&[]), Err(HomeError::Unset));
        assert_eq!(home(&[("OSTRAKON_HOME", "/o"), ("HOME", "/h")]), Ok(Home::under(Path::new("/o"))));
        assert_eq!(home(&[("OSTRAKON_HOME", "o")]), Err(HomeError::Relative("o".into())));
        let usual = home(&[("HOME", "/h"), ("OSTRAKON_HOME", ""), ("XDG_DATA_HOME", "rel")]).unwrap();
        assert_eq!(usual.config, Path::new("/h/.config/ostrakon"));
        assert_eq!(usual.data, Path::new("/h/.local/share/ostrakon"));
        assert_eq!(home(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).unwrap().cache, Path::new("/c/ostrakon"));
    }
}
