//! [`LastVersionWalk`]: the position of the pruner in the last versions, and the count limit.
//!
//! ```text
//! walk n      counts the entries that it leaves, by their age
//! end         more than the limit: the age of the oldest entry within the limit becomes the cutoff
//! walk n + 1  drops the entries behind the cutoff, and those behind the retention
//! ```
//!
//! Ages are counted in buckets whose width is an eighth of their age, so that the memory is bounded
//! and no order of the entries is needed. Where the limit falls into a bucket, the whole bucket is
//! dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use cenotaph_storage::Timestamp;
use cenotaph_storage::index::Range;
use cenotaph_storage::records::last_versions_prefix;

use crate::context::messages::PruneOutcome;

/// Walk over all last versions.
#[derive(Default)]
pub(crate) struct LastVersionWalk {
    /// Time at which the walk began, and the rest of its range; `None` between two walks.
    rest: Option<(Timestamp, Range)>,
    /// Number of entries that the walk has left, by the lower end of their age in milliseconds.
    ages: BTreeMap<u64, u64>,
    /// Cutoff of the count limit, from the last walk.
    counted_cutoff: Option<Timestamp>,
}

impl LastVersionWalk {
    /// Returns whether the next page is the first of its walk.
    pub(super) fn is_at_begin(&self) -> bool {
        self.rest.is_none()
    }

    /// Returns the range of the next page.
    pub(super) fn range(&self, page: usize) -> Range {
        match &self.rest {
            Some((_, rest)) => rest.clone(),
            None => Range::prefix(&last_versions_prefix(), page),
        }
    }

    /// Returns the time at which the walk began, if a page is read `now`.
    pub(super) fn begun(&self, now: Timestamp) -> Timestamp {
        self.rest.as_ref().map_or(now, |(begun, _)| *begun)
    }

    /// Returns the latest time of deletion of the entries that are dropped `now`.
    pub(super) fn cutoff(&self, now: Timestamp, kept_for: Duration) -> Timestamp {
        let kept_ms = u64::try_from(kept_for.as_millis()).unwrap_or(u64::MAX);
        let by_age = Timestamp::from_millis(now.as_millis().saturating_sub(kept_ms));
        self.counted_cutoff
            .map_or(by_age, |counted| by_age.max(counted))
    }

    /// Adds a page.
    pub(super) fn add(&mut self, outcome: &PruneOutcome) {
        for deleted in &outcome.kept {
            let age = outcome.begun.since(*deleted);
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            *self.ages.entry(bucket(age_ms)).or_default() += 1;
        }
        let rest = outcome.rest.clone();
        self.rest = rest.map(|rest| (outcome.begun, rest));
    }

    /// Returns the number of entries that the walk has left so far.
    pub(super) fn kept(&self) -> u64 {
        self.ages.values().sum()
    }

    /// Ends the walk that began at `begun`. Returns whether it has left more than `most` entries, so
    /// that the next walk drops some of them.
    pub(super) fn end(&mut self, begun: Timestamp, most: u64) -> bool {
        let mut left = most;
        let over = std::mem::take(&mut self.ages)
            .into_iter()
            .find(|(_, count)| {
                let fits = *count <= left;
                left = left.saturating_sub(*count);
                !fits
            });
        self.counted_cutoff = over
            .map(|(age_ms, _)| Timestamp::from_millis(begun.as_millis().saturating_sub(age_ms)));
        over.is_some()
    }
}

/// Returns the lower end of the bucket of an age: the age with its four highest bits.
fn bucket(age_ms: u64) -> u64 {
    let low_bits = (u64::BITS - age_ms.leading_zeros()).saturating_sub(4);
    (age_ms >> low_bits) << low_bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn page(begun: u64, deleted: &[u64], rest: Option<Range>) -> PruneOutcome {
        PruneOutcome {
            begun: at(begun),
            pruned: 0,
            kept: deleted.iter().copied().map(at).collect(),
            rest,
        }
    }

    #[test]
    fn entries_behind_the_retention_or_the_count_limit_are_dropped() {
        let mut walk = LastVersionWalk::default();
        let day = Duration::from_millis(1000);
        assert_eq!(walk.cutoff(at(5000), day), at(4000));
        walk.add(&page(5000, &[4990, 4995], Some(Range::all(2))));
        assert!(!walk.is_at_begin() && walk.begun(at(6000)) == at(5000));
        walk.add(&page(5000, &[4999, 4100], None));
        assert!(walk.is_at_begin());
        assert_eq!(walk.kept(), 4);
        assert!(walk.end(at(5000), 3), "one entry too many");
        let cutoff = walk.cutoff(at(5100), day);
        assert!(cutoff >= at(4100) && cutoff < at(4990), "{cutoff:?}");
        assert_eq!(walk.cutoff(at(9000), day), at(8000), "the later of both");
        walk.add(&page(5100, &[4990, 4995, 4999], None));
        assert!(!walk.end(at(5100), 3));
        assert_eq!(
            walk.cutoff(at(5100), day),
            at(4100),
            "the count limit is met"
        );
    }

    proptest! {
        /// The cutoff of the count limit leaves at most the limit, and more than the limit without
        /// the entries of one bucket.
        #[test]
        fn count_limit_drops_whole_buckets_of_the_oldest(
            ages in proptest::collection::vec(0..1u64 << 40, 0..60),
            most in 0..60u64,
        ) {
            let begun = 1 << 41;
            let deleted: Vec<u64> = ages.iter().map(|age| begun - age).collect();
            let mut walk = LastVersionWalk::default();
            walk.add(&page(begun, &deleted, None));
            let is_over = walk.end(at(begun), most);
            prop_assert_eq!(is_over, ages.len() as u64 > most);
            let cutoff = walk.cutoff(at(begun), Duration::MAX);
            let left = deleted.iter().filter(|deleted| at(**deleted) > cutoff).count() as u64;
            prop_assert!(left <= most);
            let age_ms = begun - cutoff.as_millis();
            let in_bucket = ages.iter().filter(|age| bucket(**age) == bucket(age_ms)).count();
            prop_assert!(!is_over || left + in_bucket as u64 > most);
        }

        #[test]
        fn bucket_is_at_most_an_eighth_below_the_age(age_ms in any::<u64>()) {
            let low = bucket(age_ms);
            prop_assert!(low <= age_ms && age_ms - low <= low / 8);
        }
    }
}
