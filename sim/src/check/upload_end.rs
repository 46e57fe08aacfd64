//! End of a multipart upload: checks of the batch that completes or aborts it, or removes it after
//! its deadline.
//!
//! Named checkers: `sessions`, I2, I3, I5.

use std::collections::BTreeSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::call::{About, Asked, Call, Called, Demand};
use super::commit_observer::{Before, Changed};
use super::format::{Body, CompletionOutcome, Phase, Row, Session, Written};
use super::model::Model;
use super::sessions::{Filing, UploadHistory, completes, entry};
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// An upload and the batch that changes its upload record.
pub(super) struct Ending<'a> {
    pub(super) id: &'a Bytes,
    pub(super) was: &'a Session,
    /// New upload record, or `None` if it is removed.
    pub(super) now: Option<&'a Session>,
    pub(super) changed: &'a Changed,
    /// Rows of the batch's objects before the batch.
    pub(super) before: &'a Before,
    pub(super) tick: Tick,
}

/// Result of a completion.
struct Done<'a> {
    /// Numbers and etags of the parts that the row names. `None` if the row names other revisions,
    /// too.
    named: Option<&'a [(u32, u128)]>,
    /// Digest of the listed parts.
    parts: &'a [u8; 32],
    written: &'a Written,
}

impl Ending<'_> {
    /// Returns the row that the batch commits for the object of the upload.
    fn row(&self, upload: &UploadHistory) -> Option<&Row> {
        self.changed
            .rows
            .iter()
            .find_map(|(at, row)| row.as_ref().filter(|_| *at == upload.object))
    }
}

