//! The wasi-nn host: tensors, layers by name, backends, quotas.
//!
//! # Why
//!
//! Plugins reach arithmetic through `wasi:nn` (operations with weights) and `exact` (operations
//! without). This crate answers both with native code and gives the bytes of `ostrakon_exact::reference`,
//! whichever backend runs underneath. It knows nothing of WebAssembly: the engine lifts and lowers
//! handles, this crate checks and computes.
//!
//! # How
//!
//! 1. [`tensor`]: immutable tensors, validated once, kept in host memory. A second handle is a
//!    reference count; bytes cross into a guest only when it asks for them.
//! 2. [`quota`]: a [`Meter`] a caller. Every operation takes one and charges its result before
//!    allocating it; dropping the last handle gives the bytes back.
//! 3. [`layers`]: where the parts of a layer come from. Names are checked before a source sees them.
//! 4. [`graph`]: a layer prepared for use, made once and shared by every instance of a package.
//! 5. [`backend`]: who computes the integer product of a linear layer. Only a backend that has proved
//!    itself exact ([`ProvenBackend`]) can be given to a host. [`Recorder`] keeps every product for an
//!    audit, [`Auditor`] takes them from such a record and checks them.
//! 6. [`float`]: whole graphs in floating point, which OpenVINO runs; not exact.
//! 7. [`host`] and [`operations`]: load by name, compute, and the exact operations.
//! 8. [`past`]: keys and values of earlier rows, for blocks that are called piece by piece.
//! 9. [`field`]: arithmetic modulo a prime, for components that split activations among servers.
//! 10. [`observer`]: who is told of every operation, and one operation by its description, for disputes.
//!
//! # Threads
//!
//! Everything here is synchronous and may run for a long time: a call computes on the caller's thread
//! and on the executor's pool, and a remote backend waits for its peers. Call it from a thread meant
//! for computing, chosen by the engine or the node, never from the worker of an async executor. All
//! types are `Send + Sync`; any number of threads may share a [`Host`].
//!
//! # Errors
//!
//! Bad input never panics and always gives an [`NnError`] that names what was wrong. Whether an error is
//! the caller's doing, hence deterministic and safe to show to a guest, is
//! [`NnError::is_host_fault`].

pub mod backend;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod error;
pub mod field;
pub mod float;
pub mod graph;
pub mod host;
pub mod layers;
pub mod memory;
pub mod observer;
#[cfg(feature = "openvino")]
pub mod openvino;
pub mod operations;
pub mod past;
pub mod quota;
mod spares;
pub mod tensor;

pub use backend::audit::{Auditor, CheckedProduct, Finished, LayerVectors, WrongElement};
pub use backend::cpu::CpuBackend;
pub use backend::record::Recorder;
pub use backend::shared::{Masked, Servers, SharedBackend, SharedError, SharedLayer, Shares, Wrong};
pub use backend::{Backend, BackendError, ProvenBackend};
pub use error::NnError;
pub use float::{Encoding, GraphFiles, Port, RawGraph};
pub use graph::{Graph, GraphLimits, GraphShape};
pub use host::Host;
pub use layers::{LayerSource, LayerSourceError, RawLayer};
pub use memory::MemoryLayers;
pub use observer::{Observer, OperationKind};
pub use past::{BoundPast, SequencePast};
pub use quota::{Charge, Meter, Quotas, Resource};
pub use tensor::{Tensor, TensorType};
