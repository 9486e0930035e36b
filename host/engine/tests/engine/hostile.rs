//! Hostile components: each is refused or stopped by an error of its own, and neighbours go on.

use crate::support;
use crate::support::{
    Block, admit, assert_neighbours_work, host, identity, lengths, limits, rows, runtime, shared_runtime,
};
use ostrakon_engine::{AdmissionError, CallError, Compiler, Failure, HostFault, Limits, Trap, World};
use std::fmt::Write as _;
use std::time::Duration;

/// Run a block's `open` and `forward` beside a healthy neighbour and return how it ended.
fn run(block: &Block<'_>, limits: Limits) -> CallError {
    let runtime = shared_runtime();
    let healthy = admit(runtime, &identity());
    let mut neighbour = healthy.instantiate(host(), support::limits()).unwrap();
    let session = neighbour.open("b", &[]).unwrap();
    let plugin = admit(runtime, &block.wat());
    let error = match plugin.instantiate(host(), limits) {
        Err(error) => error,
        Ok(mut instance) => {
            let error = match instance.open("b", &[]) {
                Ok(open) => instance.forward(open, rows(1), &lengths(&[1])).unwrap_err(),
                Err(error) => error,
            };
            if !matches!(error, CallError::Guest(_)) {
                let again = instance.open("b", &[]).unwrap_err();
                assert!(matches!(again, CallError::Host(HostFault::Spent(_))), "{again}");
            }
            error
        }
    };
    let output = neighbour.forward(session, rows(3), &lengths(&[3])).unwrap().output;
    assert_eq!(output.to_bytes(), rows(3).to_bytes());
    neighbour.close(session).unwrap();
    assert_neighbours_work(&healthy, &mut neighbour);
    error
}

fn refused(wat: &str) -> AdmissionError {
    shared_runtime().admit(&wat::parse_str(wat).unwrap(), World::ModelBlock).unwrap_err()
}

const SPIN: &str = "(loop $again (br $again)) unreachable";

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    for block in [Block { open: SPIN, ..Block::default() }, Block { forward: SPIN, ..Block::default() }] {
        let error = run(&block, limits());
        assert_eq!(error, CallError::Trap(Trap::OutOfFuel { budget: limits().fuel }));
    }
}

#[test]
fn an_endless_start_function_runs_out_of_fuel() {
    let block = Block { rest: "(func $spin (loop $again (br $again))) (start $spin)", ..Block::default() };
    assert!(matches!(run(&block, limits()), CallError::Trap(Trap::OutOfFuel { .. })));
}

#[test]
fn an_endless_loop_with_fuel_to_spare_runs_out_of_time() {
    let limits = Limits { fuel: u64::MAX >> 1, wall_time: Duration::from_millis(100), ..limits() };
    let error = run(&Block { open: SPIN, ..Block::default() }, limits);
    assert_eq!(error, CallError::Host(HostFault::TimedOut { limit: Duration::from_millis(100) }));
}

#[test]
fn an_endless_loop_of_host_calls_runs_out_of_fuel() {
    let open =
        "(loop $again (call $load (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 64)) (br $again))
        unreachable";
    let error = run(&Block { open, ..Block::default() }, Limits { fuel: 1_000_000, ..limits() });
    assert!(matches!(error, CallError::Trap(Trap::OutOfFuel { .. })), "{error}");
}

#[test]
fn a_memory_bomb_is_stopped_and_cannot_see_that_the_host_refused() {
    // Answers calmly if memory.grow ever returns -1.
    let open = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 64)) (i32.const -1))))
        (call $ok (call $session-new (i32.const 1)))";
    let error = run(&Block { open, ..Block::default() }, limits());
    assert!(
        matches!(error, CallError::Host(HostFault::Memory { limit, .. }) if limit == limits().memory_bytes),
        "{error}"
    );
}

#[test]
fn a_component_sees_its_own_declared_maximum() {
    let open = "(if (i32.ne (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable))
        (call $ok (call $session-new (i32.const 1)))";
    let wat = Block { open, memory: "1 4", ..Block::default() }.wat();
    let mut instance = admit(shared_runtime(), &wat).instantiate(host(), limits()).unwrap();
    assert!(instance.open("b", &[]).is_ok());
}

