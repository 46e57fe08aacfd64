//! Listings of parts and of uploads: each page must show the state of a single moment of its call.
//!
//! Named checker: `linearizability`.

use std::collections::BTreeSet;

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{Answer, Called};
use super::format::Session;
use super::history::Checker;
use super::sessions::{Filing, UploadHistory};
use crate::trace::Tick;

impl Checker<'_> {
    /// Checks that a page of parts shows the state of a single moment.
    pub(super) fn parts(
        &mut self,
        called: &Called,
        upload: &UploadHistory,
        query: (Option<u32>, usize),
        heard: (Tick, &Answer),
    ) {
        let (after, limit) = query;
        let (at, answer) = heard;
        match answer {
            Answer::Parts(page, has_next) => {
                // The page can change only when a part is stored.
                let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
                moments.extend(upload.filings.iter().map(|filing| filing.from));
                moments.retain(|moment| (called.at..at).contains(moment));
                let fits = |moment: &Tick| {
                    let parts = upload.parts_at(*moment).into_iter();
                    let entry = |part: &Filing| {
                        (u32::from(part.number), part.etag, part.content.len() as u64)
                    };
                    let mut all = parts
                        .map(entry)
                        .filter(|part| after.is_none_or(|after| part.0 > after));
                    let expected: Vec<_> = all.by_ref().take(limit).collect();
                    let is_open = |session: Option<&Session>| session.is_some_and(Session::is_open);
                    expected == *page
                        && all.next().is_some() == *has_next
                        && self.held_during(upload, *moment, moment + 1, is_open)
                };
                if !moments.iter().any(fits) {
                    self.violated(
                        "linearizability",
                        called,
                        "at no moment of the call the parts were as listed",
                    );
                }
            }
            Answer::Failed(ErrorKind::Invalid) => self.check_refused(called, upload, at),
            _ => {}
        }
    }

    /// Checks that a page of uploads shows the state of a single moment.
    pub(super) fn uploads(
        &mut self,
        called: &Called,
        query: (&Bytes, usize),
        at: Tick,
        page: (&[(Bytes, Bytes)], bool),
    ) {
        let (prefix, limit) = query;
        let (page, has_next) = page;
        let states = || {
            self.model
                .uploads
                .values()
                .flat_map(|upload| &upload.states)
        };
        // The page can change only when an upload begins or ends.
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        moments.extend(
            states()
                .map(|(tick, _)| *tick)
                .filter(|tick| (called.at..at).contains(tick)),
        );
        // The engine takes the time of day before the snapshot, so moment and time are varied
        // independently.
        let from_ms = self.model.time_at(called.at);
        let to_ms = self.model.time_at(at);
        let deadlines = states().filter_map(|(_, session)| Some(session.as_ref()?.expires_at));
        let mut times: BTreeSet<u64> = deadlines
            .filter(|deadline| (from_ms..=to_ms).contains(deadline))
            .collect();
        times.insert(from_ms);
        let fits = |moment: Tick, now_ms: u64| {
            let is_listed = |upload: &UploadHistory| {
                let states = upload.states_between(moment, moment + 1);
                states
                    .last()
                    .and_then(|(.., session)| *session)
                    .is_some_and(|now| now.is_open() && now.is_live(now_ms))
            };
            let uploads = self
                .model
                .uploads
                .iter()
                .filter(|(_, upload)| upload.object.starts_with(prefix));
            let open = uploads.filter(|(_, upload)| is_listed(upload));
            let mut all: Vec<(Bytes, Bytes)> = open
                .map(|(id, upload)| (upload.object.clone(), id.clone()))
                .collect();
            // A listing is ordered by object, then by upload id.
            all.sort();
            let is_cut = all.len() > limit;
            all.truncate(limit);
            all == page && is_cut == has_next
        };
        if !moments
            .iter()
            .any(|&moment| times.iter().any(|&now_ms| fits(moment, now_ms)))
        {
            self.violated(
                "linearizability",
                called,
                "at no moment of the call the uploads were as listed",
            );
        }
    }
}
