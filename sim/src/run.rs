//! A run: one plan in one world, from its first life to the last check.
//!
//! ```text
//! life 1 ──crash──> life 2 ──crash──> .. ──> every client is done
//!   ──> faults cease ──> the same engine settles, takes on work, closes at once (liveness)
//!   ──> a new life settles what is left ──> both tiers at rest (I5)
//!   ──> a last life reads every object (I9) ──> the history is checked
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cenotaph::{
    Config, Engine, Error, ErrorKind, ExpiryLimits, Limits, MultipartLimits, QueueLimits,
    ReadLimits, Reason, RestartLimits, SplitLimits, SweepLimits, Update, Write,
};
use cenotaph_storage::blobs::BlobOptions;
use cenotaph_storage::planted::Bug;

use crate::check::{Answer, Violation, check_history};
use crate::client::{Client, Slots};
use crate::coverage::Coverage;
use crate::faults::Fault;
use crate::plan::{Cut, Op, Plan, Setting, UploadRules, put};
use crate::rng::Odds;
use crate::sim::{Controls, Life, Sim};
use crate::trace::Kind;

/// Writes with numbers from here on are probes, and no client's.
const PROBES: u64 = 1_000_000_000;

/// How long after its deadline an object may still be there, if nothing goes wrong.
const EXPIRER_PATIENCE: Duration = Duration::from_secs(120);

/// The numbers of an insistent client's attempts are so far apart: it asks for less than that ..
const ATTEMPTS_APART: usize = 10_000;
/// .. and insists so often.
const ATTEMPTS_MAX: usize = 50;

/// How a plan is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// On real fjall instead of the simulated disk.
    pub on_fjall: bool,
    /// A bug in the engine that must be found. Has an effect only with the feature `planted`.
    pub bug: Option<Bug>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The world, for its timeline.
    pub sim: Sim,
    /// What must never be, and was. Empty if all is well.
    pub violations: Vec<Violation>,
    /// How often each thing happened.
    pub coverage: Coverage,
    /// Steps: moments at which a crash could have struck.
    pub steps: u64,
    /// Steps until the last client was done.
    pub steps_of_clients: u64,
    /// At which step each opening of the engine had ended.
    pub opened_at: Vec<u64>,
    /// Calls of clients.
    pub operations: u64,
    /// Incarnations.
    pub lives: u64,
    /// Virtual time.
    pub elapsed: Duration,
}

/// Runs a plan. A function of its arguments.
///
/// ```
/// use cenotaph_sim::{Options, Plan, run};
///
/// let report = run(&Plan::generate(42, 100), &Options::default());
/// assert!(report.violations.is_empty(), "{}", report.sim.timeline());
/// assert!(report.coverage.of("heard: applied") > 0);
/// ```
///
/// # Panics
/// If there is no temporary directory to be had for real fjall.
pub fn run(plan: &Plan, options: &Options) -> Report {
    let mut sim = world(plan, options);
    let work = Arc::new(Work::new(plan));
    let mut crashes = 0;
    loop {
        if crashes >= plan.crashes_max {
            sim.machine().state().faults.crash = Odds::NEVER;
        }
        let work = Arc::clone(&work);
        let opened = work.opened();
        match sim.run(async |world| live(world, Arc::clone(&work)).await) {
            Life::Ended(()) => break,
            Life::Crashed if sim.machine().state().is_exhausted() => break,
            Life::Crashed => {
                crashes += 1;
                let mut state = sim.machine().state();
                if work.opened() == opened {
                    state.coverage.count("run: crashed while it opened");
                }
                if crashes == 3 {
                    state.coverage.count("run: several crashes");
                }
            }
        }
    }
    // What is violated stays in the monitor, where the report finds it.
    drop(sim.settle());
    end_uploads(&mut sim, plan.setting.multipart);
    read_everything(&mut sim);
    report(sim, &work)
}

