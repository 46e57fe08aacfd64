//! The decisions about uploads: what each step in a session's life does, to the session, its parts
//! and the object's row. Pure.
//!
//! ```text
//! step       the shard sees                          verdict, one batch (I3)
//! ---------- --------------------------------------- ----------------------------------------------------------------
//! Initiate   the precondition does not hold          Conflict
//!            anything else                           Begin: the session and its expiry entry
//! Part       its change gone                         Fenced: never commits (I6)
//!            no open session                         Refuse: its change is settled, its own revision: orphan
//!            an open session                         File: settles the change; what it replaces: orphan
//! Complete   no session, an aborted one              Refuse
//!            a completed one, the same parts         Replay: the first outcome again
//!            a completed one, other parts            Refuse
//!            an open one, a part breaks a rule,      Refuse, naming the part; the session stays as it was
//!            or was lost
//!             .. a precondition does not hold        Conflict; the session stays as it was
//!             .. the object stands as expected       Complete: the row is a tombstone over the listed parts; the others,
//!                                                    and what the old row named: orphans; the session: Completed
//!             .. it does not                         Supersede: all parts: orphans; the session: Completed
//! Abort      an open session                         End: all parts: orphans; the session: Aborted
//!            an aborted one                          Unchanged
//!            none, a completed one                   Refuse
//! Expire     a session that has expired              End: its parts: orphans; no session
//!            anything else                           Unchanged
//! ```
//!
//! A session that has expired is none, for everybody but Expire. Deliberately not here: who calls,
//! and what has become durable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::parts::{PartRules, Selection, assemble, digest, refused};
use super::transition::{self, Transition};
use super::{Expected, Outcome, Precondition, Standing, Written, revision_key, row};
use crate::error::{Error, Reason, Result};
use crate::id::ObjectId;
use crate::index::{Batch, Table};
use crate::multipart::{PartNumber, UploadId, no_such_upload};
use crate::rows::{
    Attributes, BlockChecksums, Body, Landing, Part, Phase, Session, expiry_value, part_key,
    session_expiry_key, session_key,
};
use crate::word::{Current, OperationId, RevisionId, RevisionKey, Timestamp};

/// One step in the life of an upload.
#[derive(Clone, Debug)]
pub struct SessionSwap {
    /// The object.
    pub id: ObjectId,
    /// The upload.
    pub upload: UploadId,
    /// The operation; the same for every repetition of the same step. A part's is its change.
    pub operation: OperationId,
    /// What it does.
    pub mutation: SessionMutation,
}

/// What a step does to a session.
#[derive(Clone, Debug)]
pub enum SessionMutation {
    /// It begins.
    Initiate(Session),
    /// It gets a part, whose blob is finished and durable (I2).
    Part {
        /// Which one; a part that has this number is replaced.
        number: PartNumber,
        /// The part.
        part: Part,
        /// Its block checksums.
        blocks: BlockChecksums,
    },
    /// Its parts become the object.
    Complete {
        /// Which of them.
        parts: Selection,
        /// How the object stood when the completion began.
        expected: Expected,
        /// How it must stand.
        precondition: Precondition,
        /// What its parts must keep to.
        rules: PartRules,
        /// For how long it is remembered what came of it.
        kept_for: Duration,
    },
    /// It is given up.
    Abort {
        /// For how long that is remembered.
        kept_for: Duration,
    },
    /// It is forgotten, if its time has come.
    Expire,
}

/// What a shard knows of an upload, as far as the step needs it.
#[derive(Clone, Debug)]
pub struct SessionView {
    /// The session, expired or not.
    pub session: Option<Session>,
    /// For a part: the one that has its number. For what ends the session: all parts.
    pub parts: BTreeMap<PartNumber, Part>,
    /// For what ends the session: the parts that were lost and have not been uploaded again.
    pub lost: BTreeSet<PartNumber>,
    /// How the object stands.
    pub standing: Standing,
    /// Whether the step's change is live: matters to parts only.
    pub change_is_live: bool,
}

/// What a shard must do about a [`SessionSwap`].
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Put the session.
    Begin,
    /// File the part.
    File,
    /// Commit the object, and remember so.
    Complete {
        /// The object afterwards.
        next: Standing,
        /// What the old row named, and the parts that were not listed.
        orphans: Vec<RevisionKey>,
        /// The session afterwards.
        session: Session,
        /// What its caller hears.
        written: Written,
    },
    /// Give up all parts, and remember so: another write counts as the later one.
    Supersede {
        /// The parts.
        orphans: Vec<RevisionKey>,
        /// The session afterwards.
        session: Session,
        /// What its caller hears.
        written: Written,
    },
    /// It was completed before: answer the same again.
    Replay(Written),
    /// Give up all parts.
    End {
        /// The parts.
        orphans: Vec<RevisionKey>,
        /// The session afterwards; none if nobody need know it any more.
        session: Option<Session>,
    },
    /// It leaves everything as it is.
    Unchanged,
    /// A precondition does not hold: how the object stands.
    Conflict(Option<Current>),
    /// It can't be done. If it brought a revision with it, that is an orphan.
    Refuse {
        /// Why.
        error: Error,
        /// Its own revision.
        orphans: Vec<RevisionKey>,
    },
    /// Its change is no longer live: it must never commit (I6).
    Fenced,
}

