//! Multipart uploads in the model: checks of every step of an upload, made when the step becomes
//! durable.
//!
//! ```text
//! Open ──complete──> Completed ──deadline──> removed      parts are stored only in Open;
//!   |`───abort─────> Aborted   ──deadline──> removed      the end removes all of them
//!    `───deadline──────────────────────────> removed
//! ```
//!
//! Named checkers: `sessions` (no other transition, each asked for by a client), `expiry` (an
//! upload record has its expiry entry), I9 (a stored part remains until it is replaced or its
//! upload ends).

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::call::{Answer, Call, Called};
use super::commit_observer::{Before, Changed};
use super::format::{self, Part, Phase, Row, Session, SessionKey};
use super::model::Model;
use super::upload_end::Ending;
use super::words::{Words, short};
use crate::disks::blobs::StoredBlobs;
use crate::faults::Fault;
use crate::trace::Tick;
use crate::trace::coverage::Coverage;

/// Changes of upload records and parts in a batch, by upload.
#[derive(Default)]
pub(super) struct Steps(pub(super) BTreeMap<Bytes, StepOf>);

/// Changes of an upload in a batch.
#[derive(Default)]
pub(super) struct StepOf {
    /// Object and new upload record. The inner `None` is a removal.
    pub(super) session: Option<(Bytes, Option<Session>)>,
    pub(super) parts: BTreeMap<u16, Option<Part>>,
}

/// History of an upload.
pub(super) struct UploadHistory {
    pub(super) object: Bytes,
    /// Number of the call that began the upload.
    pub(super) of: Option<u64>,
    /// Upload record from each tick on. `None` once the record is removed.
    pub(super) states: Vec<(Tick, Option<Session>)>,
    /// Every part that ever was stored.
    pub(super) filings: Vec<Filing>,
}

/// A stored part and the time for which it was stored.
pub(super) struct Filing {
    pub(super) number: u16,
    pub(super) revision: Uuid,
    pub(super) etag: u128,
    pub(super) content: Bytes,
    pub(super) from: Tick,
    /// Tick at which the part was replaced or the upload ended.
    pub(super) until: Option<Tick>,
    /// Calls that may have stored the part.
    pub(super) by: Vec<usize>,
}

impl Steps {
    /// Decodes an entry. Returns `None` if that fails.
    pub(super) fn read(&mut self, key: &[u8], value: Option<&Bytes>) -> Option<()> {
        match SessionKey::read(key)? {
            SessionKey::Session { object, upload } => {
                let session = value
                    .map(|value| format::decode(value).ok_or(()))
                    .transpose()
                    .ok()?;
                self.0.entry(upload.into()).or_default().session = Some((object.into(), session));
            }
            SessionKey::Part { upload, number } => {
                let part = value
                    .map(|value| format::decode(value).ok_or(()))
                    .transpose()
                    .ok()?;
                self.0
                    .entry(upload.into())
                    .or_default()
                    .parts
                    .insert(number, part);
            }
        }
        Some(())
    }

    /// Returns the revisions of all parts that the batch stores.
    pub(super) fn filed(&self) -> Vec<Uuid> {
        self.0
            .values()
            .flat_map(|step| step.parts.values().flatten())
            .map(|part| part.extent.revision)
            .collect()
    }
}

impl UploadHistory {
    /// Returns the current upload record, or `None` if it was removed.
    pub(super) fn session(&self) -> Option<&Session> {
        self.states.last()?.1.as_ref()
    }

    /// Returns the stored parts in the order of their numbers.
    pub(super) fn parts(&self) -> Vec<&Filing> {
        let mut parts: Vec<&Filing> = self
            .filings
            .iter()
            .filter(|filing| filing.until.is_none())
            .collect();
        parts.sort_by_key(|filing| filing.number);
        parts
    }

    /// Returns the parts that were stored right after this tick, in the order of their numbers.
    pub(super) fn parts_at(&self, tick: Tick) -> Vec<&Filing> {
        let is_there =
            |filing: &&Filing| filing.from <= tick && filing.until.is_none_or(|until| tick < until);
        let mut parts: Vec<&Filing> = self.filings.iter().filter(is_there).collect();
        parts.sort_by_key(|filing| filing.number);
        parts
    }

    /// Returns the revisions of the stored parts, in the order of their numbers.
    pub(super) fn revisions(&self) -> Vec<Uuid> {
        self.parts()
            .into_iter()
            .map(|filing| filing.revision)
            .collect()
    }
}

impl Model {
    /// Returns true if the bytes of a row were assembled of parts, by its own write or by the write
    /// that it was copied from.
    pub(super) fn is_assembled(&self, row: &Row) -> bool {
        row.write
            .is_some_and(|write| self.contents.contains_key(&write))
            || row.write.is_none()
                && self
                    .uploads
                    .values()
                    .any(|upload| completes(upload.session(), row))
    }

    /// Returns the number of open uploads.
    pub(crate) fn open_uploads(&self) -> usize {
        self.uploads
            .values()
            .filter_map(UploadHistory::session)
            .filter(|session| session.is_open())
            .count()
    }

    /// Returns true if this upload has been completed.
    pub(crate) fn was_completed(&self, of: u64) -> bool {
        let ours = self.uploads.values().filter(|upload| upload.of == Some(of));
        ours.filter_map(UploadHistory::session)
            .any(|session| matches!(session.phase, Phase::Completed { .. }))
    }

