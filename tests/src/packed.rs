//! The packed MiniLM and the other files that tests read. `make test` puts them into `build`; nothing
//! here downloads or packs.

use ostrakon_node::{Home, Model, RunOptions, TrustPolicy};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The directory of the packed model with this many shards.
///
/// # Panics
/// When it is not there: a test that needs the model must not pass without it.
pub fn minilm(shards: usize) -> PathBuf {
    package(&format!("minilm-{shards}"))
}

/// The directory of the packed model that writes text, in one shard.
///
/// # Panics
/// As [`minilm`].
pub fn smollm2() -> PathBuf {
    package("smollm2-1")
}

#[allow(clippy::panic)]
fn package(name: &str) -> PathBuf {
    let directory = built("packages").join(name);
    if !directory.join("package.toml").is_file() {
        panic!("{} is not there: run `make test-data` first", directory.display());
    }
    directory
}

/// A package made ready, whoever signed it.
///
/// # Panics
/// When it cannot be.
#[allow(clippy::panic)]
pub fn load(package: &Path, options: &RunOptions) -> Model {
    let policy = TrustPolicy { allow_unknown: true, ..TrustPolicy::default() };
    match Model::load(package, &policy, &home(), options) {
        Ok(model) => model,
        Err(error) => panic!("{}: {error:?}", package.display()),
    }
}

/// Whether OpenVINO is here to be tested. Where it is not, that is said, whatever becomes of the test's output.
///
/// # Panics
/// When the environment says that it must be here.
#[allow(clippy::panic)]
pub fn openvino() -> bool {
    match ostrakon_nn::openvino::locate(Some(&home().openvino())) {
        Ok(_) => true,
        Err(error) if std::env::var_os("OSTRAKON_REQUIRE_OPENVINO").is_some() => panic!("{error}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "NOT TESTED: {error}");
            false
        }
    }
}

/// The bytes of a data file that is fetched for tests and not ours to commit.
///
/// # Panics
/// When it is not there.
#[allow(clippy::panic)]
pub fn data(name: &str) -> Vec<u8> {
    let file = built("data").join(name);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}: run `make test-data` first", file.display()))
}

/// The home that tests share: its cache of compiled code.
pub fn home() -> Home {
    Home::under(&built("home"))
}

/// The `ostrakon` binary that was built with the tests.
///
/// # Panics
/// When it is not there.
#[allow(clippy::panic)]
pub fn binary() -> PathBuf {
    let directory = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.to_owned()));
    match directory.map(|directory| directory.join("ostrakon")).filter(|binary| binary.is_file()) {
        Some(binary) => binary,
        None => panic!("the ostrakon binary is not beside the tests: build it first"),
    }
}

/// The directory of the plugins.
pub fn plugins() -> PathBuf {
    built("plugins")
}

fn built(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build").join(part)
}
