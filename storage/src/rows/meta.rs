//! What the index keeps about itself, in the meta table: its epoch, and the version floors of
//! deleted objects.
//!
//! ```text
//! key "epoch"                 value: version=1, postcard u64
//! key "floor" 0x00 object id  value: version=1, postcard u64: the last version of an object that is absent now
//! ```
//!
//! The entry "store" has a file of its own (`store.rs`).
//!
//! Guards "a version is never reused, not even across delete and re-create": a delete leaves the
//! floor in its own batch, the next write takes it up in its own. The price is one such small entry
//! for every deleted object that is never written again.

use std::sync::Arc;

use bytes::Bytes;

use super::codec;
use crate::error::Result;
use crate::id::ObjectId;
use crate::index::{Batch, CommitError, Index, Table};
use crate::word::{Epoch, Version};

const FORMAT: u8 = 1;
const EPOCH: &[u8] = b"epoch";
const FLOORS: &[u8] = b"floor\0";

/// Raises the epoch, durably, and gives the new one: from now on every change of an older epoch
/// belongs to a dead owner.
///
/// # Errors
/// [`UnknownFormat`](crate::ErrorKind::UnknownFormat) if a later build wrote this index, otherwise
/// whatever reading and committing meet.
pub async fn begin_epoch(index: &Arc<dyn Index>) -> Result<Epoch> {
    let epoch = last_epoch(&**index)
        .await?
        .get()
        .checked_add(1)
        .ok_or_else(|| codec::corrupt("epoch", "it can't be raised"))?;
    let mut batch = Batch::new();
    batch.put(Table::Meta, EPOCH, codec::encode(FORMAT, &epoch));
    commit(index, batch).await?;
    Ok(Epoch::new(epoch))
}

/// The epoch of the last engine on an index, 0 if there was none.
///
/// # Errors
/// As [`begin_epoch`], but for committing.
pub async fn last_epoch(index: &dyn Index) -> Result<Epoch> {
    let last = match index.get(Table::Meta, EPOCH).await? {
        Some(value) => read_epoch(&value)?,
        None => 0,
    };
    Ok(Epoch::new(last))
}

fn read_epoch(value: &Bytes) -> Result<u64> {
    codec::decode("epoch", FORMAT, value)
}

/// Makes a batch durable, before there are actors.
pub(super) async fn commit(index: &Arc<dyn Index>, batch: Batch) -> Result<()> {
    let (sender, receiver) = futures::channel::oneshot::channel();
    index.submit(batch, Box::new(move |outcome| drop(sender.send(outcome))));
    match receiver.await {
        Ok(outcome) => outcome.map_err(CommitError::into_error),
        Err(_) => index.barrier().await,
    }
}

/// The entry that makes the next epoch the one after `last`.
pub(crate) fn epoch_entry(last: Epoch) -> (Bytes, Bytes) {
    (
        Bytes::from_static(EPOCH),
        codec::encode(FORMAT, &last.get()).into(),
    )
}

/// Where the version floor of an object is kept.
pub fn floor_key(id: &ObjectId) -> Bytes {
    [FLOORS, &id.encoded()[..]].concat().into()
}

/// With what the keys of all version floors begin, and no other.
pub fn floors_prefix() -> Bytes {
    Bytes::from_static(FLOORS)
}

/// Whose version floor is kept there.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if nobody's is.
pub fn floor_object(key: &[u8]) -> Result<ObjectId> {
    let malformed = || codec::corrupt("version floor", "its key is malformed");
    let id = key.strip_prefix(FLOORS).ok_or_else(malformed)?;
    ObjectId::decode(id).map_err(|error| malformed().with_source(error))
}

/// The version floor as stored.
pub fn write_floor(floor: Version) -> Bytes {
    codec::encode(FORMAT, &floor).into()
}

/// The version floor from what is stored.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) or [`UnknownFormat`](crate::ErrorKind::UnknownFormat).
pub fn read_floor(value: &Bytes) -> Result<Version> {
    let floor = codec::decode("version floor", FORMAT, value)?;
    codec::check_version("version floor", floor)?;
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::rows::codec::fixture::{assert_golden, assert_later_format_refused, assert_robust};
    use cenotaph_fuzz::Target;

    #[test]
    fn the_stored_form_of_a_floor_is_stable() {
        let encoded = write_floor(Version::new(300));
        assert_golden(&encoded, "01 ac02");
        assert_later_format_refused(&encoded, read_floor);
        assert_robust(&encoded, read_floor);
        assert_golden(
            &floor_key(&ObjectId::try_from("k").unwrap()),
            "666c6f6f7200 64656661756c7400 6b",
        );
        let id = ObjectId::try_from("k").unwrap();
        assert_eq!(floor_object(&floor_key(&id)).unwrap(), id);
        assert!(floor_key(&id).starts_with(&floors_prefix()) && floor_object(EPOCH).is_err());
    }
    #[test]
    fn last_version_that_cannot_be_raised_is_damage() {
        let highest = write_floor(Version::STORED_MAX);
        assert_eq!(read_floor(&highest).unwrap(), Version::STORED_MAX);
        for too_high in [Version::STORED_MAX.next(), Version::new(u64::MAX)] {
            let error = read_floor(&write_floor(too_high)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
    #[test]
    fn mutated_epoch_is_refused_or_encodes_again() {
        let encode = |epoch: u64| epoch_entry(Epoch::new(epoch)).1;
        Target::new("epoch", [encode(3), encode(300)]).run(|input| {
            match read_epoch(&Bytes::copy_from_slice(input)) {
                Ok(epoch) => {
                    assert_eq!(read_epoch(&encode(epoch)).unwrap(), epoch);
                    true
                }
                Err(error) => {
                    let kinds = [ErrorKind::Corrupt, ErrorKind::UnknownFormat];
                    assert!(kinds.contains(&error.kind()), "{error:?}");
                    false
                }
            }
        });
    }
}
