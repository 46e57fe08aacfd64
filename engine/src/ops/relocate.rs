//! [`Engine::relocate`]: moves the payloads of older blob tiers to the current one.
//!
//! ```text
//! pass ──> rows, page by page ──> copy the payloads in older tiers, several at once
//!      ──> nothing was copied     settle, count the names of older tiers in one snapshot,
//!                                 release the tiers that nothing names
//!          otherwise              the next pass: renames may have moved rows behind the scan
//! ```
//!
//! The future may be dropped at any time, and the next relocation begins again: payloads that were
//! copied are in the current tier by then.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::{PayloadSource, RunningMigration};
use cenotaph_storage::index::Range;
use cenotaph_storage::records::Row;
use cenotaph_storage::tier_scan::{rows, tier_names};
use cenotaph_storage::{ByteRange, ObjectId, Result, TierNumber};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::engine::Engine;
use crate::observe::{observed, operation_span};
use crate::ops::migrate::MigrationFailure;

/// Rows per page.
const PAGE: usize = 256;
/// Most failures that a report lists.
const FAILURES_MAX: usize = 100;

/// Result of a [relocation](Engine::relocate).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RelocationReport {
    /// Passes over the objects.
    pub passes: u64,
    /// Objects whose payload was copied to the current tier.
    pub relocated: u64,
    /// Bytes of these payloads.
    pub bytes: u64,
    /// Objects of the last pass whose payload could not be copied, and rows that can't be read.
    pub failed: u64,
    /// The failed objects of the last pass, at most 100.
    pub failures: Vec<MigrationFailure>,
    /// Blobs in older tiers that something still names: an object that failed, expired, or was
    /// written meanwhile, a part of an open upload, or a deletion that waits for a reader or for
    /// its time. A later relocation finds them gone. Entries of the index that can't be read, which
    /// a [scrub](crate::Engine::scrub) names, count as one.
    pub left: u64,
    /// Numbers of the older tiers that were released. The first tier of a store has number 0.
    pub released: Vec<TierNumber>,
}

/// A blob tier of a store. See [`Engine::blob_tiers`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobTierInfo {
    /// Number of the tier. The first tier of a store has number 0.
    pub number: TierNumber,
    /// True for the tier that new large objects go to.
    pub is_current: bool,
    /// Directory of the tier, or the scheme, name and root of its operator.
    pub place: String,
}

type Listener = Arc<dyn Fn(&RelocationReport) + Send + Sync>;

/// Builder of a relocation. `.await` it to run the relocation. See [`Engine::relocate`].
#[must_use = "a relocation does nothing until it is awaited"]
pub struct Relocate {
    engine: Engine,
    objects_at_once: usize,
    bytes_per_second: Option<u64>,
    passes_max: u64,
    is_dry_run: bool,
    listener: Option<Listener>,
}

impl Relocate {
    /// Copies this many objects at once, at least 1. The default is 4. Each takes a share of the
    /// budgets of [bulk work](crate::Limits::bulk_percent).
    pub fn objects_at_once(mut self, objects: usize) -> Self {
        self.objects_at_once = objects.max(1);
        self
    }

