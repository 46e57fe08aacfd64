//! Search for the damage that has stopped fjall's writes.
//!
//! fjall returns `Poisoned` for every commit after a flush or compaction has failed, without the
//! reason. Damage that stops a compaction also stops a read. [`explain`] therefore reads the tables
//! until a read fails. Guards that the error names the way out.

use std::time::Duration;

use fjall::Readable;

use super::Store;
use super::failure::{caught, failed};
use crate::env::Env;
use crate::index::Table;
use crate::types::{Error, ErrorKind};

/// Maximal duration of the search. The callers of the failed commit wait for it.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Returns the error of a failed commit, with the damage as its source if the search finds it.
pub(super) fn explain(store: &Store, env: &Env, error: fjall::Error) -> Error {
    if !matches!(error, fjall::Error::Poisoned) {
        return failed("commit", error);
    }
    // fjall panics at some kinds of damage. A caught panic counts as found damage.
    match caught("commit", || Ok(find(store, env))).unwrap_or_else(Some) {
        Some(damage) => {
            let message = "fjall has stopped because a file of the index is damaged; \
                           salvage the store into a new store (`cenotaph salvage OLD NEW`)";
            Error::new(ErrorKind::Unavailable, "commit", message).with_source(damage)
        }
        None => {
            let message = "fjall has stopped after an error in the background; \
                           reopen the index, and see its log for the reason";
            Error::new(ErrorKind::Unavailable, "commit", message).with_source(error)
        }
    }
}

/// Reads the tables, and returns the first damage found within the time. Payloads come last,
/// because they are the largest table.
fn find(store: &Store, env: &Env) -> Option<Error> {
    let begun = env.monotonic();
    let state = store.published.latest();
    let by_size = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Payloads)
        .chain([Table::Payloads]);
    for table in by_size {
        let mut last = None;
        for entry in state.snapshot.iter(store.tables.of(table)) {
            match entry.into_inner() {
                Ok((key, _)) => last = Some(key),
                Err(error) => {
                    let behind = last.map_or(String::new(), |key| key.escape_ascii().to_string());
                    let message = format!(
                        "the keys after a key can't be read: table={} key=\"{behind}\"",
                        table.name()
                    );
                    return Some(
                        Error::new(ErrorKind::Corrupt, "commit", message)
                            .with_source(failed("scan", error)),
                    );
                }
            }
            // Checked after each entry, because a table may take longer than the limit.
            if env.monotonic().saturating_sub(begun) > TIME_MAX {
                return None;
            }
        }
    }
    None
}
