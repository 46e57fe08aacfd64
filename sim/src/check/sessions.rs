//! Multipart uploads as the witness sees them: each step of a session, at the moment it becomes
//! durable.
//!
//! ```text
//! Open ──complete──> Completed ──its time passes──> gone          parts only while it is Open;
//!   |`───abort─────> Aborted   ──its time passes──> gone          what ends it takes all of them with it
//!    `───its time passes──────────────────────────> gone
//! ```
//!
//! Named checkers: `sessions` (no other step, each asked for by somebody, its expiry entry beside
//! it), I9 (no part lost: one that is filed stays until it is replaced or its upload ends), I5 (no
//! part left: what no row names is queued in the very batch), I2 and I6 for parts, `assembled` (an
//! object is made of the parts that were listed, in order, and of no others). Deliberately not
//! here: what clients hear (`uploads.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::call::{About, Answer, Asked, Call, Called};
use super::ending::Ending;
use super::format::{self, Landing, Part, Phase, Row, Session, SessionKey};
use super::monitor::Monitor;
use super::trailers::payload_in;
use super::witness::{Before, Changed};
use super::words::short;
use crate::blobs::Blobs;
use crate::coverage::Coverage;
use crate::faults::Fault;
use crate::payload::payload;
use crate::plan::Span;
use crate::trace::Tick;

/// What one batch does to the session table, by upload.
#[derive(Default)]
pub(super) struct Steps(pub(super) BTreeMap<Bytes, StepOf>);

/// What it does to one upload.
#[derive(Default)]
pub(super) struct StepOf {
    /// The object and the session, or none if it is removed.
    pub(super) session: Option<(Bytes, Option<Session>)>,
    pub(super) parts: BTreeMap<u16, Option<Part>>,
}

/// All that is known of one upload.
pub(super) struct Upload {
    pub(super) object: Bytes,
    /// The number of the call that began it.
    pub(super) of: Option<u64>,
    /// How it stood from which moment on; none once it is gone.
    pub(super) states: Vec<(Tick, Option<Session>)>,
    /// Every part that ever was filed.
    pub(super) filings: Vec<Filing>,
}

/// A part, as long as it is filed.
pub(super) struct Filing {
    pub(super) number: u16,
    pub(super) revision: Uuid,
    pub(super) etag: u128,
    pub(super) content: Bytes,
    pub(super) from: Tick,
    /// Until it was replaced, or the upload ended.
    pub(super) until: Option<Tick>,
    /// The calls that may have filed it.
    pub(super) by: Vec<usize>,
}

impl Steps {
    /// Takes in an entry; none if it can't be read.
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

    /// The revisions of all parts that are filed.
    pub(super) fn filed(&self) -> Vec<Uuid> {
        self.0
            .values()
            .flat_map(|step| step.parts.values().flatten())
            .map(|part| part.extent.revision)
            .collect()
    }
}

impl Upload {
    pub(super) fn session(&self) -> Option<&Session> {
        self.states.last()?.1.as_ref()
    }

    /// The parts that are filed, in the order of their numbers.
    pub(super) fn parts(&self) -> Vec<&Filing> {
        let mut parts: Vec<&Filing> = self
            .filings
            .iter()
            .filter(|filing| filing.until.is_none())
            .collect();
        parts.sort_by_key(|filing| filing.number);
        parts
    }

    /// The same, as it was right after this moment.
    pub(super) fn parts_at(&self, tick: Tick) -> Vec<&Filing> {
        let is_there =
            |filing: &&Filing| filing.from <= tick && filing.until.is_none_or(|until| tick < until);
        let mut parts: Vec<&Filing> = self.filings.iter().filter(is_there).collect();
        parts.sort_by_key(|filing| filing.number);
        parts
    }

    pub(super) fn revisions(&self) -> Vec<Uuid> {
        self.parts()
            .into_iter()
            .map(|filing| filing.revision)
            .collect()
    }
}

impl Monitor {
    /// Whether a part of an open upload names this revision.
    pub(super) fn is_filed(&self, revision: Uuid) -> bool {
        let filings = self.uploads.values().flat_map(|upload| &upload.filings);
        filings
            .into_iter()
            .any(|filing| filing.until.is_none() && filing.revision == revision)
    }

    /// Whether this is the number of a call that uploads a part.
    pub(super) fn is_part(&self, number: u64) -> bool {
        self.calls.iter().any(|called| match &called.call {
            Call::Multipart(Asked {
                what: About::Part { write, .. },
                ..
            }) => *write == number,
            _ => false,
        })
    }

    /// Whether the bytes of a row were assembled of parts, by whoever wrote them first.
    pub(super) fn is_assembled(&self, row: &Row) -> bool {
        row.write
            .is_some_and(|write| self.contents.contains_key(&write))
            || row.write.is_none()
                && self
                    .uploads
                    .values()
                    .any(|upload| completes(upload.session(), row))
    }

