//! An incarnation of a world with several members on a shared index: [`live_together`].
//!
//! ```text
//! member: opens ──> its clients ──> waits for all clients ──> faults cease ──> settles, works, closes
//!            ^          │
//!            └──────────┴── crashed, declared dead, or reopened by a client: a new member
//! ```
//!
//! The clients of a plan are divided among the members, so that members contend for its objects.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cenotaph::Engine;
use tokio::task::JoinSet;

use super::liveness::check_member;
use super::work::{RemainingWork, Reopening, closing, run_client};
use crate::client::Client;
use crate::plan::{MembersPlan, RunPlan};
use crate::rng::Odds;
use crate::sim::Controls;
use crate::world::scheduler::sleep;

/// Longest time until a crashed member is opened again, in milliseconds.
const RESTART_MS_MAX: u64 = 60_000;

/// Interval at which a member whose clients are done looks for the others.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Number of openings of a member after the end of faults. A pause that has begun before may still
/// let a member be declared dead.
const QUIET_OPENINGS_MAX: usize = 5;

/// A member and its part of the work.
struct MemberLife {
    world: Controls,
    number: usize,
    plan: MembersPlan,
    crashes_max: u32,
    work: Arc<RemainingWork>,
}

/// End of an opening of a member.
enum End {
    Done,
    /// The engine is to be opened again.
    Again,
}

/// Runs all members until every client is done and every member has settled and closed.
pub(super) async fn live_together(world: Controls, plan: &RunPlan, work: Arc<RemainingWork>) {
    let Some(members) = &plan.members else { return };
    create_store(&world).await;
    let mut lives = JoinSet::new();
    for number in 0..members.count {
        let life = MemberLife {
            world: world.clone(),
            number,
            plan: members.clone(),
            crashes_max: plan.crashes_max,
            work: Arc::clone(&work),
        };
        spawn_in(&mut lives, &world, format!("member {number}"), life.run());
    }
    while let Some(ended) = lives.join_next().await {
        if ended.is_err() {
            let durable_state = world.durable_state();
            let mut state = durable_state.state();
            state
                .model
                .violated("panic", "the life of a member panicked");
        }
    }
}

/// Opens a new store once, alone: members whose first openings meet faults may wait for each other.
async fn create_store(world: &Controls) {
    if world.durable_state().state().model.is_claimed() {
        return;
    }
    if let Ok(engine) = world.open_patiently().await {
        closing(world);
        drop(engine.close().await);
    }
}

/// Spawns a task that ends with its set.
fn spawn_in(
    set: &mut JoinSet<()>,
    world: &Controls,
    name: String,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let task = world.on_lane(name, task);
    set.spawn(task);
}

impl MemberLife {
    /// Opens the member again and again until all clients are done.
    async fn run(self) {
        let mut quiet = 0;
        for opening in 1.. {
            if self.work.is_done() {
                quiet += 1;
            }
            if quiet > QUIET_OPENINGS_MAX {
                let durable_state = self.world.durable_state();
                let message = "a member does not stay alive after the end of faults";
                return durable_state.state().model.violated("liveness", message);
            }
            let name = format!("m{}.{opening}", self.number);
            let process = self.world.member(name, self.plan.skew_ms_max);
            match process.ended(self.live(&process)).await {
                Some(End::Done) => return,
                Some(End::Again) => {}
                None => {
                    self.note_crash(&process);
                    if self.world.durable_state().state().is_exhausted() {
                        // The world ends at its next step.
                        return;
                    }
                    let rest = self.world.durable_state().below(RESTART_MS_MAX);
                    sleep(Duration::from_millis(rest)).await;
                }
            }
        }
    }

    fn note_crash(&self, process: &Controls) {
        let durable_state = self.world.durable_state();
        let mut state = durable_state.state();
        if let Some(epoch) = process.epoch() {
            state.model.member_crashed(epoch);
        }
        state.coverage.count("run: a member crashed");
        let crashes = self.work.member_crashes.fetch_add(1, Ordering::SeqCst) + 1;
        if crashes >= self.crashes_max {
            state.faults.crash = Odds::NEVER;
        }
    }

    /// Opens the engine and runs the clients of this member.
    async fn live(&self, process: &Controls) -> End {
        let engine = match process.open_patiently().await {
            Ok(engine) => engine,
            Err(error) => {
                let durable_state = process.durable_state();
                let message = format!("a member does not open: {error:?}");
                durable_state.state().model.violated("liveness", message);
                return End::Done;
            }
        };
        self.work.note_opening(process);
        let reopening = Arc::new(Reopening::default());
        let mut clients = JoinSet::new();
        for number in (self.number..self.work.clients.len()).step_by(self.plan.count) {
            let client = Client::new(process, &engine, &self.work.slots);
            let task = run_client(
                client,
                number,
                Arc::clone(&self.work),
                Arc::clone(&reopening),
            );
            spawn_in(&mut clients, process, format!("client {number}"), task);
        }
        while let Some(ended) = clients.join_next().await {
            if ended.is_err() {
                let durable_state = process.durable_state();
                let mut state = durable_state.state();
                state.model.violated("panic", "a call panicked");
            }
        }
        if reopening.reopen.load(Ordering::SeqCst) {
            if !reopening.abandon.load(Ordering::SeqCst) {
                self.close(process, &engine).await;
            } else if let Some(epoch) = process.epoch() {
                let durable_state = process.durable_state();
                durable_state.state().model.member_crashed(epoch);
            }
            return End::Again;
        }
        while !self.work.is_done() {
            sleep(LOOK_INTERVAL).await;
        }
        process.quieten();
        self.note_end();
        let probe = self.work.probes.fetch_add(1, Ordering::SeqCst);
        let is_settled = check_member(process, &engine, &self.work.slots, probe).await;
        self.close(process, &engine).await;
        if is_settled { End::Done } else { End::Again }
    }

    fn note_end(&self) {
        let steps = self.world.durable_state().state().step;
        let _ = self
            .work
            .steps
            .compare_exchange(0, steps, Ordering::SeqCst, Ordering::SeqCst);
    }

    async fn close(&self, process: &Controls, engine: &Engine) {
        closing(process);
        // A member that was declared dead, or whose engine had failed, returns that here once more.
        drop(engine.close().await);
    }
}
