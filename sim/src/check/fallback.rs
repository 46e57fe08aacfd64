//! Checks of a store over a fallback.
//!
//! An object of the fallback is the state of its object until the store commits a row or a mask of
//! it: a row without a version ([`Row::is_of_source`]). So every check of reads, listings and
//! preconditions covers it. A mask is a last version that is stored without a row.
//!
//! Named checkers: `fallback` (an adopted object is one of the source, with its attributes, times
//! and deadline; an outside write never shows once the store has the object), `mask` (no mask is
//! dropped before the seal), `seal` (every live object of the source is in the store or masked;
//! nothing is read afterwards). A deleted object that returns has no call that wrote it
//! (`linearizability`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::commit_observer::Changed;
use super::format::{Body, Expiration, Row};
use super::history::{Checker, row_state, states_in};
use super::model::Model;
use super::words::readable;
use crate::disks::source::SourceObject;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// Key of the record of the fallback in the meta table.
pub(super) const FALLBACK: &[u8] = b"fallback";

/// Version of the UUID of a move.
const MOVED: usize = 8;

/// Number that an update writes as the version that it read, if only the fallback had the object:
/// this number plus that of the write.
pub(crate) const SAW_IN_SOURCE: u64 = 1 << 40;

/// State of the fallback of a store, as in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum SourceState {
    Open,
    Sealed,
    Lost,
}

/// Decodes the state of a record: `version=1 | postcard: description, state, ..`.
pub(super) fn source_state(value: &[u8]) -> Option<SourceState> {
    let body = value.strip_prefix(&[1])?;
    let (record, _) = postcard::take_from_bytes::<(String, SourceState)>(body).ok()?;
    Some(record.1)
}

/// Fallback of a store.
#[derive(Default)]
pub(super) struct SourceModel {
    /// Every object that the source ever had, by row key. The first is that of the beginning.
    rows: BTreeMap<Bytes, Vec<Row>>,
    /// Objects that an outside writer added during the run.
    added: BTreeSet<Bytes>,
    /// Answers that denied an object of the source.
    hidden: Vec<(Tick, Bytes)>,
    /// Tick at which the seal became durable.
    sealed: Option<Tick>,
    /// True if an engine was opened after the seal.
    is_over: bool,
    /// Tick from which on no call reads the source: the migration has reported its seal.
    reported: Option<Tick>,
}

impl Row {
    /// Returns whether this is an object that only the fallback has. It has neither version nor
    /// etag.
    pub(super) fn is_of_source(&self) -> bool {
        self.version == 0
    }
}

impl Model {
    /// Records that engines are opened over a fallback.
    pub(crate) fn attach_source(&mut self) {
        self.source = Some(SourceModel::default());
    }

    /// Returns whether the store has a fallback that is not sealed.
    pub(crate) fn has_open_source(&self) -> bool {
        let source = self.source.as_ref();
        source.is_some_and(|source| source.sealed.is_none())
    }

    /// Records an object of the fallback that was written by an outside writer.
    pub(crate) fn source_written(&mut self, tick: Tick, object: &Bytes, written: &SourceObject) {
        let row = Row {
            version: 0,
            operation: Uuid::nil(),
            size: written.payload.len() as u64,
            checksum: Some(xxh3_64(&written.payload)),
            created: written.modified_ms,
            modified: written.modified_ms,
            expires_at: written.expires_at,
            expiration: Expiration::Manual,
            write: Some(written.write),
            amend: None,
            saw: None,
            body: Body::Embedded(written.payload.clone()),
            relocated: None,
        };
        let Some(source) = &mut self.source else {
            return;
        };
        let is_added = !source.rows.contains_key(object) && !self.lives.is_empty();
        if is_added {
            source.added.insert(object.clone());
        }
        source
            .rows
            .entry(object.clone())
            .or_default()
            .push(row.clone());
        let is_sealed = source.sealed.is_some();
        let is_new = match self.states.get(object).and_then(|states| states.last()) {
            Some((_, state)) => state.as_ref().is_some_and(Row::is_of_source),
            None => true,
        };
        if is_new && !is_sealed {
            let states = self.states.entry(object.clone()).or_default();
            states.push((tick, Some(row)));
        }
    }

