//! The witness: every batch at the moment it becomes durable, every blob when it comes or goes, and
//! what must be true then.
//!
//! Named checkers: I1 (a blob needs a change first), I2 (a tombstone needs its blobs), I3 (one
//! batch does all of a swap), I4 (a revision is written once), I5 as far as it can be seen
//! mid-flight, I6 (what is fenced never commits), I8 (what is read is not swept), `versions`,
//! `superseded`, `epoch`, `tiers`, `metadata`. Deliberately not here: what clients hear
//! (`history.rs`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cenotaph_storage::index::{Batch, Table};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::call::{About, Asked, Call, Called};
use super::format::{self, Body, Change, Landing, Orphan, Row};
use super::monitor::{Monitor, Origin};
use super::sessions::{Steps, Upload};
use super::trailers::{has_trailer, payload_in};
use super::words::{described, short, transition};
use crate::blobs::Blobs;
use crate::coverage::Coverage;
use crate::trace::Tick;

/// Longest payload that lies in the row itself.
const EMBEDDED: u64 = 4096;
/// Checksums of blobs are over blocks of so many bytes.
const BLOCK: u64 = 1024 * 1024;

/// What one batch changes, by table.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) rows: Vec<(Bytes, Option<Row>)>,
    pub(super) changes: Vec<(Uuid, Option<Change>)>,
    pub(super) orphans: Vec<(Uuid, Option<Orphan>)>,
    /// Changes that it removes, and that were there.
    pub(super) settled: BTreeSet<Uuid>,
    /// Sessions and parts of uploads.
    pub(super) steps: Steps,
    /// Whether it changes the expiry index.
    expiry: bool,
}

/// The rows of a batch's objects before it.
pub(super) type Before = BTreeMap<Bytes, Row>;

impl Changed {
    /// The entry with which this revision is queued.
    pub(super) fn queued(&self, revision: &Uuid) -> Option<&Orphan> {
        self.orphans
            .iter()
            .find(|(orphan, _)| orphan == revision)
            .and_then(|(_, orphan)| orphan.as_ref())
    }

    /// Whether it settles a change that names this revision.
    pub(super) fn settles(&self, monitor: &Monitor, revision: Uuid) -> bool {
        self.settled
            .iter()
            .any(|id| monitor.fate.get(&revision) == Some(id))
    }
}

impl Monitor {
    /// The call that puts, or updates to, this payload of this object.
    pub(super) fn writer(&self, write: Option<u64>, object: &Bytes) -> Option<&Called> {
        self.calls.iter().find(|called| match &called.call {
            Call::Put {
                write: of,
                object: at,
                ..
            }
            | Call::Update {
                write: of,
                object: at,
                ..
            } => Some(*of) == write && at == object,
            Call::Atomic { pieces } => pieces
                .iter()
                .any(|piece| piece.write == write && piece.object == *object),
            Call::Multipart(Asked {
                object: at,
                of,
                what: About::Begin { .. },
            }) => Some(*of) == write && at == object,
            Call::Multipart(_)
            | Call::Change { .. }
            | Call::Move { .. }
            | Call::Read { .. }
            | Call::Delete { .. }
            | Call::DeletePrefix { .. }
            | Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Other => false,
        })
    }

