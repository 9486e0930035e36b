//! Files for this user's eyes only: transcripts, traces, secret vectors.
//!
//! # Why
//!
//! They hold what others must not read, they are large, and half of one is worth nothing.
//!
//! # How
//!
//! 1. [`PrivateFile::at`] looks at the place before any work is done for it. A file there is replaced; a link to one
//!    stays, and the file behind it is replaced. Anything else (a device, a pipe, a directory) is refused: a file
//!    would take its place.
//! 2. [`PrivateFile::write`] writes to a temporary file beside it, which has mode 0600 from the start and gets its
//!    name when it is whole.

use crate::error::{NodeError, file_error};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Where a private file goes.
pub(crate) struct PrivateFile {
    path: PathBuf,
}

impl PrivateFile {
    /// At this path.
    ///
    /// # Errors
    /// Something is there that is no file.
    pub(crate) fn at(path: &Path) -> Result<Self, NodeError> {
        let there = match fs::symlink_metadata(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self { path: path.to_owned() }),
            Err(error) => return Err(file_error("write", path)(error)),
        };
        let behind = fs::metadata(path);
        if !behind.is_ok_and(|behind| behind.is_file()) {
            return Err(NodeError::Setting(format!(
                "{} is neither a file nor a link to one, and would be replaced: give the name of a file",
                path.display()
            )));
        }
        let path =
            if there.is_symlink() { fs::canonicalize(path).map_err(file_error("read", path))? } else { path.into() };
        Ok(Self { path })
    }

    /// A file without a name on the same disk.
    pub(crate) fn scratch(&self) -> Result<File, NodeError> {
        tempfile::tempfile_in(self.folder()).map_err(file_error("write to", self.folder()))
    }

    /// Write it. Gives the number of its bytes.
    pub(crate) fn write(&self, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<u64, NodeError> {
        self.written(content).map_err(self.failed())
    }

    /// For `map_err`: it could not be written.
    pub(crate) fn failed(&self) -> impl FnOnce(io::Error) -> NodeError {
        file_error("write", &self.path)
    }

    fn written(&self, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<u64> {
        let mut to = BufWriter::new(NamedTempFile::new_in(self.folder())?);
        content(&mut to)?;
        let file = to.into_inner().map_err(io::IntoInnerError::into_error)?.persist(&self.path)?;
        Ok(file.metadata()?.len())
    }

    fn folder(&self) -> &Path {
        self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;

    fn write(path: &Path) -> Result<u64, NodeError> {
        PrivateFile::at(path)?.write(|to| to.write_all(b"secret"))
    }

    #[test]
    fn a_file_is_replaced_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        assert_eq!(write(&file).unwrap(), 6);
        fs::write(&file, "a longer text").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        symlink("file", &link).unwrap();
        assert_eq!(write(&link).unwrap(), 6);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"secret");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    /// A socket stands for a device: a test must not be able to replace one.
    #[test]
    fn what_is_no_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("socket", at("link")).unwrap();
        symlink("nothing", at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        for name in ["socket", "link", "dangling", "folder"] {
            let error = write(&at(name)).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("neither a file nor a link to one"), "{error}");
        }
        assert!(fs::metadata(at("socket")).unwrap().file_type().is_socket());
        assert!(fs::symlink_metadata(at("dangling")).unwrap().is_symlink() && at("folder").is_dir());
    }

    #[test]
    fn what_fails_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "before").unwrap();
        let failed = PrivateFile::at(&file).unwrap().write(|to| {
            to.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert!(failed.unwrap_err().to_string().contains("file"));
        assert_eq!(fs::read(&file).unwrap(), b"before");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