    /// Records that the source denied an object that it has.
    pub(crate) fn source_hid(&mut self, tick: Tick, object: &Bytes) {
        if let Some(source) = &mut self.source {
            source.hidden.push((tick, object.clone()));
        }
    }

    /// Returns whether the source denied an object, or any object, at or after `from` and before
    /// `to`.
    pub(super) fn was_hidden(&self, object: Option<&Bytes>, from: Tick, to: Tick) -> bool {
        let hidden = self.source.iter().flat_map(|source| &source.hidden);
        hidden
            .into_iter()
            .any(|(tick, key)| (from..to).contains(tick) && object.is_none_or(|of| of == key))
    }

    /// Checks that the source is not read after the seal.
    pub(crate) fn source_asked(&mut self, tick: Tick) {
        let Some(source) = &self.source else { return };
        let life = self.life_of(tick);
        let mut open = self
            .calls
            .iter()
            .filter(|called| called.answer.is_none() && called.at >= life);
        let is_late = source
            .reported
            .is_some_and(|reported| open.all(|called| called.at > reported));
        if source.is_over || is_late {
            self.violated("seal", "the fallback is read after the seal");
        }
    }

    /// Records that a migration has reported the seal.
    pub(crate) fn source_reported(&mut self, tick: Tick) {
        let Some(source) = &mut self.source else {
            return;
        };
        source.reported.get_or_insert(tick);
        if source.sealed.is_none() {
            self.violated("seal", "a seal is reported before it is durable");
        }
    }

    /// Records that an engine has opened.
    pub(super) fn source_opened(&mut self) {
        if let Some(source) = &mut self.source {
            source.is_over = source.sealed.is_some();
        }
    }

    /// Checks the record of the fallback that a batch stores.
    pub(super) fn source_recorded(&mut self, tick: Tick, state: SourceState) {
        let Some(source) = &mut self.source else {
            return;
        };
        match state {
            SourceState::Open if source.sealed.is_none() => {}
            SourceState::Sealed => {
                if source.sealed.is_none() {
                    source.sealed = Some(tick);
                    self.check_seal(tick);
                }
            }
            SourceState::Open | SourceState::Lost => {
                self.violated(
                    "seal",
                    format!("unexpected record of a fallback: {state:?}"),
                );
            }
        }
    }

    /// Checks that every live object of the source is in the store or masked. The objects that are
    /// in neither are absent from now on.
    fn check_seal(&mut self, tick: Tick) {
        let now_ms = self.time_at(tick);
        let left: Vec<(Bytes, bool)> = self
            .states
            .iter()
            .filter_map(|(object, states)| {
                let row = states.last()?.1.as_ref()?;
                row.is_of_source()
                    .then(|| (object.clone(), row.is_live(now_ms)))
            })
            .collect();
        for (object, is_live) in left {
            // A pass may not have seen an object that was added behind its position.
            let was_added = self
                .source
                .as_ref()
                .is_some_and(|source| source.added.contains(&object));
            if is_live && !was_added {
                let name = readable(&object);
                self.violated("seal", format!("sealed without an object: object={name}"));
            }
            self.renamed_away.insert((object.clone(), tick));
            self.states.entry(object).or_default().push((tick, None));
        }
    }

    /// Returns the present object of the source, if the store has neither row nor mask of it.
    pub(super) fn in_source(&self, object: &Bytes) -> Option<&Row> {
        let (_, row) = self.states.get(object)?.last()?;
        row.as_ref().filter(|row| row.is_of_source())
    }

    /// Returns whether a row is an object of the source that was moved into the store. A copy may
    /// have the same payload, if it is a copy of a copy; the operation of a move is marked.
    pub(super) fn is_adopted(&self, object: &Bytes, row: &Row) -> bool {
        row.operation.get_version_num() == MOVED
            && self.in_source(object).is_some()
            && self.source_row(object, row.write).is_some()
    }

    fn source_row(&self, object: &Bytes, write: Option<u64>) -> Option<&Row> {
        let rows = self.source.as_ref()?.rows.get(object)?;
        rows.iter().find(|row| row.write == write)
    }

    /// Returns whether the source ever had the object with this time of creation.
    pub(super) fn was_source_created(&self, object: &Bytes, created: u64) -> bool {
        let rows = self
            .source
            .as_ref()
            .and_then(|source| source.rows.get(object));
        rows.is_some_and(|rows| rows.iter().any(|row| row.created == created))
    }

