//! Search for an order that explains a short history of an object: [`linearize`].
//!
//! Used where no commit observer records the order, as with a real disk and real threads. The
//! algorithm is Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with
//! Lowe's cache of visited states ("Testing for linearizability", 2017). The search is exponential
//! in the number of overlapping operations, so it is bounded. A history that exceeds the bound is
//! reported as undecided, not as wrong.

use std::collections::BTreeSet;

/// Operation of a client on the object. `T` identifies the written value: no two writes write the
/// same value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOperation<T> {
    /// Wrote this value.
    Write(T),
    /// May have written this value: the outcome is unknown.
    MayWrite(T),
    /// Deleted the object and reported this existence. `None` if the outcome is unknown.
    Delete(Option<bool>),
    /// Read this value, or found no object.
    Read(Option<T>),
}

impl<T> ClientOperation<T> {
    /// Returns true if the operation must have happened.
    const fn is_sure(&self) -> bool {
        !matches!(self, Self::MayWrite(_) | Self::Delete(None))
    }
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// An order exists.
    Linearizable,
    /// No order exists.
    Violated,
    /// The bound was reached.
    Undecided,
}

/// Largest number of operations in a history.
const OPERATIONS_MAX: usize = 128;

/// Searches for an order that explains all these operations, each given with the moments of its
/// call and its answer (`None` without an answer). Gives up after `attempts_max` steps.
///
/// ```
/// use cenotaph_sim::{ClientOperation, Search, linearize};
///
/// let history = [
///     (0, Some(3), ClientOperation::Write("a")),
///     (1, Some(2), ClientOperation::Read(Some("a"))),  // overlaps the write, so it may see the value
///     (4, Some(5), ClientOperation::Read(None)),       // after the write, so it must see the value
/// ];
/// assert_eq!(linearize(&history[..2], 1000), Search::Linearizable);
/// assert_eq!(linearize(&history, 1000), Search::Violated);
/// ```
pub fn linearize<T: Clone + Ord>(
    history: &[(u64, Option<u64>, ClientOperation<T>)],
    attempts_max: usize,
) -> Search {
    if history.len() > OPERATIONS_MAX {
        return Search::Undecided;
    }
    let sure: u128 = mask((0..history.len()).filter(|&at| history[at].2.is_sure()));
    let mut tried = BTreeSet::new();
    let mut open = vec![(0u128, None)];
    let mut attempts = 0;
    while let Some((done, state)) = open.pop() {
        if done & sure == sure {
            return Search::Linearizable;
        }
        attempts += 1;
        if attempts > attempts_max {
            return Search::Undecided;
        }
        // An operation that ended before another began must come first. So no operation that begins
        // after the earliest pending answer can be the next.
        let pending = || (0..history.len()).filter(|at| done & (1 << at) == 0);
        let horizon = pending()
            .filter(|&at| history[at].2.is_sure())
            .filter_map(|at| history[at].1)
            .min();
        for at in pending().filter(|&at| horizon.is_none_or(|horizon| history[at].0 <= horizon)) {
            let Some(next) = apply(&state, &history[at].2) else {
                continue;
            };
            let step = (done | 1 << at, next);
            // The same set of operations in the same state has the same continuations, whatever the
            // order.
            if tried.insert(step.clone()) {
                open.push(step);
            }
        }
    }
    Search::Violated
}

/// Returns a set of operations as bits.
fn mask(bits: impl Iterator<Item = usize>) -> u128 {
    bits.fold(0, |mask, bit| mask | 1 << bit)
}

/// Returns the state after an operation. Returns the outer `None` if the operation is impossible in
/// this state.
fn apply<T: Clone + Ord>(state: &Option<T>, operation: &ClientOperation<T>) -> Option<Option<T>> {
    match operation {
        ClientOperation::Write(value) | ClientOperation::MayWrite(value) => {
            Some(Some(value.clone()))
        }
        ClientOperation::Delete(existed) => existed
            .is_none_or(|existed| existed == state.is_some())
            .then_some(None),
        ClientOperation::Read(value) => (value == state).then(|| state.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_write_may_happen_only_after_its_call() {
        let history = |read| {
            [
                (5, None, ClientOperation::MayWrite(1)),
                (6, Some(7), ClientOperation::Read(read)),
            ]
        };
        assert_eq!(linearize(&history(Some(1)), 100), Search::Linearizable);
        assert_eq!(linearize(&history(None), 100), Search::Linearizable);
        let early = [
            (0, Some(1), ClientOperation::Read(Some(1))),
            (5, None, ClientOperation::MayWrite(1)),
        ];
        assert_eq!(linearize(&early, 100), Search::Violated);
    }

    #[test]
    fn stale_read_is_a_violation() {
        let history = [
            (0, Some(1), ClientOperation::Write(1)),
            (2, Some(3), ClientOperation::Write(2)),
            (4, Some(5), ClientOperation::Read(Some(1))),
        ];
        assert_eq!(linearize(&history, 100), Search::Violated);
        assert_eq!(linearize(&history, 1), Search::Undecided);
    }

    #[test]
    fn two_deletes_of_one_object_are_a_violation() {
        let both = [
            (0, Some(1), ClientOperation::Write(1)),
            (2, Some(5), ClientOperation::Delete(Some(true))),
            (3, Some(6), ClientOperation::Delete(Some(true))),
        ];
        assert_eq!(linearize(&both, 1000), Search::Violated);
    }

    proptest! {
        /// A sequential history is linearizable, however far its calls and answers are apart.
        #[test]
        fn sequential_history_is_linearizable(
            steps in proptest::collection::vec((0..3u8, 0..4u64, 0..4u64), 1..12),
        ) {
            let mut state = None;
            let mut history = Vec::new();
            for (number, (kind, before, after)) in steps.into_iter().enumerate() {
                let moment = 10 * number as u64 + 10;
                let operation = match kind {
                    0 => { state = Some(number); ClientOperation::Write(number) }
                    1 => ClientOperation::Delete(Some(state.take().is_some())),
                    _ => ClientOperation::Read(state),
                };
                history.push((moment - 3 * before.min(3), Some(moment + 8 * after), operation));
            }
            prop_assert_eq!(linearize(&history, 1_000_000), Search::Linearizable);
        }
    }
}
