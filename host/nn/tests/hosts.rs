//! Loading by name: what is refused, what is shared, and which backends are let in.
#![allow(clippy::unwrap_used, reason = "a test says what it expects and stops where it is wrong")]

use ostrakon_exact::Linear;
use ostrakon_exact::simd::{CpuProduct, Executor, Level, Product, ProductError};
use ostrakon_nn::{
    Backend, BackendError, Graph, GraphLimits, Host, LayerSource, LayerSourceError, MemoryLayers, Meter, NnError,
    ProvenBackend, RawLayer, Tensor,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

fn executor() -> Arc<Executor> {
    Arc::new(Executor::new(Level::Scalar, 1).unwrap())
}

/// The CPU's products, counted; exact by construction, so nothing to prove.
struct Counting {
    executor: Arc<Executor>,
    prepared: Arc<AtomicUsize>,
}

impl Backend for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn prepare(&self, _: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        std::thread::sleep(std::time::Duration::from_millis(20));
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(CpuProduct::new(layer, &self.executor)))
    }

    fn prove(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn layers() -> MemoryLayers {
    let mut layers = MemoryLayers::new();
    layers.insert_linear("b.linear", "u8", &[1, 2, 3, 4], &[0.5, 0.25], &[], &[]);
    layers.insert_linear("b.other", "u16", &[1, 2, 3, 4], &[0.5, 0.25], &[], &[]);
    layers.insert_linear("b.broken", "u8", &[-128, 2, 3, 4], &[0.5, 0.25], &[], &[]);
    layers.insert("b.odd", "convolution", "", vec![]);
    layers
}

fn host(layers: impl LayerSource + 'static, limits: GraphLimits) -> (Host, Arc<AtomicUsize>) {
    let executor = executor();
    let prepared = Arc::new(AtomicUsize::new(0));
    let backend = Counting { executor: Arc::clone(&executor), prepared: Arc::clone(&prepared) };
    (Host::with_limits(executor, ProvenBackend::new(backend).unwrap(), Arc::new(layers), limits), prepared)
}

#[test]
fn callers_at_the_same_time_share_one_preparation() {
    let (host, prepared) = host(layers(), GraphLimits::default());
    let barrier = Barrier::new(4);
    let graphs: Vec<Graph> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    host.graph("b.linear").unwrap()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(prepared.load(Ordering::SeqCst), 1);
    assert!(graphs.windows(2).all(|pair| pair[0].is(&pair[1])));
    assert!(!host.graph("b.other").unwrap().is(&graphs[0]));
}

#[test]
fn names_are_checked_before_the_source_sees_them() {
    struct Untouched;
    impl LayerSource for Untouched {
        fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError> {
            panic!("the source was asked for {name:?}")
        }
    }
    let (host, _) = host(Untouched, GraphLimits::default());
    for name in ["../secrets", "/etc/passwd", "other:b.linear", "b..linear"] {
        assert!(matches!(host.graph(name), Err(NnError::Security(_))), "{name}");
        assert!(matches!(host.raw(name), Err(NnError::Security(_))), "{name}");
    }
    for name in ["", "B.linear", "b.linear ", ".b"] {
        assert!(matches!(host.graph(name), Err(NnError::InvalidArgument(_))), "{name}");
    }
}

#[test]
fn layers_that_are_missing_or_broken_are_named() {
    let (host, _) = host(layers(), GraphLimits::default());
    let text = |name: &str| host.graph(name).unwrap_err();
    assert!(matches!(text("b.absent"), NnError::NotFound(text) if text.contains("b.absent")));
    assert!(
        matches!(text("b.broken"), NnError::InvalidEncoding(text) if text.contains("b.broken") && text.contains("-128"))
    );
    assert!(matches!(text("b.odd"), NnError::InvalidEncoding(text) if text.contains("convolution")));
    // A raw layer is given as it is: its reader judges it.
    assert_eq!(host.raw("b.broken").unwrap().byte_len(), 4 + 8);
    assert_eq!(host.raw("b.broken").unwrap().kind, "linear");
}

#[test]
fn raw_bytes_can_be_had_after_a_layer_was_prepared() {
    let (host, _) = host(layers(), GraphLimits::default());
    host.graph("b.linear").unwrap();
    let raw = host.raw("b.linear").unwrap();
    let weight = raw.parts.iter().find(|part| part.name == "weight").unwrap();
    assert_eq!((*weight.data).as_ref(), [1, 2, 3, 4]);
}

#[test]
fn a_source_that_cannot_read_is_a_fault_of_the_host() {
    struct Unplugged;
    impl LayerSource for Unplugged {
        fn raw(&self, name: &str) -> Result<RawLayer, LayerSourceError> {
            Err(LayerSourceError::Unreadable { name: name.to_owned(), reason: "the disk is gone".to_owned() })
        }
    }
    let (host, _) = host(Unplugged, GraphLimits::default());
    let error = host.graph("b.linear").unwrap_err();
    assert!(error.is_host_fault() && error.text().contains("the disk is gone"), "{error}");
}

#[test]
fn a_host_prepares_no_more_than_its_limits() {
    let room_for_one = [
        GraphLimits { layers: 1, ..GraphLimits::default() },
        GraphLimits { layers: 9, bytes: 20, ..GraphLimits::default() },
    ];
    for limits in room_for_one {
        let (host, prepared) = host(layers(), limits);
        let first = host.graph("b.linear").unwrap();
        let error = host.graph("b.other").unwrap_err();
        assert!(error.is_host_fault() && error.text().contains("b.other"), "{error}");
        assert!(host.graph("b.linear").unwrap().is(&first));
        assert_eq!(prepared.load(Ordering::SeqCst), 1);
    }
}

/// Wrong in a way that random tests miss: pairs of products saturate in 16 bits.
struct Saturating(Vec<i8>, usize);

impl Product for Saturating {
    fn product_u8(&self, codes: &[u8], _: usize, totals: &mut [i32]) -> Result<(), ProductError> {
        let outputs = self.0.len() / self.1;
        for (codes, totals) in codes.chunks_exact(self.1).zip(totals.chunks_exact_mut(outputs)) {
            for (weight, total) in self.0.chunks_exact(self.1).zip(totals) {
                let products: Vec<i32> = codes.iter().zip(weight).map(|(&c, &w)| i32::from(c) * i32::from(w)).collect();
                *total = products.chunks(2).map(|pair| pair.iter().sum::<i32>().clamp(-32_768, 32_767)).sum();
            }
        }
        Ok(())
    }
}

struct SaturatingBackend;

impl Backend for SaturatingBackend {
    fn name(&self) -> &'static str {
        "saturating"
    }

    fn prepare(&self, _: &str, layer: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        Ok(Box::new(Saturating(layer.weight.as_slice().to_vec(), layer.inputs)))
    }
}

