//! Model packages: format, signatures, content store, importers.
//!
//! # Why
//!
//! A node runs files that strangers made. A package says which bytes it consists of, who answers for
//! them and what each is for, so that a node can refuse before it parses, and two nodes that name the
//! same digest hold the same model.
//!
//! # How
//!
//! 1. An importer ([`import`]) turns published float weights into a [`model::ImportedModel`].
//! 2. [`write`] makes a directory of it: `package.toml` ([`manifest`]), `package.sig`
//!    ([`signature`]), `tokenizer.json`, `template.jinja` ([`generation`]), `weights/*.safetensors` ([`weights`]), `components/*.wasm`.
//!    A float model ([`graphs`]) is written by [`write_float`], its graphs as they are.
//! 3. [`component`] makes and composes the components that run the blocks.
//! 4. [`package`] opens such a directory: digest, signature under a [`trust`] policy, manifest, every
//!    file, every shape; only then is anything used. Weights are mapped and read in place.
//! 5. [`store`] keeps packages by name and files by digest under the user's [`home`].
//!
//! Everything from outside is bounded before memory is spent on it, and every refusal names the file
//! and what to do.

pub mod component;
pub mod error;
pub mod files;
pub mod generation;
pub mod graphs;
pub mod home;
pub mod import;
pub mod manifest;
pub mod model;
pub mod names;
pub mod package;
pub mod signature;
pub mod store;
pub mod trust;
pub mod weights;
pub mod write;
pub mod write_float;

pub use error::PackageError;
pub use generation::Generation;
pub use graphs::{GraphEntry, Tier, Tolerance};
pub use home::{Home, HomeError};
pub use manifest::{Block, Manifest, Shard};
pub use model::{
    ImportedBlock, ImportedGeneration, ImportedLayer, ImportedModel, ImportedPart, NamedComponent, PartType,
};
pub use ostrakon_protocol::{Context, Digest, PublicKey, SigningKey};
pub use package::{Package, TensorSummary, signature_state};
pub use signature::{KeyError, load_key, load_or_create_key};
pub use store::{Store, StoreError, StoredPackage};
pub use trust::{SignatureState, TrustError, TrustPolicy, Trusted};
pub use write::{reshard, write_package};
pub use write_float::{ImportedFloatModel, ImportedGraph, write_float_package};
