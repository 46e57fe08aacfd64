//! How an upload ends: completed, aborted, or because its time has passed. What must be true of the
//! batch that ends it.

use std::collections::BTreeSet;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::call::{About, Asked, Call, Called, Demand};
use super::format::{Body, Outcome, Phase, Row, Session, Written};
use super::monitor::Monitor;
use super::sessions::{Filing, Upload, completes, entry};
use super::witness::{Before, Changed};
use crate::coverage::Coverage;
use crate::trace::Tick;

/// One upload, and the batch that changes its session.
pub(super) struct Ending<'a> {
    pub(super) id: &'a Bytes,
    pub(super) was: &'a Session,
    /// None if it is removed.
    pub(super) now: Option<&'a Session>,
    pub(super) changed: &'a Changed,
    /// The rows of the batch's objects before it.
    pub(super) before: &'a Before,
    pub(super) tick: Tick,
}

/// What a completion came to.
struct Done<'a> {
    /// The numbers and etags of the parts that the row names, if it names parts only.
    named: Option<&'a [(u32, u128)]>,
    /// The digest of those that were listed.
    parts: &'a [u8; 32],
    written: &'a Written,
}

impl Ending<'_> {
    /// The row that it commits for the upload's object.
    fn row(&self, upload: &Upload) -> Option<&Row> {
        self.changed
            .rows
            .iter()
            .find_map(|(at, row)| row.as_ref().filter(|_| *at == upload.object))
    }
}

impl Monitor {
    /// A session changes: it ends, or what came of it is forgotten. What happened, in words.
    pub(super) fn ends(&mut self, ending: &Ending<'_>, coverage: &mut Coverage) -> String {
        let found = match self.uploads.get(ending.id) {
            Some(upload) => self.ending(upload, ending),
            None => Vec::new(),
        };
        found
            .into_iter()
            .for_each(|message| self.violated("sessions", message));
        let Some(upload) = self.uploads.get_mut(ending.id) else {
            return String::new();
        };
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
                    format!("an upload ends, and its part {number} is left"),
                );
            }
            if !named.contains(&revision) {
                unlisted += 1;
                self.given_up(revision, ending.changed, "a part of an upload that ends");
            } else if !self.payloads.contains(&revision.as_bytes()[..]) {
                self.violated(
                    "I3",
                    format!("part {number} becomes the object without its block checksums"),
                );
            }
        }
        if !named.is_empty() && unlisted > 0 {
            coverage.count("upload: parts left out");
        }
        let how = how(ending.was, ending.now);
        coverage.count(how);
        how.to_owned()
    }

    /// What is wrong with it.
    fn ending(&self, upload: &Upload, ending: &Ending<'_>) -> Vec<String> {
        let mut found = Vec::new();
        let (was, now) = (ending.was, ending.now);
        let stale = entry(&upload.object, ending.id, was);
        let fresh = now.map(|now| entry(&upload.object, ending.id, now));
        let has_entry = fresh
            .as_ref()
            .is_none_or(|fresh| self.expiry.contains(fresh));
        if !has_entry || Some(&stale) != fresh.as_ref() && self.expiry.contains(&stale) {
            found.push("an upload ends, and its entry in the expiry index is another".to_owned());
        }
        match now {
            None => {
                if self.has_steady_clock() && was.is_live(self.time_at(ending.tick)) {
                    found.push("a session is removed before its time".to_owned());
                }
            }
            Some(now) => {
                if !was.is_open() || now.is_open() {
                    found.push(format!(
                        "a session goes from {:?} to {:?}",
                        was.phase, now.phase
                    ));
                }
                if (was.initiated, &was.precondition) != (now.initiated, &now.precondition)
                    || !now.attributes.is_empty()
                {
                    found.push("a session ends, and changes otherwise".to_owned());
                }
                found.extend(self.asked_for(upload, ending, now));
            }
        }
        found
    }

    /// Somebody asked for this end, and it is as was asked.
    fn asked_for(&self, upload: &Upload, ending: &Ending<'_>, now: &Session) -> Vec<String> {
        let mut found = Vec::new();
        let about: Vec<&Called> = self
            .calls
            .iter()
            .filter(|called| self.may_take_effect(called, upload, ending.tick))
            .collect();
        let is_known = !self.calls.is_empty() && upload.of.is_some();
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
                    "an upload ends after its time, or is remembered for another time".to_owned(),
                );
            }
        }
        match &now.phase {
            Phase::Open => {}
            Phase::Aborted => {
                let asked = about
                    .iter()
                    .any(|called| matches!(what(called), Some(About::Abort)));
                if is_known && !asked {
                    found.push("an upload is aborted, and nobody asked for it".to_owned());
                }
            }
            Phase::Completed { parts, written } => {
                let listed = listed(upload, ending.row(upload), written);
                if listed
                    .as_ref()
                    .is_none_or(|listed| digest(listed) != *parts)
                    && written.outcome == Outcome::Applied
                {
                    found.push("an upload is completed with other parts than it says".to_owned());
                }
                found.extend(self.outcome(upload, ending, written));
                let done = Done {
                    named: listed.as_deref(),
                    parts,
                    written,
                };
                let fits = |called: &&Called| self.fits(called, upload, ending, &done);
                if is_known && !about.iter().any(fits) {
                    found.push("an upload is completed, and nobody asked for it so".to_owned());
                }
            }
        }
        found
    }

    /// What a completion says of itself is what its batch does.
    fn outcome(&self, upload: &Upload, ending: &Ending<'_>, written: &Written) -> Option<String> {
        let row = ending.row(upload);
        let old = ending.before.get(&upload.object);
        let has_expired = old.is_some_and(|old| !old.is_live(self.time_at(ending.tick)));
        match (written.outcome, row) {
            (Outcome::Applied, Some(row)) => {
                let created = if has_expired {
                    written.created
                } else {
                    old.is_none()
                };
                let is_so = completes(ending.now, row) && written.created == created;
                let is_tombstone = matches!(row.body, Body::Tombstone(_));
                (!is_so || !is_tombstone)
                    .then(|| "a completion commits something else than it says".to_owned())
            }
            (Outcome::Applied, None) => {
                Some("a completion is applied, and commits nothing".to_owned())
            }
            (Outcome::Superseded, Some(_)) => {
                Some("a completion is superseded, and commits".to_owned())
            }
            (Outcome::Superseded, None) => {
                (written.version.is_some() || written.etag.is_some() || written.created)
                    .then(|| "a completion is superseded, and says that it committed".to_owned())
            }
        }
    }

    /// Whether this call may have completed the upload so.
    fn fits(&self, called: &Called, upload: &Upload, ending: &Ending<'_>, done: &Done<'_>) -> bool {
        let Some(About::Complete {
            listed: asked,
            demand,
        }) = what(called)
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
        let demands = [demand.clone(), self.demand_of(upload.of)];
        let old = ending.before.get(&upload.object);
        let live = old.filter(|old| old.is_live(self.time_at(ending.tick)));
        let is_met = demands.iter().all(|demand| demand.is_met(old))
            || demands.iter().all(|demand| demand.is_met(live));
        let is_free = demands.iter().all(|demand| *demand == Demand::Nothing);
        let keeps_rules = self.is_lawful(asked, &upload.parts());
        digest(asked) == *parts
            && keeps_rules
            && match written.outcome {
                Outcome::Applied => named == Some(&asked[..]) && is_met,
                Outcome::Superseded => {
                    is_free && self.has_changed(&upload.object, called.at, ending.tick)
                }
            }
    }

    /// Whether an object was written at or after `from` and before `to`.
    fn has_changed(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        let states = self
            .states
            .get(object)
            .map(Vec::as_slice)
            .unwrap_or_default();
        states.iter().any(|(tick, _)| (from..to).contains(tick))
    }

    /// What was demanded when the upload began.
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

    /// Whether a list names parts that are there, in order, and none too small.
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
                .skip(1)
                .all(|part| part.content.len() as u64 >= least)
        };
        !listed.is_empty()
            && listed.is_sorted_by(|a, b| a.0 < b.0)
            && found.is_some_and(|parts| is_large(&parts))
    }
}