impl SessionSwap {
    /// Decides against what stands.
    pub fn decide(&self, view: &SessionView, now: Timestamp) -> Verdict {
        let known = view.session.as_ref().filter(|session| session.is_live(now));
        match &self.mutation {
            SessionMutation::Initiate(session) => {
                match session.precondition.check(view.standing.live(now)) {
                    Ok(()) => Verdict::Begin,
                    Err(current) => Verdict::Conflict(current),
                }
            }
            SessionMutation::Part { .. } if !view.change_is_live => Verdict::Fenced,
            SessionMutation::Part { part, .. } => {
                match known.ok_or_else(no_such_upload).and_then(open) {
                    Ok(_) => Verdict::File,
                    Err(error) => Verdict::Refuse {
                        error,
                        orphans: vec![revision_key(&self.id, part.extent.revision)],
                    },
                }
            }
            SessionMutation::Complete { .. } => {
                let completed = known
                    .ok_or_else(no_such_upload)
                    .and_then(|known| self.complete(known, view, now));
                completed.unwrap_or_else(|error| Verdict::Refuse {
                    error,
                    orphans: Vec::new(),
                })
            }
            SessionMutation::Abort { kept_for } => {
                let aborted =
                    known
                        .ok_or_else(no_such_upload)
                        .and_then(|known| match &known.phase {
                            Phase::Aborted => Ok(Verdict::Unchanged),
                            Phase::Open | Phase::Completed { .. } => {
                                let session =
                                    ended(open(known)?, Phase::Aborted, now.after(*kept_for));
                                Ok(Verdict::End {
                                    orphans: self.revisions(view),
                                    session: Some(session),
                                })
                            }
                        });
                aborted.unwrap_or_else(|error| Verdict::Refuse {
                    error,
                    orphans: Vec::new(),
                })
            }
            SessionMutation::Expire if view.session.is_some() && known.is_none() => Verdict::End {
                orphans: self.revisions(view),
                session: None,
            },
            SessionMutation::Expire => Verdict::Unchanged,
        }
    }

    fn complete(&self, known: &Session, view: &SessionView, now: Timestamp) -> Result<Verdict> {
        let SessionMutation::Complete {
            parts,
            expected,
            precondition,
            rules,
            kept_for,
        } = &self.mutation
        else {
            unreachable!("asked of completions only")
        };
        if let Phase::Completed {
            parts: before,
            written,
        } = &known.phase
        {
            return match parts {
                Selection::Listed(listed) if digest(listed) != *before => Err(refused(
                    "the upload was completed with other parts",
                    Reason::OtherParts,
                )),
                Selection::Listed(_) | Selection::All => Ok(Verdict::Replay(written.clone())),
            };
        }
        let session = open(known)?;
        let listed = parts.resolve(view)?;
        let (manifest, bytes) = assemble(&listed, &view.parts, *rules)?;
        for precondition in [session.precondition, *precondition] {
            if let Err(current) = precondition.check(view.standing.live(now)) {
                return Ok(Verdict::Conflict(current));
            }
        }
        let is_conditional = [session.precondition, *precondition] != [Precondition::None; 2];
        let is_met = is_conditional || expected.is_met(&view.standing, now);
        let until = now.after(*kept_for);
        let completed = |written: &Written| {
            ended(
                session,
                Phase::Completed {
                    parts: digest(&listed),
                    written: written.clone(),
                },
                until,
            )
        };
        if !is_met {
            let written = Written {
                outcome: Outcome::Superseded,
                version: None,
                etag: None,
                created: false,
            };
            let session = completed(&written);
            return Ok(Verdict::Supersede {
                orphans: self.revisions(view),
                session,
                written,
            });
        }
        let named: BTreeSet<RevisionId> = manifest.revisions().collect();
        let body = (Body::Tombstone(manifest), bytes);
        let next = row(
            self.operation,
            &view.standing,
            body,
            None,
            &session.attributes,
            now,
        );
        let written = Written {
            outcome: Outcome::Applied,
            version: Some(next.version),
            etag: Some(next.etag()),
            created: view.standing.live(now).is_none(),
        };
        let session = completed(&written);
        let next = Standing::Present(Box::new(next));
        let mut orphans = transition::orphans(&[Transition {
            id: &self.id,
            before: &view.standing,
            after: &next,
        }]);
        orphans.extend(
            self.revisions(view)
                .into_iter()
                .filter(|key| !named.contains(&key.revision)),
        );
        Ok(Verdict::Complete {
            next,
            orphans,
            session,
            written,
        })
    }

