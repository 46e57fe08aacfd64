//! Result of a scrub: [`ScrubReport`], and its progress: [`ScrubProgress`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use super::damage::Damage;
use super::finding::{Finding, RepairOutcome};

/// Counts and findings of a scrub.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// Counts of verified entries and bytes.
    #[serde(flatten)]
    pub looked: ScrubCounts,
    /// Number of confirmed damages, including repaired ones.
    pub found: u64,
    /// Number of repaired damages.
    pub repaired: u64,
    /// Number of findings of the walk that the shards did not confirm, and that `found` does not
    /// include. Concurrent overwrites of damaged objects may cause some. On an intact store the
    /// number is 0: otherwise the index returns states that never existed.
    pub unconfirmed: u64,
    /// The first findings, at most [`findings_max`](super::ScrubOptions::findings_max).
    pub findings: Vec<Finding>,
}

/// Counts of entries and bytes that a scrub verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubCounts {
    /// Number of objects.
    pub objects: u64,
    /// Number of other entries of the index: upload records, parts, payloads, changes, orphans,
    /// expiry entries, last versions.
    pub entries: u64,
    /// Number of blobs that rows or parts name and that exist.
    pub named_blobs: u64,
    /// Number of payload bytes that were compared with their checksums.
    pub bytes: u64,
    /// Number of all blobs in the blob tier.
    pub blobs: u64,
}

impl ScrubReport {
    /// Adds a finding. Counts every finding, and keeps the first `findings_max`.
    pub fn take(&mut self, damage: Damage, fate: RepairOutcome, findings_max: usize) {
        self.found += 1;
        self.repaired += u64::from(fate == RepairOutcome::Repaired);
        if self.findings.len() < findings_max {
            self.findings.push(Finding { damage, fate });
        }
    }

    /// Returns the number of damages that remain.
    pub fn left(&self) -> u64 {
        self.found - self.repaired
    }

    /// Returns whether no damage was found.
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }
}

/// Progress of a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Counts so far.
    pub looked: ScrubCounts,
    /// Number of objects whose bytes were verified.
    pub objects_done: u64,
    /// Total bytes of all objects and parts, or `None` until all of them are counted.
    pub bytes_total: Option<u64>,
}

/// Callback for the progress.
pub(super) type Listener = Arc<dyn Fn(ScrubProgress) + Send + Sync>;

/// Counters of a scrub, which report the progress to the listener.
pub(super) struct ScrubTally {
    objects: AtomicU64,
    entries: AtomicU64,
    named_blobs: AtomicU64,
    bytes: AtomicU64,
    blobs: AtomicU64,
    objects_done: AtomicU64,
    bytes_total: AtomicU64,
    all_counted: AtomicBool,
    listener: Option<Listener>,
}

impl ScrubTally {
    pub(super) fn new(listener: Option<Listener>) -> Self {
        let zero = AtomicU64::default;
        Self {
            objects: zero(),
            entries: zero(),
            named_blobs: zero(),
            bytes: zero(),
            blobs: zero(),
            objects_done: zero(),
            bytes_total: zero(),
            all_counted: AtomicBool::new(false),
            listener,
        }
    }

    /// Counts a readable row with an object of `bytes`.
    pub(super) fn row(&self, bytes: u64) {
        // Relaxed: these are counters, and no other memory access depends on them.
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a readable part of `bytes`.
    pub(super) fn part(&self, bytes: u64) {
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records that all rows and parts are counted.
    pub(super) fn all_counted(&self) {
        self.all_counted.store(true, Ordering::Relaxed);
    }

    pub(super) fn entries(&self, count: usize) {
        self.entries.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn named_blob(&self) {
        self.named_blobs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        self.notify();
    }

    pub(super) fn blobs(&self, count: usize) {
        self.blobs.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn object_done(&self) {
        self.objects_done.fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    pub(super) fn looked(&self) -> ScrubCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        ScrubCounts {
            objects: read(&self.objects),
            entries: read(&self.entries),
            named_blobs: read(&self.named_blobs),
            bytes: read(&self.bytes),
            blobs: read(&self.blobs),
        }
    }

    /// Reports the progress to the listener.
    pub(super) fn notify(&self) {
        if let Some(listener) = &self.listener {
            let bytes_total = self.bytes_total.load(Ordering::Relaxed);
            listener(ScrubProgress {
                looked: self.looked(),
                objects_done: self.objects_done.load(Ordering::Relaxed),
                bytes_total: self
                    .all_counted
                    .load(Ordering::Relaxed)
                    .then_some(bytes_total),
            });
        }
    }
}
