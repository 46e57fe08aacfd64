//! Check of a crashed store before anything is settled. I1, I2 and I3 hold at every moment, so they
//! hold here:
//!
//! - Every blob is named by a row or a part, or by a change or an orphan, but not by both groups.
//! - Every blob that a row or a part names exists.
//! - The dependent tables match the rows and uploads (`cenotaph_tests::tables`).

use std::collections::BTreeSet;

use cenotaph::Index;
use cenotaph_storage::RevisionId;
use cenotaph_storage::blobs::BlobTier;
use cenotaph_storage::index::{Page, Range, Table};
use cenotaph_storage::records::Change;
use cenotaph_tests::store;
use cenotaph_tests::tables::{Uploads, assert_beside_rows};

/// Work that remains to be settled.
pub(super) struct Remains {
    /// Changes of dead owners.
    pub(super) changes: u64,
    /// Orphans.
    pub(super) orphans: u64,
    /// Blobs, complete or not, that no row and no part names.
    pub(super) unnamed_blobs: u64,
    /// Uploads that were neither completed nor aborted.
    pub(super) open_uploads: u64,
}

/// Checks the files of a store that is not open.
pub(super) async fn inspect(index: &dyn Index, tier: &BlobTier) -> Remains {
    let changes: Vec<_> = table(index, Table::Changes)
        .await
        .iter()
        .map(|(_, value)| Change::decode(value).unwrap())
        .collect();
    let orphans: Vec<_> = table(index, Table::Orphans)
        .await
        .iter()
        .map(|(key, _)| RevisionId::from_slice(key).unwrap())
        .collect();
    let there: BTreeSet<_> = store::blobs(tier)
        .await
        .into_iter()
        .map(|key| key.revision)
        .collect();

    let named: BTreeSet<_> = store::named(index)
        .await
        .into_iter()
        .map(|key| key.revision)
        .collect();
    let listed: BTreeSet<_> = changes
        .iter()
        .flat_map(|change| &change.revisions)
        .chain(&orphans)
        .copied()
        .collect();
    let unnamed: BTreeSet<_> = there.difference(&named).copied().collect();
    assert_eq!(
        named.difference(&there).next(),
        None,
        "I2: every blob that a row or a part names exists"
    );
    assert_eq!(
        unnamed.difference(&listed).next(),
        None,
        "I1: every other blob is named by a change or an orphan"
    );
    assert_eq!(
        named.intersection(&listed).next(),
        None,
        "I3: a row or a part takes over all its revisions in one batch"
    );

    assert_beside_rows(index).await;
    let open_uploads = Uploads::of(&*index.snapshot().unwrap()).await.open();
    Remains {
        changes: changes.len() as u64,
        orphans: orphans.len() as u64,
        unnamed_blobs: unnamed.len() as u64,
        open_uploads: open_uploads as u64,
    }
}

async fn table(index: &dyn Index, table: Table) -> Page {
    index
        .snapshot()
        .unwrap()
        .scan(table, Range::all(1_000_000))
        .await
        .unwrap()
}
