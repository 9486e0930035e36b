//! Small components written by hand, honest and hostile, and a host to run them on.

pub(crate) mod claims;
pub(crate) mod fleets;

use ostrakon_engine::{Compiler, Instance, Limits, Plugin, Runtime, World};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{CpuBackend, Host, MemoryLayers, ProvenBackend, Tensor};
use std::sync::{Arc, OnceLock};

/// A host with two small layers: `b.linear` of [3, 4] and `b.wide` with 16-bit activations.
pub(crate) fn host() -> Arc<Host> {
    static PROVEN: OnceLock<(Arc<Executor>, ProvenBackend)> = OnceLock::new();
    let (executor, backend) = PROVEN
        .get_or_init(|| {
            let executor = Arc::new(Executor::new(Level::Scalar, 1).unwrap());
            (Arc::clone(&executor), ProvenBackend::new(CpuBackend::new(executor)).unwrap())
        })
        .clone();
    let mut layers = MemoryLayers::new();
    let weight = [1, 2, 3, 4, -5, 6, -7, 8, 127, -127, 0, 1];
    layers.insert_linear("b.linear", "u8", &weight, &[0.5, 0.25, 1.0], &[0.0, 1.0, -1.0], &[]);
    layers.insert_linear("b.wide", "u16", &weight, &[0.5, 0.25, 1.0], &[0.0, 1.0, -1.0], &[]);
    Arc::new(Host::new(executor, backend, Arc::new(layers)))
}

/// Limits that a test reaches quickly.
pub(crate) fn limits() -> Limits {
    Limits {
        fuel: 50_000_000,
        wall_time: std::time::Duration::from_secs(20),
        memory_bytes: 16 << 20,
        table_elements: 10_000,
        ..Limits::default()
    }
}

pub(crate) fn runtime(compiler: Compiler) -> Runtime {
    Runtime::new(compiler, None, Limits::default()).unwrap()
}

/// One runtime for tests that need no special one.
pub(crate) fn shared_runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| runtime(Compiler::Cranelift))
}

/// Assert that an instance made before, and one made now, both still work.
pub(crate) fn assert_neighbours_work(plugin: &Plugin, neighbour: &mut Instance) {
    let mut fresh = plugin.instantiate(host(), limits()).unwrap();
    for instance in [neighbour, &mut fresh] {
        let session = instance.open("b", &[]).unwrap();
        let output = instance.forward(session, rows(2), &lengths(&[2])).unwrap().output;
        assert_eq!(output.to_bytes(), rows(2).to_bytes());
        instance.close(session).unwrap();
    }
}

pub(crate) fn admit(runtime: &Runtime, wat: &str) -> Plugin {
    runtime.admit(&wat::parse_str(wat).unwrap(), World::ModelBlock).unwrap()
}

/// FP32 [rows, 4].
pub(crate) fn rows(rows: u32) -> Tensor {
    let values = (0..rows * 4).map(|i| i as f32 * 0.37 - 1.0).collect();
    Tensor::from_f32(vec![rows, 4], values).unwrap()
}

pub(crate) fn lengths(lengths: &[i32]) -> Tensor {
    Tensor::from_i32(vec![lengths.len() as u32], lengths.to_vec()).unwrap()
}

/// Passes its input through.
pub(crate) fn identity() -> String {
    Block::default().wat()
}

/// Loads `b.linear` when opened and computes it on forward.
pub(crate) fn linear(layer: &str) -> String {
    Block {
        open: r#"
            (call $load-by-name (i32.const 1024) (global.get $name-length) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (call $refuse-with (i32.load (i32.const 68))))))
            (call $init-context (i32.load (i32.const 68)) (i32.const 64))
            (global.set $context (i32.load (i32.const 68)))
            (call $ok (call $session-new (i32.const 1)))"#,
        forward: r#"
            (call $tensor-drop (local.get 2))
            (i32.store (i32.const 128) (i32.const 1200))
            (i32.store (i32.const 132) (i32.const 1))
            (i32.store (i32.const 136) (local.get 1))
            (call $compute (global.get $context) (i32.const 128) (i32.const 1) (i32.const 64))
            (if (i32.load8_u (i32.const 64)) (then (return (call $refuse-with (i32.load (i32.const 68))))))
            (call $ok (i32.load offset=8 (i32.load (i32.const 68))))"#,
        rest: &format!(
            r#"(global $context (mut i32) (i32.const 0))
               (global $name-length i32 (i32.const {}))
               (data (i32.const 1024) "{layer}") (data (i32.const 1200) "x")"#,
            layer.len()
        ),
        ..Block::default()
    }
    .wat()
}