#[test]
fn a_memory_that_starts_beyond_the_limit_is_a_host_fault() {
    let error = run(&Block { memory: "1000", ..Block::default() }, limits());
    assert!(matches!(error, CallError::Host(HostFault::Memory { .. })), "{error}");
}

#[test]
fn a_table_bomb_is_stopped() {
    let open = "(loop $again (br_if $again (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1))))
        (call $ok (call $session-new (i32.const 1)))";
    let error = run(&Block { open, rest: "(table $t 1 funcref)", ..Block::default() }, limits());
    assert!(matches!(error, CallError::Host(HostFault::Table { limit: 10_000, .. })), "{error}");
}

#[test]
fn deep_recursion_is_a_host_fault_with_both_compilers() {
    let block = Block {
        open: "(call $deep (i32.const 1))",
        rest: "(func $deep (param i32) (result i32)
        (i32.add (call $deep (i32.add (local.get 0) (i32.const 1))) (local.get 0)))",
        ..Block::default()
    };
    assert_eq!(run(&block, limits()), CallError::Host(HostFault::StackOverflow));
    let pulley = runtime(Compiler::Pulley);
    let mut instance = admit(&pulley, &block.wat()).instantiate(host(), limits()).unwrap();
    assert_eq!(instance.open("b", &[]).unwrap_err(), CallError::Host(HostFault::StackOverflow));
}

#[test]
fn a_wasm_trap_is_a_trap() {
    let error = run(&Block { forward: "unreachable", ..Block::default() }, limits());
    assert!(matches!(&error, CallError::Trap(Trap::Wasm(text)) if text.contains("unreachable")), "{error}");
}

#[test]
fn wasi_and_other_versions_are_refused_by_name() {
    for name in [
        "wasi:cli/environment@0.2.0",
        "wasi:clocks/wall-clock@0.2.0",
        "wasi:nn/tensor@0.2.0-rc-2024-08-19",
        "ostrakon:plugin/exact@0.2.0",
        "ostrakon:plugin/weights@0.1.0",
        "env",
    ] {
        let imports = format!("(import \"{name}\" (instance))");
        let error = refused(&Block { imports: &imports, ..Block::default() }.wat());
        assert_eq!(error, AdmissionError::Import { name: name.to_owned(), world: "model-block" });
        assert!(error.to_string().contains("exact@0.1.0"), "{error}");
    }
}

#[test]
fn other_kinds_of_import_are_refused() {
    let error = refused(&Block { imports: "(import \"f\" (func))", ..Block::default() }.wat());
    assert_eq!(error, AdmissionError::Import { name: "f (func)".to_owned(), world: "model-block" });
}

#[test]
fn imports_of_the_right_name_and_the_wrong_type_are_refused() {
    let wat = identity().replace(
        "(func (param \"x\" (borrow $t)) (result (own $t)))",
        "(func (param \"x\" (own $t)) (result (own $t)))",
    );
    let error = refused(&wat);
    assert!(matches!(&error, AdmissionError::Types { reason, .. } if reason.contains("alias")), "{error}");
}

#[test]
fn exports_of_the_wrong_type_are_refused() {
    let wat = identity().replace("(list (tuple string string))", "(list (tuple string u32))");
    let error = refused(&wat);
    assert!(matches!(&error, AdmissionError::Types { reason, .. } if reason.contains("session.open")), "{error}");
}

#[test]
fn missing_and_unknown_exports_are_refused() {
    let nothing = refused("(component)");
    assert_eq!(nothing, AdmissionError::MissingExport { name: "ostrakon:plugin/block@0.1.0", world: "model-block" });
    let wat = identity();
    let more =
        format!("{} (instance $more) (export \"more\" (instance $more)))", wat.trim_end().strip_suffix(')').unwrap());
    assert_eq!(refused(&more), AdmissionError::Export { name: "more".to_owned(), world: "model-block" });
}

