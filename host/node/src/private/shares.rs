//! A component that splits, checks and combines, as the shared backend wants it.

use crate::error::NodeError;
use ostrakon_engine::sharing::{Place, Seed};
use ostrakon_engine::{CallError, Limits, Plugin, Sharing};
use ostrakon_exact::field::Field;
use ostrakon_exact::simd::Executor;
use ostrakon_nn::{Host, NnError, Shares, Tensor};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Instances that wait for the next call.
const IDLE: usize = 4;

/// A component of the world `secret-sharing`. Calls from several threads go to an instance each.
pub(super) struct ComponentShares {
    plugin: Plugin,
    limits: Limits,
    host: OnceLock<Arc<Host>>,
    idle: Mutex<Vec<Sharing>>,
}

impl ComponentShares {
    pub(super) fn new(plugin: Plugin, limits: Limits) -> Self {
        Self { plugin, limits, host: OnceLock::new(), idle: Mutex::default() }
    }

    /// Let this executor do the arithmetic, and see that the component starts.
    pub(super) fn start(&self, executor: &Arc<Executor>) -> Result<(), NodeError> {
        let host = self.host.get_or_init(|| Arc::new(Host::without_layers(Arc::clone(executor))));
        let sharing = self.plugin.sharing(Arc::clone(host), self.limits).map_err(|source| failed(&source));
        self.give_back(sharing.map_err(|error| NodeError::Arithmetic(error.to_string()))?);
        Ok(())
    }

    /// The sum of the masks of these seeds.
    pub(super) fn mask(&self, seeds: &[Seed], at: Place) -> Result<Tensor, NnError> {
        self.call(|sharing| sharing.mask(seeds, at))
    }

    fn call<T>(&self, work: impl FnOnce(&mut Sharing) -> Result<T, CallError>) -> Result<T, NnError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sharing = match (idle, self.host.get()) {
            (Some(sharing), _) => sharing,
            (None, Some(host)) => self.plugin.sharing(Arc::clone(host), self.limits).map_err(|error| failed(&error))?,
            (None, None) => return Err(NnError::Unknown("the component was not started".into())),
        };
        let result = work(&mut sharing).map_err(|error| failed(&error));
        self.give_back(sharing);
        result
    }

    fn give_back(&self, sharing: Sharing) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sharing.is_spent() && idle.len() < IDLE {
            idle.push(sharing);
        }
    }
}

impl Shares for ComponentShares {
    fn split(&self, field: Field, codes: &Tensor, mask: &Tensor) -> Result<Tensor, NnError> {
        self.call(|sharing| sharing.split(field, codes, mask))
    }

    fn check(
        &self,
        field: Field,
        share: &Tensor,
        product: &Tensor,
        challenge: &Tensor,
        projection: &Tensor,
    ) -> Result<Option<u32>, NnError> {
        self.call(|sharing| sharing.check(field, share, product, challenge, projection))
    }

    fn combine(&self, field: Field, products: &[&Tensor]) -> Result<Tensor, NnError> {
        let [first, rest @ ..] = products else {
            return Err(NnError::InvalidArgument("no products to combine".into()));
        };
        self.call(|sharing| {
            rest.iter().try_fold((*first).clone(), |sum, product| sharing.combine(field, &sum, product))
        })
    }
}

fn failed(error: &CallError) -> NnError {
    NnError::Runtime(format!("the component that splits activations: {error}"))
}