    /// Records the content of each upload that the batch completes.
    pub(super) fn assemble(&mut self, changed: &Changed) {
        for (id, step) in &changed.steps.0 {
            // Only a batch with a new upload record and a new row can complete an upload.
            let (Some(upload), Some((object, Some(session)))) =
                (self.uploads.get(id), &step.session)
            else {
                continue;
            };
            let row = changed
                .rows
                .iter()
                .find_map(|(at, row)| row.as_ref().filter(|_| at == object));
            let (Some(of), Some(row)) =
                (upload.of, row.filter(|row| completes(Some(session), row)))
            else {
                continue;
            };
            let parts = upload.parts();
            let content = |revision| {
                parts
                    .iter()
                    .find(|part| part.revision == revision)
                    .map(|part| &part.content[..])
            };
            // Parts may have been uploaded in any order. The manifest defines that of the object.
            let content: Vec<&[u8]> = row.revisions().into_iter().filter_map(content).collect();
            self.contents.entry(of).or_insert(content.concat().into());
        }
    }

    /// Checks the steps of uploads in a batch and takes them into the model.
    pub(super) fn steps(
        &mut self,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &StoredBlobs,
        coverage: &mut Coverage,
        words: &mut Words,
    ) {
        for (id, step) in &changed.steps.0 {
            let was = self.uploads.get(id).map(|upload| upload.session().cloned());
            // The outer `None` of `was` is an unknown upload, the inner `None` a removed record.
            match (&step.session, was) {
                (Some((object, Some(session))), None) => {
                    words.push(|| "an upload begins".to_owned());
                    coverage.count("upload: began");
                    self.check_begin(id, object, session, tick);
                }
                (Some((_, now)), Some(Some(was))) => {
                    let ending = Ending {
                        id,
                        was: &was,
                        now: now.as_ref(),
                        changed,
                        before,
                        tick,
                    };
                    let ended = self.check_end(&ending, coverage);
                    words.push(|| ended.to_owned());
                }
                (Some((_, now)), Some(None) | None) => {
                    let step = now.as_ref().map_or("is removed", |_| "is restored");
                    self.violated("sessions", format!("absent upload record {step}"));
                }
                (None, _) => {}
            }
            // The state after this batch: a batch that ends an upload stores no parts.
            let is_open = self
                .uploads
                .get(id)
                .and_then(UploadHistory::session)
                .is_some_and(Session::is_open);
            for (&number, part) in &step.parts {
                match part {
                    Some(part) if is_open && step.session.is_none() => {
                        let blob = part.extent.revision;
                        words.push(|| format!("part {number} stored, in blob {}", short(blob)));
                        self.check_part(id, number, part, (changed, tick), blobs, coverage);
                    }
                    Some(_) => self.violated(
                        "sessions",
                        format!("part stored in an upload that is not open: part={number}"),
                    ),
                    None if is_open => self.violated(
                        "I9",
                        format!("part of an open upload is lost: part={number}"),
                    ),
                    None => {}
                }
            }
        }
    }

    /// Checks the first upload record of an upload.
    fn check_begin(&mut self, id: &Bytes, object: &Bytes, session: &Session, tick: Tick) {
        if !session.is_open() {
            self.violated("sessions", "new upload is not open");
        }
        // The rules are those of the plan. A service under test may set other limits.
        let lifetime = session.expires_at.saturating_sub(session.initiated);
        if self
            .rules
            .is_some_and(|rules| rules.lifetime_ms != lifetime)
        {
            self.violated(
                "sessions",
                format!("new upload has another lifetime than configured: lifetime_ms={lifetime}"),
            );
        }
        if !self.expiry.contains(&entry(object, id, session)) {
            self.violated("expiry", "new upload has no expiry entry");
        }
        let of = session.of();
        if of.is_some_and(|of| self.uploads.values().any(|upload| upload.of == Some(of))) {
            self.violated("sessions", "one call began two uploads");
        }
        let states = vec![(tick, Some(session.clone()))];
        self.uploads.insert(
            id.clone(),
            UploadHistory {
                object: object.clone(),
                of,
                states,
                filings: Vec::new(),
            },
        );
    }

    /// Returns true if a call concerns this upload and may take effect at this tick.
    pub(super) fn may_take_effect(
        &self,
        called: &Called,
        upload: &UploadHistory,
        tick: Tick,
    ) -> bool {
        let Call::Multipart(asked) = &called.call else {
            return false;
        };
        let until = match &called.answer {
            None
            | Some((_, Answer::Cancelled | Answer::Failed(cenotaph::ErrorKind::Indeterminate))) => {
                self.sealed(called.at)
            }
            Some((at, _)) => *at,
        };
        Some(asked.of) == upload.of && (called.at..until).contains(&tick)
    }

    /// Returns true if the time of day never jumped, so that deadlines can be checked.
    pub(super) fn has_steady_clock(&self) -> bool {
        // A member of a shared index estimates the time of the index between two requests.
        !self.is_shared() && !self.struck_between(&[Fault::ClockJump], 0, Tick::MAX)
    }
}

/// Returns true if this row is the result that the upload record names.
pub(super) fn completes(session: Option<&Session>, row: &Row) -> bool {
    match session.map(|session| &session.phase) {
        Some(Phase::Completed { written, .. }) => {
            (written.version, written.etag.as_deref()) == (Some(row.version), Some(&row.etag()))
        }
        Some(Phase::Open | Phase::Aborted) | None => false,
    }
}

/// Returns the key of an upload record's entry in the expiry index.
pub(super) fn entry(object: &[u8], id: &[u8], session: &Session) -> Bytes {
    format::expiry_key(session.expires_at, &format::session_key(object, id)).into()
}
