//! The determinism profile: one list of settings, one wasmtime configuration, one digest.
//!
//! # Why
//!
//! Two nodes may compare bytes and fuel only if everything that can change them is the same on both.
//! So every such setting is written down once, here, with wasmtime's default and the reason, and the
//! list is hashed. The compiler is *not* part of the list: Cranelift and the Pulley interpreter must
//! agree on every result and every unit of fuel, and tests hold them to it.
//!
//! # How
//!
//! 1. [`FEATURES`] and [`SETTINGS`] say what is on and off.
//! 2. [`DeterminismProfile::config`] turns them into a `wasmtime::Config`, and adds the settings that
//!    cannot change a result (how memory is reserved, how well code is optimised).
//! 3. [`DeterminismProfile::digest`] hashes the engine's version, both lists, and the cost table.

use crate::admission::MAX_TABLES;
use crate::cost;
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig, WasmFeatures,
};

/// The engine whose per-instruction fuel and semantics the digest stands for.
pub const ENGINE_VERSION: &str = "wasmtime 48.0.8";

/// Which code generator runs components. Never changes a byte of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compiler {
    /// Machine code: fast.
    Cranelift,
    /// The portable interpreter: slow, and independent of machine code generation for this CPU.
    Pulley,
}

impl Compiler {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cranelift => "cranelift",
            Self::Pulley => "pulley",
        }
    }

    /// The compiler with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Cranelift, Self::Pulley].into_iter().find(|c| c.name() == name)
    }
}

/// A WebAssembly proposal, switched on or off by name so that no default of the engine decides.
pub(crate) struct Feature {
    pub(crate) flag: WasmFeatures,
    pub(crate) name: &'static str,
    pub(crate) on: bool,
}

const fn on(name: &'static str, flag: WasmFeatures) -> Feature {
    Feature { flag, name, on: true }
}

const fn off(name: &'static str, flag: WasmFeatures) -> Feature {
    Feature { flag, name, on: false }
}

/// Every proposal the engine knows. In brackets: wasmtime's default.
pub(crate) const FEATURES: &[Feature] = &[
    // [on] What every Rust guest is compiled to; deterministic.
    on("mutable-global", WasmFeatures::MUTABLE_GLOBAL),
    on("saturating-float-to-int", WasmFeatures::SATURATING_FLOAT_TO_INT),
    on("sign-extension", WasmFeatures::SIGN_EXTENSION),
    on("multi-value", WasmFeatures::MULTI_VALUE),
    on("bulk-memory", WasmFeatures::BULK_MEMORY),
    // [on] LLVM emits its encoding of call_indirect. Holding host references needs a collector and stays off.
    on("reference-types", WasmFeatures::REFERENCE_TYPES),
    // [on] Fixed-width SIMD is exact: every lane operation is IEEE or integer.
    on("simd", WasmFeatures::SIMD),
    // [on] NaN bits are made canonical below.
    on("floats", WasmFeatures::FLOATS),
    // [on] Constant expressions only.
    on("extended-const", WasmFeatures::EXTENDED_CONST),
    // [on] The adapters that the engine makes between composed components see the memories of both. A module
    // of a plugin that has two memories is refused at admission, which keeps the memory limit simple.
    on("multi-memory", WasmFeatures::MULTI_MEMORY),
    // [on] Plugins are components.
    on("component-model", WasmFeatures::COMPONENT_MODEL),
    // [on] Results differ from CPU to CPU by design.
    off("relaxed-simd", WasmFeatures::RELAXED_SIMD),
    // [on] Interleaving is not deterministic.
    off("threads", WasmFeatures::THREADS),
    off("shared-everything-threads", WasmFeatures::SHARED_EVERYTHING_THREADS),
    // [on] Nothing here needs more than 4 GiB; 64-bit memories cost bounds checks and widen the limits.
    off("memory64", WasmFeatures::MEMORY64),
    // [on] When a collector runs is not part of the semantics, what it costs is.
    off("gc", WasmFeatures::GC),
    off("gc-types", WasmFeatures::GC_TYPES),
    off("function-references", WasmFeatures::FUNCTION_REFERENCES),
    // [on] Needs the collector.
    off("exceptions", WasmFeatures::EXCEPTIONS),
    off("legacy-exceptions", WasmFeatures::LEGACY_EXCEPTIONS),
    // [on] No guest toolchain of ours emits it.
    off("tail-call", WasmFeatures::TAIL_CALL),
    // [off] Unstable or unneeded; named so that an upgrade cannot switch them on.
    off("stack-switching", WasmFeatures::STACK_SWITCHING),
    off("wide-arithmetic", WasmFeatures::WIDE_ARITHMETIC),
    off("custom-page-sizes", WasmFeatures::CUSTOM_PAGE_SIZES),
    // [off in this build] Tasks inside a component are scheduled by the host: not deterministic.
    off("component-async", WasmFeatures::CM_ASYNC),
    off("component-async-stackful", WasmFeatures::CM_ASYNC_STACKFUL),
    off("component-async-builtins", WasmFeatures::CM_MORE_ASYNC_BUILTINS),
    off("component-threading", WasmFeatures::CM_THREADING),
    off("component-error-context", WasmFeatures::CM_ERROR_CONTEXT),
    off("component-gc", WasmFeatures::CM_GC),
    off("component-map", WasmFeatures::CM_MAP),
    off("component-memory64", WasmFeatures::CM64),
    off("component-fixed-length-lists", WasmFeatures::CM_FIXED_LENGTH_LISTS),
    off("component-implements", WasmFeatures::CM_IMPLEMENTS),
];

