//! The simulated blob tier: OpenDAL's memory service, whose blobs outlive a life, and what is on
//! its way there.
//!
//! Deliberately not here: how requests reach it, and what goes wrong with them (`network.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cenotaph::MARKER_PATH;
use futures::FutureExt;
use opendal::{Buffer, Operator};

/// The blobs themselves.
pub(crate) struct Blobs {
    raw: Operator,
    flights: Mutex<BTreeMap<u64, Flight>>,
    next_flight: AtomicU64,
    missing: Mutex<BTreeMap<String, Duration>>,
}

/// An effect that is under way and that nobody waits for.
#[derive(Clone)]
pub(crate) struct Flight {
    pub(crate) path: String,
    pub(crate) content: Buffer,
    /// When it takes place, in virtual time.
    pub(crate) due: Duration,
}

impl Blobs {
    pub(crate) fn new() -> Self {
        let raw = Operator::new(opendal::services::Memory::default())
            .expect("memory needs no configuration");
        Self {
            raw,
            flights: Mutex::default(),
            next_flight: AtomicU64::new(0),
            missing: Mutex::default(),
        }
    }

    /// Every blob's path, the mark left out.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = self.files();
        paths.retain(|path| path != MARKER_PATH);
        paths
    }

    /// Every file's path.
    fn files(&self) -> Vec<String> {
        let entries = self
            .raw
            .list_with("/")
            .recursive(true)
            .into_future()
            .now_or_never();
        let entries = entries
            .expect("memory never waits")
            .expect("memory never fails");
        entries
            .into_iter()
            .filter(|entry| entry.metadata().is_file())
            .map(|entry| entry.path().to_owned())
            .collect()
    }

    /// The bytes of a blob, if there is one.
    pub(crate) fn bytes(&self, path: &str) -> Option<Bytes> {
        let read = self
            .raw
            .read(path)
            .now_or_never()
            .expect("memory never waits");
        read.ok().map(|buffer| buffer.to_bytes())
    }

    /// Effects under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights().len()
    }

    /// A new flight; its number.
    pub(crate) fn take_off(&self, flight: Flight) -> u64 {
        let number = self.next_flight.fetch_add(1, Ordering::Relaxed);
        self.flights().insert(number, flight);
        number
    }

    /// Every flight, and when it is due.
    pub(crate) fn due(&self) -> Vec<(u64, Duration)> {
        self.flights()
            .iter()
            .map(|(&number, flight)| (number, flight.due))
            .collect()
    }

    /// A flight comes to its end, if it is still under way.
    pub(crate) fn arrive(&self, number: u64) -> Option<Flight> {
        self.flights().remove(&number)
    }

    /// Hides a blob until then.
    pub(crate) fn hide(&self, path: &str, until: Duration) {
        self.missing().insert(path.to_owned(), until);
    }

    /// Whether a blob is hidden at this moment.
    pub(crate) fn is_hidden(&self, path: &str, now: Duration) -> bool {
        self.missing().get(path).is_some_and(|&until| now < until)
    }

    /// The service with its blobs.
    pub(crate) fn operator(&self) -> Operator {
        self.raw.clone()
    }

    fn flights(&self) -> MutexGuard<'_, BTreeMap<u64, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> MutexGuard<'_, BTreeMap<String, Duration>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, path: &str, content: Buffer) {
        let written = self.raw.write(path, content).now_or_never();
        written
            .expect("memory never waits")
            .expect("memory never fails");
    }

    pub(crate) fn remove(&self, path: &str) {
        let deleted = self.raw.delete(path).now_or_never();
        deleted
            .expect("memory never waits")
            .expect("memory never fails");
    }
}
