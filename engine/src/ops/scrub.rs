//! [`Engine::scrub`] and its builder [`Scrub`]: verification of the store, and repairs.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::RepairLevel;
use cenotaph_storage::Result;
use cenotaph_storage::scrub::{self, ScrubDepth, ScrubOptions, ScrubProgress, ScrubReport};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};

/// Builder of a scrub. `.await` it to run the scrub. See [`Engine::scrub`].
#[must_use = "a scrub does nothing until it is awaited"]
pub struct Scrub {
    engine: Engine,
    options: ScrubOptions,
    repair: RepairLevel,
    listener: Option<Arc<dyn Fn(ScrubProgress) + Send + Sync>>,
}

impl Scrub {
    /// Sets the share of the bytes to verify. All bytes by default.
    pub fn depth(mut self, depth: ScrubDepth) -> Self {
        self.options.depth = depth;
        self
    }

    /// Sets the age from which a blob can count as unknown: a blob begun within `grace` is not
    /// reported. 1 day by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Sets the number of objects and upload parts whose bytes are verified concurrently. 8 by
    /// default. A memory budget bounds their bytes, and other reads continue meanwhile.
    pub fn objects_at_once(mut self, objects: usize) -> Self {
        self.options.objects_at_once = objects;
        self
    }

    /// Sets the maximum number of findings that the report lists. 1000 by default. The report
    /// counts all findings.
    pub fn findings_max(mut self, findings: usize) -> Self {
        self.options.findings_max = findings;
        self
    }

    /// Repairs damage where the repair loses no data that is not lost already.
    /// - Deletes unknown blobs, unless the scrub found no blob at all that belongs to this store.
    /// - Removes payloads without a row, parts without an upload, and expiry entries without
    ///   either.
    /// - Restores missing expiry entries.
    /// - Computes lost block checksums anew from intact blobs.
    /// - Removes damaged entries beside the rows.
    pub fn repair(mut self) -> Self {
        // An earlier `drop_damaged` remains in force.
        self.repair = self.repair.max(RepairLevel::Safe);
        self
    }

    /// Repairs as [`repair`](Self::repair), and also removes damage that can't be repaired. **The
    /// affected data is lost**, even if a backup of the blob tier could restore it. Check first
    /// that the engine is open with the right blob tier.
    /// - Deletes objects whose bytes or rows are missing or damaged.
    /// - Ends uploads whose upload record is missing or damaged.
    /// - Gives up missing or damaged parts of open uploads. The upload remains open, and a client
    ///   has to upload the parts again.
    /// - Deletes unknown blobs, even if the scrub found no blob that belongs to this store.
    ///
    /// No version is used twice: the next write of an object whose row could not be read gets a
    /// version far above all earlier versions.
    pub fn drop_damaged(mut self) -> Self {
        self.repair = RepairLevel::Lossy;
        self
    }

    /// Calls `listener` frequently with the progress of the scrub. The listener must not block.
    pub fn on_progress(mut self, listener: impl Fn(ScrubProgress) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    async fn run(self) -> Result<ScrubReport> {
        self.engine.check_open("scrub")?;
        // The reads of the engine, so that the scrub shares their memory budget.
        let walk = scrub::ScrubWalk::new(self.engine.reads().clone(), self.options, self.listener);
        self.engine.tiered().scrub(walk, self.repair).await
    }
}

impl fmt::Debug for Scrub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrub")
            .field("options", &self.options)
            .field("repair", &self.repair)
            .finish_non_exhaustive()
    }
}

impl IntoFuture for Scrub {
    type Output = Result<ScrubReport>;
    type IntoFuture = BoxFuture<'static, Result<ScrubReport>>;

    fn into_future(self) -> Self::IntoFuture {
        let engine = self.engine.clone();
        let span = operation_span!("scrub");
        observed(engine, "scrub", span, self.run())
    }
}

impl Engine {
    /// Verifies the whole store: the rows and open uploads of all namespaces, their secondary
    /// entries, and the bytes of every object and part against their checksums.
    ///
    /// A scrub reports damage, and [repairs](Scrub::repair) it on request. Reads and writes
    /// continue meanwhile and never count as damage: each finding is confirmed against the newest
    /// state before it is reported or repaired. A scrub reads all stored bytes and needs little
    /// memory. Dropping the future ends the scrub. After an interruption or a repair, run the scrub
    /// again.
    ///
    /// # Errors
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): the index can't be read; the blob tier
    ///   can't be listed, is missing, or belongs to another store; or a scrub with repairs runs on
    ///   a failed engine.
    /// - [`Invalid`](crate::ErrorKind::Invalid): a scrub with repairs runs on a read-only engine.
    /// - [`Closed`](crate::ErrorKind::Closed).
    ///
    /// Damage is not an error, not even in files of the index: keys that can't be read are
    /// findings, and the scrub continues after them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let engine = cenotaph::Engine::builder(directory.path()).open().await?;
    /// engine.put("small", "four").await?;
    /// engine.put("large", vec![7u8; 3_000_000]).await?;
    /// let report = engine.scrub().await?;
    /// assert!(report.is_clean());
    /// assert_eq!((report.looked.objects, report.looked.blobs), (2, 1));
    /// assert_eq!(report.looked.bytes, 3_000_004);
    ///
    /// // Every blob is lost, and the mark of the tier is not.
    /// for entry in std::fs::read_dir(directory.path().join("blobs")).unwrap() {
    ///     let path = entry.unwrap().path();
    ///     if path.is_dir() {
    ///         std::fs::remove_dir_all(path).unwrap();
    ///     }
    /// }
    /// let report = engine.scrub().repair().await?;
    /// assert_eq!((report.found, report.left()), (1, 1), "a backup could bring it back");
    /// println!("{}", report.findings[0].damage);
    /// assert_eq!(engine.scrub().drop_damaged().await?.left(), 0);
    /// assert!(engine.scrub().await?.is_clean());
    /// # engine.close().await
    /// # }
    /// ```
    pub fn scrub(&self) -> Scrub {
        Scrub {
            engine: self.clone(),
            options: ScrubOptions::default(),
            repair: RepairLevel::Nothing,
            listener: None,
        }
    }
}
