//! [`salvage`]: what can be read of a damaged store, copied into a new one.

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

/// A salvage in preparation: `.await` it to run it. See [`salvage()`].
#[derive(Debug)]
#[must_use = "a salvage does nothing until it is awaited"]
pub struct Salvage {
    old: PathBuf,
    new: PathBuf,
    blobs: Option<Operator>,
    env: Option<Env>,
}

/// Copies everything that can be read of the store in `old` into a new store in `new`: rows,
/// payloads, uploads, unsettled writes, orphans, version floors. The way out where a file of the
/// index is damaged, for such an index stops writing at its next compaction, or does not open.
///
/// Not a byte of `old` is changed, and no engine may have it open. Space is needed for two copies
/// of its index: one is removed at the end. **Large objects are not copied**: the new store goes on
/// with the blob tier of the old one. If that is the directory `old/blobs`, open the new store with
/// it, or move it to `new/blobs` first. Do not open the old store again: both would delete each
/// other's blobs.
///
/// Objects whose rows are lost are absent from the new store. Their blobs stay until a
/// [scrub](crate::Engine::scrub) with repairs finds that nothing names them; the report names these
/// blobs. The version of an object that is created again begins anew if neither its row nor its
/// version floor nor a blob of it was found. An object whose inline bytes are lost is in the new
/// store, and reads as [`Corrupt`](crate::ErrorKind::Corrupt).
///
/// # Errors
/// - [`Invalid`](crate::ErrorKind::Invalid): there is no store in `old`, `new` is not empty, or one
///   lies in the other.
/// - [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen): an engine has `old` open.
/// - [`Corrupt`](crate::ErrorKind::Corrupt): the record of `old`, or a manifest of its index, is
///   damaged. They alone say which files count; the error names the one that is damaged.
/// - [`Unavailable`](crate::ErrorKind::Unavailable): the disk can't be read or written, or the blob
///   tier can't be listed.
///
/// Where the journal is damaged, all intact batches of it are copied, also those behind the damage
/// or a missing journal. Where a table file has a damaged end, its intact blocks are copied; keys
/// that damaged blocks held are reported as an unreadable range, and no older value of them is
/// copied. Of a table file that is missing it is not known what keys it held. Such a file, and
/// batches that are lost, may have written any object: the report says so
/// ([`lost_tables`](SalvageReport::lost_tables),
/// [`journal_damaged`](SalvageReport::journal_damaged)), and changes and orphans are left out, for
/// their blobs may be needed. An object that is older than it was goes on at a version that it had;
/// etags are never used twice.
///
/// After an error, and after a drop, it is simply run again.
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
    /// The blob tier of the old store, if it is not the directory `blobs` under it. It is only
    /// listed, for names of lost objects.
    pub fn blobs(mut self, operator: Operator) -> Self {
        self.blobs = Some(operator);
        self
    }

    /// Another world than the real one: for tests.
    pub fn env(mut self, env: Env) -> Self {
        self.env = Some(env);
        self
    }

    async fn run(self) -> Result<SalvageReport> {
        let env = self.env.map_or_else(Env::real, Ok)?;
        let (old, new) = (self.old, self.new);
        let directory = env
            .blocking(move || SalvageDirectory::prepare(&old, &new))
            .await??;
        let operator = match (self.blobs, directory.old_blobs()) {
            (Some(operator), _) => Some(operator),
            (None, Some(path)) => Some(env.blocking(move || blobs::local(&path)).await??),
            (None, None) => None,
        };
        let blobs =
            operator.map(|operator| BlobTier::new(operator, env.clone(), BlobOptions::default()));

        let (from, to, own) = (directory.clone(), directory.clone(), env.clone());
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
                drop(old.close().await);
                return Err(error);
            }
        };
        let copied = salvage::copy_tables(&*old, &new, losses, blobs.as_ref(), &env).await;
        let closed = new.close().await;
        drop(old.close().await);
        let report = copied?;
        closed?;
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