/// Settings beside the proposals that can change a result or what it costs.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("nan-canonicalization", "on"),
    ("relaxed-simd-deterministic", "on"),
    ("component-concurrency", "off"),
    ("fuel", "on"),
];

/// Fuel a page that `memory.grow` asks for: the pages must be zeroed.
const GROW_FUEL_PER_PAGE: u8 = 255;

/// Bytes of stack that WebAssembly may use. Running out is a fault of the host, never a result.
const WASM_STACK: usize = 512 << 10;

/// Address space set aside for a memory: all that 32 bits can reach.
const MEMORY_RESERVATION: u64 = 4 << 30;

/// Components that may be at work at a time, each with a memory. Address space only, 4 GiB apiece.
const INSTANCES: u32 = 1024;

/// Core modules and tables a component is made of, on average at most.
const MODULES_PER_COMPONENT: u32 = 8;

/// Bytes of bookkeeping that the engine may need for one module or component: what admission lets through fits.
const MAX_INSTANCE_METADATA: usize = 16 << 20;

/// Elements of one table.
const MAX_TABLE_ELEMENTS: usize = 1 << 16;

/// Bytes of a used memory that are cleared in place.
const KEEP_RESIDENT: usize = 2 << 20;

/// Used places that stay warm; the others give their memory back.
const WARM: u32 = 64;

/// How components are run; see the module's documentation.
#[derive(Debug, Clone, Copy)]
pub struct DeterminismProfile {
    compiler: Compiler,
}

impl DeterminismProfile {
    /// The one profile, run by this compiler.
    pub const fn new(compiler: Compiler) -> Self {
        Self { compiler }
    }

    /// Its compiler.
    pub const fn compiler(self) -> Compiler {
        self.compiler
    }

