//! A private run inside of one process: the real component splits, checks and combines, and servers of a test multiply.

use crate::packed::{home, plugins};
use crate::tiny::{expect, policy, quick};
use ostrakon_engine::sharing::{Place, Seed};
use ostrakon_engine::{CallError, Limits, Runtime, Sharing, World};
use ostrakon_exact::field::{Field, ShareProduct, reference};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_exact::{Layer, Linear};
use ostrakon_nn::{
    CpuBackend, Host, LayerSource, NnError, ProvenBackend, Servers, SharedBackend, SharedLayer, Shares, Tensor,
};
use ostrakon_node::Model;
use ostrakon_package::Package;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What another thread left is as good as it was.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Products of shares by layer.
type Products = BTreeMap<String, Arc<ShareProduct>>;

/// A package on this machine, and the servers' side of its layers.
pub struct Bench {
    /// Does the arithmetic.
    pub executor: Arc<Executor>,
    /// The plain backend.
    pub host: Host,
    layers: Arc<dyn LayerSource>,
    products: Mutex<Products>,
}

impl Bench {
    /// For these layers.
    pub fn new(layers: Arc<dyn LayerSource>) -> Self {
        let executor = Arc::new(expect(Executor::new(Level::detect(), quick().thread_count())));
        let backend = expect(ProvenBackend::new(CpuBackend::new(Arc::clone(&executor))));
        let host = Host::new(Arc::clone(&executor), backend, Arc::clone(&layers));
        Self { executor, host, layers, products: Mutex::default() }
    }

    /// A host whose products are computed by `servers`.
    pub fn shared<S: Servers + 'static>(&self, shares: Arc<dyn Shares>, servers: Arc<S>) -> Host {
        let backend = SharedBackend::new(Arc::clone(&self.executor), shares, servers);
        Host::new(Arc::clone(&self.executor), expect(ProvenBackend::new(backend)), Arc::clone(&self.layers))
    }

    /// What an honest server answers for a share [R, K] or a mask.
    pub fn multiply(&self, layer: &str, share: &Tensor) -> Tensor {
        let product = {
            let mut products = lock(&self.products);
            if !products.contains_key(layer) {
                products.insert(layer.to_owned(), Arc::new(expect(self.host.share_product(layer))));
            }
            expect(products.get(layer).cloned().ok_or("it was put there"))
        };
        let rows = share.dims().first().map_or(0, |&rows| rows as usize);
        let mut out = vec![0; rows * product.columns()];
        expect(product.multiply(elements(share), rows, &mut out));
        tensor(rows, product.columns(), &out)
    }
}

/// A package's layers and manifest.
pub fn opened(directory: &Path) -> Arc<Package> {
    Arc::new(expect(Package::open(directory, &policy())))
}

/// The linear layers of a model, in order.
///
/// # Panics
/// When one of them is none.
#[allow(clippy::panic, reason = "the test's model is broken")]
pub fn linear_layers(model: &Model) -> Vec<(String, Linear)> {
    let blocks = &model.manifest().blocks;
    let names = blocks.iter().flat_map(|block| {
        let linear = block.layers.iter().filter(|layer| layer.kind == "linear");
        linear.map(|layer| format!("{}.{}", block.name, layer.name))
    });
    let layer = |name: String| {
        let raw = expect(model.host().raw(&name));
        match expect(Layer::from_parts(&raw.kind, &raw.activation, raw.parts)) {
            Layer::Linear(layer) => (name, layer),
            _ => panic!("{name} is not linear"),
        }
    };
    names.map(layer).collect()
}

/// Rows of so many elements as they are sent; of numbers that are none as many bytes.
pub fn packed(field: Field, width: usize, elements: &[u32]) -> Vec<u8> {
    let mut packed = vec![0; elements.len() * field.bytes()];
    expect(reference::pack(field, elements, width, &mut packed));
    packed
}

/// Rows that were sent.
pub fn unpacked(field: Field, width: usize, packed: &[u8]) -> Vec<u32> {
    let mut elements = vec![0; packed.len() / field.bytes()];
    expect(reference::unpack(field, packed, width, &mut elements));
    elements
}

/// Elements of a tensor.
pub fn elements(tensor: &Tensor) -> &[u32] {
    bytemuck::cast_slice(expect(tensor.as_i32()))
}