#[test]
fn a_module_of_100_000_functions_is_refused() {
    let mut functions = String::new();
    for _ in 0..100_000 {
        functions.push_str("(func)");
    }
    let wat = Block { rest: &functions, ..Block::default() }.wat();
    let bytes = wat::parse_str(&wat).unwrap();
    let error = shared_runtime().admit(&bytes, World::ModelBlock).unwrap_err();
    assert!(matches!(error, AdmissionError::TooMany { what: "functions", found: 100_000.., .. }), "{error}");
}

#[test]
fn bombs_of_structure_are_refused() {
    let cases = [
        ("pages of initial memory", Block { memory: "60000", ..Block::default() }.wat()),
        ("initial table elements", Block { rest: "(table 9000000 funcref)", ..Block::default() }.wat()),
        ("instances of inner components once unfolded", doubling(30)),
        ("inner components", "(component)".repeat(100)),
    ];
    for (what, wat) in cases {
        let wat = if wat.starts_with("(component)") {
            identity().replacen("(component", &format!("(component {wat}"), 1)
        } else {
            wat
        };
        let error = refused(&wat);
        assert!(matches!(error, AdmissionError::TooMany { what: w, .. } if w == what), "{what}: {error}");
    }
}

/// Components that each instantiate the one before twice: 2^n instances.
fn doubling(n: usize) -> String {
    let mut inner = String::from("(component $c0)");
    for i in 1..n {
        let before = i - 1;
        write!(inner, "(component $c{i} (alias outer 1 $c{before} (component $x)) (instance (instantiate $x)) (instance (instantiate $x)))").unwrap();
    }
    identity().replacen("(component", &format!("(component {inner}"), 1)
}

#[test]
fn deeply_nested_types_do_not_overflow_the_stack() {
    // A type section of `(component (type (component (type ...` a million levels deep.
    let levels = 1_000_000;
    let mut section = vec![1u8];
    for _ in 0..levels {
        section.extend([0x41, 1, 1]);
    }
    section.extend([0x41, 0]);
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.push(7);
    let mut length = section.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(section);
    let error = shared_runtime().admit(&bytes, World::ModelBlock).unwrap_err();
    assert!(matches!(error, AdmissionError::TooMany { what: "types inside of types in one section", .. }), "{error}");
}

#[test]
fn bytes_that_are_no_component_are_refused() {
    let runtime = shared_runtime();
    let component = wat::parse_str(identity()).unwrap();
    let module = wat::parse_str("(module)").unwrap();
    for bytes in [&b""[..], b"\0asm", b"not wasm at all", &module, &component[..component.len() - 7]] {
        let error = runtime.admit(bytes, World::ModelBlock).unwrap_err();
        assert!(matches!(error, AdmissionError::NotAComponent(_)), "{error}");
    }
    let large = runtime.admit(&vec![0; (16 << 20) + 1], World::ModelBlock).unwrap_err();
    assert!(matches!(large, AdmissionError::TooLarge { .. }), "{large}");
}

#[test]
fn flipped_bits_never_harm() {
    let component = wat::parse_str(identity()).unwrap();
    let runtime = shared_runtime();
    for at in (0..component.len()).step_by(37) {
        let mut bytes = component.clone();
        bytes[at] ^= 1 << (at % 8);
        // Whatever it is now, it is refused or it is a component.
        let _ = runtime.admit(&bytes, World::ModelBlock);
    }
}

#[test]
fn proposals_that_the_profile_switches_off_are_refused() {
    for (rest, what) in [
        ("(memory 1)", "multi"),
        ("(func (param i32) (result i32) (return_call $ok (local.get 0)))", "tail call"),
        ("(func (param v128) (result v128) (f32x4.relaxed_min (local.get 0) (local.get 0)))", "relaxed"),
        ("(type (struct))", "gc"),
        ("(func (local externref))", "gc"),
    ] {
        let error = refused(&Block { rest, ..Block::default() }.wat());
        assert!(matches!(&error, AdmissionError::Invalid(_)), "{what}: {error}");
    }
}

