//! Writes that become durable together: [`Batch`], and the state they depend on: [`Condition`].
//!
//! Guards I3: a batch is all or nothing.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Table;

/// Longest key of any table, in bytes. Every candidate store accepts keys of this length.
pub const KEY_BYTES_MAX: usize = 16 * 1024;

/// Value of a key that a batch depends on: the batch commits only if the key still has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Table of the key.
    pub table: Table,
    /// Key.
    pub key: Bytes,
    /// Required value, or `None` if the key must be absent.
    pub value: Option<Bytes>,
}

/// Keys with a common prefix that a batch depends on: the batch commits only if exactly these exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeCondition {
    /// Table of the keys.
    pub table: Table,
    /// Prefix of the keys.
    pub prefix: Bytes,
    /// All keys with the prefix.
    pub keys: BTreeSet<Bytes>,
}

/// Writes to several tables that become durable and visible together, or not at all.
///
/// Within a batch the last write of a key wins. Conditions refer to the state before the batch,
/// after all batches submitted before it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    conditions: Vec<Condition>,
    ranges: Vec<RangeCondition>,
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

    /// Requires a key to have this value, or to be absent, when the batch commits.
    ///
    /// A [shared](super::Index::shared) index checks all conditions in the commit, and answers
    /// [`CommitError::Changed`](super::CommitError::Changed) if one does not hold. An index with a
    /// single owner ignores them: nobody else changes what the owner has read.
    pub fn require(&mut self, table: Table, key: impl Into<Bytes>, value: Option<Bytes>) {
        let key = key.into();
        self.conditions.push(Condition { table, key, value });
    }

    /// Requires that exactly these keys have a prefix when the batch commits.
    ///
    /// The batch must also write a key that every batch which adds or removes a key with the prefix
    /// requires: the lock of that key keeps the range as it is until the commit.
    pub fn require_only(&mut self, range: RangeCondition) {
        self.ranges.push(range);
    }

    /// Returns the conditions on ranges.
    pub fn range_conditions(&self) -> &[RangeCondition] {
        &self.ranges
    }

    /// Returns the conditions in order. A key may occur in several.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
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

    /// Appends all writes and conditions of another batch. All conditions refer to the state before
    /// both.
    pub fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.conditions.extend(other.conditions);
        self.ranges.extend(other.ranges);
        self.ops.extend(other.ops);
    }

    /// Returns whether the batch contains no write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Returns the total size of all written keys and values, in bytes.
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
