//! Model of a world: both tiers, the calls of clients, the faults that struck, and the violations
//! found so far. The checkers read and extend it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use uuid::Uuid;

use super::Violation;
use super::call::{Answer, Call, Called};
use super::fallback::SourceModel;
use super::format::{BaseVersion, Change, Landing, LastVersion, Orphan, Row, Store};
use super::members::Members;
use super::sessions::UploadHistory;
use crate::faults::{Fault, PROVOKING};
use crate::plan::UploadRules;
use crate::plan::payload::Payloads;
use crate::trace::Tick;

/// Model of both tiers and of all that has happened in a world.
#[derive(Default)]
pub(crate) struct Model {
    pub(super) rows: BTreeMap<Bytes, Row>,
    /// Last version that each object ever had.
    pub(super) versions: BTreeMap<Bytes, u64>,
    /// Row of each object from each tick on.
    pub(super) states: BTreeMap<Bytes, Vec<(Tick, Option<Row>)>>,
    pub(super) changes: BTreeMap<Uuid, Change>,
    /// Changes that have ended: committed, superseded or fenced.
    pub(super) ended: BTreeSet<Uuid>,
    pub(super) committed: BTreeSet<Uuid>,
    /// Writes whose own change was settled without a commit, and the tick of that.
    pub(super) superseded: BTreeMap<u64, Tick>,
    pub(super) orphans: BTreeMap<Uuid, Orphan>,
    /// Every revision that ever was an orphan.
    pub(super) orphaned: BTreeSet<Uuid>,
    pub(super) payloads: BTreeSet<Bytes>,
    /// Keys of the expiry index.
    pub(super) expiry: BTreeSet<Bytes>,
    /// Metadata commits: changes, copies and renames.
    pub(super) derived: Vec<Derived>,
    /// Removals that were renames.
    pub(super) renamed_away: BTreeSet<(Bytes, Tick)>,
    /// Time of day at each tick.
    times_ms: Vec<u64>,
    now_ms: u64,
    /// Keys of the meta table.
    pub(super) meta: BTreeSet<Bytes>,
    /// Stored last versions, by object.
    pub(super) last_versions: BTreeMap<Bytes, LastVersion>,
    /// Stored base version.
    pub(super) base: Option<BaseVersion>,
    pub(super) revisions: BTreeMap<Uuid, Revision>,
    /// Row commits of each write of the workload.
    pub(super) commits: BTreeMap<u64, Vec<(Tick, Row)>>,
    struck: Vec<(Fault, Tick)>,
    pub(super) lives: Vec<Tick>,
    pub(super) calls: Vec<Called>,
    pub(super) reading: BTreeMap<usize, OpenReader>,
    /// Every multipart upload that ever existed, by its id.
    pub(super) uploads: BTreeMap<Bytes, UploadHistory>,
    /// Payloads that clients have sent.
    pub(crate) puts: Payloads,
    /// Content of each completed upload, by the number of the call that began it.
    pub(super) contents: BTreeMap<u64, Bytes>,
    /// Change with which each revision was recorded.
    pub(super) fate: BTreeMap<Uuid, Uuid>,
    /// Limits of uploads. `None` if no plan configures the engine.
    pub(crate) rules: Option<UploadRules>,
    /// Longest inline payload, in bytes. `None` if no plan configures the engine.
    pub(crate) inline_bytes_max: Option<u64>,
    /// Store record in the index.
    pub(super) store: Option<Store>,
    /// Identity of each relocated payload, by its first revision.
    pub(super) payload_ids: BTreeMap<Uuid, Uuid>,
    /// Newest durable epoch.
    pub(super) epoch: u64,
    /// Epoch of the engine that opened last.
    opened: u64,
    /// Ticks at which an index was opened and the rest of its last incarnation was recovered.
    replays: Vec<Tick>,
    /// Ticks at which the namespace of every seventh object was disabled (true) or enabled.
    switches: Vec<(Tick, bool)>,
    /// Ticks at which an engine began to close.
    closings: Vec<Tick>,
    /// Ticks at which a supervisor was killed.
    pub(super) beheaded: Vec<Tick>,
    /// Ticks at which an actor died that every upload needs.
    pub(super) uploads_died: Vec<Tick>,
    /// Tick at which each change was recorded first.
    pub(super) recorded: BTreeMap<Uuid, Tick>,
    /// Fallback of the store, if it has one.
    pub(super) source: Option<SourceModel>,
    /// Number of blobs at rest that only a scrub finds.
    pub(super) strays: usize,
    /// Members of the index, if several engines share it.
    pub(crate) members: Option<Members>,
    /// Writes that were under way when the index failed.
    pub(super) unknown: BTreeSet<u64>,
    violations: Vec<Violation>,
    reported: usize,
}

/// Client with an open read.
pub(super) struct OpenReader {
    pub(super) object: Bytes,
    pub(super) version: u64,
    /// Bytes of the object that are read.
    pub(super) range: Range<u64>,
    /// Ticks of the call and of the answer that opened the object.
    pub(super) opened: Range<Tick>,
    /// Member that reads, if several share the index.
    pub(super) epoch: Option<u64>,
}

