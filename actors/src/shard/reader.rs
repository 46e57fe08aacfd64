//! Reads of a decision: pending writes first, then the index.
//!
//! A shard decides on the newest state, which includes batches that are not durable yet. Guards I3:
//! every read of a decision goes through here and is recorded in the plan's read set.

use std::collections::BTreeMap;

use bytes::Bytes;
use cenotaph_storage::decide::{
    ReadSet, ReadValue, Repair, RowState, SeenEntry, SeenObject, SeenRow, SeenUpload, Swap,
    SwapView, UploadRepair,
};
use cenotaph_storage::index::{Index, Range, RangeCondition, Table};
use cenotaph_storage::records::{
    BASE_VERSION_KEY, Change, Filed, LastVersion, Row, UploadRecord, last_version_key, part_key,
    parts_prefix, read_part_key, upload_record_key,
};
use cenotaph_storage::{
    Error, ErrorKind, ObjectId, OperationId, PartNumber, Result, Timestamp, UploadId, Version,
};

use crate::context::Context;
use crate::context::stored_base::StoredBase;
use crate::shard::pending_writes::PendingWrites;

/// Parts read per page.
const PARTS_PAGE: usize = 2000;

/// Reader of a decision.
pub(crate) struct DecisionReader<'a> {
    index: &'a dyn Index,
    base: &'a StoredBase,
    /// Batches that are submitted and not durable; `None` where no shard submits any.
    pending: Option<&'a PendingWrites>,
    reads: ReadSet,
}

impl<'a> DecisionReader<'a> {
    /// Creates a reader over the pending writes of a shard and the index.
    pub(crate) fn new(context: &'a Context, pending: &'a PendingWrites) -> Self {
        Self {
            index: &*context.index,
            base: &context.base,
            pending: Some(pending),
            reads: ReadSet::default(),
        }
    }

    /// Creates a reader over the index alone.
    pub(crate) fn of_index(context: &'a Context) -> Self {
        Self {
            index: &*context.index,
            base: &context.base,
            pending: None,
            reads: ReadSet::default(),
        }
    }

    /// Returns all reads so far.
    pub(crate) fn into_reads(self) -> ReadSet {
        self.reads
    }

