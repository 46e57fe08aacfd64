//! Guarantees of a world to its owner: the same seed is the same run, and crashes, kills, faults
//! and time follow its commands.

use std::time::Duration;

use cenotaph::{ActorKind, Error, ErrorKind, Reason};
use cenotaph_sim::{
    Faults, Incarnation, Odds, Options, RunPlan, Schedule, ScriptedFault, Sim, run,
};

/// Runs some of everything, for a trace.
async fn some_life(world: cenotaph_sim::Controls) {
    let Ok(engine) = world.open_patiently().await else {
        return;
    };
    for number in 0..20u8 {
        let other = engine.clone();
        let reader = world.spawn("reader", async move {
            other.get("k").await.map(|found| found.is_some())
        });
        drop(engine.put("k", vec![number; 1 << (number % 21)]).await);
        drop(reader.await);
        drop(engine.delete(format!("k{number}")).await);
    }
}

fn trace(seed: u64) -> String {
    let faults = Faults {
        kill: Odds::in_ten_thousand(200),
        blob_fails: Odds::in_ten_thousand(500),
        ..Faults::default()
    };
    let mut sim = Sim::new(seed)
        .faults(faults)
        .at_step(150, ScriptedFault::Crash);
    sim.run(some_life);
    sim.run(some_life);
    sim.settle().unwrap();
    sim.timeline()
}