/// Fails when asked to prepare or to answer.
struct Failing {
    prepares: bool,
}

impl Product for Failing {
    fn product_u8(&self, _: &[u8], _: usize, _: &mut [i32]) -> Result<(), ProductError> {
        Err(ProductError::Unavailable("the device is lost".to_owned()))
    }
}

impl Backend for Failing {
    fn name(&self) -> &'static str {
        "failing"
    }

    fn prepare(&self, _: &str, _: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
        if self.prepares {
            Ok(Box::new(Self { prepares: true }))
        } else {
            Err(NnError::Runtime("no driver".to_owned()))
        }
    }
}

#[test]
fn a_backend_that_saturates_is_refused() {
    let error = ProvenBackend::new(SaturatingBackend).unwrap_err();
    assert!(matches!(error, BackendError::NotExact { backend: "saturating", .. }), "{error}");
}

#[test]
fn a_backend_that_does_not_answer_is_refused() {
    for (prepares, reason) in [(false, "no driver"), (true, "the device is lost")] {
        let error = ProvenBackend::new(Failing { prepares }).unwrap_err();
        assert!(matches!(&error, BackendError::Unavailable { backend: "failing", .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn a_backend_that_fails_later_is_a_fault_of_the_host() {
    struct Trusted;
    impl Backend for Trusted {
        fn name(&self) -> &'static str {
            "trusted"
        }
        fn prepare(&self, _: &str, _: &Arc<Linear>) -> Result<Box<dyn Product>, NnError> {
            Ok(Box::new(Failing { prepares: true }))
        }
        fn prove(&self) -> Result<(), BackendError> {
            Ok(())
        }
    }
    let host = Host::new(executor(), ProvenBackend::new(Trusted).unwrap(), Arc::new(layers()));
    let x = Tensor::from_f32(vec![1, 2], vec![1.0, 2.0]).unwrap();
    let error =
        host.compute(&Meter::unlimited(), &host.graph("b.linear").unwrap(), vec![("x".to_owned(), x)]).unwrap_err();
    assert!(error.is_host_fault() && error.text().contains("b.linear"), "{error}");
    assert!(error.text().contains("the device is lost"), "{error}");
}

#[test]
fn the_cpu_proves_itself_at_every_level_and_thread_count() {
    for level in Level::available() {
        for threads in [1, 2] {
            let executor = Arc::new(Executor::new(level, threads).unwrap());
            assert_eq!(ProvenBackend::start("cpu", &executor, None).unwrap().name(), "cpu", "{level}");
        }
    }
}

#[test]
fn unknown_backends_are_named_with_the_known_ones() {
    let error = ProvenBackend::start("abacus", &executor(), None).unwrap_err().to_string();
    assert!(error.contains("abacus") && error.contains("cpu"), "{error}");
}
