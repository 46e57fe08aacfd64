//! Writes that become durable together: [`Batch`].
//!
//! Guards I3: a batch is all or nothing.

use bytes::Bytes;

use super::Table;

/// Longest key of any table, in bytes. Every candidate store accepts keys of this length.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Writes to several tables that become durable and visible together, or not at all.
///
/// Within a batch the last write of a key wins.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    ops: Vec<(Table, Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl Batch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key to a value.
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(table, key.into(), Some(value.into()));
    }

    /// Removes a key. Removing an absent key has no effect.
    pub fn remove(&mut self, table: Table, key: impl Into<Bytes>) {
        self.push(table, key.into(), None);
    }

    fn push(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        // A panic and not an error: the length of ids is checked before, so that this is a bug.
        assert!(
            (1..=KEY_BYTES_MAX).contains(&key.len()),
            "key length out of bounds: bytes={}",
            key.len()
        );
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.ops.push((table, key, value));
    }

    /// Appends all writes of another batch.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.ops.extend(other.ops);
    }

    /// Returns whether the batch contains no write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the total size of all keys and values, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether the batch releases space rather than taking some: it stores no row, no
    /// payload and no change, and starts no upload. Orphans, last versions, the epoch and the ends
    /// of uploads are small and lead to removals. A full disk must therefore still accept them.
    pub fn releases(&self) -> bool {
        // The end of an upload may rewrite its upload record, but always removes the old deadline.
        // The start of an upload and a new part remove none.
        let removes_deadline = self
            .ops
            .iter()
            .any(|(table, _, value)| *table == Table::Expiry && value.is_none());
        self.ops
            .iter()
            .filter(|(.., value)| value.is_some())
            .all(|(table, ..)| match table {
                Table::Rows | Table::Payloads | Table::Changes => false,
                Table::Uploads | Table::Expiry => removes_deadline,
                Table::Orphans | Table::Meta => true,
            })
    }

    /// Returns the writes in order. `Some` sets a value, `None` removes the key.
    pub fn ops(&self) -> &[(Table, Bytes, Option<Bytes>)] {
        &self.ops
    }

    /// Returns the writes in order, by value.
    pub fn into_ops(self) -> Vec<(Table, Bytes, Option<Bytes>)> {
        self.ops
    }
}
