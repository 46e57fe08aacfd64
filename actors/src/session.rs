//! What a shard does about uploads: it decides each step of those to its objects (I3), with the
//! same overlay and in the same order as their swaps.
//!
//! ```text
//! step -> session, the parts it needs, row, change (overlay, then index) -> decide (pure) -> one batch -> next message
//! ```
//!
//! What ends an upload reads all of its parts here, between two decisions, and not before: so no
//! part can slip in between what was read and what is decided, and there is nothing to be tried
//! again (docs/adr/0012). Deliberately not here: what is decided (`cenotaph_storage::swap`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::index::{Range, Table};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::rows::{
    Filed, Phase, Session, part_key, parts_prefix, read_part_key, session_key,
};
use cenotaph_storage::swap::{SessionMutation, SessionSwap, SessionView, Verdict};
use cenotaph_storage::{Error, ErrorKind, PARTS_MAX, PartNumber, Result, UploadId};

use crate::admission::Permit;
use crate::messages::ShardMessage;
use crate::overlay::Overlay;
use crate::reply::{Reply, SessionAnswer, nothing_committed};
use crate::shard::Shard;
use crate::shared::Common;

/// Parts read at once.
const PARTS_PAGE: usize = 2000;

impl Common {
    /// Has the object's shard decide a step of an upload, and waits for its answer. As
    /// [`compare_and_write`](Self::compare_and_write).
    pub(crate) async fn step(
        &self,
        swap: SessionSwap,
        permit: &Permit,
        listen: impl Fn(Reply<SessionAnswer>) -> Reply<SessionAnswer>,
    ) -> Result<SessionAnswer> {
        let id = swap.id.clone();
        self.deliver(&id, |reply| ShardMessage::Session {
            swap: Box::new(swap.clone()),
            permit: permit.clone(),
            reply: listen(reply),
        })
        .await
    }
}

impl Common {
    /// Ends an upload, in its turn: what many parts end at once is bounded, whoever ends them.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if its turn does not come within `wait`.
    pub(crate) async fn end(
        &self,
        swap: SessionSwap,
        permit: Permit,
        wait: Option<Duration>,
    ) -> Result<SessionAnswer> {
        let parts = Range::prefix(&parts_prefix(&swap.upload), usize::from(PARTS_MAX));
        let parts = self
            .index
            .snapshot()?
            .keys_over(Table::Sessions, parts)
            .await?
            .entries
            .len();
        let turn = self.admission.end(parts);
        let turn = match wait {
            Some(wait) => self.env.deadline(wait, turn).await,
            None => Some(turn.await),
        };
        let Some(turn) = turn else {
            let message = "too many parts of uploads are ending at once; nothing was committed";
            return Err(Error::new(ErrorKind::Overloaded, "admit", message).with_id(&swap.id));
        };
        let permit = permit.and(turn);
        self.step(swap, &permit, |reply| reply).await
    }
}

impl Shard {
    /// Decides a step, and submits what follows from it.
    pub(crate) async fn step(
        &self,
        overlay: &mut Overlay,
        swap: &SessionSwap,
        permit: Permit,
        reply: Reply<SessionAnswer>,
    ) {
        let mut view = match self.session_view(overlay, swap).await {
            Ok(view) => view,
            Err(error) => return reply(Err(error)),
        };
        let is_in_flight = overlay
            .session(&session_key(&swap.id, &swap.upload))
            .is_some();
        let now = self.shared.env.steady_now();
        let mut verdict = swap.decide(&view, now);
        self.spoil(swap, &mut view, &mut verdict);
        let batch = swap.batch(&view, &verdict, self.shared.env.steady_now());
        if let Err(error) = self.shared.admit(&batch) {
            return reply(Err(error));
        }
        let ticket = overlay.next_ticket();
        overlay.note_sessions(ticket, &batch);
        if let Verdict::Complete { next, .. } = &verdict {
            overlay.stand(ticket, &swap.id, next.clone());
        }
        if let (SessionMutation::Part { .. }, Verdict::File | Verdict::Refuse { .. }) =
            (&swap.mutation, &verdict)
        {
            overlay.settle(ticket, swap.operation);
        }
        self.shared.count(&verdict);
        let reply = match &verdict {
            Verdict::Conflict(_) | Verdict::Refuse { .. } => nothing_committed(reply),
            // What was done before and is durable needs no commit to be told.
            Verdict::Replay(_) | Verdict::Unchanged if !is_in_flight => {
                return reply(Ok(answer(verdict)));
            }
            Verdict::Replay(_) | Verdict::Unchanged => may_be_committed(reply),
            Verdict::Begin
            | Verdict::File
            | Verdict::Complete { .. }
            | Verdict::Supersede { .. }
            | Verdict::End { .. }
            | Verdict::Fenced => reply,
        };
        self.submit(overlay, batch, answer(verdict), Some(permit), reply);
    }

