//! Work of all clients over all incarnations: [`RemainingWork`], and an incarnation of it: [`live`].

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cenotaph::{Engine, ErrorKind, Reason};

use super::liveness::check_liveness;
use crate::check::Answer;
use crate::client::{Client, Slots};
use crate::disks::blobs::TIERS;
use crate::faults::Fault;
use crate::plan::{Op, RunPlan};
use crate::sim::Controls;
use crate::trace::EventKind;

/// Distance between the numbers of two attempts of an insistent client. A client has fewer
/// operations.
const ATTEMPTS_APART: usize = 10_000;

/// Largest number of attempts of an insistent client at the same operation.
const ATTEMPTS_MAX: usize = 50;

/// Remaining operations of all clients. Outlives every incarnation.
pub(super) struct RemainingWork {
    pub(super) clients: Vec<Vec<Op>>,
    pub(super) next: Vec<AtomicUsize>,
    /// True if clients repeat an operation until it is acknowledged.
    pub(super) insistent: bool,
    /// Number of attempts at the current operation, by client.
    pub(super) attempts: Vec<AtomicUsize>,
    /// Uploads that the clients share.
    pub(super) slots: Slots,
    /// True for each client that has performed all its operations.
    pub(super) done: Vec<AtomicBool>,
    /// Number of crashes of members.
    pub(super) member_crashes: AtomicU32,
    /// Number of checks of members after the end of faults.
    pub(super) probes: AtomicU32,
    pub(super) opened_at: Mutex<Vec<u64>>,
    /// Number of steps until the last client was done.
    pub(super) steps: AtomicU64,
}

/// Request of a client to open the engine again.
#[derive(Default)]
pub(super) struct Reopening {
    /// True if the engine is to be closed and opened again. Clients pause.
    pub(super) reopen: AtomicBool,
    /// True if the engine is to be dropped without a close.
    pub(super) abandon: AtomicBool,
}

impl RemainingWork {
    pub(super) fn new(plan: &RunPlan) -> Self {
        Self {
            clients: plan.clients.clone(),
            next: plan.clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            insistent: plan.insistent,
            attempts: plan.clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            slots: Slots::default(),
            done: plan
                .clients
                .iter()
                .map(|_| AtomicBool::new(false))
                .collect(),
            member_crashes: AtomicU32::new(0),
            probes: AtomicU32::new(0),
            opened_at: Mutex::default(),
            steps: AtomicU64::new(0),
        }
    }

    /// Returns the next operation of this client and a number that no other call has.
    pub(super) fn take(&self, client: usize) -> Option<(&Op, u64)> {
        let next = &self.next[client];
        let at;
        let attempt;
        // An insistent client moves to the next operation in `heard`, not here.
        if self.insistent {
            at = next.load(Ordering::SeqCst);
            attempt = self.attempts[client].fetch_add(1, Ordering::SeqCst);
        } else {
            at = next.fetch_add(1, Ordering::SeqCst);
            attempt = 0;
        }
        // The number contains client, attempt and position, so a repeated operation writes other
        // bytes.
        let write = (client as u64 + 1) * 1_000_000 + (attempt * ATTEMPTS_APART + at) as u64;
        self.clients[client].get(at).map(|op| (op, write))
    }

