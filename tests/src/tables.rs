//! What must stand beside the rows, and nothing else (I3): payloads, block checksums, expiry entries, version floors. It
//! comes and goes with its row, so that this holds in every snapshot, whatever is under way or has just crashed.

use std::collections::BTreeSet;

use bytes::Bytes;
use cenotaph::{Index, ObjectId};
use cenotaph_storage::index::{Page, Range, Snapshot, Table};
use cenotaph_storage::rows::{Row, expiry_key, floor_key};

/// Asserts that the tables beside the rows hold exactly what the rows need.
pub async fn assert_beside_rows(index: &dyn Index) {
    let snapshot = index.snapshot().unwrap();
    let rows: Vec<(ObjectId, Row)> = scan(&*snapshot, Table::Rows)
        .await
        .into_iter()
        .map(|(key, value)| (ObjectId::decode(&key).unwrap(), Row::decode(&value).unwrap()))
        .collect();
    let belongings: Vec<Bytes> = rows.iter().flat_map(|(_, row)| row.belongings()).collect();
    let needed: BTreeSet<Bytes> = belongings.iter().cloned().collect();
    assert_eq!(belongings.len(), needed.len(), "I3: what lies beside a row is no other row's");
    assert_same(keys(&*snapshot, Table::Payloads).await, needed, "payloads come and go with their rows");
    let due = rows.iter().filter_map(|(id, row)| Some(expiry_key(row.metadata.expires_at?, id)));
    assert_same(keys(&*snapshot, Table::Expiry).await, due.collect(), "expiry entries come and go with their rows");
    let meta = keys(&*snapshot, Table::Meta).await;
    let floored = rows.iter().find(|(id, _)| meta.contains(&floor_key(id)));
    assert_eq!(floored, None, "I3: a version floor goes when its object is back");
}

fn assert_same(found: BTreeSet<Bytes>, needed: BTreeSet<Bytes>, what: &str) {
    let (too_many, missing) = (found.difference(&needed).count(), needed.difference(&found).count());
    assert_eq!((too_many, missing), (0, 0), "I3: {what}: (too many, missing) of {}", needed.len());
}

async fn keys(snapshot: &dyn Snapshot, table: Table) -> BTreeSet<Bytes> {
    scan(snapshot, table).await.into_iter().map(|(key, _)| key).collect()
}

async fn scan(snapshot: &dyn Snapshot, table: Table) -> Page {
    snapshot.scan(table, Range::all(10_000_000)).await.unwrap()
}