#[test]
fn tensors_of_the_wrong_length_trap_with_the_host_s_reason() {
    // [2, 2] of FP32 with 12 bytes, of FP16 with 16 bytes, and a shape larger than any memory.
    for (dims, ty, bytes) in [
        ("\\02\\00\\00\\00\\02\\00\\00\\00", 1, 12),
        ("\\02\\00\\00\\00\\02\\00\\00\\00", 0, 16),
        ("\\ff\\ff\\ff\\ff\\ff\\ff\\ff\\ff", 1, 16),
    ] {
        let open = format!(
            "(drop (call $tensor-new (i32.const 0) (i32.const 2) (i32.const {ty}) (i32.const 512) (i32.const {bytes}))) unreachable"
        );
        let rest = format!("(data (i32.const 0) \"{dims}\")");
        let error = run(&Block { open: &open, rest: &rest, ..Block::default() }, limits());
        assert!(matches!(&error, CallError::Trap(Trap::Refused(_))), "{error}");
    }
}

#[test]
fn a_tensor_from_outside_of_memory_traps() {
    let open = "(drop (call $tensor-new (i32.const 0) (i32.const 1) (i32.const 4) (i32.const 65000) (i32.const 70000))) unreachable";
    let error = run(&Block { open, ..Block::default() }, limits());
    assert!(matches!(error, CallError::Trap(_)), "{error}");
}

#[test]
fn a_million_handles_run_into_the_quota() {
    let million = |make: &str| {
        format!(
            "(local $i i32) (loop $again {make}
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
        (call $ok (call $session-new (i32.const 1)))"
        )
    };
    let one_byte = "(data (i32.const 0) \"\\01\\00\\00\\00\")";
    let limits = Limits { fuel: 1 << 40, ..limits() };
    for make in [
        "(drop (call $tensor-new (i32.const 0) (i32.const 1) (i32.const 4) (i32.const 0) (i32.const 1)))",
        "(drop (call $session-new (i32.const 1)))",
        "(call $load (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 64))",
    ] {
        let error = run(&Block { open: &million(make), rest: one_byte, ..Block::default() }, limits);
        assert!(matches!(&error, CallError::Host(HostFault::Quota(_))), "{make}: {error}");
    }
    let forward = million("(drop (call $alias (local.get 1)))");
    let error = run(&Block { forward: &forward, ..Block::default() }, limits);
    assert!(matches!(&error, CallError::Host(HostFault::Quota(_))), "alias: {error}");
}

#[test]
fn handing_over_too_much_at_once_is_a_host_fault() {
    let open = "(drop (call $tensor-new (i32.const 0) (i32.const 60000) (i32.const 4) (i32.const 0) (i32.const 1))) unreachable";
    let error = run(&Block { open, memory: "16", ..Block::default() }, Limits { transfer_bytes: 1024, ..limits() });
    assert_eq!(error, CallError::Host(HostFault::Transfer { limit: 1024 }));
}

#[test]
fn raw_bytes_are_not_loaded() {
    let open = "(call $load (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 64))
        (if (i32.load8_u (i32.const 64)) (then (return (call $refuse-with (i32.load (i32.const 68)))))) unreachable";
    let error = run(&Block { open, ..Block::default() }, limits());
    // 7 is `security`.
    assert!(
        matches!(&error, CallError::Guest(Failure::Operation(text)) if text.starts_with("7 ") && text.contains("raw bytes")),
        "{error}"
    );
}

#[test]
fn unknown_layers_and_other_packages_layers_are_not_found() {
    for (name, code) in [
        ("b.unknown", '6'),
        ("/other/b.linear", '7'),
        ("other:b.linear", '7'),
        ("../b.linear", '7'),
        ("B.Linear", '0'),
        ("", '0'),
    ] {
        let plugin = admit(shared_runtime(), &support::linear(name));
        let mut instance = plugin.instantiate(host(), limits()).unwrap();
        let error = instance.open("b", &[]).unwrap_err();
        assert!(
            matches!(&error, CallError::Guest(Failure::Operation(text)) if text.starts_with(code)),
            "{name}: {error}"
        );
        assert!(!instance.is_spent());
    }
}