/// A model block by hand: bodies of core functions, around them what every block needs.
///
/// Core functions at hand: `$tensor-new`, `$tensor-drop`, `$alias`, `$gelu`, `$attend`, `$load`, `$load-by-name`,
/// `$init-context`, `$compute`, `$error-code`, `$error-data`, `$session-new`, `$session-drop`; `$ok` and
/// `$refuse-with` make results; memory below 4096 is free to use.
pub(crate) struct Block<'a> {
    /// `(name pointer, length, settings pointer, length) -> result pointer`.
    pub(crate) open: &'a str,
    /// `(session, input, lengths) -> result pointer`.
    pub(crate) forward: &'a str,
    /// Anything else in the module.
    pub(crate) rest: &'a str,
    /// The memory's limits.
    pub(crate) memory: &'a str,
    /// Imports of the component beside its world's.
    pub(crate) imports: &'a str,
}

impl Default for Block<'_> {
    fn default() -> Self {
        Self {
            open: "(call $ok (call $session-new (i32.const 1)))",
            forward: "(call $tensor-drop (local.get 2)) (call $ok (local.get 1))",
            rest: "",
            memory: "1",
            imports: "",
        }
    }
}

impl Block<'_> {
    pub(crate) fn wat(&self) -> String {
        let Self { open, forward, rest, memory, imports } = self;
        format!(
            r#"(component
  {imports}
  {IMPORTS}
  (core module $libc (memory (export "memory") {memory})
    (global $next (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (memory.grow (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1))) (i32.const -1))
          (then unreachable))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  (type $session (resource (rep i32)))
  {LOWERED}
  (core module $main
    (import "libc" "memory" (memory 0))
    (import "host" "tensor-new" (func $tensor-new (param i32 i32 i32 i32 i32) (result i32)))
    (import "host" "tensor-drop" (func $tensor-drop (param i32)))
    (import "host" "alias" (func $alias (param i32) (result i32)))
    (import "host" "gelu" (func $gelu (param i32 i32)))
    (import "host" "attend" (func $attend (param i32 i32 i32 i32 i32)))
    (import "host" "load" (func $load (param i32 i32 i32 i32 i32)))
    (import "host" "load-by-name" (func $load-by-name (param i32 i32 i32)))
    (import "host" "init-context" (func $init-context (param i32 i32)))
    (import "host" "compute" (func $compute (param i32 i32 i32 i32)))
    (import "host" "error-code" (func $error-code (param i32) (result i32)))
    (import "host" "error-data" (func $error-data (param i32 i32)))
    (import "host" "session-new" (func $session-new (param i32) (result i32)))
    (import "host" "session-drop" (func $session-drop (param i32)))
    ;; The result `ok(handle)`.
    (func $ok (param i32) (result i32)
      (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (local.get 0)) (i32.const 16))
    ;; The result `err(operation("<code> <text>"))` from a wasi-nn error.
    (func $refuse-with (param i32) (result i32)
      (call $error-data (local.get 0) (i32.const 32))
      (memory.copy (i32.const 2048) (i32.load (i32.const 32)) (i32.load (i32.const 36)))
      (i32.store8 (i32.const 2046) (i32.add (i32.const 48) (call $error-code (local.get 0))))
      (i32.store8 (i32.const 2047) (i32.const 32))
      (i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2))
      (i32.store (i32.const 24) (i32.const 2046))
      (i32.store (i32.const 28) (i32.add (i32.load (i32.const 36)) (i32.const 2)))
      (i32.const 16))
    {rest}
    (func $open (export "open") (param i32 i32 i32 i32) (result i32) {open})
    (func $forward (export "forward") (param i32 i32 i32) (result i32) {forward}))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance
      (export "tensor-new" (func $tensor-new)) (export "tensor-drop" (func $tensor-drop))
      (export "alias" (func $alias)) (export "gelu" (func $gelu)) (export "load" (func $load))
      (export "attend" (func $attend))
      (export "load-by-name" (func $load-by-name)) (export "init-context" (func $init-context))
      (export "compute" (func $compute)) (export "error-code" (func $error-code))
      (export "error-data" (func $error-data)) (export "session-new" (func $session-new))
      (export "session-drop" (func $session-drop))))))
  {BLOCK})"#
        )
    }
}

