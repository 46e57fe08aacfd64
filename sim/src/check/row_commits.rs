//! Checks of a row, made when the batch that changes it becomes durable.
//!
//! Named checkers: I2 (a tombstone needs its blobs), I3 (a single batch does all of a swap), I5 (a
//! replaced revision is queued), I6 (a fenced change never commits), `versions`, `superseded`,
//! `sessions`, `tiers`, `metadata`, `expiry`.

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::commit_observer::{Before, Changed};
use super::format::{self, Body, Landing, Manifest, Row};
use super::model::{Model, WriteOrigin};
use super::sessions::UploadHistory;
use super::trailers::{has_trailer, payload_in};
use super::words::{Words, described, readable, transition};
use crate::disks::blobs::StoredBlobs;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// Longest payload that is embedded in the row, in bytes.
const EMBEDDED: u64 = 4096;
/// Bytes in a block of a blob. Each block has a checksum of its own.
const BLOCK: u64 = 1024 * 1024;

impl Model {
    /// Checks the new row of an object, or its removal, and takes it into the model.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it belongs to the one batch"
    )]
    pub(super) fn swap(
        &mut self,
        object: &Bytes,
        row: Option<&Row>,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
        words: &mut Words,
    ) {
        // Cloned, because the checks below change the model.
        let old = self.rows.get(object).cloned();
        let origin = row.map(|row| self.origin(object, row, changed, before));
        match (&old, row, &origin) {
            (_, Some(row), Some(origin)) => {
                words.push(|| {
                    let name = readable(object);
                    format!("{name} = version {} ({})", row.version, described(row))
                });
                // The kind of the write decides which fields may change.
                self.derived(object, row, origin, before, tick, coverage);
                self.committed(object, row, origin, changed, before, tick, blobs);
            }
            (Some(_), None, _) => words.push(|| format!("{} deleted", readable(object))),
            (None, None, _) if self.in_source(object).is_some() => {
                words.push(|| format!("{} masked", readable(object)));
                self.check_mask(object, changed, coverage);
            }
            (None, None, _) | (_, Some(_), None) => {
                let name = readable(object);
                self.violated("I3", format!("an absent object is deleted: object={name}"));
            }
        }
        let was_live = old
            .as_ref()
            .is_some_and(|old| old.is_live(self.time_at(tick)));
        self.count_swap(old.as_ref(), row, was_live, coverage);
        let is_new = old.is_none() && row.is_some() && !self.last_versions.contains_key(object);
        if is_new && self.base_version() > 0 {
            coverage.count("pruner: an object starts behind the base version");
        }
        if let Some(row) = row.filter(|row| matches!(row.body, Body::Tombstone(_)))
            && origin == Some(WriteOrigin::Written)
            && !self.is_assembled(row)
        {
            if row.revisions().len() > 1 {
                coverage.count("swap: several blobs");
            }
            self.check_replaced(object, old.as_ref(), row, tick);
        }
        if let Some(row) = row {
            self.check_created(object, old.as_ref(), row, was_live);
        }
        self.check_queued(object, old.as_ref(), changed);
        self.check_expiry(object, old.as_ref(), row);
        match row {
            Some(row) => self.rows.insert(object.clone(), row.clone()),
            None => self.rows.remove(object),
        };
        self.states
            .entry(object.clone())
            .or_default()
            .push((tick, row.cloned()));
    }

    /// Counts a swap by its kind.
    fn count_swap(
        &self,
        old: Option<&Row>,
        row: Option<&Row>,
        was_live: bool,
        coverage: &mut Coverage,
    ) {
        coverage.count(transition(old, row));
        if old.is_some() && !was_live {
            coverage.count(if row.is_some() {
                "swap: expired overwritten"
            } else {
                "swap: expired removed"
            });
        }
        if row.is_some_and(|row| row.size > BLOCK) {
            coverage.count("swap: a blob of several blocks");
        }
        // Coverage of long object names, which do not fit into a path.
        let named = row.map(Row::revisions).unwrap_or_default();
        if named
            .iter()
            .any(|revision| self.revisions.get(revision).is_some_and(has_trailer))
        {
            coverage.count("swap: a blob with a trailer");
        }
    }

    /// Checks that a live object keeps its time of creation, and that a new object was not modified
    /// after its creation.
    fn check_created(&mut self, object: &Bytes, old: Option<&Row>, row: &Row, was_live: bool) {
        match old {
            Some(old) if was_live && old.created != row.created => {
                let name = readable(object);
                let message = format!("overwrite changes the time of creation: object={name}");
                self.violated("metadata", message);
            }
            // An update of an object of the fallback keeps the time of creation that it read. An
            // outside writer may have replaced the object since.
            None if row.created != row.modified
                && !(self.in_source(object).is_some()
                    && self.was_source_created(object, row.created)) =>
            {
                let name = readable(object);
                let message = format!("new object was modified after creation: object={name}");
                self.violated("metadata", message);
            }
            Some(_) | None => {}
        }
    }

    /// Checks that an upload replaces a state of its object that it may have seen when it began.
    ///
    /// The replaced state may also be equivalent to a seen state: the object has no live tombstone
    /// now, and the upload may have seen no tombstone, or a tombstone that has expired since.
    fn check_replaced(&mut self, object: &Bytes, old: Option<&Row>, row: &Row, tick: Tick) {
        let replaced = old.and_then(|old| self.payload_id(old));
        let seen = self.seen_by(row.operation, row.write, object);
        let is_free = replaced.is_none() || old.is_some_and(|old| !old.is_live(self.time_at(tick)));
        let had_expired = |first: &Option<Uuid>| {
            let states = self
                .states
                .get(object)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let rows = states.iter().filter_map(|(_, row)| row.as_ref());
            let mut named = rows.filter(|row| self.payload_id(row) == *first);
            first.is_none() || named.any(|row| !row.is_live(self.time_at(tick)))
        };
        // A move brings an object that is older than every write to the store.
        let is_free = is_free || old.is_some_and(|old| self.was_moved(object, old));
        let may_replace = seen.contains(&replaced) || is_free && seen.iter().any(had_expired);
        if !may_replace {
            let name = String::from_utf8_lossy(object).into_owned();
            self.violated(
                "superseded",
                format!(
                    "upload replaces a state it never saw: object={name} version={}",
                    row.version
                ),
            );
        }
    }

    /// Checks that every revision of the old row is either named by a new row of the same batch or
    /// queued as an orphan.
    fn check_queued(&mut self, object: &Bytes, old: Option<&Row>, changed: &Changed) {
        // A rename moves revisions to another row of the same batch.
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
            // A row names only finished revisions (I2), so no write of it can land later.
            if queued.is_some_and(|orphan| orphan.landing == Landing::MayLand) {
                let name = readable(object);
                self.violated(
                    "I5",
                    format!(
                        "finished revision is queued as one that may land: object={name} \
                         revision={revision}"
                    ),
                );
            }
            if queued.is_none() {
                let name = readable(object);
                self.violated(
                    "I5",
                    format!("replaced revision is not queued: object={name} revision={revision}"),
                );
            }
        }
    }

    /// Checks that a row with a deadline has its entry in the expiry index, and that the entry of
    /// the old row is gone.
    fn check_expiry(&mut self, object: &Bytes, old: Option<&Row>, row: Option<&Row>) {
        let key =
            |row: Option<&Row>| Some(Bytes::from(format::expiry_key(row?.expires_at?, object)));
        let old = key(old);
        let new = key(row);
        // An unchanged deadline keeps its entry.
        let stale = old.filter(|old| Some(old) != new.as_ref() && self.expiry.contains(old));
        if stale.is_some() || new.is_some_and(|new| !self.expiry.contains(&new)) {
            let name = String::from_utf8_lossy(object).into_owned();
            self.violated(
                "expiry",
                format!("deadline and expiry entry differ: object={name}"),
            );
        }
    }

    /// Checks a row that a batch commits.
    #[expect(
        clippy::too_many_arguments,
        reason = "all of it belongs to the one batch"
    )]
    fn committed(
        &mut self,
        object: &Bytes,
        row: &Row,
        origin: &WriteOrigin,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &StoredBlobs,
    ) {
        // An idle refresh keeps the version and the operation of the row.
        // So does a relocation.
        if !matches!(origin, WriteOrigin::Touched | WriteOrigin::Relocated) {
            self.check_version(object, row);
        }
        if let Some(write) = row.write
            && *origin == WriteOrigin::Written
        {
            self.record_write(write, row, tick);
        }
        // An object assembled of parts stays in the blob tier, whatever its length, until a copy
        // moves it to the tier of its length.
        let is_assembled = self.is_assembled(row) && *origin != WriteOrigin::Copied;
        self.check_tier(row, is_assembled);
        let put = row.write.and_then(|write| self.content(write, row.size));
        let sum = put.as_ref().map(|put| xxh3_64(put));
        self.check_payload(row, put.as_ref(), sum, is_assembled);
        if let Body::Tombstone(manifest) = &row.body {
            let is_new = self.is_new(object, manifest, before);
            // The change of a relocation is not the operation of the row.
            let is_live = |revision: &Uuid| {
                let change = self.fate.get(revision);
                change.is_some_and(|change| changed.settled.contains(change))
            };
            let is_recorded = match origin {
                WriteOrigin::Relocated => row.revisions().iter().all(is_live),
                _ => changed.settled.contains(&row.operation),
            };
            if is_new && !is_recorded {
                self.violated(
                    "I6",
                    format!("commit without a live change: operation={}", row.operation),
                );
            }
            self.check_blobs(row, manifest, (put, sum), blobs);
        }
    }

    /// Checks that the version is the next one of the object, and that the operation is new.
    fn check_version(&mut self, object: &Bytes, row: &Row) {
        let is_next = self.is_next_version(object, row.version);
        let last = self
            .versions
            .insert(object.clone(), row.version)
            .unwrap_or(0);
        if !is_next {
            let message = format!("unexpected version: version={} last={last}", row.version);
            self.violated("versions", message);
        }
        if !self.committed.insert(row.operation) {
            let message = format!("operation commits twice: operation={}", row.operation);
            self.violated("I3", message);
        }
    }

    /// Records the commit of a write of the workload.
    fn record_write(&mut self, write: u64, row: &Row, tick: Tick) {
        // The row of a completed upload has the number of the call that began the upload.
        let is_upload = self.uploads.values().any(|upload| upload.of == Some(write));
        if is_upload && !self.is_assembled(row) {
            self.violated(
                "sessions",
                format!("an open upload commits: version={}", row.version),
            );
        }
        self.commits
            .entry(write)
            .or_default()
            .push((tick, row.clone()));
    }

    /// Checks that the length of a payload decides where the payload is stored.
    fn check_tier(&mut self, row: &Row, is_assembled: bool) {
        let is_tombstone = matches!(row.body, Body::Tombstone(_));
        // The limit applies to the length alone, whatever the source of the bytes.
        let fits = |most| is_tombstone == (row.size > most) || is_assembled && is_tombstone;
        if self.inline_bytes_max.is_some_and(|most| !fits(most)) {
            self.violated(
                "tiers",
                format!(
                    "payload is in the wrong tier: version={} bytes={}",
                    row.version, row.size
                ),
            );
        }
        if !is_tombstone && matches!(row.body, Body::Embedded(_)) != (row.size <= EMBEDDED) {
            self.violated(
                "tiers",
                format!(
                    "payload is in the wrong table: version={} bytes={}",
                    row.version, row.size
                ),
            );
        }
    }

    /// Checks the checksum of a row, and an embedded payload, against the bytes that were put.
    fn check_payload(
        &mut self,
        row: &Row,
        put: Option<&Bytes>,
        sum: Option<u64>,
        is_assembled: bool,
    ) {
        // Nothing reads an assembled object as a whole when it is completed, so its row may have no
        // checksum.
        let is_unsummed = is_assembled && row.checksum.is_none();
        if sum.is_some() && row.checksum != sum && !is_unsummed {
            self.violated(
                "metadata",
                format!("checksum does not match: version={}", row.version),
            );
        }
        if let (Body::Embedded(bytes), Some(put)) = (&row.body, put)
            && bytes != put
        {
            self.violated(
                "I3",
                format!(
                    "row holds other bytes than the put: version={}",
                    row.version
                ),
            );
        }
    }

    /// Returns true if a manifest names a revision that no row of the batch's objects and no part
    /// of the object's uploads named before.
    fn is_new(&self, object: &Bytes, manifest: &Manifest, before: &Before) -> bool {
        let parts = self
            .uploads
            .values()
            .filter(|upload| upload.object == *object)
            .flat_map(UploadHistory::revisions);
        // A rename, a change of metadata or a completion names revisions that exist already, so it
        // needs no change.
        let known: BTreeSet<Uuid> = before
            .values()
            .flat_map(Row::revisions)
            .chain(parts)
            .collect();
        manifest
            .extents
            .iter()
            .any(|extent| !known.contains(&extent.revision))
    }

    /// Checks each blob of a tombstone against its share of the bytes that were put. `put` is all of
    /// these bytes and their checksum.
    fn check_blobs(
        &mut self,
        row: &Row,
        manifest: &Manifest,
        put: (Option<Bytes>, Option<u64>),
        blobs: &StoredBlobs,
    ) {
        let (put, sum) = put;
        let whole = put.as_ref().map_or(0, Bytes::len);
        // Split blobs follow each other in the order of the manifest.
        let mut rest = put;
        for extent in &manifest.extents {
            let at = rest.as_ref().map_or(0, |rest| {
                rest.len().min(usize::try_from(extent.bytes).unwrap_or(0))
            });
            let own = rest.as_mut().map(|rest| rest.split_to(at));
            // A blob that holds all bytes has their checksum.
            let sum = sum.filter(|_| at == whole);
            self.check_blob(row, extent, (own.as_ref(), sum), blobs);
        }
        if rest.is_some_and(|rest| !rest.is_empty()) {
            self.violated(
                "I2",
                format!("tombstone names too few blobs: version={}", row.version),
            );
        }
    }

    /// Checks that a blob named by a tombstone is finished and holds the expected bytes (I2).
    fn check_blob(
        &mut self,
        row: &Row,
        extent: &format::Extent,
        put: (Option<&Bytes>, Option<u64>),
        blobs: &StoredBlobs,
    ) {
        let (put, sum) = put;
        // The payload of an unfinished blob is not compared.
        let known = self
            .revisions
            .get(&extent.revision)
            .filter(|revision| revision.is_whole);
        let bytes = known.and_then(|revision| payload_in(revision, blobs));
        let Some(bytes) = bytes else {
            let message = format!(
                "tombstone names a blob that is unfinished or lacks its trailer: version={}",
                row.version
            );
            return self.violated("I2", message);
        };
        let is_as_put = put.is_none_or(|put| *put == bytes);
        // Equal bytes have an equal checksum, which need not be computed again.
        let sum = sum.filter(|_| is_as_put);
        let found = (bytes.len() as u64, sum.unwrap_or_else(|| xxh3_64(&bytes)));
        if found != (extent.bytes, extent.checksum) || !is_as_put {
            self.violated(
                "I2",
                format!(
                    "tombstone names a blob with other bytes: version={}",
                    row.version
                ),
            );
        }
    }
}
