//! Metadata commits, which bring no new bytes: changes of metadata and deadlines, idle refreshes,
//! copies, renames; and batches that change several rows. Determines the kind of each commit,
//! checks it when it becomes durable, and checks at the end that a call asked for it.
//!
//! Named checkers: `idle` (an idle refresh extends the deadline of the version that was read,
//! seldom, and changes nothing else), `rename`, `metadata`, `update` (no lost update), `atomic`
//! (all or nothing), I3, I9, `linearizability`.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::call::{Answer, Call, Called, MetadataChange, Moving};
use super::commit_observer::{Before, Changed};
use super::fallback::SAW_IN_SOURCE;
use super::format::{Body, Expiration, Row};
use super::history::{Checker, matching, row_state, states_in};
use super::model::{Derived, Model, WriteOrigin};
use super::words::readable;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// Upper limit of the minimum step by which an idle refresh extends a deadline.
const IDLE_STEP_MAX: Duration = Duration::from_secs(24 * 3600);

impl Model {
    /// Returns the rows of the batch's objects before the batch.
    pub(super) fn before(&self, changed: &Changed) -> Before {
        let objects = changed.rows.iter().map(|(object, _)| object);
        objects
            .filter_map(|object| Some((object.clone(), self.rows.get(object)?.clone())))
            .collect()
    }

    /// Returns the kind of write that a row comes from.
    pub(super) fn origin(
        &self,
        object: &Bytes,
        row: &Row,
        changed: &Changed,
        before: &Before,
    ) -> WriteOrigin {
        let old = before.get(object);
        // A relocation keeps the operation, too.
        let is_same = |old: &&Row| old.operation == row.operation;
        if old
            .filter(is_same)
            .is_some_and(|old| old.revisions() != row.revisions())
        {
            return WriteOrigin::Relocated;
        }
        // A service under test does not number its writes. Then only refreshes can be recognised.
        if row.write.is_none() || self.calls.is_empty() {
            return if self.committed.contains(&row.operation) {
                WriteOrigin::Touched
            } else {
                WriteOrigin::Written
            };
        }
        // An idle refresh keeps the operation of the row. `derived` checks which row it changed and
        // how.
        if self.committed.contains(&row.operation) {
            return WriteOrigin::Touched;
        }
        // A rename removes a row with the same write and writes it under another name.
        let gone = changed.rows.iter().find(|(other, now)| {
            let was = before.get(other);
            now.is_none() && was.is_some_and(|was| was.write == row.write && was.amend == row.amend)
        });
        if let Some((from, _)) = gone {
            return WriteOrigin::Renamed(from.clone());
        }
        // The first commit of a numbered write is the write itself. Later ones carry its bytes on.
        let fresh = row
            .write
            .is_some_and(|write| !self.commits.contains_key(&write));
        if fresh && self.writer(row.write, object).is_some() {
            return WriteOrigin::Written;
        }
        if old.is_none() && self.is_adopted(object, row) {
            return WriteOrigin::Adopted;
        }
        match old {
            Some(old) if old.write == row.write && self.amends(object, row) => WriteOrigin::Amended,
            // A copy of the same bytes looks like an extension. `may_be` accepts the calls of both.
            Some(old)
                if (old.write, old.amend) == (row.write, row.amend) && old.body == row.body =>
            {
                WriteOrigin::Extended
            }
            Some(_) | None => WriteOrigin::Copied,
        }
    }

    /// Returns true if this is the first row with a change of metadata that a call asked for.
    fn amends(&self, object: &Bytes, row: &Row) -> bool {
        let asked = self.calls.iter().any(|called| match &called.call {
            Call::Change {
                object: of,
                how: MetadataChange::Amend(number),
                ..
            } => of == object && Some(*number) == row.amend,
            _ => false,
        });
        asked
            // A second row with the same number is a copy of the first.
            && !self
                .derived
                .iter()
                .any(|derived| derived.object == *object && derived.row.amend == row.amend)
    }

