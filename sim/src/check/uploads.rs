//! Multipart uploads at the end of a run: the answers of clients against the steps that the commit
//! observer has recorded.
//!
//! Named checkers: I9 (acknowledged, not durable), I10 (the answer matches the outcome), I3 (a call
//! stores at most one part), `sessions` (refused without a reason, or answered otherwise than
//! before), `linearizability`.

use bytes::Bytes;
use cenotaph::ErrorKind;

use super::call::{About, Answer, Asked, Call, Called};
use super::format::{CompletionOutcome, Phase, Row, Session, Written};
use super::history::{Checker, states_in};
use super::sessions::{Filing, UploadHistory};
use super::upload_end::digest;
use crate::plan::Span;
use crate::trace::Tick;

impl UploadHistory {
    /// Returns the states of the upload in a window, each with the part of the window for which it
    /// lasted.
    pub(super) fn states_between(
        &self,
        from: Tick,
        to: Tick,
    ) -> Vec<(Tick, Tick, Option<&Session>)> {
        // Before its first record the upload did not exist.
        let first = self.states.first().map_or(Tick::MAX, |(tick, _)| *tick);
        let mut states = vec![(0, first, None)];
        for (at, (tick, session)) in self.states.iter().enumerate() {
            let until = self.states.get(at + 1).map_or(Tick::MAX, |(next, _)| *next);
            states.push((*tick, until, session.as_ref()));
        }
        states.retain(|(since, until, _)| *since < to && *until > from);
        states
            .into_iter()
            .map(|(since, until, session)| (since.max(from), until.min(to), session))
            .collect()
    }

    /// Returns the result of the completion and its tick.
    fn completed(&self) -> Option<(Tick, &[u8; 32], &Written)> {
        self.states.iter().find_map(|(tick, session)| {
            match session.as_ref().map(|session| &session.phase) {
                Some(Phase::Completed { parts, written }) => Some((*tick, parts, written)),
                Some(Phase::Open | Phase::Aborted) | None => None,
            }
        })
    }

    /// Returns the tick at which the upload was aborted.
    fn aborted(&self) -> Option<Tick> {
        let is_aborted = |session: &Session| session.phase == Phase::Aborted;
        let mut states = self.states.iter();
        states
            .find(|(_, session)| session.as_ref().is_some_and(is_aborted))
            .map(|(tick, _)| *tick)
    }
}

