//! `rm`: deletes objects, named one by one or by what their keys begin with.

use cenotaph::{Entry, ObjectId};
use futures::TryStreamExt;
use serde_json::json;

use crate::args::RmArgs;
use crate::failure::Failure;
use crate::human;
use crate::report::Report;
use crate::retry::retrying;
use crate::store::Store;

/// Deletions at once.
const AT_ONCE: usize = 16;

pub(crate) async fn run(store: &Store, report: &Report, options: RmArgs) -> Result<(), Failure> {
    let ids: Vec<ObjectId> = options.keys.iter().map(|key| store.id(key)).collect::<Result<_, _>>()?;
    let mut deleted: u64 = 0;
    for id in &ids {
        deleted += u64::from(remove(store, report, id).await?);
    }
    if let Some(prefix) = options.recursive {
        let listed = store.engine.list(prefix).namespace(store.namespace.clone()).stream();
        let removals = listed.map_err(Failure::from).map_ok(|entry| async {
            match entry {
                Entry::Object(head) => remove(store, report, &head.id).await,
                Entry::Prefix(_) => Ok(false),
            }
        });
        let mut removals = removals.try_buffer_unordered(AT_ONCE);
        while let Some(existed) = removals.try_next().await? {
            deleted += u64::from(existed);
        }
    }
    if report.is_json() { Ok(()) } else { report.text(&format!("deleted {}\n", human::counted(deleted, "object"))) }
}

/// Deletes one; whether there was one.
async fn remove(store: &Store, report: &Report, id: &ObjectId) -> Result<bool, Failure> {
    let existed = retrying(&store.env, async || store.engine.delete(id).await).await?.existed;
    if report.is_json() {
        report.json(&json!({ "key": id.key(), "existed": existed }))?;
    }
    Ok(existed)
}