/// The numbers and etags of the parts that became this row, in its order; none if it names
/// something else.
fn listed(upload: &Upload, row: Option<&Row>, written: &Written) -> Option<Vec<(u32, u128)>> {
    let row = row.filter(|_| written.outcome == Outcome::Applied)?;
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

fn name(part: &Filing) -> (u32, u128) {
    (part.number.into(), part.etag)
}

/// SHA-256 over the numbers and etags, big endian.
pub(super) fn digest(listed: &[(u32, u128)]) -> [u8; 32] {
    let mut sha256 = Sha256::new();
    for (number, etag) in listed {
        sha256.update(u16::try_from(*number).unwrap_or(0).to_be_bytes());
        sha256.update(etag.to_be_bytes());
    }
    sha256.finalize().into()
}

fn what(called: &Called) -> Option<&About> {
    match &called.call {
        Call::Multipart(asked) => Some(&asked.what),
        _ => None,
    }
}

/// The counter of what becomes of an upload.
fn how(was: &Session, now: Option<&Session>) -> &'static str {
    match now.map(|now| &now.phase) {
        Some(Phase::Open) => "upload: goes on",
        Some(Phase::Completed {
            written:
                Written {
                    outcome: Outcome::Applied,
                    ..
                },
            ..
        }) => "upload: completed",
        Some(Phase::Completed {
            written:
                Written {
                    outcome: Outcome::Superseded,
                    ..
                },
            ..
        }) => "upload: superseded",
        Some(Phase::Aborted) => "upload: aborted",
        None if was.is_open() => "upload: expired",
        None => "upload: forgotten",
    }
}