    /// Checks a batch that changes several rows: it is a rename, or a complete atomic batch.
    pub(super) fn together(&mut self, changed: &Changed) {
        let put = |write: u64, object: &Bytes| {
            changed.rows.iter().any(|(at, row)| {
                at == object && row.as_ref().is_some_and(|row| row.write == Some(write))
            })
        };
        let fresh: Vec<u64> = changed
            .rows
            .iter()
            .filter_map(|(_, row)| row.as_ref()?.write)
            .filter(|write| !self.commits.contains_key(write))
            .collect();
        // Most batches write no row, and need no search.
        let calls = if fresh.is_empty() {
            &[]
        } else {
            &self.calls[..]
        };
        let atomic = calls.iter().find_map(|called| match &called.call {
            Call::Atomic { pieces } => pieces
                .iter()
                .any(|piece| piece.write.is_some_and(|write| fresh.contains(&write)))
                .then_some(pieces),
            Call::Put { .. }
            | Call::Update { .. }
            | Call::Change { .. }
            | Call::Move { .. }
            | Call::Read { .. }
            | Call::Delete { .. }
            | Call::DeletePrefix { .. }
            | Call::List { .. }
            | Call::ListGroups { .. }
            | Call::ListAll { .. }
            | Call::Multipart(_)
            | Call::Other => None,
        });
        let broken = match atomic {
            Some(pieces) => pieces.iter().any(|piece| match piece.write {
                Some(write) => !put(write, &piece.object),
                None => {
                    let removed = changed
                        .rows
                        .iter()
                        .any(|(at, row)| *at == piece.object && row.is_none());
                    !removed && self.rows.contains_key(&piece.object)
                }
            }),
            None => false,
        };
        let is_atomic = atomic.is_some();
        if broken {
            self.violated("atomic", "batch commits only a part of an atomic batch");
        }
        let removed = changed.rows.iter().filter(|(_, row)| row.is_none()).count();
        // A rename changes two rows: it removes the source and writes the target.
        let is_rename = (changed.rows.len(), removed) == (2, 1);
        if changed.rows.len() > 1 && !is_atomic && !is_rename && !self.calls.is_empty() {
            self.violated(
                "I3",
                format!("batch changes several rows: count={}", changed.rows.len()),
            );
        }
    }

    /// Checks that an update replaces the version that its function read. Version 0 is an absent
    /// object.
    fn check_update(&mut self, object: &Bytes, row: &Row, old: Option<&Row>, tick: Tick) {
        let name = readable(object);
        let is_lost = row.saw.is_some_and(|saw| match old {
            None if self.source.is_some() && (saw == 0 || saw >= SAW_IN_SOURCE) => {
                self.is_lost_over_source(object, row, saw, tick)
            }
            Some(old) if saw == 0 => old.is_live(self.time_at(tick)),
            Some(old) => old.version != saw,
            None => saw != 0,
        });
        if is_lost {
            self.violated(
                "update",
                format!("lost update: object={name} read={:?}", row.saw),
            );
        }
    }

    /// Checks that an idle refresh extends the deadline of the current version and changes nothing
    /// else.
    fn check_idle_refresh(&mut self, name: &str, row: &Row, old: &Row) {
        if old.operation != row.operation {
            let version = row.version;
            self.violated(
                "idle",
                format!("idle refresh restores a version: object={name} version={version}"),
            );
        } else if !is_touch(old, row) {
            self.violated(
                "idle",
                format!("idle refresh changes other fields or is too early: object={name}"),
            );
        }
    }

