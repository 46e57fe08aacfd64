//! Opening of a read-only engine, and the refusal of writes by it.
//!
//! ```text
//! index: a view, which refuses batches (storage) -> no actors (actors) -> reads as usual
//! ```
//!
//! Invariant: a read-only engine changes nothing in the data directory or in the blob tier.

use std::path::Path;
use std::sync::Arc;

use cenotaph_actors::{StartOptions, Tiered};
use cenotaph_storage::fallback::find_attached;
use cenotaph_storage::index::fjall::FjallIndex;
use cenotaph_storage::index::{Index, ReadOnlyIndex};
use cenotaph_storage::ownership::{TierClaim, TierPlaces};
use cenotaph_storage::records::last_epoch;
use cenotaph_storage::{Env, Error, ErrorKind, Pins, Result};

use crate::config::Config;
use crate::engine::{Engine, Parts};
use crate::startup::{FallbackChoice, fallback_options, open_when_free, reads_and_namespaces};

/// Opens a view of the index in `path`. The private directory of the view is below `views`.
pub(crate) async fn open_view(
    path: &Path,
    views: &Path,
    env: &Env,
    config: &Config,
) -> Result<FjallIndex> {
    let dir = path.to_owned();
    let views = views.to_owned();
    let options = config.index;
    open_when_free(path, env, move |env| {
        FjallIndex::open_view(&dir, &views, env, options)
    })
    .await
}

/// Returns the error of a shared store that is to be opened read-only.
pub(crate) fn not_shared() -> Error {
    let message = "a shared store can't be opened read-only: its readers store pins";
    Error::new(ErrorKind::Invalid, "open", message)
}

/// Starts an engine that writes nothing to the index of `claim`.
pub(crate) async fn start(
    config: &Config,
    claim: TierClaim,
    places: TierPlaces,
    fallback: FallbackChoice,
) -> Result<Engine> {
    if fallback.is_lost {
        let message = "a read-only engine can't declare a fallback lost: remove fallback_lost or \
                       read_only";
        return Err(Error::new(ErrorKind::Invalid, "open", message));
    }
    if claim.adopt {
        let message = "a read-only engine can't adopt a blob tier: remove adopt_blobs or read_only";
        return Err(Error::new(ErrorKind::Invalid, "open", message));
    }
    if claim.index.is_shared() {
        return Err(not_shared());
    }
    // A caller's own index may accept writes. The wrapper refuses every batch, so that the promise
    // holds for any index.
    let index: Arc<dyn Index> = Arc::new(ReadOnlyIndex::new(Arc::clone(&claim.index)));
    let claim = TierClaim {
        index: Arc::clone(&index),
        ..claim
    };
    let blobs = claim.find_all(places).await?;
    // A read-only engine begins no epoch, because that would be a write.
    let epoch = last_epoch(&*index).await?;
    let fallback = find_attached(&*index, fallback.source).await?;
    let env = claim.env;
    let pins = Pins::new();
    let tiers = (&index, &blobs);
    let (reads, namespaces) = reads_and_namespaces(config, tiers, &pins, &env, fallback.as_ref())?;
    let options = StartOptions {
        index: Arc::clone(&index),
        blobs,
        env: env.clone(),
        pins,
        epoch,
        limits: config.limits.clone(),
        fallback: fallback_options(config, fallback),
    };
    let tiered = Tiered::read_only(options);
    Ok(Engine::assemble(Parts {
        config: config.clone(),
        env,
        index,
        reads,
        tiered,
        namespaces,
        epoch,
    }))
}

impl Engine {
    /// Returns `true` if the engine was opened with
    /// [`Builder::read_only`](crate::Builder::read_only).
    pub fn is_read_only(&self) -> bool {
        self.tiered().is_read_only()
    }

    /// Returns an error if the engine is read-only. An operation calls this before its first read,
    /// because it may turn out to have nothing to write, and must fail then too.
    pub(crate) fn check_writable(&self, operation: &'static str) -> Result<()> {
        self.tiered().check_writable(operation)
    }
}