    /// A batch has become durable. Says in words what it did.
    pub(crate) fn commit(
        &mut self,
        tick: Tick,
        batch: &Batch,
        blobs: &Blobs,
        coverage: &mut Coverage,
    ) -> String {
        let changed = self.decode(batch, blobs);
        self.together(&changed);
        let before = self.before(&changed);
        let mut words = Vec::new();
        self.assemble(&changed);
        for (id, recorded) in &changed.changes {
            words.extend(match recorded {
                Some(change) => Some(self.recorded(*id, change, tick, coverage)),
                None => self.settled(*id, &changed, tick, blobs, coverage),
            });
        }
        for (object, row) in &changed.rows {
            self.swap(
                object,
                row.as_ref(),
                &changed,
                &before,
                tick,
                blobs,
                coverage,
                &mut words,
            );
        }
        self.steps(&changed, &before, tick, blobs, coverage, &mut words);
        for (revision, orphan) in changed.orphans {
            self.orphan(revision, orphan, blobs, coverage, &mut words);
        }
        if words.is_empty()
            && batch
                .changes()
                .iter()
                .any(|(table, key, _)| *table == Table::Meta && key == "epoch")
        {
            words.push("a new epoch".to_owned());
        }
        if words.is_empty()
            && batch
                .changes()
                .iter()
                .any(|(table, key, _)| *table == Table::Meta && key == format::STORE)
        {
            words.push("the store and its tier".to_owned());
        }
        words.join("; ")
    }

    fn raised(&mut self, epoch: u64) {
        if epoch != self.epoch + 1 {
            self.violated(
                "epoch",
                format!("epoch {epoch} follows epoch {}", self.epoch),
            );
        }
        self.epoch = epoch;
    }

