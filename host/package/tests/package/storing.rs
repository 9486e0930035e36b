//! The content store and the user's keys.

use std::{ffi::OsStr, fs, path::Path};

use crate::sample::{components, key, model, policy, sample};
use ostrakon_package::{
    Digest, Home, KeyError, Package, PackageError, Store, StoreError, TrustError, TrustPolicy, load_key,
    load_or_create_key, write_package,
};

#[test]
fn a_package_is_found_by_name() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&Home::under(home.path()));
    assert_eq!(store.list().unwrap(), []);
    let error = store.resolve("tiny").unwrap_err();
    assert!(error.to_string().contains("`tiny`") && error.to_string().contains("ostrakon pack"), "{error}");

    let sample = sample();
    let stored = store.add_package(&sample.path, &policy()).unwrap();
    assert_eq!(stored.digest, sample.digest);
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&stored));
    assert_eq!(store.resolve("tiny").unwrap(), stored.directory);
    assert_eq!(store.locate(OsStr::new("tiny")).unwrap(), stored.directory);
    assert_eq!(store.locate(sample.path.as_os_str()).unwrap(), sample.path);
    assert_eq!(Package::open(&stored.directory, &policy()).unwrap().digest(), sample.digest);
    assert!(store.resolve("other").unwrap_err().to_string().contains("the store has tiny"));
    for word in ["../tiny", "/nowhere", "tiny/weights", ""] {
        let error = store.locate(OsStr::new(word)).unwrap_err();
        assert!(matches!(error, StoreError::Package(PackageError::NotAPackage { .. })), "{word}: {error}");
    }
}

#[test]
fn adding_again_replaces_and_shares_files() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&Home::under(home.path()));
    let sample = sample();
    store.add_package(&sample.path, &policy()).unwrap();
    let blobs = count(&home.path().join("data/blobs"));
    // Another sharding is another package with the same files.
    let other = home.path().join("other");
    let digest = write_package(&model(), &components(), 3, &other, &key()).unwrap();
    assert_eq!(store.add_package(&other, &policy()).unwrap().digest, digest);
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(count(&home.path().join("data/blobs")), blobs);
    assert_eq!(fs::read_dir(home.path().join("data/packages")).unwrap().count(), 1);
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| if p.is_dir() { count(&p) } else { 1 }).sum()
}

#[test]
fn what_may_not_be_opened_is_not_kept() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&Home::under(home.path()));
    let sample = sample();
    let refused = store.add_package(&sample.path, &TrustPolicy::default());
    assert!(matches!(refused, Err(StoreError::Package(PackageError::UnknownSigner { .. }))));
    assert!(!home.path().join("data").exists());
}

#[test]
fn blobs_are_verified_when_read() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&Home::under(home.path()));
    let digest = store.put(b"some bytes").unwrap();
    assert_eq!(store.put(b"some bytes").unwrap(), digest);
    assert_eq!(store.get(&digest, 10).unwrap(), b"some bytes");
    assert!(matches!(store.get(&digest, 9), Err(StoreError::TooLarge { bytes: 10, limit: 9 })));
    let absent = Digest::of_content(b"other");
    assert!(matches!(store.get(&absent, 10), Err(StoreError::NoBlob { digest }) if digest == absent));

    let text = digest.to_string();
    let path = home.path().join("data/blobs").join(&text[..2]).join(&text);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"Some bytes").unwrap();
    assert!(matches!(store.get(&digest, 10), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_damaged_blob_is_replaced_when_its_package_is_added() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&Home::under(home.path()));
    let sample = sample();
    let stored = store.add_package(&sample.path, &policy()).unwrap();
    let digest = Digest::of_content(&model().tokenizer).to_string();
    let path = home.path().join("data/blobs").join(&digest[..2]).join(&digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![b'x'; model().tokenizer.len()]).unwrap();
    store.add_package(&sample.path, &policy()).unwrap();
    Package::open(&stored.directory, &policy()).unwrap();
}

#[test]
fn the_key_is_made_once_and_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::under(directory.path());
    assert!(load_key(&home).unwrap().is_none());
    assert_eq!(TrustPolicy::load(&home).unwrap(), TrustPolicy::default());
    let first = load_or_create_key(&home).unwrap();
    assert_eq!(load_or_create_key(&home).unwrap().public(), first.public());
    assert_eq!(TrustPolicy::load(&home).unwrap().name_of(&first.public()), Some("you"));
    assert!(
        !format!("{first:?}")
            .contains(fs::read_to_string(home.signing_key()).unwrap().rsplit(':').next().unwrap().trim())
    );

    let trusted = format!("[[signer]]\nname = \"Ada\"\nkey = \"{}\"\n", key().public());
    fs::write(home.trust_file(), &trusted).unwrap();
    assert_eq!(TrustPolicy::load(&home).unwrap().name_of(&key().public()), Some("Ada"));
    for bad in ["[[signer]]\n", &format!("{trusted}{trusted}"), &trusted.replace("Ada", " "), "signers = []", "\u{0}"] {
        fs::write(home.trust_file(), bad).unwrap();
        assert!(matches!(TrustPolicy::load(&home), Err(TrustError::Malformed { .. })), "{bad}");
    }
}

#[test]
fn keys_made_at_once_are_one_key() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::under(directory.path());
    let keys: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create_key(&home).unwrap().public())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|k| *k == keys[0]));
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let home = Home::under(directory.path());
    load_or_create_key(&home).unwrap();
    let path = home.signing_key();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(load_key(&home), Err(KeyError::Exposed { mode: 0o644, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for bad in ["", "ostrakon-ed25519-seed:12", &"x".repeat(4096)] {
        fs::write(&path, bad).unwrap();
        assert!(matches!(load_or_create_key(&home), Err(KeyError::Malformed { .. })), "{bad}");
    }
}
