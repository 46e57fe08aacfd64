//! Many seeds, and sweeps with a fault at every step: no claim is violated, and every expected
//! event occurs.
//!
//! `CENOTAPH_SIM_SEEDS` sets the number of seeds. The default is 500.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cenotaph_sim::{
    BatchPiece, Choice, Coverage, Declared, Fate, LastVersionRules, Lifetime, Op, Options, RunPlan,
    ScriptedFault, Setting, Shape, Span, Sweep, UploadAction, UploadRules, When, run, sweep,
    wanted,
};

/// Runs the plans of these seeds on two threads. Returns their coverage.
pub(crate) fn run_seeds(seeds: u64, options: Options) -> Coverage {
    let options = &Options {
        without_timeline: true,
        ..options
    };
    let next = AtomicU64::new(0);
    let seen = Mutex::new(Coverage::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let report = run(&options.plan(seed, 100), options);
                    let flags = if options.is_shared { " --shared" } else { "" };
                    assert_eq!(
                        report.violations,
                        [],
                        "seed {seed}: cenotaph-sim replay {seed}{flags}"
                    );
                    seen.lock().unwrap().merge(&report.coverage);
                }
            });
        }
    });
    seen.into_inner().unwrap()
}

/// Returns the number of seeds that the environment asks for.
pub(crate) fn seeds(default: u64) -> u64 {
    std::env::var("CENOTAPH_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn no_seed_violates_a_claim_and_coverage_is_complete() {
    let seen = run_seeds(seeds(500), Options::default());
    println!("{seen}");
    assert_eq!(
        seen.missing(wanted(false)),
        [""; 0],
        "expected events that no seed has produced"
    );
}

/// Until the seal no mask can be dropped, so that a walk after the other would find the same ones.
#[test]
fn masks_over_the_limit_do_not_hurry_the_pruner() {
    let mut plans = 0;
    for seed in 2100..2200 {
        let plan = RunPlan::generate(seed, 100);
        let limit = plan.setting.last_versions.entries_max;
        if plan.fallback.is_some() && limit != LastVersionRules::default().entries_max {
            let steps = run(&plan, &Options::default()).steps;
            assert!(steps < 20_000, "seed {seed}: {steps} steps");
            plans += 1;
        }
    }
    assert!(plans > 2, "{plans}");
}

#[test]
fn no_seed_violates_a_claim_on_real_fjall() {
    let seen = run_seeds(
        40,
        Options {
            on_fjall: true,
            ..Options::default()
        },
    );
    assert!(seen.of("heard: applied") > 100, "{seen}");
    assert!(seen.of("fault: crash") > 0, "{seen}");
}

const LARGE: u64 = 5000;
const SMALL: u64 = 10;

fn put(object: u32, bytes: u64, shape: Shape) -> Op {
    Op::Put {
        object,
        bytes,
        shape,
        when: When::Any,
        lifetime: Lifetime::Forever,
    }
}

fn get(object: u32, pause_ms: u64) -> Op {
    Op::Get {
        object,
        span: Span::All,
        pause_ms,
        leave: false,
    }
}

fn delete(object: u32) -> Op {
    Op::Delete {
        object,
        dropped_after_ms: None,
        when: When::Any,
    }
}

/// Both tiers, every transition of a row, concurrent writers, slow readers, a dropped call.
fn rivals() -> Vec<Vec<Op>> {
    vec![
        vec![
            put(0, LARGE, Shape::Stream(2000)),
            get(0, 20),
            put(0, LARGE, Shape::Bytes),
            delete(0),
            put(0, 10, Shape::Bytes),
        ],
        vec![
            put(1, 10, Shape::Bytes),
            put(0, LARGE, Shape::Slow(2000, 5)),
            put(1, LARGE, Shape::Bytes),
            delete(1),
            Op::ListAll,
        ],
        vec![
            put(2, LARGE, Shape::Dropped(1000, 7)),
            put(2, LARGE, Shape::Failing(2000)),
            get(1, 0),
            Op::Settle,
            delete(2),
        ],
    ]
}

/// Preconditions, deadlines, and operations on several objects, in sequence. A crash during an
/// operation is then a crash between two others.
fn demands() -> Vec<Vec<Op>> {
    let piece = |object, bytes| BatchPiece {
        object,
        bytes,
        if_absent: false,
    };
    let when = When::Absent;
    // Longer than most delays: the rename finds the object.
    let lifetime = Lifetime::Live(300);
    vec![vec![
        Op::Put {
            object: 5,
            bytes: LARGE,
            shape: Shape::Bytes,
            when,
            lifetime,
        },
        Op::Rename {
            from: 5,
            to: 3,
            if_absent: false,
        },
        Op::Atomic {
            pieces: vec![piece(0, Some(10)), piece(7, Some(4097)), piece(1, None)],
        },
        Op::Update {
            object: 7,
            bytes: LARGE,
            fate: Fate::Put,
            pause_ms: 15,
            lifetime: Lifetime::Idle(40),
        },
        get(7, 0),
        Op::Amend {
            object: 7,
            when: When::Version,
        },
        Op::Copy {
            from: 7,
            to: 2,
            if_absent: false,
        },
        Op::Extend {
            object: 7,
            ms: 5,
            may_shorten: true,
            when: When::Etag,
        },
        Op::Pause { ms: 400 },
    ]]
}

/// An upload from its beginning to its end: parts in reverse order, one of them replaced, completed
/// twice, then overwritten by a put.
fn upload() -> Vec<Vec<Op>> {
    let of = |step| Op::Multipart { slot: 0, step };
    let part = |number, bytes| {
        of(UploadAction::Part {
            number,
            bytes,
            shape: Shape::Stream(2000),
            declared: Declared::Right,
        })
    };
    let complete = || {
        of(UploadAction::Complete {
            choice: Choice::Listed,
            when: When::Any,
        })
    };
    vec![vec![
        of(UploadAction::Initiate {
            object: 5,
            when: When::Absent,
            lifetime: Lifetime::Forever,
        }),
        part(3, LARGE),
        part(2, LARGE),
        part(1, 100),
        part(2, LARGE + 1),
        complete(),
        complete(),
        put(5, SMALL, Shape::Bytes),
    ]]
}

/// Returns a plan of these clients without faults of its own.
fn plan(clients: Vec<Vec<Op>>) -> RunPlan {
    let setting = Setting {
        shards: 2,
        inline_bytes_max: 4097,
        uploads_at_once: 8,
        writes_at_once: 8,
        restarts_max: 100,
        scarce: false,
        strict_deletes: true,
        cut: None,
        multipart: UploadRules::default(),
        payload_log: false,
        // Low limits: the sweeps pass over drops of last versions, too.
        last_versions: LastVersionRules {
            kept_for_ms: 50,
            ..LastVersionRules::default()
        },
    };
    RunPlan {
        setting,
        clients,
        ..RunPlan::generate(1, 0)
    }
}

/// Runs a sweep over all three plans, which must violate nothing. Returns its coverage.
fn swept_clean(kind: Sweep) -> Coverage {
    let mut seen = Coverage::default();
    for (name, clients) in [
        ("rivals", rivals()),
        ("demands", demands()),
        ("upload", upload()),
    ] {
        let plan = RunPlan {
            insistent: name == "upload",
            ..plan(clients)
        };
        let swept = sweep(kind, &plan, &Options::default(), |_, _| {});
        let failures: Vec<_> = swept
            .failures
            .iter()
            .map(|(plan, found)| (&plan.acts, found))
            .collect();
        assert!(failures.is_empty(), "{kind:?} of {name}: {failures:?}");
        println!("{kind:?} of {name}: {} runs", swept.runs);
        seen.merge(&swept.coverage);
    }
    for swap in [
        "renamed",
        "amended",
        "copied",
        "extended",
        "expired removed",
    ] {
        assert!(seen.of(&format!("swap: {swap}")) > 0, "{swap}: {seen}");
    }
    for step in [
        "began",
        "a part filed",
        "a part replaced",
        "completed",
        "completed again",
    ] {
        assert!(seen.of(&format!("upload: {step}")) > 0, "{step}: {seen}");
    }
    seen
}

#[test]
fn crash_at_any_step_violates_nothing() {
    let seen = swept_clean(Sweep::Crash);
    assert!(seen.of("fault: crash") > 100, "{seen}");
    assert!(seen.of("recovery: a change fenced") > 0, "{seen}");
}

#[test]
fn upload_survives_a_crash_at_any_step() {
    let plan = RunPlan {
        insistent: true,
        ..plan(upload())
    };
    let steps = run(&plan, &Options::default()).steps_of_clients;
    let mut seen = Coverage::default();
    for step in 1..=steps {
        let crashed = RunPlan {
            acts: vec![(step, ScriptedFault::Crash)],
            ..plan.clone()
        };
        let mut report = run(&crashed, &Options::default());
        assert_eq!(report.violations, [], "a crash at step {step}");
        let last = report.sim.run(async |world| {
            let object = world.open().await.unwrap().get("cold/00005").await.unwrap();
            object.map(|object| (object.metadata().size, object.version().unwrap().get()))
        });
        let (size, version) = last
            .ended()
            .unwrap()
            .expect("the last put was acknowledged");
        assert_eq!(size, SMALL, "a crash at step {step}");
        // The upload commits once, however often it is completed. The put may have committed before
        // the crash and again after it.
        assert!(
            (2..=3).contains(&version),
            "a crash at step {step}: version {version}"
        );
        seen.merge(&report.coverage);
    }
    println!("a crash at each of {steps} steps");
    assert!(steps > 100 && seen.of("fault: crash") == steps, "{seen}");
    assert!(seen.of("upload: completed") == steps, "{seen}");
}

#[test]
fn second_crash_at_any_step_of_recovery_violates_nothing() {
    let seen = swept_clean(Sweep::CrashAgain);
    assert!(seen.of("run: crashed while it opened") > 50, "{seen}");
}

#[test]
fn kill_of_any_actor_at_any_step_violates_nothing() {
    let seen = swept_clean(Sweep::Kill);
    for killed in [
        "shard",
        "upload",
        "uploads",
        "recovery",
        "sweeper",
        "expirer",
        "pruner",
        "supervisor",
    ] {
        assert!(
            seen.of(&format!("killed: {killed}")) > 10,
            "{killed}: {seen}"
        );
    }
}

#[test]
fn panic_of_an_actor_at_any_step_violates_nothing() {
    let seen = swept_clean(Sweep::Panic);
    assert!(seen.of("fault: panic") > 50, "{seen}");
}
