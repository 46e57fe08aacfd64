//! Namespace limits on a clock that the tests advance, and that advances when all tasks sleep.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use cenotaph_storage::{Real, WallTime, World};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// The paused clock of the test's runtime.
#[derive(Clone, Copy)]
pub(crate) struct Clockwork(tokio::time::Instant);

impl Clockwork {
    #[expect(clippy::disallowed_methods, reason = "this is the clock of a world")]
    pub(crate) fn env() -> (Self, Env) {
        let clock = Self(tokio::time::Instant::now());
        (
            clock,
            Env::new(ClockworkWorld {
                real: Real::current().unwrap(),
                clock,
                random: AtomicU64::new(1),
            }),
        )
    }

    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Returns whether this time has passed, with a tolerance for timer resolution and one turn.
    fn is_about(&self, time: Duration) -> bool {
        (time..time + SECOND / 8).contains(&self.elapsed())
    }
}

struct ClockworkWorld {
    real: Real,
    clock: Clockwork,
    random: AtomicU64,
}

impl World for ClockworkWorld {
    fn wall_time(&self) -> WallTime {
        self.real.wall_time()
    }

    fn monotonic(&self) -> Duration {
        self.clock.elapsed()
    }

    fn random_u64(&self) -> u64 {
        self.random
            .fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.real.sleep(duration)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.real.spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.real.blocking(work);
    }

    fn offload(&self, task: BoxFuture<'static, ()>) {
        self.real.offload(task);
    }

    fn thread(
        &self,
        name: &str,
        body: Box<dyn FnOnce() + Send>,
    ) -> std::io::Result<std::thread::JoinHandle<()>> {
        self.real.thread(name, body)
    }
}

fn namespace(text: &str) -> Namespace {
    text.parse().unwrap()
}

/// Sets these limits on the namespace `n`.
fn limited(limits: NamespaceLimits) -> (Clockwork, Namespaces, Namespace) {
    let (clock, env) = Clockwork::env();
    let namespaces = Namespaces::new(env);
    let n = namespace("n");
    namespaces.set(&n, limits).unwrap();
    (clock, namespaces, n)
}

fn operations(per_second: u32) -> NamespaceLimits {
    NamespaceLimits {
        operations_per_second: Some(per_second),
        ..NamespaceLimits::default()
    }
}

fn bytes_per_second(bytes: u64) -> NamespaceLimits {
    NamespaceLimits {
        bytes_per_second: Some(bytes),
        ..NamespaceLimits::default()
    }
}

