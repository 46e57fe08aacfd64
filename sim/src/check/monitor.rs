//! The monitor: hears of every batch that becomes durable and of every blob that comes or goes, and checks at that
//! moment what can be checked.
//!
//! It keeps its own model of both tiers. Named checkers: I1 (a blob needs a change first), I2 (a tombstone needs its
//! blobs), I3 (one batch does all of a swap), I4 (a revision is written once), I6 (what is fenced never commits), I8 (what
//! is read is not swept), I5 as far as it can be seen mid-flight, and `versions`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use uuid::Uuid;

use super::Violation;
use super::call::{Answer, Call, Called};
use super::format::{self, Body, Change, Landing, Orphan, Row};
use crate::blobs::Blobs;
use crate::coverage::Coverage;
use crate::faults::{Fault, PROVOKING};
use crate::payload::{payload, write_of};
use crate::trace::Tick;

/// Checksums of blobs are over blocks of so many bytes.
const BLOCK: u64 = 1024 * 1024;

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Monitor {
    pub(super) rows: BTreeMap<Bytes, Row>,
    /// The last version that each object ever had.
    versions: BTreeMap<Bytes, u64>,
    /// How each object stood from which moment on.
    pub(super) states: BTreeMap<Bytes, Vec<(Tick, Option<Row>)>>,
    pub(super) changes: BTreeMap<Uuid, Change>,
    /// Changes that have ended: committed, superseded or fenced.
    ended: BTreeSet<Uuid>,
    committed: BTreeSet<Uuid>,
    /// Writes whose change was settled without a commit, by themselves: superseded, and when.
    pub(super) superseded: BTreeMap<u64, Tick>,
    pub(super) orphans: BTreeMap<Uuid, Orphan>,
    pub(super) payloads: BTreeSet<Bytes>,
    pub(super) floors: BTreeSet<Bytes>,
    revisions: BTreeMap<Uuid, Revision>,
    /// Row commits of each write of the workload.
    pub(super) commits: BTreeMap<u64, Vec<(Tick, Row)>>,
    struck: Vec<(Fault, Tick)>,
    pub(super) lives: Vec<Tick>,
    pub(super) calls: Vec<Called>,
    reading: BTreeMap<usize, (Bytes, u64)>,
    violations: Vec<Violation>,
    reported: usize,
}

#[derive(Default)]
struct Revision {
    path: String,
    is_whole: bool,
}

/// What one batch changes, by table.
#[derive(Default)]
struct Changed {
    rows: Vec<(Bytes, Option<Row>)>,
    changes: Vec<(Uuid, Option<Change>)>,
    orphans: Vec<(Uuid, Option<Orphan>)>,
    /// Changes that it removes, and that were there.
    settled: BTreeSet<Uuid>,
}

impl Monitor {
    pub(crate) fn begin_life(&mut self, at: Tick) {
        self.reading.clear();
        self.lives.push(at);
    }

    pub(crate) fn struck(&mut self, fault: Fault, tick: Tick) {
        self.struck.push((fault, tick));
    }

    /// Whether one of these faults struck at or after `from` and before `to`.
    pub(super) fn struck_between(&self, faults: &[Fault], from: Tick, to: Tick) -> bool {
        self.struck.iter().any(|(fault, tick)| (from..to).contains(tick) && faults.contains(fault))
    }

    /// Whether something has gone wrong in the life of this moment that may make an operation, or an engine, fail.
    pub(crate) fn was_provoked(&self, at: Tick) -> bool {
        self.struck_between(&PROVOKING, self.life_of(at), at)
    }

    /// When the life began that this moment lies in.
    pub(super) fn life_of(&self, tick: Tick) -> Tick {
        self.lives.iter().copied().take_while(|&began| began <= tick).last().unwrap_or(0)
    }

    pub(crate) fn violated(&mut self, checker: &'static str, message: impl Into<String>) {
        self.violations.push(Violation { checker, message: message.into() });
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
        self.calls.push(Called { call, at, answer: None });
        self.calls.len() - 1
    }

    pub(crate) fn answered(&mut self, at: Tick, call: usize, answer: Answer) {
        self.reading.remove(&call);
        self.calls[call].answer = Some((at, answer));
    }

