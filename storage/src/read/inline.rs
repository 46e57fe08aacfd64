//! Reads of payloads in the index (step 2 of `read.rs`).
//!
//! Guards "never wrong bytes": a payload is returned only if it has the checksum and the size of its
//! row.

use std::ops::Range;

use bytes::Bytes;

use super::{ObjectMeta, OpenAttempt, OpenObject, Reads, corrupt};
use crate::index::Table;
use crate::records::{Row, RowBody};
use crate::types::{ByteRange, Error, ErrorKind, ObjectId, OperationId, Result};

impl Reads {
    /// Reads and verifies a separate payload. Returns `None` if it is missing.
    pub(super) async fn payload(
        &self,
        head: &ObjectMeta,
        payload: OperationId,
    ) -> Result<Option<Bytes>> {
        let key = payload.as_bytes();
        let read = match head.metadata.checksum {
            Some(checksum) => self.index().payload(key, checksum).await,
            None => self.index().get(Table::Payloads, key).await,
        };
        read.inspect_err(|error| self.count_damage(error))
    }

    /// Returns a payload if it matches the checksum of its object.
    pub(super) fn verified(&self, head: &ObjectMeta, payload: Bytes) -> Result<Bytes> {
        match head.metadata.checksum {
            Some(checksum) => checksum
                .verified(payload)
                .inspect_err(|error| self.count_damage(error)),
            None => Ok(payload),
        }
    }

    fn count_damage(&self, error: &Error) {
        if error.kind() == ErrorKind::Corrupt {
            self.0.counters.corrupt();
        }
    }

    /// Returns the open object of a verified payload.
    pub(super) fn inline(
        &self,
        head: ObjectMeta,
        payload: &Bytes,
        range: Range<u64>,
    ) -> Result<OpenAttempt> {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
        else {
            return Err(corrupt(
                "the inline payload is larger than the address space",
            ));
        };
        if payload.len() as u64 != head.metadata.size || end > payload.len() {
            self.0.counters.corrupt();
            return Err(corrupt("the inline payload does not match its size"));
        }
        Ok(OpenAttempt::Done(Some(OpenObject::inline(
            head,
            range,
            payload.slice(start..end),
        ))))
    }

    /// Reads the row and its payload from a single snapshot, after the payload of the row that was
    /// read before was missing (step 2a). A snapshot contains the payload of its row, however often
    /// the object is overwritten.
    pub(super) async fn separate(&self, id: &ObjectId, range: ByteRange) -> Result<OpenAttempt> {
        let now = self.now();
        let snapshot = self.index().snapshot()?;
        let row = snapshot
            .get(Table::Rows, id.encoded())
            .await?
            .as_ref()
            .map(Row::decode)
            .transpose()?;
        let Some(row) = row.filter(|row| row.is_live(now)) else {
            return Ok(OpenAttempt::Replaced);
        };
        let RowBody::Separate(payload) = row.body else {
            return Ok(OpenAttempt::Replaced);
        };
        let found = snapshot.get(Table::Payloads, payload.as_bytes()).await?;
        drop(snapshot);
        match found {
            Some(bytes) => {
                let range = range.resolve(row.metadata.size)?;
                let head = ObjectMeta::of(id.clone(), row);
                let payload = self.verified(&head, bytes)?;
                self.inline(head, &payload, range)
            }
            // The newest row is checked, too: only a payload that is still named is damage.
            None if self.names_payload(id, payload).await? => {
                Err(corrupt("the payload of the row is missing in the index"))
            }
            None => Ok(OpenAttempt::Replaced),
        }
    }

    /// Returns whether the newest row of an object names this payload.
    async fn names_payload(&self, id: &ObjectId, payload: OperationId) -> Result<bool> {
        Ok(self
            .any_row(id)
            .await?
            .is_some_and(|row| row.body == RowBody::Separate(payload)))
    }
}