    /// The engine's configuration.
    ///
    /// # Errors
    /// wasmtime was built without this compiler.
    pub(crate) fn config(self) -> wasmtime::Result<Config> {
        let mut config = Config::new();
        for feature in FEATURES {
            config.wasm_features(feature.flag, feature.on);
        }

        // [off] A NaN's bits depend on the CPU and on the optimiser.
        config.cranelift_nan_canonicalization(true);
        // [off] Second line of defence: relaxed SIMD is refused already.
        config.relaxed_simd_deterministic(true);
        // [on] Tasks inside a component: see `component-async`.
        config.concurrency_support(false);
        // [off] Counts instructions: the receipt's fuel, and the end of every loop.
        config.consume_fuel(true);
        // [one an instruction, one a byte, nothing for memory.grow] Zeroing pages is work too.
        config.operator_cost(operator_cost());

        // [off] Protects the node's time. Only ever a fault of the host, so not part of the digest.
        config.epoch_interruption(true);
        // [512 KiB] How deep a recursion gets differs between compilers, so overflow is a fault of the
        // host and not part of the digest. Fits into the 2 MiB stack of a Rust thread with room for host calls.
        config.max_wasm_stack(WASM_STACK);
        // [4 GiB] Address space only, no memory: with it machine code needs no bounds checks.
        config.memory_reservation(MEMORY_RESERVATION);
        // [yes] The reservation covers every 32-bit memory, so the base never moves.
        config.memory_may_move(false);
        // [on] A fresh instance maps its data copy-on-write instead of copying it.
        config.memory_init_cow(true);
        // [speed] Compiled once, cached, run often.
        config.cranelift_opt_level(OptLevel::Speed);
        // [on] Only the time to compile.
        config.parallel_compilation(true);
        // [on] Traps name the reason; addresses would make artefacts larger and slower to load.
        config.wasm_backtrace_max_frames(None);
        config.generate_address_map(false);
        config.debug_symbols(false);
        match self.compiler {
            // [the host] Its features are in the key of the compiled-code cache.
            Compiler::Cranelift => {}
            Compiler::Pulley => {
                config.target("pulley64")?;
            }
        }
        Ok(config)
    }

    /// As [`config`](Self::config), with places for instances set aside at the start. Every block of every
    /// batch runs in a fresh instance; mapping and unmapping its memory takes longer than all of its own code.
    pub(crate) fn pooled(self) -> wasmtime::Result<Config> {
        let mut config = self.config()?;
        let mut pool = PoolingAllocationConfig::new();
        // [1000 each] Who asks for more gets a fault of the host.
        pool.total_component_instances(INSTANCES);
        pool.total_memories(INSTANCES);
        pool.total_core_instances(INSTANCES * MODULES_PER_COMPONENT);
        pool.total_tables(INSTANCES * MODULES_PER_COMPONENT);
        // [1 MiB, 20,000, 1] As much as a component may have anywhere: the limits of `limits` decide, not these.
        pool.max_core_instance_size(MAX_INSTANCE_METADATA);
        pool.max_component_instance_size(MAX_INSTANCE_METADATA);
        pool.table_elements(MAX_TABLE_ELEMENTS);
        pool.max_tables_per_module(MAX_TABLES as u32);
        // [0] A used place is cleared by writing zeros where the kernel says what was touched, rather than by giving
        // its pages back and faulting them in again.
        pool.max_unused_warm_slots(WARM);
        pool.linear_memory_keep_resident(KEEP_RESIDENT);
        pool.table_keep_resident(KEEP_RESIDENT);
        pool.pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Ok(config)
    }

    /// What the digest covers, a line each: `name=value`.
    pub fn lines(self) -> Vec<String> {
        let engine = [format!("engine={ENGINE_VERSION}")];
        let features = FEATURES.iter().map(|f| format!("feature.{}={}", f.name, if f.on { "on" } else { "off" }));
        let settings = SETTINGS.iter().map(|(name, value)| format!("setting.{name}={value}"));
        let costs = cost::TABLE.iter().map(|(name, value)| format!("cost.{name}={value}"));
        let grow = [format!("cost.memory-grow-page={GROW_FUEL_PER_PAGE}")];
        engine.into_iter().chain(features).chain(settings).chain(costs).chain(grow).collect()
    }

    /// The identity of the profile. Results and fuel may be compared between nodes where it is equal.
    pub fn digest(self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("ostrakon determinism profile v1");
        for line in self.lines() {
            hasher.update(line.as_bytes());
            hasher.update(b"\n");
        }
        hasher.finalize()
    }
}

fn operator_cost() -> OperatorCost {
    let mut cost = OperatorCost::new();
    cost.variable.memory_grow_per_page = GROW_FUEL_PER_PAGE;
    cost
}
