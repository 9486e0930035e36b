//! Calls that go on from earlier ones: the same bytes as in one call, and nothing half done that could be used again.

use crate::support;
use crate::support::{Block, admit, host, limits, runtime, shared_runtime};
use ostrakon_engine::{CallError, Compiler, Failure, HostFault, Instance, Limits, Plugin, SessionId, Trap, World};
use ostrakon_nn::{Quotas, SequencePast, Tensor};

/// Two columns a head: queries, keys and values of one head each.
const COLUMNS: u32 = 6;

/// `(call $attended LENGTHS)` attends to the input and leaves the result at 64; `(call $no)` is its refusal as a failure.
const ATTEND: &str = r#"
    (global $calls (mut i32) (i32.const 0))
    (func $attended (param $input i32) (param $lengths i32) (result i32)
      (call $attend (local.get $input) (local.get $lengths) (i32.const 1) (i32.const 1) (i32.const 64))
      (i32.load8_u (i32.const 64)))
    (func $no (result i32)
      (i32.store (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const 2))
      (i32.store (i32.const 24) (i32.load (i32.const 72))) (i32.store (i32.const 28) (i32.load (i32.const 76)))
      (i32.const 16))
    (func $drop-inputs (param $input i32) (param $lengths i32)
      (call $tensor-drop (local.get $lengths)) (call $tensor-drop (local.get $input)))
    ;; The tensor I32 [1] = 3.
    (data (i32.const 256) "\01\00\00\00\03\00\00\00")
    (func $forged (result i32)
      (call $tensor-new (i32.const 256) (i32.const 1) (i32.const 5) (i32.const 260) (i32.const 4)))
    (data (i32.const 300) "enough")"#;

fn block(forward: &str) -> String {
    Block { forward, rest: ATTEND, ..Block::default() }.wat()
}

/// Attends once.
fn honest() -> String {
    block(
        r#"(if (call $attended (local.get 1) (local.get 2))
             (then (call $drop-inputs (local.get 1) (local.get 2)) (return (call $no))))
           (call $drop-inputs (local.get 1) (local.get 2))
           (call $ok (i32.load (i32.const 68)))"#,
    )
}

/// Attends with `lengths`, a handle, and drops what it was given.
fn with_lengths(lengths: &str) -> String {
    block(&format!(
        r#"(local $made i32) (local.set $made {lengths})
           (drop (call $attended (local.get 1) (local.get $made)))
           (call $tensor-drop (local.get $made))
           (call $drop-inputs (local.get 1) (local.get 2))
           (if (i32.load8_u (i32.const 64)) (then (return (call $no))))
           (call $ok (i32.load (i32.const 68)))"#
    ))
}

fn qkv(rows: u32) -> Tensor {
    part(0, rows)
}

/// Some rows of a longer input.
fn part(from: u32, rows: u32) -> Tensor {
    let value = |i: u32| ((i * 37 % 101) as f32 - 50.0) * 0.07;
    let values = (from * COLUMNS..(from + rows) * COLUMNS).map(value).collect();
    Tensor::from_f32(vec![rows, COLUMNS], values).unwrap()
}

/// Rows in the call and before it, for each sequence.
fn stretches(of: &[(i32, i32)]) -> Tensor {
    Tensor::from_i32(vec![of.len() as u32, 2], of.iter().flat_map(|&(rows, before)| [rows, before]).collect()).unwrap()
}

fn whole(lengths: &[i32]) -> Tensor {
    support::lengths(lengths)
}

fn open(plugin: &Plugin, limits: Limits) -> (Instance, SessionId) {
    let mut instance = plugin.instantiate(host(), limits).unwrap();
    let session = instance.open("b", &[]).unwrap();
    (instance, session)
}

fn fresh(sequences: usize) -> Vec<SequencePast> {
    vec![SequencePast::default(); sequences]
}

fn rows(pasts: &[SequencePast]) -> Vec<usize> {
    pasts.iter().map(SequencePast::rows).collect()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    tensor.to_bytes()
}

