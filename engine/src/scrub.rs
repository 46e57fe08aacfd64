//! [`Scrub`]: how the store is verified against itself, and repaired.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::Repair;
use cenotaph_storage::Result;
use cenotaph_storage::scrub::{self, ScrubDepth, ScrubOptions, ScrubProgress, ScrubReport};
use futures::future::BoxFuture;

use crate::engine::Engine;
use crate::observe::{observed, operation_span};

/// A scrub in preparation: `.await` it to run it. See [`Engine::scrub`].
#[must_use = "a scrub does nothing until it is awaited"]
pub struct Scrub {
    engine: Engine,
    options: ScrubOptions,
    repair: Repair,
    listener: Option<Arc<dyn Fn(ScrubProgress) + Send + Sync>>,
}

impl Scrub {
    /// How far it looks at the bytes: all of them unless told.
    pub fn depth(mut self, depth: ScrubDepth) -> Self {
        self.options.depth = depth;
        self
    }

    /// Blobs that were begun within this time are not yet called unknown: a day unless told.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.options.grace = grace;
        self
    }

    /// Objects, or parts of an upload, whose bytes are looked at together: 8 unless told. Reads go
    /// on beside it, within one budget of bytes.
    pub fn objects_at_once(mut self, objects: usize) -> Self {
        self.options.objects_at_once = objects;
        self
    }

    /// Findings that the report names: 1000 unless told. It counts all of them.
    pub fn findings_max(mut self, findings: usize) -> Self {
        self.options.findings_max = findings;
        self
    }

    /// Repairs what can be repaired without losing anything that is not lost already: unknown blobs
    /// are deleted, unless not one blob that belongs here is found; payloads without a row, parts
    /// without an upload and expiry entries without either are removed, missing expiry entries are
    /// put back, lost block checksums are learnt anew from blobs that are intact, and damaged
    /// entries beside the rows are removed.
    pub fn repair(mut self) -> Self {
        self.repair = self.repair.max(Repair::Safe);
        self
    }

    /// Repairs, and gives up what can't be: deletes objects whose bytes or rows are missing or
    /// damaged, ends uploads whose session is, gives up parts of open uploads that are (the upload
    /// goes on, and asks for them again), and deletes unknown blobs even where none that belongs
    /// here is found. **What they held is lost**, also where a backup of the blob tier could bring
    /// it back; so see first that this is the right blob tier. No version is used again: an object
    /// whose row could not be read goes on far above any version that it had.
    pub fn drop_damaged(mut self) -> Self {
        self.repair = Repair::Lossy;
        self
    }

    /// Is told, often, how far the scrub has come. Must not block.
    pub fn on_progress(mut self, listener: impl Fn(ScrubProgress) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    async fn run(self) -> Result<ScrubReport> {
        self.engine.check_open("scrub")?;
        let walk = scrub::Scrub::new(self.engine.reads().clone(), self.options, self.listener);
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
        let (engine, span) = (self.engine.clone(), operation_span!("scrub"));
        observed(engine, "scrub", span, self.run())
    }
}

impl Engine {
    /// Verifies everything against everything, in both tiers and all namespaces: rows, open
    /// uploads, what belongs to them, and the bytes of every object and part against their
    /// checksums. Reports; repairs on request. Reads and writes go on beside it, and are never
    /// mistaken for damage: each finding is confirmed on the newest state before it is reported or
    /// acted on. Costs a read of all that is stored, and little memory. Dropping the future ends
    /// it; a scrub that was cut short, or repaired something, is simply run again.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the index can't be read, if the blob tier
    /// can't be listed, is not there or is not this store's, and with repairs if the engine has
    /// failed; [`Closed`](crate::ErrorKind::Closed). Damage is no error, also where it is in files
    /// of the index: keys that can't be read are findings, and the scrub goes on behind them.
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
    /// assert_eq!((report.looked.objects, report.looked.bytes, report.looked.blobs), (2, 3_000_004, 1));
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
            repair: Repair::Nothing,
            listener: None,
        }
    }
}
