//! Tests of the committer with a sink that the test controls through channels. No test sleeps.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;

use super::*;
use crate::index::Table;

/// Behaviour of the sink in one commit.
enum Order {
    Succeed,
    Fail,
    Panic,
}

/// Sink that reports each commit to the test, then waits for an order.
struct TestSink {
    seen: Sender<Changes>,
    orders: Receiver<Order>,
}

impl Sink for TestSink {
    fn commit(&mut self, changes: Changes) -> Result<()> {
        let _ = self.seen.send(changes);
        match self.orders.recv() {
            Ok(Order::Succeed) | Err(_) => Ok(()),
            Ok(Order::Fail) => Err(Error::new(ErrorKind::Unavailable, "commit", "ordered")),
            Ok(Order::Panic) => panic!("ordered"),
        }
    }
}

type Outcome = (usize, Result<(), CommitError>);

/// Committer with the channels of its sink (commits seen, orders) and of its completions.
struct Bench {
    committer: Arc<Committer>,
    seen: Receiver<Changes>,
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
    outcome_sender: Sender<Outcome>,
}

fn bench() -> Bench {
    bench_with(CommitterOptions::default())
}

fn bench_with(options: CommitterOptions) -> Bench {
    let (seen_sender, seen) = channel();
    let (orders, orders_receiver) = channel();
    let (outcome_sender, outcomes) = channel();
    let env = Env::real().expect("the test runs in a runtime");
    let sink = TestSink {
        seen: seen_sender,
        orders: orders_receiver,
    };
    Bench {
        committer: Arc::new(Committer::start(&env, options, sink).unwrap()),
        seen,
        orders,
        outcomes,
        outcome_sender,
    }
}

impl Bench {
    fn submit(&self, number: usize, batch: Batch) {
        let sender = self.outcome_sender.clone();
        self.committer.submit(
            batch,
            Box::new(move |outcome| drop(sender.send((number, outcome)))),
        );
    }

    /// Submits a first batch, and returns when the sink has received it.
    fn occupy(&self) {
        self.submit(0, put("first", "1"));
        self.seen.recv().unwrap();
    }

    /// Waits for the next `count` completions.
    fn outcomes(&self, count: usize) -> Vec<Outcome> {
        (0..count).map(|_| self.outcomes.recv().unwrap()).collect()
    }

    fn order(&self, order: Order) {
        self.orders.send(order).unwrap();
    }

    /// Closes the committer, and asserts that no completion fires twice and no commit follows.
    fn assert_nothing_more(self) {
        let Self {
            committer,
            seen,
            orders,
            outcomes,
            outcome_sender,
        } = self;
        drop(orders);
        drop(outcome_sender);
        committer.close();
        assert_eq!(committer.wait(), ThreadEnd::Joined);
        assert_eq!(committer.stats().waiting, 0);
        drop(committer);
        assert!(outcomes.recv().is_err(), "a completion fired twice");
        assert!(seen.recv().is_err(), "the sink received another commit");
    }
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Rows, key.to_owned(), value.to_owned());
    batch
}

fn is_unknown(outcome: &Outcome) -> bool {
    match &outcome.1 {
        Err(CommitError::Unknown(error)) => error.kind() == ErrorKind::Indeterminate,
        Ok(()) | Err(CommitError::NotStarted(_) | CommitError::Changed) => false,
    }
}

fn is_not_started(outcome: &Outcome, kind: ErrorKind) -> bool {
    matches!(&outcome.1, Err(CommitError::NotStarted(error)) if error.kind() == kind)
}

#[tokio::test]
async fn queued_batches_merge_and_the_last_write_wins() {
    let bench = bench();
    bench.occupy();
    let mut twice = put("a", "1");
    twice.put(Table::Rows, "a", "2");
    bench.submit(1, twice);
    bench.submit(2, put("b", "1"));
    let mut removal = put("c", "1");
    removal.remove(Table::Rows, "b");
    bench.submit(3, removal);
    bench.order(Order::Succeed);
    bench.order(Order::Succeed);
    let merged = bench.seen.recv().unwrap();
    let expected = [("a", Some("2")), ("b", None), ("c", Some("1"))];
    let expected =
        expected.map(|(key, value)| ((Table::Rows, Bytes::from(key)), value.map(Bytes::from)));
    assert_eq!(merged, Changes::from(expected));
    let heard = bench.outcomes(4);
    assert!(heard.iter().all(|(_, outcome)| outcome.is_ok()));
    assert!(
        heard.iter().map(|(number, _)| *number).eq(0..4),
        "completions fire in the order of submission"
    );
    assert_eq!(
        bench.committer.stats(),
        IndexStats {
            batches: 4,
            syncs: 2,
            waiting: 0
        }
    );
    bench.assert_nothing_more();
}

