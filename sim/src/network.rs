//! The way to the simulated blob tier: a layer on OpenDAL's memory service, through which every
//! request of a life goes, and where it may break.
//!
//! ```text
//! write  ──gate──> fails | taken, perhaps visible as a partial blob | taken, response lost
//! close  ──gate──> fails | landed | landed, response lost | failed or given up, and lands later: a flight
//! delete ──gate──> fails | gone | gone, response lost | gone, asked for twice
//! read   ──gate──> fails | bytes | bytes with a flipped bit | "not found" for a while
//! any    ──gate──> the tier is away for a while: nothing is found, nothing is written, deletes say that it is gone
//! ```
//!
//! Guards nothing of the engine: it is the world that the engine must survive. What changes in the
//! blob tier is told to the monitor at the moment it happens. Deliberately not here: the blobs
//! themselves (`blobs.rs`), and OpenDAL's raw API (`network/layer.rs`).

use std::sync::Arc;
use std::time::Duration;

use cenotaph::MARKER_PATH;
use opendal::{Buffer, Error, ErrorKind, Operator, Result};

use crate::blobs::Flight;
use crate::faults::Fault;
use crate::gate::{Gate, sleep};
use crate::machine::Machine;
use crate::trace::Kind;

mod layer;

/// How long a slow request takes at most.
const SLOW_MS_MAX: u64 = 3_000;
/// How long a request stalls at most.
const STALL_MS_MAX: u64 = 5 * 60 * 1_000;
/// How much later than its call an effect may come. Less than the grace time of a simulated engine:
/// an effect that comes later still is one that nobody could clean up.
pub(crate) const LATE_MS_MAX: u64 = 20_000;
/// How long a blob may be said to be missing.
const MISSING_MS_MAX: u64 = 2_000;
/// How long the whole tier is away: longer than it may take the sweeper from a deletion to its next
/// look at the mark. Of an outage that ends in between a remote tier leaves no trace.
const AWAY_MS_MIN: u64 = 150_000;
const AWAY_MS_MAX: u64 = 200_000;

impl Machine {
    /// A blob appears, whole or not.
    fn blob_lands(&self, path: &str, content: Buffer, is_whole: bool) {
        let bytes = content.len();
        self.blobs.put(path, content);
        let mut state = self.state();
        let what = if is_whole {
            "blob written"
        } else {
            "blob written in part"
        };
        let tick = state.note(Kind::Effect, what, format!("{path} {bytes} bytes"));
        match path {
            MARKER_PATH => state.monitor.marked(&self.blobs),
            path => state.monitor.blob_written(tick, path, is_whole),
        }
        state.report_violations();
    }

    fn blob_goes(&self, path: &str) {
        self.blobs.remove(path);
        let mut state = self.state();
        let tick = state.note(Kind::Effect, "blob deleted", path.to_owned());
        state.monitor.blob_deleted(tick, path);
        state.report_violations();
    }

    pub(crate) fn lose_blobs(&self) {
        self.blobs
            .paths()
            .iter()
            .for_each(|path| self.blob_goes(path));
    }

    /// An effect that nobody waits for takes place, if it still is under way.
    fn flight_lands(&self, flight: u64) {
        let Some(Flight { path, content, .. }) = self.blobs.arrive(flight) else {
            return;
        };
        self.state().coverage.count("blob: landed late");
        self.blob_lands(&path, content, true);
    }
}

/// A life's way to the blobs.
#[derive(Clone)]
struct Link(Arc<Gate>);

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Link")
    }
}

/// An operator on the blobs, for one life. Effects that are still under way from an earlier one go
/// on.
pub(crate) fn operator(gate: &Arc<Gate>) -> Operator {
    gate.machine()
        .blobs
        .operator()
        .layer(layer::Breakable(Link(Arc::clone(gate))))
}

/// Effects that were under way when the last life ended take place in this one.
pub(crate) fn resume_flights(gate: &Arc<Gate>) {
    let link = Link(Arc::clone(gate));
    gate.machine()
        .blobs
        .due()
        .into_iter()
        .for_each(|(number, due)| link.launch(number, due));
}

impl Link {
    fn machine(&self) -> &Machine {
        self.0.machine()
    }

    /// A request reaches the blob tier, or fails, after some time.
    async fn request(&self, what: &'static str, path: &str) -> Result<()> {
        let detail = || path.to_owned();
        self.0.pass(what, detail).await;
        let machine = self.machine();
        if machine.strikes(Fault::BlobSlow, detail) {
            sleep(Duration::from_millis(machine.below(SLOW_MS_MAX))).await;
            self.fence().await;
        }
        if machine.strikes(Fault::BlobStalls, detail) {
            sleep(Duration::from_millis(machine.below(STALL_MS_MAX))).await;
            self.fence().await;
        }
        if machine.strikes(Fault::BlobFails, detail) {
            return Err(Error::new(ErrorKind::Unexpected, "a planned failure"));
        }
        Ok(())
    }

    /// Returns whether the whole tier is away at this moment. If it is, that is noted.
    fn is_away(&self, path: &str) -> bool {
        let machine = self.machine();
        let now = machine.elapsed();
        if now < machine.state().tier_away_until {
            machine.state().struck(Fault::TierAway, path.to_owned());
            return true;
        }
        if machine.strikes(Fault::TierAway, || path.to_owned()) {
            let until =
                now + Duration::from_millis(AWAY_MS_MIN + machine.below(AWAY_MS_MAX - AWAY_MS_MIN));
            machine.state().tier_away_until = until;
            return true;
        }
        false
    }

