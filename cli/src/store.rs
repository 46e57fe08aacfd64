//! The store of a command: the engine, opened with the options of the command line.

use std::path::{Path, PathBuf};

use cenotaph::{Config, Engine, Env, ErrorKind, Namespace, ObjectId};

use crate::args::StoreArgs;
use crate::ui::failure::Failure;

pub(crate) mod members;
mod source;
mod tiers;

pub(crate) use source::OpenSource;
pub(crate) use tiers::Tiers;

/// Requirement on the store directory at open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreAccess {
    /// Creates an absent store.
    Create,
    /// Refuses an absent store: a mistyped directory must not look like an empty store.
    Existing,
    /// Refuses an absent store, and adopts the blob tier, whatever its mark.
    Adopt,
}

/// An open store, with the namespace of the command.
pub(crate) struct OpenStore {
    /// The engine.
    pub(crate) engine: Engine,
    /// The namespace of all keys.
    pub(crate) namespace: Namespace,
    /// The environment of the engine: clocks, randomness, threads.
    pub(crate) env: Env,
    /// The blob tiers.
    pub(crate) tiers: Tiers,
    /// The source of objects that the store does not have yet.
    pub(crate) source: Option<OpenSource>,
    /// True if the index is shared with other processes.
    pub(crate) is_shared: bool,
    /// Local directories of the store and its source. Imports do not read them; exports do not write to them.
    pub(crate) own_dirs: Vec<PathBuf>,
}

impl OpenStore {
    /// Opens the store. Unless the store is read-only, this settles the changes of earlier
    /// incarnations and remembers the locations of the blob tiers.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the namespace or the URI of a blob tier is invalid. [`Failure::Failed`] if the
    /// store is absent, open elsewhere, has another blob tier, or can't be opened.
    pub(crate) async fn open(
        args: &StoreArgs,
        access: StoreAccess,
        env: Env,
    ) -> Result<Self, Failure> {
        let namespace = namespace(args.namespace.as_deref())?;
        let tiers = Tiers::of(args, access)?;
        let is_shared = args.index.is_shared();
        // The builder of the engine creates an absent store, so the check precedes it. The opening of
        // a shared index checks that itself.
        let may_be_absent = access == StoreAccess::Create || is_shared;
        if !may_be_absent && !args.data.join("index").is_dir() {
            return Err(Failure::Failed(format!(
                "there is no store here: data={}",
                args.data.display()
            )));
        }
        let config = Config {
            inline_bytes_max: args.inline_max,
            ..Config::default()
        };
        let builder = Engine::builder(&args.data).config(config).env(env.clone());
        let builder = match &args.index.index {
            Some(url) => {
                let create = access == StoreAccess::Create;
                url.apply(builder, &args.index.index_schema, create)
            }
            None => builder,
        };
        let (mut builder, tier_dirs) = tiers.apply(builder, access);
        let mut own_dirs = vec![args.data.clone()];
        own_dirs.extend(tier_dirs);
        if access == StoreAccess::Adopt {
            builder = builder.adopt_blobs();
        }
        if args.read_only {
            builder = builder.read_only();
        }
        let source = match &args.fallback {
            Some(uri) => {
                let source = OpenSource::open(uri, &namespace, args, env.clone()).await?;
                builder = builder.fallback_shared(source.fallback());
                own_dirs.extend(source.dir.clone());
                Some(source)
            }
            None => None,
        };
        if args.fallback_lost {
            builder = builder.fallback_lost();
        }
        let engine = match builder.open().await {
            Ok(engine) => engine,
            Err(error) => {
                // The entry of this member would remain in a shared source. The first error counts.
                if let Some(source) = &source {
                    drop(source.close().await);
                }
                return Err(explain(error, args));
            }
        };
        if !args.read_only {
            tiers.remember(&engine);
        }
        // Canonical paths, because trees are compared with them by prefix. The directories exist
        // since the open.
        let own_dirs = own_dirs
            .iter()
            .filter_map(|dir| dir.canonicalize().ok())
            .collect();
        Ok(Self {
            engine,
            namespace,
            env,
            tiers,
            source,
            is_shared,
            own_dirs,
        })
    }

    /// Returns the id of the object of this key. An invalid key is a usage error.
    pub(crate) fn id(&self, key: &str) -> Result<ObjectId, Failure> {
        ObjectId::new(&self.namespace, key).map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Waits for running operations, within the limit of the engine, and closes the engine.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        let closed = self.engine.close().await;
        // After the store, which may still read it.
        if let Some(source) = &self.source {
            source.close().await?;
        }
        Ok(closed?)
    }

    /// Returns whether this canonical directory is a directory of the store, or within such a
    /// directory.
    pub(crate) fn owns(&self, canonical: &Path) -> bool {
        self.own_dirs.iter().any(|own| canonical.starts_with(own))
    }
}

/// Converts an error of the open. An open store is reported with its directory, unless its index is
/// elsewhere.
fn explain(error: cenotaph::Error, args: &StoreArgs) -> Failure {
    if error.kind() == ErrorKind::AlreadyOpen && !args.index.is_shared() {
        return Failure::Failed(format!(
            "the store is open already, in this or another process: data={}",
            args.data.display()
        ));
    }
    error.into()
}

/// Parses `--namespace`: `USECASE/SCOPE=VALUE/..`, or the default namespace if absent.
fn namespace(text: Option<&str>) -> Result<Namespace, Failure> {
    let Some(text) = text else {
        return Ok(Namespace::default_namespace());
    };
    let usage = |error: cenotaph::Error| Failure::Usage(format!("--namespace: {error}"));
    let mut parts = text.split('/');
    let usecase = Namespace::new(parts.next().unwrap_or_default()).map_err(usage)?;
    parts.try_fold(usecase, |namespace, pair| match pair.split_once('=') {
        Some((scope, value)) => namespace.with_scope(scope, value).map_err(usage),
        None => Err(Failure::Usage(format!(
            "--namespace: expected SCOPE=VALUE after each `/`: found={pair:?}"
        ))),
    })
}