    /// Limits the rate, in bytes per second, at least 1. By default there is no limit.
    pub fn bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = Some(bytes.max(1));
        self
    }

    /// Ends after this many passes, at least 1. The default is 3.
    pub fn passes_max(mut self, passes: u64) -> Self {
        self.passes_max = passes.max(1);
        self
    }

    /// Counts what would be copied, and changes nothing. Works on a read-only engine, too.
    pub fn dry_run(mut self) -> Self {
        self.is_dry_run = true;
        self
    }

    /// Calls `listener` with the report so far after each page of objects.
    pub fn on_progress(
        mut self,
        listener: impl Fn(&RelocationReport) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    async fn run(self) -> Result<RelocationReport> {
        self.engine.check_open("relocate")?;
        let running = match self.is_dry_run {
            true => None,
            false => Some(self.engine.tiered().begin_migration()?),
        };
        let mut report = RelocationReport::default();
        for pass in 1..=self.passes_max {
            let before = report.relocated;
            report.passes = pass;
            (report.failed, report.failures) = (0, Vec::new());
            self.pass(&mut report).await?;
            if self.is_dry_run || report.relocated == before {
                break;
            }
        }
        match running {
            Some(running) => self.release(&running, &mut report).await?,
            None => report.left = self.count_left(&[]).await?.0,
        }
        Ok(report)
    }

    async fn pass(&self, report: &mut RelocationReport) -> Result<()> {
        let begun = self.engine.env().monotonic();
        let copied_before = report.bytes;
        let mut range = Some(Range::all(PAGE));
        while let Some(next) = range {
            let page = rows(&**self.engine.index(), next).await?;
            range = page.rest;
            report.failed += page.unreadable;
            let is_relocatable =
                |(_, row): &(ObjectId, Row)| self.engine.tiered().is_relocatable(row);
            let mut copies = Vec::new();
            for (id, row) in page.rows.into_iter().filter(is_relocatable) {
                copies.push(copy(self.engine.clone(), id, row, self.is_dry_run).boxed());
            }
            let mut copies = stream::iter(copies).buffer_unordered(self.objects_at_once);
            while let Some((id, bytes, outcome)) = copies.next().await {
                match outcome {
                    Ok(true) => {
                        report.relocated += 1;
                        report.bytes += bytes;
                        self.pace(begun, report.bytes - copied_before).await;
                    }
                    // Written or removed meanwhile, so that its new payload is not in an older tier.
                    Ok(false) => {}
                    Err(error) => {
                        let object = id.to_string();
                        tracing::warn!(%error, object, "a payload could not be relocated");
                        report.failed += 1;
                        if report.failures.len() < FAILURES_MAX {
                            report.failures.push(MigrationFailure { object, error });
                        }
                    }
                }
            }
            // A store that can't write fails every object. That is no failure of the objects.
            self.engine.check_open("relocate")?;
            self.engine.tiered().health()?;
            if let Some(listener) = &self.listener {
                listener(report);
            }
        }
        Ok(())
    }

    /// Waits until the copied bytes are within the rate.
    async fn pace(&self, begun: Duration, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let env = self.engine.env();
        let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let elapsed = env.monotonic().saturating_sub(begun);
        if due > elapsed {
            env.sleep(due - elapsed).await;
        }
    }

    /// Deletes the copied revisions, and releases the older tiers that nothing names.
    async fn release(
        &self,
        running: &RunningMigration,
        report: &mut RelocationReport,
    ) -> Result<()> {
        let tiered = self.engine.tiered();
        let older = tiered.older_tiers();
        if older.is_empty() {
            return Ok(());
        }
        self.engine.settle().await?;
        let (left, free) = self.count_left(&older).await?;
        report.left = left;
        if !free.is_empty() && tiered.release_tiers(running, &free).await? {
            report.released = free;
        }
        Ok(())
    }

    /// Returns the number of names of revisions in older tiers, and the tiers that nothing names.
    async fn count_left(&self, older: &[TierNumber]) -> Result<(u64, Vec<TierNumber>)> {
        let names = tier_names(&**self.engine.index()).await?;
        let older_tiers = self.engine.tiered().older_tiers();
        let left: u64 = older_tiers.iter().map(|&tier| names.of(tier)).sum();
        // An entry that can't be read keeps every older tier.
        let left = left + u64::from(names.is_incomplete && !older_tiers.is_empty());
        let free = older.iter().copied().filter(|&tier| names.is_free(tier));
        Ok((left, free.collect()))
    }
}

