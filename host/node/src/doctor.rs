//! What this machine offers, and what to do about what is missing.
//!
//! A flat list of checks. Each says what it found; each that found less than there could be says what
//! to do. Nothing is created, nothing is downloaded.

use crate::load;
use crate::native;
use crate::options::RunOptions;
use crate::plugins::{BLOCK_BERT, EXACT_REFERENCE, Plugins};
use crate::store;
use ostrakon_exact::simd::{Executor, Level};
#[cfg(feature = "openvino")]
use ostrakon_nn::openvino::{HOW_TO_GET, OpenVino, OpenVinoError};
use ostrakon_package::{Home, TrustPolicy, load_key};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, if there is something to do.
    pub advice: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Good,
    /// Not there; everything else works without it.
    Absent,
    /// Something does not work.
    Bad,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), advice: None }
    }

    fn absent(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Absent, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, state: State::Bad, found: found.into(), advice: Some(advice.into()) }
    }
}

/// Look at everything.
pub fn examine(home: &Home, plugins: Option<&Path>) -> Vec<Check> {
    let options = RunOptions::default();
    let mut checks = vec![simd(), Check::good("threads", options.thread_count().to_string())];
    checks.extend(backends(home, &options));
    checks.extend([
        engine(home, &options),
        directories(home),
        packages(home),
        key(home),
        trust(home),
        plugins_built(plugins),
    ]);
    checks
}

fn simd() -> Check {
    let level = Level::detect();
    let names: Vec<&str> = Level::available().iter().map(|l| l.name()).collect();
    let found = format!("{} in use; this machine has {}", level.name(), names.join(", "));
    if level == Level::Scalar {
        Check::absent("simd", found, "results are the same and slower; a machine with AVX2 or AVX-512 is fast")
    } else {
        Check::good("simd", found)
    }
}

/// Each backend with how it computes here, then what `auto` makes of them.
fn backends(home: &Home, options: &RunOptions) -> Vec<Check> {
    let level = Level::detect();
    let executor = match Executor::new(level, options.thread_count()) {
        Ok(executor) => Arc::new(executor),
        Err(error) => return vec![Check::bad("cpu", error.to_string(), "report this with the system's name")],
    };
    let mut checks = vec![cpu(&executor, home), openvino(&executor, home), cuda(&executor, home)];
    checks.push(match native::remembered(&executor, home) {
        None => Check::absent("auto", "not measured yet", "the first `ostrakon run` measures, once"),
        Some((name, times)) => {
            let times: Vec<String> = times.iter().map(|(name, ms)| format!("{name} {ms:.2} ms")).collect();
            let why = if times.is_empty() { "nothing else is here".to_owned() } else { times.join(", ") };
            Check::good("auto", format!("uses {name} ({why})"))
        }
    });
    checks
}

fn cpu(executor: &Arc<Executor>, home: &Home) -> Check {
    match native::named("cpu", executor, home) {
        Ok(backend) => Check::good("cpu", format!("exact: {}", backend.detail())),
        Err(error) => Check::bad(
            "cpu",
            error.to_string(),
            "do not trust this machine's arithmetic; `--backend reference` runs without it",
        ),
    }
}

#[cfg(feature = "openvino")]
fn openvino(executor: &Arc<Executor>, home: &Home) -> Check {
    let found = match OpenVino::load(Some(&home.openvino())) {
        Ok(found) => found,
        Err(OpenVinoError::NotFound { searched }) => {
            return Check::absent("openvino", format!("no openvino_c library in {searched}"), HOW_TO_GET);
        }
        Err(error) => return Check::bad("openvino", error.to_string(), HOW_TO_GET),
    };
    let directory = found.directory().display();
    match native::named("openvino", executor, home) {
        Ok(backend) => Check::good("openvino", format!("exact: {}; in {directory}", backend.detail())),
        Err(error) => {
            Check::bad("openvino", format!("{error}; in {directory}"), "it is not used; --backend cpu is exact")
        }
    }
}