    /// Checks a row by the kind of its write, and records it if it is a metadata commit.
    pub(super) fn derived(
        &mut self,
        object: &Bytes,
        row: &Row,
        origin: &WriteOrigin,
        before: &Before,
        tick: Tick,
        coverage: &mut Coverage,
    ) {
        let name = String::from_utf8_lossy(object).into_owned();
        let same = |a: &Row, b: &Row| {
            (bytes_of(a), a.size, a.checksum) == (bytes_of(b), b.size, b.checksum)
        };
        match (origin, before.get(object)) {
            (WriteOrigin::Written, old) => {
                if row.saw.is_some_and(|saw| saw >= SAW_IN_SOURCE) {
                    coverage.count("fallback: updated");
                }
                return self.check_update(object, row, old, tick);
            }
            (WriteOrigin::Adopted, _) => return self.check_adopted(object, row, coverage),
            (WriteOrigin::Relocated, Some(old)) => {
                coverage.count("tiers: relocated");
                return self.check_relocated(&name, row, old);
            }
            (WriteOrigin::Touched, Some(old)) => {
                coverage.count("swap: read, and extended");
                return self.check_idle_refresh(&name, row, old);
            }
            (WriteOrigin::Amended | WriteOrigin::Extended, Some(old)) => {
                let amends = *origin == WriteOrigin::Amended;
                coverage.count(if amends {
                    "swap: amended"
                } else {
                    "swap: extended"
                });
                if !same(old, row) || amends && old.expires_at != row.expires_at {
                    self.violated(
                        "metadata",
                        format!("change affects other fields: object={name}"),
                    );
                }
            }
            (WriteOrigin::Renamed(from), _) => {
                coverage.count("swap: renamed");
                // The removal of the source must not be matched with a delete.
                self.renamed_away.insert((from.clone(), tick));
                let same = before.get(from).is_some_and(|was| {
                    same(was, row)
                        && (was.expiration, was.expires_at) == (row.expiration, row.expires_at)
                });
                if !same {
                    self.violated(
                        "rename",
                        format!("rename changes the object: object={name}"),
                    );
                }
            }
            (WriteOrigin::Copied, _) => coverage.count("swap: copied"),
            (
                WriteOrigin::Touched
                | WriteOrigin::Relocated
                | WriteOrigin::Amended
                | WriteOrigin::Extended,
                None,
            ) => {
                self.violated(
                    "idle",
                    format!("idle refresh or change restores an absent object: object={name}"),
                );
            }
        }
        self.derived.push(Derived {
            tick,
            object: object.clone(),
            row: row.clone(),
            origin: origin.clone(),
        });
    }
}

/// Returns the place of a row's bytes, independent of the name of the object.
fn bytes_of(row: &Row) -> (Vec<Uuid>, Option<Uuid>, Option<Bytes>) {
    match &row.body {
        Body::Embedded(bytes) => (Vec::new(), None, Some(bytes.clone())),
        Body::Separate(operation) => (Vec::new(), Some(*operation), None),
        Body::Tombstone(_) => (row.revisions(), None, None),
    }
}

/// Returns true if a row differs from the old one only in a deadline that an idle refresh may have
/// extended.
fn is_touch(old: &Row, row: &Row) -> bool {
    let Expiration::TimeToIdle(idle) = old.expiration else {
        return false;
    };
    // The minimum step is a quarter of the idle time, between 1 ms and the limit.
    let step = (idle / 4).min(IDLE_STEP_MAX).max(Duration::from_millis(1));
    let step_ms = u64::try_from(step.as_millis()).unwrap_or(u64::MAX);
    let extends = match (old.expires_at, row.expires_at) {
        (Some(old), Some(new)) => new >= old + step_ms,
        (Some(_) | None, _) => false,
    };
    extends
        && Row {
            expires_at: old.expires_at,
            ..row.clone()
        } == *old
}

