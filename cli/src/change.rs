//! `cp`, `mv`, `extend`, `amend`: changes of objects without new bytes.

use cenotaph::{Amendment, Deadline, ObjectId, Written};
use serde_json::json;

use crate::args::{AmendArgs, CopyArgs, ExtendArgs};
use crate::failure::Failure;
use crate::human;
use crate::report::Report;
use crate::retry::retrying;
use crate::store::Store;

/// Runs `cp`.
pub(crate) async fn copy(
    store: &Store,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let from = store.id(&options.from)?;
    let to = store.id(&options.to)?;
    let precondition = options.condition.precondition();
    let copied = retrying(&store.env, async || {
        store
            .engine
            .copy(&from, &to)
            .precondition(precondition)
            .await
    })
    .await?;
    print_changed(report, &from, &to, copied)
}

/// Runs `mv`.
pub(crate) async fn rename(
    store: &Store,
    report: &Report,
    options: &CopyArgs,
) -> Result<(), Failure> {
    let from = store.id(&options.from)?;
    let to = store.id(&options.to)?;
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
    print_changed(report, &from, &to, renamed.await?)
}

/// Runs `extend`.
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
    print_changed(report, &id, &id, extended.await?)
}

/// Runs `amend`.
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
        expiration: options.expiration.policy(),
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
    print_changed(report, &id, &id, amended.await?)
}

/// Prints the result of a change, or returns [`Failure::NotFound`] if `from` does not exist.
fn print_changed(
    report: &Report,
    from: &ObjectId,
    to: &ObjectId,
    written: Option<Written>,
) -> Result<(), Failure> {
    let Some(written) = written else {
        return Err(Failure::NotFound(format!("no such object: key={from}")));
    };
    let version = written.version.map(cenotaph::Version::get);
    report.result(
        || {
            json!({
                "key": to.key(),
                "from": from.key(),
                "version": version,
                "etag": written.etag,
                "created": written.created,
            })
        },
        || match version {
            Some(version) => format!("{} version {version}", human::key(to.key())),
            None => format!("{} superseded", human::key(to.key())),
        },
    )
}
