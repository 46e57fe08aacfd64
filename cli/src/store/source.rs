//! The source of objects that a store does not have yet: `--fallback` and `migrate --from`.
//!
//! | URI | source |
//! |---|---|
//! | `cenotaph:DIR` | another store, opened read-only, or for writing if its index is shared or a migration deletes from it |
//! | `fs:PATH` | the files of an existing directory |
//! | `s3://..`, `gcs://..`, `azblob://..` | the keys of a bucket |
//!
//! Invariant: no message and no description contains credentials of a URI.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cenotaph::{
    Engine, EngineFallback, Env, Fallback, Namespace, OperatorFallback, RemovableSource,
};

use super::members::{listed, live_others};
use super::{OpenStore, StoreAccess};
use crate::args::StoreArgs;
use crate::blob_uri::{self, BlobPlace};
use crate::ui::failure::Failure;

/// An open source.
pub(crate) struct OpenSource {
    kind: SourceKind,
    /// Local directory of the source.
    pub(crate) dir: Option<PathBuf>,
}

enum SourceKind {
    Files(OperatorFallback),
    Store(EngineFallback, Engine),
}

impl OpenSource {
    /// Opens the source of a store with these arguments.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the URI is invalid, [`Failure::Failed`] if the source can't be opened, or
    /// if other members have it open.
    pub(crate) async fn open(
        uri: &str,
        namespace: &Namespace,
        args: &StoreArgs,
        env: Env,
    ) -> Result<Self, Failure> {
        if let Some(dir) = uri.strip_prefix("cenotaph:") {
            return Self::store(Path::new(dir), args, env).await;
        }
        if args.index.from_index.is_some() {
            let message = "--from-index: the source is no store: expected cenotaph:DIR";
            return Err(Failure::Usage(message.to_owned()));
        }
        let place = blob_uri::parse_option("--fallback", uri)?;
        let (operator, dir) = match place {
            BlobPlace::UnderData => {
                return Err(Failure::Usage("--fallback: expected fs:PATH".to_owned()));
            }
            BlobPlace::Directory(dir) => (blob_uri::directory(&dir)?, Some(dir)),
            BlobPlace::Remote(uri) => (blob_uri::remote(&uri)?, None),
        };
        let files = OperatorFallback::new(operator).namespace(namespace.clone());
        Ok(Self {
            kind: SourceKind::Files(files),
            dir,
        })
    }

    async fn store(dir: &Path, args: &StoreArgs, env: Env) -> Result<Self, Failure> {
        let index = args.index.of_source()?;
        let args = StoreArgs {
            data: dir.to_owned(),
            // A shared store can't be opened read-only.
            read_only: !args.fallback_is_writable && !index.is_shared(),
            index,
            ..StoreArgs::default()
        };
        // Boxed: the open of a store may open a source, which is a store.
        let other = Box::pin(OpenStore::open(&args, StoreAccess::Existing, env)).await?;
        if let Err(failure) = check_alone(&other.engine, &other.env).await {
            // The first failure counts.
            drop(other.close().await);
            return Err(failure);
        }
        let canonical = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let description = format!("cenotaph:{}", canonical.display());
        let engine = other.engine;
        Ok(Self {
            kind: SourceKind::Store(EngineFallback::new(engine.clone(), description), engine),
            dir: Some(canonical),
        })
    }

    /// Returns the fallback of an engine.
    pub(crate) fn fallback(&self) -> Arc<dyn Fallback> {
        match &self.kind {
            SourceKind::Files(files) => Arc::new(files.clone()),
            SourceKind::Store(store, _) => Arc::new(store.clone()),
        }
    }

    /// Returns the source from which a migration deletes.
    pub(crate) fn removable(&self) -> Arc<dyn RemovableSource> {
        match &self.kind {
            SourceKind::Files(files) => Arc::new(files.clone()),
            SourceKind::Store(store, _) => Arc::new(store.clone()),
        }
    }

    /// Checks that no other member has opened a shared source since it was opened: the migration may
    /// have missed its writes.
    ///
    /// # Errors
    /// [`Failure::Failed`] if another member has the source open.
    pub(crate) async fn check_alone(&self, env: &Env) -> Result<(), Failure> {
        match &self.kind {
            SourceKind::Files(_) => Ok(()),
            SourceKind::Store(_, engine) => check_alone(engine, env).await,
        }
    }

    /// Closes the source.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        match &self.kind {
            SourceKind::Files(_) => Ok(()),
            SourceKind::Store(_, engine) => Ok(engine.close().await?),
        }
    }
}

/// Checks that no other member has a shared store open: a migration would miss its writes. The index
/// of other stores is locked.
async fn check_alone(engine: &Engine, env: &Env) -> Result<(), Failure> {
    let others = live_others(engine, env).await?;
    if others.is_empty() {
        return Ok(());
    }
    Err(Failure::Failed(format!(
        "other members have the source open, and what they write could be missed: members={}",
        listed(&others)
    )))
}
