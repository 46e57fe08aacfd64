//! The monitor: what the checkers know of a world. A model of both tiers, the calls of clients, the
//! faults that struck, and what has been found.
//!
//! Deliberately not here: what becomes durable, and what must be true then (`witness.rs`); what
//! clients may hear (`history.rs`); what must be true at rest (`settled.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use uuid::Uuid;

use super::Violation;
use super::call::{Answer, Call, Called};
use super::format::{Change, Landing, Orphan, Row};
use super::sessions::Upload;
use crate::faults::{Fault, PROVOKING};
use crate::payload::payload;
use crate::plan::UploadRules;
use crate::trace::Tick;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Monitor {
    pub(super) rows: BTreeMap<Bytes, Row>,
    /// The last version that each object ever had.
    pub(super) versions: BTreeMap<Bytes, u64>,
    /// How each object stood from which moment on.
    pub(super) states: BTreeMap<Bytes, Vec<(Tick, Option<Row>)>>,
    pub(super) changes: BTreeMap<Uuid, Change>,
    /// Changes that have ended: committed, superseded or fenced.
    pub(super) ended: BTreeSet<Uuid>,
    pub(super) committed: BTreeSet<Uuid>,
    /// Writes whose change was settled without a commit, by themselves: superseded, and when.
    pub(super) superseded: BTreeMap<u64, Tick>,
    pub(super) orphans: BTreeMap<Uuid, Orphan>,
    /// Every revision that ever was an orphan.
    pub(super) orphaned: BTreeSet<Uuid>,
    pub(super) payloads: BTreeSet<Bytes>,
    /// The keys of the expiry index.
    pub(super) expiry: BTreeSet<Bytes>,
    /// Commits that brought no new bytes: changes, copies, renames.
    pub(super) derived: Vec<Derived>,
    /// Removals that were renames.
    pub(super) renamed_away: BTreeSet<(Bytes, Tick)>,
    /// The time of day at each tick.
    times_ms: Vec<u64>,
    now_ms: u64,
    pub(super) floors: BTreeSet<Bytes>,
    pub(super) revisions: BTreeMap<Uuid, Revision>,
    /// Row commits of each write of the workload.
    pub(super) commits: BTreeMap<u64, Vec<(Tick, Row)>>,
    struck: Vec<(Fault, Tick)>,
    pub(super) lives: Vec<Tick>,
    pub(super) calls: Vec<Called>,
    pub(super) reading: BTreeMap<usize, Reader>,
    /// Every multipart upload that ever was, by its id.
    pub(super) uploads: BTreeMap<Bytes, Upload>,
    /// What was assembled of parts, by the number of the call that began the upload.
    pub(super) contents: BTreeMap<u64, Bytes>,
    /// The change that each revision was recorded with.
    pub(super) fate: BTreeMap<Uuid, Uuid>,
    /// Limits of uploads, where the engine is set up by a plan.
    pub(crate) rules: Option<UploadRules>,
    /// Longest inline payload, where the engine is set up by a plan.
    pub(crate) inline_bytes_max: Option<u64>,
    /// The store that the index holds, and whether its tier is claimed.
    pub(super) store: Option<(Uuid, bool)>,
    /// The newest durable epoch.
    pub(super) epoch: u64,
    /// The epoch of the engine that opened last.
    opened: u64,
    /// When an index was opened, and what was left of its last life was replayed.
    replays: Vec<Tick>,
    /// When the namespace of every seventh object was switched off, or on.
    switches: Vec<(Tick, bool)>,
    /// When an engine began to close.
    closings: Vec<Tick>,
    /// When a supervisor was killed.
    pub(super) beheaded: Vec<Tick>,
    /// When an actor died that no upload can do without.
    pub(super) uploads_died: Vec<Tick>,
    /// When each change was recorded.
    pub(super) recorded: BTreeMap<Uuid, Tick>,
    /// Writes that were under way when the index failed.
    pub(super) unknown: BTreeSet<u64>,
    violations: Vec<Violation>,
    reported: usize,
}

/// A client that reads on.
pub(super) struct Reader {
    pub(super) object: Bytes,
    pub(super) version: u64,
    /// Which bytes of it.
    pub(super) range: Range<u64>,
}

