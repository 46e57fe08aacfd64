//! `rm`: deletes objects by key or by prefix.

use cenotaph::{ObjectId, Precondition};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::RmArgs;
use crate::store::OpenStore;
use crate::transfer::retry::retrying;
use crate::ui::failure::Failure;
use crate::ui::human;
use crate::ui::report::Report;

/// Runs `rm`.
pub(crate) async fn run(
    store: &OpenStore,
    report: &Report,
    options: RmArgs,
) -> Result<(), Failure> {
    // All arguments are checked before the first object is deleted.
    let ids: Vec<ObjectId> = options
        .keys
        .iter()
        .map(|key| store.id(key))
        .collect::<Result<_, _>>()?;
    let precondition = options.condition.precondition();
    if precondition != Precondition::None && ids.len() != 1 {
        return Err(Failure::Usage(
            "a precondition applies to a single object: name one key".to_owned(),
        ));
    }
    let prefix = prefix(options.recursive, options.all)?;
    let mut deleted: u64 = 0;
    for id in &ids {
        deleted += u64::from(remove(store, report, id, precondition).await?);
    }
    if let Some(prefix) = prefix {
        deleted += remove_prefix(store, report, &prefix).await?;
    }
    if report.is_json() {
        Ok(())
    } else {
        report.text(&format!("deleted {}\n", human::counted(deleted, "object")))
    }
}

/// Returns the prefix of the objects to delete, if any.
///
/// # Errors
/// [`Failure::Usage`] if the prefix is empty and `--all` is not given, or if both are given with
/// a prefix that is not empty.
fn prefix(recursive: Option<String>, all: bool) -> Result<Option<String>, Failure> {
    match recursive {
        None => Ok(all.then(String::new)),
        Some(prefix) if !prefix.is_empty() && all => Err(Failure::Usage(format!(
            "--all deletes every object, not only those of a prefix: prefix={prefix}"
        ))),
        // A script with an unset variable passes an empty prefix. It must not delete everything.
        Some(prefix) if prefix.is_empty() && !all => Err(Failure::Usage(
            "an empty prefix means every object of the namespace: give --all to delete them all"
                .to_owned(),
        )),
        Some(prefix) => Ok(Some(prefix)),
    }
}

/// Deletes an object. Returns whether it existed.
async fn remove(
    store: &OpenStore,
    report: &Report,
    id: &ObjectId,
    precondition: Precondition,
) -> Result<bool, Failure> {
    let delete = async || store.engine.delete(id).precondition(precondition).await;
    let existed = retrying(&store.env, delete).await?.existed;
    if report.is_json() {
        report.json(&json!({ "key": id.key(), "existed": existed }))?;
    }
    Ok(existed)
}

/// Deletes the objects of a prefix. Returns their number.
async fn remove_prefix(store: &OpenStore, report: &Report, prefix: &str) -> Result<u64, Failure> {
    let bar = report.bar("rm", None);
    let mut deleted = 0;
    // Last key that is done. A retry continues after it.
    let mut last = None;
    let remove = async || {
        let mut deletion = store
            .engine
            .delete_prefix(prefix)
            .namespace(store.namespace.clone());
        if let Some(last) = &last {
            deletion = deletion.start_after(String::clone(last));
        }
        // The stream counts from 0 in each attempt.
        let before = deleted;
        let mut progress = deletion.stream();
        while let Some(done) = progress.try_next().await? {
            deleted = before + done.deleted;
            last = done.last;
            bar.set_message(human::counted(deleted, "object"));
        }
        Ok::<_, cenotaph::Error>(())
    };
    retrying(&store.env, remove).await?;
    bar.end();
    if report.is_json() {
        report.json(&json!({ "prefix": prefix, "deleted": deleted }))?;
    }
    Ok(deleted)
}
