//! The store of a command: the engine, opened with the options of the command line.

use std::path::{Path, PathBuf};

use cenotaph::{Config, Engine, Env, ErrorKind, Namespace, ObjectId};

use crate::args::StoreArgs;
use crate::blob_location::Location;
use crate::blob_uri::{self, BlobPlace};
use crate::ui::failure::{Failure, one_line};
use crate::ui::human;

mod source;

pub(crate) use source::OpenSource;

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
    /// The location of the blob tier, in the form of `--blobs`.
    pub(crate) tier: String,
    /// The source of objects that the store does not have yet.
    pub(crate) source: Option<OpenSource>,
    /// Local directories of the store and its source. Imports do not read them; exports do not write to them.
    pub(crate) own_dirs: Vec<PathBuf>,
}

impl OpenStore {
    /// Opens the store. Unless the store is read-only, this settles the changes of earlier
    /// incarnations and remembers the location of the blob tier.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the namespace or `--blobs` is invalid. [`Failure::Failed`] if the
    /// store is absent, open elsewhere, has another blob tier, or can't be opened.
    pub(crate) async fn open(
        args: &StoreArgs,
        access: StoreAccess,
        env: Env,
    ) -> Result<Self, Failure> {
        let namespace = namespace(args.namespace.as_deref())?;
        let given = args.blobs.as_deref().map(blob_uri::parse).transpose()?;
        // The builder of the engine creates an absent store, so the check precedes it.
        if access != StoreAccess::Create && !args.data.join("index").is_dir() {
            return Err(Failure::Failed(format!(
                "there is no store here: data={}",
                args.data.display()
            )));
        }
        let (place, location, remembered) = place(given, &args.data, access)?;
        let config = Config {
            inline_bytes_max: args.inline_max,
            ..Config::default()
        };
        let mut builder = Engine::builder(&args.data).config(config).env(env.clone());
        let mut own_dirs = vec![args.data.clone()];
        match place {
            BlobPlace::UnderData => {}
            BlobPlace::Directory(dir) => {
                builder = builder.blobs_in(&dir);
                own_dirs.push(dir);
            }
            BlobPlace::Remote(uri) => builder = builder.blobs(blob_uri::remote(&uri)?),
        }
        if access == StoreAccess::Adopt {
            builder = builder.adopt_blobs();
        }
        if args.read_only {
            builder = builder.read_only();
        }
        let source = match &args.fallback {
            Some(uri) => {
                let is_writable = args.fallback_is_writable;
                let source = OpenSource::open(uri, &namespace, is_writable, env.clone()).await?;
                builder = builder.fallback_shared(source.fallback());
                own_dirs.extend(source.dir.clone());
                Some(source)
            }
            None => None,
        };
        if args.fallback_lost {
            builder = builder.fallback_lost();
        }
        let engine = builder
            .open()
            .await
            .map_err(|error| explain(error, &args.data))?;
        // Only after the open: it has checked that the tier belongs to this store.
        if remembered.as_ref() != Some(&location) && !args.read_only {
            remember(&location, &args.data);
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
            tier: location.uri().to_owned(),
            source,
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

/// Returns the place of the blob tier, its location, and the remembered location.
///
/// The place is the given place, which is that of `--blobs`, or else the remembered place, or else
/// `blobs` under the data directory.
///
/// # Errors
/// [`Failure::Failed`] if the remembered location can't be read, or is another place than the given
/// place (unless the tier is adopted). [`Failure::Usage`] if this build does not support the
/// remembered place.
fn place(
    given: Option<BlobPlace>,
    data: &Path,
    access: StoreAccess,
) -> Result<(BlobPlace, Location, Option<Location>), Failure> {
    let remembered = match Location::remembered(data) {
        // `adopt --blobs` replaces the remembered location, so a damaged file does not matter.
        Err(_) if access == StoreAccess::Adopt && given.is_some() => None,
        remembered => remembered?,
    };
    let place = match (given, &remembered) {
        (Some(given), _) => given,
        (None, Some(remembered)) => blob_uri::parse(remembered.uri())?,
        (None, None) => BlobPlace::UnderData,
    };
    let location = Location::of(&place)?;
    if let Some(remembered) = remembered.as_ref().filter(|_| access != StoreAccess::Adopt) {
        location.check(remembered, data)?;
    }
    Ok((place, location, remembered))
}

/// Remembers the location, or prints a warning.
fn remember(location: &Location, data: &Path) {
    // Not an error: a store on a full disk must stay usable.
    if let Err(error) = location.remember(data) {
        let why = one_line(&error);
        let data = data.display();
        let message = format!(
            "the location of the blob tier can't be saved; give --blobs next time: data={data} \
             cause={why}"
        );
        eprintln!("cenotaph: {}", human::key(&message));
    }
}

/// Converts an error of the open. An open store is reported with its directory.
fn explain(error: cenotaph::Error, data: &Path) -> Failure {
    if error.kind() == ErrorKind::AlreadyOpen {
        return Failure::Failed(format!(
            "the store is open already, in this or another process: data={}",
            data.display()
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
