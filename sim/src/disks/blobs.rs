//! The simulated blob tiers: memory services of OpenDAL, whose blobs outlive an incarnation, and the
//! late effects that have not reached them. The paths of all blobs differ, whatever their tier. Requests and their faults are in `network.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::MARKER_PATH;
use futures::FutureExt;
use opendal::{Buffer, Operator};
use uuid::Uuid;

/// Number of blob tiers that a store may have in its life.
pub(crate) const TIERS: usize = 3;

/// The blobs.
pub(crate) struct StoredBlobs {
    raw: [Operator; TIERS],
    /// Content of every file of the services, which the checks read without a request.
    files: Mutex<BTreeMap<String, Bytes>>,
    flights: Mutex<BTreeMap<u64, Flight>>,
    next_flight: AtomicU64,
    /// Hidden blobs, with the end of their absence in virtual time.
    missing: Mutex<BTreeMap<String, Duration>>,
}

/// Late effect: a blob that appears after its call has ended.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) tier: usize,
    pub(crate) path: String,
    pub(crate) content: Buffer,
    /// Time of the effect in virtual time.
    pub(crate) due: Duration,
}

impl StoredBlobs {
    pub(crate) fn new() -> Self {
        let memory = |_| {
            Operator::new(opendal::services::Memory::default())
                .expect("memory needs no configuration")
        };
        Self {
            raw: std::array::from_fn(memory),
            files: Mutex::default(),
            flights: Mutex::default(),
            next_flight: AtomicU64::new(0),
            missing: Mutex::default(),
        }
    }

    /// Returns the paths of all blobs of all tiers, without the markers.
    pub(crate) fn paths(&self) -> Vec<String> {
        let files = self.files();
        let paths = files.keys().filter(|path| !path.ends_with(MARKER_PATH));
        paths.cloned().collect()
    }

    /// Returns the bytes of a blob, or `None` if it is absent.
    pub(crate) fn bytes(&self, path: &str) -> Option<Bytes> {
        self.files().get(path).cloned()
    }

    /// Returns the marker of a tier, or `None` if it is absent.
    pub(crate) fn marker(&self, tier: usize) -> Option<Bytes> {
        self.bytes(&file(tier, MARKER_PATH))
    }

    /// Returns the number of flights.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights().len()
    }

    /// Adds a flight and returns its number.
    pub(crate) fn take_off(&self, flight: Flight) -> u64 {
        let number = self.next_flight.fetch_add(1, Ordering::Relaxed);
        self.flights().insert(number, flight);
        number
    }

    /// Returns all flights with their due times.
    pub(crate) fn due(&self) -> Vec<(u64, Duration)> {
        self.flights()
            .iter()
            .map(|(&number, flight)| (number, flight.due))
            .collect()
    }

    /// Removes and returns a flight, or returns `None` if it has arrived before.
    pub(crate) fn arrive(&self, number: u64) -> Option<Flight> {
        self.flights().remove(&number)
    }

    /// Hides a blob until this virtual time.
    pub(crate) fn hide(&self, path: &str, until: Duration) {
        self.missing().insert(path.to_owned(), until);
    }

    /// Returns `true` if a blob is hidden at `now`.
    pub(crate) fn is_hidden(&self, path: &str, now: Duration) -> bool {
        self.missing().get(path).is_some_and(|&until| now < until)
    }

    /// Returns the operator of a tier, without faults.
    pub(crate) fn operator(&self, tier: usize) -> Operator {
        self.raw[tier].clone()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, BTreeMap<u64, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> MutexGuard<'_, BTreeMap<String, Duration>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a blob at once.
    pub(crate) fn put(&self, tier: usize, path: &str, content: Buffer) {
        self.files().insert(file(tier, path), content.to_bytes());
        // The memory service never waits, so that its futures need no runtime.
        let written = self.raw[tier].write(path, content).now_or_never();
        written
            .expect("memory never waits")
            .expect("memory never fails");
    }

    /// Deletes a blob at once.
    pub(crate) fn remove(&self, tier: usize, path: &str) {
        self.files().remove(&file(tier, path));
        let deleted = self.raw[tier].delete(path).now_or_never();
        deleted
            .expect("memory never waits")
            .expect("memory never fails");
    }
}

/// Returns the name of a file among the files of all tiers.
fn file(tier: usize, path: &str) -> String {
    match tier {
        1.. if path == MARKER_PATH => format!("{tier}/{path}"),
        _ => path.to_owned(),
    }
}

/// Returns the tier that the revision of a path names: that of a version 8 uuid is in the 12 bits
/// behind the version, and every other revision is in the first tier.
pub(crate) fn tier_of(revision: &Uuid) -> usize {
    let bytes = revision.as_bytes();
    match revision.get_version_num() {
        8 => usize::from(bytes[6] & 0x0f) << 8 | usize::from(bytes[7]),
        _ => 0,
    }
}
