//! The cache of compiled code: used when sound, ignored when touched.
#![cfg(unix)]

use crate::support::{host, identity, lengths, limits, linear, rows};
use ostrakon_engine::{CacheDir, CacheError, Compiler, Limits, Runtime, World};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

fn runtime(cache: &Path, compiler: Compiler) -> Runtime {
    Runtime::new(compiler, Some(CacheDir::open(cache).unwrap()), Limits::default()).unwrap()
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(cache)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "code"))
        .collect();
    entries.sort();
    entries
}

/// Admit through the cache and see that what comes out works.
fn admit(cache: &Path, wat: &str) {
    let plugin = runtime(cache, Compiler::Cranelift).admit(&wat::parse_str(wat).unwrap(), World::ModelBlock).unwrap();
    let mut instance = plugin.instantiate(host(), limits()).unwrap();
    let session = instance.open("b", &[]).unwrap();
    instance.forward(session, rows(1), &lengths(&[1])).unwrap();
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    (directory, path)
}

#[test]
fn the_second_time_is_served_from_the_cache() {
    let (_keep, path) = fresh();
    admit(&path, &identity());
    let [entry] = <[PathBuf; 1]>::try_from(entries(&path)).unwrap();
    let before = fs::metadata(&entry).unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(path.join("key")).unwrap().permissions().mode() & 0o777, 0o600);
    admit(&path, &identity());
    assert_eq!(fs::metadata(&entry).unwrap().ino(), before.ino(), "it was written again");
    // Another compiler and another component have entries of their own.
    runtime(&path, Compiler::Pulley).admit(&wat::parse_str(identity()).unwrap(), World::ModelBlock).unwrap();
    admit(&path, &linear("b.linear"));
    assert_eq!(entries(&path).len(), 3);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 4, "nothing is left behind");
}

#[test]
fn touched_entries_are_replaced() {
    let (_keep, path) = fresh();
    admit(&path, &identity());
    let entry = entries(&path).remove(0);
    let sound = fs::read(&entry).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let touched = [
        flipped(0),
        flipped(32),
        flipped(sound.len() - 1),
        sound[..sound.len() / 2].to_vec(),
        sound[..31].to_vec(),
        vec![],
    ];
    for bytes in touched {
        fs::write(&entry, &bytes).unwrap();
        admit(&path, &identity());
        assert_eq!(fs::read(&entry).unwrap().len(), sound.len(), "it was not compiled again");
        assert_ne!(fs::read(&entry).unwrap(), bytes);
    }
}

#[test]
fn an_entry_of_another_component_or_machine_is_replaced() {
    let (_keep, path) = fresh();
    let (_keep_other, other) = fresh();
    admit(&path, &identity());
    let first = entries(&path).remove(0);
    admit(&path, &linear("b.linear"));
    let second = entries(&path).into_iter().find(|entry| *entry != first).unwrap();
    // Sound, but under another component's name.
    let foreign = fs::read(&second).unwrap();
    fs::write(&first, &foreign).unwrap();
    admit(&path, &identity());
    assert_ne!(fs::read(&first).unwrap(), foreign);
    // The right name, but made with another machine's key.
    admit(&other, &identity());
    let foreign = fs::read(entries(&other).remove(0)).unwrap();
    assert_eq!(entries(&other)[0].file_name(), first.file_name());
    fs::write(&first, &foreign).unwrap();
    admit(&path, &identity());
    assert_ne!(fs::read(&first).unwrap(), foreign);
}

#[test]
fn entries_open_to_others_or_links_are_replaced() {
    let (_keep, path) = fresh();
    admit(&path, &identity());
    let entry = entries(&path).remove(0);
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o666)).unwrap();
    admit(&path, &identity());
    assert_eq!(fs::metadata(&entry).unwrap().permissions().mode() & 0o777, 0o600);
    let elsewhere = path.with_extension("elsewhere");
    fs::rename(&entry, &elsewhere).unwrap();
    symlink(&elsewhere, &entry).unwrap();
    admit(&path, &identity());
    assert!(fs::symlink_metadata(&entry).unwrap().is_file());
}

#[test]
fn directories_that_others_can_enter_are_refused() {
    let (_keep, path) = fresh();
    CacheDir::open(&path).unwrap();
    for mode in [0o755, 0o770, 0o701] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(matches!(CacheDir::open(&path), Err(CacheError::Unsafe { .. })), "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    CacheDir::open(&path).unwrap();
    let link = path.with_extension("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(CacheDir::open(&link), Err(CacheError::Unsafe { .. })));
    fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(CacheDir::open(&path), Err(CacheError::Unsafe { .. })));
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    let (_keep, path) = fresh();
    CacheDir::open(&path).unwrap();
    fs::write(path.join("key"), [0; 31]).unwrap();
    assert!(matches!(CacheDir::open(&path), Err(CacheError::Unsafe { .. })));
}
