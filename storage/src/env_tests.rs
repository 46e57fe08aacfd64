//! Claims about the steady time, over clocks that a test sets.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;

/// A time of day and a monotonic time, both set by hand.
#[derive(Clone, Default)]
struct Clocks(Arc<Mutex<Hands>>);

#[derive(Clone, Copy, Default)]
struct Hands {
    day_ms: u64,
    monotonic: Duration,
    /// Time that passes right after the next look at either clock.
    pause: Duration,
}

impl Clocks {
    fn set(&self, day_ms: u64, monotonic: Duration) {
        *self.0.lock().unwrap() = Hands {
            day_ms,
            monotonic,
            pause: Duration::ZERO,
        };
    }

    fn pause_after_next_look(&self, pause: Duration) {
        self.0.lock().unwrap().pause = pause;
    }

    fn look(&self) -> Hands {
        let mut hands = self.0.lock().unwrap();
        let seen = *hands;
        hands.day_ms += u64::try_from(seen.pause.as_millis()).unwrap();
        hands.monotonic += seen.pause;
        hands.pause = Duration::ZERO;
        seen
    }
}

impl World for Clocks {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.look().day_ms)
    }

    fn monotonic(&self) -> Duration {
        self.look().monotonic
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
fn the_steady_time_goes_on_when_the_clock_is_set_back() {
    const HOUR_MS: u64 = 3_600_000;
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(10 * HOUR_MS, Duration::from_millis(500));
    assert_eq!(env.steady_now().as_millis(), 10 * HOUR_MS);
    clocks.set(9 * HOUR_MS, Duration::from_millis(500));
    assert_eq!(
        env.steady_now().as_millis(),
        10 * HOUR_MS,
        "it never goes back"
    );
    clocks.set(9 * HOUR_MS + 60_000, Duration::from_millis(60_500));
    let later = env.steady_now().as_millis();
    assert!(
        (10 * HOUR_MS + 59_998..=10 * HOUR_MS + 60_000).contains(&later),
        "it goes on: {later}"
    );
    clocks.set(11 * HOUR_MS, Duration::from_millis(60_500));
    assert_eq!(
        env.steady_now().as_millis(),
        11 * HOUR_MS,
        "the time of day has overtaken it"
    );
}

/// A thread that waits for a processor between its looks at the two clocks, or a machine that is
/// suspended there.
#[test]
fn a_pause_between_both_clocks_moves_no_time_ahead() {
    const PAUSE: Duration = Duration::from_secs(3600);
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(50_000_000, Duration::from_millis(500));
    assert_eq!(env.steady_now().as_millis(), 50_000_000);
    clocks.pause_after_next_look(PAUSE);
    let after = 50_000_000 + 3_600_000;
    assert!(env.steady_now().as_millis() <= after);
    assert!(
        (after - 1..=after).contains(&env.steady_now().as_millis()),
        "{:?}",
        env.steady_now()
    );
}

#[test]
fn ids_can_be_made_when_the_clock_is_not_set() {
    let clocks = Clocks::default();
    let env = Env::new(clocks.clone());
    clocks.set(0, Duration::ZERO);
    assert_eq!(env.steady_now().as_millis(), 0);
    assert_eq!(env.revision_id().as_uuid().get_version_num(), 7);
}

proptest! {
    #[test]
    fn without_a_jump_the_steady_time_is_the_time_of_day(
        start_ns in 0..10_000_000u64,
        offset_ns in 0..u64::MAX / 4,
        steps in proptest::collection::vec(0..5_000_000u64, 1..50),
    ) {
        let clocks = Clocks::default();
        let env = Env::new(clocks.clone());
        let mut monotonic = start_ns;
        for step in steps {
            monotonic += step;
            let day_ms = (offset_ns + monotonic) / 1_000_000;
            clocks.set(day_ms, Duration::from_nanos(monotonic));
            prop_assert_eq!(env.steady_now().as_millis(), day_ms);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_tier_that_hangs_holds_up_no_read_of_the_index() {
    let env = Env::real().unwrap();
    let (held, release) = std::sync::mpsc::channel::<()>();
    let release = Arc::new(std::sync::Mutex::new(release));
    let hanging: Vec<_> = (0..BLOB_THREADS_MAX + 10)
        .map(|_| {
            let (env, release) = (env.clone(), Arc::clone(&release));
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
    assert_eq!(read.expect("it waits for the blob tier").unwrap(), 7);
    assert!(
        hung.into_iter().all(|released| released.unwrap()),
        "all of it ends once the tier answers"
    );
}