const IMPORTS: &str = r#"
  (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance $i-tensor
    (export "tensor" (type $t (sub resource)))
    (type $ty (enum "FP16" "FP32" "FP64" "BF16" "U8" "I32" "I64"))
    (export "tensor-type" (type $tt (eq $ty)))
    (export "[constructor]tensor"
      (func (param "dimensions" (list u32)) (param "ty" $tt) (param "data" (list u8)) (result (own $t))))))
  (alias export $i-tensor "tensor" (type $tensor))
  (import "wasi:nn/errors@0.2.0-rc-2024-10-28" (instance $i-errors
    (export "error" (type $e (sub resource)))
    (type $c (enum "invalid-argument" "invalid-encoding" "timeout" "runtime-error" "unsupported-operation"
      "too-large" "not-found" "security" "unknown"))
    (export "error-code" (type $code (eq $c)))
    (export "[method]error.code" (func (param "self" (borrow $e)) (result $code)))
    (export "[method]error.data" (func (param "self" (borrow $e)) (result string)))))
  (alias export $i-errors "error" (type $error))
  (import "wasi:nn/inference@0.2.0-rc-2024-10-28" (instance $i-inference
    (alias outer 1 $tensor (type $outer-t)) (export "tensor" (type $t (eq $outer-t)))
    (alias outer 1 $error (type $outer-e)) (export "error" (type $e (eq $outer-e)))
    (export "graph-execution-context" (type $x (sub resource)))
    (type $n (tuple string (own $t)))
    (export "named-tensor" (type $named (eq $n)))
    (export "[method]graph-execution-context.compute" (func (param "self" (borrow $x))
      (param "inputs" (list $named)) (result (result (list $named) (error (own $e))))))))
  (alias export $i-inference "graph-execution-context" (type $context))
  (import "wasi:nn/graph@0.2.0-rc-2024-10-28" (instance $i-graph
    (alias outer 1 $error (type $outer-e)) (export "error" (type $e (eq $outer-e)))
    (alias outer 1 $context (type $outer-x)) (export "graph-execution-context" (type $x (eq $outer-x)))
    (export "graph" (type $g (sub resource)))
    (type $en (enum "openvino" "onnx" "tensorflow" "pytorch" "tensorflowlite" "ggml" "autodetect"))
    (export "graph-encoding" (type $encoding (eq $en)))
    (type $ta (enum "cpu" "gpu" "tpu"))
    (export "execution-target" (type $target (eq $ta)))
    (export "load" (func (param "builder" (list (list u8))) (param "encoding" $encoding) (param "target" $target)
      (result (result (own $g) (error (own $e))))))
    (export "load-by-name" (func (param "name" string) (result (result (own $g) (error (own $e))))))
    (export "[method]graph.init-execution-context"
      (func (param "self" (borrow $g)) (result (result (own $x) (error (own $e))))))))
  (import "ostrakon:plugin/exact@0.1.0" (instance $i-exact
    (alias outer 1 $tensor (type $outer-t)) (export "tensor" (type $t (eq $outer-t)))
    (type $r (variant (case "invalid-argument" string) (case "too-large" string)))
    (export "refusal" (type $refusal (eq $r)))
    (export "alias" (func (param "x" (borrow $t)) (result (own $t))))
    (export "gelu" (func (param "x" (borrow $t)) (result (result (own $t) (error $refusal)))))
    (export "causal-attention" (func (param "qkv" (borrow $t)) (param "lengths" (borrow $t)) (param "heads" u32)
      (param "kv-heads" u32) (result (result (own $t) (error $refusal)))))))"#;

