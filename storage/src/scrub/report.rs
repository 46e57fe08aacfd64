//! What a scrub came to: [`ScrubReport`], and how far it has come: [`ScrubProgress`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use super::damage::Damage;
use super::finding::{Fate, Finding};

/// What a scrub looked at, what it found, and what has become of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ScrubReport {
    /// What was looked at.
    #[serde(flatten)]
    pub looked: Looked,
    /// How much is not as it should be, or was not.
    pub found: u64,
    /// How much of it is repaired.
    pub repaired: u64,
    /// Findings of the walk that the shards did not confirm, and that are not counted as found.
    /// Beside overwrites of damaged objects there may be some. On a sound store there are none:
    /// else the index shows states that never were.
    pub unconfirmed: u64,
    /// The first of it, as many as were asked for.
    pub findings: Vec<Finding>,
}

/// What a scrub looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    /// Objects.
    pub objects: u64,
    /// Other entries of the index: sessions, parts, payloads, changes, orphans, expiry entries,
    /// version floors.
    pub entries: u64,
    /// Blobs that rows or parts name and that are there.
    pub named_blobs: u64,
    /// Payload bytes read and compared with their checksums.
    pub bytes: u64,
    /// Blobs in the blob tier, whoever names them.
    pub blobs: u64,
}

impl ScrubReport {
    /// Notes a finding; only the first `findings_max` are kept.
    pub fn take(&mut self, damage: Damage, fate: Fate, findings_max: usize) {
        self.found += 1;
        self.repaired += u64::from(fate == Fate::Repaired);
        if self.findings.len() < findings_max {
            self.findings.push(Finding { damage, fate });
        }
    }

    /// How much is still not as it should be.
    pub fn left(&self) -> u64 {
        self.found - self.repaired
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.found == 0
    }
}

/// How far a scrub has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// What was looked at.
    pub looked: Looked,
    /// Objects whose bytes have been looked at.
    pub objects_done: u64,
    /// The bytes of all objects and parts; none before all of these have been counted.
    pub bytes_total: Option<u64>,
}

/// Whom to tell.
pub(super) type Listener = Arc<dyn Fn(ScrubProgress) + Send + Sync>;

/// Counts what is looked at, and tells whoever wants to know.
pub(super) struct Tally {
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

impl Tally {
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

    /// A row that can be read.
    pub(super) fn row(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A part that can be read.
    pub(super) fn part(&self, bytes: u64) {
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// There are no more rows and parts.
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
        self.tell();
    }

    pub(super) fn blobs(&self, count: usize) {
        self.blobs.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn object_done(&self) {
        self.objects_done.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    pub(super) fn looked(&self) -> Looked {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Looked {
            objects: read(&self.objects),
            entries: read(&self.entries),
            named_blobs: read(&self.named_blobs),
            bytes: read(&self.bytes),
            blobs: read(&self.blobs),
        }
    }

    pub(super) fn tell(&self) {
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
