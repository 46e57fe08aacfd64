//! Entries of the meta table: the epoch of the index, and the last versions of deleted objects. The
//! entry "store" is in `store.rs`.
//!
//! ```text
//! key "epoch"                 value: version=1, postcard u64
//! key "floor" 0x00 object id  value: version=1, postcard u64: last version of an absent object
//! ```
//!
//! Guards "a version is never reused, not even across delete and re-create": a delete stores the
//! last version in its own batch, and the next write removes it in its own batch. The cost is a
//! small entry for every deleted object that is never written again.

use std::sync::Arc;

use bytes::Bytes;

use super::codec;
use crate::index::{Batch, CommitError, Index, Table};
use crate::types::ObjectId;
use crate::types::Result;
use crate::types::{Epoch, Version};

const FORMAT: u8 = 1;
const EPOCH: &[u8] = b"epoch";
const FLOORS: &[u8] = b"floor\0";

/// Raises the epoch durably and returns the new epoch. From then on, every change of an older epoch
/// belongs to a dead owner.
///
/// # Errors
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat) if a later build wrote this index,
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the stored epoch is damaged or at its maximum, and any
/// error of reading or committing.
pub async fn begin_epoch(index: &Arc<dyn Index>) -> Result<Epoch> {
    let epoch = last_epoch(&**index)
        .await?
        .get()
        .checked_add(1)
        .ok_or_else(|| codec::corrupt("epoch", "at its maximum"))?;
    let mut batch = Batch::new();
    batch.put(Table::Meta, EPOCH, codec::encode(FORMAT, &epoch));
    // The epoch must be durable before the first change is recorded under it.
    commit(index, batch).await?;
    Ok(Epoch::new(epoch))
}

/// Returns the epoch of the last engine that opened an index, or 0 if no engine did.
///
/// # Errors
/// Those of [`begin_epoch`], except for errors of committing.
pub async fn last_epoch(index: &dyn Index) -> Result<Epoch> {
    let last = match index.get(Table::Meta, EPOCH).await? {
        Some(value) => codec::decode::<u64>("epoch", FORMAT, &value)?,
        None => 0,
    };
    Ok(Epoch::new(last))
}

/// Commits a batch durably. For use while an index is opened, before the actors run.
pub(super) async fn commit(index: &Arc<dyn Index>, batch: Batch) -> Result<()> {
    let (sender, receiver) = futures::channel::oneshot::channel();
    index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    match receiver.await {
        Ok(outcome) => outcome.map_err(CommitError::into_error),
        // The index dropped the callback without an outcome. A barrier returns its error, or
        // succeeds after everything submitted before it is durable.
        Err(_) => index.barrier().await,
    }
}

/// Returns the key and value of an epoch entry that records `last` as the last epoch.
pub(crate) fn epoch_entry(last: Epoch) -> (Bytes, Bytes) {
    (
        Bytes::from_static(EPOCH),
        codec::encode(FORMAT, &last.get()).into(),
    )
}

/// Returns the key of the last version of an object.
pub fn last_version_key(id: &ObjectId) -> Bytes {
    [FLOORS, &id.encoded()[..]].concat().into()
}

/// Returns the prefix that the keys of all last versions share, and no other key has.
pub fn last_versions_prefix() -> Bytes {
    Bytes::from_static(FLOORS)
}

/// Returns the object whose last version has this key.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the key is not that of a last version.
pub fn floor_object(key: &[u8]) -> Result<ObjectId> {
    let malformed = || codec::corrupt("last version", "malformed key");
    let id = key.strip_prefix(FLOORS).ok_or_else(malformed)?;
    ObjectId::decode(id).map_err(|error| malformed().with_source(error))
}

/// Encodes a last version for storage.
pub fn encode_last_version(floor: Version) -> Bytes {
    codec::encode(FORMAT, &floor).into()
}

/// Decodes a stored last version.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
pub fn decode_last_version(value: &Bytes) -> Result<Version> {
    codec::decode("last version", FORMAT, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::codec::fixture::{
        assert_golden, assert_later_format_refused, assert_robust,
    };

    #[test]
    fn the_stored_form_of_a_last_version_is_stable() {
        let encoded = encode_last_version(Version::new(300));
        assert_golden(&encoded, "01 ac02");
        assert_later_format_refused(&encoded, decode_last_version);
        assert_robust(&encoded, decode_last_version);
        assert_golden(
            &last_version_key(&ObjectId::try_from("k").unwrap()),
            "666c6f6f7200 64656661756c7400 6b",
        );
        let id = ObjectId::try_from("k").unwrap();
        assert_eq!(floor_object(&last_version_key(&id)).unwrap(), id);
        assert!(
            last_version_key(&id).starts_with(&last_versions_prefix())
                && floor_object(EPOCH).is_err()
        );
    }
}
