//! [`salvage()`] and its builder [`Salvage`]: copies the readable contents of a damaged store into
//! a new store.

use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::Arc;

use cenotaph_storage::blobs::{self, BlobOptions, BlobTier};
use cenotaph_storage::index::Index;
use cenotaph_storage::salvage::{self, Losses, SalvageDirectory, SalvageReport};
use cenotaph_storage::{Env, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use opendal::Operator;
use tracing::Instrument;

/// Builder of a salvage. `.await` it to run the salvage. See [`salvage()`].
#[derive(Debug)]
#[must_use = "a salvage does nothing until it is awaited"]
pub struct Salvage {
    old: PathBuf,
    new: PathBuf,
    blobs: Option<Operator>,
    env: Option<Env>,
}

/// Copies everything that can be read of the store in `old` into a new store in `new`: rows,
/// payloads, uploads, unsettled writes, orphans, last versions.
///
/// Use it when a file of the index is damaged: the index then stops writing at its next compaction,
/// or does not open at all.
///
/// - `old` is not changed, and no engine may have it open.
/// - The disk needs space for two copies of the index. The salvage removes one of them at its end.
/// - **Large objects are not copied.** The new store uses the blob tier of the old store. If that
///   is the directory `old/blobs`, open the new store with it, or move it to `new/blobs` first.
/// - Do not open the old store again: the two stores would delete each other's blobs.
///
/// # Losses
/// - An object whose row is lost is absent from the new store. The report names its blobs, and they
///   remain until a [scrub](crate::Engine::scrub) with repairs finds that no row names them.
/// - If versions may be lost, new objects of the new store start at a version that no object of the
///   old store has reached.
/// - An object whose inline bytes are lost is in the new store, and reads as
///   [`Corrupt`](crate::ErrorKind::Corrupt).
/// - From a damaged journal, all intact batches are copied, also batches after the damage and after
///   a missing journal.
/// - From a table file with a damaged end, the intact blocks are copied. The keys of damaged blocks
///   are reported as an unreadable range, and no older value of such a key is copied.
/// - The keys of a missing table file are unknown. A missing table file or a lost batch may have
///   written any object. The report states this ([`lost_tables`](SalvageReport::lost_tables),
///   [`journal_damaged`](SalvageReport::journal_damaged)). Changes and orphans are then not copied,
///   because their blobs may be needed. An object may come back in an older state, and then
///   continues at a version that it already had; etags are never used twice.
///
/// # Errors
/// - [`Invalid`](crate::ErrorKind::Invalid): there is no store in `old`, `new` is not empty, or one
///   of the directories contains the other.
/// - [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen): an engine has `old` open.
/// - [`Corrupt`](crate::ErrorKind::Corrupt): the format record of `old`, or a manifest of its
///   index, is damaged. Without them the valid files are unknown. The error names the damaged file.
/// - [`Unavailable`](crate::ErrorKind::Unavailable): the disk can't be read or written, or the blob
///   tier can't be listed.
///
/// After an error or a drop, run the salvage again.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), cenotaph::Error> {
/// # let directory = tempfile::tempdir().unwrap();
/// # let (old, new) = (directory.path().join("old"), directory.path().join("new"));
/// # let engine = cenotaph::Engine::builder(&old).open().await?;
/// # engine.put("a", "b").await?;
/// # engine.close().await?;
/// let report = cenotaph::salvage(&old, &new).await?;
/// assert!(report.is_complete() && report.rows == 1);
///
/// std::fs::create_dir_all(old.join("blobs")).unwrap();
/// std::fs::rename(old.join("blobs"), new.join("blobs")).unwrap();
/// let engine = cenotaph::Engine::builder(&new).open().await?;
/// assert_eq!(engine.get("a").await?.unwrap().bytes().await?, "b");
/// # engine.close().await
/// # }
/// ```
pub fn salvage(old: impl Into<PathBuf>, new: impl Into<PathBuf>) -> Salvage {
    Salvage {
        old: old.into(),
        new: new.into(),
        blobs: None,
        env: None,
    }
}

impl Salvage {
    /// Sets the blob tier of the old store, if it is not the directory `blobs` under it. The
    /// salvage only lists the tier, to find the names of lost objects.
    pub fn blobs(mut self, operator: Operator) -> Self {
        self.blobs = Some(operator);
        self
    }

    /// Replaces the real environment (clocks, randomness, threads). For tests.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    async fn run(self) -> Result<SalvageReport> {
        let env = self.env.map_or_else(Env::real, Ok)?;
        let old = self.old;
        let new = self.new;
        let directory = env
            .blocking(move || SalvageDirectory::prepare(&old, &new))
            .await??;
        // Without a blob tier the salvage still works, but can't name lost objects.
        let operator = match (self.blobs, directory.old_blobs()) {
            (Some(operator), _) => Some(operator),
            (None, Some(path)) => Some(env.blocking(move || blobs::local(&path)).await??),
            (None, None) => None,
        };
        let blobs =
            operator.map(|operator| BlobTier::new(operator, env.clone(), BlobOptions::default()));

        let from = directory.clone();
        let to = directory.clone();
        let own = env.clone();
        let copy = env.blocking(move || from.open_old(own)).await??;
        let old = Arc::new(copy.index);
        let losses = Losses {
            has_whole_journals: copy.has_whole_journals,
            files: copy.lost_files,
        };
        let own = env.clone();
        let new = match env.blocking(move || to.create_new(own)).await? {
            Ok(new) => new,
            Err(error) => {
                // An error of this close would hide the first error.
                drop(old.close().await);
                return Err(error);
            }
        };
        let copied = salvage::copy_tables(&*old, &new, losses, blobs.as_ref(), &env).await;
        // Both indexes close before an error is returned, so that a second attempt can open them.
        // An error of the copy takes precedence over an error of the close.
        let closed = new.close().await;
        drop(old.close().await);
        let report = copied?;
        closed?;
        // The last step renames the new index into its place. Until then `new` holds no store.
        env.blocking(move || directory.finish()).await??;
        Ok(report)
    }
}

impl IntoFuture for Salvage {
    type Output = Result<SalvageReport>;
    type IntoFuture = BoxFuture<'static, Result<SalvageReport>>;

    fn into_future(self) -> Self::IntoFuture {
        self.run()
            .instrument(tracing::debug_span!("salvage"))
            .boxed()
    }
}
