//! Types of imports and exports: compared when a component is admitted, not when it is first called.
//!
//! wasmtime compares types too, but exports only once there is an instance, and in imports it takes an
//! owned handle for a borrowed one and the other way round. Here each function between host and component
//! is written down in a small notation and compared with what the component says, so that a component of
//! the wrong shape is refused by name before any of its code runs.

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
    let parameters: Vec<String> = ty.params().map(|(_, ty)| notation(&ty, 0)).collect();
    let results: Vec<String> = ty.results().map(|ty| notation(&ty, 0)).collect();
    let found = format!("({}) -> ({})", parameters.join(", "), results.join(", "));
    match expected(function) {
        Some(wanted) if wanted == found => Ok(()),
        Some(wanted) => Err(format!("`{interface}` has `{function}` as {found}, the world says {wanted}")),
        None => Err(format!("`{interface}` has no function `{function}` in this world")),
    }
}

const OPEN: &str = "(string, list<tuple<string, string>>) -> \
    (result<own, variant{bad-settings(string), bad-input(string), operation(string)}>)";
const FORWARD: &str = "(borrow, own, borrow) -> \
    (result<own, variant{bad-settings(string), bad-input(string), operation(string)}>)";
const CONSTRUCTOR: &str = "(list<u32>, enum{FP16, FP32, FP64, BF16, U8, I32, I64}, list<u8>) -> (own)";
const CODE: &str = "(borrow) -> (enum{invalid-argument, invalid-encoding, timeout, runtime-error, \
    unsupported-operation, too-large, not-found, security, unknown})";
const LOAD: &str = "(list<list<u8>>, enum{openvino, onnx, tensorflow, pytorch, tensorflowlite, ggml, autodetect}, \
    enum{cpu, gpu, tpu}) -> (result<own, own>)";
const COMPUTE: &str = "(borrow, list<tuple<string, own>>) -> (result<list<tuple<string, own>>, own>)";
const ONE: &str = "(borrow) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const TWO: &str = "(borrow, borrow) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const ATTENTION: &str = "(borrow, borrow, u32) -> (result<own, variant{invalid-argument(string), too-large(string)}>)";
const READ: &str = "(string) -> (result<record{kind: string, activation: string, \
    parts: list<record{name: string, dimensions: list<u32>, data: list<u8>}>}, string>)";

fn expected(function: &str) -> Option<&'static str> {
    Some(match function {
        "[static]session.open" => OPEN,
        "[method]session.forward" => FORWARD,
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
        "gelu" | "l2-normalise" => ONE,
        "add" | "mean-pool" | "first-pool" => TWO,
        "attention" => ATTENTION,
        "read" => READ,
        _ => return None,
    })
}

/// Types nest no deeper than this in any world.
const MAX_DEPTH: usize = 6;

/// A type, as far as the worlds use them. Which resource a handle is of is the engine's to check.
fn notation(ty: &Type, depth: usize) -> String {
    let inner = |ty: Type| if depth < MAX_DEPTH { notation(&ty, depth + 1) } else { "...".to_owned() };
    match ty {
        Type::U8 => "u8".to_owned(),
        Type::U32 => "u32".to_owned(),
        Type::String => "string".to_owned(),
        Type::Own(_) => "own".to_owned(),
        Type::Borrow(_) => "borrow".to_owned(),
        Type::List(list) => format!("list<{}>", inner(list.ty())),
        Type::Tuple(tuple) => format!("tuple<{}>", tuple.types().take(8).map(inner).collect::<Vec<_>>().join(", ")),
        Type::Enum(names) => format!("enum{{{}}}", names.names().take(16).collect::<Vec<_>>().join(", ")),
        Type::Record(record) => {
            let fields = record.fields().take(8).map(|field| format!("{}: {}", field.name, inner(field.ty)));
            format!("record{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Type::Variant(variant) => {
            let case = |name: &str, ty: Option<Type>| {
                ty.map_or_else(|| name.to_owned(), |ty| format!("{name}({})", inner(ty)))
            };
            format!("variant{{{}}}", variant.cases().take(8).map(|c| case(c.name, c.ty)).collect::<Vec<_>>().join(", "))
        }
        Type::Result(result) => {
            let side = |ty: Option<Type>| ty.map_or_else(|| "_".to_owned(), inner);
            format!("result<{}, {}>", side(result.ok()), side(result.err()))
        }
        _ => "another type".to_owned(),
    }
}
