//! The engine, opened as the command line says.

use std::path::{Path, PathBuf};

use cenotaph::{Config, Engine, Env, ErrorKind, Namespace, ObjectId};

use crate::args::StoreArgs;
use crate::blobs::{self, BlobPlace};
use crate::failure::{Failure, one_line};
use crate::human;
use crate::tier::Location;

/// Whether a store that is not there is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is.
    Create,
    /// It is an error: a mistyped directory must not look like an empty store.
    Existing,
    /// So it is, and the blob tier is taken, whatever mark it has.
    Adopt,
}

/// An open store, and the part of it that the command speaks of.
pub(crate) struct Store {
    /// The engine.
    pub(crate) engine: Engine,
    /// The namespace of all keys.
    pub(crate) namespace: Namespace,
    /// The real world.
    pub(crate) env: Env,
    /// Where its blob tier is, as `--blobs` would say it.
    pub(crate) tier: String,
    /// Its directories on this machine: no import may read them, no export write into them.
    pub(crate) own_dirs: Vec<PathBuf>,
}

impl Store {
    /// Opens it, which settles what earlier incarnations left behind unless it is for reads only.
    pub(crate) async fn open(args: &StoreArgs, access: Access, env: Env) -> Result<Self, Failure> {
        let namespace = namespace(args.namespace.as_deref())?;
        if access != Access::Create && !args.data.join("index").is_dir() {
            return Err(Failure::Failed(format!(
                "there is no store here: data={}",
                args.data.display()
            )));
        }
        let (place, location, remembered) = place(args, access)?;
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
            BlobPlace::Remote(uri) => builder = builder.blobs(blobs::remote(&uri)?),
        }
        if access == Access::Adopt {
            builder = builder.adopt_blobs();
        }
        if args.read_only {
            builder = builder.read_only();
        }
        let engine = builder
            .open()
            .await
            .map_err(|error| explain(error, &args.data))?;
        if remembered.as_ref() != Some(&location) && !args.read_only {
            remember(&location, &args.data);
        }
        let own_dirs = own_dirs
            .iter()
            .filter_map(|dir| dir.canonicalize().ok())
            .collect();
        Ok(Self {
            engine,
            namespace,
            env,
            tier: location.uri().to_owned(),
            own_dirs,
        })
    }

    /// The object of this key. A key that breaks a rule is a mistake on the command line.
    pub(crate) fn id(&self, key: &str) -> Result<ObjectId, Failure> {
        ObjectId::new(&self.namespace, key).map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Lets what has begun end, within the engine's own limit, and closes it.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        Ok(self.engine.close().await?)
    }

    /// Whether this directory, whose path has no links, is one of the store's own or within one.
    pub(crate) fn owns(&self, canonical: &Path) -> bool {
        self.own_dirs.iter().any(|own| canonical.starts_with(own))
    }
}

/// Where the blob tier is: as the command line says, or else as the last one said; where that is,
/// to be remembered; and what is remembered.
fn place(
    args: &StoreArgs,
    access: Access,
) -> Result<(BlobPlace, Location, Option<Location>), Failure> {
    let remembered = Location::remembered(&args.data);
    let given = args.blobs.as_deref().map(blobs::parse).transpose()?;
    let remembered = match remembered {
        // Whoever adopts says where it is.
        Err(_) if access == Access::Adopt && given.is_some() => None,
        remembered => remembered?,
    };
    let place = match (given, &remembered) {
        (Some(given), _) => given,
        (None, Some(remembered)) => blobs::parse(remembered.uri())?,
        (None, None) => BlobPlace::UnderData,
    };
    let location = Location::of(&place)?;
    if let Some(remembered) = remembered.as_ref().filter(|_| access != Access::Adopt) {
        location.check(remembered, &args.data)?;
    }
    Ok((place, location, remembered))
}

/// That it can't be remembered must not keep anybody from a store on a full disk.
fn remember(location: &Location, data: &Path) {
    if let Err(error) = location.remember(data) {
        let why = one_line(&error);
        let data = data.display();
        let message = format!(
            "where the blob tier is can't be remembered; give --blobs next time: data={data} cause={why}"
        );
        eprintln!("cenotaph: {}", human::key(&message));
    }
}

fn explain(error: cenotaph::Error, data: &Path) -> Failure {
    if error.kind() == ErrorKind::AlreadyOpen {
        return Failure::Failed(format!(
            "the store is open already, in this or another process: data={}",
            data.display()
        ));
    }
    error.into()
}

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
            "--namespace: expected SCOPE=VALUE behind each `/`: found={pair:?}"
        ))),
    })
}