impl Model {
    /// Checks the end of an upload, or the removal of its upload record, and takes it into the
    /// model. Returns the name of the step.
    pub(super) fn check_end(
        &mut self,
        ending: &Ending<'_>,
        coverage: &mut Coverage,
    ) -> &'static str {
        let found = match self.uploads.get(ending.id) {
            Some(upload) => self.ending(upload, ending),
            None => Vec::new(),
        };
        found
            .into_iter()
            .for_each(|message| self.violated("sessions", message));
        let Some(upload) = self.uploads.get_mut(ending.id) else {
            return "";
        };
        // Only a row that the upload record names is the result of the upload.
        let row = ending.row(upload).filter(|row| completes(ending.now, row));
        let named: BTreeSet<Uuid> = row.map(Row::revisions).into_iter().flatten().collect();
        upload.states.push((ending.tick, ending.now.cloned()));
        let mut left = Vec::new();
        let of_step = ending.changed.steps.0.get(ending.id);
        for filing in upload
            .filings
            .iter_mut()
            .filter(|filing| filing.until.is_none())
        {
            // Every part ends with its upload: it becomes part of the object or is given up.
            filing.until = Some(ending.tick);
            let removed = of_step
                .is_some_and(|step| step.parts.get(&filing.number).is_some_and(Option::is_none));
            left.push((filing.number, filing.revision, removed));
        }
        let mut unlisted = 0;
        for (number, revision, is_removed) in left {
            if !is_removed {
                self.violated(
                    "sessions",
                    format!("part remains after the end of its upload: part={number}"),
                );
            }
            if !named.contains(&revision) {
                unlisted += 1;
                self.check_given_up(revision, ending.changed, "part of an ended upload");
            } else if !self.payloads.contains(&revision.as_bytes()[..]) {
                self.violated(
                    "I3",
                    format!("part of the object has no block checksums: part={number}"),
                );
            }
        }
        if !named.is_empty() && unlisted > 0 {
            coverage.count("upload: parts left out");
        }
        let counter = counter(ending.was, ending.now);
        coverage.count(counter);
        counter
    }

    /// Returns the violations in the transition of the upload record.
    fn ending(&self, upload: &UploadHistory, ending: &Ending<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let was = ending.was;
        let now = ending.now;
        // An end moves the deadline of the record, and with it the expiry entry.
        let stale = entry(&upload.object, ending.id, was);
        let fresh = now.map(|now| entry(&upload.object, ending.id, now));
        let has_entry = fresh
            .as_ref()
            .is_none_or(|fresh| self.expiry.contains(fresh));
        if !has_entry || Some(&stale) != fresh.as_ref() && self.expiry.contains(&stale) {
            found.push("expiry entry does not match the upload record".to_owned());
        }
        match now {
            None => {
                // Only the expirer removes records, and only after their deadline.
                if self.has_steady_clock() && was.is_live(self.time_at(ending.tick)) {
                    found.push("upload record removed before its deadline".to_owned());
                }
            }
            Some(now) => {
                if !was.is_open() || now.is_open() {
                    found.push(format!(
                        "invalid transition of an upload record: from={:?} to={:?}",
                        was.phase, now.phase
                    ));
                }
                if (was.initiated, &was.precondition) != (now.initiated, &now.precondition)
                    || !now.attributes.is_empty()
                {
                    found.push("end of an upload changes other fields of its record".to_owned());
                }
                found.extend(self.asked_for(upload, ending, now));
            }
        }
        found
    }

    /// Returns the violations in the relation between the end of an upload and the calls that may
    /// have asked for it.
    fn asked_for(&self, upload: &UploadHistory, ending: &Ending<'_>, now: &Session) -> Vec<String> {
        let mut found = Vec::new();
        let about: Vec<&Called> = self
            .calls
            .iter()
            .filter(|called| self.may_take_effect(called, upload, ending.tick))
            .collect();
        let is_known = !self.calls.is_empty() && upload.of.is_some();
        // The record is kept for a fixed time after the end. The end is between the call and the
        // commit.
        let earliest = about.iter().map(|called| self.time_at(called.at)).min();
        if is_known && self.has_steady_clock() {
            let was_live = earliest.is_some_and(|earliest| ending.was.is_live(earliest));
            let kept = self
                .rules
                .map(|rules| now.expires_at.saturating_sub(rules.kept_for_ms));
            let fits = |kept: u64| {
                earliest.is_some_and(|from| (from..=self.time_at(ending.tick)).contains(&kept))
            };
            if !was_live || kept.is_some_and(|kept| !fits(kept)) {
                found.push(
                    "upload ended after its deadline, or its record has another deadline"
                        .to_owned(),
                );
            }
        }
        match &now.phase {
            Phase::Open => {}
            Phase::Aborted => {
                let asked = about
                    .iter()
                    .any(|called| matches!(request(called), Some(About::Abort)));
                if is_known && !asked {
                    found.push("upload aborted without a call".to_owned());
                }
            }
            Phase::Completed { parts, written } => {
                // A superseded completion has no row to compare its list with.
                let listed = listed(upload, ending.row(upload), written);
                if listed
                    .as_ref()
                    .is_none_or(|listed| digest(listed) != *parts)
                    && written.outcome == CompletionOutcome::Applied
                {
                    found.push("upload completed with other parts than recorded".to_owned());
                }
                found.extend(self.outcome(upload, ending, written));
                let done = Done {
                    named: listed.as_deref(),
                    parts,
                    written,
                };
                let fits = |called: &&Called| self.fits(called, upload, ending, &done);
                if is_known && !about.iter().any(fits) {
                    found.push("upload completed without a matching call".to_owned());
                }
            }
        }
        found
    }

    /// Returns a violation if the recorded outcome of a completion is not the effect of its batch.
    fn outcome(
        &self,
        upload: &UploadHistory,
        ending: &Ending<'_>,
        written: &Written,
    ) -> Option<String> {
        let row = ending.row(upload);
        let old = ending.before.get(&upload.object);
        let has_expired = old.is_some_and(|old| !old.is_live(self.time_at(ending.tick)));
        match (written.outcome, row) {
            (CompletionOutcome::Applied, Some(row)) => {
                // An expired object may have been live when the completion was decided.
                let created = if has_expired {
                    written.created
                } else {
                    old.is_none()
                };
                // The record keeps the answer for later completions, so it must match the row.
                let is_recorded = completes(ending.now, row) && written.created == created;
                let is_tombstone = matches!(row.body, Body::Tombstone(_));
                (!is_recorded || !is_tombstone)
                    .then(|| "completion commits another row than recorded".to_owned())
            }
            (CompletionOutcome::Applied, None) => {
                Some("applied completion commits no row".to_owned())
            }
            (CompletionOutcome::Superseded, Some(_)) => {
                Some("superseded completion commits a row".to_owned())
            }
            (CompletionOutcome::Superseded, None) => {
                (written.version.is_some() || written.etag.is_some() || written.created)
                    .then(|| "superseded completion is recorded as committed".to_owned())
            }
        }
    }

    /// Returns true if this call may have completed the upload with this result.
    fn fits(
        &self,
        called: &Called,
        upload: &UploadHistory,
        ending: &Ending<'_>,
        done: &Done<'_>,
    ) -> bool {
        let Some(About::Complete {
            listed: asked,
            demand,
        }) = request(called)
        else {
            return false;
        };
        let Done {
            named,
            parts,
            written,
        } = *done;
        let all: Vec<(u32, u128)> = upload.parts().into_iter().map(name).collect();
        let asked = asked.as_ref().unwrap_or(&all);
        // Both preconditions apply: that of the beginning and that of the completion.
        let demands = [demand.clone(), self.demand_of(upload.of)];
        let old = ending.before.get(&upload.object);
        let live = old.filter(|old| old.is_live(self.time_at(ending.tick)));
        // The completion may have been decided before or after the expiry of the object.
        let is_met = demands.iter().all(|demand| demand.is_met(old))
            || demands.iter().all(|demand| demand.is_met(live));
        let is_free = demands.iter().all(|demand| *demand == Demand::Nothing);
        let keeps_rules = self.is_lawful(asked, &upload.parts());
        digest(asked) == *parts
            && keeps_rules
            && match written.outcome {
                CompletionOutcome::Applied => named == Some(&asked[..]) && is_met,
                CompletionOutcome::Superseded => {
                    is_free && self.has_changed(&upload.object, called.at, ending.tick)
                }
            }
    }

    /// Returns true if an object was written at or after `from` and before `to`.
    fn has_changed(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        let states = self
            .states
            .get(object)
            .map(Vec::as_slice)
            .unwrap_or_default();
        states.iter().any(|(tick, _)| (from..to).contains(tick))
    }

    /// Returns the precondition that was set when the upload began.
    pub(super) fn demand_of(&self, upload: Option<u64>) -> Demand {
        let began = self.calls.iter().find_map(|called| match &called.call {
            Call::Multipart(Asked {
                of,
                what: About::Begin { demand },
                ..
            }) if Some(*of) == upload => Some(demand),
            _ => None,
        });
        began.cloned().unwrap_or_default()
    }

    /// Returns true if a list names stored parts, in ascending order, and only the last is smaller
    /// than the minimum.
    pub(super) fn is_lawful(&self, listed: &[(u32, u128)], parts: &[&Filing]) -> bool {
        let least = self.rules.map_or(0, |rules| rules.part_bytes_min);
        let found: Option<Vec<&&Filing>> = listed
            .iter()
            .map(|listed| parts.iter().find(|part| name(part) == *listed))
            .collect();
        let is_large = |parts: &[&&Filing]| {
            parts
                .iter()
                .rev()
                // The last part may have any length.
                .skip(1)
                .all(|part| part.content.len() as u64 >= least)
        };
        !listed.is_empty()
            && listed.is_sorted_by(|a, b| a.0 < b.0)
            && found.is_some_and(|parts| is_large(&parts))
    }
}

