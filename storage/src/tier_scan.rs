//! Scans for the relocation of payloads: rows with their objects, and the entries that name
//! revisions of each blob tier.
//!
//! Guards "a tier is released only if nothing names a revision in it": [`tier_names`] reads one
//! snapshot. No new entry can name a revision of an older tier afterwards, because new revisions are
//! in the current tier, and every other entry is made of entries that name the revision already.

use std::collections::BTreeMap;

use crate::index::{Index, Range, Table};
use crate::records::{Change, Row};
use crate::scrub::{visit, visit_parts, visit_rows};
use crate::types::{ObjectId, Result, RevisionId, TierNumber};

/// Entries per page of a scan.
const PAGE: usize = 1000;

/// A page of rows.
#[derive(Clone, Debug)]
pub struct RowPage {
    /// Objects and their rows, in the order of their keys.
    pub rows: Vec<(ObjectId, Row)>,
    /// Number of rows, or ranges of rows, that can't be read.
    pub unreadable: u64,
    /// The range behind the page; `None` at the end.
    pub rest: Option<Range>,
}

/// Returns the rows at the beginning of a range.
///
/// # Errors
/// Those of the index.
pub async fn rows(index: &dyn Index, range: Range) -> Result<RowPage> {
    let page = index.snapshot()?.scan_over(Table::Rows, range).await?;
    let mut unreadable = u64::from(page.unreadable.is_some());
    let mut rows = Vec::with_capacity(page.entries.len());
    for (key, value) in &page.entries {
        match (ObjectId::decode(key), Row::decode(value)) {
            (Ok(id), Ok(row)) => rows.push((id, row)),
            _ => unreadable += 1,
        }
    }
    Ok(RowPage {
        rows,
        unreadable,
        rest: page.rest,
    })
}

/// Entries that name revisions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierNames {
    /// Number of names of revisions, by their tier: in rows, parts of uploads, changes and orphans.
    pub names: BTreeMap<TierNumber, u64>,
    /// True if an entry can't be read. It may name a revision of any tier.
    pub is_incomplete: bool,
}

impl TierNames {
    /// Returns the number of names of revisions in a tier.
    pub fn of(&self, tier: TierNumber) -> u64 {
        self.names.get(&tier).copied().unwrap_or(0)
    }

    /// Returns whether nothing names a revision in a tier.
    pub fn is_free(&self, tier: TierNumber) -> bool {
        !self.is_incomplete && self.of(tier) == 0
    }
}

/// Counts the names of revisions in one snapshot.
///
/// # Errors
/// Those of the index.
pub async fn tier_names(index: &dyn Index) -> Result<TierNames> {
    let snapshot = index.snapshot()?;
    let mut names = BTreeMap::new();
    let mut name = |revision: RevisionId| *names.entry(revision.tier()).or_default() += 1;
    let rows_read = visit_rows(&*snapshot, |row| {
        row.revisions().into_iter().for_each(&mut name);
    })
    .await?;
    let parts_read = visit_parts(&*snapshot, |part| name(part.extent.revision)).await?;
    let all = || Range::all(PAGE);
    let changes_read = visit(&*snapshot, Table::Changes, all(), |_, value| {
        let change = Change::decode(value)?;
        change.revisions.into_iter().for_each(&mut name);
        Ok(())
    })
    .await?;
    let orphans_read = visit(&*snapshot, Table::Orphans, all(), |key, _| {
        RevisionId::from_slice(key).into_iter().for_each(&mut name);
        Ok(())
    })
    .await?;
    let all_read = rows_read && parts_read && changes_read && orphans_read;
    Ok(TierNames {
        names,
        is_incomplete: !all_read,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::record;
    use crate::index::Batch;
    use crate::read::ReadLimits;
    use crate::read::fixture::{Store, id, payload};
    use crate::records::{Extent, LateWrite, Orphan, Part, part_key};
    use crate::types::{Checksum, Epoch, PartEtag, PartNumber, Timestamp, UploadId};

    fn tier(number: u16) -> TierNumber {
        TierNumber::new(number).unwrap()
    }

    #[tokio::test]
    async fn rows_parts_changes_and_orphans_name_tiers() {
        let store = Store::new(ReadLimits::default());
        store
            .put_parts(&id("a"), &[payload(10, 1), payload(10, 2)])
            .await;
        let revision = |number| store.env.revision_id().in_tier(tier(number));
        let now = Timestamp::from_millis(1);
        let change = Change {
            epoch: Epoch::new(1),
            started: now,
            object: id("a"),
            revisions: vec![revision(1), revision(1)],
        };
        let mut batch = record(store.env.operation_id(), &change);
        let part = Part {
            extent: Extent {
                revision: revision(2),
                bytes: 10,
                checksum: Checksum::new(1),
            },
            etag: PartEtag::of(b"x"),
            uploaded: now,
        };
        let key = part_key(&UploadId::new(now, [1, 2]), PartNumber::new(1).unwrap());
        batch.put(Table::Uploads, key, part.encode());
        let orphan = Orphan::new(id("a"), now, LateWrite::Landed).encode();
        batch.put(Table::Orphans, revision(3).as_bytes().to_vec(), orphan);
        store.index.apply(batch);

        let names = tier_names(&*store.index).await.unwrap();
        let counts: Vec<u64> = (0..5).map(|number| names.of(tier(number))).collect();
        assert_eq!(counts, [2, 2, 1, 1, 0]);
        let free: Vec<u16> = (0..5)
            .filter(|&number| names.is_free(tier(number)))
            .collect();
        assert_eq!(free, [4]);
        let page = rows(&*store.index, Range::all(10)).await.unwrap();
        assert_eq!((page.rows.len(), page.unreadable), (1, 0));
    }

    #[tokio::test]
    async fn entry_that_cannot_be_read_may_name_any_tier() {
        for table in [Table::Rows, Table::Uploads, Table::Changes] {
            let store = Store::new(ReadLimits::default());
            assert!(tier_names(&*store.index).await.unwrap().is_free(tier(1)));
            let mut batch = Batch::new();
            batch.put(table, id("a").encoded().clone(), "damaged");
            store.index.apply(batch);
            let names = tier_names(&*store.index).await.unwrap();
            assert!(!names.is_free(tier(1)), "{table:?}");
            let page = rows(&*store.index, Range::all(10)).await.unwrap();
            assert_eq!(page.unreadable, u64::from(table == Table::Rows));
        }
    }
}
