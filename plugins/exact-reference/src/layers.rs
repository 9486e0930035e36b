//! Graphs: the layers of the package, read once and kept while anything uses them.

use crate::Component;
use crate::bindings::exports::wasi::nn::errors::{Error, ErrorCode};
use crate::bindings::exports::wasi::nn::graph::{self, ExecutionTarget, GraphBuilder, GraphEncoding, GuestGraph};
use crate::bindings::exports::wasi::nn::inference::{self, GuestGraphExecutionContext, NamedTensor};
use crate::bindings::exports::wasi::nn::tensor as nn;
use crate::bindings::ostrakon::plugin::weights;
use crate::operations;
use crate::refusal::Refusal;
use crate::tensor::Tensor;
use ostrakon_exact::{Layer, Part};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

/// Longest name of a layer.
const MAX_NAME: usize = 128;

/// A layer and its full name.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) layer: Layer,
}

/// The `graph` resource, and the execution context too: a layer has no state to run.
#[derive(Clone)]
pub(crate) struct Graph(Rc<Named>);

thread_local! {
    /// Layers in use, so that a second session does not read them a second time.
    static IN_USE: RefCell<BTreeMap<String, Weak<Named>>> = const { RefCell::new(BTreeMap::new()) };
}

impl Graph {
    fn load(name: String) -> Result<Self, Refusal> {
        check_name(&name)?;
        if let Some(known) = IN_USE.with_borrow(|layers| layers.get(&name).and_then(Weak::upgrade)) {
            return Ok(Self(known));
        }
        let layer = read(&name)?;
        let named = Rc::new(Named { name: name.clone(), layer });
        IN_USE.with_borrow_mut(|layers| layers.insert(name, Rc::downgrade(&named)));
        Ok(Self(named))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        IN_USE.with_borrow_mut(|layers| layers.remove(&self.name));
    }
}

fn read(name: &str) -> Result<Layer, Refusal> {
    let layer = weights::read(name).map_err(|text| Refusal { code: ErrorCode::NotFound, text })?;
    let parts = layer.parts.into_iter().map(|part| Part {
        name: part.name,
        dimensions: part.dimensions.into_iter().map(|d| d as usize).collect(),
        data: Box::new(part.data),
    });
    Layer::from_parts(&layer.kind, &layer.activation, parts.collect())
        .map_err(|error| Refusal { code: ErrorCode::InvalidEncoding, text: format!("layer `{name}`: {error}") })
}

/// The rule of the native host, so that the same names are refused for the same reasons.
fn check_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Refusal::invalid(format!(
            "the name of a layer has 1 to {MAX_NAME} characters, not {}",
            name.len()
        )));
    }
    if name.contains(['/', '\\', ':', '@']) || name.contains("..") {
        let text = format!(
            "{name:?} reaches outside the package: only the package's own layers can be loaded, by names such as \
             blocks.0.attention.qkv"
        );
        return Err(Refusal { code: ErrorCode::Security, text });
    }
    let fits = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.split('.').all(fits) {
        Ok(())
    } else {
        Err(Refusal::invalid(format!(
            "{name:?} is not the name of a layer: segments of a-z, 0-9 and `-`, separated by single dots"
        )))
    }
}

impl graph::Guest for Component {
    type Graph = Graph;

    fn load(_: Vec<GraphBuilder>, _: GraphEncoding, _: ExecutionTarget) -> Result<graph::Graph, Error> {
        let text = "graphs made of raw bytes are not loaded here: use load-by-name with a layer of the package";
        Err(Refusal { code: ErrorCode::Security, text: text.to_owned() }.into())
    }

    fn load_by_name(name: String) -> Result<graph::Graph, Error> {
        Ok(graph::Graph::new(Graph::load(name)?))
    }
}

impl GuestGraph for Graph {
    fn init_execution_context(&self) -> Result<inference::GraphExecutionContext, Error> {
        Ok(inference::GraphExecutionContext::new(self.clone()))
    }
}

impl inference::Guest for Component {
    type GraphExecutionContext = Graph;
}

impl GuestGraphExecutionContext for Graph {
    fn compute(&self, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, Error> {
        let inputs = inputs.into_iter().map(|(name, tensor)| (name, tensor.into_inner::<Tensor>())).collect();
        let y = operations::compute(&self.0, inputs).map_err(|refusal| refusal.within(&self.0.name))?;
        Ok(vec![(String::from("y"), nn::Tensor::new(y))])
    }
}