/// Elements as a tensor.
pub fn tensor(rows: usize, columns: usize, elements: &[u32]) -> Tensor {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let signed = elements.iter().map(|&element| element.cast_signed()).collect();
    expect(Tensor::from_i32(vec![number(rows), number(columns)], signed))
}

/// The component that `make plugins` built, admitted; and what it was asked. It sees to it that nothing is combined that was not
/// found right, and that vectors which a wrong answer has met are never used again.
pub struct Component {
    sharing: Mutex<Sharing>,
    codes: Mutex<Vec<Tensor>>,
    /// Products that passed a check.
    right: Mutex<HashSet<Vec<u32>>>,
    /// The beginnings of vectors that a wrong answer has met.
    spent: Mutex<HashSet<Vec<u32>>>,
    watches: bool,
}

impl Component {
    /// Start it. With `watches` it keeps the codes that it splits, otherwise the products that it finds right.
    pub fn start(executor: &Arc<Executor>, watches: bool) -> Arc<Self> {
        let bytes = expect(std::fs::read(plugins().join("secret-sharing.wasm")));
        let cache = ostrakon_engine::CacheDir::open(home().cache.join("compiled")).ok();
        let runtime = expect(Runtime::new(quick().compiler, cache, Limits::default()));
        let plugin = expect(runtime.admit(&bytes, World::SecretSharing));
        let host = Arc::new(Host::without_layers(Arc::clone(executor)));
        let sharing = Mutex::new(expect(plugin.sharing(host, Limits::default())));
        let (codes, right, spent) = Default::default();
        Arc::new(Self { sharing, codes, right, spent, watches })
    }

    /// The sum of the masks of these seeds.
    pub fn mask(&self, seeds: &[Seed], at: Place) -> Tensor {
        expect(lock(&self.sharing).mask(seeds, at))
    }

    /// The codes that were split since the last time, call by call.
    pub fn take_codes(&self) -> Vec<Tensor> {
        std::mem::take(&mut lock(&self.codes))
    }

    /// Forget what was found right.
    pub fn forget(&self) {
        lock(&self.right).clear();
    }
}

impl Shares for Component {
    fn split(&self, field: Field, codes: &Tensor, mask: &Tensor) -> Result<Tensor, NnError> {
        if self.watches {
            lock(&self.codes).push(codes.clone());
        }
        lock(&self.sharing).split(field, codes, mask).map_err(failed)
    }

    fn check(
        &self,
        field: Field,
        share: &Tensor,
        product: &Tensor,
        r: &Tensor,
        v: &Tensor,
    ) -> Result<Option<u32>, NnError> {
        let vectors: Vec<u32> = elements(r).iter().take(4).copied().collect();
        assert!(!lock(&self.spent).contains(&vectors), "vectors are used that a wrong answer has met");
        let wrong = lock(&self.sharing).check(field, share, product, r, v).map_err(failed)?;
        if wrong.is_some() {
            lock(&self.spent).insert(vectors);
        }
        if wrong.is_none() && !self.watches {
            lock(&self.right).insert(elements(product).to_vec());
        }
        Ok(wrong)
    }

    fn combine(&self, field: Field, products: &[&Tensor]) -> Result<Tensor, NnError> {
        let right = lock(&self.right);
        assert!(
            self.watches || products.iter().all(|product| right.contains(elements(product))),
            "a product is used that was not found right"
        );
        let [first, rest @ ..] = products else { return Err(NnError::Runtime("nothing to combine".into())) };
        let mut sharing = lock(&self.sharing);
        rest.iter().try_fold((*first).clone(), |sum, product| sharing.combine(field, &sum, product)).map_err(failed)
    }
}

fn failed(error: CallError) -> NnError {
    NnError::Runtime(error.to_string())
}

/// All rows of a layer's masks.
pub fn place(layer: &SharedLayer, stream: u32, rows: usize) -> Place {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (field, columns) = (layer.field(), number(layer.inputs()));
    Place { field, stream, first: 0, rows: number(rows), columns }
}

/// A fresh seed, as the real client draws it: from the system.
pub fn fresh_seed() -> Seed {
    let mut seed = Seed::default();
    expect(getrandom::fill(&mut seed));
    seed
}
