//! A token bucket: so many a second, and at most a second's worth at once.
//!
//! The rate is kept by governor's GCRA
//! (<https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>) on a clock and a state of ours.
//! The clock is [`Env::monotonic`], so that a simulated world says when tokens come back. The state
//! is one we can reach, so that a call which is refused after all gives back what it took.
//! Deliberately not here: who takes, and what a refusal means (`namespaces.rs`).

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cenotaph_storage::Env;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// Most tokens that a second's worth of bytes is divided into. More would make governor's interval,
/// which is in whole nanoseconds, too coarse; few would make a token of a slow bucket larger than
/// what is asked for.
const BYTE_TOKENS_MAX: u64 = 1 << 20;

/// Waiting streams take this part of a second's worth at a time, so that many of them take turns.
const STEPS_PER_SECOND: u64 = 16;

/// One bucket. Never above its rate, and below it by less than one in a thousand up to a million
/// tokens a second.
///
/// Whoever takes and gives back does so under one lock; hence `&mut`.
pub(crate) struct TokenBucket {
    limiter: RateLimiter<NotKeyed, Arrival, Ticks, NoOpMiddleware<Nanos>>,
    arrival: Arrival,
    /// A second's worth of tokens: all that can be there at once.
    burst: NonZeroU32,
    /// How long one token takes to come back.
    interval_ns: u64,
    /// What one token is good for. What is asked for is rounded up to whole tokens.
    unit: u64,
}

impl TokenBucket {
    /// A full bucket, of which one operation takes one token.
    pub(crate) fn of_operations(env: &Env, per_second: NonZeroU32) -> Self {
        Self::new(env, per_second, 1)
    }

    /// A full bucket of bytes. A token is one byte up to 1 MiB a second, 1 KiB at 1 GiB a second,
    /// and so on.
    pub(crate) fn of_bytes(env: &Env, per_second: NonZeroU64) -> Self {
        let unit = per_second
            .get()
            .div_ceil(BYTE_TOKENS_MAX)
            .next_power_of_two();
        let burst = u32::try_from(per_second.get() / unit)
            .ok()
            .and_then(NonZeroU32::new);
        Self::new(env, burst.expect("a rate is 1 to 2^20 of its units"), unit)
    }

    fn new(env: &Env, burst: NonZeroU32, unit: u64) -> Self {
        let interval_ns = 1_000_000_000u64.div_ceil(u64::from(burst.get()));
        let quota = Quota::with_period(Duration::from_nanos(interval_ns))
            .expect("an interval is at least 1 ns");
        let arrival = Arrival::default();
        let limiter = RateLimiter::new(
            quota.allow_burst(burst),
            arrival.clone(),
            Ticks(env.clone()),
        );
        Self {
            limiter,
            arrival,
            burst,
            interval_ns,
            unit,
        }
    }

    /// Takes all of this, or nothing and says when it may be there. What is more than the bucket
    /// holds takes all that it holds: nothing is impossible.
    pub(crate) fn take(&mut self, amount: u64) -> Result<(), Duration> {
        let Some(tokens) = NonZeroU32::new(self.tokens(amount)) else {
            return Ok(());
        };
        let taken = self
            .limiter
            .check_n(tokens)
            .expect("no more than the bucket holds is asked for");
        taken.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Puts back what was taken.
    pub(crate) fn give_back(&mut self, amount: u64) {
        self.arrival
            .sooner(u64::from(self.tokens(amount)) * self.interval_ns);
    }

    /// What a waiting stream takes at a time.
    pub(crate) fn step(&self) -> u64 {
        (u64::from(self.burst.get()) / STEPS_PER_SECOND)
            .max(1)
            .saturating_mul(self.unit)
    }

    fn tokens(&self, amount: u64) -> u32 {
        u32::try_from(amount.div_ceil(self.unit))
            .unwrap_or(u32::MAX)
            .min(self.burst.get())
    }
}

/// Time as governor reads it.
struct Ticks(Env);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        u64::try_from(self.0.monotonic().as_nanos())
            .unwrap_or(u64::MAX)
            .into()
    }
}

/// When the bucket will be full again, in nanoseconds since it was made: GCRA's theoretical arrival
/// time. Zero before anything was taken.
#[derive(Clone, Default)]
struct Arrival(Arc<AtomicU64>);

impl Arrival {
    /// That much sooner: tokens came back. A time in the past is as good as now.
    fn sooner(&self, by_ns: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).saturating_sub(by_ns),
            Ordering::Relaxed,
        );
    }
}

impl StateStore for Arrival {
    type Key = NotKeyed;

    /// The bucket's owner holds a lock, so that nobody writes between the two.
    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = self.0.load(Ordering::Relaxed);
        let (outcome, after) = decide((before > 0).then(|| before.into()))?;
        self.0.store(after.into(), Ordering::Relaxed);
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::namespaces::tests::Clockwork;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_second_s_worth_is_there_at_once_and_comes_back_in_a_second() {
        let (clock, env) = Clockwork::env();
        let mut bucket = TokenBucket::of_operations(&env, NonZeroU32::new(4).unwrap());
        assert_eq!(
            [(); 5].map(|()| bucket.take(1).is_ok()),
            [true, true, true, true, false]
        );
        assert_eq!(bucket.take(1), Err(SECOND / 4));
        assert_eq!(bucket.take(3), Err(SECOND * 3 / 4));
        clock.pass(SECOND / 4).await;
        assert_eq!(
            [bucket.take(1).is_ok(), bucket.take(1).is_ok()],
            [true, false]
        );
        clock.pass(100 * SECOND).await;
        assert_eq!(
            [(); 5].map(|()| bucket.take(1).is_ok()),
            [true, true, true, true, false],
            "no more than a second's"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_can_be_taken_again_and_no_more() {
        let (_clock, env) = Clockwork::env();
        let mut bucket = TokenBucket::of_operations(&env, NonZeroU32::new(4).unwrap());
        bucket.give_back(2);
        assert!(bucket.take(4).is_ok() && bucket.take(1).is_err());
        bucket.give_back(2);
        assert!(bucket.take(2).is_ok() && bucket.take(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_bucket_holds_takes_all_that_it_holds() {
        let (clock, env) = Clockwork::env();
        let mut bucket = TokenBucket::of_bytes(&env, NonZeroU64::new(1000).unwrap());
        assert_eq!(
            [bucket.take(5000).is_ok(), bucket.take(1).is_ok()],
            [true, false]
        );
        clock.pass(SECOND).await;
        assert_eq!(
            [bucket.take(1).is_ok(), bucket.take(5000).is_ok()],
            [true, false]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_rate_of_bytes_is_kept_within_a_thousandth_and_never_exceeded() {
        let (clock, env) = Clockwork::env();
        for rate in [
            1,
            7,
            1000,
            1 << 20,
            (1 << 20) + 1,
            123_456_789,
            1 << 30,
            1 << 40,
            u64::MAX,
        ] {
            let mut bucket = TokenBucket::of_bytes(&env, NonZeroU64::new(rate).unwrap());
            bucket.take(u64::MAX).unwrap();
            clock.pass(SECOND / 2).await;
            let (unit, mut taken) = (bucket.unit, 0);
            for amount in (0..20).rev().map(|power| unit << power) {
                while bucket.take(amount).is_ok() {
                    taken += u64::from(bucket.tokens(amount)) * unit;
                }
            }
            assert!(taken <= rate / 2, "{taken} of {rate} came back");
            assert!(
                rate / 2 - taken <= rate / 2000 + unit,
                "only {taken} of {rate} came back"
            );
        }
    }
}