    /// A client has opened an object and reads on.
    pub(crate) fn reads(&mut self, call: usize, object: Bytes, version: u64) {
        self.reading.insert(call, (object, version));
    }

    /// Every object that ever was.
    pub(crate) fn objects(&self) -> Vec<Bytes> {
        self.states.keys().cloned().collect()
    }

    /// Calls of clients so far.
    pub(crate) fn calls_made(&self) -> u64 {
        self.calls.len() as u64
    }

    /// A batch has become durable. Says in words what it did.
    pub(crate) fn commit(&mut self, tick: Tick, batch: &Batch, blobs: &Blobs, coverage: &mut Coverage) -> String {
        let changed = self.decode(batch);
        if changed.rows.len() > 1 {
            self.violated("I3", format!("one batch changes {} rows", changed.rows.len()));
        }
        let mut words = Vec::new();
        for (change, recorded) in &changed.changes {
            self.change(*change, recorded.as_ref(), &changed, tick, blobs, coverage, &mut words);
        }
        for (object, row) in &changed.rows {
            self.swap(object, row.as_ref(), &changed, tick, blobs, coverage, &mut words);
        }
        for (revision, orphan) in changed.orphans {
            self.orphan(revision, orphan, blobs, coverage, &mut words);
        }
        if words.is_empty() && batch.changes().iter().any(|(table, key, _)| *table == Table::Meta && key == "epoch") {
            words.push("a new epoch".to_owned());
        }
        words.join("; ")
    }

    fn decode(&mut self, batch: &Batch) -> Changed {
        // The last change of a key wins.
        let last: BTreeMap<_, _> =
            batch.changes().iter().map(|(table, key, value)| ((*table, key.clone()), value.clone())).collect();
        let mut changed = Changed::default();
        for ((table, key), value) in last {
            let decoded = match table {
                Table::Rows => {
                    let row = value.as_ref().map(|value| Row::decode(value));
                    row.as_ref().is_none_or(Option::is_some).then(|| changed.rows.push((key.clone(), row.flatten())))
                }
                Table::Changes => entry(&key, value.as_ref()).map(|entry| changed.changes.push(entry)),
                Table::Orphans => entry(&key, value.as_ref()).map(|entry| changed.orphans.push(entry)),
                Table::Payloads => keep(&mut self.payloads, &key, value.is_some()),
                Table::Meta => keep(&mut self.floors, &key, value.is_some()),
                Table::Sessions | Table::Expiry => None,
            };
            if decoded.is_none() {
                self.violated("format", format!("an entry of {} can't be read", table.name()));
            }
        }
        let removed = changed.changes.iter().filter(|(_, recorded)| recorded.is_none()).map(|(id, _)| *id);
        changed.settled = removed.filter(|id| self.changes.contains_key(id)).collect();
        changed
    }

