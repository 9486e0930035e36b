//! Components are made reproducibly, fit together, and reach nothing but what their world lists.

use ostrakon_package::component::{
    BLOCK, ComponentError, Interface, TENSOR, WEIGHTS, componentize, compose, interface,
};
use std::path::{Path, PathBuf};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const MODULE: &str = r#"(module $named (func $answer (export "answer") (result i32) i32.const 42))"#;

/// What the compiler leaves: a core module that carries its world.
fn core(module: &str, wit: &str) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let package = resolve.push_str("test.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    module
}

fn answer(module: &str) -> Vec<u8> {
    core(module, "package test:answer; world deep-thought { export answer: func() -> u32; }")
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_core_module_becomes_a_component() {
    let component = componentize(&answer(MODULE)).unwrap();
    let wanted = Interface { imports: vec![], exports: vec!["answer".to_owned()] };
    assert_eq!(interface(&component).unwrap(), wanted);
}

#[test]
fn names_and_tools_leave_no_trace() {
    let producers = r#"(@custom "producers" "\00") (@custom "notes" "built on a Tuesday") (module"#;
    let noted = MODULE.replace("(module $named", &producers.replace("(module", "")).replace("$answer", "$other");
    let noted = answer(&format!("(module {noted}"));
    assert!(has(&noted, "Tuesday"));
    let component = componentize(&noted).unwrap();
    assert_eq!(component, componentize(&answer(MODULE)).unwrap());
    for trace in ["Tuesday", "producers", "wit-component", "component-type"] {
        assert!(!has(&component, trace), "{trace}");
    }
}

#[test]
fn what_is_no_core_module_is_refused() {
    let component = componentize(&answer(MODULE)).unwrap();
    for bytes in [&b""[..], b"\0asm", b"not wasm at all", &component] {
        assert!(matches!(componentize(bytes), Err(ComponentError::NotWasm { .. })), "{bytes:?}");
    }
    let whole = answer(MODULE);
    for end in 8..whole.len() {
        assert!(componentize(&whole[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_module_without_a_world_or_with_other_imports_is_refused() {
    let clock = r#"(module (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func (result i64)))
        (func (export "answer") (result i32) i32.const 42))"#;
    for module in [wat::parse_str(MODULE).unwrap(), answer(clock), answer("(module)")] {
        let error = componentize(&module).unwrap_err();
        assert!(matches!(error, ComponentError::Encode(_)), "{error}");
    }
}

/// A component that exports tensors and reads weights.
fn reference(export: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "{WEIGHTS}" (instance $weights (export "size" (func (result u32)))))
            (core module $m (func (export "size") (param i32) (result i32) local.get 0))
            (core instance $i (instantiate $m))
            (type $tensor (resource (rep i32)))
            (core func $drop (canon resource.drop $tensor))
            (func $size (param "self" (borrow $tensor)) (result u32) (canon lift (core func $i "size")))
            (component $shim
                (import "tensor" (type $t (sub resource)))
                (import "size" (func $s (param "self" (borrow $t)) (result u32)))
                (export $out "tensor" (type $t))
                (export "[method]tensor.size" (func $s) (func (param "self" (borrow $out)) (result u32))))
            (instance $out (instantiate $shim (with "tensor" (type $tensor)) (with "size" (func $size))))
            (export "{export}" (instance $out)))"#
    );
    wat::parse_str(text).unwrap()
}

/// A component that imports tensors and exports a block that takes them.
fn block(method: &str, also: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "{TENSOR}" (instance $nn
                (export "tensor" (type $t (sub resource)))
                (export "[method]tensor.{method}" (func (param "self" (borrow $t)) (result u32)))))
            {also}
            (alias export $nn "tensor" (type $tensor))
            (core module $m (func (export "forward") (param i32)))
            (core instance $i (instantiate $m))
            (func $forward (param "x" (own $tensor)) (canon lift (core func $i "forward")))
            (component $shim
                (import "tensor" (type $t (sub resource)))
                (import "forward" (func $f (param "x" (own $t))))
                (export "forward" (func $f)))
            (instance $out (instantiate $shim (with "tensor" (type $tensor)) (with "forward" (func $forward))))
            (export "{BLOCK}" (instance $out)))"#
    );
    wat::parse_str(text).unwrap()
}

