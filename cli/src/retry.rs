//! Calls that may be made again: backs off and retries, a bounded number of times.

use std::time::Duration;

use cenotaph::{Env, ErrorKind};

/// Attempts of a call that finds a limit reached: the tool's own calls reach it, and it passes when
/// some of them end.
const OVERLOADED_ATTEMPTS_MAX: u32 = 8;
/// Attempts of a call that finds a tier unavailable. Few, for a remote tier has been tried again
/// below already.
const UNAVAILABLE_ATTEMPTS_MAX: u32 = 3;
/// First delay; doubled for each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest delay.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// An error that says how often the same call may be made.
pub(crate) trait Retryable {
    /// Attempts in all; 1 if making the call again is no use, or not safe.
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

/// What the call gives, or its last error.
pub(crate) async fn retrying<T, E: Retryable>(
    env: &Env,
    mut call: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let (mut attempt, mut backoff) = (1, BACKOFF_MIN);
    loop {
        match call().await {
            Err(error) if attempt < error.attempts_max() => {
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
    async fn only_what_may_pass_is_tried_again_and_not_for_ever() {
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