    #[expect(clippy::too_many_arguments, reason = "all of it belongs to the one batch")]
    fn change(
        &mut self,
        id: Uuid,
        recorded: Option<&Change>,
        changed: &Changed,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
        words: &mut Vec<String>,
    ) {
        if let Some(change) = recorded {
            words.push(format!("change {} recorded", short(id)));
            if self.ended.contains(&id) || change.revisions.iter().any(|revision| self.revisions.contains_key(revision))
            {
                self.violated("I4", format!("change {id} is recorded again, or for a revision that is not fresh"));
            }
            for &revision in &change.revisions {
                self.revisions.insert(revision, Revision::default());
            }
            self.changes.insert(id, change.clone());
            return;
        }
        let Some(change) = self.changes.remove(&id) else { return };
        self.ended.insert(id);
        if changed.rows.iter().any(|(_, row)| row.as_ref().is_some_and(|row| row.operation == id)) {
            return;
        }
        let row = self.rows.get(&change.object[..]);
        let mut may_land = false;
        for revision in &change.revisions {
            let queued = changed.orphans.iter().find(|(orphan, _)| orphan == revision);
            may_land |= matches!(queued, Some((_, Some(Orphan { landing: Landing::MayLand, .. }))));
            let named = row.is_some_and(|row| row.revisions().contains(revision));
            if queued.is_none_or(|(_, orphan)| orphan.is_none()) && !named {
                let message = format!("change {id} is settled, and its revision {revision} neither named nor queued");
                self.violations.push(Violation { checker: "I3", message });
            }
        }
        if may_land {
            coverage.count("recovery: a change fenced");
            words.push(format!("change {} fenced", short(id)));
        } else {
            coverage.count("swap: superseded");
            words.push(format!("change {} superseded", short(id)));
            let blobs = change.revisions.iter().filter_map(|revision| blobs.bytes(&self.revisions.get(revision)?.path));
            for write in blobs.filter_map(|bytes| write_of(&bytes)) {
                self.superseded.insert(write, tick);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it belongs to the one batch")]
    fn swap(
        &mut self,
        object: &Bytes,
        row: Option<&Row>,
        changed: &Changed,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
        words: &mut Vec<String>,
    ) {
        let old = self.rows.get(object).cloned();
        let name = String::from_utf8_lossy(object).replace('\0', ":");
        match (&old, row) {
            (_, Some(row)) => {
                words.push(format!("{name} = version {} ({})", row.version, described(row)));
                self.committed(object, row, changed, tick, blobs);
            }
            (Some(_), None) => words.push(format!("{name} deleted")),
            (None, None) => self.violated("I3", format!("{name} is deleted, and it is not there")),
        }
        coverage.count(transition(old.as_ref(), row));
        if row.is_some_and(|row| row.size > BLOCK) {
            coverage.count("swap: a blob of several blocks");
        }
        let kept = row.map(Row::revisions).unwrap_or_default();
        for revision in old.iter().flat_map(Row::revisions).filter(|revision| !kept.contains(revision)) {
            let queued = changed.orphans.iter().any(|(orphan, entry)| *orphan == revision && entry.is_some());
            if !queued {
                self.violated("I5", format!("{name}: the swap forgets to queue the revision {revision} it replaces"));
            }
        }
        match row {
            Some(row) => self.rows.insert(object.clone(), row.clone()),
            None => self.rows.remove(object),
        };
        self.states.entry(object.clone()).or_default().push((tick, row.cloned()));
    }

    fn committed(&mut self, object: &Bytes, row: &Row, changed: &Changed, tick: Tick, blobs: &Blobs) {
        let last = self.versions.insert(object.clone(), row.version).unwrap_or(0);
        if row.version != last + 1 {
            self.violated("versions", format!("version {} follows version {last}", row.version));
        }
        if !self.committed.insert(row.operation) {
            self.violated("I3", format!("operation {} commits twice", row.operation));
        }
        if let Some(write) = row.write {
            self.commits.entry(write).or_default().push((tick, row.clone()));
        }
        if let Body::Embedded(bytes) = &row.body
            && row.write.is_some_and(|write| payload(write, row.size) != bytes[..])
        {
            self.violated("I3", format!("version {} holds other bytes than were put", row.version));
        }
        if let Body::Tombstone(extents) = &row.body {
            if !changed.settled.contains(&row.operation) {
                self.violated("I6", format!("operation {} commits without a live change", row.operation));
            }
            for extent in extents {
                self.names(row, extent, blobs);
            }
        }
    }

    /// A tombstone names a revision: its blob must be there, whole (I2).
    fn names(&mut self, row: &Row, extent: &format::Extent, blobs: &Blobs) {
        let known = self.revisions.get(&extent.revision).filter(|revision| revision.is_whole);
        let bytes = known.and_then(|revision| blobs.bytes(&revision.path));
        let Some(bytes) = bytes else {
            return self.violated("I2", format!("version {} names a blob that is not finished", row.version));
        };
        let expected = row.write.map(|write| payload(write, row.size));
        if bytes.len() as u64 != extent.bytes || expected.is_some_and(|expected| expected != bytes) {
            self.violated("I2", format!("version {} names a blob that holds something else", row.version));
        }
    }

    fn orphan(
        &mut self,
        revision: Uuid,
        orphan: Option<Orphan>,
        blobs: &Blobs,
        coverage: &mut Coverage,
        words: &mut Vec<String>,
    ) {
        let Some(orphan) = orphan else {
            words.push(format!("orphan {} settled", short(revision)));
            coverage.count("sweeper: an orphan settled");
            let path = self.revisions.get(&revision).map(|revision| revision.path.clone()).unwrap_or_default();
            if !path.is_empty() && blobs.bytes(&path).is_some() {
                self.violated("I5", format!("orphan {revision} is settled, and its blob is there"));
            }
            self.orphans.remove(&revision);
            return;
        };
        words.push(format!("orphan {} queued", short(revision)));
        if self.rows.get(&orphan.object[..]).is_some_and(|row| row.revisions().contains(&revision)) {
            self.violated("I2", format!("revision {revision} is queued, and a row names it"));
        }
        match self.orphans.get(&revision) {
            Some(before) if before.landing == Landing::MayLand && orphan.landing == Landing::Landed => {
                coverage.count("sweeper: an orphan is deleted again later");
            }
            Some(_) if orphan.attempts > 0 => coverage.count("sweeper: a deletion failed"),
            Some(_) | None => {}
        }
        self.orphans.insert(revision, orphan);
    }

    /// A blob has come, or grown.
    pub(crate) fn blob_written(&mut self, _tick: Tick, path: &str, is_whole: bool) {
        let Some(revision) = format::revision_of_path(path) else {
            return self.violated("I1", format!("a blob lies where no revision lies: {path}"));
        };
        let Some(known) = self.revisions.get_mut(&revision) else {
            return self.violated("I1", format!("blob {revision} appears, and no change told of it"));
        };
        path.clone_into(&mut known.path);
        if std::mem::replace(&mut known.is_whole, is_whole) {
            self.violated("I4", format!("blob {revision} is written again"));
        }
    }

    /// A blob has gone.
    pub(crate) fn blob_deleted(&mut self, _tick: Tick, path: &str) {
        let Some(revision) = format::revision_of_path(path) else { return };
        if self.rows.values().any(|row| row.revisions().contains(&revision)) {
            self.violated("I2", format!("blob {revision} is deleted, and a row names it"));
        }
        let read = self.reading.values().any(|(object, version)| {
            let states = self.states.get(object).map(Vec::as_slice).unwrap_or_default();
            let seen = states.iter().filter_map(|(_, row)| row.as_ref()).find(|row| row.version == *version);
            seen.is_some_and(|row| row.revisions().contains(&revision))
        });
        if read {
            self.violated("I8", format!("blob {revision} is deleted under its reader"));
        }
    }
}

fn entry<T: serde::de::DeserializeOwned>(key: &[u8], value: Option<&Bytes>) -> Option<(Uuid, Option<T>)> {
    let id = Uuid::from_slice(key).ok()?;
    match value {
        None => Some((id, None)),
        Some(value) => Some((id, Some(format::decode(value)?))),
    }
}

fn keep(set: &mut BTreeSet<Bytes>, key: &Bytes, is_put: bool) -> Option<()> {
    if is_put {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
    Some(())
}

/// The last digits: the first are the time.
fn short(id: Uuid) -> String {
    let text = id.simple().to_string();
    text[text.len() - 6..].to_owned()
}

fn described(row: &Row) -> String {
    let write = row.write.map(|write| format!("write {write}, ")).unwrap_or_default();
    match &row.body {
        Body::Embedded(_) => format!("{write}{} bytes in the row", row.size),
        Body::Separate => format!("{write}{} bytes beside the row", row.size),
        Body::Tombstone(extents) => {
            let revisions: Vec<_> = extents.iter().map(|extent| short(extent.revision)).collect();
            format!("{write}{} bytes in blob {}", row.size, revisions.join(", "))
        }
    }
}

fn transition(old: Option<&Row>, new: Option<&Row>) -> &'static str {
    let is_tombstone = |row: &Row| matches!(row.body, Body::Tombstone(_));
    match (old.map(is_tombstone), new.map(is_tombstone)) {
        (None, Some(false)) => "swap: absent to inline",
        (None, Some(true)) => "swap: absent to tombstone",
        (Some(false), Some(false)) => "swap: inline to inline",
        (Some(false), Some(true)) => "swap: inline to tombstone",
        (Some(true), Some(false)) => "swap: tombstone to inline",
        (Some(true), Some(true)) => "swap: tombstone to tombstone",
        (Some(false), None) => "swap: inline deleted",
        (Some(true), None) => "swap: tombstone deleted",
        (None, None) => "swap: nothing",
    }
}
