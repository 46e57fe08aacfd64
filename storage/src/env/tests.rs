//! Tests of the steady time with clocks that a test sets, and of the real world.

use std::cell::RefCell;
use std::sync::Mutex;

use proptest::prelude::*;

use super::real::{BLOB_THREADS_MAX, BLOCKING_IDLE};
use super::*;

/// World with a wall clock and a monotonic clock that the test sets.
#[derive(Clone, Default)]
struct Clocks(Arc<Mutex<Readings>>);

#[derive(Clone, Copy, Default)]
struct Readings {
    wall_ms: u64,
    monotonic: Duration,
    /// Time that passes right after the next reading of either clock.
    pause: Duration,
}

impl Clocks {
    fn set(&self, wall_ms: u64, monotonic: Duration) {
        *self.0.lock().unwrap() = Readings {
            wall_ms,
            monotonic,
            pause: Duration::ZERO,
        };
    }

    fn pause_after_next_reading(&self, pause: Duration) {
        self.0.lock().unwrap().pause = pause;
    }

    fn read(&self) -> Readings {
        let mut clocks = self.0.lock().unwrap();
        let readings = *clocks;
        clocks.wall_ms += u64::try_from(readings.pause.as_millis()).unwrap();
        clocks.monotonic += readings.pause;
        clocks.pause = Duration::ZERO;
        readings
    }
}

impl World for Clocks {
    fn wall_time(&self) -> WallTime {
        WallTime::from_millis(self.read().wall_ms)
    }

    fn monotonic(&self) -> Duration {
        self.read().monotonic
    }

