//! Contents of a bucket, compared with its expected contents: exactly the revisions that rows name
//! (I5).
//!
//! Both are sets of paths, so that foreign blobs are found, too.

use std::collections::BTreeSet;
use std::fmt;

use cenotaph::{Index, MARKER_PATH, Operator};
use cenotaph_storage::blobs::path;
use cenotaph_tests::store;

/// Contents of a bucket.
#[derive(Default)]
pub(super) struct Held {
    /// Paths of all blobs.
    pub(super) paths: BTreeSet<String>,
    /// Number of blobs assembled from parts; 0 if the service does not report it.
    pub(super) of_parts: usize,
}

/// Differences between the contents of a bucket and the rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Paths in the bucket that no row names.
    pub(super) stray: BTreeSet<String>,
    /// Paths that a row names and that are missing in the bucket.
    pub(super) missing: BTreeSet<String>,
}

/// Lists a bucket without the marker of the store.
pub(super) async fn held(operator: &Operator) -> Held {
    let has_directories = ["fs", "memory"].contains(&operator.info().scheme());
    let mut held = Held::default();
    for entry in operator.list_with("").recursive(true).await.unwrap() {
        let metadata = entry.metadata();
        // A service without directories lists a blob whose name ends with a slash as a directory.
        if metadata.is_dir() && (has_directories || entry.path() == "/") {
            continue;
        }
        if entry.path() == MARKER_PATH {
            continue;
        }
        held.of_parts += usize::from(metadata.etag().is_some_and(|etag| etag.contains('-')));
        assert!(
            held.paths.insert(entry.path().to_owned()),
            "listed twice: {}",
            entry.path()
        );
    }
    held
}

/// Returns the paths of the revisions that rows name.
pub(super) async fn named(index: &dyn Index) -> BTreeSet<String> {
    store::named(index).await.iter().map(path::path).collect()
}

/// Compares the named with the found paths.
pub(super) fn differences(named: &BTreeSet<String>, held: &BTreeSet<String>) -> Differences {
    Differences {
        stray: held.difference(named).cloned().collect(),
        missing: named.difference(held).cloned().collect(),
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |title: &str, paths: &BTreeSet<String>| {
            writeln!(f, "{title}: {}", paths.len())?;
            paths.iter().try_for_each(|path| writeln!(f, "  {path}"))
        };
        list("in the bucket, but in no row", &self.stray)?;
        list("in a row, but not in the bucket", &self.missing)
    }
}
