//! Cranelift and Pulley agree on bytes and on fuel, in both worlds, call after call.

use crate::support;
use crate::support::{admit, host, identity, lengths, limits, linear, rows, runtime};
use ostrakon_engine::{Compiler, DeterminismProfile, Plugin, World};

/// The profile is what receipts are compared by: changing it is a deliberate act.
const GOLDEN_PROFILE: &str = "d3b7a6ef8e588d83f4aaa4aa3b5f6e3f78b50c6686b6dde3fbbca95295d6f8d8";

#[test]
fn the_profile_is_the_golden_one_and_does_not_know_the_compiler() {
    let [cranelift, pulley] = [Compiler::Cranelift, Compiler::Pulley].map(|c| DeterminismProfile::new(c).digest());
    assert_eq!(cranelift, pulley);
    assert_eq!(cranelift.to_hex().as_str(), GOLDEN_PROFILE, "{:#?}", DeterminismProfile::new(Compiler::Pulley).lines());
}

#[test]
fn the_engine_is_the_one_that_the_profile_names() {
    let lock = include_str!("../../../../Cargo.lock");
    let version = ostrakon_engine::profile::ENGINE_VERSION.strip_prefix("wasmtime ").unwrap();
    assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{version}\"")));
}

/// Fuel and output bytes of a few calls.
fn trace(plugin: &Plugin) -> Vec<(u64, Vec<u8>)> {
    let mut instance = plugin.instantiate(host(), limits()).unwrap();
    let session = instance.open("b", &[("kind".to_owned(), "test".to_owned())]).unwrap();
    [1, 2, 7, 2]
        .into_iter()
        .map(|n| {
            let forward = instance.forward(session, rows(n), &lengths(&[n as i32])).unwrap();
            (forward.fuel, forward.output.to_bytes())
        })
        .collect()
}

#[test]
fn both_compilers_give_the_same_bytes_and_fuel() {
    let [cranelift, pulley] = [Compiler::Cranelift, Compiler::Pulley].map(runtime);
    for wat in [identity(), linear("b.linear"), linear("b.wide")] {
        let traces = [&cranelift, &pulley].map(|runtime| trace(&admit(runtime, &wat)));
        assert_eq!(traces[0], traces[1]);
        assert!(traces[0].iter().all(|(fuel, _)| *fuel > 0));
    }
    let reference = wat::parse_str(support::reference_identity()).unwrap();
    let traces = [&cranelift, &pulley].map(|runtime| trace(&runtime.admit(&reference, World::ReferenceBlock).unwrap()));
    assert_eq!(traces[0], traces[1]);
    assert_eq!(traces[0][1].1, rows(2).to_bytes());
}

#[test]
fn the_layer_is_computed_as_the_host_computes_it() {
    let host = host();
    let plugin = admit(support::shared_runtime(), &linear("b.linear"));
    let mut instance = plugin.instantiate(host.clone(), limits()).unwrap();
    let session = instance.open("b", &[]).unwrap();
    let through = instance.forward(session, rows(5), &lengths(&[5])).unwrap().output;
    let graph = host.graph("b.linear").unwrap();
    let direct = host.compute(&ostrakon_nn::Meter::unlimited(), &graph, vec![("x".to_owned(), rows(5))]).unwrap();
    assert_eq!(through.to_bytes(), direct[0].1.to_bytes());
    assert_eq!(through.dims(), [5, 3]);
    assert!(!through.is_charged());
}

#[test]
fn a_world_is_told_by_imports_and_exports() {
    let survey = |wat: &str| ostrakon_engine::Survey::read(&wat::parse_str(wat).unwrap()).unwrap();
    assert_eq!(World::of(&survey(&identity())), Some(World::ModelBlock));
    assert_eq!(World::of(&survey(&support::reference_identity())), Some(World::ReferenceBlock));
    assert_eq!(World::of(&survey("(component)")), None);
}

#[test]
fn what_callers_share_or_move_between_threads_allows_it() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<ostrakon_engine::Runtime>();
    shared::<Plugin>();
    moved::<ostrakon_engine::Instance>();
}
