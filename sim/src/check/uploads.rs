//! Multipart uploads at the end of a run: what clients heard of them is what the witness saw.
//!
//! Named checkers: I9 (acknowledged, not durable), I10 (what was answered is what happened),
//! `sessions` (refused without a reason, or answered otherwise than before), `linearizability` (a
//! listing of parts or uploads shows one moment). Deliberately not here: what becomes durable
//! (`sessions.rs`, `ending.rs`).

use std::collections::BTreeSet;

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{About, Answer, Asked, Call, Called};
use super::ending::digest;
use super::format::{Outcome, Phase, Row, Session, Written};
use super::history::{Checker, states_in};
use super::sessions::{Filing, Upload};
use crate::plan::Span;
use crate::trace::Tick;

impl Upload {
    /// How it stood at `from`, and at every change of it until `to`: from when, until when, and
    /// how.
    fn stood(&self, from: Tick, to: Tick) -> Vec<(Tick, Tick, Option<&Session>)> {
        let first = self.states.first().map_or(Tick::MAX, |(tick, _)| *tick);
        let mut stood = vec![(0, first, None)];
        for (at, (tick, session)) in self.states.iter().enumerate() {
            let until = self.states.get(at + 1).map_or(Tick::MAX, |(next, _)| *next);
            stood.push((*tick, until, session.as_ref()));
        }
        stood.retain(|(since, until, _)| *since < to && *until > from);
        stood
            .into_iter()
            .map(|(since, until, session)| (since.max(from), until.min(to), session))
            .collect()
    }

    /// What came of its completion, and when.
    fn completed(&self) -> Option<(Tick, &[u8; 32], &Written)> {
        self.states.iter().find_map(|(tick, session)| {
            match session.as_ref().map(|session| &session.phase) {
                Some(Phase::Completed { parts, written }) => Some((*tick, parts, written)),
                Some(Phase::Open | Phase::Aborted) | None => None,
            }
        })
    }

    fn aborted(&self) -> Option<Tick> {
        let is_aborted = |session: &Session| session.phase == Phase::Aborted;
        let mut states = self.states.iter();
        states
            .find(|(_, session)| session.as_ref().is_some_and(is_aborted))
            .map(|(tick, _)| *tick)
    }
}