    /// Uploads that are open.
    pub(crate) fn open_uploads(&self) -> usize {
        self.uploads
            .values()
            .filter_map(Upload::session)
            .filter(|session| session.is_open())
            .count()
    }

    /// Whether this upload has been completed.
    pub(crate) fn was_completed(&self, of: u64) -> bool {
        let ours = self.uploads.values().filter(|upload| upload.of == Some(of));
        ours.filter_map(Upload::session)
            .any(|session| matches!(session.phase, Phase::Completed { .. }))
    }

    /// What is completed by this batch has its content from here on.
    pub(super) fn assemble(&mut self, changed: &Changed) {
        for (id, step) in &changed.steps.0 {
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
            let content: Vec<&[u8]> = row.revisions().into_iter().filter_map(content).collect();
            self.contents.entry(of).or_insert(content.concat().into());
        }
    }

    /// The steps of uploads that one batch makes.
    pub(super) fn steps(
        &mut self,
        changed: &Changed,
        before: &Before,
        tick: Tick,
        blobs: &Blobs,
        coverage: &mut Coverage,
        words: &mut Vec<String>,
    ) {
        for (id, step) in &changed.steps.0 {
            let was = self.uploads.get(id).map(|upload| upload.session().cloned());
            match (&step.session, was) {
                (Some((object, Some(session))), None) => {
                    words.push("an upload begins".to_owned());
                    coverage.count("upload: began");
                    self.begins(id, object, session, tick);
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
                    words.push(self.ends(&ending, coverage));
                }
                (Some((_, now)), Some(None) | None) => {
                    let what = now.as_ref().map_or("is removed", |_| "comes back");
                    self.violated("sessions", format!("a session that is not there {what}"));
                }
                (None, _) => {}
            }
            let is_open = self
                .uploads
                .get(id)
                .and_then(Upload::session)
                .is_some_and(Session::is_open);
            for (&number, part) in &step.parts {
                match part {
                    Some(part) if is_open && step.session.is_none() => {
                        words.push(format!(
                            "part {number} filed, in blob {}",
                            short(part.extent.revision)
                        ));
                        self.files(id, number, part, (changed, tick), blobs, coverage);
                    }
                    Some(_) => self.violated(
                        "sessions",
                        format!("part {number} is filed, and its upload is not open"),
                    ),
                    None if is_open => self.violated(
                        "I9",
                        format!("part {number} is lost, and its upload goes on"),
                    ),
                    None => {}
                }
            }
        }
    }

    fn begins(&mut self, id: &Bytes, object: &Bytes, session: &Session, tick: Tick) {
        if !session.is_open() {
            self.violated("sessions", "an upload begins, and it is not open");
        }
        let lifetime = session.expires_at.saturating_sub(session.initiated);
        if self
            .rules
            .is_some_and(|rules| rules.lifetime_ms != lifetime)
        {
            self.violated("sessions", format!("an upload lives for {lifetime} ms"));
        }
        if !self.expiry.contains(&entry(object, id, session)) {
            self.violated(
                "expiry",
                "an upload begins without an entry in the expiry index",
            );
        }
        let of = session.of();
        if of.is_some_and(|of| self.uploads.values().any(|upload| upload.of == Some(of))) {
            self.violated("sessions", "one call begins two uploads");
        }
        let states = vec![(tick, Some(session.clone()))];
        self.uploads.insert(
            id.clone(),
            Upload {
                object: object.clone(),
                of,
                states,
                filings: Vec::new(),
            },
        );
    }

    /// A part is filed: its blob is whole, somebody has uploaded it, and what it replaces is
    /// queued.
    fn files(
        &mut self,
        id: &Bytes,
        number: u16,
        part: &Part,
        batch: (&Changed, Tick),
        blobs: &Blobs,
        coverage: &mut Coverage,
    ) {
        let ((changed, tick), revision) = (batch, part.extent.revision);
        coverage.count("upload: a part filed");
        if !changed.settles(self, revision) {
            self.violated(
                "I6",
                format!("part {number} is filed without a live change"),
            );
        }
        if !self.payloads.contains(&revision.as_bytes()[..]) {
            self.violated(
                "I3",
                format!("part {number} is filed without its block checksums"),
            );
        }
        let whole = self.revisions.get(&revision).filter(|known| known.is_whole);
        let content = whole
            .and_then(|known| payload_in(known, blobs))
            .unwrap_or_default();
        let found = (content.len() as u64, xxh3_64(&content), xxh3_128(&content));
        if whole.is_none() || found != (part.extent.bytes, part.extent.checksum, part.etag) {
            self.violated(
                "I2",
                format!("part {number} names a blob that is not finished, or holds something else"),
            );
        }
        let Some(upload) = self.uploads.get(id) else {
            return;
        };
        let by = self.uploaders(upload, number, &content, tick);
        let is_asked = !by.is_empty() || self.calls.is_empty() || upload.of.is_none();
        if by.iter().any(|&at| is_copy(&self.calls[at])) {
            coverage.count("upload: a part copied");
        }
        let filing = Filing {
            number,
            revision,
            etag: part.etag,
            content,
            from: tick,
            until: None,
            by,
        };
        let Some(upload) = self.uploads.get_mut(id) else {
            return;
        };
        let old = upload
            .filings
            .iter_mut()
            .find(|filing| filing.number == number && filing.until.is_none());
        let replaced = old.map(|old| {
            old.until = Some(tick);
            old.revision
        });
        upload.filings.push(filing);
        if !is_asked {
            self.violated(
                "sessions",
                format!("part {number} is filed, and nobody has uploaded it"),
            );
        }
        if let Some(replaced) = replaced {
            coverage.count("upload: a part replaced");
            self.given_up(replaced, changed, "a part that is replaced");
        }
    }

