//! Types of imports and exports: compared when a component is admitted, not when it is first called.
//!
//! wasmtime compares types too, but exports only once there is an instance, and in imports it takes an
//! owned handle for a borrowed one and the other way round. Here each function between host and component
//! is written down in a small notation and compared with what the component says, so that a component of
//! the wrong shape is refused by name before any of its code runs.

use crate::admission::interface::FIELD;
use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, ComponentExportIndex};

/// The function's index, if its type is the one that the host calls it by.
pub(crate) fn find(component: &Component, interface: &str, function: &str) -> Result<ComponentExportIndex, String> {
    let missing = || format!("`{interface}` has no function `{function}`");
    let instance = component.get_export_index(None, interface).ok_or_else(missing)?;
    let (item, index) = component.get_export(Some(&instance), function).ok_or_else(missing)?;
    let ComponentItem::ComponentFunc(ty) = item else { return Err(missing()) };
    compare(interface, function, &ty).map(|()| index)
}

/// Compare every function that the component imports.
pub(crate) fn check_imports(component: &Component) -> Result<(), String> {
    let engine = component.engine();
    for (interface, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = import.ty else {
            return Err(format!("`{interface}` is not an interface"));
        };
        for (function, export) in instance.exports(engine) {
            if let ComponentItem::ComponentFunc(ty) = export.ty {
                compare(interface, function, &ty)?;
            }
        }
    }
    Ok(())
}

fn compare(interface: &str, function: &str, ty: &ComponentFunc) -> Result<(), String> {
    let mut notation = Notation::default();
    notation.list("(", ")", ty.params(), |notation, (_, ty)| notation.ty(&ty, 0));
    notation.list(" -> (", ")", ty.results(), |notation, ty| notation.ty(&ty, 0));
    let found = notation.text;
    match expected(interface, function) {
        Some(wanted) if wanted == found => Ok(()),
        Some(wanted) => {
            let [found, wanted] = where_they_part(&found, wanted);
            Err(format!("`{interface}` has `{function}` as {found}, the world says {wanted}"))
        }
        None => Err(format!("`{interface}` has no function `{function}` in this world")),
    }
}

/// Types as long as a record of records are shown around the first character that differs.
fn where_they_part(found: &str, wanted: &str) -> [String; 2] {
    const BEFORE: usize = 60;
    const SHOWN: usize = 160;
    if found.len().max(wanted.len()) <= 2 * SHOWN {
        return [found.to_owned(), wanted.to_owned()];
    }
    let from = found.chars().zip(wanted.chars()).take_while(|(a, b)| a == b).count().saturating_sub(BEFORE);
    [found, wanted].map(|text| {
        let part: String = text.chars().skip(from).take(SHOWN).collect();
        let before = if from > 0 { "..." } else { "" };
        let after = if from + SHOWN < text.chars().count() { "..." } else { "" };
        format!("{before}{part}{after}")
    })
}

/// `verification.digest`.
macro_rules! digest {
    () => {
        "record{a: u64, b: u64, c: u64, d: u64}"
    };
}

const OPEN: &str = "(string, list<tuple<string, string>>) -> \
    (result<own, variant{bad-settings(string), bad-input(string), operation(string)}>)";
const FORWARD: &str = "(borrow, own, borrow) -> \
    (result<own, variant{bad-settings(string), bad-input(string), operation(string)}>)";
const COMPUTE_BLOCK: &str = "(borrow, list<tuple<string, own>>) -> \
    (result<list<tuple<string, own>>, variant{bad-settings(string), bad-input(string), operation(string)}>)";
const EXPAND: &str = "(enum{p24, p31}, list<u8>, u32, u64, u32, u32) -> \
    (result<own, variant{invalid-argument(string), too-large(string)}>)";
/// Two tensors of elements.
const FIELD_TWO: &str =
    "(enum{p24, p31}, borrow, borrow) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
/// `sharing.failure`.
macro_rules! sharing_failure {
    () => {
        "variant{bad-input(string), operation(string)}"
    };
}
const MASK: &str = concat!(
    "(list<list<u8>>, record{p: enum{p24, p31}, stream: u32, first: u64, rows: u32, columns: u32}) -> (result<own, ",
    sharing_failure!(),
    ">)"
);
const SPLIT: &str = concat!("(enum{p24, p31}, borrow, borrow) -> (result<own, ", sharing_failure!(), ">)");
const CHECK: &str =
    concat!("(enum{p24, p31}, borrow, borrow, borrow, borrow) -> (result<option<u32>, ", sharing_failure!(), ">)");