    /// Returns whether a row of the store is an object of the source that was moved.
    pub(super) fn was_moved(&self, object: &Bytes, row: &Row) -> bool {
        row.version > 0 && self.source_row(object, row.write).is_some()
    }

    /// Checks that a moved object is as it was in the source.
    pub(super) fn check_adopted(&mut self, object: &Bytes, row: &Row, coverage: &mut Coverage) {
        coverage.count("fallback: an object moved");
        if matches!(row.body, Body::Tombstone(_)) {
            coverage.count("fallback: a large object moved");
        }
        let Some(was) = self.source_row(object, row.write) else {
            return;
        };
        let of = |row: &Row| (row.size, row.created, row.modified, row.expires_at);
        if of(was) != of(row) || row.amend.is_some() {
            let name = readable(object);
            self.violated(
                "fallback",
                format!("moved with other metadata: object={name}"),
            );
        }
    }

    /// Checks the removal of an object that only the fallback has: a mask remains.
    pub(super) fn check_mask(
        &mut self,
        object: &Bytes,
        changed: &Changed,
        coverage: &mut Coverage,
    ) {
        coverage.count("fallback: an object masked");
        let mut masks = changed.last_versions.iter();
        if !masks.any(|(masked, last)| masked == object && last.is_some()) {
            let name = readable(object);
            self.violated("mask", format!("deleted without a mask: object={name}"));
        }
    }

    /// Checks that no mask is dropped before the seal.
    pub(super) fn check_mask_dropped(&mut self, object: &Bytes) {
        if self.has_open_source() {
            let name = readable(object);
            self.violated(
                "mask",
                format!("mask dropped before the seal: object={name}"),
            );
        }
    }

    fn was_free_of_source(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        let is_of_source = |row: Option<&Row>| row.is_some_and(Row::is_of_source);
        is_of_source(row_state(self, object, to))
            && (self.was_hidden(Some(object), from, to)
                || states_in(self, object, from, to).any(|(_, row)| row.is_none()))
    }

    /// Returns whether an update that read `saw` lost a write or an object of the source. `tick` is
    /// that of its commit.
    pub(super) fn is_lost_over_source(
        &self,
        object: &Bytes,
        row: &Row,
        saw: u64,
        tick: Tick,
    ) -> bool {
        let now = self.in_source(object);
        if saw >= SAW_IN_SOURCE {
            // The source may have changed since. Its object must be one of this name.
            return now.is_none() || self.source_row(object, Some(saw - SAW_IN_SOURCE)).is_none();
        }
        saw == 0 && now.is_some_and(|row| row.is_live(self.time_at(tick))) && {
            let called = self.writer(row.write, object);
            let from = called.map_or(tick, |called| called.at);
            !self.was_free_of_source(object, from, tick)
        }
    }
}

impl Checker<'_> {
    /// Returns whether a listing may lack objects of the source: it hid one, or an outside writer
    /// added one meanwhile.
    pub(super) fn may_list_otherwise(&self, from: Tick, to: Tick) -> bool {
        let was_added = |source: &SourceModel| {
            source.added.iter().any(|object| {
                let states = self.model.states.get(object).into_iter().flatten();
                states.take(1).any(|(tick, _)| (from..to).contains(tick))
            })
        };
        self.model.source.as_ref().is_some_and(was_added) || self.model.was_hidden(None, from, to)
    }

    /// Returns whether only the source has an object, and was asked at a moment at which it did not
    /// have it, or denied it. `from` is the tick of the call, and `to` that of its commit.
    pub(super) fn was_free_of_source(&self, object: &Bytes, from: Tick, to: Tick) -> bool {
        self.model.was_free_of_source(object, from, to)
    }

    /// Returns whether a conflict without a present object is justified by an object of the source
    /// that was there at some moment of the call.
    pub(super) fn was_in_source(
        &self,
        object: &Bytes,
        from: Tick,
        to: Tick,
        is_met: impl Fn(&Row) -> bool,
    ) -> bool {
        states_in(self.model, object, from, to)
            .any(|(_, row)| row.is_some_and(|row| row.is_of_source() && !is_met(row)))
    }
}
