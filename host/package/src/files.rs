//! Files of a package directory: opened without leaving it, never read beyond a bound.
//!
//! 1. A name is relative and plain: lower-case pieces joined by `/`, no `..`, no leading dot.
//! 2. No piece of the way may be a symbolic link, and the end must be a regular file (so neither a
//!    pipe that blocks nor a device that never ends).
//! 3. What was opened must be what was looked at: device and inode are compared after opening.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read},
    path::{Path, PathBuf},
};

use crate::{error::PackageError, names};

/// Something that is not a regular file, in words.
fn describe(kind: fs::FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "a special file"
    }
}

/// Open `name`, which the caller has checked with [`names::check_file`], inside `root`.
/// Gives the file and its length.
pub(crate) fn open(root: &Path, name: &str) -> Result<(File, u64), PackageError> {
    let full = root.join(name);
    if let Err(why) = names::check_file(name) {
        return Err(PackageError::Manifest { file: root.join("package.toml"), why });
    }
    let mut way = PathBuf::from(root);
    let mut pieces = name.split('/').peekable();
    while let Some(piece) = pieces.next() {
        way.push(piece);
        let seen = fs::symlink_metadata(&way).map_err(|e| missing(e, &full))?.file_type();
        let wanted = if pieces.peek().is_some() { seen.is_dir() } else { seen.is_file() };
        if !wanted {
            return Err(PackageError::NotPlain { file: way, what: describe(seen) });
        }
    }
    let seen = fs::symlink_metadata(&full).map_err(|e| missing(e, &full))?;
    let file = File::open(&full).map_err(|e| missing(e, &full))?;
    let opened = file.metadata().map_err(PackageError::io(&full, "read the length"))?;
    if !opened.is_file() || !same_file(&seen, &opened) {
        return Err(PackageError::NotPlain { file: full, what: "something that changed while it was opened" });
    }
    Ok((file, opened.len()))
}

#[cfg(unix)]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    a.len() == b.len()
}

fn missing(error: std::io::Error, file: &Path) -> PackageError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => PackageError::Missing { file: file.to_owned() },
        _ => PackageError::io(file, "open the file")(error),
    }
}

/// All bytes of a file of at most `limit` bytes.
pub(crate) fn read(root: &Path, name: &str, limit: u64) -> Result<Vec<u8>, PackageError> {
    let (file, length) = open(root, name)?;
    read_open(file, length, limit, &root.join(name))
}

/// All bytes of an open file that had `length` bytes, refusing it when it has grown beyond `limit`.
pub(crate) fn read_open(file: File, length: u64, limit: u64, path: &Path) -> Result<Vec<u8>, PackageError> {
    let too_large = |bytes| PackageError::TooLarge { file: path.to_owned(), bytes, limit };
    if length > limit {
        return Err(too_large(length));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(|_| too_large(length))?);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(PackageError::io(path, "read the file"))?;
    let read = bytes.len() as u64;
    if read > limit { Err(too_large(read)) } else { Ok(bytes) }
}

/// All bytes of a file that may lie anywhere and be a link to one: it must be a regular file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, is no file or is too large.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let no_file = |what| io::Error::other(format!("this is {what}, not a file"));
    // Before it is opened: opening a pipe waits for a writer.
    let seen = fs::metadata(path)?;
    if !seen.is_file() {
        return Err(no_file(describe(seen.file_type())));
    }
    let file = File::open(path)?;
    let opened = file.metadata()?;
    if !opened.is_file() {
        return Err(no_file(describe(opened.file_type())));
    }
    read_open(file, opened.len(), limit, path).map_err(|error| match error {
        PackageError::Io { source, .. } => source,
        PackageError::TooLarge { bytes, limit, .. } => {
            io::Error::other(format!("it has {bytes} bytes or more, at most {limit} are read"))
        }
        other => io::Error::other(other.to_string()),
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_lies_anywhere_is_a_file_of_bounded_size() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), b"abc").unwrap();
        symlink("file", at("link")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read_regular(&at("link"), 3).unwrap(), b"abc");
        for (path, words) in [
            (at("file"), "at most 2"),
            (at("socket"), "a special file"),
            (root.path().to_owned(), "a directory"),
            ("/dev/zero".into(), "a special file"),
        ] {
            let error = read_regular(&path, 2).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(read_regular(&at("none"), 2).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn nothing_outside_is_opened() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), b"x").unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("weights")).unwrap();
        fs::write(root.path().join("weights/a"), b"abc").unwrap();
        symlink(outside.path().join("secret"), root.path().join("link")).unwrap();
        symlink(outside.path(), root.path().join("dir")).unwrap();

        assert_eq!(read(root.path(), "weights/a", 3).unwrap(), b"abc");
        assert!(matches!(read(root.path(), "weights/a", 2), Err(PackageError::TooLarge { bytes: 3, limit: 2, .. })));
        assert!(matches!(read(root.path(), "weights", 3), Err(PackageError::NotPlain { what: "a directory", .. })));
        assert!(matches!(read(root.path(), "link", 3), Err(PackageError::NotPlain { what: "a symbolic link", .. })));
        assert!(matches!(read(root.path(), "dir/secret", 3), Err(PackageError::NotPlain { .. })));
        assert!(matches!(read(root.path(), "none", 3), Err(PackageError::Missing { .. })));
        assert!(matches!(read(root.path(), "weights/a/b", 3), Err(PackageError::NotPlain { .. })));
        for name in ["../secret", "/etc/passwd", "weights/../link", "", ".", "a//b", "C:/x", "a\\b", "weights/"] {
            assert!(matches!(read(root.path(), name, 3), Err(PackageError::Manifest { .. })), "{name}");
        }
    }

    #[test]
    fn special_files_do_not_block() {
        assert!(matches!(read(Path::new("/dev"), "zero", 3), Err(PackageError::NotPlain { .. })));
    }
}