#[tokio::test]
async fn merge_is_bounded_but_takes_at_least_one_batch() {
    let bench = bench_with(CommitterOptions {
        merge_bytes_max: 10,
        merge_changes_max: 2,
        ..CommitterOptions::default()
    });
    bench.occupy();
    for batch in [
        put("large", "larger than the limit"),
        put("a", "1"),
        put("b", "1"),
        put("c", "1"),
    ] {
        bench.submit(1, batch);
    }
    (0..4).for_each(|_| bench.order(Order::Succeed));
    bench.outcomes(5);
    let sizes: Vec<_> = bench.seen.try_iter().map(|changes| changes.len()).collect();
    assert_eq!(sizes, [1, 2, 1]);
    bench.assert_nothing_more();
}

#[tokio::test]
async fn barrier_completes_in_order_without_a_commit() {
    let bench = bench();
    bench.submit(0, Batch::new());
    assert!(bench.outcomes(1)[0].1.is_ok());
    assert_eq!(bench.committer.stats(), IndexStats::default());
    bench.occupy();
    bench.submit(1, Batch::new());
    assert_eq!(bench.committer.stats().waiting, 2);
    bench.order(Order::Fail);
    let heard = bench.outcomes(2);
    assert!(is_unknown(&heard[0]));
    assert!(is_not_started(&heard[1], ErrorKind::Unavailable));
    bench.assert_nothing_more();
}

fn assert_commit_poisons(order: Order) {
    let bench = bench();
    bench.occupy();
    bench.submit(1, put("queued", "1"));
    assert!(bench.committer.poisoned().is_none());
    bench.order(order);
    let heard = bench.outcomes(2);
    assert!(is_unknown(&heard[0]), "{heard:?}");
    assert!(
        is_not_started(&heard[1], ErrorKind::Unavailable),
        "{heard:?}"
    );
    bench.submit(2, put("later", "1"));
    bench.submit(3, Batch::new());
    assert!(
        bench
            .outcomes(2)
            .iter()
            .all(|outcome| is_not_started(outcome, ErrorKind::Unavailable))
    );
    assert_eq!(
        bench.committer.poisoned().map(|error| error.kind()),
        Some(ErrorKind::Unavailable)
    );
    assert_eq!(bench.committer.stats(), IndexStats::default());
    bench.assert_nothing_more();
}

#[tokio::test]
async fn failed_commit_poisons() {
    assert_commit_poisons(Order::Fail);
}

#[tokio::test]
async fn panicking_commit_poisons() {
    assert_commit_poisons(Order::Panic);
}

#[tokio::test]
async fn late_success_of_an_overdue_commit_is_not_acknowledged() {
    let bench = bench();
    let env = Env::real().unwrap();
    bench.committer.watch(Duration::MAX);
    assert!(bench.committer.poisoned().is_none(), "no commit in flight");
    bench.occupy();
    bench.submit(1, put("queued", "1"));
    bench.committer.watch(env.monotonic());
    assert!(
        bench.committer.poisoned().is_none(),
        "the commit is not overdue yet"
    );
    let now = env.monotonic();
    bench.committer.watch(now + Duration::from_secs(3600));
    assert!(
        bench.committer.poisoned().is_none(),
        "the process was paused"
    );
    (1..=30).for_each(|second| {
        bench
            .committer
            .watch(now + Duration::from_secs(3600 + second));
    });
    // The sink still hangs: `watch` has fired the completions.
    let heard: Vec<_> = bench.outcomes.try_iter().collect();
    assert!(heard.len() == 2 && is_unknown(&heard[0]), "{heard:?}");
    assert!(
        is_not_started(&heard[1], ErrorKind::Unavailable),
        "{heard:?}"
    );
    bench.committer.close();
    assert_eq!(
        bench.committer.wait(),
        ThreadEnd::Detached,
        "wait() gives up a hung commit"
    );
    bench.order(Order::Succeed);
    // The channel closes when the thread returns from the sink and drops it.
    assert!(
        bench.seen.recv().is_err(),
        "the sink receives no later commit"
    );
    bench.submit(2, put("later", "1"));
    assert!(is_not_started(&bench.outcomes(1)[0], ErrorKind::Closed));
    assert_eq!(bench.committer.stats(), IndexStats::default());
}

#[tokio::test]
async fn wait_checks_the_deadline_itself() {
    let bench = bench_with(CommitterOptions {
        deadline: Duration::from_millis(1),
        ..CommitterOptions::default()
    });
    bench.occupy();
    bench.committer.close();
    assert_eq!(bench.committer.wait(), ThreadEnd::Detached);
    assert!(is_unknown(&bench.outcomes(1)[0]));
    bench.order(Order::Succeed);
    assert!(bench.seen.recv().is_err());
}

#[tokio::test]
async fn close_commits_queued_batches_and_refuses_later_ones() {
    let bench = bench();
    bench.occupy();
    bench.submit(1, put("queued", "1"));
    bench.committer.close();
    bench.submit(2, put("late", "1"));
    bench.order(Order::Succeed);
    bench.order(Order::Succeed);
    let mut heard = bench.outcomes(3);
    heard.sort_by_key(|(number, _)| *number);
    assert!(heard[0].1.is_ok() && heard[1].1.is_ok(), "{heard:?}");
    assert!(is_not_started(&heard[2], ErrorKind::Closed), "{heard:?}");
    assert_eq!(bench.seen.recv().unwrap().len(), 1);
    bench.assert_nothing_more();
}