fn world(plan: &Plan, options: &Options) -> Sim {
    #[cfg(feature = "planted")]
    let sim = Sim::with_bug(plan.seed, options.bug);
    #[cfg(not(feature = "planted"))]
    let sim = Sim::new(plan.seed);
    {
        let mut state = sim.machine().state();
        state.monitor.inline_bytes_max = Some(plan.setting.inline_bytes_max);
        state.monitor.rules = Some(plan.setting.multipart);
        state.writes_max = Some(plan.setting.writes_at_once);
        state.strict_deletes = plan.setting.strict_deletes;
    }
    let sim = sim
        .config(config(&plan.setting))
        .faults(plan.faults.clone())
        .schedule(plan.schedule.clone());
    let sim = plan
        .acts
        .iter()
        .fold(sim, |sim, &(step, act)| sim.at_step(step, act));
    if options.on_fjall {
        sim.on_fjall().expect("there is a temporary directory")
    } else {
        sim
    }
}

fn report(sim: Sim, work: &Work) -> Report {
    let machine = Arc::clone(sim.machine());
    let mut state = machine.state();
    check_history(&mut state.monitor);
    state.report_violations();
    let report = Report {
        violations: state.monitor.violations().to_vec(),
        coverage: state.coverage.clone(),
        steps: state.step,
        steps_of_clients: work.steps.load(Ordering::SeqCst),
        opened_at: work
            .opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        operations: state.monitor.calls_made(),
        lives: u64::from(state.trace.life()),
        elapsed: state.elapsed(),
        sim,
    };
    drop(state);
    report
}

fn config(setting: &Setting) -> Config {
    let budget = |bytes: usize| {
        if setting.scarce {
            bytes
        } else {
            256 * 1024 * 1024
        }
    };
    Config {
        inline_bytes_max: usize::try_from(setting.inline_bytes_max)
            .expect("inline payloads fit into memory"),
        limits: Limits {
            shards: setting.shards,
            writes_at_once: setting.writes_at_once,
            uploads_at_once: setting.uploads_at_once,
            upload_bytes_in_flight: budget(9 * 1024 * 1024),
            write_bytes_in_flight: budget(64 * 1024),
            queue: QueueLimits {
                places: if setting.scarce { 2 } else { 0 },
                wait: Duration::from_secs(1),
            },
            recovery_page: 2,
            restarts: RestartLimits {
                max: setting.restarts_max,
                ..RestartLimits::default()
            },
            sweep: SweepLimits {
                grace: Duration::from_secs(30),
                backoff_max: Duration::from_secs(20),
                page: 3,
                ..SweepLimits::default()
            },
            multipart: MultipartLimits {
                part_bytes_min: setting.multipart.part_bytes_min,
                lifetime: Duration::from_millis(setting.multipart.lifetime_ms),
                kept_for: Duration::from_millis(setting.multipart.kept_for_ms),
                ..MultipartLimits::default()
            },
            split: setting.cut.map_or_else(
                SplitLimits::default,
                |Cut {
                     over_bytes,
                     part_bytes,
                     at_once,
                 }| {
                    SplitLimits {
                        over_bytes,
                        part_bytes,
                        at_once,
                    }
                },
            ),
            expiry: ExpiryLimits {
                page: 3,
                removals_at_once: 2,
                ..ExpiryLimits::default()
            },
            ..Limits::default()
        },
        reads: ReadLimits {
            bytes_in_flight: budget(32 * 1024) as u64,
            ..ReadLimits::default()
        },
        blobs: BlobOptions {
            chunk_bytes: 1024 * 1024,
            concurrent: 1,
            ..BlobOptions::default()
        },
        ..Config::default()
    }
}

/// What is left to do, over all lives.
struct Work {
    clients: Vec<Vec<Op>>,
    next: Vec<AtomicUsize>,
    /// What is not acknowledged is repeated; how often it was tried.
    insistent: bool,
    attempts: Vec<AtomicUsize>,
    /// The uploads that clients know of.
    slots: Slots,
    /// The engine is to be closed and opened again: clients pause.
    reopen: AtomicBool,
    /// It is to be dropped without being closed.
    abandon: AtomicBool,
    opened_at: Mutex<Vec<u64>>,
    /// Steps until the last client was done.
    steps: AtomicU64,
}