#[test]
fn pieces_are_the_whole_on_both_compilers() {
    let mut fuels = Vec::new();
    for compiler in [Compiler::Cranelift, Compiler::Pulley] {
        let plugin = admit(&runtime(compiler), &honest());
        let (mut instance, session) = open(&plugin, limits());
        let all = instance.forward(session, qkv(7), &whole(&[7])).unwrap().output;
        assert_eq!(all.dims(), [7, 2]);
        let (on, pasts) = instance.forward_on(session, qkv(7), &whole(&[7]), fresh(1)).unwrap();
        assert_eq!((bytes(&on.output), rows(&pasts)), (bytes(&all), vec![7]));

        let mut together = Vec::new();
        let mut pasts = fresh(1);
        let mut fuel = Vec::new();
        for (from, count) in [(0, 3), (3, 1), (4, 2), (6, 1)] {
            // As every call of a block: an instance of its own.
            let (mut instance, session) = open(&plugin, limits());
            let lengths = stretches(&[(count as i32, from as i32)]);
            let (piece, after) = instance.forward_on(session, part(from, count), &lengths, pasts).unwrap();
            together.extend(bytes(&piece.output));
            assert!(!piece.output.is_charged());
            fuel.push(piece.fuel);
            pasts = after;
            assert_eq!(rows(&pasts), [(from + count) as usize]);
        }
        assert_eq!(together, bytes(&all));
        // Rows that are forgotten can come again, or others in their place.
        pasts[0].truncate(2);
        let (mut instance, session) = open(&plugin, limits());
        let (again, _) = instance.forward_on(session, part(2, 5), &stretches(&[(5, 2)]), pasts).unwrap();
        assert_eq!(bytes(&again.output), bytes(&all)[2 * 2 * 4..]);
        // Fuel depends on the lengths alone: a later row costs more.
        assert!(fuel[1] < fuel[3], "{fuel:?}");
        fuels.push(fuel);
    }
    assert_eq!(fuels[0], fuels[1]);
}

#[test]
fn a_sequence_does_not_see_its_neighbours_past() {
    let plugin = admit(shared_runtime(), &honest());
    let (mut instance, session) = open(&plugin, limits());
    let all = bytes(&instance.forward(session, qkv(5), &whole(&[5])).unwrap().output);
    let (_, first) = instance.forward_on(session, qkv(4), &stretches(&[(4, 0)]), fresh(1)).unwrap();
    // One that goes on, one that is new.
    let input = [bytes(&part(4, 1)), bytes(&qkv(5))].concat();
    let input = Tensor::new(vec![6, COLUMNS], ostrakon_nn::TensorType::Fp32, input).unwrap();
    let pasts = [first, fresh(1)].concat();
    let (both, pasts) = instance.forward_on(session, input, &stretches(&[(1, 4), (5, 0)]), pasts).unwrap();
    let both = bytes(&both.output);
    assert_eq!((&both[..8], &both[8..]), (&all[4 * 8..], &all[..]));
    assert_eq!(rows(&pasts), [5, 5]);
}