impl Checker<'_> {
    /// Checks a call that concerns an upload.
    pub(super) fn multipart(&mut self, number: usize, called: &Called, asked: &Asked) {
        let heard = called.answer.as_ref();
        if let About::Uploads { prefix, limit } = &asked.what {
            if let Some((at, Answer::Uploads(page, has_next))) = heard {
                self.uploads(called, (prefix, *limit), *at, (page, *has_next));
            }
            return;
        }
        let model = self.model;
        let Some((id, upload)) = model
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
                self.violated("I9", called, "answered for an upload that never existed");
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
                    self.violated("sessions", called, "resumed an upload that does not exist");
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

    /// Checks that each stored part and each end of an upload has a call that may have caused it.
    pub(super) fn check_causes(&mut self) {
        let model = self.model;
        // Any other answer excludes the call as the cause.
        let may_have = |called: &Called| match &called.answer {
            None
            | Some((
                _,
                Answer::Cancelled | Answer::Filed { .. } | Answer::Failed(ErrorKind::Indeterminate),
            )) => true,
            Some(_) => false,
        };
        for upload in model.uploads.values() {
            for filing in upload.filings.iter().filter(|filing| !filing.by.is_empty()) {
                if !filing.by.iter().any(|&call| may_have(&model.calls[call])) {
                    let message = format!(
                        "part is stored, but its calls were answered otherwise: part={}",
                        filing.number
                    );
                    self.found.push(("I10", message));
                }
            }
            let twice = upload.filings.iter().enumerate().any(|(at, filing)| {
                // A payload of fewer than 8 bytes is too short for the number of its write, so its
                // call is not certain.
                let is_sure = filing.by.len() == 1 && filing.content.len() >= 8;
                is_sure
                    && upload.filings[..at]
                        .iter()
                        .any(|other| other.by == filing.by)
            });
            if twice && !upload.filings.iter().any(|filing| self.is_part_of(filing)) {
                self.found
                    .push(("I3", "one call stored two parts".to_owned()));
            }
            if let Some((tick, ..)) = upload
                .completed()
                .filter(|_| upload.of.is_some() && !model.calls.is_empty())
            {
                self.check_cause(upload, tick, "completed", |what, answer| {
                    let is_sure = matches!(answer, Answer::Applied { .. } | Answer::Superseded);
                    matches!(what, About::Complete { .. }) && is_sure
                });
            }
            if let Some(tick) = upload
                .aborted()
                .filter(|_| upload.of.is_some() && !model.calls.is_empty())
            {
                self.check_cause(upload, tick, "aborted", |what, answer| {
                    matches!(what, About::Abort) && *answer == Answer::Done
                });
            }
        }
    }

    /// Returns true if a part may be a copy of bytes of an object.
    fn is_part_of(&self, filing: &Filing) -> bool {
        filing.by.iter().any(|&call| {
            matches!(
                &self.model.calls[call].call,
                Call::Multipart(Asked {
                    what: About::PartOf { .. },
                    ..
                })
            )
        })
    }

    /// Checks that a call exists that may have ended the upload at this tick: its answer confirms
    /// the end, or its outcome is unknown.
    fn check_cause(
        &mut self,
        upload: &UploadHistory,
        tick: Tick,
        end: &str,
        confirms: impl Fn(&About, &Answer) -> bool,
    ) {
        let model = self.model;
        let mut calls = model
            .calls
            .iter()
            .filter(|called| model.may_take_effect(called, upload, tick));
        let fits = |called: &Called| match (&called.call, &called.answer) {
            (
                Call::Multipart(_),
                None | Some((_, Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate))),
            ) => true,
            (Call::Multipart(asked), Some((_, answer))) => confirms(&asked.what, answer),
            _ => false,
        };
        if !calls.any(fits) {
            let message = format!(
                "upload is {end}, but its calls were answered otherwise: object={:?}",
                upload.object
            );
            self.found.push(("I10", message));
        }
    }

    /// Checks the answer of a call that began an upload.
    fn began(
        &mut self,
        called: &Called,
        begun: (&Bytes, &UploadHistory),
        at: Tick,
        answer: &Answer,
    ) {
        let (id, upload) = begun;
        let first = upload.states.first().map_or(0, |(tick, _)| *tick);
        match answer {
            Answer::Began { upload: answered } => {
                if answered != id || first >= at || first < called.at {
                    self.violated(
                        "I9",
                        called,
                        "answered with another upload, or before it was durable",
                    );
                }
            }
            Answer::Cancelled | Answer::Failed(ErrorKind::Indeterminate) => {}
            _ => self.violated(
                "I10",
                called,
                "an upload began, but the call was answered otherwise",
            ),
        }
        let asked = match &called.call {
            Call::Multipart(asked) => &asked.object,
            _ => return,
        };
        if *asked != upload.object || first >= self.model.sealed(called.at) {
            self.violated(
                "sessions",
                called,
                "began an upload to another object, or too late",
            );
        }
    }

    /// Checks the answer of a call that uploads or copies a part.
    fn filed(
        &mut self,
        number: usize,
        called: &Called,
        upload: &UploadHistory,
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
                    self.violated("I9", called, "acknowledged, but not durable");
                }
            }
            Answer::Failed(ErrorKind::Invalid) => self.check_refused(called, upload, at),
            _ => {}
        }
    }

    /// Checks that the upload took no parts at some moment of a refused call.
    pub(super) fn check_refused(&mut self, called: &Called, upload: &UploadHistory, at: Tick) {
        let took_none = self.held_during(upload, called.at, at, |session| {
            !session.is_some_and(Session::is_open)
        });
        if !took_none {
            self.violated(
                "sessions",
                called,
                "refused although the upload was open throughout",
            );
        }
    }

    /// Returns true if the upload record passes a test at some moment of a call. A record counts as
    /// absent after its deadline.
    pub(super) fn held_during(
        &self,
        upload: &UploadHistory,
        from: Tick,
        to: Tick,
        test: impl Fn(Option<&Session>) -> bool,
    ) -> bool {
        upload
            .states_between(from, to)
            .into_iter()
            .any(|(since, until, session)| {
                // The engine may have judged the deadline at any moment of the state, so both ends
                // are tried.
                let known =
                    |tick| session.filter(|session| session.is_live(self.model.time_at(tick)));
                test(known(since))
                    || test(known(until))
                    // After a jump of the clock no deadline can be judged.
                    || !self.model.has_steady_clock() && test(session)
            })
    }

    /// Checks the answer of a call that copies bytes of an object into a part, as far as that
    /// object is concerned.
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
                if !states_in(self.model, from, called.at, at).any(|(_, row)| fits(*size, row)) =>
            {
                self.violated(
                    "linearizability",
                    called,
                    "at no moment of the call the object was too short for the range",
                );
            }
            _ => {}
        }
    }

    /// Checks the answer of a completion.
    fn complete(
        &mut self,
        called: &Called,
        upload: &UploadHistory,
        listed: Option<&[(u32, u128)]>,
        heard: (Tick, &Answer),
    ) {
        let (at, answer) = heard;
        // A completion without a list accepts any recorded list.
        let same = |parts: &[u8; 32]| listed.is_none_or(|listed| digest(listed) == *parts);
        match answer {
            Answer::Applied { .. } | Answer::Superseded => {
                let recorded = upload
                    .completed()
                    .filter(|(tick, parts, _)| *tick < at && same(parts));
                match recorded {
                    Some((_, _, written)) if is_recorded(answer, written) => {}
                    Some(_) => {
                        self.violated("sessions", called, "answered otherwise than recorded");
                    }
                    None => self.violated("I9", called, "acknowledged, but not durable"),
                }
            }
            Answer::Failed(ErrorKind::Invalid) => {
                let was_other = self.held_during(upload, called.at, at, |session| {
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
                        "refused although the upload could be completed throughout",
                    );
                }
            }
            _ => {}
        }
    }

    /// Returns true if at some moment of the call the list did not name stored parts in order, or
    /// broke the rule on sizes.
    fn was_unlawful(
        &self,
        upload: &UploadHistory,
        listed: Option<&[(u32, u128)]>,
        from: Tick,
        to: Tick,
    ) -> bool {
        // The parts change only when a part is stored or given up.
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
            !self.model.is_lawful(listed.unwrap_or(&all), &parts)
        })
    }

    /// Checks the answer of an abort.
    fn abort(&mut self, called: &Called, upload: &UploadHistory, at: Tick, answer: &Answer) {
        match answer {
            Answer::Done if upload.aborted().is_none_or(|tick| tick >= at) => {
                self.violated("I9", called, "acknowledged, but not durable");
            }
            Answer::Failed(ErrorKind::Invalid) => {
                let is_over =
                    |session: Option<&Session>| match session.map(|session| &session.phase) {
                        None | Some(Phase::Completed { .. }) => true,
                        Some(Phase::Open | Phase::Aborted) => false,
                    };
                if !self.held_during(upload, called.at, at, is_over) {
                    self.violated(
                        "sessions",
                        called,
                        "refused although the upload could be aborted throughout",
                    );
                }
            }
            _ => {}
        }
    }

    /// Checks the answer of a call that resumes an upload.
    fn resumed(&mut self, called: &Called, upload: &UploadHistory, at: Tick, answer: &Answer) {
        let is_known = |session: Option<&Session>| match session.map(|session| &session.phase) {
            Some(Phase::Open | Phase::Completed { .. }) => true,
            Some(Phase::Aborted) | None => false,
        };
        let was_possible = match answer {
            Answer::Done => self.held_during(upload, called.at, at, is_known),
            Answer::Failed(ErrorKind::Invalid) => {
                self.held_during(upload, called.at, at, |session| !is_known(session))
            }
            _ => true,
        };
        if !was_possible {
            self.violated(
                "sessions",
                called,
                "at no moment of the call the upload was in this state",
            );
        }
    }
}

/// Returns true if an answer is the recorded result of a completion.
fn is_recorded(answer: &Answer, written: &Written) -> bool {
    match (answer, written.outcome) {
        (
            Answer::Applied {
                version,
                etag,
                created,
            },
            CompletionOutcome::Applied,
        ) => {
            (Some(*version), Some(etag), *created)
                == (written.version, written.etag.as_ref(), written.created)
        }
        (Answer::Superseded, CompletionOutcome::Superseded) => true,
        _ => false,
    }
}