impl Work {
    fn new(plan: &Plan) -> Self {
        Self {
            clients: plan.clients.clone(),
            next: plan.clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            insistent: plan.insistent,
            attempts: plan.clients.iter().map(|_| AtomicUsize::new(0)).collect(),
            slots: Slots::default(),
            reopen: AtomicBool::new(false),
            abandon: AtomicBool::new(false),
            opened_at: Mutex::default(),
            steps: AtomicU64::new(0),
        }
    }

    /// What this client asks next, and a number that no other call has.
    fn take(&self, client: usize) -> Option<(&Op, u64)> {
        let next = &self.next[client];
        let (at, attempt) = match self.insistent {
            true => (
                next.load(Ordering::SeqCst),
                self.attempts[client].fetch_add(1, Ordering::SeqCst),
            ),
            false => (next.fetch_add(1, Ordering::SeqCst), 0),
        };
        let write = (client as u64 + 1) * 1_000_000 + (attempt * ATTEMPTS_APART + at) as u64;
        self.clients[client].get(at).map(|op| (op, write))
    }

    /// A client has heard this: if it insists, it goes on only if it was acknowledged, or after too
    /// many attempts.
    fn heard(&self, client: usize, answer: &Answer) {
        let attempts = &self.attempts[client];
        let is_over = attempts.load(Ordering::SeqCst) >= ATTEMPTS_MAX;
        if self.insistent && (is_over || !matches!(answer, Answer::Cancelled | Answer::Failed(_))) {
            attempts.store(0, Ordering::SeqCst);
            self.next[client].fetch_add(1, Ordering::SeqCst);
        }
    }