    /// Records the answer to a client. An insistent client moves on only after an acknowledgement
    /// or after too many attempts.
    pub(super) fn heard(&self, client: usize, answer: &Answer) {
        let attempts = &self.attempts[client];
        let is_over = attempts.load(Ordering::SeqCst) >= ATTEMPTS_MAX;
        if self.insistent && (is_over || !matches!(answer, Answer::Cancelled | Answer::Failed(_))) {
            attempts.store(0, Ordering::SeqCst);
            self.next[client].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Returns true if every client has performed all its operations.
    pub(super) fn is_done(&self) -> bool {
        self.done.iter().all(|done| done.load(Ordering::SeqCst))
    }

    /// Records the step of an opening of the engine.
    pub(super) fn note_opening(&self, world: &Controls) {
        let step = world.durable_state().state().step;
        self.opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
    }

    /// Returns the number of openings of the engine so far.
    pub(super) fn opened(&self) -> usize {
        self.opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// Runs an incarnation: opens the engine, runs every client, and reopens the engine when a client
/// asks for it or the engine has failed.
pub(super) async fn live(world: Controls, work: Arc<RemainingWork>) {
    let reopening = Arc::new(Reopening::default());
    loop {
        let deaths = deaths(&world);
        let engine = match world.open_patiently().await {
            Ok(engine) => engine,
            Err(error) => {
                let durable_state = world.durable_state();
                return durable_state
                    .state()
                    .model
                    .violated("liveness", format!("the engine does not open: {error:?}"));
            }
        };
        work.note_opening(&world);
        let clients = (0..work.clients.len()).map(|number| {
            let client = Client::new(&world, &engine, &work.slots);
            world.spawn(
                format!("client {number}"),
                run_client(client, number, Arc::clone(&work), Arc::clone(&reopening)),
            )
        });
        // All clients are spawned before the first is awaited. Otherwise they would run in
        // sequence.
        for client in clients.collect::<Vec<_>>() {
            if client.await.is_err() {
                world
                    .durable_state()
                    .state()
                    .model
                    .violated("panic", "a call panicked");
            }
        }
        let again = reopening.reopen.swap(false, Ordering::SeqCst);
        if again && reopening.abandon.swap(false, Ordering::SeqCst) {
            world
                .durable_state()
                .state()
                .coverage
                .count("run: reopened, the engine was dropped");
            // The drop is the test: no close precedes the next opening.
            drop(engine);
            continue;
        }
        check_deaths(&world, &engine, deaths).await;
        if !again {
            world.quieten();
            work.steps
                .store(world.durable_state().state().step, Ordering::SeqCst);
            check_liveness(&world, &engine, &work.slots).await;
        }
        // A failed engine returns its failure here once more, and the clients have recorded it.
        closing(&world);
        drop(engine.close().await);
        if !again {
            return;
        }
    }
}

/// Performs the remaining operations of a client until the engine is to be reopened.
pub(super) async fn run_client(
    client: Client,
    number: usize,
    work: Arc<RemainingWork>,
    reopening: Arc<Reopening>,
) {
    while !reopening.reopen.load(Ordering::SeqCst) {
        let Some((op, write)) = work.take(number) else {
            work.done[number].store(true, Ordering::SeqCst);
            return;
        };
        let answer = client.perform(op, write).await;
        work.heard(number, &answer);
        if let Op::NextTier = op {
            let mut state = client.durable_state.state();
            let next = state.model.current_tier() + 1;
            state.tier = next.min(TIERS - 1);
            drop(state);
            reopening.reopen.store(true, Ordering::SeqCst);
        } else if let Op::Reopen { close } = op {
            client
                .durable_state
                .state()
                .coverage
                .count("run: reopened by a client");
            // `abandon` is set before `reopen`, so `live` sees both.
            reopening.abandon.fetch_or(!close, Ordering::SeqCst);
            reopening.reopen.store(true, Ordering::SeqCst);
            if *close {
                client
                    .durable_state
                    .state()
                    .coverage
                    .count("run: closed under its clients");
                // The other clients are still calling. `Closed` is a correct answer for them from
                // here on.
                closing(&client.world);
                drop(client.engine.close().await);
            }
        // A closed engine was closed by a client, and an outage of the blob tier ends by itself.
        // Neither calls for a new engine.
        } else if let Err(error) = client.engine.health()
            && error.kind() != ErrorKind::Closed
            && error.reason() != Some(Reason::BlobTier)
            && !reopening.reopen.swap(true, Ordering::SeqCst)
        {
            let mut state = client.durable_state.state();
            state.coverage.count("run: reopened, the engine had failed");
            if error.to_string().contains("die too often") {
                state.coverage.count("engine: its actors died too often");
            }
        }
    }
}

/// Records that the engine is about to be closed. From here on `Closed` is a correct answer.
pub(super) fn closing(world: &Controls) {
    let durable_state = world.durable_state();
    let mut state = durable_state.state();
    let tick = state.note(EventKind::World, "closing", String::new);
    state.model.closing(tick);
}

/// Returns the number of actors killed or made to panic so far.
fn deaths(world: &Controls) -> u64 {
    let durable_state = world.durable_state();
    let coverage = &durable_state.state().coverage;
    coverage.of(Fault::Kill.name()) + coverage.of(Fault::Panic.name())
}

/// Checks that no actor died without a planned kill or panic.
async fn check_deaths(world: &Controls, engine: &Engine, before: u64) {
    // A closed or failed engine has no statistics.
    let Ok(stats) = engine.stats().await else {
        return;
    };
    let planned = deaths(world) - before;
    if stats.actors.restarts > planned {
        let message = format!(
            "actors died without a fault: died={} killed={planned}",
            stats.actors.restarts
        );
        world
            .durable_state()
            .state()
            .model
            .violated("unprovoked", message);
    }
}