    /// Returns the state that the decision of a swap depends on.
    pub(crate) async fn swap_view(&mut self, swap: &Swap) -> Result<SwapView> {
        let (row_state, is_unreadable) = match self.row_state(&swap.id).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && swap.replaces_unread() => {
                tracing::warn!(%error, "a row that can't be read is replaced");
                (RowState::New(Version::NONE), true)
            }
            row_state => (row_state?, false),
        };
        let change_is_live = match swap.change() {
            Some(change) => self.change(change).await?.is_some(),
            None => true,
        };
        Ok(SwapView {
            row_state,
            is_unreadable,
            change_is_live,
        })
    }

    /// Returns the state of an object.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] or [`ErrorKind::UnknownFormat`] if its entry can't be read.
    pub(crate) async fn row_state(&mut self, id: &ObjectId) -> Result<RowState> {
        match self.pending_state(id) {
            Some(row_state) => Ok(row_state),
            None => self.durable_state(id).await,
        }
    }

    fn pending_state(&mut self, id: &ObjectId) -> Option<RowState> {
        let row_state = self.pending?.row_state(id)?.clone();
        let row = match &row_state {
            RowState::Present(row) => ReadValue::Value(row.encode()),
            RowState::Absent(_) | RowState::New(_) | RowState::Fallback { .. } => ReadValue::Absent,
        };
        self.reads.note(Table::Rows, id.encoded().clone(), row);
        // The decision rests on the last version, too, which is an entry of its own.
        Some(match row_state {
            RowState::Present(_) => row_state,
            RowState::Absent(last) => {
                let value = ReadValue::Value(last.encode());
                self.reads.note(Table::Meta, last_version_key(id), value);
                row_state
            }
            // No commit results in `Fallback`.
            RowState::New(_) | RowState::Fallback { .. } => {
                let value = ReadValue::Absent;
                self.reads.note(Table::Meta, last_version_key(id), value);
                self.new_object()
            }
        })
    }

    async fn durable_state(&mut self, id: &ObjectId) -> Result<RowState> {
        if let Some(value) = self.entry(Table::Rows, id.encoded().clone()).await? {
            let row = Row::decode(&value).map_err(|error| error.with_id(id))?;
            return Ok(RowState::Present(Box::new(row)));
        }
        match self.entry(Table::Meta, last_version_key(id)).await? {
            Some(value) => {
                let last = LastVersion::decode(&value).map_err(|error| error.with_id(id))?;
                Ok(RowState::Absent(last))
            }
            None => Ok(self.new_object()),
        }
    }

    /// Returns the state of an object without row and last version: it starts behind the base
    /// version, which is in memory.
    fn new_object(&mut self) -> RowState {
        let (base, value) = self.base.read();
        self.reads.note(Table::Meta, BASE_VERSION_KEY, value);
        RowState::New(base)
    }

    /// Returns a change, `None` if it has been settled.
    pub(crate) async fn change(&mut self, change: OperationId) -> Result<Option<Change>> {
        let key = Bytes::copy_from_slice(change.as_bytes());
        if self
            .pending
            .is_some_and(|pending| pending.is_settled(change))
        {
            self.reads.note(Table::Changes, key, ReadValue::Absent);
            return Ok(None);
        }
        let value = self.entry(Table::Changes, key).await?;
        value.map(|value| Change::decode(&value)).transpose()
    }

    /// Returns whether a pending batch writes this key of the upload table.
    pub(crate) fn is_pending_upload(&self, key: &[u8]) -> bool {
        self.pending
            .is_some_and(|pending| pending.session(key).is_some())
    }

    /// Returns the value of a key in the upload table.
    pub(crate) async fn upload_entry(&mut self, key: Bytes) -> Result<Option<Bytes>> {
        let Some(value) = self.pending.and_then(|pending| pending.session(&key)) else {
            return self.entry(Table::Uploads, key).await;
        };
        let value = value.cloned();
        self.reads
            .note(Table::Uploads, key, as_read(value.as_ref()));
        Ok(value)
    }

    /// Returns the entry of a part, if any.
    pub(crate) async fn part_entry(
        &mut self,
        upload: &UploadId,
        number: PartNumber,
    ) -> Result<BTreeMap<Bytes, Bytes>> {
        let key = part_key(upload, number);
        let value = self.upload_entry(key.clone()).await?;
        Ok(value.map(|value| (key, value)).into_iter().collect())
    }

    /// Returns the entries of all parts of an upload.
    pub(crate) async fn part_entries(
        &mut self,
        upload: &UploadId,
    ) -> Result<BTreeMap<Bytes, Bytes>> {
        let prefix = parts_prefix(upload);
        // One snapshot for all pages: parts of one moment.
        let snapshot = self.index.snapshot()?;
        let mut entries: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let mut range = Range::prefix(&prefix, PARTS_PAGE);
        loop {
            let page = snapshot.scan(Table::Uploads, range.clone()).await?;
            let last = page.last().map(|(key, _)| key.clone());
            let is_full = page.len() == PARTS_PAGE;
            entries.extend(page);
            match last {
                Some(last) if is_full => range = range.after(last),
                Some(_) | None => break,
            }
        }
        // Pending values replace durable ones: the snapshot may be older.
        for (key, value) in self
            .pending
            .iter()
            .flat_map(|pending| pending.sessions_below(&prefix))
        {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        for (key, value) in &entries {
            let value = ReadValue::Value(value.clone());
            self.reads.note(Table::Uploads, key.clone(), value);
        }
        // No other part, either. Each part requires the upload record, which an end of the upload
        // writes.
        self.reads.note_range(RangeCondition {
            table: Table::Uploads,
            prefix: prefix.into(),
            keys: entries.keys().cloned().collect(),
        });
        Ok(entries)
    }

    /// Reads a key of the index.
    async fn entry(&mut self, table: Table, key: Bytes) -> Result<Option<Bytes>> {
        let read = self.index.get(table, &key).await;
        let value = match &read {
            Ok(value) => as_read(value.as_ref()),
            Err(error) if error.kind() == ErrorKind::Corrupt => ReadValue::Unreadable,
            // Failed reads are no part of the read set: the plan fails with them.
            Err(_) => return read,
        };
        self.reads.note(table, key, value);
        read
    }
}

