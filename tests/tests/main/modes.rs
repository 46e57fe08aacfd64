//! Permission bits of the files and directories that a store creates, under the umask of the test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cenotaph::{BlobOptions, Config, Engine, ErrorKind, FjallOptions, MARKER_PATH, Modes};
use cenotaph_tests::store::{payload, quick};
use tempfile::TempDir;

/// Directories and files below a directory, itself included, with their permission bits.
#[derive(Debug, Default)]
struct Found {
    directories: BTreeMap<PathBuf, u32>,
    files: BTreeMap<PathBuf, u32>,
}

impl Found {
    fn below(dir: &Path) -> Self {
        let mut found = Self::default();
        found.add(dir);
        found
    }

    fn add(&mut self, dir: &Path) {
        self.directories.insert(dir.to_owned(), bits(dir));
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.add(&path);
            } else {
                self.files.insert(path.clone(), bits(&path));
            }
        }
    }

    /// Returns the files that fjall has not created.
    fn own_files(&self) -> impl Iterator<Item = (&PathBuf, &u32)> {
        self.files
            .iter()
            .filter(|(path, _)| !path.components().any(|part| part.as_os_str() == "database"))
    }
}

fn bits(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn configured(modes: Modes) -> Config {
    let index = FjallOptions {
        modes,
        ..FjallOptions::default()
    };
    let blobs = BlobOptions {
        modes,
        ..BlobOptions::default()
    };
    Config {
        index,
        blobs,
        ..quick()
    }
}

/// Creates a store with objects in both tiers and a long name, and closes it.
async fn make(data: &Path, config: Config) {
    let engine = Engine::builder(data).config(config).open().await.unwrap();
    for number in 0..4 {
        engine
            .put(format!("small/{number}"), payload(number, 500))
            .await
            .unwrap();
        engine
            .put(format!("large/{number}"), payload(number, 3_000_000))
            .await
            .unwrap();
    }
    engine
        .put("n".repeat(900), payload(9, 10_000))
        .await
        .unwrap();
    let upload = engine.multipart("parts").await.unwrap();
    upload.part(1, payload(1, 2_000_000)).await.unwrap();
    engine.close().await.unwrap();
}

/// Asserts that the umask allows others to read, so that the modes found are set by the store.
fn assert_umask_is_open(dir: &Path) {
    let probe = dir.join("probe");
    fs::write(&probe, b"").unwrap();
    assert_ne!(
        bits(&probe) & 0o044,
        0,
        "run this test with a umask such as 022"
    );
    fs::remove_file(probe).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_store_is_for_its_owner_only() {
    let dir = TempDir::new().unwrap();
    assert_umask_is_open(dir.path());
    let data = dir.path().join("deep/data");
    make(&data, quick()).await;
    // Open the store again: fjall creates further files, and the store updates its own.
    make(&data, quick()).await;
    let found = Found::below(&dir.path().join("deep"));
    assert!(
        found.files.len() > 20
            && found
                .files
                .contains_key(&data.join("blobs").join(MARKER_PATH)),
        "{found:#?}"
    );
    for (path, bits) in &found.directories {
        assert_eq!(*bits, 0o700, "{}", path.display());
    }
    for (path, bits) in found.own_files() {
        assert_eq!(*bits, 0o600, "{}", path.display());
    }
    for name in [
        "index/lock",
        "index/reserve",
        "index/store/record.json",
        "index/store/high-water",
    ] {
        assert_eq!(found.files.get(&data.join(name)), Some(&0o600), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_files_of_fjall_are_for_their_owner_only() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    Engine::builder(&data)
        .open()
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let found = Found::below(&data.join("index/store/database"));
    let first: Vec<_> = found
        .files
        .iter()
        .filter(|(path, _)| path.ends_with("0.jnl"))
        .collect();
    assert_eq!(first.len(), 1, "{found:#?}");
    for (path, bits) in found.files {
        assert_eq!(bits, 0o600, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_modes_hold_for_directories_and_files() {
    let dir = TempDir::new().unwrap();
    assert_umask_is_open(dir.path());
    let data = dir.path().join("data");
    make(
        &data,
        configured(Modes {
            directory: 0o750,
            file: 0o640,
        }),
    )
    .await;
    let found = Found::below(&data);
    assert!(
        found.directories.values().all(|bits| *bits == 0o750),
        "{found:#?}"
    );
    for (path, bits) in found.own_files() {
        assert_eq!(*bits, 0o640, "{}", path.display());
    }
    let wrong = configured(Modes {
        directory: 0o600,
        ..Modes::default()
    });
    let error = Engine::builder(dir.path().join("other"))
        .config(wrong)
        .open()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("modes.directory"), "{error}");
    assert!(!dir.path().join("other").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn existing_files_keep_their_modes() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let blobs = dir.path().join("blobs");
    for existing in [&data, &data.join("index"), &blobs] {
        fs::create_dir_all(existing).unwrap();
        fs::set_permissions(existing, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let engine = Engine::builder(&data)
        .config(quick())
        .blobs_in(&blobs)
        .open()
        .await
        .unwrap();
    engine.put("a", payload(1, 10_000)).await.unwrap();
    engine.close().await.unwrap();
    let lock = data.join("index/lock");
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    Engine::builder(&data)
        .config(quick())
        .blobs_in(&blobs)
        .open()
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    assert_eq!(
        [
            bits(&data),
            bits(&data.join("index")),
            bits(&blobs),
            bits(&lock)
        ],
        [0o755, 0o755, 0o755, 0o644]
    );
    let found = Found::below(&blobs);
    assert!(
        found
            .directories
            .iter()
            .all(|(path, bits)| *path == blobs || *bits == 0o700),
        "{found:#?}"
    );
    assert!(
        found.files.values().all(|bits| *bits == 0o600),
        "{found:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn salvaged_store_is_for_its_owner_only() {
    let dir = TempDir::new().unwrap();
    let old = dir.path().join("old");
    let new = dir.path().join("new");
    make(&old, quick()).await;
    // Files of a store from an earlier build.
    for (path, _) in Found::below(&old).files {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    cenotaph::salvage(&old, &new).await.unwrap();
    let found = Found::below(&new);
    assert!(
        found.directories.values().all(|bits| *bits == 0o700),
        "{found:#?}"
    );
    assert!(
        found.own_files().all(|(_, bits)| *bits == 0o600),
        "{found:#?}"
    );
}