const CONSTRUCTOR: &str = "(list<u32>, enum{FP16, FP32, FP64, BF16, U8, I32, I64}, list<u8>) -> (own)";
const CODE: &str = "(borrow) -> (enum{invalid-argument, invalid-encoding, timeout, runtime-error, \
    unsupported-operation, too-large, not-found, security, unknown})";
const LOAD: &str = "(list<list<u8>>, enum{openvino, onnx, tensorflow, pytorch, tensorflowlite, ggml, autodetect}, \
    enum{cpu, gpu, tpu}) -> (result<own, own>)";
const COMPUTE: &str = "(borrow, list<tuple<string, own>>) -> (result<list<tuple<string, own>>, own>)";
const ONE: &str = "(borrow) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const TWO: &str = "(borrow, borrow) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const ATTENTION: &str = "(borrow, borrow, u32) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const CAUSAL_ATTENTION: &str =
    "(borrow, borrow, u32, u32) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const READ: &str = "(string) -> (result<record{kind: string, activation: string, \
    parts: list<record{name: string, dimensions: list<u32>, data: list<u8>}>}, string>)";
const VERIFY: &str = concat!(
    "(record{issuer: string, steps: list<record{batch: u32, block: string, component: ",
    digest!(),
    ", node: string, input: ",
    digest!(),
    ", output: ",
    digest!(),
    ", fuel: u64}>, texts: list<u32>, lengths: list<",
    digest!(),
    ">, outputs: list<",
    digest!(),
    ">, answer: ",
    digest!(),
    "}, record{missing: list<string>, seals: list<record{subject: string, signer: string, valid: bool, \
    batch: option<u32>, block: option<string>}>, blocks: list<record{name: string, component: ",
    digest!(),
    "}>, texts: option<u32>, inputs: list<option<record{rows: ",
    digest!(),
    ", lengths: ",
    digest!(),
    "}>>, steps: list<variant{not-looked-at, computed(record{output: ",
    digest!(),
    ", fuel: option<u64>}), checked(record{products: list<record{operation: string, left: list<u64>, \
    right: list<u64>, wrong: option<record{row: u32, column: u32, claimed: s64, exact: s64}>}>, output: option<",
    digest!(),
    ">, fuel: option<u64>}), unavailable(string)}>, outputs: list<option<",
    digest!(),
    ">>, answer: ",
    digest!(),
    "}) -> (variant{accept(record{looked-at: u32, steps: u32}), reject(record{node: string, batch: option<u32>, \
    block: option<string>, operation: option<string>, reason: string}), indeterminate(list<string>)})"
);

/// `scheduling.request`.
macro_rules! request {
    () => {
        "record{blocks: list<record{weight-bytes: u64, work: u64, row-bytes: u64}>, rows: u64, batches: u32, \
        replicas: u32, audited: bool, excluded: list<u32>}"
    };
}

/// `scheduling.snapshot`.
macro_rules! snapshot {
    () => {
        "record{nodes: list<record{operator: u32, executes: bool, verifies: bool, draining: bool, threads: u32, \
        simd: u32, backend: u32, free-memory: u64, slots: u32, used: u32, round-trip: option<u64>, done: u64, \
        failed: u64, wrong: u64, learned: list<u8>}>, served: list<record{node: u32, from: u32, to: u32, \
        rows-per-second: u64}>, names: list<string>, learned: list<u8>}"
    };
}

/// `scheduling.failure`.
macro_rules! no_plan {
    () => {
        "variant{bad-input(string), unserved(list<record{from: u32, to: u32}>), few-operators(record{from: u32, \
        to: u32, found: u32, needed: u32}), fragmented(u32), no-auditor}"
    };
}

const PLAN: &str = concat!(
    "(",
    request!(),
    ", ",
    snapshot!(),
    ", list<u8>) -> (result<record{legs: list<record{from: u32, to: u32, replicas: list<u32>, shadows: list<u32>}>, \
    auditors: list<u32>, predicted: u64}, ",
    no_plan!(),
    ">)"
);
const LEARN: &str = "(list<u8>, list<u8>, record{threads: u32, simd: string, backend: string, slots: u32, used: u32, \
    work: u64, rows: u64, nanoseconds: u64}) -> (record{shared: list<u8>, node: list<u8>})";
const PLACE: &str = concat!(
    "(",
    request!(),
    ", ",
    snapshot!(),
    ", record{node: option<u32>, threads: u32, simd: u32, backend: u32, memory: u64}, list<u8>) -> \
    (result<record{from: u32, to: u32, before: u64, after: u64}, ",
    no_plan!(),
    ">)"
);

