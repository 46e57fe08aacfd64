//! `cp`, `mv`, `extend`, `amend`: what changes an object without its bytes coming from outside.

use cenotaph::{Amendment, Deadline, ObjectId, Written};
use serde_json::json;

use crate::args::{AmendArgs, CopyArgs, ExtendArgs};
use crate::failure::Failure;
use crate::human;
use crate::report::Report;
use crate::retry::retrying;
use crate::store::Store;

pub(crate) async fn copy(
    store: &Store,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let (from, to) = (store.id(&options.from)?, store.id(&options.to)?);
    let precondition = options.condition.precondition();
    let copied = retrying(&store.env, async || {
        store
            .engine
            .copy(&from, &to)
            .precondition(precondition)
            .await
    })
    .await?;
    tell(report, &from, &to, copied)
}

pub(crate) async fn rename(
    store: &Store,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let (from, to) = (store.id(&options.from)?, store.id(&options.to)?);
    if from == to {
        return Err(Failure::Usage(format!(
            "an object can't be renamed to its own key: key={from}"
        )));
    }
    let precondition = options.condition.precondition();
    let renamed = retrying(&store.env, async || {
        store
            .engine
            .rename(&from, &to)
            .precondition(precondition)
            .await
    });
    tell(report, &from, &to, renamed.await?)
}

pub(crate) async fn extend(
    store: &Store,
    report: &Report,
    options: &ExtendArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let deadline = options.time.map_or(Deadline::Never, Deadline::AfterNow);
    let extended = retrying(&store.env, async || {
        let extension = store
            .engine
            .extend_expiry(&id)
            .deadline(deadline)
            .precondition(options.condition.precondition());
        if options.shorten {
            extension.may_shorten().await
        } else {
            extension.await
        }
    });
    tell(report, &id, &id, extended.await?)
}

pub(crate) async fn amend(
    store: &Store,
    report: &Report,
    options: &AmendArgs,
) -> Result<(), Failure> {
    let id = store.id(&options.key)?;
    let set = options
        .set
        .iter()
        .map(|(name, value)| (name.clone(), Some(value.clone())));
    let unset = options.unset.iter().map(|name| (name.clone(), None));
    let amendment = Amendment {
        content_type: options.content_type.clone().map(Some),
        filename: options.filename.clone().map(Some),
        custom: set.chain(unset).collect(),
        expiration: options.expiration.stated(),
        ..Amendment::default()
    };
    let amended = retrying(&store.env, async || {
        store
            .engine
            .amend(&id)
            .amendment(amendment.clone())
            .precondition(options.condition.precondition())
            .await
    });
    tell(report, &id, &id, amended.await?)
}

/// What became of an object; that there is none is a failure.
fn tell(
    report: &Report,
    from: &ObjectId,
    to: &ObjectId,
    written: Option<Written>,
) -> Result<(), Failure> {
    let Some(written) = written else {
        return Err(Failure::NotFound(format!(
            "there is no such object: key={from}"
        )));
    };
    let version = written.version.map(cenotaph::Version::get);
    report.result(
        || {
            let (created, etag) = (written.created, written.etag);
            json!({ "key": to.key(), "from": from.key(), "version": version, "etag": etag, "created": created })
        },
        || match version {
            Some(version) => format!("{} version {version}", human::key(to.key())),
            None => format!("{} superseded", human::key(to.key())),
        },
    )
}
