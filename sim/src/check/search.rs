//! A search for an order: whether a short history of one object can be explained at all.
//!
//! Where there is no witness, as with a real disk and real threads, an order must be looked for:
//! Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with Lowe's memory of
//! what was tried ("Testing for linearizability", 2017). It is exponential in what overlaps, so it
//! is bounded, and a history that is too hard is told apart from a wrong one.

use std::collections::BTreeSet;

/// What one client did to the object. `T` names what was written: no two writes write the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation<T> {
    /// It wrote this.
    Write(T),
    /// It may have written this: its outcome is unknown.
    MayWrite(T),
    /// It deleted; whether there was something is none where the outcome is unknown.
    Delete(Option<bool>),
    /// It read this.
    Read(Option<T>),
}

impl<T> Operation<T> {
    /// Whether it must have happened.
    const fn is_sure(&self) -> bool {
        !matches!(self, Self::MayWrite(_) | Self::Delete(None))
    }
}

/// What a search finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violated,
    /// It was too hard to tell.
    Undecided,
}

/// Most operations that a search looks at.
const OPERATIONS_MAX: usize = 128;

/// Looks for an order of these operations, each with the moments of its call and its answer (none
/// if it heard none), that explains them all. Gives up after `attempts_max` steps.
///
/// ```
/// use cenotaph_sim::{Operation, Search, linearize};
///
/// let history = [
///     (0, Some(3), Operation::Write("a")),
///     (1, Some(2), Operation::Read(Some("a"))),  // overlaps the write: it may have seen it
///     (4, Some(5), Operation::Read(None)),       // after the write: it can't miss it
/// ];
/// assert_eq!(linearize(&history[..2], 1000), Search::Linearizable);
/// assert_eq!(linearize(&history, 1000), Search::Violated);
/// ```
pub fn linearize<T: Clone + Ord>(
    history: &[(u64, Option<u64>, Operation<T>)],
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
        // What must come first ends first: nothing that begins after the earliest pending answer
        // can be next.
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
            if tried.insert(step.clone()) {
                open.push(step);
            }
        }
    }
    Search::Violated
}

fn mask(bits: impl Iterator<Item = usize>) -> u128 {
    bits.fold(0, |mask, bit| mask | 1 << bit)
}

/// The state after an operation; none if it can't have happened in this one.
fn apply<T: Clone + Ord>(state: &Option<T>, operation: &Operation<T>) -> Option<Option<T>> {
    match operation {
        Operation::Write(value) | Operation::MayWrite(value) => Some(Some(value.clone())),
        Operation::Delete(existed) => existed
            .is_none_or(|existed| existed == state.is_some())
            .then_some(None),
        Operation::Read(value) => (value == state).then(|| state.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unknown_write_may_have_happened_or_not_but_not_before_its_call() {
        let history = |read| {
            [
                (5, None, Operation::MayWrite(1)),
                (6, Some(7), Operation::Read(read)),
            ]
        };
        assert_eq!(linearize(&history(Some(1)), 100), Search::Linearizable);
        assert_eq!(linearize(&history(None), 100), Search::Linearizable);
        let early = [
            (0, Some(1), Operation::Read(Some(1))),
            (5, None, Operation::MayWrite(1)),
        ];
        assert_eq!(linearize(&early, 100), Search::Violated);
    }

    #[test]
    fn a_read_that_goes_back_in_time_is_found() {
        let history = [
            (0, Some(1), Operation::Write(1)),
            (2, Some(3), Operation::Write(2)),
            (4, Some(5), Operation::Read(Some(1))),
        ];
        assert_eq!(linearize(&history, 100), Search::Violated);
        assert_eq!(linearize(&history, 1), Search::Undecided);
    }

    #[test]
    fn two_deletes_cannot_both_have_removed_the_one_object() {
        let both = [
            (0, Some(1), Operation::Write(1)),
            (2, Some(5), Operation::Delete(Some(true))),
            (3, Some(6), Operation::Delete(Some(true))),
        ];
        assert_eq!(linearize(&both, 1000), Search::Violated);
    }

    proptest! {
        /// Whatever really happened one after the other is explained, however far calls and answers
        /// are apart.
        #[test]
        fn a_real_order_is_always_found(steps in proptest::collection::vec((0..3u8, 0..4u64, 0..4u64), 1..12)) {
            let mut state = None;
            let mut history = Vec::new();
            for (number, (kind, before, after)) in steps.into_iter().enumerate() {
                let moment = 10 * number as u64 + 10;
                let operation = match kind {
                    0 => { state = Some(number); Operation::Write(number) }
                    1 => Operation::Delete(Some(state.take().is_some())),
                    _ => Operation::Read(state),
                };
                history.push((moment - 3 * before.min(3), Some(moment + 8 * after), operation));
            }
            prop_assert_eq!(linearize(&history, 1_000_000), Search::Linearizable);
        }
    }
}
