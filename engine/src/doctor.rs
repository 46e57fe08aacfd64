//! The state of a store's index in plain words, found without opening it.

use std::path::Path;

use cenotaph_storage::index::fjall::doctor as index;
pub use cenotaph_storage::index::fjall::doctor::{
    Condition, Diagnosis, JournalSeen, Problem, WayOut,
};

use crate::Result;

/// Examines the index of the store in the data directory `data`, and changes nothing.
///
/// Reads the manifests, every table and blob file of the index in whole, the high-water mark and
/// all journals. For each problem the diagnosis names the file, what is damaged, and what each way
/// out would lose. Large objects in the blob tier are not looked at; see
/// [`Engine::scrub`](crate::Engine::scrub). While it runs no engine can open the store.
///
/// Blocks for the disk, as long as reading the index takes: from async code, call it on a thread
/// that may block.
///
/// # Errors
/// - [`Invalid`](crate::ErrorKind::Invalid): there is no index.
/// - [`Unavailable`](crate::ErrorKind::Unavailable): the file system fails.
///
/// Damage is no error. A store that is open gives [`Condition::Open`].
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
    index::examine(&data.as_ref().join("index"))
}
