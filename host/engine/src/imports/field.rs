//! `ostrakon:plugin/field`: arithmetic modulo a prime.

use super::exact::{Answer, Handle, Store, answer};
use crate::admission::interface::FIELD;
use crate::cost;
use crate::state::{State, charge};
use wasmtime::Result;
use wasmtime::component::{Linker, WasmList};

type Expand = (WasmList<u8>, u32, u64, u32, u32);

pub(crate) fn link(linker: &mut Linker<State>) -> Result<()> {
    let mut interface = linker.instance(FIELD)?;
    interface.func_wrap(
        "expand",
        |mut store: Store<'_>, (seed, stream, first, rows, columns): Expand| -> Result<Answer> {
            charge(&mut store, cost::expand(rows, columns))?;
            // One byte more than a seed has shows that it is too long.
            let seed: Vec<u8> =
                seed.as_le_slice(&store).iter().copied().take(ostrakon_nn::field::SEED_BYTES + 1).collect();
            answer(&mut store, |state| state.host.field_expand(&state.meter, &seed, stream, first, (rows, columns)))
        },
    )?;
    interface.func_wrap("add", |mut store: Store<'_>, (a, b): (Handle, Handle)| -> Result<Answer> {
        let (a, b) = (store.data().tensor(&a)?, store.data().tensor(&b)?);
        charge(&mut store, cost::add(&a))?;
        answer(&mut store, |state| state.host.field_add(&state.meter, &a, &b))
    })?;
    interface.func_wrap("subtract", |mut store: Store<'_>, (a, b): (Handle, Handle)| -> Result<Answer> {
        let (a, b) = (store.data().tensor(&a)?, store.data().tensor(&b)?);
        charge(&mut store, cost::add(&a))?;
        answer(&mut store, |state| state.host.field_subtract(&state.meter, &a, &b))
    })?;
    interface.func_wrap("dot", |mut store: Store<'_>, (x, vectors): (Handle, Handle)| -> Result<Answer> {
        let (x, vectors) = (store.data().tensor(&x)?, store.data().tensor(&vectors)?);
        charge(&mut store, cost::dot(&x))?;
        answer(&mut store, |state| state.host.field_dot(&state.meter, &x, &vectors))
    })
}