fn expected(interface: &str, function: &str) -> Option<&'static str> {
    Some(match function {
        "add" | "subtract" | "dot" if interface == FIELD => FIELD_TWO,
        "[static]session.open" => OPEN,
        "[method]session.forward" => FORWARD,
        "[method]session.compute" => COMPUTE_BLOCK,
        "[constructor]tensor" => CONSTRUCTOR,
        "[method]tensor.dimensions" => "(borrow) -> (list<u32>)",
        "[method]tensor.ty" => "(borrow) -> (enum{FP16, FP32, FP64, BF16, U8, I32, I64})",
        "[method]tensor.data" => "(borrow) -> (list<u8>)",
        "[method]error.code" => CODE,
        "[method]error.data" => "(borrow) -> (string)",
        "load" => LOAD,
        "load-by-name" => "(string) -> (result<own, own>)",
        "[method]graph.init-execution-context" => "(borrow) -> (result<own, own>)",
        "[method]graph-execution-context.compute" => COMPUTE,
        "alias" => "(borrow) -> (own)",
        "gelu" | "swiglu" | "l2-normalise" => ONE,
        "add" | "mean-pool" | "first-pool" | "last-rows" => TWO,
        "expand" => EXPAND,
        "mask" => MASK,
        "split" | "combine" => SPLIT,
        "check" => CHECK,
        "attention" => ATTENTION,
        "causal-attention" => CAUSAL_ATTENTION,
        "read" => READ,
        "verify" => VERIFY,
        "plan" => PLAN,
        "learn" => LEARN,
        "place" => PLACE,
        _ => return None,
    })
}

/// Longest notation, in bytes: longer than any in a world. Each part of a type adds at least one, so that
/// this bounds the work too, whatever a component declares.
const MAX_LENGTH: usize = 4096;

/// Types nest no deeper than this in any world.
const MAX_DEPTH: usize = 12;

/// Stands for what is too long or too deep; in no notation of ours.
const CUT: &str = "...";

/// Types, as far as the worlds use them. Which resource a handle is of is the engine's to check.
#[derive(Default)]
struct Notation {
    text: String,
    full: bool,
}

impl Notation {
    fn push(&mut self, part: &str) {
        if !self.full && self.text.len() + part.len() <= MAX_LENGTH {
            self.text.push_str(part);
        } else if !self.full {
            self.full = true;
            self.text.push_str(CUT);
        }
    }

    /// Items between brackets, with commas, until there is no more room.
    fn list<T>(
        &mut self,
        open: &str,
        close: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.push(open);
        for (at, item) in items.into_iter().enumerate() {
            if at > 0 {
                self.push(", ");
            }
            if self.full {
                break;
            }
            each(self, item);
        }
        self.push(close);
    }

    /// A type inside of brackets, or nothing at all.
    fn inside(&mut self, open: &str, ty: Option<&Type>, depth: usize) {
        if let Some(ty) = ty {
            self.push(open);
            self.ty(ty, depth);
            self.push(if open.ends_with('<') { ">" } else { ")" });
        }
    }

    fn ty(&mut self, ty: &Type, depth: usize) {
        if self.full || depth > MAX_DEPTH {
            return self.push(CUT);
        }
        let depth = depth + 1;
        match ty {
            Type::Bool => self.push("bool"),
            Type::U8 => self.push("u8"),
            Type::U32 => self.push("u32"),
            Type::U64 => self.push("u64"),
            Type::S64 => self.push("s64"),
            Type::String => self.push("string"),
            Type::Own(_) => self.push("own"),
            Type::Borrow(_) => self.push("borrow"),
            Type::List(list) => self.inside("list<", Some(&list.ty()), depth),
            Type::Option(option) => self.inside("option<", Some(&option.ty()), depth),
            Type::Tuple(tuple) => self.list("tuple<", ">", tuple.types(), |to, ty| to.ty(&ty, depth)),
            Type::Enum(names) => self.list("enum{", "}", names.names(), Self::push),
            Type::Record(record) => self.list("record{", "}", record.fields(), |to, field| {
                to.push(field.name);
                to.push(": ");
                to.ty(&field.ty, depth);
            }),
            Type::Variant(variant) => self.list("variant{", "}", variant.cases(), |to, case| {
                to.push(case.name);
                to.inside("(", case.ty.as_ref(), depth);
            }),
            Type::Result(result) => self.list("result<", ">", [result.ok(), result.err()], |to, side| match side {
                Some(ty) => to.ty(&ty, depth),
                None => to.push("_"),
            }),
            _ => self.push("another type"),
        }
    }
}
