//! Changes in the model: a change is recorded before its first blob and settled in the batch that
//! ends it.
//!
//! Named checkers: I3 (each revision of a settled change is named or queued), I4 (a revision is
//! fresh), `superseded`.

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::call::{Call, Demand};
use super::commit_observer::Changed;
use super::format::{Change, Landing, Row};
use super::model::{Model, Revision};
use super::trailers::payload_in;
use crate::disks::blobs::StoredBlobs;
use crate::plan::payload::write_of;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

impl Model {
    /// Returns the first revisions that an upload may have seen in its object's row when it began.
    /// They are those of the rows from its call until its change was durable.
    pub(super) fn seen_by(
        &self,
        change: Uuid,
        write: Option<u64>,
        object: &Bytes,
    ) -> BTreeSet<Option<Uuid>> {
        let from = self.writer(write, object).map_or(0, |called| called.at);
        let until = self.recorded.get(&change).copied().unwrap_or(Tick::MAX);
        let states = self
            .states
            .get(object)
            .map(Vec::as_slice)
            .unwrap_or_default();
        // The state right before the call counts, too: the upload may have read it first.
        let first = states.partition_point(|(tick, _)| *tick < from);
        let before = first.checked_sub(1).and_then(|at| states[at].1.as_ref());
        let within = states[first..]
            .iter()
            .take_while(|(tick, _)| *tick <= until)
            .map(|(_, row)| row.as_ref());
        std::iter::once(before)
            .chain(within)
            .map(|row| row.and_then(|row| self.payload_id(row)))
            .collect()
    }

    /// Checks a change that is recorded and takes it into the model.
    pub(super) fn recorded(
        &mut self,
        id: Uuid,
        change: &Change,
        tick: Tick,
        coverage: &mut Coverage,
    ) {
        self.check_epoch(id, change);
        // An upload that needs more revisions than it has recorded records its change again, with
        // the new ones appended.
        let before = self
            .changes
            .get(&id)
            .map(|change| change.revisions.as_slice())
            .unwrap_or_default();
        // A new list that does not begin with the old one yields no fresh revision, which is a
        // violation.
        let fresh = change.revisions.strip_prefix(before).unwrap_or_default();
        if !before.is_empty() {
            coverage.count("change: recorded again");
        }
        let is_known = |revision: &Uuid| self.revisions.contains_key(revision);
        if self.ended.contains(&id) || fresh.is_empty() || fresh.iter().any(is_known) {
            self.violated(
                "I4",
                format!("change is recorded again, or its revision is not fresh: change={id}"),
            );
        }
        for &revision in fresh {
            let object = change.object.clone();
            self.revisions.insert(
                revision,
                Revision {
                    object,
                    path: String::new(),
                    is_whole: false,
                },
            );
            self.fate.insert(revision, id);
        }
        // The first record counts: from then on the upload may begin.
        self.recorded.entry(id).or_insert(tick);
        self.changes.insert(id, change.clone());
    }

    /// Checks a change that is settled and removes it from the model. Returns its end if no row and
    /// no part of the batch shows it. A change that is already gone is not checked.
    pub(super) fn settled(
        &mut self,
        id: Uuid,
        changed: &Changed,
        tick: Tick,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
    ) -> Option<&'static str> {
        // Recovery and the write itself may both settle a change. The second removal has no effect.
        let change = self.changes.remove(&id)?;
        self.check_settler(id, &change);
        self.ended.insert(id);
        let queued = |revision: &Uuid| changed.queued(revision);
        let committed = changed
            .rows
            .iter()
            .filter_map(|(_, row)| row.as_ref())
            // A relocated row keeps the operation of its write.
            .find(|row| row.operation == id || row.names_any_of(&change.revisions));
        let filed = changed.steps.filed();
        let named = committed
            .or(self.rows.get(&change.object[..]))
            .map(Row::revisions)
            .unwrap_or_default();
        // A dead owner may still have a blob under way, so recovery queues it as one that may land.
        let may_land = change
            .revisions
            .iter()
            .filter_map(queued)
            .any(|orphan| orphan.landing == Landing::MayLand);
        // A write that ends by itself has no blob under way. A revision that it recorded in advance
        // and never wrote needs no orphan entry.
        let is_written = |revision: &Uuid| {
            self.revisions
                .get(revision)
                .is_none_or(|known| !known.path.is_empty())
        };
        let is_spare = |revision: &Uuid| !may_land && !is_written(revision);
        let is_named = |revision: &Uuid| named.contains(revision) || filed.contains(revision);
        let is_kept = |revision: &&Uuid| {
            queued(revision).is_some() || is_named(revision) || is_spare(revision)
        };
        if let Some(lost) = change.revisions.iter().find(|lost| !is_kept(lost)) {
            self.violated(
                "I3",
                format!(
                    "revision of a settled change is neither named nor queued: change={id} \
                     revision={lost}"
                ),
            );
        }
        if committed.is_some()
            || change
                .revisions
                .iter()
                .any(|revision| filed.contains(revision))
        {
            return None;
        }
        if may_land {
            if self.is_of_dead_member(Some(change.epoch)) {
                coverage.count("members: a change of a dead member fenced");
            }
            coverage.count("recovery: a change fenced");
            return Some("fenced");
        }
        coverage.count("swap: superseded");
        self.superseded(id, &change, tick, blobs, coverage);
        Some("superseded")
    }

    /// Checks a change that its own write settled without a commit: superseded, in conflict, or the
    /// part of an ended upload.
    fn superseded(
        &mut self,
        id: Uuid,
        change: &Change,
        tick: Tick,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
    ) {
        // The payload names its write, which the change itself does not.
        let payloads = change
            .revisions
            .iter()
            .filter_map(|revision| payload_in(self.revisions.get(revision)?, blobs));
        let writes: Vec<u64> = payloads.filter_map(|payload| write_of(&payload)).collect();
        let object = Bytes::from(change.object.clone());
        let now = self.rows.get(&object).and_then(|row| self.payload_id(row));
        // A copy carries the payload of another write. A put with a precondition was in conflict,
        // not superseded.
        let of_this = |write: &u64| match self
            .writer(Some(*write), &object)
            .map(|called| &called.call)
        {
            Some(Call::Put {
                demand: Demand::Nothing,
                ..
            }) => !self.commits.contains_key(write),
            Some(_) | None => false,
        };
        if writes.iter().any(|write| self.is_part(*write)) {
            coverage.count("upload: a part refused");
        }
        let writes: Vec<u64> = writes.into_iter().filter(of_this).collect();
        for &write in &writes {
            self.superseded.insert(write, tick);
        }
        // The call of a write too short for its number is not known, so its answer can't be judged.
        // An object whose deadline has been moved into the past counts as replaced.
        let is_live = self
            .rows
            .get(&object)
            .is_none_or(|row| row.is_live(self.time_at(tick)));
        if let [write] = writes[..]
            && is_live
            && self.seen_by(id, Some(write), &object) == BTreeSet::from([now])
        {
            self.violated(
                "superseded",
                format!("change is superseded, but its object is unchanged: change={id}"),
            );
        }
    }
}
