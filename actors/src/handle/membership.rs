//! The task of a member of a shared index: it watches the other members, follows the clock of the
//! index, and stores the pins of long reads.
//!
//! ```text
//! every fourth of   a revision pinned at two readings in a row: store its pin
//! `reader_grace`    a stored pin whose read has ended: remove it
//! every heartbeat   read all members ──> one is overdue: declare it dead
//!                                    └─> one is gone: settle its changes, orphans and deadlines
//! `reader_grace`    the same, for members that came and went between two readings
//! ```
//!
//! A pin is stored after at most half of the grace time of the sweepers, long before any of them
//! deletes the revision (I8). A read whose pin could not be stored ends with `Unavailable` if its blob
//! is gone, because its row is gone, too.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_storage::index::{Batch, Heartbeats, Range, SharedIndex, Table};
use cenotaph_storage::records::{
    read_reader_pin_key, reader_pin_key, reader_pin_value, reader_pins_prefix,
};
use cenotaph_storage::{Result, RevisionId};
use tokio::sync::oneshot;

use crate::context::{Context, SharedContext};

/// Pins read at once.
const PAGE: usize = 1000;

/// State of the task between its turns.
#[derive(Default)]
struct MemberTask {
    heartbeats: Heartbeats,
    pins: ReaderPins,
    /// Monotonic time of the next look at the pins.
    pins_due: Duration,
    /// Monotonic time at which work of others is looked for, whether or not a member was seen to go.
    take_over_due: Duration,
    /// True if a member is gone whose work has not been taken over.
    is_gone: bool,
}

/// Revisions that reads of this member hold.
#[derive(Default)]
struct ReaderPins {
    /// Revisions that were pinned at the last look.
    held: BTreeSet<RevisionId>,
    /// Revisions whose pins are stored.
    stored: BTreeSet<RevisionId>,
    /// Revisions whose pins may be stored: their last commit failed.
    unsure: BTreeSet<RevisionId>,
}

/// Spawns the task, which ends when the returned sender is dropped. Returns `None` if the index has a
/// single owner.
pub(super) fn spawn_member_task(context: &SharedContext) -> Option<oneshot::Sender<()>> {
    context.index.shared()?;
    let (handle, mut dropped) = oneshot::channel();
    let context = Arc::clone(context);
    context.env.clone().spawn(async move {
        let mut task = MemberTask::default();
        loop {
            let turn = async {
                context.env.sleep(context.limits.heartbeat).await;
                task.turn(&context).await;
            };
            tokio::select! {
                biased;
                _ = &mut dropped => return,
                () = turn => {}
            }
        }
    });
    Some(handle)
}

impl MemberTask {
    async fn turn(&mut self, context: &Context) {
        let Some(shared) = context.index.shared() else {
            return;
        };
        // A member that was declared dead takes no part any more.
        if context.index.poisoned().is_some() || context.health.is_closed() {
            return;
        }
        let now = context.env.monotonic();
        // First: readers of this member depend on it.
        if now >= self.pins_due {
            self.pins_due = now.saturating_add(context.limits.members.reader_grace / 4);
            if let Err(error) = self.pins.store(context, shared).await {
                tracing::warn!(%error, "failed to store the pins of long reads");
            }
        }
        if let Err(error) = self.watch(context, shared).await {
            tracing::warn!(%error, "failed to read the members of the shared index");
        }
        if self.is_gone || now >= self.take_over_due {
            self.is_gone = false;
            self.take_over_due = now.saturating_add(context.limits.members.reader_grace);
            context.take_over();
            if let Err(error) = remove_dead_pins(context).await {
                tracing::warn!(%error, "failed to remove the pins of a member that is gone");
            }
        }
    }

    /// Reads the clock and all members, and declares those dead that are overdue.
    async fn watch(&mut self, context: &Context, shared: &dyn SharedIndex) -> Result<()> {
        let asked = context.env.monotonic();
        let now = shared.wall_time().await?;
        // An answer that took long says little about the present time.
        if context.env.monotonic().saturating_sub(asked) <= context.limits.heartbeat {
            context.env.set_index_clock(now);
        }
        let begun = context.env.monotonic();
        let members = shared.members().await?;
        let times = context.lease_times();
        let reading = self.heartbeats.note(&members, shared.epoch(), begun, times);
        self.is_gone |= reading.is_gone;
        let mut declared = Ok(());
        for (member, beat) in reading.overdue {
            // A member whose entry can't be removed now must not hold up the others.
            match shared.declare_dead(member, beat).await {
                Ok(true) => {
                    tracing::warn!(member = member.get(), "a member was declared dead");
                    metrics::counter!("cenotaph_members_declared_dead_total").increment(1);
                    self.is_gone = true;
                }
                Ok(false) => {}
                Err(error) => declared = Err(error),
            }
        }
        declared
    }
}

impl ReaderPins {
    /// Stores the pins of reads that have been under way since the last look, and removes those of
    /// reads that have ended.
    async fn store(&mut self, context: &Context, shared: &dyn SharedIndex) -> Result<()> {
        let pinned = context.pins.revisions();
        let long: BTreeSet<_> = self.held.intersection(&pinned).copied().collect();
        self.held = pinned;
        let mut batch = Batch::new();
        for revision in long.difference(&self.stored) {
            let key = reader_pin_key(*revision, shared.epoch());
            batch.put(Table::Meta, key, reader_pin_value());
        }
        let known = self.stored.union(&self.unsure);
        for revision in known.filter(|revision| !long.contains(revision)) {
            batch.remove(Table::Meta, reader_pin_key(*revision, shared.epoch()));
        }
        if batch.is_empty() {
            return Ok(());
        }
        // Until the commit is known to have succeeded, each of them may be stored or not: the next look
        // puts those that are needed, and removes the others.
        self.unsure.extend(self.stored.difference(&long));
        self.unsure.extend(&long);
        self.stored.clear();
        context.commit(batch, ()).await?;
        self.unsure.clear();
        self.stored = long;
        Ok(())
    }
}

/// Removes the pins of members that are gone.
async fn remove_dead_pins(context: &Context) -> Result<()> {
    let mut range = Range::prefix(&reader_pins_prefix(), PAGE);
    loop {
        let page = context
            .index
            .snapshot()?
            .keys(Table::Meta, range.clone())
            .await?;
        // After the pins: those of members that have joined meanwhile are not among them.
        let Some(live) = context.live_epochs().await? else {
            return Ok(());
        };
        let mut batch = Batch::new();
        for key in &page {
            if read_reader_pin_key(key).is_ok_and(|(_, epoch)| !live.contains(&epoch)) {
                batch.remove(Table::Meta, key.clone());
            }
        }
        if !batch.is_empty() {
            context.commit(batch, ()).await?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE => range = range.after(last.clone()),
            Some(_) | None => return Ok(()),
        }
    }
}

impl Context {
    /// Takes over the work that a member has left: its changes, its orphans, and deadlines that only it
    /// has noted.
    fn take_over(&self) {
        self.backlog.request_scan_of_changes();
        self.wake_recovery();
        self.backlog.request_scan_of_orphans();
        self.wake_sweeper();
        self.wake_expirer();
    }
}
