//! Diagnosis of a store's index, without opening the store.

use std::path::Path;

use bytes::Bytes;
use cenotaph_storage::index::fjall::doctor::{self as index, NamedRow};
pub use cenotaph_storage::index::fjall::doctor::{
    Condition, Diagnosis, JournalSeen, Problem, WayOut,
};

use cenotaph_storage::records::Row;

use crate::{ObjectId, Result};

/// Examines the index of the store in the data directory `data`. Changes nothing.
///
/// Reads the manifests, every table and blob file of the index completely, the high-water mark, all
/// journals, and all payloads of the payload log. For each problem, the diagnosis names the file, the damage, and the loss that each
/// way out entails. The blob tier with the large objects is not examined; see
/// [`Engine::scrub`](crate::Engine::scrub). No engine can open the store during the examination.
///
/// The call blocks on the disk for as long as it reads the index. From async code, call it on a
/// thread that may block.
///
/// # Errors
/// - [`Invalid`](crate::ErrorKind::Invalid): there is no index.
/// - [`Unavailable`](crate::ErrorKind::Unavailable): the file system fails.
///
/// Damage is not an error. For a store that is open, the condition is [`Condition::Open`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> cenotaph::Result<()> {
/// # let data = tempfile::tempdir().unwrap();
/// use cenotaph::Engine;
/// use cenotaph::doctor::{Condition, examine};
///
/// let engine = Engine::builder(data.path()).open().await?;
/// assert_eq!(examine(data.path())?.condition, Condition::Open);
/// engine.close().await?;
/// let diagnosis = examine(data.path())?;
/// assert_eq!(diagnosis.condition, Condition::Healthy, "{diagnosis}");
/// # Ok(()) }
/// ```
pub fn examine(data: impl AsRef<Path>) -> Result<Diagnosis> {
    index::examine(&data.as_ref().join("index"), &named_row)
}

/// Decodes a row of the index.
fn named_row(key: &[u8], value: &Bytes) -> Option<NamedRow> {
    let object = ObjectId::decode(&Bytes::copy_from_slice(key)).ok()?;
    let row = Row::decode(value).ok()?;
    Some(NamedRow {
        object: object.to_string().escape_debug().to_string(),
        payloads: row.belongings(),
    })
}
