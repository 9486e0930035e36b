//! A block that is one graph of a float model.
//!
//! # Why
//!
//! A node runs blocks, and a float model is a graph or a chain of them. This component is the block of any
//! such model: what it needs to know is in its settings.
//!
//! # How
//!
//! 1. `open` finds the graph that the setting `graph` names in the block's package.
//! 2. `compute` gives the graph the tensors it was given and gives back what comes out, by name.
//! 3. Where the names of two pieces of a model do not fit each other, settings say how: [`names`].

mod names;

use bindings::exports::ostrakon::plugin::tensors::{
    Failure, Guest, GuestSession, NamedTensor, Session as SessionHandle, Setting,
};
use bindings::wasi::nn::errors::Error;
use bindings::wasi::nn::graph::load_by_name;
use bindings::wasi::nn::inference::GraphExecutionContext;
use names::Names;

#[allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::restriction)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "graph-block",
        generate_all,
    });
}

/// The component.
struct Component;

impl Guest for Component {
    type Session = Session;
}

/// A graph that has been found, and how its tensors are called outside.
struct Session {
    graph: String,
    context: GraphExecutionContext,
    inputs: Names,
    outputs: Names,
}

impl GuestSession for Session {
    fn open(_: String, settings: Vec<Setting>) -> Result<SessionHandle, Failure> {
        let (mut graph, mut inputs, mut outputs) = (None, Names::new("input"), Names::new("output"));
        for (name, value) in settings {
            match name.as_str() {
                "graph" if graph.is_none() => graph = Some(value),
                _ if inputs.take(&name, &value)? || outputs.take(&name, &value)? => {}
                _ => {
                    let known = "this block has graph (once), input.N and output.N";
                    return bad_settings(&["unknown setting `", &name, "`: ", known]);
                }
            }
        }
        let Some(graph) = graph else { return bad_settings(&["setting `graph` is missing: the name of a graph"]) };
        let context = load_by_name(&graph).and_then(|graph| graph.init_execution_context());
        let context = context.map_err(|error| refusal(&graph, &error))?;
        Ok(SessionHandle::new(Self { graph, context, inputs, outputs }))
    }

    fn compute(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Failure> {
        let inputs = self.inputs.enter(inputs)?;
        let outputs = self.context.compute(inputs).map_err(|error| refusal(&self.graph, &error))?;
        self.outputs.leave(outputs)
    }
}

fn bad_settings<T>(text: &[&str]) -> Result<T, Failure> {
    Err(Failure::BadSettings(text.concat()))
}

/// The host's refusal. Where it does not name the graph, the graph's name comes first.
fn refusal(graph: &str, error: &Error) -> Failure {
    let why = error.data();
    Failure::Operation(if why.contains(graph) { why } else { [graph, ": ", &why].concat() })
}

#[allow(unsafe_code)]
mod export {
    use super::Component;

    super::bindings::export!(Component with_types_in super::bindings);
}