/// A commit that brought no new bytes.
pub(super) struct Derived {
    pub(super) tick: Tick,
    pub(super) object: Bytes,
    pub(super) row: Row,
    pub(super) origin: Origin,
}

/// Where a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A put or an update wrote it.
    Written,
    /// The same bytes with other metadata.
    Amended,
    /// The same bytes with another deadline.
    Extended,
    /// The same version, read.
    Touched,
    /// The bytes of another object, which is still there.
    Copied,
    /// The bytes of this object, which is gone.
    Renamed(Bytes),
}

/// One revision's blob, as far as it has come.
pub(super) struct Revision {
    /// The row's key of the object that it was recorded for.
    pub(super) object: Vec<u8>,
    pub(super) path: String,
    pub(super) is_whole: bool,
}

impl Monitor {
    pub(crate) fn begin_life(&mut self, at: Tick) {
        self.reading.clear();
        self.lives.push(at);
    }

    /// An engine has opened: it has an epoch of its own, and no change of an older one is left.
    pub(crate) fn opened(&mut self) {
        if self.epoch <= self.opened {
            self.violated(
                "epoch",
                format!(
                    "an engine has opened, and epoch {} was that of an earlier one",
                    self.epoch
                ),
            );
        }
        self.opened = self.epoch;
        let left = self
            .changes
            .values()
            .filter(|change| change.epoch != self.epoch)
            .count();
        if left > 0 {
            self.violated(
                "I6",
                format!("an engine has opened, and {left} changes of dead epochs are not fenced"),
            );
        }
    }

    /// An event is about to happen, at this time of day.
    pub(crate) fn passes(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.times_ms.push(now_ms);
    }

    /// A batch is about to be looked at, at this time of day.
    pub(crate) fn at(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// The time of day at a tick.
    pub(super) fn time_at(&self, tick: Tick) -> u64 {
        usize::try_from(tick)
            .ok()
            .and_then(|tick| self.times_ms.get(tick))
            .copied()
            .unwrap_or(self.now_ms)
    }

    /// Rows and sessions that expired so long ago, or longer, and are still there.
    pub(crate) fn overdue(&self, for_ms: u64) -> usize {
        let then = self.now_ms.saturating_sub(for_ms);
        let sessions = self.uploads.values().filter_map(Upload::session);
        self.rows.values().filter(|row| !row.is_live(then)).count()
            + sessions.filter(|session| !session.is_live(then)).count()
    }

    /// The bytes of this write, put at once or in parts. None for parts that nobody has assembled.
    pub(crate) fn content(&self, write: u64, bytes: u64) -> Option<Bytes> {
        let is_upload = |upload: &Upload| upload.of == Some(write);
        match self.contents.get(&write) {
            Some(content) => Some(content.clone()).filter(|content| content.len() as u64 == bytes),
            None if self.uploads.values().any(is_upload) => None,
            None => Some(payload(write, bytes)),
        }
    }

    pub(crate) fn closing(&mut self, at: Tick) {
        self.closings.push(at);
    }

    pub(crate) fn switched(&mut self, at: Tick, off: bool) {
        self.switches.push((at, off));
    }

    /// Whether a namespace was switched off, or on, or the one of the two all along, at or after
    /// `from` and before `to`. A new engine begins with all of them on.
    pub(super) fn was_switched(&self, off: bool, from: Tick, to: Tick) -> bool {
        let from_engine = self.engine_of(from);
        let before = self
            .switches
            .iter()
            .rfind(|(tick, _)| (from_engine..from).contains(tick))
            .is_some_and(|(_, is)| *is);
        before == off
            || self
                .switches
                .iter()
                .any(|(tick, is)| (from..to).contains(tick) && *is == off)
    }

    pub(crate) fn beheaded(&mut self, at: Tick) {
        self.beheaded.push(at);
    }

    pub(crate) fn uploads_died(&mut self, at: Tick) {
        self.uploads_died.push(at);
    }

    /// These batches were under way when the index failed: of these and no others the outcome is
    /// unknown.
    pub(crate) fn unknown<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) {
        let changes = batches.flat_map(Batch::changes);
        let rows = changes
            .filter(|(table, ..)| *table == Table::Rows)
            .filter_map(|(.., value)| value.as_ref());
        self.unknown
            .extend(rows.filter_map(|value| Row::decode(value)?.write));
    }

