//! Checks at the end of a run: liveness of the engine after the faults, the end of open uploads,
//! and a last read of every object.

use std::sync::Arc;
use std::time::Duration;

use cenotaph::{BatchWrite, Engine, Error, ErrorKind, Update};

use super::work::closing;
use crate::check::Answer;
use crate::client::{Client, Slots};
use crate::plan::{Op, UploadRules, put};
use crate::sim::{Controls, Incarnation, Sim};
use crate::trace::EventKind;

/// First number of the writes that probe the engine. Smaller numbers belong to clients.
const PROBES: u64 = 1_000_000_000;

/// Number of objects that are kept apart for the probes of a member.
const PROBED_OF_MEMBER: u32 = 100;

/// Longest time for which a last version may be kept over its limits if nothing goes wrong.
const PRUNER_PATIENCE: Duration = Duration::from_secs(60);

/// Longest time for which an object may exist after its deadline if nothing goes wrong.
const EXPIRER_PATIENCE: Duration = Duration::from_secs(120);

/// Checks liveness of the engine that has lived through the faults, now that they have ceased. The
/// engine must settle by itself, take on work again, and close without a wait.
pub(super) async fn check_liveness(world: &Controls, engine: &Engine, slots: &Slots) {
    let violated = |message: String| {
        let durable_state = world.durable_state();
        let mut state = durable_state.state();
        state.model.violated("liveness", message);
        state.report_violations();
    };
    if check_quiescence(world, engine, violated).await {
        check_new_work(world, engine, slots, 0, violated).await;
        check_close(world, engine, violated).await;
        check_closed(engine, violated).await;
    }
}

/// Checks liveness of a member that has lived through the faults. Returns false if the engine has
/// failed, or was declared dead: it must be opened again.
pub(super) async fn check_member(
    world: &Controls,
    engine: &Engine,
    slots: &Slots,
    probe: u32,
) -> bool {
    let violated = |message: String| {
        let durable_state = world.durable_state();
        let mut state = durable_state.state();
        // The failure of an engine since the beginning of the check is no violation.
        if engine.health().is_ok() {
            state.model.violated("liveness", message);
            state.report_violations();
        }
    };
    if let Err(error) = world.settles_by_itself(engine).await {
        violated(format!("no quiescence after the end of faults: {error:?}"));
    }
    // Objects of its own: a large put of another member may supersede one to the same object.
    let first = PROBED_OF_MEMBER * (probe + 1);
    check_new_work(world, engine, slots, first, violated).await;
    engine.health().is_ok()
}

/// Checks that the engine settles and removes expired objects without a request. Returns false if
/// the engine has failed, so that there is nothing more to check.
async fn check_quiescence(world: &Controls, engine: &Engine, violated: impl Fn(String)) -> bool {
    let settled = world.settles_by_itself(engine).await;
    // By then the expirer must have removed every expired object by itself.
    world.advance(EXPIRER_PATIENCE).await;
    match (settled, engine.health()) {
        (Ok(()), Ok(())) => {
            let overdue = {
                let durable_state = world.durable_state();
                let mut state = durable_state.state();
                state.note(EventKind::World, "counts expired objects", String::new);
                state
                    .model
                    .overdue(u64::try_from(EXPIRER_PATIENCE.as_millis()).unwrap_or(u64::MAX))
            };
            let last_versions = overdue_last_versions(world, engine);
            if last_versions > 0 {
                violated(format!(
                    "last versions are kept over their limits: count={last_versions}"
                ));
            }
            if overdue > 0 {
                violated(format!(
                    "objects are still present after their deadline: count={overdue}"
                ));
            }
            true
        }
        // The engine had failed before, or a hanging commit has made it fail since.
        (_, Err(_)) if world.durable_state().state().was_provoked() => false,
        (_, Err(error)) => {
            violated(format!("the engine failed without a fault: {error:?}"));
            false
        }
        (Err(error), Ok(())) => {
            violated(format!("no quiescence after the end of faults: {error:?}"));
            false
        }
    }
}

/// Returns the number of last versions that the pruner should have dropped by then.
fn overdue_last_versions(world: &Controls, engine: &Engine) -> u64 {
    let to_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let limits = &engine.config().limits.last_versions;
    let durable_state = world.durable_state();
    let state = durable_state.state();
    state.model.overdue_last_versions(
        to_ms(PRUNER_PATIENCE),
        to_ms(limits.kept_for),
        limits.entries_max,
    )
}

