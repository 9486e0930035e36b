//! Where OpenVINO's libraries are.
//!
//! In this order: what `OPENVINO_INSTALL_DIR` names (and then nothing else: a wrong setting is an error,
//! not a hint), the release that `make setup` fetched, `INTEL_OPENVINO_DIR`, the directories of the
//! dynamic loader's variable, the system's own. Only absolute directories count, so nothing is ever
//! loaded because of the directory in which the host was started.
//!
//! The C library is looked for under its plain name and under versioned ones (`libopenvino_c.so.2641`),
//! as in a wheel; the highest version is taken. Everything else, the CPU device and the readers of
//! formats, OpenVINO finds beside it.

use super::OpenVinoError;
use std::env;
use std::env::consts::{DLL_EXTENSION, DLL_PREFIX};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// What `make setup` fetches: the release, then a wheel for each platform.
const RELEASES: &str = include_str!("release.txt");

/// The release of OpenVINO that `make setup` fetches; also the name of its directory.
pub fn release() -> &'static str {
    RELEASES.lines().next().unwrap_or_default()
}

/// An operator's own installation.
const INSTALL_DIR: &str = "OPENVINO_INSTALL_DIR";

/// Set by OpenVINO's own scripts.
const INTEL_DIR: &str = "INTEL_OPENVINO_DIR";

/// Where the dynamic loader looks first.
const LOADER_PATH: &str = if cfg!(target_os = "macos") {
    "DYLD_LIBRARY_PATH"
} else if cfg!(windows) {
    "PATH"
} else {
    "LD_LIBRARY_PATH"
};

/// Where an installation keeps its libraries: a wheel, an archive, a build.
const INSIDE: &[&str] = &[
    "",
    "libs",
    "openvino/libs",
    "runtime/lib/intel64",
    "runtime/lib/aarch64",
    "runtime/lib/arm64/Release",
    "runtime/bin/intel64/Release",
];

/// Where packages of a system put libraries.
const SYSTEM: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/opt/homebrew/lib",
    "/opt/intel/openvino/runtime/lib/intel64",
    "/opt/intel/openvino/runtime/lib/aarch64",
];

/// The directories in which the libraries may be, in order. `installed` is the directory in which
/// `make setup` puts releases.
///
/// # Errors
/// `OPENVINO_INSTALL_DIR` is relative.
pub(super) fn places(installed: Option<&Path>) -> Result<Vec<PathBuf>, OpenVinoError> {
    places_of(|name| env::var_os(name), installed)
}

fn places_of(
    variable: impl Fn(&str) -> Option<OsString>,
    installed: Option<&Path>,
) -> Result<Vec<PathBuf>, OpenVinoError> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let inside = |root: PathBuf| INSIDE.iter().map(move |part| root.join(part));
    if let Some(root) = variable(INSTALL_DIR).map(PathBuf::from) {
        return if root.is_absolute() { Ok(inside(root).collect()) } else { Err(OpenVinoError::Relative(root)) };
    }
    let installed = installed.map(|releases| releases.join(release()));
    let intel = variable(INTEL_DIR).map(PathBuf::from).into_iter().flat_map(inside);
    let loader = variable(LOADER_PATH);
    let loader = loader.iter().flat_map(env::split_paths);
    let all = installed.into_iter().chain(intel).chain(loader).chain(SYSTEM.iter().map(PathBuf::from));
    Ok(all.filter(|place| place.is_absolute()).collect())
}

/// The C library in the first of `places` that has one.
pub(super) fn find(places: &[PathBuf]) -> Result<PathBuf, OpenVinoError> {
    places.iter().find_map(|place| library_in(place)).ok_or_else(|| {
        let names: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        OpenVinoError::NotFound { searched: names.join(", ") }
    })
}

/// The C library in a directory; of several versions the highest, and before them the plain name.
fn library_in(directory: &Path) -> Option<PathBuf> {
    let plain = directory.join(format!("{DLL_PREFIX}openvino_c.{DLL_EXTENSION}"));
    if plain.is_file() {
        return Some(plain);
    }
    let entries = fs::read_dir(directory).ok()?.filter_map(Result::ok);
    let versions = entries.filter_map(|entry| {
        let version = version_of(entry.file_name().to_str()?)?;
        Some((version, entry.path())).filter(|(_, path)| path.is_file())
    });
    versions.max().map(|(_, path)| path)
}

/// The version in the name of a C library: `libopenvino_c.so.2641`, `libopenvino_c.2641.dylib`.
fn version_of(name: &str) -> Option<Vec<u32>> {
    let rest = name.strip_prefix(DLL_PREFIX)?.strip_prefix("openvino_c.")?;
    let before = rest.strip_suffix(DLL_EXTENSION).and_then(|rest| rest.strip_suffix('.'));
    let after = rest.strip_prefix(DLL_EXTENSION).and_then(|rest| rest.strip_prefix('.'));
    before.or(after)?.split('.').map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places_with(variables: &[(&str, &str)]) -> Result<Vec<PathBuf>, OpenVinoError> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        places_of(variable, Some(Path::new("/home/ostrakon/openvino")))
    }

    #[test]
    fn the_operator_comes_before_setup_and_setup_before_the_system() {
        let usual = places_with(&[]).unwrap();
        assert_eq!(usual.first().unwrap(), &Path::new("/home/ostrakon/openvino").join(release()));
        assert!(usual.contains(&PathBuf::from("/usr/lib")));
        let own = places_with(&[(INSTALL_DIR, "/own"), (LOADER_PATH, "/loader")]).unwrap();
        assert!(own.iter().all(|place| place.starts_with("/own")), "{own:?}");
        assert!(own.contains(&PathBuf::from("/own/libs")));
    }

    #[test]
    fn the_working_directory_is_never_searched() {
        assert_eq!(places_with(&[(INSTALL_DIR, "openvino")]), Err(OpenVinoError::Relative("openvino".into())));
        let all = places_with(&[(LOADER_PATH, ":.:libs:/loader"), (INTEL_DIR, "intel")]).unwrap();
        assert!(all.contains(&PathBuf::from("/loader")));
        assert!(all.iter().all(|place| place.is_absolute()), "{all:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn versioned_names_are_found_and_the_highest_is_taken() {
        let directory = std::env::temp_dir().join(format!("ostrakon-openvino-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        for name in ["libopenvino_c.so.999", "libopenvino_c.so.2641", "libopenvino_c.so.old", "libopenvino.so.9999"] {
            fs::write(directory.join(name), "").unwrap();
        }
        let places = [PathBuf::from("/nowhere"), directory.clone()];
        assert_eq!(find(&places).unwrap(), directory.join("libopenvino_c.so.2641"));
        fs::write(directory.join("libopenvino_c.so"), "").unwrap();
        assert_eq!(find(&places).unwrap(), directory.join("libopenvino_c.so"));
        fs::remove_dir_all(&directory).unwrap();
        let error = find(&places).unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("make setup"), "{error}");
    }

    #[test]
    fn a_release_is_a_version_and_a_digest_for_each_platform() {
        assert!(release().split('.').all(|part| part.parse::<u32>().is_ok()), "{}", release());
        for line in RELEASES.lines().skip(1) {
            let parts: Vec<&str> = line.split(' ').collect();
            assert!(parts.len() == 3 && parts[2].len() == 64, "{line}");
        }
    }
}