/// Reads for repairs, which accept damaged entries.
impl DecisionReader<'_> {
    /// Returns the newest state of an object for a repair.
    pub(crate) async fn seen_object(
        &mut self,
        id: &ObjectId,
        repair: &Repair,
    ) -> Result<SeenObject> {
        let pending = self.pending_state(id);
        let is_pending = pending.is_some();
        let row = match pending {
            Some(row_state) => SeenRow::Whole(row_state),
            None => self.seen_row(id).await?,
        };
        let entry = self.maybe_broken(repair.reads(id, &row)).await?;
        Ok(SeenObject {
            row,
            entry,
            is_pending,
        })
    }

    async fn seen_row(&mut self, id: &ObjectId) -> Result<SeenRow> {
        let row = self.entry(Table::Rows, id.encoded().clone()).await;
        match decoded(row, Row::decode)? {
            SeenEntry::Whole(row) => return Ok(SeenRow::Whole(RowState::Present(Box::new(row)))),
            SeenEntry::Broken => return Ok(SeenRow::BrokenRow),
            SeenEntry::Absent => {}
        }
        let last = self.entry(Table::Meta, last_version_key(id)).await;
        Ok(match decoded(last, LastVersion::decode)? {
            SeenEntry::Whole(last) => SeenRow::Whole(RowState::Absent(last)),
            SeenEntry::Broken => SeenRow::BrokenLastVersion,
            SeenEntry::Absent => SeenRow::Whole(self.new_object()),
        })
    }

    /// Returns the newest state of an upload for a repair.
    pub(crate) async fn seen_upload(
        &mut self,
        (object, upload): (&ObjectId, &UploadId),
        repair: &UploadRepair,
    ) -> Result<SeenUpload> {
        let key = upload_record_key(object, upload);
        let mut is_pending = self.is_pending_upload(&key);
        let session = decoded(self.upload_entry(key).await, UploadRecord::decode)?;
        let mut parts = BTreeMap::new();
        match repair {
            UploadRepair::Expiry { .. } => {}
            UploadRepair::RemoveRecord => {
                let filed = match self.part_entries(upload).await {
                    // Unreadable parts are left: they become parts without an upload record.
                    Err(error) => broken(error, BTreeMap::new())?,
                    Ok(filed) => filed,
                };
                for (key, value) in filed {
                    // An entry without a valid number is a finding of its own.
                    let Ok((_, number)) = read_part_key(&key) else {
                        continue;
                    };
                    parts.insert(number, decoded(Ok(Some(value)), Filed::decode)?);
                }
            }
            UploadRepair::GiveUp { number, .. } | UploadRepair::Checksums { number, .. } => {
                let key = part_key(upload, *number);
                is_pending |= self.is_pending_upload(&key);
                let part = self.upload_entry(key).await;
                parts.insert(*number, decoded(part, Filed::decode)?);
            }
        }
        let entry = self.maybe_broken(repair.reads(object, upload)).await?;
        Ok(SeenUpload {
            session,
            parts,
            entry,
            is_pending,
        })
    }

    /// Returns the durable value of a key, as far as it can be read.
    async fn maybe_broken(&mut self, key: Option<(Table, Bytes)>) -> Result<SeenEntry<Bytes>> {
        match key {
            Some((table, key)) => {
                let value = self.entry(table, key).await;
                decoded(value, |value| Ok(value.clone()))
            }
            None => Ok(SeenEntry::Absent),
        }
    }
}

impl Context {
    /// Returns the durable state of an object.
    pub(crate) async fn row_state(&self, id: &ObjectId) -> Result<RowState> {
        DecisionReader::of_index(self).row_state(id).await
    }

    /// Returns the state of an object for a caller that checks its existence at `now`.
    ///
    /// An object that has expired in the index may have a pending extension, so that its state is
    /// read again behind the index's barrier.
    pub(crate) async fn row_state_at(&self, id: &ObjectId, now: Timestamp) -> Result<RowState> {
        let row_state = self.row_state(id).await?;
        if row_state.row().is_none_or(|row| row.is_live(now)) {
            return Ok(row_state);
        }
        // Behind the barrier the index shows every batch submitted before this read.
        self.index.barrier().await?;
        self.row_state(id).await
    }
}

fn as_read(value: Option<&Bytes>) -> ReadValue {
    value.map_or(ReadValue::Absent, |value| ReadValue::Value(value.clone()))
}

/// Decodes an entry. Maps `Corrupt` to [`SeenEntry::Broken`] and passes other errors through.
fn decoded<T>(
    read: Result<Option<Bytes>>,
    decode: impl Fn(&Bytes) -> Result<T>,
) -> Result<SeenEntry<T>> {
    let entry = read.and_then(|value| match value {
        Some(value) => decode(&value).map(SeenEntry::Whole),
        None => Ok(SeenEntry::Absent),
    });
    entry.or_else(|error| broken(error, SeenEntry::Broken))
}

/// Maps `Corrupt` to `seen` and passes other errors through: an entry that a later build may have
/// written is not touched.
fn broken<T>(error: Error, seen: T) -> Result<T> {
    if error.kind() == ErrorKind::Corrupt {
        Ok(seen)
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests;
