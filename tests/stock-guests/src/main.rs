//! Runs a command component that was written for another wasi-nn host on ours, unchanged.
//!
//! `stock-guests COMPONENT FIXTURES OPENVINO`: the component gets WASI with the directory FIXTURES as `fixture`, and our
//! `wasi:nn`, which may load graphs from bytes and has the graph in FIXTURES under that directory's name. OPENVINO
//! is where `make setup` put it. Ends with the component's own verdict.

use ostrakon_engine::{Limits, NnView, State, add_wasi_nn};
use ostrakon_exact::simd::{Executor, Level};
use ostrakon_nn::{CpuBackend, GraphFiles, GraphLimits, Host, ProvenBackend};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi::p2::bindings::sync::Command;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};

/// What the store holds: WASI of wasmtime's, wasi-nn of ours.
struct Both {
    wasi: WasiCtx,
    table: ResourceTable,
    nn: State,
}

impl WasiView for Both {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl NnView for Both {
    fn nn(&self) -> &State {
        &self.nn
    }

    fn nn_mut(&mut self) -> &mut State {
        &mut self.nn
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [component, fixtures, openvino] = arguments.as_slice() else {
        return Err("usage: stock-guests COMPONENT FIXTURES OPENVINO".into());
    };

    let mut graphs = GraphFiles::new();
    graphs.insert(Path::new(fixtures))?;
    let executor = Arc::new(Executor::new(Level::detect(), 2)?);
    let backend = ProvenBackend::new(CpuBackend::new(Arc::clone(&executor)))?;
    let allowed = GraphLimits { allow_load: true, ..GraphLimits::default() };
    let host = Host::with_limits(executor, backend, Arc::new(graphs), allowed).with_openvino(openvino.into());

    let mut config = Config::new();
    config.consume_fuel(true);
    let engine = Engine::new(&config)?;
    let mut linker = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_sync(&mut linker)?;
    add_wasi_nn(&mut linker)?;
    let mut wasi = WasiCtx::builder();
    wasi.inherit_stdio().preopened_dir(fixtures, "fixture", FsPerms::ReadOnly)?;
    let limits = Limits::default();
    let data = Both { wasi: wasi.build(), table: ResourceTable::new(), nn: State::new(Arc::new(host), &limits) };
    let mut store = Store::new(&engine, data);
    store.set_fuel(limits.fuel)?;

    let component = Component::from_file(&engine, component)?;
    let command = Command::instantiate(&mut store, &component, &linker)?;
    let verdict = command.wasi_cli_run().call_run(&mut store).map_err(|error| format!("{error:#}"))?;
    verdict.map_err(|()| "the component says that it failed".into())
}
