//! `rm`: deletes objects, named one by one or by what their keys begin with.

use cenotaph::{ObjectId, Precondition};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::RmArgs;
use crate::failure::Failure;
use crate::human;
use crate::report::Report;
use crate::retry::retrying;
use crate::store::Store;

pub(crate) async fn run(store: &Store, report: &Report, options: RmArgs) -> Result<(), Failure> {
    let ids: Vec<ObjectId> = options
        .keys
        .iter()
        .map(|key| store.id(key))
        .collect::<Result<_, _>>()?;
    let precondition = options.condition.precondition();
    if precondition != Precondition::None && ids.len() != 1 {
        return Err(Failure::Usage(
            "a condition is on one object: name one key".to_owned(),
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

/// The prefix to delete by, if any. An empty one means every object, which must be asked for by
/// name: a variable that is not set in a script gives an empty one too.
fn prefix(recursive: Option<String>, all: bool) -> Result<Option<String>, Failure> {
    match recursive {
        None => Ok(all.then(String::new)),
        Some(prefix) if !prefix.is_empty() && all => Err(Failure::Usage(format!(
            "--all deletes every object, not those below a prefix: prefix={prefix}"
        ))),
        Some(prefix) if prefix.is_empty() && !all => Err(Failure::Usage(
            "an empty prefix means every object of the namespace: give --all to delete them all"
                .to_owned(),
        )),
        Some(prefix) => Ok(Some(prefix)),
    }
}

/// Deletes one; whether there was one.
async fn remove(
    store: &Store,
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

/// Deletes all below a prefix: how many that were. What is tried again goes on where it was.
async fn remove_prefix(store: &Store, report: &Report, prefix: &str) -> Result<u64, Failure> {
    let bar = report.bar("rm", None);
    let (mut deleted, mut last) = (0, None);
    let remove = async || {
        let mut deletion = store
            .engine
            .delete_prefix(prefix)
            .namespace(store.namespace.clone());
        if let Some(last) = &last {
            deletion = deletion.start_after(String::clone(last));
        }
        let (before, mut progress) = (deleted, deletion.stream());
        while let Some(done) = progress.try_next().await? {
            deleted = before + done.deleted;
            last = done.last;
            bar.say(human::counted(deleted, "object"));
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