impl Checker<'_> {
    /// What a client heard about an upload.
    pub(super) fn multipart(&mut self, number: usize, called: &Called, asked: &Asked) {
        let heard = called.answer.as_ref();
        if let About::Uploads { prefix, limit } = &asked.what {
            if let Some((at, Answer::Uploads(page, has_next))) = heard {
                self.uploads(called, (prefix, *limit), *at, (page, *has_next));
            }
            return;
        }
        let monitor = self.monitor;
        let Some((id, upload)) = monitor
            .uploads
            .iter()
            .find(|(_, upload)| upload.of == Some(asked.of))
        else {
            if !matches!(
                heard,
                None | Some((
                    _,
                    Answer::Cancelled | Answer::Conflict { .. } | Answer::Failed(_)
                ))
            ) {
                self.violated(
                    "I9",
                    called,
                    "it was answered, and there never was such an upload",
                );
            }
            return;
        };
        let Some((at, answer)) = heard else { return };
        match &asked.what {
            About::Begin { .. } => self.began(called, (id, upload), *at, answer),
            About::Part { .. } | About::PartOf { .. } => {
                self.filed(number, called, upload, *at, answer);
            }
            About::Complete { listed, .. } => {
                self.complete(called, upload, listed.as_deref(), (*at, answer));
            }
            About::Abort => self.abort(called, upload, *at, answer),
            About::Resume => self.resumed(called, upload, *at, answer),
            About::ResumeOther => {
                if *answer == Answer::Done {
                    self.violated(
                        "sessions",
                        called,
                        "an upload is taken up that is not there",
                    );
                }
            }
            About::Parts { after, limit } => {
                self.parts(called, upload, (*after, *limit), (*at, answer));
            }
            About::Uploads { .. } => {}
        }
        if let About::PartOf { from, span, .. } = &asked.what {
            self.part_of(called, from, *span, *at, answer);
        }
    }

    /// Each part and each end is the work of somebody who does not say that it failed.
    pub(super) fn work_of_somebody(&mut self) {
        let monitor = self.monitor;
        let may_have = |called: &Called| match &called.answer {
            None
            | Some((
                _,
                Answer::Cancelled | Answer::Filed { .. } | Answer::Failed(ErrorKind::Indeterminate),
            )) => true,
            Some(_) => false,
        };
        for upload in monitor.uploads.values() {
            for filing in upload.filings.iter().filter(|filing| !filing.by.is_empty()) {
                if !filing.by.iter().any(|&call| may_have(&monitor.calls[call])) {
                    let message = format!(
                        "part {} is filed, and whoever uploaded it heard otherwise",
                        filing.number
                    );
                    self.found.push(("I10", message));
                }
            }
            let twice = upload.filings.iter().enumerate().any(|(at, filing)| {
                let is_sure = filing.by.len() == 1 && filing.content.len() >= 8;
                is_sure
                    && upload.filings[..at]
                        .iter()
                        .any(|other| other.by == filing.by)
            });
            if twice && !upload.filings.iter().any(|filing| self.is_part_of(filing)) {
                self.found
                    .push(("I3", "one call files two parts".to_owned()));
            }
            if let Some((tick, ..)) = upload
                .completed()
                .filter(|_| upload.of.is_some() && !monitor.calls.is_empty())
            {
                self.owned(upload, tick, "completed", |what, answer| {
                    let is_sure = matches!(answer, Answer::Applied { .. } | Answer::Superseded);
                    matches!(what, About::Complete { .. }) && is_sure
                });
            }
            if let Some(tick) = upload
                .aborted()
                .filter(|_| upload.of.is_some() && !monitor.calls.is_empty())
            {
                self.owned(upload, tick, "aborted", |what, answer| {
                    matches!(what, About::Abort) && *answer == Answer::Done
                });
            }
        }
    }

    fn is_part_of(&self, filing: &Filing) -> bool {
        filing.by.iter().any(|&call| {
            matches!(
                &self.monitor.calls[call].call,
                Call::Multipart(Asked {
                    what: About::PartOf { .. },
                    ..
                })
            )
        })
    }

    /// What happened to an upload at this moment is the work of a call that says so, or that does
    /// not know.
    fn owned(
        &mut self,
        upload: &Upload,
        tick: Tick,
        what: &str,
        says_so: impl Fn(&About, &Answer) -> bool,
    ) {
        let monitor = self.monitor;
        let mut calls = monitor
            .calls
            .iter()
            .filter(|called| monitor.may_take_effect(called, upload, tick));
        let fits = |called: &Called| match (&called.call, &called.answer) {
            (
                Call::Multipart(_),
                None | Some((_, Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate))),
            ) => true,
            (Call::Multipart(asked), Some((_, answer))) => says_so(&asked.what, answer),
            _ => false,
        };
        if !calls.any(fits) {
            let message = format!(
                "an upload to {:?} is {what}, and nobody who asked for it heard so",
                upload.object
            );
            self.found.push(("I10", message));
        }
    }

    fn began(&mut self, called: &Called, begun: (&Bytes, &Upload), at: Tick, answer: &Answer) {
        let ((id, upload), first) = (begun, begun.1.states.first().map_or(0, |(tick, _)| *tick));
        match answer {
            Answer::Began { upload: told } => {
                if told != id || first >= at || first < called.at {
                    self.violated(
                        "I9",
                        called,
                        "an upload began that is another, or not durable",
                    );
                }
            }
            Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate) => {}
            _ => self.violated("I10", called, "it says that no upload began, and one did"),
        }
        let asked = match &called.call {
            Call::Multipart(asked) => &asked.object,
            _ => return,
        };
        if *asked != upload.object || first >= self.monitor.sealed(called.at) {
            self.violated("sessions", called, "another upload began, or too late");
        }
    }

    fn filed(
        &mut self,
        number: usize,
        called: &Called,
        upload: &Upload,
        at: Tick,
        answer: &Answer,
    ) {
        match answer {
            Answer::Filed { etag, bytes } => {
                let is_it = |filing: &&Filing| {
                    filing.by.contains(&number)
                        && (filing.etag, filing.content.len() as u64) == (*etag, *bytes)
                        && (called.at..at).contains(&filing.from)
                };
                if !upload.filings.iter().any(|filing| is_it(&filing)) {
                    self.violated("I9", called, "it was acknowledged, and is not durable");
                }
            }
            Answer::Failed(ErrorKind::Invalid) => self.refused(called, upload, at),
            _ => {}
        }
    }

    /// Whether an upload took no parts at some moment of a call.
    fn refused(&mut self, called: &Called, upload: &Upload, at: Tick) {
        let took_none = self.was(upload, called.at, at, |session| {
            !session.is_some_and(Session::is_open)
        });
        if !took_none {
            self.violated(
                "sessions",
                called,
                "it is refused, and the upload was open all along",
            );
        }
    }

    /// Whether at some moment of a call this was true of the session, as it is known then: none
    /// once its time has passed.
    fn was(
        &self,
        upload: &Upload,
        from: Tick,
        to: Tick,
        test: impl Fn(Option<&Session>) -> bool,
    ) -> bool {
        upload
            .stood(from, to)
            .into_iter()
            .any(|(since, until, session)| {
                let known =
                    |tick| session.filter(|session| session.is_live(self.monitor.time_at(tick)));
                test(known(since))
                    || test(known(until))
                    || !self.monitor.has_steady_clock() && test(session)
            })
    }

    fn part_of(&mut self, called: &Called, from: &Bytes, span: Span, at: Tick, answer: &Answer) {
        let fits = |size: u64, row: Option<&Row>| {
            row.is_some_and(|row| row.size == size && !span.fits(row.size))
        };
        match answer {
            Answer::Absent if !self.was_absent(from, called.at, at) => {
                self.violated(
                    "linearizability",
                    called,
                    "at no moment of the call the object was absent",
                );
            }
            Answer::NotSatisfiable { size }
                if !states_in(self.monitor, from, called.at, at)
                    .any(|(_, row)| fits(*size, row)) =>
            {
                self.violated(
                    "linearizability",
                    called,
                    "at no moment of the call the object was so short",
                );
            }
            _ => {}
        }
    }

    fn complete(
        &mut self,
        called: &Called,
        upload: &Upload,
        listed: Option<&[(u32, u128)]>,
        heard: (Tick, &Answer),
    ) {
        let (at, answer) = heard;
        let same = |parts: &[u8; 32]| listed.is_none_or(|listed| digest(listed) == *parts);
        match answer {
            Answer::Applied { .. } | Answer::Superseded => {
                let told = upload
                    .completed()
                    .filter(|(tick, parts, _)| *tick < at && same(parts));
                match told {
                    Some((_, _, written)) if tells(answer, written) => {}
                    Some(_) => {
                        self.violated("sessions", called, "it is answered otherwise than before");
                    }
                    None => self.violated("I9", called, "it was acknowledged, and is not durable"),
                }
            }
            Answer::Failed(ErrorKind::Invalid) => {
                let was_other = self.was(upload, called.at, at, |session| {
                    match session.map(|session| &session.phase) {
                        Some(Phase::Completed { parts, .. }) => !same(parts),
                        Some(Phase::Aborted) | None => true,
                        Some(Phase::Open) => false,
                    }
                });
                if !was_other && !self.was_unlawful(upload, listed, called.at, at) {
                    self.violated(
                        "sessions",
                        called,
                        "it is refused, and the upload could be completed all along",
                    );
                }
            }
            _ => {}
        }
    }

    /// Whether at some moment the parts of an open upload were not as listed, or broke a rule.
    fn was_unlawful(
        &self,
        upload: &Upload,
        listed: Option<&[(u32, u128)]>,
        from: Tick,
        to: Tick,
    ) -> bool {
        let moments = upload
            .filings
            .iter()
            .flat_map(|filing| [Some(filing.from), filing.until]);
        let moments = moments.flatten().filter(|tick| (from..to).contains(tick));
        std::iter::once(from).chain(moments).any(|moment| {
            let parts = upload.parts_at(moment);
            let all: Vec<(u32, u128)> = parts
                .iter()
                .map(|part| (part.number.into(), part.etag))
                .collect();
            !self.monitor.is_lawful(listed.unwrap_or(&all), &parts)
        })
    }

    fn abort(&mut self, called: &Called, upload: &Upload, at: Tick, answer: &Answer) {
        match answer {
            Answer::Done if upload.aborted().is_none_or(|tick| tick >= at) => {
                self.violated("I9", called, "it was acknowledged, and is not durable");
            }
            Answer::Failed(ErrorKind::Invalid) => {
                let is_over =
                    |session: Option<&Session>| match session.map(|session| &session.phase) {
                        None | Some(Phase::Completed { .. }) => true,
                        Some(Phase::Open | Phase::Aborted) => false,
                    };
                if !self.was(upload, called.at, at, is_over) {
                    self.violated(
                        "sessions",
                        called,
                        "it is refused, and the upload could be aborted all along",
                    );
                }
            }
            _ => {}
        }
    }

    fn resumed(&mut self, called: &Called, upload: &Upload, at: Tick, answer: &Answer) {
        let is_known = |session: Option<&Session>| match session.map(|session| &session.phase) {
            Some(Phase::Open | Phase::Completed { .. }) => true,
            Some(Phase::Aborted) | None => false,
        };
        let is_so = match answer {
            Answer::Done => self.was(upload, called.at, at, is_known),
            Answer::Failed(ErrorKind::Invalid) => {
                self.was(upload, called.at, at, |session| !is_known(session))
            }
            _ => true,
        };
        if !is_so {
            self.violated(
                "sessions",
                called,
                "at no moment of the call the upload stood so",
            );
        }
    }

    /// A page of parts is that of one moment.
    fn parts(
        &mut self,
        called: &Called,
        upload: &Upload,
        query: (Option<u32>, usize),
        heard: (Tick, &Answer),
    ) {
        let ((after, limit), (at, answer)) = (query, heard);
        match answer {
            Answer::Parts(page, has_next) => {
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
                    let stood = |session: Option<&Session>| session.is_some_and(Session::is_open);
                    expected == *page
                        && all.next().is_some() == *has_next
                        && self.was(upload, *moment, moment + 1, stood)
                };
                if !moments.iter().any(fits) {
                    self.violated(
                        "linearizability",
                        called,
                        "at no moment of the call the parts were so",
                    );
                }
            }
            Answer::Failed(ErrorKind::Invalid) => self.refused(called, upload, at),
            _ => {}
        }
    }

    /// A page of uploads is that of one moment.
    fn uploads(
        &mut self,
        called: &Called,
        query: (&Bytes, usize),
        at: Tick,
        page: (&[(Bytes, Bytes)], bool),
    ) {
        let ((prefix, limit), (page, has_next)) = (query, page);
        let states = || {
            self.monitor
                .uploads
                .values()
                .flat_map(|upload| &upload.states)
        };
        let mut moments: BTreeSet<Tick> = BTreeSet::from([called.at]);
        moments.extend(
            states()
                .map(|(tick, _)| *tick)
                .filter(|tick| (called.at..at).contains(tick)),
        );
        let (from_ms, to_ms) = (self.monitor.time_at(called.at), self.monitor.time_at(at));
        let deadlines = states().filter_map(|(_, session)| Some(session.as_ref()?.expires_at));
        let mut times: BTreeSet<u64> = deadlines
            .filter(|deadline| (from_ms..=to_ms).contains(deadline))
            .collect();
        times.insert(from_ms);
        let fits = |moment: Tick, now_ms: u64| {
            let stands = |upload: &Upload| {
                let stood = upload.stood(moment, moment + 1);
                stood
                    .last()
                    .and_then(|(.., session)| *session)
                    .is_some_and(|now| now.is_open() && now.is_live(now_ms))
            };
            let uploads = self
                .monitor
                .uploads
                .iter()
                .filter(|(_, upload)| upload.object.starts_with(prefix));
            let open = uploads.filter(|(_, upload)| stands(upload));
            let mut all: Vec<(Bytes, Bytes)> = open
                .map(|(id, upload)| (upload.object.clone(), id.clone()))
                .collect();
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
                "at no moment of the call the uploads were so",
            );
        }
    }
}

/// Whether an answer is what is remembered of a completion.
fn tells(answer: &Answer, written: &Written) -> bool {
    match (answer, written.outcome) {
        (
            Answer::Applied {
                version,
                etag,
                created,
            },
            Outcome::Applied,
        ) => {
            (Some(*version), Some(etag), *created)
                == (written.version, written.etag.as_ref(), written.created)
        }
        (Answer::Superseded, Outcome::Superseded) => true,
        _ => false,
    }
}