/// Metadata commit: a commit without new bytes.
pub(super) struct Derived {
    pub(super) tick: Tick,
    pub(super) object: Bytes,
    pub(super) row: Row,
    pub(super) origin: WriteOrigin,
}

/// Kind of write that a row comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteOrigin {
    /// A put or an update wrote it.
    Written,
    /// Change of metadata: the same bytes with other attributes.
    Amended,
    /// Change of the deadline: the same bytes with another deadline.
    Extended,
    /// Move of an object of the fallback into the store.
    Adopted,
    /// Idle refresh: the same version with a later deadline.
    Touched,
    /// Relocation: the same version with its payload in another blob tier.
    Relocated,
    /// Copy of another object, which still exists.
    Copied,
    /// Rename of this object, which no longer exists.
    Renamed(Bytes),
}

/// Blob of a revision, as far as it has been written.
pub(super) struct Revision {
    /// Row key of the object that the revision was recorded for.
    pub(super) object: Vec<u8>,
    pub(super) path: String,
    pub(super) is_whole: bool,
}

impl Model {
    /// Records the beginning of an incarnation.
    pub(crate) fn begin_life(&mut self, at: Tick) {
        // No read survives the end of an incarnation.
        self.reading.clear();
        self.lives.push(at);
    }

    /// Checks an engine that has opened: it has an epoch of its own, and no change of an older
    /// epoch remains (I6).
    pub(crate) fn opened(&mut self) {
        // The epochs and changes of a shared index are checked at each commit.
        if self.is_shared() {
            return;
        }
        if self.epoch <= self.opened {
            self.violated(
                "epoch",
                format!("engine opened without a new epoch: epoch={}", self.epoch),
            );
        }
        self.opened = self.epoch;
        self.source_opened();
        let left = self
            .changes
            .values()
            .filter(|change| change.epoch != self.epoch)
            .count();
        if left > 0 {
            self.violated(
                "I6",
                format!("engine opened with unfenced changes of dead epochs: count={left}"),
            );
        }
    }

    /// Records the time of day of the next event.
    pub(crate) fn passes(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.times_ms.push(now_ms);
    }

