//! The state of all segments: [`SegmentTable`]. Pure: the callers read and write files.
//!
//! ```text
//!            create              seal                        live entries = 0
//! (number) ─────────> head ───────────────> sealed ────────────────────────────> removed
//!                      appends              collected if its live share is low
//! ```
//!
//! Guards I12: the table decides which segment is collected next, and when none needs to be.

use std::collections::{BTreeMap, BTreeSet};

use super::pointer::Pointer;
use super::segment::SegmentId;
use super::segment_record::{LogRecord, SegmentRecord};
use super::stats::PayloadLogStats;

/// Purpose of a head: the segment to which entries are appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HeadKind {
    /// New values.
    Written,
    /// Values that a collection has moved. They have outlived their neighbours, so that they are
    /// kept apart from new values.
    Moved,
}

/// Records of all segments, and the changes since the last batch.
#[derive(Debug)]
pub(crate) struct SegmentTable {
    log: LogRecord,
    is_log_changed: bool,
    records: BTreeMap<SegmentId, SegmentRecord>,
    changed: BTreeSet<SegmentId>,
    heads: BTreeMap<HeadKind, SegmentId>,
    /// Segments whose live entries could not all be moved, with their live bytes at that time.
    stuck: BTreeMap<SegmentId, u64>,
    /// Size of all segments removed since the opening, in bytes.
    freed_bytes: u64,
}

impl SegmentTable {
    pub(crate) fn new(log: LogRecord, records: BTreeMap<SegmentId, SegmentRecord>) -> Self {
        // A crash before the next commit may have left a dead segment.
        let changed = records
            .iter()
            .filter_map(|(&id, record)| (record.live_entries == 0).then_some(id))
            .collect();
        Self {
            log,
            is_log_changed: false,
            records,
            changed,
            heads: BTreeMap::new(),
            stuck: BTreeMap::new(),
            freed_bytes: 0,
        }
    }

    /// Returns the record of a segment.
    pub(crate) fn record(&self, id: SegmentId) -> Option<SegmentRecord> {
        self.records.get(&id).copied()
    }

    /// Returns the segment to which entries are appended, or `None` if there is none.
    pub(crate) fn head(&self, kind: HeadKind) -> Option<SegmentId> {
        self.heads.get(&kind).copied()
    }

    /// Makes a new or existing segment the head.
    pub(crate) fn set_head(&mut self, kind: HeadKind, id: SegmentId) {
        self.heads.insert(kind, id);
        self.records.entry(id).or_default();
    }

    /// Returns the number of a new segment. No number below `least` is returned.
    pub(crate) fn next(&mut self, least: u64) -> SegmentId {
        let number = self.log.next.max(least);
        self.log.next = number + 1;
        self.is_log_changed = true;
        SegmentId(number)
    }

    /// Ends appends to the head.
    pub(crate) fn seal(&mut self, kind: HeadKind) {
        if let Some(id) = self.heads.remove(&kind) {
            // A dead segment is removed with the next batch.
            self.changed.insert(id);
        }
    }

    /// Records that a key which had the pointer `old` now has the pointer `new`.
    pub(crate) fn replace(&mut self, key: &[u8], old: Option<&Pointer>, new: Option<&Pointer>) {
        if let Some(new) = new {
            let bytes = new.entry_bytes(key.len());
            let record = self.records.entry(new.segment).or_default();
            record.end = record.end.max(new.offset + bytes);
            record.live_bytes += bytes;
            record.live_entries += 1;
            self.changed.insert(new.segment);
        }
        if let Some(old) = old
            && let Some(record) = self.records.get_mut(&old.segment)
        {
            record.live_bytes = record.live_bytes.saturating_sub(old.entry_bytes(key.len()));
            record.live_entries = record.live_entries.saturating_sub(1);
            self.changed.insert(old.segment);
        }
    }

    /// Returns the records to write with the next batch, `None` for a removed one, and the changed
    /// record of the log. Removes all dead segments except the heads.
    pub(crate) fn take_changes(&mut self) -> TableChanges {
        let mut changes = TableChanges {
            log: std::mem::take(&mut self.is_log_changed).then_some(self.log),
            segments: Vec::new(),
        };
        for id in std::mem::take(&mut self.changed) {
            let Some(&record) = self.records.get(&id) else {
                continue;
            };
            let is_dead = record.live_entries == 0 && !self.heads.values().any(|head| *head == id);
            if is_dead {
                self.records.remove(&id);
                self.freed_bytes += record.end;
                self.stuck.remove(&id);
            }
            changes.segments.push((id, (!is_dead).then_some(record)));
        }
        changes
    }

    /// Returns the number of segments and their bytes.
    pub(crate) fn usage(&self) -> PayloadLogStats {
        let mut usage = PayloadLogStats::default();
        for record in self.records.values() {
            usage.segments += 1;
            usage.live_bytes += record.live_bytes;
            usage.dead_bytes += record.end.saturating_sub(record.live_bytes);
        }
        usage
    }

    /// Returns a head of at least `bytes_min` without an entry in use.
    pub(crate) fn dead_head(&self, bytes_min: u64) -> Option<HeadKind> {
        self.heads.iter().find_map(|(&kind, id)| {
            let record = self.records.get(id)?;
            (record.end >= bytes_min && record.live_entries == 0).then_some(kind)
        })
    }

    /// Returns the size of all segments removed since the opening, in bytes.
    pub(crate) fn freed_bytes(&self) -> u64 {
        self.freed_bytes
    }

    /// Returns the next segment to collect, or `None` if the dead bytes are within their limits.
    ///
    /// Maximises `(1 - u) * age / (1 + u)` for the live share `u` of a segment (Rosenblum and
    /// Ousterhout, "The Design and Implementation of a Log-Structured File System", 1992, section
    /// 3.6). The age is the number of segments that were created later. A head is a candidate, too:
    /// the caller seals it first.
    pub(crate) fn victim(&self) -> Option<SegmentId> {
        if self.usage().excess() == 0 {
            return None;
        }
        let mut best = None;
        for (&id, record) in &self.records {
            // Entries that could not be moved are damaged. More of them may have been removed
            // since, so the segment is tried again when its live bytes have changed.
            let is_stuck = self.stuck.get(&id) == Some(&record.live_bytes);
            let dead = record.end.saturating_sub(record.live_bytes);
            // Moving almost everything for almost nothing gains no space.
            if is_stuck || dead < record.end / 16 || dead == 0 {
                continue;
            }
            let age = (self.log.next.saturating_sub(id.0)).max(1) as f64;
            let share = record.live_bytes as f64 / record.end as f64;
            let score = (1.0 - share) * age / (1.0 + share);
            if best.is_none_or(|(_, top)| score > top) {
                best = Some((id, score));
            }
        }
        best.map(|(id, _)| id)
    }

    /// Records that the remaining live entries of a segment can't be moved.
    pub(crate) fn mark_stuck(&mut self, id: SegmentId) {
        if let Some(record) = self.records.get(&id) {
            self.stuck.insert(id, record.live_bytes);
        }
    }

    /// Seals this segment if it is a head.
    pub(crate) fn seal_segment(&mut self, id: SegmentId) {
        let kind = self
            .heads
            .iter()
            .find_map(|(&kind, &head)| (head == id).then_some(kind));
        if let Some(kind) = kind {
            self.seal(kind);
        }
    }
}

/// Records that a batch must write.
#[derive(Debug, Default)]
pub(crate) struct TableChanges {
    pub(crate) log: Option<LogRecord>,
    /// `None` removes the record: the segment is dead.
    pub(crate) segments: Vec<(SegmentId, Option<SegmentRecord>)>,
}
