//! Steps of an opening that writing and read-only engines share.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cenotaph_actors::{FallbackOptions, Namespaces};
use cenotaph_storage::blobs::BlobTiers;
use cenotaph_storage::fallback::{AttachedFallback, Fallback};
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_storage::index::{Index, LeaseTimes};
use cenotaph_storage::{Env, Error, ErrorKind, Pins, Reads, Result};

use crate::config::{Config, configured_namespaces};

/// Pause before this process opens an index again that it may still be closing, and the maximum
/// number of attempts: 2 seconds in total.
const REOPEN_PAUSE: Duration = Duration::from_millis(20);
const REOPEN_ATTEMPTS: usize = 100;

/// Fallback that an opening names.
#[derive(Default)]
pub(crate) struct FallbackChoice {
    pub(crate) source: Option<Arc<dyn Fallback>>,
    /// True if the recorded fallback is declared lost.
    pub(crate) is_lost: bool,
}

/// Opens the index in `path`, with retries while this process still closes an earlier index there.
/// A dropped index is released only when its threads have ended.
pub(crate) async fn open_when_free(
    path: &Path,
    env: &Env,
    open: impl Fn(Env) -> Result<FjallIndex> + Clone + Send + 'static,
) -> Result<FjallIndex> {
    let mut attempts = 0;
    loop {
        let dir = path.to_owned();
        let opener = env.clone();
        let open = open.clone();
        let opened = env.blocking(move || {
            let opened = open(opener);
            // Only an index of this process is released soon. An index that another process holds
            // is reported at once.
            let is_held = |error: &Error| error.kind() == ErrorKind::AlreadyOpen;
            let may_be_closing =
                opened.as_ref().err().is_some_and(is_held) && FjallIndex::is_held_here(&dir);
            (opened, may_be_closing)
        });
        let (opened, may_be_closing) = opened.await?;
        attempts += 1;
        if !may_be_closing || attempts > REOPEN_ATTEMPTS {
            return opened;
        }
        env.sleep(REOPEN_PAUSE).await;
    }
}

/// Runs `work`, and meanwhile checks the index for overdue commits once per heartbeat. Before the
/// actors start, nothing else checks them.
pub(crate) async fn watched<T>(
    index: &Arc<dyn Index>,
    env: &Env,
    heartbeat: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        // A deadline that passes does not drop the pinned work; the next turn polls it again.
        match env.deadline(heartbeat, work.as_mut()).await {
            Some(value) => return value,
            None => index.watch(env.monotonic()),
        }
    }
}

/// Returns the times by which an engine judges other members of a shared index.
pub(crate) fn lease_times(config: &Config) -> LeaseTimes {
    LeaseTimes {
        interval: config.limits.heartbeat,
        lease: config.limits.members.lease,
    }
}

/// Checks the limits of an engine on a shared index.
///
/// # Errors
/// [`ErrorKind::Invalid`] if the lease is too short for the time between two readings of all members, or
/// the grace time of readers too short to store their pins.
pub(crate) fn check_members(index: &dyn Index, config: &Config) -> Result<()> {
    let limits = &config.limits;
    let shortest = [
        ("lease", limits.members.lease, 4),
        ("reader_grace", limits.members.reader_grace, 8),
    ];
    for (name, value, beats) in shortest.into_iter().filter(|_| index.is_shared()) {
        let min = limits.heartbeat.saturating_mul(beats);
        if value < min {
            let message = format!(
                "setting out of bounds: limits.members.{name} must be at least {beats} times \
                 limits.heartbeat: value={value:?} min={min:?}"
            );
            return Err(Error::new(ErrorKind::Invalid, "open", message));
        }
    }
    Ok(())
}

/// Returns the environment of an engine on this index. All members of a shared index use its clock.
pub(crate) async fn env_of(index: &dyn Index, env: Env) -> Result<Env> {
    match index.shared() {
        Some(shared) => Ok(env.by_index_clock(shared.wall_time().await?)),
        None => Ok(env),
    }
}

/// Creates the components of an engine other than its actors.
pub(crate) fn reads_and_namespaces(
    config: &Config,
    (index, blobs): (&Arc<dyn Index>, &BlobTiers),
    pins: &Pins,
    env: &Env,
    fallback: Option<&AttachedFallback>,
) -> Result<(Reads, Namespaces)> {
    let reads = Reads::over(
        Arc::clone(index),
        blobs.clone(),
        pins.clone(),
        env.clone(),
        config.reads.clone(),
        fallback.cloned(),
    );
    let namespaces = Namespaces::new(env.clone());
    for (namespace, limits) in configured_namespaces(&config.namespaces)? {
        namespaces.set(&namespace, limits)?;
    }
    Ok((reads, namespaces))
}

/// Returns the fallback as the actors need it.
pub(crate) fn fallback_options(
    config: &Config,
    fallback: Option<AttachedFallback>,
) -> Option<FallbackOptions> {
    fallback.map(|attached| FallbackOptions {
        attached,
        inline_bytes_max: config.inline_bytes_max,
    })
}