#[tokio::test]
async fn drop_commits_queued_batches() {
    let Bench {
        committer,
        seen,
        orders,
        outcomes,
        outcome_sender,
    } = bench();
    committer.submit(
        put("a", "1"),
        Box::new(move |outcome| drop(outcome_sender.send((0, outcome)))),
    );
    drop(orders);
    drop(committer);
    assert_eq!(seen.try_iter().count(), 1);
    assert!(outcomes.try_recv().unwrap().1.is_ok());
}

#[tokio::test]
async fn panic_of_a_completion_does_not_affect_others() {
    let bench = bench();
    bench.occupy();
    let fired = Arc::new(AtomicUsize::new(0));
    let count = fired.clone();
    bench.committer.submit(
        put("a", "1"),
        Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            panic!("bug in a completion");
        }),
    );
    bench.submit(1, put("b", "1"));
    (0..3).for_each(|_| bench.order(Order::Succeed));
    assert!(bench.outcomes(2).iter().all(|(_, outcome)| outcome.is_ok()));
    assert_eq!(bench.seen.recv().unwrap().len(), 2);
    bench.submit(2, put("c", "1"));
    assert!(bench.outcomes(1)[0].1.is_ok(), "the thread continues");
    assert_eq!(bench.seen.recv().unwrap().len(), 1);
    assert_eq!(fired.load(Ordering::SeqCst), 1);
    assert!(bench.committer.poisoned().is_none());
    bench.assert_nothing_more();
}

#[tokio::test]
async fn completion_may_submit_and_drop_the_committer() {
    let Bench {
        committer,
        seen,
        orders,
        outcomes,
        outcome_sender,
    } = bench();
    let own = committer.clone();
    let inner = outcome_sender.clone();
    let completion: Completion = Box::new(move |_| {
        own.submit(
            put("b", "1"),
            Box::new(move |outcome| drop(inner.send((1, outcome)))),
        );
        // The last reference drops on the thread that the drop would have to join.
        drop(own);
        drop(outcome_sender.send((0, Ok(()))));
    });
    committer.submit(put("a", "1"), completion);
    drop(committer);
    drop(orders);
    assert!(
        outcomes
            .iter()
            .map(|(number, outcome)| (number, outcome.is_ok()))
            .eq([(0, true), (1, true)])
    );
    assert_eq!(seen.iter().count(), 2, "the thread ends by itself");
}

#[tokio::test]
async fn every_completion_fires_once_however_the_committer_ends() {
    for order in [Order::Succeed, Order::Fail, Order::Panic] {
        let bench = bench();
        let sender = bench.outcome_sender.clone();
        let committer = bench.committer.clone();
        let submitter = Env::real().unwrap().thread("submitter", move || {
            for number in 0..1000 {
                let sender = sender.clone();
                committer.submit(
                    put("a", "1"),
                    Box::new(move |outcome| drop(sender.send((number, outcome)))),
                );
            }
        });
        bench.seen.recv().unwrap();
        bench.order(order);
        let Bench {
            committer,
            orders,
            outcomes,
            outcome_sender,
            ..
        } = bench;
        drop(orders);
        drop(outcome_sender);
        committer.close();
        committer.wait();
        submitter.unwrap().join().unwrap();
        let mut numbers: Vec<_> = outcomes.iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..1000));
    }
}

#[test]
fn next_commit_waits_after_a_long_one_only() {
    let mut state = State::new(Duration::from_secs(30));
    let wait = |state: &State| state.patience().1;
    assert_eq!(wait(&state), Duration::ZERO, "there was no commit");
    state.last_batches = 3;
    state.last_commit = Duration::from_micros(999);
    assert_eq!(wait(&state), Duration::ZERO, "a short commit");
    state.last_commit = Duration::from_millis(4);
    assert_eq!(state.patience(), (3, Duration::from_millis(1)));
    state.last_commit = Duration::from_secs(4);
    assert_eq!(wait(&state), LINGER_MAX);
    for _ in 0..3 {
        state.queue.push_back((Batch::new(), Box::new(drop)));
    }
    assert_eq!(wait(&state), Duration::ZERO, "as many as before");
    state.last_batches = 4;
    state.closing = true;
    assert_eq!(wait(&state), Duration::ZERO, "nothing follows");
}

#[tokio::test]
async fn batch_that_stays_alone_commits_after_a_long_commit() {
    let bench = bench();
    bench.occupy();
    for number in 1..=3 {
        bench.submit(number, put("key", "value"));
    }
    bench.order(Order::Succeed);
    assert_eq!(bench.seen.recv().unwrap().len(), 1);
    // The commit of three batches takes long.
    let env = Env::real().unwrap();
    let begun = env.monotonic();
    while env.monotonic() - begun < 2 * LINGER_FROM {}
    bench.order(Order::Succeed);
    assert_eq!(bench.outcomes(4).len(), 4);
    bench.submit(4, put("alone", "value"));
    assert_eq!(bench.seen.recv().unwrap().len(), 1);
    bench.order(Order::Succeed);
    assert_eq!(bench.outcomes(1)[0].0, 4);
    bench.assert_nothing_more();
}