    fn decode(&mut self, batch: &Batch, blobs: &Blobs) -> Changed {
        // The last change of a key wins.
        let last: BTreeMap<_, _> = batch
            .changes()
            .iter()
            .map(|(table, key, value)| ((*table, key.clone()), value.clone()))
            .collect();
        let mut changed = Changed::default();
        for ((table, key), value) in last {
            let decoded = match table {
                Table::Rows => {
                    let row = value.as_ref().map(|value| Row::decode(value));
                    row.as_ref()
                        .is_none_or(Option::is_some)
                        .then(|| changed.rows.push((key.clone(), row.flatten())))
                }
                Table::Changes => {
                    entry(&key, value.as_ref()).map(|entry| changed.changes.push(entry))
                }
                Table::Orphans => {
                    entry(&key, value.as_ref()).map(|entry| changed.orphans.push(entry))
                }
                Table::Payloads => keep(&mut self.payloads, &key, value.is_some()),
                Table::Meta => {
                    if let Some(epoch) = value
                        .as_ref()
                        .filter(|_| key == "epoch")
                        .and_then(|value| format::decode(value))
                    {
                        self.raised(epoch);
                    }
                    if key == format::STORE {
                        self.claims(
                            value.as_ref().and_then(|value| format::decode(value)),
                            blobs,
                        );
                    }
                    keep(&mut self.floors, &key, value.is_some())
                }
                Table::Expiry => {
                    changed.expiry = true;
                    value
                        .as_ref()
                        .is_none_or(|value| value[..] == [1])
                        .then(|| {
                            keep(&mut self.expiry, &key, value.is_some());
                        })
                }
                Table::Sessions => changed.steps.read(&key, value.as_ref()),
            };
            if decoded.is_none() {
                self.violated(
                    "format",
                    format!("an entry of {} can't be read", table.name()),
                );
            }
        }
        let removed = changed
            .changes
            .iter()
            .filter(|(_, recorded)| recorded.is_none())
            .map(|(id, _)| *id);
        changed.settled = removed.filter(|id| self.changes.contains_key(id)).collect();
        changed
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all of it belongs to the one batch"
    )]
    fn swap(
        &mut self,
        object: &Bytes,
        row: Option<&Row>,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
        words: &mut Vec<String>,
    ) {
        let old = self.rows.get(object).cloned();
        let name = String::from_utf8_lossy(object).replace('\0', ":");
        let origin = row.map(|row| self.origin(object, row, changed, before));
        match (&old, row, &origin) {
            (_, Some(row), Some(origin)) => {
                words.push(format!(
                    "{name} = version {} ({})",
                    row.version,
                    described(row)
                ));
                self.derived(object, row, origin, before, tick, coverage);
                self.committed(object, row, origin, changed, before, tick, blobs);
            }
            (Some(_), None, _) => words.push(format!("{name} deleted")),
            (None, None, _) | (_, Some(_), None) => {
                self.violated("I3", format!("{name} is deleted, and it is not there"));
            }
        }
        coverage.count(transition(old.as_ref(), row));
        let was_dead = old
            .as_ref()
            .is_some_and(|old| !old.is_live(self.time_at(tick)));
        if was_dead {
            coverage.count(if row.is_some() {
                "swap: expired overwritten"
            } else {
                "swap: expired removed"
            });
        }
        if let Some(row) = row.filter(|row| matches!(row.body, Body::Tombstone(_)))
            && origin == Some(Origin::Written)
            && !self.is_assembled(row)
        {
            if row.revisions().len() > 1 {
                coverage.count("swap: several blobs");
            }
            self.replaces_what_it_saw(object, old.as_ref(), row, tick);
        }
        if row.is_some_and(|row| row.size > BLOCK) {
            coverage.count("swap: a blob of several blocks");
        }
        let named = row.map(Row::revisions).unwrap_or_default();
        if named
            .iter()
            .any(|revision| self.revisions.get(revision).is_some_and(has_trailer))
        {
            coverage.count("swap: a blob with a trailer");
        }
        if let (Some(old), Some(row)) = (&old, row)
            && !was_dead
            && old.created != row.created
        {
            self.violated(
                "metadata",
                format!("{name} is overwritten, and forgets when it was created"),
            );
        }
        if let (None, Some(row)) = (&old, row)
            && row.created != row.modified
        {
            self.violated("metadata", format!("{name} is new, and was modified since"));
        }
        self.queued(&name, old.as_ref(), changed);
        self.entries(object, old.as_ref(), row);
        match row {
            Some(row) => self.rows.insert(object.clone(), row.clone()),
            None => self.rows.remove(object),
        };
        self.states
            .entry(object.clone())
            .or_default()
            .push((tick, row.cloned()));
    }

    /// What an upload replaces, it may have seen when it began; or its object stood as if there
    /// were no tombstone, and it may have seen that, or one that has expired since.
    fn replaces_what_it_saw(&mut self, object: &Bytes, old: Option<&Row>, row: &Row, tick: Tick) {
        let replaced = old.and_then(|old| old.revisions().first().copied());
        let seen = self.seen_by(row.operation, row.write, object);
        let stands_free =
            replaced.is_none() || old.is_some_and(|old| !old.is_live(self.time_at(tick)));
        let had_expired = |first: &Option<Uuid>| {
            let states = self
                .states
                .get(object)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let rows = states.iter().filter_map(|(_, row)| row.as_ref());
            let mut named = rows.filter(|row| row.revisions().first() == first.as_ref());
            first.is_none() || named.any(|row| !row.is_live(self.time_at(tick)))
        };
        let may_replace = seen.contains(&replaced) || stands_free && seen.iter().any(had_expired);
        if !may_replace {
            let name = String::from_utf8_lossy(object).into_owned();
            self.violated(
                "superseded",
                format!(
                    "{name}: version {} replaces what its upload never saw",
                    row.version
                ),
            );
        }
    }

    /// What a row named, another row of the same batch names now, or it is queued.
    fn queued(&mut self, name: &str, old: Option<&Row>, changed: &Changed) {
        let kept: BTreeSet<Uuid> = changed
            .rows
            .iter()
            .filter_map(|(_, row)| row.as_ref())
            .flat_map(Row::revisions)
            .collect();
        for revision in old
            .into_iter()
            .flat_map(Row::revisions)
            .filter(|revision| !kept.contains(revision))
        {
            let queued = changed.queued(&revision);
            if queued.is_some_and(|orphan| orphan.landing == Landing::MayLand) {
                self.violated(
                    "I5",
                    format!(
                        "{name}: the finished revision {revision} is queued as one that may land"
                    ),
                );
            }
            if queued.is_none() {
                self.violated(
                    "I5",
                    format!(
                        "{name}: the swap forgets to queue the revision {revision} it replaces"
                    ),
                );
            }
        }
    }

    /// A row with a deadline has its entry in the expiry index, and no other.
    fn entries(&mut self, object: &Bytes, old: Option<&Row>, row: Option<&Row>) {
        let key =
            |row: Option<&Row>| Some(Bytes::from(format::expiry_key(row?.expires_at?, object)));
        let (old, new) = (key(old), key(row));
        let stale = old.filter(|old| Some(old) != new.as_ref() && self.expiry.contains(old));
        if stale.is_some() || new.is_some_and(|new| !self.expiry.contains(&new)) {
            let name = String::from_utf8_lossy(object).into_owned();
            self.violated(
                "expiry",
                format!("{name}: its deadline and its entry in the expiry index disagree"),
            );
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "all of it belongs to the one batch"
    )]
    fn committed(
        &mut self,
        object: &Bytes,
        row: &Row,
        origin: &Origin,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &Blobs,
    ) {
        if *origin != Origin::Touched {
            let last = self
                .versions
                .insert(object.clone(), row.version)
                .unwrap_or(0);
            if row.version != last + 1 {
                self.violated(
                    "versions",
                    format!("version {} follows version {last}", row.version),
                );
            }
            if !self.committed.insert(row.operation) {
                self.violated("I3", format!("operation {} commits twice", row.operation));
            }
        }
        if let Some(write) = row.write
            && *origin == Origin::Written
        {
            if self.uploads.values().any(|upload| upload.of == Some(write))
                && !self.is_assembled(row)
            {
                self.violated(
                    "sessions",
                    format!("version {} completes an upload that goes on", row.version),
                );
            }
            self.commits
                .entry(write)
                .or_default()
                .push((tick, row.clone()));
        }
        let is_tombstone = matches!(row.body, Body::Tombstone(_));
        // What was assembled of parts lies where they do, whatever its length, until somebody
        // copies it.
        let is_assembled = self.is_assembled(row) && *origin != Origin::Copied;
        let fits = |most| is_tombstone == (row.size > most) || is_assembled && is_tombstone;
        if self.inline_bytes_max.is_some_and(|most| !fits(most)) {
            self.violated(
                "tiers",
                format!(
                    "version {} of {} bytes lies in the wrong tier",
                    row.version, row.size
                ),
            );
        }
        if !is_tombstone && matches!(row.body, Body::Embedded(_)) != (row.size <= EMBEDDED) {
            self.violated(
                "tiers",
                format!(
                    "version {} of {} bytes lies at the wrong place",
                    row.version, row.size
                ),
            );
        }
        let put = row.write.and_then(|write| self.content(write, row.size));
        let is_unsummed = is_assembled && row.checksum.is_none();
        if put
            .as_ref()
            .is_some_and(|put| row.checksum != Some(xxh3_64(put)) && !is_unsummed)
        {
            self.violated(
                "metadata",
                format!("version {} has the checksum of something else", row.version),
            );
        }
        if let (Body::Embedded(bytes), Some(put)) = (&row.body, &put)
            && bytes != put
        {
            self.violated(
                "I3",
                format!("version {} holds other bytes than were put", row.version),
            );
        }
        if let Body::Tombstone(manifest) = &row.body {
            let parts = self
                .uploads
                .values()
                .filter(|upload| upload.object == *object)
                .flat_map(Upload::revisions);
            let given_up: BTreeSet<Uuid> = before
                .values()
                .flat_map(Row::revisions)
                .chain(parts)
                .collect();
            let is_new = manifest
                .extents
                .iter()
                .any(|extent| !given_up.contains(&extent.revision));
            if is_new && !changed.settled.contains(&row.operation) {
                self.violated(
                    "I6",
                    format!("operation {} commits without a live change", row.operation),
                );
            }
            let mut rest = put;
            for extent in &manifest.extents {
                let at = rest.as_ref().map_or(0, |rest| {
                    rest.len().min(usize::try_from(extent.bytes).unwrap_or(0))
                });
                let own = rest.as_mut().map(|rest| rest.split_to(at));
                self.names(row, extent, own.as_ref(), blobs);
            }
            if rest.is_some_and(|rest| !rest.is_empty()) {
                self.violated("I2", format!("version {} names too few blobs", row.version));
            }
        }
    }

    /// A tombstone names a revision: its blob must be there, whole (I2).
    fn names(&mut self, row: &Row, extent: &format::Extent, put: Option<&Bytes>, blobs: &Blobs) {
        let known = self
            .revisions
            .get(&extent.revision)
            .filter(|revision| revision.is_whole);
        let bytes = known.and_then(|revision| payload_in(revision, blobs));
        let Some(bytes) = bytes else {
            let what = "names a blob that is not finished, or does not tell whose it is";
            return self.violated("I2", format!("version {} {what}", row.version));
        };
        let (length, checksum) = (bytes.len() as u64, xxh3_64(&bytes));
        if (length, checksum) != (extent.bytes, extent.checksum)
            || put.is_some_and(|put| *put != bytes)
        {
            self.violated(
                "I2",
                format!(
                    "version {} names a blob that holds something else",
                    row.version
                ),
            );
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
            let path = self
                .revisions
                .get(&revision)
                .map(|revision| revision.path.clone())
                .unwrap_or_default();
            if !path.is_empty() && blobs.bytes(&path).is_some() {
                self.violated(
                    "I5",
                    format!("orphan {revision} is settled, and its blob is there"),
                );
            }
            self.orphans.remove(&revision);
            return;
        };
        words.push(format!("orphan {} queued", short(revision)));
        self.orphaned.insert(revision);
        if self
            .rows
            .get(&orphan.object[..])
            .is_some_and(|row| row.revisions().contains(&revision))
        {
            self.violated(
                "I2",
                format!("revision {revision} is queued, and a row names it"),
            );
        }
        if self.is_filed(revision) {
            self.violated(
                "I2",
                format!("revision {revision} is queued, and a part names it"),
            );
        }
        match self.orphans.get(&revision) {
            Some(before)
                if before.landing == Landing::MayLand && orphan.landing == Landing::Landed =>
            {
                coverage.count("sweeper: an orphan is deleted again later");
            }
            Some(_) if orphan.attempts > 1 => coverage.count("sweeper: a deletion failed again"),
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
            return self.violated(
                "I1",
                format!("blob {revision} appears, and no change told of it"),
            );
        };
        path.clone_into(&mut known.path);
        if std::mem::replace(&mut known.is_whole, is_whole) {
            self.violated("I4", format!("blob {revision} is written again"));
        }
    }

    /// A blob has gone.
    pub(crate) fn blob_deleted(&mut self, _tick: Tick, path: &str) {
        let Some(revision) = format::revision_of_path(path) else {
            return;
        };
        if !self.orphaned.contains(&revision) {
            self.violated(
                "I5",
                format!("blob {revision} is deleted, and it never was an orphan"),
            );
        }
        if self
            .rows
            .values()
            .any(|row| row.revisions().contains(&revision))
        {
            self.violated(
                "I2",
                format!("blob {revision} is deleted, and a row names it"),
            );
        }
        if self.is_filed(revision) {
            self.violated(
                "I2",
                format!("blob {revision} is deleted, and a part names it"),
            );
        }
        let read = self.reading.values().any(|reader| {
            let states = self
                .states
                .get(&reader.object)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let seen = states
                .iter()
                .filter_map(|(_, row)| row.as_ref())
                .find(|row| row.version == reader.version);
            seen.is_some_and(|row| row.revisions_of(&reader.range).contains(&revision))
        });
        if read {
            self.violated("I8", format!("blob {revision} is deleted under its reader"));
        }
    }
}

fn entry<T: serde::de::DeserializeOwned>(
    key: &[u8],
    value: Option<&Bytes>,
) -> Option<(Uuid, Option<T>)> {
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