    /// Whether an engine began to close at or after `from` and before `to`.
    pub(super) fn closed_between(&self, from: Tick, to: Tick) -> bool {
        self.closings.iter().any(|tick| (from..to).contains(tick))
    }

    /// Deaths at or after `from` and before `to` that were wanted.
    pub(super) fn deaths_between(&self, from: Tick, to: Tick) -> usize {
        let deaths = |(fault, tick): &&(Fault, Tick)| {
            matches!(fault, Fault::Kill | Fault::Panic) && (from..to).contains(tick)
        };
        self.struck.iter().filter(deaths).count()
    }

    /// Orphans that nothing hinders from being deleted.
    pub(crate) fn landed_orphans(&self) -> usize {
        self.orphans
            .values()
            .filter(|orphan| orphan.landing == Landing::Landed)
            .count()
    }

    pub(crate) fn struck(&mut self, fault: Fault, tick: Tick) {
        self.struck.push((fault, tick));
    }

    /// Whether one of these faults struck at or after `from` and before `to`.
    pub(super) fn struck_between(&self, faults: &[Fault], from: Tick, to: Tick) -> bool {
        self.struck
            .iter()
            .any(|(fault, tick)| (from..to).contains(tick) && faults.contains(fault))
    }

    /// How often this fault struck at or after `from` and before `to`.
    pub(super) fn strikes_between(&self, fault: Fault, from: Tick, to: Tick) -> usize {
        self.struck
            .iter()
            .filter(|(struck, tick)| (from..to).contains(tick) && *struck == fault)
            .count()
    }

    /// Whether something has gone wrong in the life of this moment that may make an operation, or
    /// an engine, fail.
    pub(crate) fn was_provoked(&self, at: Tick) -> bool {
        self.struck_between(&PROVOKING, self.life_of(at), at)
    }

    /// What the disk had left of its last life has become durable, or is gone for ever.
    pub(crate) fn replayed(&mut self, at: Tick) {
        self.replays.push(at);
    }

    /// Until when a write called at this moment may still become durable, if nobody heard of its
    /// outcome.
    pub(super) fn sealed(&self, called: Tick) -> Tick {
        self.replays
            .iter()
            .copied()
            .find(|&replayed| replayed > called)
            .unwrap_or(Tick::MAX)
    }

    /// When the index was opened that this moment belongs to: what struck before does not excuse
    /// it.
    pub(super) fn engine_of(&self, tick: Tick) -> Tick {
        self.replays
            .iter()
            .copied()
            .take_while(|&replayed| replayed <= tick)
            .last()
            .unwrap_or(0)
            .max(self.life_of(tick))
    }

    /// When the life began that this moment lies in.
    pub(super) fn life_of(&self, tick: Tick) -> Tick {
        self.lives
            .iter()
            .copied()
            .take_while(|&began| began <= tick)
            .last()
            .unwrap_or(0)
    }

    pub(crate) fn violated(&mut self, checker: &'static str, message: impl Into<String>) {
        self.violations.push(Violation {
            checker,
            message: message.into(),
        });
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn unreported(&mut self) -> Vec<Violation> {
        let new = self.violations[self.reported..].to_vec();
        self.reported = self.violations.len();
        new
    }

    pub(crate) fn called(&mut self, at: Tick, call: Call) -> usize {
        self.calls.push(Called {
            call,
            at,
            answer: None,
        });
        self.calls.len() - 1
    }

    pub(crate) fn answered(&mut self, at: Tick, call: usize, answer: Answer) {
        self.reading.remove(&call);
        self.calls[call].answer = Some((at, answer));
    }

    /// A client has opened an object and reads on.
    pub(crate) fn reads(&mut self, call: usize, object: Bytes, version: u64, range: Range<u64>) {
        self.reading.insert(
            call,
            Reader {
                object,
                version,
                range,
            },
        );
    }

    /// Every object that ever was.
    pub(crate) fn objects(&self) -> Vec<Bytes> {
        self.states.keys().cloned().collect()
    }

    /// Calls of clients so far.
    pub(crate) fn calls_made(&self) -> u64 {
        self.calls.len() as u64
    }
}