const LOWERED: &str = r#"
  (core func $tensor-new (canon lower (func $i-tensor "[constructor]tensor") (memory $memory)))
  (core func $tensor-drop (canon resource.drop $tensor))
  (core func $alias (canon lower (func $i-exact "alias")))
  (core func $gelu (canon lower (func $i-exact "gelu") (memory $memory) (realloc $realloc)))
  (core func $attend (canon lower (func $i-exact "causal-attention") (memory $memory) (realloc $realloc)))
  (core func $load (canon lower (func $i-graph "load") (memory $memory)))
  (core func $load-by-name (canon lower (func $i-graph "load-by-name") (memory $memory)))
  (core func $init-context (canon lower (func $i-graph "[method]graph.init-execution-context") (memory $memory)))
  (core func $compute (canon lower (func $i-inference "[method]graph-execution-context.compute")
    (memory $memory) (realloc $realloc)))
  (core func $error-code (canon lower (func $i-errors "[method]error.code")))
  (core func $error-data (canon lower (func $i-errors "[method]error.data") (memory $memory) (realloc $realloc)))
  (core func $session-new (canon resource.new $session))
  (core func $session-drop (canon resource.drop $session))"#;

/// Lifts `open` and `forward` of `$main` and exports them as the interface `block`.
const BLOCK: &str = r#"
  (type $failure (variant (case "bad-settings" string) (case "bad-input" string) (case "operation" string)))
  (func $open (param "name" string) (param "settings" (list (tuple string string)))
    (result (result (own $session) (error $failure)))
    (canon lift (core func $main "open") (memory $memory) (realloc $realloc)))
  (func $forward (param "self" (borrow $session)) (param "input" (own $tensor)) (param "lengths" (borrow $tensor))
    (result (result (own $tensor) (error $failure)))
    (canon lift (core func $main "forward") (memory $memory) (realloc $realloc)))
  (component $shim
    (import "tensor" (type $tensor (sub resource)))
    (import "session" (type $session (sub resource)))
    (type $f (variant (case "bad-settings" string) (case "bad-input" string) (case "operation" string)))
    (import "failure" (type $failure (eq $f)))
    (import "open" (func $open (param "name" string) (param "settings" (list (tuple string string)))
      (result (result (own $session) (error $failure)))))
    (import "forward" (func $forward (param "self" (borrow $session)) (param "input" (own $tensor))
      (param "lengths" (borrow $tensor)) (result (result (own $tensor) (error $failure)))))
    (export $s "session" (type $session))
    (export $e "failure" (type $failure))
    (export "[static]session.open" (func $open) (func (param "name" string)
      (param "settings" (list (tuple string string))) (result (result (own $s) (error $e)))))
    (export "[method]session.forward" (func $forward) (func (param "self" (borrow $s)) (param "input" (own $tensor))
      (param "lengths" (borrow $tensor)) (result (result (own $tensor) (error $e))))))
  (instance $block (instantiate $shim
    (with "tensor" (type $tensor)) (with "session" (type $session)) (with "failure" (type $failure))
    (with "open" (func $open)) (with "forward" (func $forward))))
  (export "ostrakon:plugin/block@0.1.0" (instance $block))"#;

