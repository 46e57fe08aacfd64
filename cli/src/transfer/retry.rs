//! Retries of engine calls with exponential backoff, bounded in number.

use std::time::Duration;

use cenotaph::{Env, ErrorKind};

/// Attempts of a call that fails with `Overloaded`. The concurrent calls of the tool itself reach
/// the limit, and free it when they end.
const OVERLOADED_ATTEMPTS_MAX: u32 = 8;
/// Attempts of a call that fails with `Unavailable`. Few, because the operator of a remote tier
/// retries as well.
const UNAVAILABLE_ATTEMPTS_MAX: u32 = 3;
/// First delay. Each further delay is twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest delay.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Error with a limit of attempts.
pub(crate) trait Retryable {
    /// Returns the largest number of attempts; 1 if a retry is useless or unsafe.
    fn attempts_max(&self) -> u32;
}

impl Retryable for cenotaph::Error {
    fn attempts_max(&self) -> u32 {
        match self.kind() {
            _ if !self.is_retryable() => 1,
            ErrorKind::Overloaded => OVERLOADED_ATTEMPTS_MAX,
            _ => UNAVAILABLE_ATTEMPTS_MAX,
        }
    }
}

/// Makes a call until it succeeds or its attempts are used up. Returns the last result.
pub(crate) async fn retrying<T, E: Retryable>(
    env: &Env,
    mut call: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut attempt = 1;
    let mut backoff = BACKOFF_MIN;
    loop {
        match call().await {
            Err(error) if attempt < error.attempts_max() => {
                // Jitter, so that concurrent calls do not come back together.
                env.sleep(backoff / 2 + env.jitter(backoff)).await;
            }
            result => return result,
        }
        attempt += 1;
        backoff = BACKOFF_MAX.min(backoff * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cenotaph::Error;

    #[tokio::test]
    async fn only_transient_errors_are_retried_and_boundedly() {
        let env = Env::real().unwrap();
        let cases = [
            (ErrorKind::Overloaded, 8),
            (ErrorKind::Unavailable, 3),
            (ErrorKind::Indeterminate, 1),
        ];
        for (kind, attempts) in cases {
            let mut calls = 0;
            let failing = retrying(&env, async || {
                calls += 1;
                Err::<(), _>(Error::new(kind, "put", "no"))
            });
            assert_eq!(failing.await.unwrap_err().kind(), kind);
            assert_eq!(calls, attempts, "{kind}");
        }
        let mut calls = 0;
        let passing = retrying(&env, async || {
            calls += 1;
            if calls == 3 {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Unavailable, "put", "no"))
            }
        });
        assert!(passing.await.is_ok());
    }
}
