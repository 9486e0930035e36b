//! Whoever observes a host is told of every operation, and each can be run again from what was told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it expects and stops where it is wrong")]

use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{
    CpuBackend, Host, MemoryLayers, Meter, NnError, Observer, OperationKind, ProvenBackend, Quotas, Tensor,
};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

type Told = (String, Vec<(String, Tensor)>, Tensor);

#[derive(Default)]
struct Notes(Mutex<Vec<Told>>);

impl Observer for Notes {
    fn operation(&self, kind: &OperationKind, inputs: &[(&str, &Tensor)], output: &Tensor) {
        let inputs = inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone())).collect();
        self.0.lock().unwrap().push((kind.to_string(), inputs, output.clone()));
    }
}

impl Notes {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A host with one small layer of each kind.
fn host() -> Host {
    let executor = Arc::new(Executor::new(Level::detect(), 1).unwrap());
    let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))).unwrap();
    let mut layers = MemoryLayers::new();
    layers.insert_linear("b.linear", "u8", &[1, 2, 3, 4, 5, 6], &[0.5, 0.25], &[1.0, -1.0], &[]);
    layers.insert_embedding("b.table", &[1, 2, 3, 4, 5, 6], &[1.0, 0.5, 0.25]);
    layers.insert_layer_norm("b.norm", &[1.0, 2.0, 3.0], &[0.0, 0.0, 1.0], 1e-5);
    layers.insert_rms_norm("b.rms", &[1.0, 2.0, 3.0], 1e-5);
    layers.insert_rotary("b.rotary", &[1.0, 0.0, 0.6, 0.8], 2, 1);
    Host::new(executor, backend, Arc::new(layers))
}

fn f32s(dims: &[u32]) -> Tensor {
    let count = dims.iter().product::<u32>();
    Tensor::from_f32(dims.to_vec(), (0..count).map(|i| (i as f32).sin()).collect()).unwrap()
}

fn i32s(values: &[i32]) -> Tensor {
    Tensor::from_i32(vec![values.len() as u32], values.to_vec()).unwrap()
}

fn named(inputs: &[(&str, &Tensor)]) -> Vec<(String, Tensor)> {
    inputs.iter().map(|&(name, tensor)| (name.to_owned(), tensor.clone())).collect()
}

#[test]
fn every_operation_is_told_and_can_be_performed_again() {
    let notes = Arc::new(Notes::default());
    let observed = host().observed_by(Arc::clone(&notes) as Arc<dyn Observer>);
    let meter = Meter::unlimited();
    let (x, lengths, ids) = (f32s(&[4, 3]), i32s(&[3, 1]), i32s(&[0, 2]));
    let compute = |name: &str, inputs: &[(&str, &Tensor)]| {
        observed.compute(&meter, &observed.graph(name).unwrap(), named(inputs)).unwrap().remove(0).1
    };
    let mut outputs = vec![
        compute("b.linear", &[("x", &x)]),
        compute("b.table", &[("ids", &ids)]),
        compute("b.norm", &[("x", &x)]),
        // In the order in which the caller gave them.
        compute("b.norm", &[("residual", &x), ("x", &x)]),
    ];
    outputs.push(observed.add(&meter, &x, &x).unwrap());
    outputs.push(observed.gelu(&meter, &x).unwrap());
    outputs.push(observed.attention(&meter, &f32s(&[4, 12]), &lengths, 2).unwrap());
    outputs.push(observed.mean_pool(&meter, &x, &lengths).unwrap());
    outputs.push(observed.first_pool(&meter, &x, &lengths).unwrap());
    outputs.push(observed.l2_normalise(&meter, &x).unwrap());
    outputs.push(compute("b.rms", &[("x", &x)]));
    outputs.push(compute("b.rotary", &[("x", &x), ("positions", &i32s(&[0, 1, 1, 0]))]));
    outputs.push(observed.swiglu(&meter, &f32s(&[3, 4])).unwrap());
    outputs.push(observed.last_rows(&meter, &x, &lengths).unwrap());
    outputs.push(observed.causal_attention(&meter, None, &f32s(&[4, 12]), &lengths, 4, 1).unwrap());

    let told = notes.take();
    let kinds: Vec<&str> = told.iter().map(|(kind, ..)| kind.as_str()).collect();
    let expected = [
        "layer b.linear",
        "layer b.table",
        "layer b.norm",
        "layer b.norm",
        "add",
        "gelu",
        "attention 2",
        "mean-pool",
        "first-pool",
        "l2-normalise",
        "layer b.rms",
        "layer b.rotary",
        "swiglu",
        "last-rows",
        "causal-attention 4 1",
    ];
    assert_eq!(kinds, expected);
    let names = |at: usize| told.get(at).unwrap().1.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    assert_eq!((names(3), names(6)), (vec!["residual", "x"], vec!["qkv", "lengths"]));

    // On another host, from the description alone.
    let referee = host();
    for ((kind, inputs, output), made) in told.into_iter().zip(outputs) {
        assert_eq!(output.to_bytes(), made.to_bytes(), "{kind}");
        let again = referee.perform(&meter, &kind.parse().unwrap(), inputs).unwrap();
        assert_eq!((again.dims(), again.to_bytes()), (output.dims(), output.to_bytes()), "{kind}");
    }
    assert!(notes.take().is_empty());
}