/// A reference block by hand: tensors of its own, and a forward that passes its input through.
pub(crate) fn reference_identity() -> String {
    format!(
        r#"(component
  (core module $libc (memory (export "memory") 1)
    (global $next (mut i32) (i32.const 8192))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  (type $session (resource (rep i32)))
  (type $raw (resource (rep i32)))
  (core func $session-new (canon resource.new $session))
  (core func $tensor-new (canon resource.new $raw))
  (core module $main
    (import "libc" "memory" (memory 0))
    (import "libc" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "host" "session-new" (func $session-new (param i32) (result i32)))
    (import "host" "tensor-new" (func $tensor-new (param i32) (result i32)))
    (func $ok (param i32) (result i32)
      (i32.store (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (local.get 0)) (i32.const 16))
    (func (export "open") (param i32 i32 i32 i32) (result i32) (call $ok (call $session-new (i32.const 1))))
    (func (export "forward") (param i32 i32 i32) (result i32) (call $ok (local.get 1)))
    ;; The representation points at dimensions (pointer, length), data (pointer, length), type.
    (func (export "constructor") (param i32 i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 20)))
      (i32.store (local.get $at) (local.get 0))
      (i32.store offset=4 (local.get $at) (local.get 1))
      (i32.store offset=8 (local.get $at) (local.get 3))
      (i32.store offset=12 (local.get $at) (local.get 4))
      (i32.store offset=16 (local.get $at) (local.get 2))
      (call $tensor-new (local.get $at)))
    (func (export "dimensions") (param i32) (result i32) (local.get 0))
    (func (export "ty") (param i32) (result i32) (i32.load offset=16 (local.get 0)))
    (func (export "data") (param i32) (result i32) (i32.add (local.get 0) (i32.const 8))))
  (core instance $main (instantiate $main
    (with "libc" (instance $libc))
    (with "host" (instance (export "session-new" (func $session-new)) (export "tensor-new" (func $tensor-new))))))
  (type $ty (enum "FP16" "FP32" "FP64" "BF16" "U8" "I32" "I64"))
  (func $constructor (param "dimensions" (list u32)) (param "ty" $ty) (param "data" (list u8))
    (result (own $raw)) (canon lift (core func $main "constructor") (memory $memory) (realloc $realloc)))
  (func $dimensions (param "self" (borrow $raw)) (result (list u32))
    (canon lift (core func $main "dimensions") (memory $memory)))
  (func $ty-of (param "self" (borrow $raw)) (result $ty) (canon lift (core func $main "ty")))
  (func $data (param "self" (borrow $raw)) (result (list u8))
    (canon lift (core func $main "data") (memory $memory)))
  (component $tensor-shim
    (import "tensor" (type $tensor (sub resource)))
    (type $e (enum "FP16" "FP32" "FP64" "BF16" "U8" "I32" "I64"))
    (import "ty" (type $ty (eq $e)))
    (import "constructor" (func $constructor (param "dimensions" (list u32)) (param "ty" $ty)
      (param "data" (list u8)) (result (own $tensor))))
    (import "dimensions" (func $dimensions (param "self" (borrow $tensor)) (result (list u32))))
    (import "ty-of" (func $ty-of (param "self" (borrow $tensor)) (result $ty)))
    (import "data" (func $data (param "self" (borrow $tensor)) (result (list u8))))
    (export $t "tensor" (type $tensor))
    (export $tt "tensor-type" (type $ty))
    (export "[constructor]tensor" (func $constructor) (func (param "dimensions" (list u32)) (param "ty" $tt)
      (param "data" (list u8)) (result (own $t))))
    (export "[method]tensor.dimensions" (func $dimensions) (func (param "self" (borrow $t)) (result (list u32))))
    (export "[method]tensor.ty" (func $ty-of) (func (param "self" (borrow $t)) (result $tt)))
    (export "[method]tensor.data" (func $data) (func (param "self" (borrow $t)) (result (list u8)))))
  (instance $tensors (instantiate $tensor-shim
    (with "tensor" (type $raw)) (with "ty" (type $ty)) (with "constructor" (func $constructor))
    (with "dimensions" (func $dimensions)) (with "ty-of" (func $ty-of)) (with "data" (func $data))))
  (export $exported "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance $tensors))
  (alias export $exported "tensor" (type $tensor))
  {BLOCK})"#
    )
}
