//! The epoch of the index, in the meta table.
//!
//! ```text
//! key "epoch"  value: version=1, postcard u64
//! ```
//!
//! The other entries of the table are in `store.rs`, `last_version.rs` and `base_version.rs`.

use std::sync::Arc;

use bytes::Bytes;

use super::codec;
use crate::index::{Batch, CommitError, Index, Table};
use crate::types::{Epoch, Result};

const FORMAT: u8 = 1;
const EPOCH: &[u8] = b"epoch";

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
        Some(value) => decode_epoch(&value)?,
        None => 0,
    };
    Ok(Epoch::new(last))
}

fn decode_epoch(value: &Bytes) -> Result<u64> {
    codec::decode("epoch", FORMAT, value)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;
    use cenotaph_fuzz::Target;

    #[test]
    fn mutated_epoch_is_refused_or_encodes_again() {
        let encode = |epoch: u64| epoch_entry(Epoch::new(epoch)).1;
        Target::new("epoch", [encode(3), encode(300)]).run(|input| {
            match decode_epoch(&Bytes::copy_from_slice(input)) {
                Ok(epoch) => {
                    assert_eq!(decode_epoch(&encode(epoch)).unwrap(), epoch);
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