    fn opened(&self) -> usize {
        self.opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// One life: opens, lets every client go on, reopens when one of them asks for it or the engine has
/// failed.
async fn live(world: Controls, work: Arc<Work>) {
    work.reopen.store(false, Ordering::SeqCst);
    work.abandon.store(false, Ordering::SeqCst);
    loop {
        let deaths = deaths(&world);
        let engine = match world.open_patiently().await {
            Ok(engine) => engine,
            Err(error) => {
                let machine = world.machine();
                return machine
                    .state()
                    .monitor
                    .violated("liveness", format!("it does not open: {error:?}"));
            }
        };
        let step = world.machine().state().step;
        work.opened_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(step);
        let clients = (0..work.clients.len()).map(|number| {
            let client = Client::new(&world, &engine, &work.slots);
            world.spawn(
                format!("client {number}"),
                go_on(client, number, Arc::clone(&work)),
            )
        });
        for client in clients.collect::<Vec<_>>() {
            if client.await.is_err() {
                world
                    .machine()
                    .state()
                    .monitor
                    .violated("panic", "a call panicked");
            }
        }
        let go_on = work.reopen.swap(false, Ordering::SeqCst);
        if go_on && work.abandon.swap(false, Ordering::SeqCst) {
            world
                .machine()
                .state()
                .coverage
                .count("run: reopened, the engine was dropped");
            drop(engine);
            continue;
        }
        check_deaths(&world, &engine, deaths).await;
        if !go_on {
            world.quieten();
            work.steps
                .store(world.machine().state().step, Ordering::SeqCst);
            calm_down(&world, &engine, &work.slots).await;
        }
        // A failed engine says so here once more.
        closing(&world);
        drop(engine.close().await);
        if !go_on {
            return;
        }
    }
}

async fn go_on(client: Client, number: usize, work: Arc<Work>) {
    while !work.reopen.load(Ordering::SeqCst) {
        let Some((op, write)) = work.take(number) else {
            return;
        };
        let answer = client.perform(op, write).await;
        work.heard(number, &answer);
        if let Op::Reopen { close } = op {
            client
                .machine
                .state()
                .coverage
                .count("run: reopened by a client");
            work.abandon.fetch_or(!close, Ordering::SeqCst);
            work.reopen.store(true, Ordering::SeqCst);
            if *close {
                client
                    .machine
                    .state()
                    .coverage
                    .count("run: closed under its clients");
                closing(&client.world);
                drop(client.engine.close().await);
            }
        } else if let Err(error) = client.engine.health()
            && error.kind() != ErrorKind::Closed
            && error.reason() != Some(Reason::BlobTier)
            && !work.reopen.swap(true, Ordering::SeqCst)
        {
            let mut state = client.machine.state();
            state.coverage.count("run: reopened, the engine had failed");
            if error.to_string().contains("die too often") {
                state.coverage.count("engine: its actors died too often");
            }
        }
    }
}

/// Faults have ceased, and nothing else: the very engine that lived through them must settle by
/// itself, hold no permit that nobody uses, take on work again, and close without waiting for
/// anything (liveness).
async fn calm_down(world: &Controls, engine: &Engine, slots: &Slots) {
    let violated = |message: String| {
        let machine = world.machine();
        let mut state = machine.state();
        state.monitor.violated("liveness", message);
        state.report_violations();
    };
    let settled = world.settles_by_itself(engine).await;
    // What has expired is removed without being asked for, soon after.
    world.advance(EXPIRER_PATIENCE).await;
    match (settled, engine.health()) {
        (Ok(()), Ok(())) => {
            let overdue = {
                let machine = world.machine();
                let mut state = machine.state();
                state.note(Kind::World, "counts what has expired", String::new());
                state
                    .monitor
                    .overdue(u64::try_from(EXPIRER_PATIENCE.as_millis()).unwrap_or(u64::MAX))
            };
            if overdue > 0 {
                violated(format!(
                    "{overdue} objects have expired and are still there"
                ));
            }
        }
        // It had failed before, or a commit that hung has made it fail since.
        (_, Err(_)) if world.machine().state().was_provoked() => return,
        (_, Err(error)) => {
            return violated(format!(
                "it has failed, and nothing had gone wrong: {error:?}"
            ));
        }
        (Err(error), Ok(())) => {
            return violated(format!(
                "it does not settle once faults have ceased: {error:?}"
            ));
        }
    }
    let client = Client::new(world, engine, slots);
    client.switch(false);
    let inline = engine.config().inline_bytes_max as u64;
    let objects = 0..u32::try_from(2 * engine.config().limits.shards).unwrap_or(u32::MAX);
    for (object, bytes) in
        objects.flat_map(|object| [(object, 1.min(inline)), (object, inline + 1)])
    {
        let op = put(object, bytes);
        let answer = client
            .perform(
                &op,
                PROBES + 2 * u64::from(object) + u64::from(bytes > inline),
            )
            .await;
        if !matches!(answer, Answer::Applied { .. }) {
            violated(format!(
                "it does not take on work once faults have ceased: {op:?} -> {answer:?}"
            ));
        }
    }
    let begun = world.elapsed();
    closing(world);
    drop(engine.close().await);
    if world.elapsed() - begun >= engine.config().limits.close_timeout {
        violated("closing takes as long as it may, and there is nothing to wait for".to_owned());
    }
    let orphans = world.machine().state().monitor.landed_orphans();
    if orphans > 0 {
        violated(format!(
            "it has closed, and left {orphans} orphans that were due"
        ));
    }
    check_closed(engine, violated).await;
}

/// A closed engine says so, whatever it is asked.
async fn check_closed(engine: &Engine, violated: impl Fn(String)) {
    let large = vec![0; engine.config().inline_bytes_max + 1];
    let answers = [
        engine.health().err(),
        engine.put("late", "a").await.err(),
        engine.put("late", large).await.err(),
        engine.get("late").await.err(),
        engine.head("late").await.err(),
        engine.delete("late").await.err(),
        engine.list("").await.err(),
        engine.settle().await.err(),
        engine.stats().await.err(),
        engine.usage().await.err(),
        engine.scrub().await.err(),
        engine.amend("late").filename("a").await.err(),
        engine.extend_expiry("late").never().await.err(),
        engine.copy("late", "later").await.err(),
        engine.rename("late", "later").await.err(),
        engine.atomic([Write::delete("late")]).await.err(),
        engine.multipart("late").await.err(),
        engine.resume("late", "0".repeat(44)).await.err(),
        engine.list_uploads("").await.err(),
        engine.delete_prefix("late").await.err(),
        engine
            .update("late", async |_| Ok::<_, Error>(Update::Keep))
            .await
            .err(),
    ];
    let kinds = answers.map(|error| error.map(|error| error.kind()));
    if kinds != [Some(ErrorKind::Closed); 21] {
        violated(format!("a closed engine does not say so: {kinds:?}"));
    }
}

/// The engine is about to be closed: from here on `Closed` is an answer.
fn closing(world: &Controls) {
    let machine = world.machine();
    let mut state = machine.state();
    let tick = state.note(Kind::World, "closing", String::new());
    state.monitor.closing(tick);
}

fn deaths(world: &Controls) -> u64 {
    let machine = world.machine();
    let coverage = &machine.state().coverage;
    coverage.of(Fault::Kill.name()) + coverage.of(Fault::Panic.name())
}

/// No actor dies that nobody killed.
async fn check_deaths(world: &Controls, engine: &Engine, before: u64) {
    let Ok(stats) = engine.stats().await else {
        return;
    };
    let wanted = deaths(world) - before;
    if stats.actors.restarts > wanted {
        let message = format!(
            "{} actors died, {wanted} of them were killed",
            stats.actors.restarts
        );
        world
            .machine()
            .state()
            .monitor
            .violated("unprovoked", message);
    }
}

/// Nobody goes on with an upload: those that live for long are aborted, the others expire. Then the
/// blobs are those that rows name, and no others.
fn end_uploads(sim: &mut Sim, rules: UploadRules) {
    if sim.machine().state().monitor.open_uploads() == 0 {
        return;
    }
    let life = sim.run(async |world: Controls| {
        let engine = world.open_patiently().await?;
        if rules.lifetime_ms <= 3_600_000 {
            world
                .advance(Duration::from_millis(rules.lifetime_ms) + EXPIRER_PATIENCE)
                .await;
        } else {
            Client::new(&world, &engine, &Slots::default())
                .abort_all()
                .await?;
        }
        closing(&world);
        engine.close().await
    });
    let machine = Arc::clone(sim.machine());
    if !matches!(life, Life::Ended(Ok(()))) {
        machine
            .state()
            .monitor
            .violated("liveness", format!("uploads can't be ended: {life:?}"));
    }
    let open = machine.state().monitor.open_uploads();
    if open > 0 {
        machine
            .state()
            .monitor
            .violated("liveness", format!("{open} uploads are still open"));
    }
    drop(sim.settle());
}

/// A last life: every object that was committed is there, byte for byte, and no other (I9).
fn read_everything(sim: &mut Sim) {
    let plan_of_reads = {
        let state = sim.machine().state();
        state.monitor.objects()
    };
    let life = sim.run(async |world: Controls| {
        let Ok(engine) = world.open_patiently().await else {
            return world
                .machine()
                .state()
                .monitor
                .violated("liveness", "it does not open for the last time");
        };
        let client = Client::new(&world, &engine, &Slots::default());
        for object in &plan_of_reads {
            client.read_again(object).await;
        }
        // At rest a scrub finds nothing, whatever has happened.
        client.perform(&Op::Scrub, PROBES - 1).await;
        drop(engine.close().await);
    });
    if life == Life::Crashed {
        sim.machine()
            .state()
            .monitor
            .violated("liveness", "the last life crashed by itself");
    }
}
