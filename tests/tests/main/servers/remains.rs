//! What a bucket holds, and what it should hold: exactly the revisions that rows name (I5).
//!
//! Both as paths: what is no revision of ours is found as well. Deliberately not here: whether the
//! bytes are the right ones, which a scrub tells.

use std::collections::BTreeSet;
use std::fmt;

use cenotaph::{Index, MARKER_PATH, Operator};
use cenotaph_storage::blobs::path;
use cenotaph_tests::store;

/// What a bucket holds.
#[derive(Default)]
pub(super) struct Held {
    /// The paths of all blobs.
    pub(super) paths: BTreeSet<String>,
    /// How many of them were put together from parts; zero where the service does not tell.
    pub(super) of_parts: usize,
}

/// How a bucket differs from what it should hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// In the bucket, and in no row.
    pub(super) stray: BTreeSet<String>,
    /// In a row, and not in the bucket.
    pub(super) missing: BTreeSet<String>,
}

/// Lists a bucket, the mark of the store left out.
pub(super) async fn held(operator: &Operator) -> Held {
    let has_directories = ["fs", "memory"].contains(&operator.info().scheme());
    let mut held = Held::default();
    for entry in operator.list_with("").recursive(true).await.unwrap() {
        let metadata = entry.metadata();
        // Where there are no directories, what is listed as one is a blob with a slash at its end.
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

/// The paths of the revisions that rows name.
pub(super) async fn named(index: &dyn Index) -> BTreeSet<String> {
    store::named(index).await.iter().map(path::path).collect()
}

/// What is in the one and not in the other.
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
        list("in the bucket, and in no row", &self.stray)?;
        list("in a row, and not in the bucket", &self.missing)
    }
}