    /// The revisions of all parts.
    fn revisions(&self, view: &SessionView) -> Vec<RevisionKey> {
        view.parts
            .values()
            .map(|part| revision_key(&self.id, part.extent.revision))
            .collect()
    }

    /// The one atomic batch that carries out a verdict (I3); empty if there is nothing to carry
    /// out.
    pub fn batch(&self, view: &SessionView, verdict: &Verdict, now: Timestamp) -> Batch {
        let mut batch = Batch::new();
        match verdict {
            Verdict::Begin => {
                if let SessionMutation::Initiate(session) = &self.mutation {
                    self.put_session(&mut batch, None, Some(session));
                }
            }
            Verdict::File => self.file(&mut batch, view, now),
            Verdict::Complete {
                next,
                orphans,
                session,
                ..
            } => {
                let transition = Transition {
                    id: &self.id,
                    before: &view.standing,
                    after: next,
                };
                transition::put_rows(&mut batch, &[transition]);
                self.end(&mut batch, view, orphans, Some(session), now);
            }
            Verdict::Supersede {
                orphans, session, ..
            } => self.end(&mut batch, view, orphans, Some(session), now),
            Verdict::End { orphans, session } => {
                self.end(&mut batch, view, orphans, session.as_ref(), now);
            }
            Verdict::Refuse { orphans, .. } => {
                if let SessionMutation::Part { .. } = self.mutation {
                    batch.remove(Table::Changes, self.operation.as_bytes().to_vec());
                }
                transition::put_orphans(&mut batch, orphans, now, Landing::Landed);
            }
            Verdict::Replay(_) | Verdict::Unchanged | Verdict::Conflict(_) | Verdict::Fenced => {}
        }
        batch
    }

    fn file(&self, batch: &mut Batch, view: &SessionView, now: Timestamp) {
        let SessionMutation::Part {
            number,
            part,
            blocks,
        } = &self.mutation
        else {
            return;
        };
        batch.remove(Table::Changes, self.operation.as_bytes().to_vec());
        batch.put(
            Table::Sessions,
            part_key(&self.upload, *number),
            part.encode(),
        );
        batch.put(
            Table::Payloads,
            part.extent.revision.as_bytes().to_vec(),
            blocks.encode(),
        );
        if let Some(replaced) = view.parts.get(number) {
            give_up(
                batch,
                &[revision_key(&self.id, replaced.extent.revision)],
                now,
            );
        }
    }

    /// Ends the session: its parts are filed no longer, and these revisions are given up.
    fn end(
        &self,
        batch: &mut Batch,
        view: &SessionView,
        orphans: &[RevisionKey],
        session: Option<&Session>,
        now: Timestamp,
    ) {
        for &number in view.parts.keys().chain(&view.lost) {
            batch.remove(Table::Sessions, part_key(&self.upload, number));
        }
        give_up(batch, orphans, now);
        self.put_session(batch, view.session.as_ref(), session);
    }

    fn put_session(&self, batch: &mut Batch, before: Option<&Session>, after: Option<&Session>) {
        let key = session_key(&self.id, &self.upload);
        let entry =
            |session: &Session| session_expiry_key(session.expires_at, &self.id, &self.upload);
        if let Some(before) = before {
            batch.remove(Table::Expiry, entry(before));
        }
        match after {
            Some(after) => {
                batch.put(Table::Sessions, key, after.encode());
                batch.put(Table::Expiry, entry(after), expiry_value());
            }
            None => batch.remove(Table::Sessions, key),
        }
    }
}

/// The revisions and their block checksums are named by nothing any more.
pub(super) fn give_up(batch: &mut Batch, revisions: &[RevisionKey], now: Timestamp) {
    for key in revisions {
        batch.remove(Table::Payloads, key.revision.as_bytes().to_vec());
    }
    transition::put_orphans(batch, revisions, now, Landing::Landed);
}

/// The session, if it takes parts.
fn open(session: &Session) -> Result<&Session> {
    session.check_open().map(|()| session)
}

fn ended(session: &Session, phase: Phase, expires_at: Timestamp) -> Session {
    let (initiated, precondition) = (session.initiated, session.precondition);
    Session {
        initiated,
        expires_at,
        attributes: Attributes::default(),
        precondition,
        phase,
    }
}