/// Copies the payload of an object to the current tier. Returns its size, and whether it was
/// copied.
async fn copy(
    engine: Engine,
    id: ObjectId,
    row: Row,
    is_dry_run: bool,
) -> (ObjectId, u64, Result<bool>) {
    let bytes = row.metadata.size;
    let outcome = match is_dry_run {
        true => Ok(true),
        false => copy_now(&engine, &id, &row).await,
    };
    (id, bytes, outcome)
}

async fn copy_now(engine: &Engine, id: &ObjectId, row: &Row) -> Result<bool> {
    let tiered = engine.tiered();
    let _turn = tiered.bulk_turn().await?;
    let Some(object) = engine.reads().open(id, ByteRange::Full).await? else {
        return Ok(false);
    };
    if object.head().etag != Some(row.etag()) {
        return Ok(false);
    }
    let chunks = stream::try_unfold(object, |mut object| async move {
        let chunk = object.next().await?;
        Ok(chunk.map(|chunk| (chunk, object)))
    });
    let source = PayloadSource {
        stream: chunks
            .map_err(|error: cenotaph_storage::Error| error.into())
            .boxed(),
        bytes: Some(row.metadata.size),
    };
    tiered.relocate(id, row, source).await
}

impl fmt::Debug for Relocate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relocate").finish_non_exhaustive()
    }
}

impl IntoFuture for Relocate {
    type Output = Result<RelocationReport>;
    type IntoFuture = BoxFuture<'static, Result<RelocationReport>>;

    fn into_future(self) -> Self::IntoFuture {
        let engine = self.engine.clone();
        let span = operation_span!("relocate");
        observed(engine, "relocate", span, self.run())
    }
}

impl Engine {
    /// Returns the blob tiers of the store: the current one, and the
    /// [older ones](crate::Builder::older_blobs) that are not released.
    ///
    /// A read-only engine that was opened as if the store had moved returns the tier that the store
    /// would have.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), cenotaph::Error> {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let data = directory.path();
    /// let engine = cenotaph::Engine::builder(data).open().await?;
    /// let tiers = engine.blob_tiers();
    /// assert_eq!((tiers.len(), tiers[0].is_current), (1, true));
    /// assert!(tiers[0].place.ends_with("blobs"));
    /// # engine.close().await
    /// # }
    /// ```
    pub fn blob_tiers(&self) -> Vec<BlobTierInfo> {
        let tiers = self.tiered().tier_places().into_iter();
        let info = |(index, (number, place))| BlobTierInfo {
            number,
            is_current: index == 0,
            place,
        };
        tiers.enumerate().map(info).collect()
    }

    /// Copies the payloads that are in an [older blob tier](crate::Builder::older_blobs) to the
    /// current one, and releases the older tiers that nothing names any more.
    ///
    /// The objects do not change: versions, etags, metadata and deadlines stay, and no conditional
    /// write fails because of a copy. Reads and writes work throughout. The copied blobs are
    /// deleted from the older tier once no reader has them open. A copy that meets a write gives
    /// way to it. Each copy is verified against the checksums of the object.
    ///
    /// The call is for a store that was opened over an older tier. Otherwise it scans the objects
    /// and copies nothing. Dropping the future ends it; a later call goes on.
    ///
    /// A tier is released when the index names no blob in it: no object, part of an open upload,
    /// unfinished write or deletion that waits. [`RelocationReport::left`] counts them. Complete or
    /// abort the uploads, and call again.
    ///
    /// # Errors
    /// - [`Invalid`](crate::ErrorKind::Invalid): a migration or relocation of this engine is
    ///   running, or the engine is read-only.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable): a tier or the index failed.
    /// - [`Closed`](crate::ErrorKind::Closed).
    ///
    /// An object that can't be copied is no error of the call: see [`RelocationReport::failed`].
    pub fn relocate(&self) -> Relocate {
        Relocate {
            engine: self.clone(),
            objects_at_once: 4,
            bytes_per_second: None,
            passes_max: 3,
            is_dry_run: false,
            listener: None,
        }
    }
}