#[test]
fn misused_handles_break_the_rules() {
    for forward in [
        // Forged: never given out.
        "(call $tensor-drop (i32.const 4000)) unreachable",
        "(drop (call $alias (i32.const 99))) unreachable",
        // Dropped twice.
        "(call $tensor-drop (local.get 1)) (call $tensor-drop (local.get 1)) unreachable",
        // Used after it was dropped.
        "(call $tensor-drop (local.get 1)) (drop (call $alias (local.get 1))) unreachable",
        // Of another type: a session is no tensor.
        "(drop (call $alias (call $session-new (i32.const 1)))) unreachable",
        "(call $tensor-drop (call $session-new (i32.const 1))) unreachable",
        // A borrow returned as if it were owned.
        "(call $ok (local.get 2))",
        // A borrow kept after the call.
        "(call $ok (local.get 1))",
        // A result that points outside of memory.
        "(i32.const -4)",
    ] {
        let error = run(&Block { forward, ..Block::default() }, limits());
        assert!(matches!(&error, CallError::Trap(Trap::Rules(_) | Trap::Wasm(_))), "{forward}: {error}");
    }
}

#[test]
fn sessions_of_the_caller_are_checked() {
    let mut instance = admit(shared_runtime(), &identity()).instantiate(host(), limits()).unwrap();
    let session = instance.open("b", &[]).unwrap();
    instance.close(session).unwrap();
    assert!(matches!(instance.close(session), Err(CallError::Host(HostFault::NoSession(0)))));
    let again = instance.forward(session, rows(1), &lengths(&[1])).unwrap_err();
    assert!(matches!(again, CallError::Host(HostFault::NoSession(0))));
    for _ in 0..1024 {
        instance.open("b", &[]).unwrap();
    }
    assert!(matches!(instance.open("b", &[]), Err(CallError::Host(HostFault::TooManySessions { .. }))));
}

#[test]
fn a_runtime_without_places_says_so_and_takes_the_next_when_one_is_free() {
    let runtime = runtime(Compiler::Cranelift);
    let plugin = admit(&runtime, &identity());
    let mut instances = Vec::new();
    let error = loop {
        assert!(instances.len() <= 4096, "instances without end");
        match plugin.instantiate(host(), limits()) {
            Ok(instance) => instances.push(instance),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::Host(HostFault::Engine(_))), "{error}");
    assert!(error.to_string().contains("1024"), "{error}");
    instances.pop();
    let mut instance = plugin.instantiate(host(), limits()).unwrap();
    let session = instance.open("b", &[]).unwrap();
    assert!(instance.forward(session, rows(3), &lengths(&[3])).is_ok());
}

#[test]
fn an_instance_sees_nothing_of_the_one_before_in_its_place() {
    // Write, and look for what was written: a cleared place has none of it.
    let open = "(if (i32.load (i32.const 60000)) (then unreachable)) (i32.store (i32.const 60000) (i32.const 7))
        (drop (memory.grow (i32.const 3)))
        (if (i32.load (i32.const 200000)) (then unreachable)) (i32.store (i32.const 200000) (i32.const 7))
        (call $ok (call $session-new (i32.const 1)))";
    let plugin = admit(&runtime(Compiler::Cranelift), &Block { open, memory: "1", ..Block::default() }.wat());
    for _ in 0..200 {
        let mut instance = plugin.instantiate(host(), limits()).unwrap();
        instance.open("b", &[]).unwrap();
    }
}

#[test]
fn an_input_beyond_the_quota_is_refused_and_the_instance_goes_on() {
    let quotas = ostrakon_nn::Quotas { bytes: 64, ..limits().quotas };
    let mut instance = admit(shared_runtime(), &identity()).instantiate(host(), Limits { quotas, ..limits() }).unwrap();
    let session = instance.open("b", &[]).unwrap();
    for (rows_of_input, batch) in [(5, vec![5]), (4, vec![4])] {
        let error = instance.forward(session, rows(rows_of_input), &lengths(&batch)).unwrap_err();
        assert!(matches!(error, CallError::Host(HostFault::Quota(_))), "{error}");
    }
    for _ in 0..3 {
        assert!(instance.forward(session, rows(3), &lengths(&[3])).is_ok());
    }
}