    fn random_u64(&self) -> u64 {
        0
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn spawn(&self, _: BoxFuture<'static, ()>) {}

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn offload(&self, _: BoxFuture<'static, ()>) {}

    fn thread(&self, _: &str, _: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn the_steady_time_advances_when_the_clock_is_set_back() {
    const HOUR_MS: u64 = 3_600_000;
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(10 * HOUR_MS, Duration::from_millis(500));
    assert_eq!(env.steady_now().as_millis(), 10 * HOUR_MS);
    clocks.set(9 * HOUR_MS, Duration::from_millis(500));
    assert_eq!(
        env.steady_now().as_millis(),
        10 * HOUR_MS,
        "the steady time never decreases"
    );
    clocks.set(9 * HOUR_MS + 60_000, Duration::from_millis(60_500));
    let later = env.steady_now().as_millis();
    assert!(
        (10 * HOUR_MS + 59_998..=10 * HOUR_MS + 60_000).contains(&later),
        "the steady time advances with the monotonic time: {later}"
    );
    clocks.set(11 * HOUR_MS, Duration::from_millis(60_500));
    assert_eq!(
        env.steady_now().as_millis(),
        11 * HOUR_MS,
        "the steady time follows a wall time that is ahead"
    );
}

/// The pause is that of a descheduled thread or of a suspended machine, between the readings of the
/// two clocks.
#[test]
fn a_pause_between_the_readings_does_not_advance_the_time() {
    const PAUSE: Duration = Duration::from_secs(3600);
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(50_000_000, Duration::from_millis(500));
    assert_eq!(env.steady_now().as_millis(), 50_000_000);
    clocks.pause_after_next_reading(PAUSE);
    let after = 50_000_000 + 3_600_000;
    assert!(env.steady_now().as_millis() <= after);
    assert!(
        (after - 1..=after).contains(&env.steady_now().as_millis()),
        "{:?}",
        env.steady_now()
    );
}

#[test]
fn ids_are_generated_when_the_clock_is_not_set() {
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(0, Duration::ZERO);
    assert_eq!(env.steady_now().as_millis(), 0);
    assert_eq!(env.revision_id().as_uuid().get_version_num(), 7);
}

proptest! {
    #[test]
    fn without_a_jump_the_steady_time_is_the_wall_time(
        start_ns in 0..10_000_000u64,
        offset_ns in 0..u64::MAX / 4,
        steps in proptest::collection::vec(0..5_000_000u64, 1..50),
    ) {
        let clocks = Clocks::default();
        let env = Env::new(clocks.clone());
        let mut monotonic = start_ns;
        for step in steps {
            monotonic += step;
            let wall_ms = (offset_ns + monotonic) / 1_000_000;
            clocks.set(wall_ms, Duration::from_nanos(monotonic));
            prop_assert_eq!(env.steady_now().as_millis(), wall_ms);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_blob_tier_does_not_delay_reads_of_the_index() {
    let env = Env::real().unwrap();
    let (held, release) = std::sync::mpsc::channel::<()>();
    let release = Arc::new(std::sync::Mutex::new(release));
    let hanging: Vec<_> = (0..BLOB_THREADS_MAX + 10)
        .map(|_| {
            let env = env.clone();
            let release = Arc::clone(&release);
            async move {
                env.blocking_on_blobs(move || release.lock().unwrap().recv().is_err())
                    .await
            }
        })
        .collect();
    let hanging = futures::future::join_all(hanging);
    let reading = async {
        let read = env
            .deadline(Duration::from_secs(30), env.blocking(|| 7))
            .await;
        drop(held);
        read
    };
    let (hung, read) = futures::join!(hanging, reading);
    assert_eq!(read.expect("the read waits for the blob tier").unwrap(), 7);
    assert!(
        hung.into_iter().all(|released| released.unwrap()),
        "all work ends after the tier responds"
    );
}

/// Notifies the test when its thread ends.
struct ThreadEnd(Option<oneshot::Sender<()>>);

thread_local! {
    static THREAD_END: RefCell<ThreadEnd> = const { RefCell::new(ThreadEnd(None)) };
}

/// Threads end after an idle time, but a service that opens and closes many stores would keep
/// those of each until then.
#[tokio::test]
async fn idle_threads_end_with_their_environment() {
    let outer = Env::real().unwrap();
    let env = Env::real().unwrap();
    let (sender, ended) = oneshot::channel();
    let work = move || THREAD_END.with_borrow_mut(|end| end.0 = Some(sender));
    env.blocking(work).await.unwrap();
    drop(env);
    let ended = outer.deadline(BLOCKING_IDLE / 2, ended).await;
    assert!(ended.is_some(), "the idle thread outlives its environment");
}

#[test]
fn index_clock_replaces_the_wall_time_and_never_steps_back() {
    let clocks = Clocks::default();
    clocks.set(9_000_000, Duration::from_secs(10));
    let env = Env::new(clocks.clone()).by_index_clock(WallTime::from_millis(50_000));
    let shown = env.steady_now().as_millis();
    assert_eq!(shown, 49_999, "a reading is rounded down: not early");
    // The wall time of the machine jumps in both directions.
    for wall_ms in [1, 90_000_000] {
        clocks.set(wall_ms, Duration::from_secs(12));
        assert_eq!(env.steady_now().as_millis(), shown + 2_000);
    }
    // The clock of the index is behind: the time waits for it.
    env.set_index_clock(WallTime::from_millis(51_000));
    assert_eq!(env.steady_now().as_millis(), shown + 2_000);
    clocks.set(1, Duration::from_secs(15));
    assert_eq!(env.steady_now().as_millis(), 53_999);
    // It is ahead: the time follows.
    env.set_index_clock(WallTime::from_millis(60_000));
    assert_eq!(env.steady_now().as_millis(), 59_999);
}

#[test]
fn index_clock_is_ignored_where_the_wall_time_counts() {
    let clocks = Clocks::default();
    clocks.set(1_000, Duration::from_secs(10));
    let env = Env::new(clocks);
    env.set_index_clock(WallTime::from_millis(50_000));
    assert_eq!(env.steady_now().as_millis(), 1_000);
}
