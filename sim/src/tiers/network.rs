//! The network to the simulated blob tier: faults of the requests of an incarnation.
//!
//! ```text
//! write  ──scheduler──> fails | accepted, maybe visible as a partial blob | accepted, response lost
//! close  ──scheduler──> fails | done | done, response lost | fails or is dropped, done later (a flight)
//! delete ──scheduler──> fails | done | done, response lost | done twice
//! read   ──scheduler──> fails | bytes | bytes with a flipped bit | "not found" for a while
//! any    ──scheduler──> tier is away: reads find nothing, writes fail, deletes report absence
//! ```
//!
//! Every change of the blob tier is reported to the model at the same step. The blobs are in
//! `blobs.rs`, and the OpenDAL layer is in `network/layer.rs`.

use std::sync::Arc;
use std::time::Duration;

use cenotaph::MARKER_PATH;
use cenotaph_storage::planted::Bug;
use opendal::{Buffer, Error, ErrorKind, Operator, Result};

use crate::buffers::{buffer, content};
use crate::check::revision_of_path;
use crate::disks::blobs::{Flight, tier_of};
use crate::faults::Fault;
use crate::trace::EventKind;
use crate::world::durable_state::DurableState;
use crate::world::process::Remote;
use crate::world::scheduler::{Scheduler, sleep};

mod layer;

/// Maximum duration of a slow request in milliseconds.
const SLOW_MS_MAX: u64 = 3_000;
/// Maximum duration of a stalled request in milliseconds.
const STALL_MS_MAX: u64 = 5 * 60 * 1_000;
/// Maximum delay of a late effect in milliseconds. It is below the grace time of a simulated
/// engine, because an engine cannot clean up an effect after the grace time.
pub(crate) const LATE_MS_MAX: u64 = 20_000;
/// Maximum time for which a blob is reported as not found, in milliseconds.
const MISSING_MS_MAX: u64 = 2_000;
/// Minimum duration of an outage of the tier in milliseconds. It is longer than the time between a
/// deletion of the sweeper and its next check of the marker: a remote tier leaves no trace of an
/// outage that ends in between.
const AWAY_MS_MIN: u64 = 150_000;
/// Maximum duration of an outage of the tier in milliseconds.
const AWAY_MS_MAX: u64 = 200_000;

impl DurableState {
    /// Writes a blob, whole or in part.
    fn blob_lands(&self, tier: usize, path: &str, content: Buffer, is_whole: bool) {
        let bytes = content.len();
        self.blobs.put(tier, path, content);
        let mut state = self.state();
        let event = if is_whole {
            "blob written"
        } else {
            "blob written in part"
        };
        let tick = state.note(EventKind::Effect, event, || format!("{path} {bytes} bytes"));
        match path {
            MARKER_PATH => state.model.marked(tier, &self.blobs),
            path => state.model.blob_written(tick, (tier, path), is_whole),
        }
        state.report_violations();
    }

    /// Deletes a blob.
    pub(crate) fn blob_goes(&self, tier: usize, path: &str) {
        self.blobs.remove(tier, path);
        let mut state = self.state();
        let tick = state.note(EventKind::Effect, "blob deleted", || path.to_owned());
        state.model.blob_deleted(tick, (tier, path));
        state.report_violations();
    }

    /// Deletes all blobs except the marker.
    pub(crate) fn lose_blobs(&self) {
        for path in self.blobs.paths() {
            let tier = revision_of_path(&path).map_or(0, |revision| tier_of(&revision));
            self.blob_goes(tier, &path);
        }
    }

    /// Applies a late effect, if it has not been applied.
    fn flight_lands(&self, flight: u64) {
        let Some(flight) = self.blobs.arrive(flight) else {
            return;
        };
        let Flight {
            tier,
            path,
            content,
            ..
        } = flight;
        self.state().coverage.count("blob: landed late");
        self.blob_lands(tier, &path, content, true);
    }
}

/// Connection of an incarnation to the blob tier with this number.
#[derive(Clone)]
struct Link(Arc<Scheduler>, usize);

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

/// Returns the operator on the blobs of a tier for an incarnation.
pub(crate) fn operator(scheduler: &Arc<Scheduler>, tier: usize) -> Operator {
    scheduler
        .durable_state()
        .blobs
        .operator(tier)
        .layer(layer::Breakable(Link(Arc::clone(scheduler), tier)))
}