fn past_fault(result: Result<(ostrakon_engine::Forward, Vec<SequencePast>), CallError>, naming: &str) {
    match result {
        Err(CallError::Host(HostFault::Past(text))) => assert!(text.contains(naming), "{text}"),
        other => panic!("{other:?} instead of a fault naming {naming:?}"),
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, CallError>, naming: &str) {
    match result {
        Err(CallError::Guest(Failure::Operation(text) | Failure::BadInput(text))) => {
            assert!(text.contains(naming), "{text}");
        }
        other => panic!("{other:?} instead of a refusal naming {naming:?}"),
    }
}

#[test]
fn a_caller_cannot_go_on_from_what_does_not_fit() {
    let plugin = admit(shared_runtime(), &honest());
    let (mut instance, session) = open(&plugin, limits());
    let mut held = || instance.forward_on(session, qkv(4), &whole(&[4]), fresh(1)).unwrap().1;
    let (a, b, c, d) = (held(), held(), held(), held());
    past_fault(instance.forward_on(session, qkv(2), &stretches(&[(1, 4), (1, 0)]), a), "2 sequences, but 1 past");
    past_fault(instance.forward_on(session, qkv(1), &stretches(&[(1, 3)]), b), "3 rows were before");
    past_fault(instance.forward_on(session, qkv(1), &whole(&[1]), c), "0 rows were before");
    past_fault(instance.forward_on(session, qkv(1), &stretches(&[(1, -4)]), d), "-4 before");
    past_fault(instance.forward_on(session, qkv(1), &stretches(&[(0, 0)]), fresh(1)), "at least one row");
    past_fault(instance.forward_on(session, qkv(1), &stretches(&[(1, 1 << 20)]), fresh(1)), "at most 1048576");
    past_fault(instance.forward_on(session, qkv(1), &qkv(1), fresh(1)), "I32");
    let wide = Tensor::from_i32(vec![1, 4], vec![1, 0, 0, 0]).unwrap();
    past_fault(instance.forward_on(session, qkv(1), &wide, fresh(1)), "[1, 4]");
    // Nothing is held of a fresh sequence, and nothing at all in a call that is not about pasts.
    refusal(instance.forward_on(session, qkv(1), &stretches(&[(1, 4)]), fresh(1)), "the host holds 0");
    refusal(instance.forward(session, qkv(1), &stretches(&[(1, 4)])), "the host holds 0");
    instance.forward(session, qkv(1), &stretches(&[(1, 0)])).unwrap();

    let reference = wat::parse_str(support::reference_identity()).unwrap();
    let reference = shared_runtime().admit(&reference, World::ReferenceBlock).unwrap();
    let (mut instance, session) = open(&reference, limits());
    let result = instance.forward_on(session, qkv(1), &whole(&[1]), fresh(1));
    assert!(matches!(result, Err(CallError::Host(HostFault::WrongWorld { .. }))), "{result:?}");
}

#[test]
fn a_component_cannot_attend_otherwise_than_it_was_called() {
    // Lengths that join the rows of two sequences.
    let plugin = admit(shared_runtime(), &with_lengths("(call $forged)"));
    let (mut instance, session) = open(&plugin, limits());
    refusal(instance.forward_on(session, qkv(3), &whole(&[1, 2]), fresh(2)), "not those of the call");
    // Its own tensor with the same values is as good as the one it was given.
    let (_, pasts) = instance.forward_on(session, qkv(3), &whole(&[3]), fresh(1)).unwrap();
    assert_eq!(rows(&pasts), [3]);
    // Without pasts it may do as it likes: nobody gets to see it later.
    instance.forward(session, qkv(3), &whole(&[1, 2])).unwrap();

    // What was refused does not count: attending rightly afterwards does.
    let wat = block(
        r#"(call $attend (local.get 1) (local.get 2) (i32.const 2) (i32.const 3) (i32.const 64))
           (if (i32.eqz (i32.load8_u (i32.const 64))) (then unreachable))
           (drop (call $attended (local.get 1) (local.get 2)))
           (call $drop-inputs (local.get 1) (local.get 2))
           (call $ok (i32.load (i32.const 68)))"#,
    );
    let (mut instance, session) = open(&admit(shared_runtime(), &wat), limits());
    let (_, pasts) = instance.forward_on(session, qkv(3), &whole(&[3]), fresh(1)).unwrap();
    let (_, pasts) = instance.forward_on(session, part(3, 1), &stretches(&[(1, 3)]), pasts).unwrap();
    assert_eq!(rows(&pasts), [4]);
}

/// Attends `first` times in its first call and `then` times afterwards.
fn fickle(first: u32, then: u32) -> String {
    let attend = "(drop (call $attended (local.get 1) (local.get 2)))";
    let times = |n: u32| attend.repeat(n as usize);
    block(&format!(
        r#"(if (global.get $calls) (then {}) (else {}))
           (global.set $calls (i32.const 1))
           (call $tensor-drop (local.get 2))
           (call $ok (local.get 1))"#,
        times(then),
        times(first)
    ))
}

#[test]
fn a_component_must_attend_as_often_in_every_call() {
    for (first, then) in [(2, 1), (1, 0), (2, 0)] {
        let (mut instance, session) = open(&admit(shared_runtime(), &fickle(first, then)), limits());
        let (_, pasts) = instance.forward_on(session, qkv(2), &whole(&[2]), fresh(1)).unwrap();
        let result = instance.forward_on(session, part(2, 1), &stretches(&[(1, 2)]), pasts);
        assert!(
            matches!(&result, Err(CallError::Trap(Trap::Refused(text))) if text.contains("attended")),
            "{result:?}"
        );
        assert!(instance.is_spent());
    }
    // More often: there is nothing before for the new one, so it is refused, and then it has attended as often.
    let (mut instance, session) = open(&admit(shared_runtime(), &fickle(1, 2)), limits());
    let (_, pasts) = instance.forward_on(session, qkv(2), &whole(&[2]), fresh(1)).unwrap();
    let (_, pasts) = instance.forward_on(session, part(2, 1), &stretches(&[(1, 2)]), pasts).unwrap();
    assert_eq!(rows(&pasts), [3]);
    // Two attentions of a block have a past each.
    let (mut instance, session) = open(&admit(shared_runtime(), &fickle(2, 2)), limits());
    let (_, one) = instance.forward_on(session, qkv(2), &whole(&[2]), fresh(1)).unwrap();
    let (_, two) = instance.forward_on(session, part(2, 1), &stretches(&[(1, 2)]), one).unwrap();
    assert_eq!(rows(&two), [3]);
}

#[test]
fn what_ends_midway_leaves_nothing_behind() {
    // The failure `operation("enough")` after attending, in the first call.
    let failure =
        r#"(i32.store (i32.const 72) (i32.const 300)) (i32.store (i32.const 76) (i32.const 6)) (return (call $no))"#;
    for (end, spent) in [(failure, false), ("unreachable", true)] {
        let wat = block(&format!(
            r#"(drop (call $attended (local.get 1) (local.get 2)))
               (call $drop-inputs (local.get 1) (local.get 2))
               (if (i32.eqz (global.get $calls)) (then (global.set $calls (i32.const 1))
                 (call $tensor-drop (i32.load (i32.const 68))) {end}))
               (if (i32.load8_u (i32.const 64)) (then (return (call $no))))
               (call $ok (i32.load (i32.const 68)))"#
        ));
        let (mut instance, session) = open(&admit(shared_runtime(), &wat), limits());
        let result = instance.forward_on(session, qkv(2), &whole(&[2]), fresh(1));
        assert_eq!(instance.is_spent(), spent);
        if spent {
            assert!(matches!(result, Err(CallError::Trap(Trap::Wasm(_)))), "{result:?}");
            continue;
        }
        refusal(result, "enough");
        // The instance is sound, and nothing of the call before is bound to the next ones.
        refusal(instance.forward(session, part(2, 1), &stretches(&[(1, 2)])), "the host holds 0");
        let (_, pasts) = instance.forward_on(session, qkv(1), &whole(&[1]), fresh(1)).unwrap();
        assert_eq!(rows(&pasts), [1]);
    }
}

#[test]
fn pasts_count_against_the_quota_of_bytes() {
    let plugin = admit(shared_runtime(), &honest());
    let (mut instance, session) = open(&plugin, limits());
    let (_, pasts) = instance.forward_on(session, qkv(200), &whole(&[200]), fresh(1)).unwrap();
    let held = pasts[0].bytes() as u64;
    assert!(held >= 200 * (2 * 2 * 2 + 8), "{held}");
    let with = |bytes: u64| Limits { quotas: Quotas { bytes, ..Quotas::default() }, ..limits() };
    // Not even bound: the component is not called.
    let (mut instance, session) = open(&plugin, with(held));
    let result = instance.forward_on(session, part(200, 1), &stretches(&[(1, 200)]), pasts.clone());
    assert!(matches!(result, Err(CallError::Host(HostFault::Quota(_)))), "{result:?}");
    assert!(!instance.is_spent());
    // Bound, but without room to grow: the operation is refused.
    let (mut instance, session) = open(&plugin, with(held + 256 + 100 * 24 + 20 + 100 * 8));
    refusal(instance.forward_on(session, part(200, 100), &stretches(&[(100, 200)]), pasts.clone()), "quota");
    // It holds nothing any more, so a smaller step fits; and what was given is as it was.
    let (_, after) = instance.forward_on(session, part(200, 1), &stretches(&[(1, 200)]), pasts.clone()).unwrap();
    assert_eq!((rows(&after), rows(&pasts)), (vec![201], vec![200]));
    // A call without pasts is charged for what it makes, too.
    let (mut instance, session) = open(&plugin, with(200 * (24 + 8) + 4));
    refusal(instance.forward(session, qkv(200), &whole(&[200])), "quota");
}