fn composed() -> Interface {
    Interface { imports: vec![WEIGHTS.to_owned()], exports: vec![TENSOR.to_owned(), BLOCK.to_owned()] }
}

#[test]
fn a_block_composed_with_a_reference_imports_weights_alone() {
    let (block, reference) = (block("size", ""), reference(TENSOR));
    let component = compose(&block, &reference).unwrap();
    assert_eq!(interface(&component).unwrap(), composed());
    assert_eq!(component, compose(&block, &reference).unwrap());
}

#[test]
fn components_that_do_not_fit_are_refused() {
    let clock = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
    for (block, reference, named) in [
        (block("size", ""), reference("wasi:nn/tensor@0.2.0"), TENSOR),
        (block("rank", ""), reference(TENSOR), "rank"),
        (block("size", clock), reference(TENSOR), "wasi:clocks"),
        (reference(TENSOR), reference(TENSOR), WEIGHTS),
    ] {
        let error = compose(&block, &reference).unwrap_err();
        assert!(matches!(error, ComponentError::Compose(_)), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    for (block, reference) in [(&b"nonsense"[..], &reference(TENSOR)[..]), (&block("size", ""), &answer(MODULE))] {
        let error = compose(block, reference).unwrap_err();
        assert!(matches!(error, ComponentError::NotWasm { .. }), "{error}");
    }
}

#[test]
fn the_contracts_parse() {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    for world in ["model-block", "exact-reference", "reference-block", "verifier"] {
        resolve.select_world(&[package], Some(world)).unwrap();
    }
}

/// A built component, from the directory in `OSTRAKON_PLUGINS` or from where `make plugins` leaves it.
fn built(name: &str) -> Vec<u8> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/plugins");
    let path = std::env::var_os("OSTRAKON_PLUGINS").map_or(default, PathBuf::from).join(name);
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}. Run `make plugins`, or name the directory in OSTRAKON_PLUGINS", path.display())
    })
}

fn nn(name: &str) -> String {
    format!("wasi:nn/{name}@0.2.0-rc-2024-10-28")
}

#[test]
fn plugins_import_nothing_but_their_world() {
    let world = ["tensor", "errors", "inference", "graph"].map(nn);
    for name in ["block-bert.wasm", "block-llama.wasm"] {
        let block = interface(&built(name)).unwrap();
        for import in &block.imports {
            assert!(world.contains(import) || import == "ostrakon:plugin/exact@0.1.0", "{name}: {import}");
        }
        assert_eq!(block.exports, [BLOCK]);
    }

    let mut reference = interface(&built("exact-reference.wasm")).unwrap();
    assert_eq!(reference.imports, [WEIGHTS]);
    let mut exports = world.to_vec();
    exports.push("ostrakon:plugin/exact@0.1.0".to_owned());
    exports.sort();
    reference.exports.sort();
    assert_eq!(reference.exports, exports);
}

#[test]
fn plugins_say_nothing_about_where_they_were_built() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    for name in ["block-bert.wasm", "block-llama.wasm", "exact-reference.wasm", "verifier.wasm"] {
        let component = built(name);
        for place in [repository.to_str().unwrap(), "/.cargo/registry", "/home/", "/root/"] {
            assert!(!has(&component, place), "{name} holds the path {place}");
        }
        assert!(component.len() < 256 << 10, "{name} has {} bytes", component.len());
    }
}

#[test]
fn the_built_block_runs_on_the_built_reference() {
    for block in ["block-bert.wasm", "block-llama.wasm"] {
        let component = compose(&built(block), &built("exact-reference.wasm")).unwrap();
        assert_eq!(interface(&component).unwrap(), composed());
    }
}