impl Checker<'_> {
    /// Matches the metadata commits with their calls. Each commit belongs to one call, and each
    /// acknowledged call to one commit.
    pub(super) fn derived(&mut self) {
        let model = self.model;
        let calls: Vec<&Called> = model
            .calls
            .iter()
            .filter(|called| matches!(called.call, Call::Change { .. } | Call::Move { .. }))
            .collect();
        let edges: Vec<Vec<usize>> = model
            .derived
            .iter()
            .map(|commit| {
                (0..calls.len())
                    .filter(|&at| self.may_be(commit, calls[at]))
                    .collect()
            })
            .collect();
        // A greedy assignment could fail where a matching exists: a call may fit several commits.
        if matching(&edges, calls.len()) < edges.len() {
            let ticks: Vec<Tick> = model
                .derived
                .iter()
                .zip(&edges)
                .filter(|(_, edges)| edges.is_empty())
                .map(|(commit, _)| commit.tick)
                .collect();
            self.found.push((
                "linearizability",
                format!("changes, copies or renames without a call: ticks={ticks:?}"),
            ));
        }
        for called in calls {
            self.changed(called);
        }
    }

    /// Returns true if this call may have made this commit.
    fn may_be(&self, commit: &Derived, called: &Called) -> bool {
        let fits = match (&called.call, &commit.origin) {
            (
                Call::Change {
                    object,
                    how: MetadataChange::Amend(number),
                    demand,
                },
                WriteOrigin::Amended,
            ) => {
                *object == commit.object
                    && commit.row.amend == Some(*number)
                    && self.was_met(demand, commit)
            }
            (
                Call::Change {
                    object,
                    how: MetadataChange::Extend,
                    demand,
                },
                WriteOrigin::Extended,
            ) => *object == commit.object && self.was_met(demand, commit),
            (
                Call::Move {
                    from,
                    to,
                    how: Moving::Rename,
                    if_absent,
                },
                WriteOrigin::Renamed(source),
            ) => {
                (from, to) == (source, &commit.object)
                    && (!if_absent || self.was_free(commit, called))
            }
            (
                Call::Move {
                    from,
                    to,
                    how: Moving::Copy,
                    if_absent,
                },
                WriteOrigin::Copied | WriteOrigin::Extended,
            ) => {
                let of_source = |row: &Row| row.write == commit.row.write;
                *to == commit.object
                    && (!if_absent || self.was_free(commit, called))
                    && states_in(self.model, from, called.at, commit.tick)
                        .any(|(_, row)| row.is_some_and(of_source))
            }
            _ => false,
        };
        let until = match called.answer.as_ref().map(|(at, answer)| (*at, answer)) {
            Some((at, Answer::Applied { etag, .. })) if *etag == commit.row.etag() => at,
            None
            | Some((_, Answer::Cancelled | Answer::Failed(cenotaph::ErrorKind::Indeterminate))) => {
                self.model.sealed(called.at)
            }
            Some(_) => return false,
        };
        fits && (called.at..until).contains(&commit.tick)
    }

    /// Returns true if a precondition was met right before this commit.
    fn was_met(&self, demand: &super::call::Demand, commit: &Derived) -> bool {
        demand.is_met(row_state(self.model, &commit.object, commit.tick))
    }

    /// Returns true if the object was absent or expired right before this commit.
    fn was_free(&self, commit: &Derived, called: &Called) -> bool {
        let now = self.model.time_at(commit.tick);
        if self.was_free_of_source(&commit.object, called.at, commit.tick) {
            return true;
        }
        row_state(self.model, &commit.object, commit.tick).is_none_or(|row| !row.is_live(now))
    }

    /// Checks that an acknowledged change, copy or rename has its commit.
    fn changed(&mut self, called: &Called) {
        let (object, may_keep) = match &called.call {
            Call::Change { object, how, .. } => (object, *how == MetadataChange::Extend),
            Call::Move { to, .. } => (to, false),
            _ => return,
        };
        let Some((at, Answer::Applied { version, etag, .. })) = &called.answer else {
            return;
        };
        let committed = self.model.derived.iter().any(|derived| {
            derived.object == *object
                && derived.row.etag() == *etag
                && derived.row.version == *version
                && derived.tick < *at
        });
        // An extension without an effect returns the current version.
        let was_kept = may_keep
            && states_in(self.model, object, called.at, *at).any(|(_, row)| {
                row.is_some_and(|row| row.etag() == *etag && row.version == *version)
            });
        if !committed && !was_kept {
            self.violated("I9", called, "acknowledged, but not durable");
        }
    }
}