    /// A revision that nothing names any more is queued as one that has landed, and its block
    /// checksums are gone.
    pub(super) fn given_up(&mut self, revision: Uuid, changed: &Changed, what: &str) {
        match changed.queued(&revision).map(|orphan| orphan.landing) {
            Some(Landing::Landed) => {}
            Some(Landing::MayLand) => {
                self.violated(
                    "I5",
                    format!("{what} is queued as one that may land: {revision}"),
                );
            }
            None => self.violated("I5", format!("{what} is not queued: {revision}")),
        }
        if self.payloads.contains(&revision.as_bytes()[..]) {
            self.violated(
                "I3",
                format!("{what} leaves its block checksums behind: {revision}"),
            );
        }
    }

    /// The calls that may have filed this part now.
    fn uploaders(&self, upload: &Upload, number: u16, content: &Bytes, tick: Tick) -> Vec<usize> {
        let calls = self.calls.iter().enumerate();
        let about = calls.filter(|(_, called)| self.may_take_effect(called, upload, tick));
        let fits = |called: &Called| match &called.call {
            Call::Multipart(Asked {
                what:
                    About::Part {
                        number: of,
                        write,
                        bytes,
                        fails: false,
                    },
                ..
            }) => {
                *of == u32::from(number)
                    && *bytes == content.len() as u64
                    && payload(*write, *bytes) == *content
            }
            Call::Multipart(Asked {
                what:
                    About::PartOf {
                        number: of,
                        from,
                        span,
                    },
                ..
            }) => *of == u32::from(number) && self.ever_held(from, *span, content, called.at),
            _ => false,
        };
        about
            .filter(|(_, called)| fits(called))
            .map(|(at, _)| at)
            .collect()
    }

    /// Whether an object held these bytes there, at this moment or later.
    fn ever_held(&self, object: &Bytes, span: Span, content: &Bytes, from: Tick) -> bool {
        let states = self
            .states
            .get(object)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let first = states
            .partition_point(|(tick, _)| *tick < from)
            .saturating_sub(1);
        let mut rows = states[first..].iter().filter_map(|(_, row)| row.as_ref());
        rows.any(|row| {
            let range = span.of(row.size);
            let fits = span.fits(row.size) && range.end - range.start == content.len() as u64;
            let whole = row
                .write
                .filter(|_| fits)
                .and_then(|write| self.content(write, row.size));
            let to_usize = |at: u64| usize::try_from(at).expect("payloads fit into memory");
            whole.is_some_and(|whole| whole[to_usize(range.start)..to_usize(range.end)] == *content)
        })
    }

    /// Whether a call is about this upload, and may take effect now.
    pub(super) fn may_take_effect(&self, called: &Called, upload: &Upload, tick: Tick) -> bool {
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

    /// Whether the time of day can be trusted.
    pub(super) fn has_steady_clock(&self) -> bool {
        !self.struck_between(&[Fault::ClockJump], 0, Tick::MAX)
    }
}

/// Whether a session says that this row is what came of it.
pub(super) fn completes(session: Option<&Session>, row: &Row) -> bool {
    match session.map(|session| &session.phase) {
        Some(Phase::Completed { written, .. }) => {
            (written.version, written.etag.as_deref()) == (Some(row.version), Some(&row.etag()))
        }
        Some(Phase::Open | Phase::Aborted) | None => false,
    }
}

fn is_copy(called: &Called) -> bool {
    matches!(
        &called.call,
        Call::Multipart(Asked {
            what: About::PartOf { .. },
            ..
        })
    )
}

/// The entry of a session in the expiry index.
pub(super) fn entry(object: &[u8], id: &[u8], session: &Session) -> Bytes {
    format::expiry_key(session.expires_at, &format::session_key(object, id)).into()
}