    /// Sets the time of day before a batch is checked.
    pub(crate) fn at(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Returns the time of day at a tick, or the current time of day if the tick is not yet
    /// recorded.
    pub(super) fn time_at(&self, tick: Tick) -> u64 {
        usize::try_from(tick)
            .ok()
            .and_then(|tick| self.times_ms.get(tick))
            .copied()
            .unwrap_or(self.now_ms)
    }

    /// Returns the tick of the next event.
    pub(super) fn next_tick(&self) -> Tick {
        self.times_ms.len() as Tick
    }

    /// Returns the time of day.
    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Returns the number of rows and upload records whose deadline passed at least `for_ms` ago.
    pub(crate) fn overdue(&self, for_ms: u64) -> usize {
        let then = self.now_ms.saturating_sub(for_ms);
        // Upload records expire like rows.
        let sessions = self.uploads.values().filter_map(UploadHistory::session);
        self.rows.values().filter(|row| !row.is_live(then)).count()
            + sessions.filter(|session| !session.is_live(then)).count()
    }

    /// Returns the bytes of this write, put at once or in parts. Returns `None` for an upload that
    /// was not completed.
    pub(crate) fn content(&self, write: u64, bytes: u64) -> Option<Bytes> {
        let is_upload = |upload: &UploadHistory| upload.of == Some(write);
        match self.contents.get(&write) {
            Some(content) => Some(content.clone()).filter(|content| content.len() as u64 == bytes),
            // The content of an open upload is not yet decided.
            None if self.uploads.values().any(is_upload) => None,
            None => Some(self.puts.of(write, bytes)),
        }
    }

    /// Records that an engine begins to close.
    pub(crate) fn closing(&mut self, at: Tick) {
        self.closings.push(at);
    }

    /// Records that a namespace was disabled or enabled.
    pub(crate) fn switched(&mut self, at: Tick, off: bool) {
        self.switches.push((at, off));
    }

    /// Returns true if the namespace had this state at some moment of the window. A new engine
    /// begins with every namespace enabled.
    pub(super) fn was_switched(&self, off: bool, from: Tick, to: Tick) -> bool {
        // Switches are not durable, so those of earlier engines do not count.
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

    /// Records the death of a supervisor.
    pub(crate) fn beheaded(&mut self, at: Tick) {
        self.beheaded.push(at);
    }

    /// Records the death of an actor that every upload needs.
    pub(crate) fn uploads_died(&mut self, at: Tick) {
        self.uploads_died.push(at);
    }

    /// Records the batches that were under way when the index failed. Only their outcome is
    /// unknown.
    pub(crate) fn unknown<'a>(&mut self, batches: impl Iterator<Item = &'a Batch>) {
        let changes = batches.flat_map(Batch::ops);
        let rows = changes
            .filter(|(table, ..)| *table == Table::Rows)
            .filter_map(|(.., value)| value.as_ref());
        self.unknown
            .extend(rows.filter_map(|value| Row::decode(value)?.write));
    }

    /// Returns true if an engine began to close at or after `from` and before `to`.
    pub(super) fn closed_between(&self, from: Tick, to: Tick) -> bool {
        self.closings.iter().any(|tick| (from..to).contains(tick))
    }

    /// Returns the number of planned deaths at or after `from` and before `to`.
    pub(super) fn deaths_between(&self, from: Tick, to: Tick) -> usize {
        let deaths = |(fault, tick): &&(Fault, Tick)| {
            matches!(fault, Fault::Kill | Fault::Panic) && (from..to).contains(tick)
        };
        self.struck.iter().filter(deaths).count()
    }

    /// Returns the number of orphans that are due for deletion.
    pub(crate) fn landed_orphans(&self) -> usize {
        self.orphans
            .values()
            .filter(|orphan| orphan.landing == Landing::Landed)
            .count()
    }

    /// Records a fault.
    pub(crate) fn struck(&mut self, fault: Fault, tick: Tick) {
        self.struck.push((fault, tick));
    }

    /// Returns true if any of these faults struck at or after `from` and before `to`.
    pub(super) fn struck_between(&self, faults: &[Fault], from: Tick, to: Tick) -> bool {
        self.struck
            .iter()
            .any(|(fault, tick)| (from..to).contains(tick) && faults.contains(fault))
    }

    /// Returns the number of strikes of this fault at or after `from` and before `to`.
    pub(super) fn strikes_between(&self, fault: Fault, from: Tick, to: Tick) -> usize {
        self.struck
            .iter()
            .filter(|(struck, tick)| (from..to).contains(tick) && *struck == fault)
            .count()
    }

    /// Returns true if a fault in the current incarnation may make an operation, or an engine,
    /// fail.
    pub(crate) fn was_provoked(&self, at: Tick) -> bool {
        self.struck_between(&PROVOKING, self.life_of(at), at)
    }

    /// Records that the disk was recovered. Every unsynced batch of the last incarnation is now
    /// durable or gone for ever.
    pub(crate) fn replayed(&mut self, at: Tick) {
        self.replays.push(at);
    }

    /// Returns the tick until which a write called at this tick may still become durable if its
    /// outcome is unknown.
    pub(super) fn sealed(&self, called: Tick) -> Tick {
        self.replays
            .iter()
            .copied()
            .find(|&replayed| replayed > called)
            .unwrap_or(Tick::MAX)
    }

    /// Returns the tick at which the engine of this tick opened its index. A fault before that tick
    /// is no excuse.
    pub(super) fn engine_of(&self, tick: Tick) -> Tick {
        self.replays
            .iter()
            .copied()
            .take_while(|&replayed| replayed <= tick)
            .last()
            .unwrap_or(0)
            .max(self.life_of(tick))
    }

    /// Returns the tick at which the incarnation of this tick began.
    pub(super) fn life_of(&self, tick: Tick) -> Tick {
        self.lives
            .iter()
            .copied()
            .take_while(|&began| began <= tick)
            .last()
            .unwrap_or(0)
    }

    /// Records a violation.
    pub(crate) fn violated(&mut self, checker: &'static str, message: impl Into<String>) {
        self.violations.push(Violation {
            checker,
            message: message.into(),
        });
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Returns the violations found since the last call.
    pub(crate) fn unreported(&mut self) -> Vec<Violation> {
        let new = self.violations[self.reported..].to_vec();
        self.reported = self.violations.len();
        new
    }

    /// Records a call of a client and returns its number.
    pub(crate) fn called(&mut self, at: Tick, call: Call) -> usize {
        self.calls.push(Called {
            call,
            at,
            answer: None,
        });
        self.calls.len() - 1
    }

    /// Records the answer to a call.
    pub(crate) fn answered(&mut self, at: Tick, call: usize, answer: Answer) {
        // An answered read holds no blobs any more.
        self.reading.remove(&call);
        self.calls[call].answer = Some((at, answer));
    }

    /// Records that a client has opened an object and reads on.
    pub(crate) fn reads(
        &mut self,
        (call, epoch): (usize, Option<u64>),
        object: Bytes,
        version: u64,
        range: Range<u64>,
    ) {
        // The tick of the present event is not passed yet.
        let opened = self.calls[call].at..self.next_tick() + 1;
        self.reading.insert(
            call,
            OpenReader {
                object,
                version,
                range,
                opened,
                epoch,
            },
        );
    }

    /// Records that a client has ended its read, with or without an answer.
    pub(crate) fn stops_reading(&mut self, call: usize) {
        self.reading.remove(&call);
    }

    /// Returns true if no change and no orphan is left.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.changes.is_empty() && self.orphans.is_empty()
    }

    /// Returns the keys of all objects that ever existed.
    pub(crate) fn objects(&self) -> Vec<Bytes> {
        self.states.keys().cloned().collect()
    }

    /// Returns the number of calls of clients so far.
    pub(crate) fn calls_made(&self) -> u64 {
        self.calls.len() as u64
    }
}