#[test]
fn what_failed_is_not_told() {
    let notes = Arc::new(Notes::default());
    let observed = host().observed_by(Arc::clone(&notes) as Arc<dyn Observer>);
    let meter = Meter::unlimited();
    assert!(observed.gelu(&meter, &i32s(&[1])).is_err());
    assert!(observed.add(&meter, &f32s(&[1]), &f32s(&[2])).is_err());
    let graph = observed.graph("b.linear").unwrap();
    assert!(observed.compute(&meter, &graph, named(&[("y", &f32s(&[1, 3]))])).is_err());
    assert!(notes.take().is_empty());
}

#[test]
fn descriptions_that_do_not_fit_are_refused() {
    let host = host();
    let (meter, x) = (Meter::unlimited(), f32s(&[1, 3]));
    let refused = |kind: OperationKind, inputs: &[(&str, &Tensor)]| {
        let error = host.perform(&meter, &kind, named(inputs)).unwrap_err();
        assert!(!error.is_host_fault() && error.text().len() < 500, "{error}");
    };
    for kind in [OperationKind::Gelu, OperationKind::Add, OperationKind::MeanPool, OperationKind::Attention(2)] {
        refused(kind.clone(), &[]);
        refused(kind.clone(), &[("z", &x)]);
        refused(kind.clone(), &[("x", &x), ("x", &x)]);
        refused(kind, &[("x", &x), ("x", &x), ("x", &x)]);
    }
    refused(OperationKind::Gelu, &[("x", &x), ("more", &x)]);
    refused(OperationKind::Add, &[("b", &x), ("a", &x)]);
    refused(OperationKind::Layer("b.none".to_owned()), &[("x", &x)]);
    refused(OperationKind::Layer("../x".to_owned()), &[("x", &x)]);
    refused(OperationKind::Layer("b.linear".to_owned()), &[]);
    let causal = OperationKind::CausalAttention { heads: 1, kv_heads: 1 };
    refused(causal.clone(), &[("qkv", &x)]);
    let before = Tensor::from_i32(vec![1, 2], vec![1, 5]).unwrap();
    refused(causal, &[("qkv", &x), ("lengths", &before)]);
    refused(OperationKind::Attention(0), &[("qkv", &x), ("lengths", &i32s(&[1]))]);
    refused(OperationKind::Attention(u32::MAX), &[("qkv", &x), ("lengths", &i32s(&[1]))]);
    let meter = Meter::new(Quotas { bytes: 8, ..Quotas::default() });
    let error = host.perform(&meter, &OperationKind::Gelu, named(&[("x", &x)])).unwrap_err();
    assert!(matches!(error, NnError::TooLarge(_)), "{error}");
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_alike(text in "(layer |attention |causal-attention |swiglu|gelu|add|mean-pool| )?[a-z0-9. +-]{0,12}") {
        if let Ok(kind) = text.parse::<OperationKind>() {
            prop_assert_eq!(kind.to_string(), text);
        }
    }
}