fn kind(result: Result<NamespacePermit>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn source(chunks: &[usize]) -> PayloadSource {
    let chunks: Vec<_> = chunks
        .iter()
        .zip(0..)
        .map(|(&bytes, seed)| Ok(Bytes::from(vec![seed; bytes])))
        .collect();
    PayloadSource {
        stream: futures::stream::iter(chunks).boxed(),
        bytes: None,
    }
}

#[tokio::test(start_paused = true)]
async fn operation_over_the_limit_is_overloaded_until_another_ends() {
    let limits = NamespaceLimits {
        operations_at_once: Some(2),
        ..NamespaceLimits::default()
    };
    let (_clock, namespaces, n) = limited(limits);
    let first = namespaces.begin(&n, "get").unwrap();
    let _second = namespaces.begin(&n, "get").unwrap();
    assert_eq!(
        kind(namespaces.begin(&n, "get")),
        Some(ErrorKind::Overloaded)
    );
    drop(first);
    let _third = namespaces.begin(&n, "get").unwrap();
    assert_eq!(
        kind(namespaces.begin(&n, "get")),
        Some(ErrorKind::Overloaded)
    );
}

#[tokio::test(start_paused = true)]
async fn operations_per_second_return_with_time() {
    let (clock, namespaces, n) = limited(operations(2));
    let begin = || kind(namespaces.begin(&n, "put"));
    assert_eq!(
        [begin(), begin(), begin()],
        [None, None, Some(ErrorKind::Overloaded)]
    );
    clock.pass(SECOND / 2).await;
    assert_eq!([begin(), begin()], [None, Some(ErrorKind::Overloaded)]);
}

#[tokio::test(start_paused = true)]
async fn refusal_costs_nothing() {
    let limits = NamespaceLimits {
        operations_at_once: Some(2),
        operations_per_second: Some(3),
        bytes_per_second: Some(100),
        ..NamespaceLimits::default()
    };
    let (_clock, namespaces, n) = limited(limits.clone());
    let all = namespaces.begin(&n, "put").unwrap().charge(90).unwrap();
    for _ in 0..10 {
        let refused = namespaces.begin(&n, "put").unwrap().charge(11);
        assert_eq!(kind(refused), Some(ErrorKind::Overloaded), "too many bytes");
    }
    namespaces
        .set(
            &n,
            NamespaceLimits {
                disabled: true,
                ..limits
            },
        )
        .unwrap();
    assert_eq!(
        [(); 10].map(|()| kind(namespaces.begin(&n, "put"))),
        [Some(ErrorKind::Disabled); 10]
    );
    namespaces.set(&n, limits).unwrap();
    let few = namespaces.begin(&n, "put").unwrap().charge(10).unwrap();
    assert_eq!(
        [(); 10].map(|()| kind(namespaces.begin(&n, "put"))),
        [Some(ErrorKind::Overloaded); 10]
    );
    drop((all, few));
    assert_eq!(
        kind(namespaces.begin(&n, "put")),
        None,
        "the third operation of this second"
    );
    assert_eq!(
        kind(namespaces.begin(&n, "put")),
        Some(ErrorKind::Overloaded)
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_are_charged_at_once_or_not_at_all() {
    let (clock, namespaces, n) = limited(bytes_per_second(1000));
    let charge = |bytes| kind(namespaces.begin(&n, "put").unwrap().charge(bytes));
    assert_eq!(
        [charge(600), charge(500), charge(0), charge(400), charge(1)],
        {
            let over = Some(ErrorKind::Overloaded);
            [None, over, None, None, over]
        }
    );
    clock.pass(SECOND / 2).await;
    assert_eq!(
        charge(1_000_000),
        Some(ErrorKind::Overloaded),
        "the burst is not complete yet"
    );
    clock.pass(SECOND / 2).await;
    assert_eq!(
        [charge(1_000_000), charge(1)],
        [None, Some(ErrorKind::Overloaded)]
    );
}

#[tokio::test(start_paused = true)]
async fn kill_switch_stops_one_namespace_and_running_work_ends() {
    let (_clock, namespaces, n) = limited(bytes_per_second(1000));
    let running = namespaces.begin(&n, "put").unwrap();
    let stream = running.paced(source(&[3000])).stream;
    namespaces
        .set(
            &n,
            NamespaceLimits {
                disabled: true,
                ..bytes_per_second(1000)
            },
        )
        .unwrap();
    let error = namespaces.begin(&n, "get").unwrap_err();
    assert_eq!(
        error.to_string(),
        "get: disabled: the namespace is switched off: namespace=n"
    );
    assert!(!error.is_retryable());
    let flowed: Vec<_> = stream.map(|piece| piece.unwrap().len()).collect().await;
    assert_eq!(flowed.iter().sum::<usize>(), 3000);
    for other in ["n/scope=1", "n2", "default"] {
        assert_eq!(
            kind(namespaces.begin(&namespace(other), "get")),
            None,
            "{other}"
        );
    }
    namespaces.set(&n, bytes_per_second(1000)).unwrap();
    assert_eq!(kind(namespaces.begin(&n, "get")), None);
}

#[tokio::test(start_paused = true)]
async fn stream_is_slowed_to_the_rate_and_loses_nothing() {
    let (clock, namespaces, n) = limited(bytes_per_second(1600));
    let permit = namespaces.begin(&n, "put").unwrap();
    let sizes = [1, 0, 5000, 99, 10_900];
    let pieces: Vec<_> = permit
        .paced(source(&sizes))
        .stream
        .map(|piece| piece.unwrap())
        .collect()
        .await;
    assert!(
        clock.is_about(9 * SECOND),
        "16,000 bytes at 1600 per second, with a burst of one second"
    );
    assert!(
        pieces.iter().all(|piece| piece.len() <= 100),
        "a large chunk flows a sixteenth of a second at a time"
    );
    let whole: Vec<u8> = (0u8..)
        .zip(sizes)
        .flat_map(|(seed, bytes)| vec![seed; bytes])
        .collect();
    assert_eq!(pieces.concat(), whole);
}

#[tokio::test(start_paused = true)]
async fn error_of_a_slowed_stream_is_passed_through_and_ends_it() {
    let (_clock, namespaces, n) = limited(bytes_per_second(1600));
    let chunks = [Ok(Bytes::from_static(b"a few")), Err("broken".into())];
    let broken = PayloadSource {
        stream: futures::stream::iter(chunks).boxed(),
        bytes: Some(10),
    };
    let PayloadSource { stream, bytes } = namespaces.begin(&n, "put").unwrap().paced(broken);
    let seen: Vec<_> = stream
        .map(|piece| piece.map_err(|error| error.to_string()))
        .collect()
        .await;
    assert_eq!(
        (seen, bytes),
        (
            vec![Ok(Bytes::from_static(b"a few")), Err("broken".to_owned())],
            Some(10)
        )
    );
}

#[tokio::test(start_paused = true)]
async fn streams_share_the_rate() {
    let (clock, namespaces, n) = limited(bytes_per_second(1600));
    let _all_there_is = namespaces.begin(&n, "put").unwrap().charge(1600).unwrap();
    let flows = (0..8).map(|_| async {
        let permit = namespaces.begin(&n, "put").unwrap();
        permit.paced(source(&[1600])).stream.count().await;
        clock.elapsed()
    });
    let ended = futures::future::join_all(flows).await;
    assert!(
        clock.is_about(8 * SECOND),
        "waiting loses no bytes: {ended:?}"
    );
    assert!(
        ended.iter().min() >= Some(&(4 * SECOND)),
        "no stream is served first: {ended:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_paid_before_a_dropped_wait_stay_paid() {
    let (clock, namespaces, n) = limited(bytes_per_second(1600));
    let permit = namespaces.begin(&n, "get").unwrap();
    let mut owed = 3200;
    assert!(permit.pace(&mut owed).now_or_never().is_none());
    assert_eq!(owed, 1600);
    permit.pace(&mut owed).await;
    assert!(owed == 0 && clock.is_about(SECOND), "{:?}", clock.elapsed());
}

#[tokio::test(start_paused = true)]
async fn limits_change_for_operations_under_way() {
    let limits = NamespaceLimits {
        operations_at_once: Some(1),
        ..bytes_per_second(1600)
    };
    let (clock, namespaces, n) = limited(limits.clone());
    let permit = namespaces.begin(&n, "get").unwrap();
    permit.pace(&mut 1600).await;
    namespaces
        .set(
            &n,
            NamespaceLimits {
                operations_per_second: Some(9),
                ..limits
            },
        )
        .unwrap();
    assert_eq!(
        kind(namespaces.begin(&n, "get")),
        Some(ErrorKind::Overloaded),
        "operations that began before still count"
    );
    permit.pace(&mut 1600).await;
    assert!(clock.is_about(SECOND), "an unchanged rate keeps its tokens");
    namespaces.set(&n, bytes_per_second(3200)).unwrap();
    permit.pace(&mut 6400).await;
    assert!(clock.is_about(2 * SECOND), "a new rate begins with a burst");
    namespaces.set(&n, NamespaceLimits::default()).unwrap();
    permit.pace(&mut 1_000_000).await;
    assert!(
        clock.is_about(2 * SECOND),
        "without a limit there is no wait"
    );
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_not_counted_and_limit_of_zero_is_invalid() {
    let (_clock, namespaces, n) = limited(operations(1));
    assert!(namespaces.begin(&n, "get").unwrap().is_limited());
    for zero in [
        NamespaceLimits {
            operations_at_once: Some(0),
            ..NamespaceLimits::default()
        },
        operations(0),
        bytes_per_second(0),
    ] {
        assert_eq!(
            namespaces.set(&n, zero).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    assert_eq!(namespaces.get(&n), operations(1), "nothing has changed");
    namespaces.set(&n, NamespaceLimits::default()).unwrap();
    assert!(!namespaces.begin(&n, "get").unwrap().is_limited());
    assert_eq!(
        namespaces.get(&namespace("other")),
        NamespaceLimits::default()
    );
}

/// Recorder of the names and labels of counters.
#[derive(Default)]
struct Counted(Mutex<Vec<String>>);

impl metrics::Recorder for Counted {
    fn describe_counter(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_gauge(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }
    fn describe_histogram(
        &self,
        _: metrics::KeyName,
        _: Option<metrics::Unit>,
        _: metrics::SharedString,
    ) {
    }

    fn register_counter(&self, key: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Counter {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {}", key.name(), labels.join(" ")));
        metrics::Counter::noop()
    }

    fn register_gauge(&self, _: &metrics::Key, _: &metrics::Metadata<'_>) -> metrics::Gauge {
        metrics::Gauge::noop()
    }

    fn register_histogram(
        &self,
        _: &metrics::Key,
        _: &metrics::Metadata<'_>,
    ) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn each_refusal_is_counted_by_its_reason() {
    let at_once = NamespaceLimits {
        operations_at_once: Some(1),
        ..NamespaceLimits::default()
    };
    let off = NamespaceLimits {
        disabled: true,
        ..NamespaceLimits::default()
    };
    for (limits, reason) in [
        (off, "disabled"),
        (at_once, "concurrency"),
        (operations(1), "operations"),
        (bytes_per_second(1), "bytes"),
    ] {
        let counted = Counted::default();
        let (_clock, namespaces, n) = limited(limits);
        metrics::with_local_recorder(&counted, || {
            let _first = namespaces
                .begin(&n, "put")
                .and_then(|permit| permit.charge(1));
            namespaces
                .begin(&n, "put")
                .and_then(|permit| permit.charge(1))
                .unwrap_err();
        });
        let expected = format!("cenotaph_namespace_refused_total reason={reason}");
        assert_eq!(counted.0.into_inner().unwrap().last(), Some(&expected));
    }
}