    /// What the decision depends on.
    async fn session_view(&self, overlay: &Overlay, swap: &SessionSwap) -> Result<SessionView> {
        let key = session_key(&swap.id, &swap.upload);
        let session = self
            .session_entry(overlay, &key)
            .await?
            .map(|value| Session::decode(&value))
            .transpose()?;
        let is_open = session
            .as_ref()
            .is_some_and(|session| session.phase == Phase::Open);
        let filed = match &swap.mutation {
            SessionMutation::Initiate(_) => BTreeMap::new(),
            SessionMutation::Part { number, .. } => {
                self.part_entry(overlay, &swap.upload, *number).await?
            }
            SessionMutation::Complete { .. }
            | SessionMutation::Abort { .. }
            | SessionMutation::Expire
                if is_open =>
            {
                self.part_entries(overlay, &swap.upload).await?
            }
            SessionMutation::Complete { .. }
            | SessionMutation::Abort { .. }
            | SessionMutation::Expire => BTreeMap::new(),
        };
        let (mut parts, mut lost) = (BTreeMap::new(), BTreeSet::new());
        for (key, value) in filed {
            let (_, number) = read_part_key(&key)?;
            match Filed::decode(&value)? {
                Filed::Part(part) => drop(parts.insert(number, part)),
                Filed::Lost => drop(lost.insert(number)),
            }
        }
        let change_is_live = match swap.mutation {
            SessionMutation::Part { .. } => {
                self.load_change(overlay, swap.operation).await?.is_some()
            }
            SessionMutation::Initiate(_)
            | SessionMutation::Complete { .. }
            | SessionMutation::Abort { .. }
            | SessionMutation::Expire => true,
        };
        Ok(SessionView {
            session,
            parts,
            lost,
            standing: self.standing(overlay, &swap.id).await?,
            change_is_live,
        })
    }

    /// What the session table holds under this key, or will hold.
    pub(crate) async fn session_entry(
        &self,
        overlay: &Overlay,
        key: &[u8],
    ) -> Result<Option<Bytes>> {
        match overlay.session(key) {
            Some(value) => Ok(value.cloned()),
            None => self.shared.index.get(Table::Sessions, key).await,
        }
    }

    /// What is filed under the number of a part, if anything is.
    pub(crate) async fn part_entry(
        &self,
        overlay: &Overlay,
        upload: &UploadId,
        number: PartNumber,
    ) -> Result<BTreeMap<Bytes, Bytes>> {
        let key = part_key(upload, number);
        let value = self.session_entry(overlay, &key).await?;
        Ok(value.map(|value| (key, value)).into_iter().collect())
    }