    fn away(kind: ErrorKind) -> Error {
        Error::new(kind, "the tier is away")
    }

    /// After a wait: nothing may happen once the world has crashed.
    async fn fence(&self) {
        if self.0.is_fenced() {
            std::future::pending::<()>().await;
        }
    }

    /// The response of a request that had its effect: it may be lost, and its way back takes time
    /// too.
    async fn response(&self, what: &'static str, path: &str) -> Result<()> {
        self.0.pass(what, || path.to_owned()).await;
        if self
            .machine()
            .strikes(Fault::BlobResponseLost, || path.to_owned())
        {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a planned loss of the response",
            ));
        }
        Ok(())
    }

    async fn write(&self, path: &str, so_far: &[Buffer]) -> Result<()> {
        self.request("blob write", path).await?;
        if self.is_away(path) {
            return Err(Self::away(ErrorKind::NotFound));
        }
        if self
            .machine()
            .strikes(Fault::BlobPartial, || path.to_owned())
        {
            self.machine().blob_lands(path, joined(so_far), false);
        }
        self.response("blob write done", path).await
    }

    async fn close(&self, path: &str, content: Buffer) -> Result<()> {
        let machine = self.machine();
        let flight = machine
            .strikes(Fault::BlobLate, || path.to_owned())
            .then(|| self.fly(path, content.clone()));
        if flight.is_some() && machine.below(2) == 0 {
            self.0.pass("blob close", || path.to_owned()).await;
            return Err(Error::new(
                ErrorKind::Unexpected,
                "a planned time-out: it lands later",
            ));
        }
        self.request("blob close", path).await?;
        // What has gone out already takes effect.
        if flight.is_none() && self.is_away(path) {
            return Err(Self::away(ErrorKind::NotFound));
        }
        match flight {
            None => machine.blob_lands(path, content, true),
            Some(number) if machine.blobs.arrive(number).is_some() => {
                machine.blob_lands(path, content, true);
            }
            // It has been faster.
            Some(_) => {}
        }
        self.response("blob close done", path).await
    }

    /// The effect takes place later, whoever waits for it, unless its caller stays until it takes
    /// place in time.
    fn fly(&self, path: &str, content: Buffer) -> u64 {
        let machine = self.machine();
        let due = machine.elapsed() + Duration::from_millis(machine.below(LATE_MS_MAX));
        let number = machine.blobs.take_off(Flight {
            path: path.to_owned(),
            content,
            due,
        });
        self.launch(number, due);
        number
    }

    fn launch(&self, number: u64, due: Duration) {
        let link = self.clone();
        self.0.spawn("the network", async move {
            link.machine()
                .state()
                .trace
                .name_lane("network".to_owned(), false);
            sleep(due.saturating_sub(link.machine().elapsed())).await;
            link.0.pass("blob lands late", String::new).await;
            link.machine().flight_lands(number);
        });
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.request("blob delete", path).await?;
        self.may_hang(path).await;
        if self.is_away(path) {
            return if self.machine().state().strict_deletes {
                Err(Self::away(ErrorKind::NotFound))
            } else {
                Ok(())
            };
        }
        if self.machine().state().strict_deletes && self.machine().blobs.bytes(path).is_none() {
            self.machine()
                .state()
                .coverage
                .count("blob: a deletion found nothing");
            return Err(Error::new(
                ErrorKind::NotFound,
                "there is nothing to delete",
            ));
        }
        self.machine().blob_goes(path);
        if self
            .machine()
            .strikes(Fault::BlobDeletedTwice, || path.to_owned())
        {
            self.request("blob delete again", path).await?;
            self.machine().blob_goes(path);
        }
        self.response("blob delete done", path).await
    }

    /// Some requests never end, and whoever waits for them must not wait for ever.
    async fn may_hang(&self, path: &str) {
        if self.machine().strikes(Fault::BlobHangs, || path.to_owned()) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a blob that is there may be seen.
    async fn look(&self, what: &'static str, path: &str) -> Result<()> {
        self.request(what, path).await?;
        if self.is_away(path) {
            return Err(Self::away(ErrorKind::NotFound));
        }
        let machine = self.machine();
        if machine.blobs.is_hidden(path, machine.elapsed()) {
            machine.state().struck(Fault::BlobNotFound, path.to_owned());
        } else if machine.strikes(Fault::BlobNotFound, || path.to_owned()) {
            let until = machine.elapsed() + Duration::from_millis(machine.below(MISSING_MS_MAX));
            machine.blobs.hide(path, until);
        } else {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "a planned absence"))
    }

    /// The bytes as they arrive.
    fn arrived(&self, path: &str, buffer: Buffer) -> Buffer {
        if buffer.is_empty()
            || !self
                .machine()
                .strikes(Fault::BlobBitRot, || path.to_owned())
        {
            return buffer;
        }
        let mut bytes = buffer.to_vec();
        let at = usize::try_from(self.machine().below(bytes.len() as u64)).unwrap_or(0);
        bytes[at] ^= 1;
        bytes.into()
    }
}

/// In one piece, so that whoever looks at it later need not copy it.
fn joined(parts: &[Buffer]) -> Buffer {
    let whole: Buffer = parts.iter().flat_map(|part| part.clone()).collect();
    whole.to_bytes().into()
}