/// Returns the numbers and etags of the parts that became this row, in its order. Returns `None` if
/// the row names another revision.
fn listed(
    upload: &UploadHistory,
    row: Option<&Row>,
    written: &Written,
) -> Option<Vec<(u32, u128)>> {
    let row = row.filter(|_| written.outcome == CompletionOutcome::Applied)?;
    let parts = upload.parts();
    row.revisions()
        .iter()
        .map(|named| {
            parts
                .iter()
                .find(|part| part.revision == *named)
                .map(|part| name(part))
        })
        .collect()
}

/// Returns the number and etag of a part.
fn name(part: &Filing) -> (u32, u128) {
    (part.number.into(), part.etag)
}

/// Returns the SHA-256 digest of part numbers and etags, each in big endian.
pub(super) fn digest(listed: &[(u32, u128)]) -> [u8; 32] {
    let mut sha256 = Sha256::new();
    for (number, etag) in listed {
        sha256.update(u16::try_from(*number).unwrap_or(0).to_be_bytes());
        sha256.update(etag.to_be_bytes());
    }
    sha256.finalize().into()
}

/// Returns the request of a call if it concerns an upload.
fn request(called: &Called) -> Option<&About> {
    match &called.call {
        Call::Multipart(asked) => Some(&asked.what),
        _ => None,
    }
}

/// Returns the coverage counter of an upload's end.
fn counter(was: &Session, now: Option<&Session>) -> &'static str {
    match now.map(|now| &now.phase) {
        Some(Phase::Open) => "upload: goes on",
        Some(Phase::Completed {
            written:
                Written {
                    outcome: CompletionOutcome::Applied,
                    ..
                },
            ..
        }) => "upload: completed",
        Some(Phase::Completed {
            written:
                Written {
                    outcome: CompletionOutcome::Superseded,
                    ..
                },
            ..
        }) => "upload: superseded",
        Some(Phase::Aborted) => "upload: aborted",
        None if was.is_open() => "upload: expired",
        None => "upload: forgotten",
    }
}