#[cfg(not(feature = "openvino"))]
fn openvino(_: &Arc<Executor>, _: &Home) -> Check {
    Check::absent("openvino", "this build cannot use it", "build with the cargo feature `openvino`")
}

#[cfg(feature = "cuda")]
fn cuda(executor: &Arc<Executor>, home: &Home) -> Check {
    let gpus = match ostrakon_nn::cuda::gpus() {
        Ok(gpus) => gpus,
        Err(error) => return Check::absent("cuda", error.to_string(), "everything else works without a GPU"),
    };
    let wrong = |index| {
        native::named(&format!("cuda:{index}"), executor, home).err().map(|error| format!("GPU {index}: {error}"))
    };
    let wrong: Vec<String> = (0..gpus.len()).filter_map(wrong).collect();
    let gpus = gpus.join("; ");
    if wrong.is_empty() {
        Check::good("cuda", format!("exact, by --backend cuda or cuda:N; {gpus}"))
    } else {
        Check::bad("cuda", format!("{}; {gpus}", wrong.join("; ")), "do not use these GPUs; --backend cpu is exact")
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &Arc<Executor>, _: &Home) -> Check {
    Check::absent("cuda", "this build cannot use it", "build with the cargo feature `cuda`")
}

fn engine(home: &Home, options: &RunOptions) -> Check {
    match load::runtime(home, options) {
        Ok(runtime) => Check::good(
            "engine",
            format!(
                "{}, cranelift and pulley, profile {}",
                ostrakon_engine::profile::ENGINE_VERSION,
                runtime.profile().digest()
            ),
        ),
        Err(error) => Check::bad("engine", error.to_string(), "report this with the system's name and version"),
    }
}

fn directories(home: &Home) -> Check {
    let found = format!("{}, {}, {}", home.data.display(), home.config.display(), home.cache.display());
    Check::good("directories", found)
}

fn packages(home: &Home) -> Check {
    let names = store::names(home);
    if names.is_empty() {
        Check::absent("packages", "none", "ostrakon pack minilm")
    } else {
        Check::good("packages", names.join(", "))
    }
}

fn key(home: &Home) -> Check {
    match load_key(home) {
        Ok(Some(key)) => Check::good("key", key.public().to_string()),
        Ok(None) => Check::absent("key", "none yet", "it is made when the first package is packed"),
        Err(error) => Check::bad("key", error.to_string(), "see the text; packages cannot be signed until then"),
    }
}

fn trust(home: &Home) -> Check {
    match TrustPolicy::load(home) {
        Ok(policy) => {
            let names: Vec<&str> = policy.trusted.iter().map(|t| t.name.as_str()).collect();
            Check::good("trust", if names.is_empty() { "nobody yet".into() } else { names.join(", ") })
        }
        Err(error) => Check::bad("trust", error.to_string(), "correct the file; packages are refused until then"),
    }
}

fn plugins_built(given: Option<&Path>) -> Check {
    let advice = "make plugins; needed to pack models and for --backend reference";
    match Plugins::find(given) {
        Ok(plugins) => {
            let missing: Vec<&str> =
                [BLOCK_BERT, EXACT_REFERENCE].into_iter().filter(|name| !plugins.path(name).is_file()).collect();
            let directory = plugins.directory().display();
            if missing.is_empty() {
                Check::good("plugins", directory.to_string())
            } else {
                Check::absent("plugins", format!("{directory} lacks {}", missing.join(", ")), advice)
            }
        }
        Err(error) => Check::absent("plugins", error.to_string(), advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_good_comes_with_advice() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::under(directory.path());
        for check in examine(&home, Some(directory.path())) {
            assert_eq!(check.state == State::Good, check.advice.is_none(), "{check:?}");
        }
        assert!(!home.data.exists() && !home.config.exists(), "looking creates nothing");
    }
}
