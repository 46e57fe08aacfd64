//! [`TokenBucket`]: a rate limit with a burst of a second.
//!
//! The rate is enforced by governor's GCRA
//! (<https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>) on our own clock and state. The
//! clock is [`Env::monotonic`], so that a simulated world controls the return of tokens. The state
//! is accessible, so that a call that is refused later can return its tokens.

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

/// Maximum number of tokens per second of a bucket of bytes. More would make governor's interval, a
/// whole number of nanoseconds, too coarse. Few would make a token of a slow bucket larger than the
/// amounts requested.
const BYTE_TOKENS_MAX: u64 = 1 << 20;

/// Share of a second's tokens that a waiting stream takes at a time, so that streams take turns.
const STEPS_PER_SECOND: u64 = 16;

/// A token bucket. It never exceeds its rate, and is slower by less than one in a thousand up to a
/// million tokens per second.
///
/// Callers take and return tokens under one lock, hence `&mut`.
pub(crate) struct TokenBucket {
    limiter: RateLimiter<NotKeyed, Arrival, Ticks, NoOpMiddleware<Nanos>>,
    arrival: Arrival,
    /// Tokens of one second, the maximum number in the bucket.
    burst: NonZeroU32,
    /// Time in which one token returns.
    interval_ns: u64,
    /// Amount per token. Amounts are rounded up to whole tokens.
    unit: u64,
}

impl TokenBucket {
    /// Creates a full bucket of operations. One operation takes one token.
    pub(crate) fn of_operations(env: &Env, per_second: NonZeroU32) -> Self {
        Self::new(env, per_second, 1)
    }

    /// Creates a full bucket of bytes. A token is 1 byte up to 1 MiB per second, 1 KiB at 1 GiB per
    /// second, and so on.
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
        // Rounded up: the rate is never exceeded.
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

    /// Takes this amount, or takes nothing and returns the time after which it may be available. An
    /// amount larger than the bucket takes the whole bucket, so that no amount is impossible.
    pub(crate) fn take(&mut self, amount: u64) -> Result<(), Duration> {
        let Some(tokens) = NonZeroU32::new(self.tokens(amount)) else {
            return Ok(());
        };
        let taken = self
            .limiter
            .check_n(tokens)
            .expect("at most the burst is requested");
        taken.map_err(|until| until.wait_time_from(self.limiter.clock().now()))
    }

    /// Returns an amount that was taken.
    pub(crate) fn give_back(&mut self, amount: u64) {
        self.arrival
            .sooner(u64::from(self.tokens(amount)) * self.interval_ns);
    }

    /// Returns the amount that a waiting stream takes at a time.
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

/// The clock of governor.
struct Ticks(Env);

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        u64::try_from(self.0.monotonic().as_nanos())
            .unwrap_or(u64::MAX)
            .into()
    }
}

/// Time at which the bucket will be full, in nanoseconds since its creation: GCRA's theoretical
/// arrival time. Zero before anything was taken.
#[derive(Clone, Default)]
struct Arrival(Arc<AtomicU64>);

impl Arrival {
    /// Moves the time forward by the interval of returned tokens. A time in the past means full.
    fn sooner(&self, by_ns: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).saturating_sub(by_ns),
            Ordering::Relaxed,
        );
    }
}

impl StateStore for Arrival {
    type Key = NotKeyed;

    // The owner of the bucket holds a lock, so that nothing is written between load and store.
    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = self.0.load(Ordering::Relaxed);
        // Zero means that nothing was taken yet: governor then starts at the current time.
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
    async fn burst_is_available_and_returns_in_a_second() {
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
            "no more than the tokens of a second"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn returned_tokens_can_be_taken_again_and_no_more() {
        let (_clock, env) = Clockwork::env();
        let mut bucket = TokenBucket::of_operations(&env, NonZeroU32::new(4).unwrap());
        bucket.give_back(2);
        assert!(bucket.take(4).is_ok() && bucket.take(1).is_err());
        bucket.give_back(2);
        assert!(bucket.take(2).is_ok() && bucket.take(1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn oversized_amount_takes_the_whole_bucket() {
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
    async fn every_rate_is_kept_within_a_thousandth_and_never_exceeded() {
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
            let unit = bucket.unit;
            let mut taken = 0;
            for amount in (0..20).rev().map(|power| unit << power) {
                while bucket.take(amount).is_ok() {
                    taken += u64::from(bucket.tokens(amount)) * unit;
                }
            }
            assert!(
                taken <= rate / 2,
                "too many tokens returned: {taken} of {rate}"
            );
            assert!(
                rate / 2 - taken <= rate / 2000 + unit,
                "too few tokens returned: {taken} of {rate}"
            );
        }
    }
}
