//! Planted bugs of the members of a shared index.

use std::sync::Arc;
use std::time::Duration;

use cenotaph_storage::index::{Index, Member, SharedIndex};
use cenotaph_storage::planted::Bug;
use cenotaph_storage::{Epoch, Error, ErrorKind, Result, WallTime};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::index::MutantIndex;
use crate::world::scheduler::Scheduler;

/// Interval at which the wrong watcher reads the heartbeats.
const INTERVAL: Duration = Duration::from_secs(5);
/// Age of a heartbeat from which the wrong watcher declares a member dead, in milliseconds.
const LEASE_MS: u64 = 20_000;

impl MutantIndex {
    /// Returns the membership of the handle below.
    fn inner_shared(&self) -> Result<&dyn SharedIndex> {
        // Only asked through `shared`, which has found it.
        let message = "the index is not shared";
        let none = || Error::new(ErrorKind::Invalid, "members", message);
        self.inner.shared().ok_or_else(none)
    }
}

impl SharedIndex for MutantIndex {
    fn epoch(&self) -> Epoch {
        self.inner_shared()
            .map_or(Epoch::new(0), SharedIndex::epoch)
    }

    fn members(&self) -> BoxFuture<'_, Result<Vec<Member>>> {
        async move {
            let mut members = self.inner_shared()?.members().await?;
            if self.bug == Bug::LiveMemberRecovered {
                // Planted bug: all others count as gone.
                members.retain(|member| member.epoch == SharedIndex::epoch(self));
            }
            Ok(members)
        }
        .boxed()
    }

    fn declare_dead(&self, member: Epoch, beat: u64) -> BoxFuture<'_, Result<bool>> {
        async move { self.inner_shared()?.declare_dead(member, beat).await }.boxed()
    }

    fn wall_time(&self) -> BoxFuture<'_, Result<WallTime>> {
        async move { self.inner_shared()?.wall_time().await }.boxed()
    }
}

/// Spawns a task that compares the wall clock of its process with the times that other members have
/// stamped their heartbeats with, by their own wall clocks.
pub(super) fn watch_by_wall_clocks(index: &Arc<dyn Index>, scheduler: &Arc<Scheduler>) {
    let index = Arc::downgrade(index);
    let watcher = Arc::clone(scheduler);
    scheduler.spawn("a watcher", async move {
        watcher.name_lane("watcher", false);
        loop {
            watcher.sleep(INTERVAL).await;
            let Some(index) = index.upgrade().filter(|index| index.poisoned().is_none()) else {
                return;
            };
            let stamps = watcher.durable_state().shared.stamps();
            let now_ms = watcher.time_of_day_ms();
            let Some(shared) = index.shared() else { return };
            for (epoch, (beat, stamped_ms)) in stamps {
                let is_other = Epoch::new(epoch) != shared.epoch();
                if is_other && now_ms > stamped_ms + LEASE_MS {
                    drop(shared.declare_dead(Epoch::new(epoch), beat).await);
                }
            }
        }
    });
}
