//! Listings: each page must show the objects of a single moment that were live at a single time of
//! day.
//!
//! The engine takes the time of day first and the snapshot afterwards, so the two moments may
//! differ by the duration of the call. Named checker: `linearizability`.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::call::{Called, Listed};
use super::format::Row;
use super::history::{Checker, row_state, states_in};
use crate::trace::Tick;

impl Checker<'_> {
    /// Checks that a page shows the state of a single moment.
    pub(super) fn list(
        &mut self,
        called: &Called,
        query: (&Bytes, Option<&Bytes>, usize),
        at: Tick,
        page: &Listed,
    ) {
        let (prefix, after, limit) = query;
        if self.may_list_otherwise(called.at, at) {
            return;
        }
        let objects = || {
            self.model
                .states
                .keys()
                .filter(|object| object.starts_with(prefix))
        };
        // The page can change only when an object of the prefix changes.
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        for object in objects() {
            moments.extend(
                states_in(self.model, object, called.at, at).map(|(tick, _)| tick.max(called.at)),
            );
        }
        let fits = |moment: &Tick, now_ms: u64| {
            let candidates = objects().filter(|object| after.is_none_or(|after| *object > after));
            let mut all = candidates.filter_map(|object| {
                let row =
                    row_state(self.model, object, moment + 1).filter(|row| row.is_live(now_ms))?;
                Some((object.clone(), row.version))
            });
            let expected: Vec<_> = all.by_ref().take(limit).collect();
            expected == page.entries && all.next().is_some() == page.has_next
        };
        let times = self.times_between(called.at, at);
        if !moments
            .iter()
            .any(|moment| times.iter().any(|&now_ms| fits(moment, now_ms)))
        {
            self.violated(
                "linearizability",
                called,
                "at no moment of the call the objects were as listed",
            );
        }
    }

    /// Checks that a page of groups shows the state of a single moment.
    pub(super) fn list_groups(
        &mut self,
        called: &Called,
        query: (&Bytes, char, Option<&Bytes>, usize),
        at: Tick,
        page: &Listed,
    ) {
        let (prefix, delimiter, after, limit) = query;
        if self.may_list_otherwise(called.at, at) {
            return;
        }
        let objects = || {
            self.model
                .states
                .keys()
                .filter(|object| object.starts_with(prefix))
        };
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        for object in objects() {
            moments.extend(
                states_in(self.model, object, called.at, at).map(|(tick, _)| tick.max(called.at)),
            );
        }
        // The delimiters of a workload are ASCII, so a byte is a character.
        let group = |object: &Bytes| {
            let end = object[prefix.len()..]
                .iter()
                .position(|&byte| char::from(byte) == delimiter)?;
            Some(object.slice(..=prefix.len() + end))
        };
        let fits = |moment: &Tick, now_ms: u64| {
            let mut all: Vec<(Bytes, u64)> = objects()
                .filter_map(|object| {
                    let row = row_state(self.model, object, moment + 1)
                        .filter(|row| row.is_live(now_ms))?;
                    Some(
                        group(object)
                            .map_or_else(|| (object.clone(), row.version), |group| (group, 0)),
                    )
                })
                .filter(|(name, _)| after.is_none_or(|after| name > after))
                .collect();
            // Keys of a group are adjacent, because all of them share its prefix.
            all.dedup();
            let has_next = all.len() > limit;
            all.truncate(limit);
            all == page.entries && has_next == page.has_next
        };
        let times = self.times_between(called.at, at);
        if !moments
            .iter()
            .any(|moment| times.iter().any(|&now_ms| fits(moment, now_ms)))
        {
            self.violated(
                "linearizability",
                called,
                "at no moment of the call the objects were as listed",
            );
        }
    }

    /// Checks a listing of several pages, each of a moment of its own. Each entry existed at some
    /// moment of the call, and each object that existed throughout is listed.
    pub(super) fn list_all(
        &mut self,
        called: &Called,
        prefix: &Bytes,
        at: Tick,
        entries: &[(Bytes, u64)],
    ) {
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.violated("linearizability", called, "the listing is out of order");
        }
        for (object, version) in entries {
            // An entry must have been live when the call began, or have come later.
            let asked_ms = self.model.time_at(called.at);
            let fits = |row: Option<&Row>| {
                row.is_some_and(|row| row.version == *version && row.is_live(asked_ms))
            };
            if !states_in(self.model, object, called.at, at).any(|(_, row)| fits(row)) {
                self.violated(
                    "linearizability",
                    called,
                    "lists an object that existed at no moment of the call",
                );
            }
        }
        let objects = self
            .model
            .states
            .keys()
            .filter(|object| object.starts_with(prefix));
        for object in objects {
            let end_ms = self.model.time_at(at);
            let is_live = |row: Option<&Row>| row.is_some_and(|row| row.is_live(end_ms));
            // A page may miss an object that was absent or expired at any moment of the call.
            let always = states_in(self.model, object, called.at, at).all(|(_, row)| is_live(row));
            let may_miss = self.may_list_otherwise(called.at, at);
            if always && !may_miss && !entries.iter().any(|(entry, _)| entry == object) {
                self.violated(
                    "linearizability",
                    called,
                    "misses an object that existed throughout the call",
                );
            }
        }
    }

    /// Returns the times of day that may decide whether an object is live: the beginning of the
    /// call and each deadline in it.
    fn times_between(&self, from: Tick, to: Tick) -> BTreeSet<u64> {
        let from_ms = self.model.time_at(from);
        let to_ms = self.model.time_at(to);
        let states = self.model.states.values().flatten();
        let deadlines = states.filter_map(|(_, row)| row.as_ref()?.expires_at);
        let mut times: BTreeSet<u64> = deadlines
            .filter(|deadline| (from_ms..=to_ms).contains(deadline))
            .collect();
        times.insert(from_ms);
        times
    }
}