/// Checks that the engine takes puts to every shard and to both tiers. A permit that a fault has
/// leaked would block them.
async fn check_new_work(
    world: &Controls,
    engine: &Engine,
    slots: &Slots,
    first: u32,
    violated: impl Fn(String),
) {
    let client = Client::new(world, engine, slots);
    // A client may have switched the namespace off.
    client.switch(false);
    // The longest inline payload decides the tier: 1 byte goes to the index, `inline + 1` to the
    // blobs.
    let inline = engine.config().inline_bytes_max as u64;
    let shards = u32::try_from(engine.config().limits.shards).unwrap_or(u32::MAX);
    let objects = first..first + 2 * shards;
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
                "the engine refuses work after the end of faults: {op:?} -> {answer:?}"
            ));
        }
    }
}

/// Checks that the engine closes without a wait and leaves no orphan that was due.
async fn check_close(world: &Controls, engine: &Engine, violated: impl Fn(String)) {
    let begun = world.elapsed();
    closing(world);
    drop(engine.close().await);
    if world.elapsed() - begun >= engine.config().limits.close_timeout {
        violated("closing runs into its timeout without work under way".to_owned());
    }
    let orphans = world.durable_state().state().model.landed_orphans();
    if orphans > 0 {
        violated(format!(
            "a closed engine has left orphans that were due: count={orphans}"
        ));
    }
}

/// Checks that a closed engine refuses every call with `Closed`.
async fn check_closed(engine: &Engine, violated: impl Fn(String)) {
    // Both tiers refuse, each on its own path.
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
        engine.atomic([BatchWrite::delete("late")]).await.err(),
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
        violated(format!(
            "a call to a closed engine does not return Closed: {kinds:?}"
        ));
    }
}

/// Ends every open upload and settles: short-lived uploads expire, the others are aborted.
/// Afterwards the blob tier must contain exactly the blobs that rows name.
pub(super) fn end_uploads(sim: &mut Sim, rules: UploadRules) {
    if sim.durable_state().state().model.open_uploads() == 0 {
        return;
    }
    let life = sim.run(async |world: Controls| {
        let engine = world.open_patiently().await?;
        // Up to an hour of virtual time is cheap to wait. Uploads that live longer are aborted.
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
    let durable_state = Arc::clone(sim.durable_state());
    if !matches!(life, Incarnation::Ended(Ok(()))) {
        durable_state
            .state()
            .model
            .violated("liveness", format!("uploads can't be ended: {life:?}"));
    }
    let open = durable_state.state().model.open_uploads();
    if open > 0 {
        durable_state
            .state()
            .model
            .violated("liveness", format!("{open} uploads are still open"));
    }
    // The violations stay in the model. The second quiescence checks that ended uploads left no
    // blob.
    drop(sim.settle());
}

/// Relocates everything from older tiers. Returns whether all of them are released.
async fn relocate_everything(world: &Controls, engine: &Engine, client: &Client) -> bool {
    let has_older = || world.durable_state().state().model.has_older_tiers();
    for attempt in 0..10 {
        if !has_older() {
            return true;
        }
        let relocate = Op::Relocate {
            dropped_after_ms: None,
        };
        client.perform(&relocate, PROBES - 20 + attempt).await;
        drop(world.settle(engine).await);
    }
    !has_older()
}

/// Runs a last incarnation that reads every object: each committed object exists, byte for byte,
/// and no other does (I9).
pub(super) fn read_everything(sim: &mut Sim) {
    let objects = {
        let state = sim.durable_state().state();
        state.model.objects()
    };
    let life = sim.run(async |world: Controls| {
        let Ok(engine) = world.open_patiently().await else {
            return world.durable_state().state().model.violated(
                "liveness",
                "the engine does not open in the last incarnation",
            );
        };
        let client = Client::new(&world, &engine, &Slots::default());
        for object in &objects {
            client.read_again(object).await;
        }
        // Without faults a migration moves everything and seals.
        if world.durable_state().state().model.has_open_source() {
            client
                .perform(
                    &Op::Migrate {
                        dropped_after_ms: None,
                    },
                    PROBES - 2,
                )
                .await;
            if world.durable_state().state().model.has_open_source() {
                let message = "a migration without faults does not seal";
                world
                    .durable_state()
                    .state()
                    .model
                    .violated("seal", message);
            }
            for object in &objects {
                client.read_again(object).await;
            }
        }
        if !relocate_everything(&world, &engine, &client).await {
            let message = "a relocation without faults does not release the older tiers";
            let durable_state = world.durable_state();
            durable_state.state().model.violated("liveness", message);
        }
        if world.durable_state().state().tier > 0 {
            for object in &objects {
                client.read_again(object).await;
            }
        }
        // At rest a scrub finds no damage, whichever faults have struck.
        client.perform(&Op::Scrub, PROBES - 1).await;
        drop(engine.close().await);
    });
    if life == Incarnation::Crashed {
        sim.durable_state()
            .state()
            .model
            .violated("liveness", "the last incarnation crashed without a fault");
    }
}