    /// All that is filed as parts of an upload: what is in the index, but for what the overlay says
    /// otherwise.
    pub(crate) async fn part_entries(
        &self,
        overlay: &Overlay,
        upload: &UploadId,
    ) -> Result<BTreeMap<Bytes, Bytes>> {
        let prefix = parts_prefix(upload);
        let snapshot = self.shared.index.snapshot()?;
        let mut entries: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        let mut range = Range::prefix(&prefix, PARTS_PAGE);
        loop {
            let page = snapshot.scan(Table::Sessions, range.clone()).await?;
            let last = page
                .last()
                .map(|(key, _)| key.clone())
                .filter(|_| page.len() == PARTS_PAGE);
            entries.extend(page);
            match last {
                Some(last) => range = range.after(last),
                None => break,
            }
        }
        for (key, value) in overlay.sessions_below(&prefix) {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
        Ok(entries)
    }

    /// The planted bugs of whoever ends uploads.
    fn spoil(&self, swap: &SessionSwap, view: &mut SessionView, verdict: &mut Verdict) {
        let env = &self.shared.env;
        match verdict {
            Verdict::Refuse { .. } if env.planted(Bug::PartAfterEnd) => {
                if let SessionMutation::Part { .. } = swap.mutation {
                    *verdict = Verdict::File;
                }
            }
            Verdict::Complete { orphans, .. } if env.planted(Bug::EndQueuesEveryPart) => {
                let parts = view.parts.values();
                orphans.extend(parts.map(|part| {
                    cenotaph_storage::swap::revision_key(&swap.id, part.extent.revision)
                }));
            }
            Verdict::Complete {
                orphans, session, ..
            } if env.planted(Bug::CompleteTwice) => {
                let is_part = |revision| {
                    view.parts
                        .values()
                        .any(|part| part.extent.revision == revision)
                };
                orphans.retain(|key| !is_part(key.revision));
                *session = view.session.clone().unwrap_or_else(|| session.clone());
                view.parts.clear();
            }
            Verdict::Begin
            | Verdict::File
            | Verdict::Complete { .. }
            | Verdict::Supersede { .. }
            | Verdict::Replay(_)
            | Verdict::End { .. }
            | Verdict::Unchanged
            | Verdict::Conflict(_)
            | Verdict::Refuse { .. }
            | Verdict::Fenced => {}
        }
    }
}

impl Common {
    fn count(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Conflict(_) => {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("cenotaph_conflicts_total").increment(1);
            }
            Verdict::Supersede { .. } => {
                self.counters.superseded.fetch_add(1, Ordering::Relaxed);
                metrics::counter!("cenotaph_superseded_total").increment(1);
            }
            Verdict::End { session: None, .. } => {
                metrics::counter!("cenotaph_uploads_forgotten_total").increment(1);
            }
            Verdict::Begin
            | Verdict::File
            | Verdict::Complete { .. }
            | Verdict::Replay(_)
            | Verdict::End {
                session: Some(_), ..
            }
            | Verdict::Unchanged
            | Verdict::Refuse { .. }
            | Verdict::Fenced => {}
        }
    }
}

/// The reply of a request that repeats what is on its way to the disk: if that fails, nobody knows
/// what became of it, whether this request was handed to the index or not (I10).
fn may_be_committed<T: Send + 'static>(reply: Reply<T>) -> Reply<T> {
    Box::new(move |outcome| {
        reply(outcome.map_err(|error| {
            let message = "the index failed while it committed what is repeated here; it may be durable or not";
            Error::new(ErrorKind::Indeterminate, "multipart", message).with_source(error)
        }));
    })
}

/// What the caller hears once the verdict is durable.
fn answer(verdict: Verdict) -> SessionAnswer {
    match verdict {
        Verdict::Begin | Verdict::File | Verdict::End { .. } | Verdict::Unchanged => {
            SessionAnswer::Done
        }
        Verdict::Complete { written, .. }
        | Verdict::Supersede { written, .. }
        | Verdict::Replay(written) => SessionAnswer::Completed(written),
        Verdict::Conflict(current) => SessionAnswer::Conflict(current),
        Verdict::Refuse { error, .. } => SessionAnswer::Refused(error),
        Verdict::Fenced => SessionAnswer::Fenced,
    }
}
