//! The packages that are served.

use super::embedder::Embedder;
use super::error::ApiError;
use crate::problem::Problem;
use crate::writer::Place;
use axum::http::StatusCode;
use ostrakon_node::generate::{Generator, Limits};
use ostrakon_node::{Digest, Home, Model, RunOptions, Tier, TrustPolicy, float, store};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Handle;
use utoipa::ToSchema;

/// What a package does.
#[derive(Clone)]
pub(super) enum Work {
    /// It writes text.
    Generate(Arc<Generator>),
    /// It makes a vector of a text.
    Embed(Arc<Embedder>),
}

/// A package, ready.
pub(super) struct Served {
    pub(super) name: String,
    pub(super) digest: Digest,
    /// Where the package is.
    pub(super) directory: PathBuf,
    pub(super) work: Work,
    /// Most tokens of a text.
    pub(super) context: usize,
    pub(super) backend: &'static str,
}

/// How packages are opened.
pub(super) struct Sources<'a> {
    pub(super) policy: &'a TrustPolicy,
    pub(super) home: &'a Home,
    pub(super) options: &'a RunOptions,
    pub(super) limits: Limits,
}

/// All of them, in the order in which they were named.
pub(super) struct Models(Vec<Served>);

/// A model, as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelObject {
    /// Its name.
    id: String,
    /// `model`.
    object: &'static str,
    /// When it was loaded, in seconds since 1970.
    created: u64,
    /// `ostrakon`.
    owned_by: &'static str,
    /// The package's digest: equal digests answer alike, to the byte.
    package: String,
    /// `generation` or `embedding`.
    task: &'static str,
    /// Most tokens of a text.
    context: usize,
}

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelList {
    /// `list`.
    object: &'static str,
    data: Vec<ModelObject>,
}

impl Models {
    /// Load the packages.
    pub(super) fn load(
        packages: &[impl AsRef<Path>],
        &Sources { policy, home, options, limits }: &Sources<'_>,
        (swarm, handle): (&[String], &Handle),
    ) -> Result<Self, Problem> {
        let mut all: Vec<Served> = Vec::new();
        for package in packages {
            let directory = store::locate(home, package.as_ref())?;
            if float::tier(&directory)? == Tier::Float {
                let name = package.as_ref().display();
                return Err(Problem::usage(format!("the package `{name}` is of the float tier, which is not served"))
                    .hint(format!("run it: ostrakon run {name} --tensor NAME=FILE.npy")));
            }
            let place = Place { directory: &directory, policy, home, options, limits };
            let served = match swarm {
                [] => Served::of(Model::load(&directory, policy, home, options)?, directory, limits)?,
                swarm => Served::written(place.of_swarm(swarm, handle)?, directory),
            };
            if all.iter().any(|other| other.name == served.name) {
                return Err(Problem::usage(format!("two packages have the name `{}`: name one of them", served.name)));
            }
            all.push(served);
        }
        Ok(Self(all))
    }

    pub(super) fn all(&self) -> &[Served] {
        &self.0
    }

    pub(super) fn find(&self, name: &str) -> Result<&Served, ApiError> {
        self.0.iter().find(|served| served.name == name).ok_or_else(|| {
            let asked: String = name.chars().take(100).collect();
            let names: Vec<&str> = self.0.iter().map(|served| served.name.as_str()).collect();
            let message = format!("there is no model `{asked}`, but {}", names.join(", "));
            ApiError::new(StatusCode::NOT_FOUND, message).of_field("model").code("model_not_found")
        })
    }

    /// The model of this name, if it writes text.
    pub(super) fn generator(&self, name: &str) -> Result<(&Served, Arc<Generator>), ApiError> {
        let served = self.find(name)?;
        match &served.work {
            Work::Generate(generator) => Ok((served, Arc::clone(generator))),
            Work::Embed(_) => Err(ApiError::field("model", format!("`{name}` makes vectors: ask /v1/embeddings"))),
        }
    }

    /// The model of this name, if it makes vectors.
    pub(super) fn embedder(&self, name: &str) -> Result<(&Served, Arc<Embedder>), ApiError> {
        let served = self.find(name)?;
        match &served.work {
            Work::Embed(embedder) => Ok((served, Arc::clone(embedder))),
            Work::Generate(_) => {
                Err(ApiError::field("model", format!("`{name}` writes text: ask /v1/chat/completions")))
            }
        }
    }

    pub(super) fn list(&self, created: u64) -> ModelList {
        ModelList { object: "list", data: self.0.iter().map(|served| served.object(created)).collect() }
    }
}

impl Served {
    fn of(model: Model, directory: PathBuf, limits: Limits) -> Result<Self, Problem> {
        let (name, digest, backend) = (model.name().to_owned(), model.digest(), model.backend());
        if model.manifest().generation.is_some() {
            return Ok(Self::written(Generator::of(model, limits)?, directory));
        }
        let context = model.manifest().max_tokens.unwrap_or_default() as usize;
        let work = Work::Embed(Arc::new(Embedder::start(model)?));
        Ok(Self { name, digest, directory, work, context, backend })
    }

    fn written(generator: Generator, directory: PathBuf) -> Self {
        let (name, digest, backend) = (generator.manifest().name.clone(), generator.digest(), generator.backend());
        let context = generator.limits().context;
        Self { name, digest, directory, work: Work::Generate(Arc::new(generator)), context, backend }
    }

    /// What answers carry to say what made them: the package's digest, cut short.
    pub(super) fn fingerprint(&self) -> String {
        let digest = self.digest.to_string();
        format!("fp_{}", digest.get(..16).unwrap_or(&digest))
    }

    pub(super) const fn task(&self) -> &'static str {
        match self.work {
            Work::Generate(_) => "generation",
            Work::Embed(_) => "embedding",
        }
    }

    pub(super) fn object(&self, created: u64) -> ModelObject {
        ModelObject {
            id: self.name.clone(),
            object: "model",
            created,
            owned_by: "ostrakon",
            package: self.digest.to_string(),
            task: self.task(),
            context: self.context,
        }
    }
}