/// Schedules the late effects of earlier incarnations in this incarnation.
pub(crate) fn resume_flights(scheduler: &Arc<Scheduler>) {
    // A flight knows its tier.
    let link = Link(Arc::clone(scheduler), 0);
    scheduler
        .durable_state()
        .blobs
        .due()
        .into_iter()
        .for_each(|(number, due)| link.launch(number, due));
}

impl Link {
    fn durable_state(&self) -> &DurableState {
        self.0.durable_state()
    }

    /// Sends a request. It reaches the blob tier or fails after some time.
    async fn request(&self, step: &'static str, path: &str) -> Result<()> {
        let detail = || path.to_owned();
        self.0.pass(step, detail).await;
        let durable_state = self.durable_state();
        if self.0.is_cut_off(Remote::BlobTier) {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a planned separation from the tier",
            ));
        }
        if durable_state.strikes(Fault::BlobSlow, detail) {
            sleep(Duration::from_millis(durable_state.below(SLOW_MS_MAX))).await;
            self.fence().await;
        }
        if durable_state.strikes(Fault::BlobStalls, detail) {
            sleep(Duration::from_millis(durable_state.below(STALL_MS_MAX))).await;
            self.fence().await;
        }
        if durable_state.strikes(Fault::BlobFails, detail) {
            return Err(Error::new(ErrorKind::Unexpected, "a planned failure"));
        }
        Ok(())
    }

    /// Returns `true` if the whole tier is away, and counts the fault.
    fn is_away(&self, path: &str) -> bool {
        let durable_state = self.durable_state();
        let now = durable_state.elapsed();
        if now < durable_state.state().tier_away_until {
            durable_state
                .state()
                .struck(Fault::TierAway, || path.to_owned());
            return true;
        }
        if durable_state.strikes(Fault::TierAway, || path.to_owned()) {
            let until = now
                + Duration::from_millis(
                    AWAY_MS_MIN + durable_state.below(AWAY_MS_MAX - AWAY_MS_MIN),
                );
            durable_state.state().tier_away_until = until;
            return true;
        }
        false
    }

    /// Returns the error of a request to a tier that is away.
    fn away(kind: ErrorKind) -> Error {
        Error::new(kind, "the tier is away")
    }

    /// Waits forever if the world has crashed. Called after every sleep, because nothing may happen
    /// after the crash.
    async fn fence(&self) {
        if self.0.is_fenced() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns the response of a request after its effect. The response takes time and may be lost.
    async fn response(&self, step: &'static str, path: &str) -> Result<()> {
        self.0.pass(step, || path.to_owned()).await;
        if self
            .durable_state()
            .strikes(Fault::BlobResponseLost, || path.to_owned())
        {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a planned loss of the response",
            ));
        }
        Ok(())
    }

    /// Writes a chunk. The bytes so far may be visible as a partial blob.
    async fn write(&self, path: &str, so_far: &[Buffer]) -> Result<()> {
        self.request("blob write", path).await?;
        if self.is_away(path) {
            return Err(Self::away(ErrorKind::NotFound));
        }
        if self
            .durable_state()
            .strikes(Fault::BlobPartial, || path.to_owned())
        {
            let partial = joined(so_far);
            self.durable_state()
                .blob_lands(self.1, path, partial, false);
        }
        self.response("blob write done", path).await
    }

    /// Closes a blob, which makes it visible as a whole, now or later.
    async fn close(&self, path: &str, content: Buffer) -> Result<()> {
        let durable_state = self.durable_state();
        let flight = durable_state
            .strikes(Fault::BlobLate, || path.to_owned())
            .then(|| self.fly(path, content.clone()));
        // Half of the late effects are of calls that time out. The other half race with their call.
        if flight.is_some() && durable_state.below(2) == 0 {
            self.0.pass("blob close", || path.to_owned()).await;
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a planned timeout: the blob appears later",
            ));
        }
        self.request("blob close", path).await?;
        // A flight was sent before the tier went away, and takes effect.
        if flight.is_none() && self.is_away(path) {
            return Err(Self::away(ErrorKind::NotFound));
        }
        match flight {
            None => durable_state.blob_lands(self.1, path, content, true),
            Some(number) if durable_state.blobs.arrive(number).is_some() => {
                durable_state.blob_lands(self.1, path, content, true);
            }
            // The flight has arrived on its own.
            Some(_) => {}
        }
        self.response("blob close done", path).await
    }

    /// Sends the content of a blob on a flight and returns its number. The flight arrives later
    /// even if its caller is gone. A caller that is still there takes it earlier
    /// ([`StoredBlobs::arrive`]).
    ///
    /// [`StoredBlobs::arrive`]: crate::disks::blobs::StoredBlobs::arrive
    fn fly(&self, path: &str, content: Buffer) -> u64 {
        let durable_state = self.durable_state();
        let due = durable_state.elapsed() + Duration::from_millis(durable_state.below(LATE_MS_MAX));
        let number = durable_state.blobs.take_off(Flight {
            tier: self.1,
            path: path.to_owned(),
            content,
            due,
        });
        self.launch(number, due);
        number
    }

    /// Spawns the task that applies a flight when it is due.
    fn launch(&self, number: u64, due: Duration) {
        // A flight arrives although the process that sent it has ended or is paused.
        let link = Self(self.0.network(), self.1);
        link.0.clone().spawn("the network", async move {
            link.0.name_lane("network", false);
            sleep(due.saturating_sub(link.durable_state().elapsed())).await;
            // The world may crash here. The flight then continues in the next incarnation.
            link.0.pass("blob lands late", String::new).await;
            link.durable_state().flight_lands(number);
        });
    }

    /// Deletes a blob, maybe twice.
    async fn delete(&self, path: &str) -> Result<()> {
        self.request("blob delete", path).await?;
        self.may_hang(path).await;
        // An empty mount point reports an absent blob, which must not count as deleted.
        if self.is_away(path) {
            return if self.durable_state().state().strict_deletes {
                Err(Self::away(ErrorKind::NotFound))
            } else {
                Ok(())
            };
        }
        if self.durable_state().state().strict_deletes
            && path != MARKER_PATH
            && self.durable_state().blobs.bytes(path).is_none()
        {
            self.durable_state()
                .state()
                .coverage
                .count("blob: a deletion found nothing");
            return Err(Error::new(ErrorKind::NotFound, "nothing to delete"));
        }
        self.durable_state().blob_goes(self.1, path);
        if self
            .durable_state()
            .strikes(Fault::BlobDeletedTwice, || path.to_owned())
        {
            self.request("blob delete again", path).await?;
            self.durable_state().blob_goes(self.1, path);
        }
        self.response("blob delete done", path).await
    }

    /// Waits forever if the request hangs. The engine must not wait for it without a timeout.
    async fn may_hang(&self, path: &str) {
        if self
            .durable_state()
            .strikes(Fault::BlobHangs, || path.to_owned())
        {
            std::future::pending::<()>().await;
        }
    }

    /// Sends a request that reads. An existing blob may be reported as not found.
    async fn look(&self, step: &'static str, path: &str) -> Result<()> {
        self.request(step, path).await?;
        let durable_state = self.durable_state();
        if self.is_away(path) {
            // Two planted bugs: every check of the owner passes, as if there were none.
            let is_unchecked = durable_state.is_planted(Bug::NotFoundIsDeleted)
                || durable_state.is_planted(Bug::MissingBlobIsAbsent);
            if path == MARKER_PATH && is_unchecked {
                return Ok(());
            }
            return Err(Self::away(ErrorKind::NotFound));
        }
        // A hidden blob stays hidden for a while, so that a retry does not find it at once.
        if durable_state.blobs.is_hidden(path, durable_state.elapsed()) {
            durable_state
                .state()
                .struck(Fault::BlobNotFound, || path.to_owned());
        } else if durable_state.strikes(Fault::BlobNotFound, || path.to_owned()) {
            let until = durable_state.elapsed()
                + Duration::from_millis(durable_state.below(MISSING_MS_MAX));
            durable_state.blobs.hide(path, until);
        } else {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "a planned absence"))
    }

    /// Returns read bytes, maybe with a flipped bit.
    fn arrived(&self, path: &str, buffer: Buffer) -> Buffer {
        if buffer.is_empty()
            || !self
                .durable_state()
                .strikes(Fault::BlobBitRot, || path.to_owned())
        {
            return buffer;
        }
        let mut bytes = buffer.to_vec();
        let at = usize::try_from(self.durable_state().below(bytes.len() as u64)).unwrap_or(0);
        bytes[at] ^= 1;
        bytes.into()
    }
}

/// Joins buffers into a contiguous buffer, so that later reads of the blob do not copy it.
fn joined(parts: &[Buffer]) -> Buffer {
    if let [part] = parts {
        return part.to_bytes().into();
    }
    let mut whole = buffer(parts.iter().map(Buffer::len).sum());
    let chunks = parts.iter().flat_map(|part| part.clone());
    chunks.for_each(|chunk| whole.extend_from_slice(&chunk));
    content(whole).into()
}