#[test]
fn runs_are_equal_exactly_for_equal_seeds() {
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn runs_of_a_seed_on_real_fjall_are_equal() {
    let options = Options {
        on_fjall: true,
        ..Options::default()
    };
    for seed in 0..6 {
        let timeline = || run(&RunPlan::generate(seed, 60), &options).sim.timeline();
        assert_eq!(timeline(), timeline(), "seed {seed}");
    }
}

#[test]
fn run_without_a_timeline_is_the_same_run() {
    for seed in 0..8 {
        let result = |without_timeline| {
            let options = Options {
                without_timeline,
                ..Options::default()
            };
            let report = run(&RunPlan::generate(seed, 60), &options);
            let has_events = !report.sim.events().is_empty();
            assert_eq!(has_events, !without_timeline, "seed {seed}");
            let coverage = report.coverage.to_string();
            let size = (report.steps, report.operations, report.lives);
            (coverage, size, report.opened_at, report.elapsed)
        };
        assert_eq!(result(false), result(true), "seed {seed}");
    }
}

#[test]
fn planned_crash_strikes_at_its_step() {
    for step in [1, 2, 20, 57] {
        let mut sim = Sim::new(9).at_step(step, ScriptedFault::Crash);
        assert_eq!(sim.run(some_life), Incarnation::Crashed);
        assert_eq!(sim.steps(), step);
        sim.settle().unwrap();
    }
}

#[test]
fn time_passes_only_on_request() {
    let mut sim = Sim::new(1);
    let life = sim.run(async |world| {
        let before = (world.elapsed(), world.env().steady_now());
        world.advance(Duration::from_secs(3600)).await;
        world.jump_clock(-60_000);
        (
            world.elapsed() - before.0,
            world.env().steady_now().since(before.1),
        )
    });
    assert_eq!(
        life,
        Incarnation::Ended((Duration::from_secs(3600), Duration::from_secs(3540)))
    );
}

#[test]
fn engine_without_a_supervisor_fails_and_reopens() {
    let mut sim = Sim::new(4);
    let life = sim.run(async |world| {
        let engine = world.open().await?;
        engine.put("k", "v").await?;
        assert!(world.kill(ActorKind::Supervisor));
        world.advance(Duration::from_secs(1)).await;
        assert_eq!(engine.health().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(
            engine.put("k", "w").await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        drop(engine.close().await);
        let engine = world.open().await?;
        assert_eq!(
            engine
                .get("k")
                .await?
                .expect("the put was acknowledged")
                .bytes()
                .await?,
            "v"
        );
        Ok::<_, Error>(())
    });
    life.ended().unwrap().unwrap();
    sim.settle().unwrap();
}

#[test]
fn failing_disk_poisons_the_engine_with_unknown_outcome() {
    let always = Odds::ALWAYS;
    for faults in [
        Faults {
            index_no_space: always,
            ..Faults::default()
        },
        Faults {
            index_sync_fails: always,
            ..Faults::default()
        },
        Faults {
            index_sync_hangs: always,
            ..Faults::default()
        },
    ] {
        let mut sim = Sim::new(5);
        let life = sim.run(async |world| {
            let engine = world.open().await?;
            engine.put("k", "old").await?;
            world.set_faults(faults.clone());
            assert_eq!(
                engine.put("k", "new").await.unwrap_err().kind(),
                ErrorKind::Indeterminate
            );
            assert!(engine.health().is_err());
            world.set_faults(Faults::default());
            drop(engine.close().await);
            let engine = world.open_patiently().await?;
            let bytes = engine
                .get("k")
                .await?
                .expect("the put was acknowledged")
                .bytes()
                .await?;
            assert!(bytes == "old" || bytes == "new", "{bytes:?}");
            Ok::<_, Error>(())
        });
        life.ended().unwrap().unwrap();
        sim.settle().unwrap();
    }
}

/// Found by a swarm seed, with a similar plan in `tests/plans`. The supervisor restarted no actor
/// after `close` had begun, so orphans that were due remained.
#[test]
fn actor_dead_at_close_is_restarted() {
    let mut sim = Sim::new(8).schedule(Schedule {
        delay: Odds::NEVER,
        ..Schedule::default()
    });
    let life = sim.run(async |world| {
        let engine = world.open().await?;
        engine.put("k", vec![1; 2_000_000]).await?;
        assert!(world.kill(ActorKind::Sweeper));
        engine.delete("k").await?;
        engine.close().await?;
        let engine = world.open().await?;
        world.settle(&engine).await?;
        Ok::<_, Error>(engine.stats().await?.actors.swept)
    });
    assert_eq!(
        life.ended().unwrap().unwrap(),
        0,
        "the close has swept every orphan"
    );
    sim.settle().unwrap();
}

/// Overdue commits were not watched before the actors had started, so a hanging first commit
/// blocked the opening.
#[test]
fn opening_with_a_hanging_first_commit_gives_up() {
    let mut sim = Sim::new(8);
    let life = sim.run(async |world| {
        world.set_faults(Faults {
            index_sync_hangs: Odds::ALWAYS,
            ..Faults::default()
        });
        let error = world.open().await.unwrap_err();
        let took = world.elapsed();
        world.quieten();
        world.open_patiently().await.unwrap();
        (error.kind(), took < Duration::from_secs(40))
    });
    assert_eq!(life, Incarnation::Ended((ErrorKind::Indeterminate, true)));
    sim.settle().unwrap();
}

/// During an outage of the blob tier no blob counts as deleted. After the outage every orphan is
/// settled.
#[test]
fn outage_of_the_blob_tier_settles_nothing() {
    let mut sim = Sim::new(6);
    let life = sim.run(async |world| {
        let engine = world.open().await?;
        engine.put("k", vec![1; 2_000_000]).await?;
        engine.put("l", vec![1; 2_000_000]).await?;
        world.set_faults(Faults {
            tier_away: Odds::ALWAYS,
            ..Faults::default()
        });
        assert!(engine.delete("k").await?.existed);
        assert_eq!(
            engine.settle().await.unwrap_err().kind(),
            ErrorKind::Unavailable
        );
        assert_eq!(
            engine.get("l").await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(
            engine.health().unwrap_err().reason(),
            Some(Reason::BlobTier)
        );
        assert_eq!(engine.stats().await?.actors.orphans, 1);
        world.quieten();
        world.settles_by_itself(&engine).await?;
        assert!(engine.health().is_ok());
        engine
            .get("l")
            .await?
            .expect("the put was acknowledged")
            .bytes()
            .await
    });
    assert_eq!(life.ended().unwrap().unwrap().len(), 2_000_000);
    sim.settle().unwrap();
}

/// An engine over a foreign blob tier does not open and does not write to the tier.
#[test]
fn foreign_blob_tier_is_refused_and_not_touched() {
    let mut sim = Sim::new(7);
    let life = sim.run(async |world| {
        world.set_faults(Faults {
            tier_swapped: Odds::ALWAYS,
            ..Faults::default()
        });
        for _ in 0..20 {
            let engine = world.open().await?;
            engine.put("k", vec![1; 2_000_000]).await?;
            engine.close().await?;
        }
        Ok::<_, Error>(())
    });
    life.ended().unwrap().unwrap();
    let seen = sim.coverage();
    assert!(seen.of("open: an empty tier") > 0 && seen.of("open: another store's tier") > 0);
    sim.settle().unwrap();
}

/// Shrunk plans that once found a bug. The file name describes the bug.
#[test]
fn plans_that_found_a_bug_violate_nothing() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let plans: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!plans.is_empty());
    for path in plans {
        let plan: RunPlan = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            run(&plan, &Options::default()).violations,
            [],
            "{}",
            path.display()
        );
    }
}

#[test]
fn second_engine_on_the_same_index_is_refused() {
    let mut sim = Sim::new(6);
    let life = sim.run(async |world| {
        let first = world.open().await.unwrap();
        let refused = world.open().await.unwrap_err().kind();
        first.close().await.unwrap();
        world.open().await.unwrap();
        refused
    });
    assert_eq!(life, Incarnation::Ended(ErrorKind::AlreadyOpen));
}

#[test]
fn row_that_names_a_lost_blob_is_a_violation() {
    // Tests the checkers: they must notice a blob that was deleted without the engine.
    let mut sim = Sim::new(7);
    sim.run(async |world| {
        let engine = world.open().await.unwrap();
        engine.put("k", vec![1; 2_000_000]).await.unwrap();
        world.lose_blobs();
    });
    let found = sim.settle().unwrap_err();
    assert!(
        found.iter().any(|violation| violation.checker == "I2"),
        "{found:?}"
    );
    assert!(
        found.iter().any(|violation| violation.checker == "I5"),
        "{found:?}"
    );
}
