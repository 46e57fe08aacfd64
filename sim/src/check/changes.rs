//! Changes as the witness sees them: recorded before the first blob, and settled in the batch that
//! ends them.
//!
//! Named checkers: I4 (a revision is fresh), I3 (what is settled is named or queued, all of it),
//! `superseded`, `epoch`. Deliberately not here: what the rows of the same batch say
//! (`witness.rs`), and the parts that it files (`sessions.rs`).

use std::collections::BTreeSet;

use bytes::Bytes;
use uuid::Uuid;

use super::call::{Call, Demand};
use super::format::{Change, Landing, Row};
use super::monitor::{Monitor, Revision};
use super::trailers::payload_in;
use super::witness::Changed;
use super::words::short;
use crate::blobs::Blobs;
use crate::coverage::Coverage;
use crate::payload::write_of;
use crate::trace::Tick;

impl Monitor {
    /// The revision of the tombstone that an upload may have seen when it began: how its object
    /// stood from its call on until its change was durable.
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
        let first = states.partition_point(|(tick, _)| *tick < from);
        let before = first.checked_sub(1).and_then(|at| states[at].1.as_ref());
        let within = states[first..]
            .iter()
            .take_while(|(tick, _)| *tick <= until)
            .map(|(_, row)| row.as_ref());
        std::iter::once(before)
            .chain(within)
            .map(|row| row.and_then(|row| row.revisions().first().copied()))
            .collect()
    }

    /// A change is recorded. In words.
    pub(super) fn recorded(
        &mut self,
        id: Uuid,
        change: &Change,
        tick: Tick,
        coverage: &mut Coverage,
    ) -> String {
        if change.epoch != self.epoch {
            let message = format!(
                "change {id} is of epoch {}, and it is {} now",
                change.epoch, self.epoch
            );
            self.violated("epoch", message);
        }
        // An upload that needs more revisions than it knew of records its change again, with more
        // of them.
        let before = self
            .changes
            .get(&id)
            .map(|change| change.revisions.as_slice())
            .unwrap_or_default();
        let fresh = change.revisions.strip_prefix(before).unwrap_or_default();
        if !before.is_empty() {
            coverage.count("change: recorded again");
        }
        let is_known = |revision: &Uuid| self.revisions.contains_key(revision);
        if self.ended.contains(&id) || fresh.is_empty() || fresh.iter().any(is_known) {
            self.violated(
                "I4",
                format!("change {id} is recorded again, or for a revision that is not fresh"),
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
        self.recorded.entry(id).or_insert(tick);
        self.changes.insert(id, change.clone());
        format!("change {} recorded", short(id))
    }

    /// A change is settled, if it was there. In words, where no row and no part tells of it.
    pub(super) fn settled(
        &mut self,
        id: Uuid,
        changed: &Changed,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
    ) -> Option<String> {
        let change = self.changes.remove(&id)?;
        self.ended.insert(id);
        let queued = |revision: &Uuid| changed.queued(revision);
        let committed = changed
            .rows
            .iter()
            .find_map(|(_, row)| row.as_ref().filter(|row| row.operation == id));
        let filed = changed.steps.filed();
        let named = committed
            .or(self.rows.get(&change.object[..]))
            .map(Row::revisions)
            .unwrap_or_default();
        let may_land = change
            .revisions
            .iter()
            .filter_map(queued)
            .any(|orphan| orphan.landing == Landing::MayLand);
        // A write that comes to its end by itself has no blob under way: what it recorded in
        // advance and never wrote is nothing.
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
                format!("change {id} is settled, and its revision {lost} neither named nor queued"),
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
            coverage.count("recovery: a change fenced");
            return Some(format!("change {} fenced", short(id)));
        }
        coverage.count("swap: superseded");
        self.superseded(id, &change, tick, blobs, coverage);
        Some(format!("change {} superseded", short(id)))
    }

    /// A change is settled and came to nothing: it was superseded, or in conflict, or the part of
    /// an upload that has ended.
    fn superseded(
        &mut self,
        id: Uuid,
        change: &Change,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
    ) {
        let payloads = change
            .revisions
            .iter()
            .filter_map(|revision| payload_in(self.revisions.get(revision)?, blobs));
        let writes: Vec<u64> = payloads.filter_map(|payload| write_of(&payload)).collect();
        let object = Bytes::from(change.object.clone());
        let now = self
            .rows
            .get(&object)
            .and_then(|row| row.revisions().first().copied());
        // A copy brings the payload of another write; one that demanded something was in conflict.
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
        // The call of a probe, or of a write too short to tell its number, is not known: nothing
        // can be said then. One whose deadline was moved to before now stands no more.
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
                format!("change {id} is superseded, and what it saw stands still"),
            );
        }
    }
}
