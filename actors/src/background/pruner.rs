//! The pruner: drops old last versions of deleted objects.
//!
//! ```text
//! read a page of last versions -> request the drop of the old ones from their shards
//!                              -> sleep, shortly if the page had old ones -> next page
//! end of the walk              -> sleep until the next walk
//! ```
//!
//! The pruner decides nothing. The shard reads each object again, and drops its last version in a
//! batch that raises the base version (docs/adr/0027). A pass reads one page, so that its cost is
//! bounded. The position is in memory: a new actor begins its walk again. While a fallback is
//! attached, nothing can be dropped, so that no walk is in a hurry. The seal wakes the pruner.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cenotaph_storage::decide;
use cenotaph_storage::index::Table;
use cenotaph_storage::records::{BaseVersion, LastVersion, last_version_object};
use cenotaph_storage::{ObjectId, Result, SyncPoint, Timestamp};
use futures::stream::{self, StreamExt};

use crate::background::worker::{BackgroundWorker, NextPass};
use crate::context::SharedContext;
use crate::context::messages::{PruneOutcome, ShardMessage};

mod walk;

use walk::LastVersionWalk;

/// The pruner.
pub(crate) struct Pruner {
    pub(crate) context: SharedContext,
}

impl BackgroundWorker for Pruner {
    const NAME: &'static str = "pruner";
    const FAILED: &'static str = "dropping old last versions failed; trying again";
    type Outcome = PruneOutcome;
    type Memory = LastVersionWalk;

    fn context(&self) -> &SharedContext {
        &self.context
    }

    fn requested(&self) -> &AtomicBool {
        &self.context.prune_requested
    }

    fn claim(&self) -> Option<(&'static str, Duration)> {
        let interval = self.context.limits.last_versions.walk_interval;
        // Four times, so that the claim is renewed by every walk.
        Some(("prune", interval.saturating_mul(4)))
    }

    fn backoff_limits(&self) -> (Duration, Duration) {
        let limits = &self.context.limits.sweep;
        (limits.backoff_min, limits.backoff_max)
    }

    /// Reads the next page, and has its old last versions dropped.
    async fn pass(&self, walk: &LastVersionWalk) -> Result<PruneOutcome> {
        let limits = &self.context.limits.last_versions;
        let now = self.context.env.steady_now();
        if walk.is_at_begin() {
            self.context
                .last_versions_stored
                .store(0, Ordering::Relaxed);
        }
        let page = self
            .context
            .index
            .snapshot()?
            .scan_over(Table::Meta, walk.range(limits.page.max(1)))
            .await?;
        self.context.note_unreadable(page.unreadable);
        let base = self.context.base.get();
        let cutoff = walk.cutoff(now, limits.kept_for);
        let mut due = Vec::new();
        let mut kept = Vec::new();
        for (key, value) in &page.entries {
            // A scrub handles unreadable entries.
            let (Ok(object), Ok(last)) = (last_version_object(key), LastVersion::decode(value))
            else {
                continue;
            };
            let base = match base {
                Some(base) => base,
                // Undated entries count from here on, also after a restart.
                None if last.deleted.is_none() => self.context.store_base().await?,
                None => BaseVersion::first(now),
            };
            // While a fallback is attached, last versions are masks (docs/adr/0029).
            if decide::is_due(&last, base, cutoff) && !self.context.is_fallback_open() {
                due.push(object);
            } else {
                kept.push(base.deleted(&last));
            }
        }
        let pruned = self.drop(due, cutoff).await?;
        Ok(PruneOutcome {
            begun: walk.begun(now),
            pruned,
            kept,
            rest: page.rest,
        })
    }

    fn next_pass(&self, outcome: &PruneOutcome, walk: &mut LastVersionWalk) -> NextPass {
        let limits = &self.context.limits.last_versions;
        let now = self.context.env.steady_now();
        walk.add(outcome);
        // Masks over the limits stay over them until the seal (docs/adr/0029).
        let may_drop = !self.context.is_fallback_open();
        if outcome.rest.is_some() {
            // Pages with old entries follow each other: their number is bounded by the deletions.
            let is_behind = may_drop && (outcome.pruned > 0 || walk.kept() > limits.entries_max);
            let pause = if is_behind {
                Duration::ZERO
            } else {
                limits.page_interval
            };
            return NextPass::At(now.after(pause));
        }
        let kept = walk.kept();
        self.context
            .last_versions_kept
            .store(kept, Ordering::Relaxed);
        metrics::gauge!("cenotaph_last_versions").set(to_f64(kept));
        let is_over = walk.end(outcome.begun, limits.entries_max);
        let stored = self.context.last_versions_stored.load(Ordering::Relaxed);
        let pause = if may_drop && (is_over || stored >= limits.stored_max()) {
            limits.page_interval
        } else {
            limits.walk_interval
        };
        NextPass::At(now.after(pause))
    }

    async fn ignores_wake_up(&self, walk: &LastVersionWalk) -> bool {
        // The next walk begins at the end of this one, if it is needed.
        !walk.is_at_begin()
    }
}

impl Pruner {
    /// Has the last versions of these objects dropped. Returns the number dropped.
    async fn drop(&self, due: Vec<ObjectId>, cutoff: Timestamp) -> Result<u64> {
        let registry = &self.context.registry;
        let mut by_shard: BTreeMap<usize, Vec<ObjectId>> = BTreeMap::new();
        for object in due {
            let shard = registry.shard_number(&object);
            by_shard.entry(shard).or_default().push(object);
        }
        let at_once = by_shard.len().max(1);
        let drops = by_shard
            .into_values()
            .map(|objects| self.drop_in_shard(objects, cutoff));
        // At once, so that the shards share a sync. All end before the first error is returned.
        let outcomes: Vec<_> = stream::iter(drops).buffered(at_once).collect().await;
        let mut pruned = 0;
        for outcome in outcomes {
            pruned += outcome?;
        }
        if pruned > 0 {
            self.context
                .counters
                .pruned
                .fetch_add(pruned, Ordering::Relaxed);
            metrics::counter!("cenotaph_last_versions_dropped_total").increment(pruned);
            let (base, _) = self.context.base.read();
            metrics::gauge!("cenotaph_base_version").set(to_f64(base.get()));
        }
        Ok(pruned)
    }

    async fn drop_in_shard(&self, objects: Vec<ObjectId>, cutoff: Timestamp) -> Result<u64> {
        self.context.env.pass(SyncPoint::PrunerBeforeDrop).await;
        let Some(first) = objects.first() else {
            return Ok(0);
        };
        self.context
            .deliver(first, |reply| ShardMessage::Prune {
                objects: objects.clone(),
                cutoff,
                reply,
            })
            .await
    }
}

#[expect(clippy::cast_precision_loss, reason = "the value of a gauge")]
fn to_f64(count: u64) -> f64 {
    count as f64
}
